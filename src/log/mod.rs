//! Where events go. `tracing` is the interface; every line leaves through one bounded, lossy sink,
//! so that a reader that stalls costs lines and nothing else.
//!
//! Lines are flat JSON (`timestamp`, `level`, `target`, `message`, then the event's fields in the
//! order they were recorded) or, on a terminal, compact text. Per-message events have the target
//! [`MESSAGE`], so that `level = "info,xi_relay::message=off"` turns them off.
//!
//! Strings in fields are cut to 256 bytes. What dependencies say below `info` is never written,
//! not even with `RUST_LOG=trace`: HTTP libraries print request heads there.

mod clock;
mod line;
mod message;
mod panic;
mod sink;
mod subscriber;
mod text;

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::Targets;

use self::clock::Clock;
use self::line::Style;
pub use self::message::{MessageLine, Seen};
use self::sink::Sink;
use self::subscriber::Lines;
use crate::metrics::{Kind, Metrics};

/// The target of per-message events.
pub const MESSAGE: &str = "xi_relay::message";

/// How long the last lines may take to get out at the end of the process.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The sink that [`init`] started.
static SINK: OnceLock<Arc<Sink>> = OnceLock::new();

/// The `[log]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How lines look.
    pub format: Format,
    /// Whether spoken text may stand in the log.
    pub text: Text,
    /// The least severe level written, or levels by target such as
    /// `info,xi_relay::message=off`. `RUST_LOG` wins over it.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            text: Text::None,
            level: "info".into(),
        }
    }
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `pretty` when stdout is a terminal, else `json`.
    Auto,
    /// One compact line for people.
    Pretty,
    /// One flat JSON object a line.
    Json,
}

/// Whether spoken text may stand in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Text {
    /// Never.
    None,
    /// Whole, in the field `text` of the per-message events.
    Full,
}

/// Why the log cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A filter that cannot be read.
    #[error(
        "{source_name}: `{part}` is no log filter: write a level (off, error, warn, info, debug, trace) or `target=level`"
    )]
    Filter {
        /// `log.level` or `RUST_LOG`.
        source_name: &'static str,
        /// The part that was not understood.
        part: String,
    },
    /// Stdout cannot be used or the writer thread not be started.
    #[error("cannot start the log: {0}")]
    Io(#[from] io::Error),
    /// Something else is already listening to `tracing`.
    #[error("the log was already started")]
    AlreadyStarted,
}

/// Writes the lines that still wait when dropped, for at most a second.
#[must_use = "dropping it ends the log"]
pub struct Guard(Arc<Sink>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.close(FLUSH_LIMIT);
    }
}

/// Sends every event to stdout from now on, and panics too.
///
/// # Errors
/// When the filter cannot be read, the writer not be started, or the log runs already.
pub fn init(config: &Config) -> Result<Guard, Error> {
    let filter = filter(config, std::env::var_os("RUST_LOG"))?;
    let stdout = io::stdout();
    let style = style(config.format, stdout.is_terminal());
    // Past `io::Stdout` and its lock, which a panic message or another thread could hold.
    let output = std::fs::File::from(stdout.as_fd().try_clone_to_owned()?);
    let sink = Sink::start(output, move |count, line| {
        style.write_dropped(line, Clock::new().now(), count);
    })?;
    let lines = Lines {
        sink: Arc::clone(&sink),
        style,
        filter,
    };
    tracing::subscriber::set_global_default(lines).map_err(|_| Error::AlreadyStarted)?;
    panic::install();
    Ok(Guard(Arc::clone(SINK.get_or_init(|| sink))))
}

/// Lines that were dropped because the output did not take them; 0 before [`init`].
#[must_use]
pub fn dropped_lines() -> u64 {
    SINK.get().map_or(0, |sink| sink.dropped())
}

/// Shows [`dropped_lines`] on the page of metrics.
pub fn register_metrics(metrics: &Metrics) {
    metrics.register(|page| {
        page.family(
            Kind::Counter,
            "log_lines_dropped_total",
            "Log lines that were dropped because stdout did not take them.",
        )
        .value(&[], dropped_lines());
    });
}

/// Checks that the filter of `config` can be read, without starting anything.
///
/// # Errors
/// [`Error::Filter`].
pub fn check(config: &Config) -> Result<(), Error> {
    parse("log.level", &config.level).map(drop)
}

fn style(format: Format, terminal: bool) -> Style {
    match (format, terminal) {
        (Format::Json, _) | (Format::Auto, false) => Style::Json,
        (Format::Pretty, _) | (Format::Auto, true) => {
            // https://no-color.org: present and not empty means no colours.
            let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            Style::Pretty {
                colours: terminal && wanted,
            }
        }
    }
}

fn filter(config: &Config, rust_log: Option<std::ffi::OsString>) -> Result<Targets, Error> {
    // Both are read, so that a mistake in the file does not hide behind the variable.
    let from_config = parse("log.level", &config.level)?;
    match rust_log.filter(|value| !value.is_empty()) {
        Some(value) => parse("RUST_LOG", &value.to_string_lossy()),
        None => Ok(from_config),
    }
}

fn parse(source_name: &'static str, text: &str) -> Result<Targets, Error> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_known = |part: &str| {
        // A bare word that is no level would be a target, and a typing error silence the log.
        part.contains('=')
            || part.starts_with("xi_relay")
            || LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level))
    };
    let error = |part: &str| Error::Filter {
        source_name,
        part: text::cut(part, 64).into(),
    };
    // `Targets` would take a space for a part of the name.
    let parts: Vec<_> = text.split(',').map(str::trim).collect();
    if let Some(part) = parts.iter().find(|part| !is_known(part)) {
        return Err(error(part));
    }
    parts.join(",").parse().map_err(|_| error(text))
}

#[cfg(test)]
mod tests;
