//! What upstream's message says, without parsing the audio in it. Nothing here changes or holds up
//! a message; a message that cannot be read is `other` and goes on as it is.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::{memchr, memchr2};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::Secrets;
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
    /// Where their base64 stands in the message; empty without audio, and where it is written with
    /// escapes.
    pub audio: Range<usize>,
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

    /// Whether there is audio, and neither a context nor an error.
    #[must_use]
    pub fn is_bare_audio(&self) -> bool {
        self.audio_bytes > 0 && self.context.is_none() && self.error.is_none()
    }

    /// The message, which is `payload`, with `***` in the place of `secrets`; none when there is
    /// nothing to replace. Audio is never searched, and what stands around it only when it names a
    /// context or an error.
    #[must_use]
    pub fn scrubbed(&self, payload: &[u8], secrets: &Secrets) -> Option<Vec<u8>> {
        if self.is_bare_audio() {
            return None;
        }
        let Range { start, end } = self.audio;
        let (before, audio, after) = (&payload[..start], &payload[start..end], &payload[end..]);
        let holds_secret = secrets.contains(before) || secrets.contains(after);
        holds_secret.then(|| [&secrets.scrub(before), audio, &secrets.scrub(after)].concat())
    }

    /// Frees the words that are logged of `secrets` that were written with escapes: searching the
    /// message, which has none of them as it is spelled, does not find these.
    pub fn scrub_unescaped(&mut self, secrets: &Secrets) {
        let error = self.error.as_mut().map(|error| &mut error.error);
        for words in self.context.as_mut().into_iter().chain(error) {
            if let Cow::Owned(unescaped) = words {
                *words = secrets.scrub_text(unescaped).into_owned().into();
            }
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

/// For messages with audio and no error. What stands in quotes here is a key or a string of its
/// own: inside of a string every quote has a backslash before it.
fn look_past_audio(payload: &[u8]) -> Option<ServerMessage<'_>> {
    let is_first = payload.starts_with(AUDIO_FIRST.as_bytes());
    let place = audio_place(payload, is_first)?;
    let audio = &payload[place.clone()];
    if may_have_escapes(audio) {
        return None;
    }
    let mut seen = ServerMessage {
        audio_bytes: decoded_length(audio),
        ..ServerMessage::default()
    };
    if seen.audio_bytes > 0 {
        seen.audio = place.clone();
    }
    seen.look_around(&payload[place.end + 1..]);
    if !is_first {
        seen.look_around(&payload[..place.start]);
    }
    seen.error.is_none().then_some(seen)
}

/// Where the base64 stands between its quotes; `is_first` when it is the first member.
fn audio_place(payload: &[u8], is_first: bool) -> Option<Range<usize>> {
    let start = match is_first {
        true => skip_space(payload, AUDIO_FIRST.len()),
        false => AUDIO
            .find_iter(payload)
            .find_map(|at| value_of(payload, at, AUDIO_KEY.len()))?,
    };
    let audio = payload[start..].strip_prefix(b"\"")?;
    let length = memchr(b'"', audio)?;
    Some(start + 1..start + 1 + length)
}

/// The start of a message whose first member is the audio, as upstream writes it.
const AUDIO_FIRST: &str = "{\"audio\":";

const AUDIO_KEY: &str = "\"audio\"";

/// Up to here it is cheaper to look at every byte than to search for keys.
const FEW_BYTES: usize = 128;

static AUDIO: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(AUDIO_KEY));
/// How the keys begin that tell an end.
static IS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"is"));
static CONTEXT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"context"));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(ERROR_KEY));

const ERROR_KEY: &str = "\"error\"";

impl<'a> ServerMessage<'a> {
    /// Takes in what stands before or after the audio.
    fn look_around(&mut self, json: &'a [u8]) {
        if json.len() <= FEW_BYTES {
            for (at, start) in json.windows(2).enumerate() {
                if matches!(start, [b'"', b'i' | b'c' | b'e']) {
                    self.look_at(json, at);
                }
            }
        } else {
            self.search_around(json);
        }
    }

    // Its searchers would take room in the frame of every message.
    #[inline(never)]
    fn search_around(&mut self, json: &'a [u8]) {
        for finder in [&IS, &CONTEXT, &ERROR] {
            for at in finder.find_iter(json) {
                self.look_at(json, at);
            }
        }
    }

