//! What no module can see in its own table: settings that are wrong or dangerous together, and
//! numbers and times out of their range.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Bind, Error, Listening, Settings};
use crate::http::TlsMode;
use crate::quota::{Limits, Rates};
use crate::session::RecordedSessions;
use crate::{auth, log};

/// What a timer tells from nothing.
const TICK: Duration = Duration::from_millis(1);
/// For what may be done at once.
const NOTHING: Duration = Duration::ZERO;
/// No duration is longer, so that deadlines stay within what clocks can tell.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// Refuses what cannot work.
pub(super) fn values(settings: &Settings) -> Result<(), Error> {
    durations(settings)?;
    numbers(settings)?;
    log::check(&settings.log).map_err(|error| Error::overall(error.to_string()))?;
    plans(settings)?;
    clients(settings)
}

fn durations(settings: &Settings) -> Result<(), Error> {
    let (timing, http, upstream) = (&settings.timing, &settings.http, &settings.upstream);
    let sandbox = &settings.sandbox;
    let rows = [
        (
            "server.drain_timeout",
            settings.server.drain_timeout,
            NOTHING,
        ),
        ("server.header_timeout", http.header_timeout, TICK),
        ("server.credential_timeout", timing.credential_timeout, TICK),
        ("server.refusal_delay", timing.refusal_delay, NOTHING),
        ("server.body_timeout", http.body_timeout, TICK),
        ("server.ping_interval", timing.ping_interval, TICK),
        ("server.write_timeout", timing.write_timeout, TICK),
        ("server.close_timeout", timing.close_timeout, TICK),
        ("server.inactivity_grace", timing.inactivity_grace, NOTHING),
        ("upstream.connect_timeout", upstream.connect_timeout, TICK),
        (
            "upstream.http_read_timeout",
            upstream.http_read_timeout,
            TICK,
        ),
        ("upstream.warm.max_age", upstream.warm.max_age, TICK),
        (
            "sandbox.first_audio_delay",
            sandbox.first_audio_delay,
            NOTHING,
        ),
        ("sandbox.close_delay", sandbox.close_delay, NOTHING),
        (
            "sandbox.dialogue_inactivity",
            sandbox.dialogue_inactivity,
            TICK,
        ),
    ];
    let is_wrong =
        |(_, value, least): &(&str, Duration, Duration)| !(*least..=LONGEST).contains(value);
    match rows.into_iter().find(is_wrong) {
        Some((key, _, least)) => Err(Error::overall(format!(
            "`{key}` must be between {} and 30days",
            if least == NOTHING { "0s" } else { "1ms" }
        ))),
        None => Ok(()),
    }
}

fn numbers(settings: &Settings) -> Result<(), Error> {
    let (http, upstream) = (&settings.http, &settings.upstream);
    let per_second = u64::from(http.connections_per_second.get());
    let burst = u64::from(http.connection_burst.get());
    let sockets = http.max_unauthenticated_sockets as u64;
    let dialogues = upstream.max_dialogue_sessions as u64;
    let labels = settings.metrics.max_client_labels as u64;
    let credits = settings.sandbox.character_limit.unwrap_or_default();
    let unauthenticated = http.max_unauthenticated_message_bytes;
    let rows = [
        ("server.connections_per_second", per_second, 1, 1_000_000),
        ("server.connection_burst", burst, 1, 1_000_000),
        (
            "server.max_unauthenticated_message_bytes",
            unauthenticated,
            64,
            16 << 20,
        ),
        ("server.max_unauthenticated_sockets", sockets, 0, 1_000_000),
        (
            "server.max_body_bytes",
            http.max_body_bytes as u64,
            64,
            256 << 20,
        ),
        (
            "upstream.max_message_bytes",
            upstream.max_message_bytes,
            64,
            1 << 30,
        ),
        ("upstream.max_dialogue_sessions", dialogues, 0, 1_000_000),
        ("upstream.warm.min", upstream.warm.min as u64, 0, 10_000),
        ("upstream.warm.max", upstream.warm.max as u64, 0, 10_000),
        ("sandbox.character_limit", credits, 0, 1_000_000_000_000),
        ("metrics.max_client_labels", labels, 0, 100_000),
    ];
    let is_wrong =
        |(_, value, least, most): &(&str, u64, u64, u64)| !(*least..=*most).contains(value);
    if let Some((key, _, least, most)) = rows.into_iter().find(is_wrong) {
        return Err(Error::overall(format!(
            "`{key}` must be between {least} and {most}"
        )));
    }
    // With `max = 0` there are none, whatever `min` is.
    let (min, max) = (upstream.warm.min, upstream.warm.max);
    if max > 0 && min > max {
        return Err(Error::overall(format!(
            "`upstream.warm.min` must be at most `upstream.warm.max`, which is {max}"
        )));
    }
    Ok(())
}

