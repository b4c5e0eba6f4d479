//! What upstream's message says, without parsing the audio in it. Nothing here changes or holds up
//! a message; a message that cannot be read is `other` and goes on as it is.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::sync::LazyLock;

use memchr::memchr2;
use memchr::memmem::Finder;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::json::{Any, FaultCell, Key, Value};

/// What a message is, for logs and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ServerKind {
    /// Audio, with or without its timing.
    Audio,
    /// The end of a stream or of a context.
    Final,
    /// The end of a dialogue's turn.
    TurnFinal,
    /// An error, after which upstream closes.
    Error,
    /// Timing without audio.
    Alignment,
    /// Anything else.
    Other,
}

impl ServerKind {
    /// The name in logs and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Final => "final",
            Self::TurnFinal => "turn_final",
            Self::Error => "error",
            Self::Alignment => "alignment",
            Self::Other => "other",
        }
    }
}

/// What the relay sees in a message from upstream, borrowed from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerMessage<'a> {
    /// Bytes of audio, after base64.
    pub audio_bytes: u64,
    /// Whether the stream or context ends here: `isFinal` or `is_final` is true.
    pub is_final: bool,
    /// Whether a dialogue's turn ends here.
    pub is_turn_final: bool,
    /// `contextId` or `context_id`.
    pub context: Option<Cow<'a, str>>,
    /// The error, when it is one.
    pub error: Option<ServerError<'a>>,
    has_alignment: bool,
}

/// An error frame: `{"message","error","code"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError<'a> {
    /// The machine-readable name; empty when there is none.
    pub error: Cow<'a, str>,
    /// The sentence for people; empty when there is none.
    pub message: Cow<'a, str>,
    /// The close code that follows, where it is told.
    pub code: Option<u16>,
}

impl ServerMessage<'_> {
    /// What the message is.
    #[must_use]
    pub fn kind(&self) -> ServerKind {
        if self.audio_bytes > 0 {
            ServerKind::Audio
        } else if self.error.is_some() {
            ServerKind::Error
        } else if self.is_final {
            ServerKind::Final
        } else if self.is_turn_final {
            ServerKind::TurnFinal
        } else if self.has_alignment {
            ServerKind::Alignment
        } else {
            ServerKind::Other
        }
    }
}

/// Looks at a message from upstream. Audio is measured, not read: a message of 64 KB costs about
/// a microsecond.
#[must_use]
pub fn look(payload: &[u8]) -> ServerMessage<'_> {
    look_past_audio(payload)
        .or_else(|| read(payload))
        .unwrap_or_default()
}

/// For messages with audio. What stands in quotes here is a key or a string of its own: inside of
/// a string every quote has a backslash before it.
fn look_past_audio(payload: &[u8]) -> Option<ServerMessage<'_>> {
    let start = value_of(payload, &AUDIO)?;
    let audio = payload[start..].strip_prefix(b"\"")?;
    let length = memchr2(b'"', b'\\', audio)?;
    if audio[length] == b'\\' {
        // Base64 with `\/`, as some JSON writers have it.
        return None;
    }
    let (before, after) = (&payload[..start], &audio[length + 1..]);
    let is_true = |key: &Finder<'_>| {
        [after, before]
            .into_iter()
            .any(|part| value_of(part, key).is_some_and(|at| part[at..].starts_with(b"true")))
    };
    let context = |key: &Finder<'_>| {
        [after, before]
            .into_iter()
            .find_map(|part| string_at(part, value_of(part, key)?))
    };
    Some(ServerMessage {
        audio_bytes: decoded_length(&audio[..length]),
        is_final: is_true(&IS_FINAL) || is_true(&IS_FINAL_SNAKE),
        is_turn_final: is_true(&IS_TURN_FINAL),
        context: context(&CONTEXT).or_else(|| context(&CONTEXT_SNAKE)),
        error: None,
        has_alignment: false,
    })
}

static AUDIO: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"audio\""));
static IS_FINAL: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"isFinal\""));
static IS_FINAL_SNAKE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"is_final\""));
static IS_TURN_FINAL: LazyLock<Finder<'static>> =
    LazyLock::new(|| Finder::new("\"is_final_audio_for_turn\""));
static CONTEXT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"contextId\""));
static CONTEXT_SNAKE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"context_id\""));

/// Where the value of the first such key starts. A string of the same letters that is no key has
/// no colon behind it.
fn value_of(json: &[u8], key: &Finder<'_>) -> Option<usize> {
    key.find_iter(json).find_map(|at| {
        if at > 0 && json[at - 1] == b'\\' {
            return None;
        }
        let colon = skip_space(json, at + key.needle().len());
        (json.get(colon) == Some(&b':')).then(|| skip_space(json, colon + 1))
    })
}

fn skip_space(json: &[u8], from: usize) -> usize {
    let n_spaces = json[from..]
        .iter()
        .take_while(|byte| byte.is_ascii_whitespace())
        .count();
    from + n_spaces
}

fn string_at(json: &[u8], at: usize) -> Option<Cow<'_, str>> {
    let inner = json.get(at..)?.strip_prefix(b"\"")?;
    let length = memchr2(b'"', b'\\', inner)?;
    if inner[length] == b'"' {
        return std::str::from_utf8(&inner[..length])
            .ok()
            .map(Cow::Borrowed);
    }
    let mut strings = serde_json::Deserializer::from_slice(&json[at..]).into_iter::<String>();
    strings.next()?.ok().map(Cow::Owned)
}

/// How many bytes `base64` stands for, with or without padding (RFC 4648 section 4).
fn decoded_length(base64: &[u8]) -> u64 {
    let n_padding = base64
        .iter()
        .rev()
        .take(2)
        .take_while(|&&byte| byte == b'=')
        .count();
    (base64.len() - n_padding) as u64 * 3 / 4
}

/// For messages that look different: errors, finals, audio with escapes.
fn read(payload: &[u8]) -> Option<ServerMessage<'_>> {
    let text = simdutf8::basic::from_utf8(payload).ok()?;
    let fault = Cell::new(None);
    Message { fault: &fault }
        .deserialize(&mut serde_json::Deserializer::from_str(text))
        .ok()
}

struct Message<'f> {
    fault: &'f FaultCell,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ServerMessage<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ServerMessage<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let any = Any::new(self.fault, 1).keeping_text();
        let mut seen = ServerMessage::default();
        let mut error = ServerError::default();
        while let Some(key) = map.next_key_seed(Key)? {
            let value = map.next_value_seed(any)?;
            match &*key {
                "audio" => {
                    seen.audio_bytes = value
                        .text()
                        .map_or(0, |text| decoded_length(text.as_bytes()));
                }
                "isFinal" | "is_final" => seen.is_final |= value.is_true(),
                "is_final_audio_for_turn" => seen.is_turn_final = value.is_true(),
                "contextId" | "context_id" => seen.context = value.text().or(seen.context),
                "alignment" | "normalizedAlignment" | "normalized_alignment" => {
                    seen.has_alignment |= matches!(value, Value::Object);
                }
                "error" => error.error = value.text().unwrap_or_default(),
                "message" => error.message = value.text().unwrap_or_default(),
                "code" => {
                    if let Value::Number(Some(code)) = value {
                        error.code = code.try_into().ok();
                    }
                }
                _ => {}
            }
        }
        let is_error =
            !error.error.is_empty() || (!error.message.is_empty() && error.code.is_some());
        seen.error = is_error.then_some(error);
        Ok(seen)
    }
}