    /// Takes in the member whose key stands at `at`, if it means anything.
    fn look_at(&mut self, json: &'a [u8], at: usize) {
        let value_under = |key: &str| {
            json[at..]
                .starts_with(key.as_bytes())
                .then(|| value_of(json, at, key.len()))?
        };
        let is_true = |key| value_under(key).is_some_and(|v| json[v..].starts_with(b"true"));
        match json.get(at + 1) {
            Some(b'i') => {
                self.is_final |= is_true("\"isFinal\"") || is_true("\"is_final\"");
                self.is_turn_final |= is_true("\"is_final_audio_for_turn\"");
            }
            Some(b'c') => {
                for key in ["\"contextId\"", "\"context_id\""] {
                    let context = value_under(key).and_then(|v| string_at(json, v));
                    self.context = context.or(self.context.take());
                }
            }
            // That there is one is enough: such a message goes the slow way.
            Some(b'e') if value_under(ERROR_KEY).is_some_and(|v| json[v..].starts_with(b"\"")) => {
                self.error.get_or_insert_default();
            }
            _ => {}
        }
    }
}

/// Whether base64 is written with `\/` for `/`, as some JSON writers have it. Such a text shows it
/// in its first bytes, or by a length that no padded base64 has; should it show neither, the audio
/// is measured a few bytes too long. To search all of it would cost as much as all the rest.
fn may_have_escapes(audio: &[u8]) -> bool {
    let searched = if audio.len().is_multiple_of(4) {
        &audio[..audio.len().min(256)]
    } else {
        audio
    };
    memchr(b'\\', searched).is_some()
}

