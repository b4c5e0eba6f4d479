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
        push_string(&mut head, &SESSION, &session);
        push_string(&mut head, &CLIENT, client);
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
        let Seen {
            from,
            kind,
            seq,
            bytes,
            chars,
            audio_bytes,
            audio_ms,
            since_start_ms,
        } = self.seen;
        out.extend_from_slice(&self.of.head);
        push_word(out, &FROM, from);
        push_word(out, &KIND, kind);
        push_number(out, &SEQ, seq);
        push_number(out, &BYTES, bytes);
        if let Some(chars) = chars {
            push_number(out, &CHARS, chars);
        }
        if let Some(audio_bytes) = audio_bytes {
            push_number(out, &AUDIO_BYTES, audio_bytes);
        }
        if let Some(audio_ms) = audio_ms {
            push_number(out, &AUDIO_MS, audio_ms);
        }
        push_number(out, &SINCE_START_MS, since_start_ms);
    }

    /// Hands the fields over one by one, in the order of the JSON line.
    pub(super) fn each(&self, mut take: impl FnMut(&'static str, Value<'_>)) {
        let seen = &self.seen;
        take("session", Value::Text(&self.of.session));
        take("client", Value::Text(&self.of.client));
        take("from", Value::Text(seen.from));
        take("kind", Value::Text(seen.kind));
        for (name, number) in [
            ("seq", Some(seen.seq)),
            ("bytes", Some(seen.bytes)),
            ("chars", seen.chars),
            ("audio_bytes", seen.audio_bytes),
            ("audio_ms", seen.audio_ms),
            ("since_start_ms", Some(seen.since_start_ms)),
        ] {
            if let Some(number) = number {
                take(name, Value::Number(number));
            }
        }
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

static SESSION: Key = Key::short("session");
static CLIENT: Key = Key::short("client");
static FROM: Key = Key::short("from");
static KIND: Key = Key::short("kind");
static SEQ: Key = Key::short("seq");
static BYTES: Key = Key::short("bytes");
static CHARS: Key = Key::short("chars");
static AUDIO_BYTES: Key = Key::short("audio_bytes");
static AUDIO_MS: Key = Key::short("audio_ms");
static SINCE_START_MS: Key = Key::short("since_start_ms");

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
