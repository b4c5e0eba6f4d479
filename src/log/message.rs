//! The line that every message leaves.
//!
//! `tracing` hands over the fields of an event one by one, each by two calls through a table. That was
//! a third of what a line costs, and these are thousands a second; so their fields travel as one value.
//! A subscriber that does not know it sees them as its text.

use std::error::Error;
use std::fmt;

use super::MESSAGE;
use super::line::Key;
use super::text::push_json;
use crate::ids::SessionId;

/// The lines of one session's messages.
#[derive(Debug, Default)]
pub struct MessageLine {
    /// `,"session":"…","client":"…"`, as a JSON line has it.
    head: Box<[u8]>,
    session: Box<str>,
    client: Box<str>,
}

/// One line as `tracing` carries it. What an event carries by its own type has to own what it holds.
#[derive(Debug)]
pub(super) struct Line {
    of: MessageLine,
    seen: Seen,
}

/// What a line tells of a message, besides what hardly any has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// The side it came from.
    pub from: &'static str,
    /// What it is; needs no escapes, as `from` needs none.
    pub kind: &'static str,
    /// Its number among those of its side, from 1.
    pub seq: u64,
    /// The length of its payload.
    pub bytes: u64,
    /// Characters to be spoken, in a client's message.
    pub chars: Option<u64>,
    /// Audio in upstream's message.
    pub audio_bytes: Option<u64>,
    /// How long it lasts, where the format tells.
    pub audio_ms: Option<u64>,
    /// Since the client asked for the session.
    pub since_start_ms: u64,
}

/// One field, for a subscriber or a style that takes them one by one.
pub(super) enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

impl MessageLine {
    /// The lines of this session, which is `client`'s.
    #[must_use]
    pub fn new(session: SessionId, client: &str) -> Self {
        let session = session.to_string();
        let mut head = Vec::new();
        push_string(&mut head, &SESSION.key, &session);
        push_string(&mut head, &CLIENT.key, client);
        Self {
            head: head.into(),
            session: session.into(),
            client: client.into(),
        }
    }

    /// The name of the session.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }

    /// Whose it is.
    #[must_use]
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Logs one message: `context`, `error` and `text` are words of the peers', cut by the caller where
    /// they may be long.
    pub fn log(
        &mut self,
        seen: Seen,
        context: Option<&str>,
        error: Option<&str>,
        text: Option<&str>,
    ) {
        // Together only for as long as the event lasts, so that no session keeps what its last message was.
        let line = Line {
            of: std::mem::take(self),
            seen,
        };
        let value: &(dyn Error + 'static) = &line;
        // A field that is not there costs a call too, and hardly any message has one of these.
        match (context, error, text) {
            (None, None, None) => tracing::info!(target: MESSAGE, line = value),
            _ => tracing::info!(target: MESSAGE, line = value, context, error, text),
        }
        *self = line.of;
    }
}

impl Line {
    /// Appends the fields as those of a JSON object, each behind a comma.
    pub(super) fn push_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.of.head);
        self.seen.each(|name, value| match value {
            Value::Text(text) => push_word(out, &name.key, text),
            Value::Number(number) => push_number(out, &name.key, number),
        });
    }

    /// Hands the fields over one by one, in the order of the JSON line.
    pub(super) fn each(&self, mut take: impl FnMut(&'static str, Value<'_>)) {
        take(SESSION.text, Value::Text(&self.of.session));
        take(CLIENT.text, Value::Text(&self.of.client));
        self.seen.each(|name, value| take(name.text, value));
    }
}

impl Seen {
    #[inline]
    fn each(&self, mut take: impl FnMut(&'static Name, Value<'_>)) {
        take(&FROM, Value::Text(self.from));
        take(&KIND, Value::Text(self.kind));
        take(&SEQ, Value::Number(self.seq));
        take(&BYTES, Value::Number(self.bytes));
        if let Some(chars) = self.chars {
            take(&CHARS, Value::Number(chars));
        }
        if let Some(audio_bytes) = self.audio_bytes {
            take(&AUDIO_BYTES, Value::Number(audio_bytes));
        }
        if let Some(audio_ms) = self.audio_ms {
            take(&AUDIO_MS, Value::Number(audio_ms));
        }
        take(&SINCE_START_MS, Value::Number(self.since_start_ms));
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        let mut before = "";
        self.each(|name, value| {
            result = result.and_then(|()| match value {
                Value::Text(text) => write!(f, "{before}{name}={text:?}"),
                Value::Number(number) => write!(f, "{before}{name}={number}"),
            });
            before = " ";
        });
        result
    }
}

// Nothing has failed: it is the one kind of value of its own type that an event can carry.
impl Error for Line {}

/// The name of a field, and how it stands in a JSON line.
struct Name {
    text: &'static str,
    key: Key,
}

impl Name {
    const fn new(text: &'static str) -> Self {
        let key = Key::short(text);
        Self { text, key }
    }
}

static SESSION: Name = Name::new("session");
static CLIENT: Name = Name::new("client");
static FROM: Name = Name::new("from");
static KIND: Name = Name::new("kind");
static SEQ: Name = Name::new("seq");
static BYTES: Name = Name::new("bytes");
static CHARS: Name = Name::new("chars");
static AUDIO_BYTES: Name = Name::new("audio_bytes");
static AUDIO_MS: Name = Name::new("audio_ms");
static SINCE_START_MS: Name = Name::new("since_start_ms");

fn push_string(out: &mut Vec<u8>, key: &Key, text: &str) {
    key.push_onto(out, 0);
    push_json(out, text);
    out.push(b'"');
}

/// The same for a text that needs no escapes.
fn push_word(out: &mut Vec<u8>, key: &Key, text: &str) {
    key.push_onto(out, 0);
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

// One copy of it stays in the cache for all fields.
#[inline(never)]
fn push_number(out: &mut Vec<u8>, key: &Key, number: u64) {
    key.push_onto(out, 1);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
