//! One event as one line: flat JSON for machines, or a compact line for a terminal.

use std::fmt::{self, Write as _};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};

use super::clock::LENGTH as TIME_LENGTH;
use super::message::{Line, Value};
use super::text::{Escaped, cut, push_json, push_plain};

/// The most bytes of a field: what clients and upstreams say can be long. No field has fewer.
const FIELD_LIMIT_BYTES: usize = 256;

/// The most bytes of a message or an error chain, whose words are mostly ours.
const SENTENCE_LIMIT_BYTES: usize = 1024;

/// The most bytes of `text`, which stands in a line only where the operator asked for all of it.
const TEXT_LIMIT_BYTES: usize = 1 << 16;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `{"timestamp":…,"level":…,"target":…,"message":…,FIELDS}`
    Json,
    /// `TIME LEVEL TARGET message field=value`
    Pretty {
        /// Whether ANSI colours may be used.
        colours: bool,
    },
}

impl Style {
    /// Appends an event with its newline.
    pub(super) fn write(
        self,
        out: &mut Vec<u8>,
        time: &[u8; TIME_LENGTH],
        event: &Event<'_>,
        templates: &mut Templates,
    ) {
        let metadata = event.metadata();
        match self {
            Self::Json => {
                let template = templates.of(metadata);
                push_json_time(out, time);
                out.extend_from_slice(&template.head);
                event.record(&mut Json { out, template });
                out.extend_from_slice(b"}\n");
            }
            Self::Pretty { colours } => {
                pretty_head(out, time, *metadata.level(), metadata.target(), colours);
                event.record(&mut Pretty { out, colours });
                out.push(b'\n');
            }
        }
    }

    /// Appends the line that tells of dropped lines.
    pub(super) fn write_dropped(self, out: &mut Vec<u8>, time: &[u8; TIME_LENGTH], count: u64) {
        const TARGET: &str = "xi_relay::log";
        match self {
            Self::Json => {
                push_json_time(out, time);
                push_json_head(out, Level::WARN, TARGET);
                let rest = format!(r#","message":"{count} log lines dropped","dropped":{count}}}"#);
                out.extend_from_slice(rest.as_bytes());
            }
            Self::Pretty { colours } => {
                pretty_head(out, time, Level::WARN, TARGET, colours);
                out.extend_from_slice(format!(" {count} log lines dropped").as_bytes());
            }
        }
        out.push(b'\n');
    }
}

fn limit_bytes(field: &str) -> usize {
    match field {
        "text" | "text_logged" => TEXT_LIMIT_BYTES,
        "message" | "error" | "cause" => SENTENCE_LIMIT_BYTES,
        _ => FIELD_LIMIT_BYTES,
    }
}

/// The name without the `r#` of a raw identifier.
fn name(field: &Field) -> &'static str {
    let name = field.name();
    name.strip_prefix("r#").unwrap_or(name)
}

fn push_json_time(out: &mut Vec<u8>, time: &[u8; TIME_LENGTH]) {
    out.extend_from_slice(b"{\"timestamp\":\"");
    out.extend_from_slice(time);
}

/// Appends what stands between the time and the fields.
fn push_json_head(out: &mut Vec<u8>, level: Level, target: &str) {
    out.extend_from_slice(b"\",\"level\":\"");
    out.extend_from_slice(level.as_str().as_bytes());
    out.extend_from_slice(b"\",\"target\":\"");
    push_json(out, target);
    out.push(b'"');
}

fn push_json_key(out: &mut Vec<u8>, field: &Field) {
    let name = name(field);
    out.extend_from_slice(b",\"");
    push_json(out, name);
    // The head has these keys already, and a key twice is no JSON object.
    if matches!(name, "timestamp" | "level" | "target") {
        out.push(b'_');
    }
    out.extend_from_slice(b"\":");
}

/// What every JSON line of one place in the code says: the head, then the key of each field.
struct Template {
    callsite: Identifier,
    head: Box<[u8]>,
    keys: Box<[Key]>,
}

impl Template {
    fn new(metadata: &Metadata<'_>) -> Self {
        let mut head = Vec::new();
        push_json_head(&mut head, *metadata.level(), metadata.target());
        Self {
            callsite: metadata.callsite(),
            head: head.into(),
            keys: metadata
                .fields()
                .iter()
                .map(|field| Key::new(&field))
                .collect(),
        }
    }
}

/// A key as it stands in a line, with the quote that opens a string behind it. To copy so many bytes
/// as the compiler knows costs a fraction of copying a few that it does not, so the start is copied
/// with what is behind it.
pub(super) struct Key {
    start: [u8; Self::START_BYTES],
    /// How long it is with the quote.
    len: usize,
    /// All of it, when it is longer than `start`.
    long: Option<Box<[u8]>>,
}

impl Key {
    const START_BYTES: usize = 24;

    /// The key of a field that no head has, and that needs no escapes.
    pub(super) const fn short(name: &str) -> Self {
        let mut start = [0; Self::START_BYTES];
        let (_, name_place) = start.split_at_mut(2);
        let (name_place, rest) = name_place.split_at_mut(name.len());
        name_place.copy_from_slice(name.as_bytes());
        let (end, _) = rest.split_at_mut(3);
        end.copy_from_slice(b"\":\"");
        (start[0], start[1]) = (b',', b'"');
        Self {
            start,
            len: name.len() + 5,
            long: None,
        }
    }