/// Where the value starts whose key, of `key_len` bytes with its quotes, stands at `at`. A string
/// of the same letters that is no key has no colon behind it.
fn value_of(json: &[u8], at: usize, key_len: usize) -> Option<usize> {
    if at > 0 && json[at - 1] == b'\\' {
        return None;
    }
    let colon = skip_space(json, at + key_len);
    (json.get(colon) == Some(&b':')).then(|| skip_space(json, colon + 1))
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

/// For messages that look different: errors, with audio too, finals, audio with escapes.
#[inline(never)]
fn read(payload: &[u8]) -> Option<ServerMessage<'_>> {
    let text = simdutf8::basic::from_utf8(payload).ok()?;
    let fault = Cell::new(None);
    let mut seen = Message { fault: &fault }
        .deserialize(&mut serde_json::Deserializer::from_str(text))
        .ok()?;
    // So far it says where in memory the text is.
    let start = payload.as_ptr().addr();
    seen.audio = seen.audio.start.saturating_sub(start)..seen.audio.end.saturating_sub(start);
    Some(seen)
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
                    let audio = value.text().unwrap_or_default();
                    seen.audio_bytes = decoded_length(audio.as_bytes());
                    seen.audio = match audio {
                        Cow::Borrowed(text) if seen.audio_bytes > 0 => {
                            let Range { start, end } = text.as_bytes().as_ptr_range();
                            start.addr()..end.addr()
                        }
                        _ => 0..0,
                    };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::super::sample::{node, style};
    use super::*;

    #[track_caller]
    fn check(payload: &str, kind: ServerKind, audio_bytes: u64, context: Option<&str>) {
        let message = look(payload.as_bytes());
        let seen = (
            message.kind(),
            message.audio_bytes,
            message.context.as_deref(),
        );
        assert_eq!(seen, (kind, audio_bytes, context), "{payload}");
    }

    #[test]
    fn audio_is_measured_in_every_writing() {
        use ServerKind::Audio;
        check(
            r#"{"audio":"AAECAwQF","isFinal":null,"normalizedAlignment":null}"#,
            Audio,
            6,
            None,
        );
        check(
            r#"{"audio":"AAECAw==","isFinal":null,"contextId":"a1"}"#,
            Audio,
            4,
            Some("a1"),
        );
        check(
            r#"{"audio": "AAE=", "context_id": "t1"}"#,
            Audio,
            2,
            Some("t1"),
        );
        check(
            "{\n  \"contextId\" : \"a1\",\n  \"audio\" :\n \"AAE\"\n}",
            Audio,
            2,
            Some("a1"),
        );
        check(
            r#"{"alignment":{"chars":["audio","isFinal"]},"audio":"AAEC"}"#,
            Audio,
            3,
            None,
        );
        check(
            r#"{"audio":"\/\/\/\/","contextId":"a1"}"#,
            Audio,
            3,
            Some("a1"),
        );
        check(
            r#"{"audio":"AAEC","contextId":"a\"b\u00e9"}"#,
            Audio,
            3,
            Some("a\"bé"),
        );
        check(r#"{"audio":"AAEC","contextId":null}"#, Audio, 3, None);
        check(
            r#"{"audio":"AAEC","note":"\"audio\":\"AAECAwQF\""}"#,
            Audio,
            3,
            None,
        );
        check(
            r#"{"note":"\"audio\":\"AAECAwQF\"","audio":"AAEC"}"#,
            Audio,
            3,
            None,
        );
    }

    #[test]
    fn ends_are_told_apart() {
        use ServerKind::{Alignment, Audio, Final, Other, TurnFinal};
        check(
            r#"{"audio":null,"isFinal":true,"alignment":null}"#,
            Final,
            0,
            None,
        );
        check(r#"{"isFinal":true}"#, Final, 0, None);
        check(
            r#"{"is_final": true, "context_id": "t1"}"#,
            Final,
            0,
            Some("t1"),
        );
        check(
            r#"{"audio":"","isFinal":true,"contextId":"a"}"#,
            Final,
            0,
            Some("a"),
        );
        check(
            r#"{"is_final_audio_for_turn":true,"context_id":"t1"}"#,
            TurnFinal,
            0,
            Some("t1"),
        );
        check(r#"{"audio":"","isFinal":null}"#, Other, 0, None);
        check(
            r#"{"audio":null,"isFinal":null,"alignment":{"chars":[]}}"#,
            Alignment,
            0,
            None,
        );
        check(r#"{"audio":"AAEC","isFinal":true}"#, Audio, 3, None);
        assert!(look(br#"{"audio":"AAEC","isFinal" : true}"#).is_final);
        assert!(look(br#"{"is_final":true,"audio":"AAEC"}"#).is_final);
        assert!(look(br#"{"audio":"AAEC","is_final_audio_for_turn":true}"#).is_turn_final);
        assert!(!look(br#"{"audio":"AAEC","isFinal":false}"#).is_final);
        check(r#"{"type":"flush_done"}"#, Other, 0, None);
    }

    #[test]
    fn errors_are_read() {
        let payload = br#"{"message":"No \"x\".","error":"voice_id_does_not_exist","code":1008}"#;
        let message = look(payload);
        assert_eq!(message.kind(), ServerKind::Error);
        let error = message.error.unwrap();
        assert_eq!(error.error, "voice_id_does_not_exist");
        assert_eq!(error.message, "No \"x\".");
        assert_eq!(error.code, Some(1008));
        check(
            r#"{"error":"quota_exceeded","context_id":null}"#,
            ServerKind::Error,
            0,
            None,
        );
        check(
            r#"{"message":"Sorry.","code":1011}"#,
            ServerKind::Error,
            0,
            None,
        );
        check(r#"{"message":"hello"}"#, ServerKind::Other, 0, None);
        check(
            r#"{"error":null,"message":null,"code":null}"#,
            ServerKind::Other,
            0,
            None,
        );
        assert_eq!(
            look(br#"{"error":"e","code":70000}"#).error.unwrap().code,
            None
        );
    }

    #[track_caller]
    fn check_scrubbed(payload: &str, expected: Option<&str>) {
        let secrets = Secrets::new(&["hush-hush".into()]);
        let scrubbed = look(payload.as_bytes()).scrubbed(payload.as_bytes(), &secrets);
        let expected = expected.map(str::as_bytes);
        assert_eq!(scrubbed.as_deref(), expected, "{payload}");
    }

    #[test]
    fn secrets_are_replaced_around_the_audio_and_where_there_is_none() {
        check_scrubbed(
            r#"{"message":"hush-hush!","error":"e","code":1008}"#,
            Some(r#"{"message":"***!","error":"e","code":1008}"#),
        );
        check_scrubbed(
            r#"{"audio":"AAEC","contextId":"hush-hush"}"#,
            Some(r#"{"audio":"AAEC","contextId":"***"}"#),
        );
        check_scrubbed(
            r#"{"context_id":"c","note":"hush-hush","audio":"AAEC"}"#,
            Some(r#"{"context_id":"c","note":"***","audio":"AAEC"}"#),
        );
        check_scrubbed(
            r#"{"audio":"AAEC","message":"hush-hush","error":"e"}"#,
            Some(r#"{"audio":"AAEC","message":"***","error":"e"}"#),
        );
        let long = format!("{}hush-hush", "x".repeat(2 * FEW_BYTES));
        check_scrubbed(
            &format!(r#"{{"audio":"AAEC","error":"{long}"}}"#),
            Some(&format!(
                r#"{{"audio":"AAEC","error":"{}"}}"#,
                long.replace("hush-hush", "***")
            )),
        );
        check_scrubbed(
            r#"{"x":{"audio":"hush-hush"},"audio":"AAEC","error":"e"}"#,
            Some(r#"{"x":{"audio":"***"},"audio":"AAEC","error":"e"}"#),
        );
        check_scrubbed("hush-hush", Some("***"));
        check_scrubbed(r#"{"audio":"AAEC","contextId":"c"}"#, None);
        check_scrubbed(r#"{"message":"no","error":"e","code":1008}"#, None);
    }

    #[test]
    fn audio_is_not_searched_for_secrets() {
        let secrets = Secrets::new(&["AAEC".into()]);
        for payload in [
            r#"{"audio":"AAEC","isFinal":null}"#,
            r#"{"audio":"AAEC","contextId":"c"}"#,
            r#"{"audio":"AAEC","error":"e"}"#,
        ] {
            let payload = payload.as_bytes();
            assert_eq!(look(payload).scrubbed(payload, &secrets), None);
        }
    }

    #[test]
    fn words_written_with_escapes_are_scrubbed_as_they_read() {
        let secrets = Secrets::new(&["hush-hush".into()]);
        let mut message = look(br#"{"error":"no \u0068ush-hush","contextId":"\u0068ush-hush"}"#);
        message.scrub_unescaped(&secrets);
        assert_eq!(message.error.unwrap().error, "no ***");
        assert_eq!(message.context.as_deref(), Some("***"));
    }

    #[test]
    fn what_cannot_be_read_is_something_else() {
        for payload in [
            "",
            "{",
            "[]",
            "null",
            "x",
            "\"audio\"",
            "\"audio\":",
            "\"audio\":\"",
            "{\"audio\":\"AAEC",
        ] {
            check(payload, ServerKind::Other, 0, None);
        }
        assert_eq!(look(b"\xff\xfe").kind(), ServerKind::Other);
    }

    /// JSON as Python's `json.dumps` writes it.
    fn spaced(json: &Json) -> String {
        let members = json.as_object().unwrap().iter();
        let members: Vec<_> = members
            .map(|(key, value)| format!("\"{key}\": {value}"))
            .collect();
        format!("{{{}}}", members.join(", "))
    }

    proptest! {
        #[test]
        fn both_ways_of_looking_see_the_same(
            audio in proptest::collection::vec(any::<u8>(), 0..200),
            is_padded: bool, is_final: Option<bool>, is_snake: bool,
            context in proptest::option::of("[a-z\"\\\\\u{e9}]{0,6}"),
            chars in proptest::collection::vec("\\PC|audio|isFinal|\"", 0..6),
        ) {
            let mut base64 = STANDARD.encode(&audio);
            if !is_padded {
                base64.truncate(base64.trim_end_matches('=').len());
            }
            let (final_key, context_key) =
                if is_snake { ("is_final", "context_id") } else { ("isFinal", "contextId") };
            let json = json!({
                "audio": base64,
                "alignment": { "chars": chars },
                final_key: is_final,
                context_key: context,
            });
            for payload in [json.to_string(), spaced(&json)] {
                let seen = look(payload.as_bytes());
                prop_assert_eq!(seen.audio_bytes, audio.len() as u64);
                prop_assert_eq!(seen.is_final, is_final == Some(true));
                prop_assert_eq!(seen.context.as_deref(), context.as_deref());
                let mut read = read(payload.as_bytes()).unwrap();
                read.has_alignment = false;
                prop_assert_eq!(read, seen);
            }
        }

        #[test]
        fn no_message_panics(node in node(), style in style(), cut: prop::sample::Index) {
            let payload = node.write(&style).into_bytes();
            for part in [&payload[..], &payload[..cut.index(payload.len() + 1)]] {
                prop_assert!(look(part).audio_bytes <= part.len() as u64);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in "(\"(audio|isFinal|contextId)\"|[\":{} \\\\tA=]){0,12}") {
            prop_assert!(look(bytes.as_bytes()).audio_bytes <= bytes.len() as u64);
        }
    }
}