/// Refuses what would lend the key to strangers, and listeners in each other's way.
pub(super) fn exposure(settings: &Settings) -> Result<(), Error> {
    let (server, operator) = (settings.server.bind, settings.operator.bind);
    if server == operator && server.0.port() != 0 {
        let message = "are the same address: give each a port of its own";
        return Err(Error::overall(format!(
            "`server.bind` and `operator.bind` {message}"
        )));
    }
    if !settings.auth.is_open(&settings.clients) {
        return Ok(());
    }
    if settings.http.allowed_origins.has_wildcard() {
        return Err(Error::overall(
            "`server.allowed_origins` holds \"*\" while no clients are configured, so that any web \
             page could speak: run `xi-relay token new NAME` and add what it prints, or name the \
             origins",
        ));
    }
    match exposed(server, operator) {
        Some((key, bind)) => Err(Error::overall(format!(
            "`{key}` is {bind}, which others can reach, while no clients are configured, so that \
             anybody could speak: run `xi-relay token new NAME` and add what it prints, or bind \
             to 127.0.0.1"
        ))),
        None => Ok(()),
    }
}

/// Refuses to take the last client from a relay that others can reach. Its addresses are those of
/// its start: a `bind` that has changed since closes nothing.
pub(super) fn still_closed(settings: &Settings, listening: Listening) -> Result<(), Error> {
    if !settings.auth.is_open(&settings.clients) {
        return Ok(());
    }
    match exposed(listening.server, listening.operator) {
        Some((key, bind)) => Err(Error::overall(format!(
            "no clients are configured any more, while the relay listens on {bind}, which others \
             can reach, until its next start, so that anybody could speak: keep a client, or set \
             `{key}` to 127.0.0.1 and start again"
        ))),
        None => Ok(()),
    }
}

/// The first of the two addresses that others can reach, with its key.
fn exposed(server: Bind, operator: Bind) -> Option<(&'static str, Bind)> {
    [("server.bind", server), ("operator.bind", operator)]
        .into_iter()
        .find(|(_, bind)| !bind.is_loopback())
}

fn plans(settings: &Settings) -> Result<(), Error> {
    for (name, plan) in &settings.plans {
        Limits::new(name, plan).map_err(|error| Error::overall(error.to_string()))?;
    }
    let recorded = settings.plans.iter().find(|(_, plan)| plan.record);
    if let (Some((name, _)), None) = (recorded, &settings.recording.directory) {
        return Err(Error::overall(format!(
            "`plans.{name}.record` is true, but there is nowhere to record: set \
             `recording.directory`"
        )));
    }
    Rates::new(&settings.rates).map_err(|error| Error::overall(error.to_string()))?;
    settings
        .usage
        .validate()
        .map_err(|error| Error::overall(format!("usage.{error}")))
}

fn clients(settings: &Settings) -> Result<(), Error> {
    let plans: BTreeSet<Arc<str>> = settings
        .plans
        .keys()
        .map(|name| name.as_str().into())
        .collect();
    let tokens = Arc::new(auth::MemoryTokens::default());
    auth::Directory::new(&settings.auth, &settings.clients, &plans, tokens)
        .map(drop)
        .map_err(|error| Error::overall(error.to_string()))
}

/// Warns of what is allowed and probably not meant.
pub(super) fn warn(settings: &mut Settings) {
    let warnings = &mut settings.warnings;
    if !settings.operator.bind.is_loopback() {
        warnings.push(format!(
            "operator.bind is {}: whoever can connect there may read /sessions and end them",
            settings.operator.bind
        ));
    }
    if !settings.server.bind.is_loopback() && settings.server.tls == TlsMode::Off {
        warnings.push(format!(
            "server.bind is {} without TLS: tokens travel in the clear unless something in front \
             of the relay speaks TLS",
            settings.server.bind
        ));
    }
    if let Some(base_url) = &settings.upstream.base_url
        && !base_url.is_sandbox()
    {
        if settings.api_key.is_none() {
            warnings.push(format!(
                "upstream.base_url is {base_url} and ELEVENLABS_API_KEY is not set: sessions go up \
                 without a key"
            ));
        } else if !base_url.is_tls() && !base_url.is_loopback() {
            warnings.push(format!(
                "upstream.base_url is {base_url}, without TLS: the key and all that is spoken \
                 travel in the clear; use wss://"
            ));
        }
    }
    if let Some(directory) = &settings.recording.directory {
        let recorded: Vec<&str> = settings
            .plans
            .iter()
            .filter(|(_, plan)| plan.record)
            .map(|(name, _)| name.as_str())
            .collect();
        let directory = directory.display();
        warnings.push(match (settings.recording.sessions, recorded.as_slice()) {
            (RecordedSessions::All, _) => format!(
                "ALL SESSIONS ARE RECORDED: everything that is spoken, text and audio, is written \
                 to {directory}"
            ),
            (RecordedSessions::Plans, []) => format!(
                "recording.directory is {directory}, but nothing is recorded: no plan has record = \
                 true, and recording.sessions is not \"all\""
            ),
            (RecordedSessions::Plans, plans) => format!(
                "SESSIONS ARE RECORDED, those of the plans {}: everything that is spoken there, \
                 text and audio, is written to {directory}",
                plans.join(", ")
            ),
        });
    }
    if settings.log.text == log::Text::Full {
        warnings.push("log.text is \"full\": everything that is spoken stands in the log".into());
    }
}