    fn new(field: &Field) -> Self {
        let mut text = Vec::new();
        push_json_key(&mut text, field);
        text.push(b'"');
        let len = text.len();
        let mut start = [0; Self::START_BYTES];
        match start.get_mut(..len) {
            Some(fitting) => {
                fitting.copy_from_slice(&text);
                Self {
                    start,
                    len,
                    long: None,
                }
            }
            None => Self {
                start,
                len,
                long: Some(text.into()),
            },
        }
    }

    /// Appends it, all but the last `n_less` bytes.
    #[inline]
    pub(super) fn push_onto(&self, out: &mut Vec<u8>, n_less: usize) {
        let after = out.len() + self.len - n_less;
        match &self.long {
            None => out.extend_from_slice(&self.start),
            Some(text) => out.extend_from_slice(text),
        }
        out.truncate(after);
    }
}

/// The templates that a thread has made: one for each place that has logged on it.
pub(super) struct Templates(Vec<Template>);

impl Templates {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    fn of(&mut self, metadata: &Metadata<'_>) -> &Template {
        let callsite = metadata.callsite();
        // What logs most has logged early, so it is found early.
        let found = self
            .0
            .iter()
            .position(|template| template.callsite == callsite);
        let index = found.unwrap_or_else(|| {
            self.0.push(Template::new(metadata));
            self.0.len() - 1
        });
        &self.0[index]
    }
}

struct Json<'a> {
    out: &'a mut Vec<u8>,
    template: &'a Template,
}

impl Json<'_> {
    /// Begins a field whose value is no string.
    #[inline]
    fn key(&mut self, field: &Field) {
        self.template.keys[field.index()].push_onto(self.out, 1);
    }

    /// Begins a field whose value is a string, up to its first character.
    #[inline]
    fn string_key(&mut self, field: &Field) {
        self.template.keys[field.index()].push_onto(self.out, 0);
    }

    fn integer(&mut self, field: &Field, value: impl itoa::Integer) {
        self.key(field);
        self.out
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn text(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.string_key(field);
        let left_bytes = limit_bytes(field.name());
        let mut escaped = Escaped {
            out: self.out,
            push: push_json,
            left_bytes,
        };
        // A `Debug` that fails has written what it could; the line is whole either way.
        let _ = escaped.write_fmt(value);
        self.out.push(b'"');
    }
}

impl Visit for Json<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.string_key(field);
        let value = match value.len() > FIELD_LIMIT_BYTES {
            true => cut(value, limit_bytes(field.name())),
            false => value,
        };
        push_json(self.out, value);
        self.out.push(b'"');
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.integer(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.integer(field, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.integer(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.integer(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.key(field);
        self.out
            .extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.key(field);
        if value.is_finite() {
            // A `Vec` takes whatever is written to it.
            let _ = std::io::Write::write_fmt(self.out, format_args!("{value}"));
        } else {
            self.out.extend_from_slice(b"null");
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        match value.downcast_ref::<Line>() {
            Some(line) => line.push_json(self.out),
            None => self.text(field, format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }
}

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";

fn paint(out: &mut Vec<u8>, colours: bool, colour: &str, text: &str) {
    if colours {
        out.extend_from_slice(colour.as_bytes());
    }
    push_plain(out, text);
    if colours {
        out.extend_from_slice(RESET.as_bytes());
    }
}

fn pretty_head(
    out: &mut Vec<u8>,
    time: &[u8; TIME_LENGTH],
    level: Level,
    target: &str,
    colours: bool,
) {
    // Who watches a terminal knows the date.
    let time = std::str::from_utf8(&time[11..]).expect("a time is ASCII");
    let (name, colour) = match level {
        Level::ERROR => ("ERROR", "\x1b[31m"),
        Level::WARN => (" WARN", "\x1b[33m"),
        Level::INFO => (" INFO", "\x1b[32m"),
        Level::DEBUG => ("DEBUG", "\x1b[34m"),
        Level::TRACE => ("TRACE", "\x1b[35m"),
    };
    paint(out, colours, DIM, time);
    out.push(b' ');
    paint(out, colours, colour, name);
    out.push(b' ');
    paint(
        out,
        colours,
        DIM,
        target.strip_prefix("xi_relay::").unwrap_or(target),
    );
}

struct Pretty<'a> {
    out: &'a mut Vec<u8>,
    colours: bool,
}

impl Pretty<'_> {
    fn value(&mut self, name: &str, value: fmt::Arguments<'_>) {
        self.out.push(b' ');
        if name != "message" {
            paint(self.out, self.colours, DIM, name);
            self.out.push(b'=');
        }
        let mut escaped = Escaped {
            out: self.out,
            push: push_plain,
            left_bytes: limit_bytes(name),
        };
        // A `Debug` that fails has written what it could; the line is whole either way.
        let _ = escaped.write_fmt(value);
    }

    fn text(&mut self, name: &str, value: &str) {
        if value.is_empty() || value.contains([' ', '"', '=']) {
            self.value(name, format_args!("\"{value}\""));
        } else {
            self.value(name, format_args!("{value}"));
        }
    }
}

impl Visit for Pretty<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(name(field), value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let Some(line) = value.downcast_ref::<Line>() else {
            return self.value(name(field), format_args!("{value}"));
        };
        line.each(|name, value| match value {
            Value::Text(text) => self.text(name, text),
            Value::Number(number) => self.value(name, format_args!("{number}")),
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.value(name(field), format_args!("{value:?}"));
    }
}
