//! What a client's message asks for: how much text, by whom, for which context and voices.
//!
//! What is counted here and what goes upstream must be the same for any JSON a client can invent.
//! So a message that two parsers could read differently is refused, and nothing else is: unknown
//! fields, nulls and odd types of fields that neither cost nor identify are upstream's business.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::credential::{Credential, CredentialName};
use super::json::{Any, Fault, FaultCell, Key, Keys, Value, refuse};
use super::{Dialect, Problem};

/// A message that cannot be charged for certain, and what to do about it. The texts are fixed:
/// nothing of the message stands in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum InvalidMessage {
    /// Not UTF-8.
    NotUtf8,
    /// Not JSON (RFC 8259): a syntax error, a byte order mark, `NaN`, half a surrogate pair, a
    /// number out of range.
    NotJson,
    /// JSON, but not an object.
    NotAnObject,
    /// A key that stands twice in one object.
    KeyTwice,
    /// Objects and arrays nested too deep.
    TooDeep,
    /// A `text` that is neither a string nor null.
    Text,
    /// An `inputs` that is no array of objects.
    Inputs,
}

impl InvalidMessage {
    /// The sentence for the client.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotUtf8 => "Send messages as UTF-8 text.",
            Self::NotJson => "Send one valid JSON object in each message; this was not JSON.",
            Self::NotAnObject => "Send a JSON object, such as {\"text\":\"Hello. \"}.",
            Self::KeyTwice => "Send each key once; one stood twice in the same JSON object.",
            Self::TooDeep => "Send JSON that is nested at most 100 levels deep.",
            Self::Text => "Send text as a JSON string.",
            Self::Inputs => "Send inputs as an array of objects, each with text and voice_id.",
        }
    }
}

impl From<InvalidMessage> for &'static str {
    fn from(invalid: InvalidMessage) -> Self {
        invalid.reason()
    }
}

/// What a message is, for logs and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClientKind {
    /// The first message of a connection or a context, or one with settings.
    Initialize,
    /// Text to speak.
    Text,
    /// Generate what is buffered.
    Flush,
    /// Keep the connection or context open.
    Keepalive,
    /// The end of the text, or `close_socket`.
    Close,
    /// `close_context`.
    CloseContext,
    /// Anything else.
    Other,
}

impl ClientKind {
    /// The name in logs and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Text => "text",
            Self::Flush => "flush",
            Self::Keepalive => "keepalive",
            Self::Close => "close",
            Self::CloseContext => "close_context",
            Self::Other => "other",
        }
    }
}

/// What the relay needs of a client's message, borrowed from it where it has no escapes. `Debug`
/// shows neither text nor credentials.
pub struct ClientMessage<'a> {
    /// Unicode scalar values to be charged before the message may go up. White space alone is free
    /// on the text-to-speech sockets, where it is the keepalive.
    pub characters: u64,
    /// Unicode scalar values of all text in the message, white space included.
    pub text_length: u64,
    /// The first credential in the order of [`CredentialName`].
    pub credential: Option<Credential>,
    /// Whether a member stands under a credential's name, even an empty one: the message must then
    /// go through [`without_credentials`](super::without_credentials).
    pub has_credentials: bool,
    /// `context_id` (or `contextId`).
    pub context: Option<Cow<'a, str>>,
    /// `model_id`, which HTTP bodies have.
    pub model: Option<Cow<'a, str>>,
    /// The entries of a dialogue's `voices`.
    pub voices: Vec<Cow<'a, str>>,
    /// A dialogue's `inputs`.
    pub inputs: Vec<Input<'a>>,
    /// Whether some entry of `voices`, or some `voice_id`, was no string: such a message cannot be
    /// checked against a list of voices.
    pub has_unreadable_voices: bool,
    dialect: Dialect,
    text: Option<Cow<'a, str>>,
    has_settings: bool,
    flushes: bool,
    closes_context: bool,
    closes_socket: bool,
    keeps_alive: bool,
}

/// One of a dialogue's `inputs`.
pub struct Input<'a> {
    /// The text, if there is any.
    pub text: Option<Cow<'a, str>>,
    /// The voice, if it is named.
    pub voice: Option<Cow<'a, str>>,
}

/// Reads a client's message, or an HTTP body, which has the same text fields.
///
/// # Errors
/// See [`InvalidMessage`].
pub fn scan(dialect: Dialect, payload: &[u8]) -> Result<ClientMessage<'_>, InvalidMessage> {
    let text = simdutf8::basic::from_utf8(payload).map_err(|_| InvalidMessage::NotUtf8)?;
    let fault = Cell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    // Filled in place: the struct is large enough for moves to show in the time of a scan.
    let mut message = ClientMessage::new(dialect);
    Message {
        fault: &fault,
        message: &mut message,
    }
    .deserialize(&mut deserializer)
    .and_then(|()| deserializer.end())
    .map_err(|error| refusal(&error, fault.get()))?;
    message.count();
    Ok(message)
}

impl From<InvalidMessage> for Problem {
    fn from(invalid: InvalidMessage) -> Self {
        Self::invalid_input_message(invalid)
    }
}

fn refusal(error: &serde_json::Error, fault: Option<Fault>) -> InvalidMessage {
    if !error.is_data() {
        return InvalidMessage::NotJson;
    }
    match fault {
        None => InvalidMessage::NotAnObject,
        Some(Fault::KeyTwice) => InvalidMessage::KeyTwice,
        Some(Fault::TooDeep) => InvalidMessage::TooDeep,
        Some(Fault::Text) => InvalidMessage::Text,
        Some(Fault::Inputs) => InvalidMessage::Inputs,
    }
}

impl<'a> ClientMessage<'a> {
    fn new(dialect: Dialect) -> Self {
        Self {
            characters: 0,
            text_length: 0,
            credential: None,
            has_credentials: false,
            context: None,
            model: None,
            voices: Vec::new(),
            inputs: Vec::new(),
            has_unreadable_voices: false,
            dialect,
            text: None,
            has_settings: false,
            flushes: false,
            closes_context: false,
            closes_socket: false,
            keeps_alive: false,
        }
    }

    /// All text of the message, for logs that may hold it: `text`, then that of each input.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        if self.inputs.is_empty() {
            return Cow::Borrowed(self.text.as_deref().unwrap_or_default());
        }
        self.texts().collect::<String>().into()
    }

    /// Every voice that the message names, `voices` first; with repetitions.
    pub fn voice_ids(&self) -> impl Iterator<Item = &str> {
        let inputs = self
            .inputs
            .iter()
            .filter_map(|input| input.voice.as_deref());
        self.voices.iter().map(AsRef::as_ref).chain(inputs)
    }

    /// Whether no text may follow on this socket, while audio still does.
    #[must_use]
    pub fn ends_text(&self) -> bool {
        match self.dialect {
            Dialect::Single => !self.flushes && self.text.as_deref() == Some(""),
            Dialect::Multi | Dialect::Dialogue | Dialect::DialogueMulti => self.closes_socket,
        }
    }

    /// What the message is; `is_first` says whether it is the first of the connection.
    #[must_use]
    pub fn kind(&self, is_first: bool) -> ClientKind {
        if self.ends_text() {
            ClientKind::Close
        } else if self.closes_context && self.dialect.has_contexts() {
            ClientKind::CloseContext
        } else if is_first || self.initializes() {
            ClientKind::Initialize
        } else if self.flushes {
            ClientKind::Flush
        } else if self.characters > 0 {
            ClientKind::Text
        } else if self.is_keepalive() {
            ClientKind::Keepalive
        } else {
            ClientKind::Other
        }
    }

    /// On a socket of one stream settings may be repeated with every text; elsewhere they come
    /// with the first message of a context.
    fn initializes(&self) -> bool {
        self.has_settings && !(self.dialect == Dialect::Single && self.characters > 0)
    }

    fn is_keepalive(&self) -> bool {
        if self.dialect.is_dialogue() {
            self.keeps_alive
        } else {
            self.text.is_some()
        }
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let inputs = self.inputs.iter().filter_map(|input| input.text.as_deref());
        self.text.as_deref().into_iter().chain(inputs)
    }

    fn count(&mut self) {
        let length = self.texts().map(|text| text.chars().count() as u64).sum();
        let is_free = !self.dialect.is_dialogue()
            && self
                .text
                .as_deref()
                .unwrap_or_default()
                .chars()
                .all(char::is_whitespace);
        self.text_length = length;
        self.characters = if is_free { 0 } else { length };
    }

    fn add_credential(&mut self, name: CredentialName, value: Option<&str>) {
        self.has_credentials = true;
        let Some(credential) = value.and_then(|value| Credential::new(name, value)) else {
            return;
        };
        if self
            .credential
            .as_ref()
            .is_none_or(|best| credential.name < best.name)
        {
            self.credential = Some(credential);
        }
    }

    fn add_voice(&mut self, voice: Value<'a>) -> Option<Cow<'a, str>> {
        let is_null = voice.is_null();
        let voice = voice.text();
        self.has_unreadable_voices |= voice.is_none() && !is_null;
        voice
    }
}

impl fmt::Debug for ClientMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMessage")
            .field("dialect", &self.dialect)
            .field("characters", &self.characters)
            .field("has_credentials", &self.has_credentials)
            .finish_non_exhaustive()
    }
}

/// The fields that mean something to the relay.
enum Field {
    Text,
    Inputs,
    Voices,
    Context { is_first_choice: bool },
    Model,
    Flush,
    CloseContext,
    CloseSocket,
    KeepAlive,
    Settings,
    Credential(CredentialName),
    Other,
}

impl Field {
    fn of(key: &str) -> Self {
        match key {
            "text" => Self::Text,
            "inputs" => Self::Inputs,
            "voices" => Self::Voices,
            "context_id" => Self::Context {
                is_first_choice: true,
            },
            "contextId" => Self::Context {
                is_first_choice: false,
            },
            "model_id" => Self::Model,
            "flush" => Self::Flush,
            "close_context" => Self::CloseContext,
            "close_socket" => Self::CloseSocket,
            "keep_alive" => Self::KeepAlive,
            "voice_settings"
            | "generation_config"
            | "generator_config"
            | "pronunciation_dictionary_locators" => Self::Settings,
            _ => CredentialName::of(key).map_or(Self::Other, Self::Credential),
        }
    }
}

/// Reads the message itself.
struct Message<'f, 'm, 'a> {
    fault: &'f FaultCell,
    message: &'m mut ClientMessage<'a>,
}

impl<'de> DeserializeSeed<'de> for Message<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let any = Any::new(self.fault, 1);
        let message = self.message;
        let is_dialogue = message.dialect.is_dialogue();
        let mut keys = Keys::default();
        while let Some(key) = map.next_key_seed(Key)? {
            let field = Field::of(&key);
            if !keys.is_new(key) {
                return Err(refuse(self.fault, Fault::KeyTwice));
            }
            match field {
                Field::Text => match map.next_value_seed(any.keeping_text())? {
                    Value::Null => {}
                    Value::Text(text) => message.text = Some(text),
                    _ => return Err(refuse(self.fault, Fault::Text)),
                },
                Field::Inputs if is_dialogue => {
                    map.next_value_seed(Inputs {
                        fault: self.fault,
                        message: &mut *message,
                    })?;
                }
                Field::Voices if is_dialogue => {
                    message.has_settings = true;
                    map.next_value_seed(Voices {
                        any,
                        message: &mut *message,
                    })?;
                }
                Field::Context { is_first_choice } => {
                    let context = map.next_value_seed(any.keeping_text())?.text();
                    if is_first_choice || message.context.is_none() {
                        message.context = context.or(message.context.take());
                    }
                }
                Field::Model => message.model = map.next_value_seed(any.keeping_text())?.text(),
                Field::Flush => message.flushes = map.next_value_seed(any)?.is_true(),
                Field::CloseContext => {
                    message.closes_context = map.next_value_seed(any)?.is_true();
                }
                Field::CloseSocket => message.closes_socket = map.next_value_seed(any)?.is_true(),
                Field::KeepAlive => message.keeps_alive = map.next_value_seed(any)?.is_true(),
                Field::Settings => message.has_settings |= !map.next_value_seed(any)?.is_null(),
                Field::Credential(name) => {
                    let value = map.next_value_seed(any.keeping_text())?.text();
                    message.add_credential(name, value.as_deref());
                }
                Field::Inputs | Field::Voices | Field::Other => {
                    map.next_value_seed(any)?;
                }
            }
        }
        Ok(())
    }
}

/// Reads `inputs`: null or an array of objects.
struct Inputs<'f, 'm, 'a> {
    fault: &'f FaultCell,
    message: &'m mut ClientMessage<'a>,
}

impl<'de> DeserializeSeed<'de> for Inputs<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let fault = self.fault;
        // What serde finds wrong by itself from here on is a wrong type in `inputs`.
        fault.set(Some(Fault::Inputs));
        deserializer.deserialize_any(self)?;
        fault.set(None);
        Ok(())
    }
}

impl<'de> Visitor<'de> for Inputs<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(()) = seq.next_element_seed(OneInput {
            fault: self.fault,
            message: &mut *self.message,
        })? {}
        Ok(())
    }
}

/// Reads one of the inputs.
struct OneInput<'f, 'm, 'a> {
    fault: &'f FaultCell,
    message: &'m mut ClientMessage<'a>,
}

impl<'de> DeserializeSeed<'de> for OneInput<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneInput<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let any = Any::new(self.fault, 3);
        let mut input = Input {
            text: None,
            voice: None,
        };
        let mut keys = Keys::default();
        while let Some(key) = map.next_key_seed(Key)? {
            let field = InputField::of(&key);
            if !keys.is_new(key) {
                return Err(refuse(self.fault, Fault::KeyTwice));
            }
            match field {
                InputField::Text => match map.next_value_seed(any.keeping_text())? {
                    Value::Null => {}
                    Value::Text(text) => input.text = Some(text),
                    _ => return Err(refuse(self.fault, Fault::Text)),
                },
                InputField::Voice => {
                    let voice = map.next_value_seed(any.keeping_text())?;
                    input.voice = self.message.add_voice(voice);
                }
                InputField::Other => {
                    map.next_value_seed(any)?;
                }
            }
        }
        self.message.inputs.push(input);
        Ok(())
    }
}

enum InputField {
    Text,
    Voice,
    Other,
}

impl InputField {
    fn of(key: &str) -> Self {
        match key {
            "text" => Self::Text,
            "voice_id" => Self::Voice,
            _ => Self::Other,
        }
    }
}

/// Reads `voices`: the strings of an array are kept, whatever else it is upstream may judge.
struct Voices<'f, 'm, 'a> {
    any: Any<'f>,
    message: &'m mut ClientMessage<'a>,
}

impl Voices<'_, '_, '_> {
    fn unreadable<E>(self) -> Result<(), E> {
        self.message.has_unreadable_voices = true;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Voices<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Voices<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of voices")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.unreadable()
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.unreadable()
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.unreadable()
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.unreadable()
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.unreadable()
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.any.visit_map(map)?;
        self.unreadable()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let any = self.any.inside()?.keeping_text();
        while let Some(voice) = seq.next_element_seed(any)? {
            let voice = self.message.add_voice(voice);
            self.message.voices.extend(voice);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use proptest::prelude::*;
    use secrecy::ExposeSecret;
    use serde_json::Value as Json;

    use super::super::sample::{Node, message, node, style};
    use super::*;

    const DIALECTS: [Dialect; 4] = [
        Dialect::Single,
        Dialect::Multi,
        Dialect::Dialogue,
        Dialect::DialogueMulti,
    ];

    #[track_caller]
    fn counts(dialect: Dialect, payload: &str, characters: u64, text_length: u64) {
        let message = scan(dialect, payload.as_bytes()).unwrap();
        assert_eq!(
            (message.characters, message.text_length),
            (characters, text_length)
        );
    }

    #[test]
    fn scalar_values_of_the_parsed_text_are_counted() {
        for dialect in [Dialect::Single, Dialect::Multi] {
            counts(dialect, r#"{"text":"Hello. "}"#, 7, 7);
            counts(dialect, r#"{"text":"h\u00e9\ud83d\ude00\n"}"#, 4, 4);
            counts(dialect, r#"{"text":"hé😀"}"#, 3, 3);
            counts(dialect, r#"{"te\u0078t":"abc"}"#, 3, 3);
            counts(dialect, r#"{"text":"e\u0301"}"#, 2, 2);
            counts(dialect, r#"{"Text":"abc","x":{"text":"abc"}}"#, 0, 0);
            counts(dialect, r#"{"text":"ab","inputs":[{"text":"cd"}]}"#, 2, 2);
            counts(dialect, r#"{"text":"ab","inputs":7}"#, 2, 2);
            counts(dialect, r#"{"text":null}"#, 0, 0);
            counts(dialect, "\r\n\t {} \n", 0, 0);
        }
    }

    #[test]
    fn white_space_alone_is_free_where_it_is_the_keepalive() {
        for text in [" ", "", "  \\n\\t", "\\u3000\u{a0}"] {
            let payload = format!(r#"{{"text":"{text}"}}"#);
            let message = scan(Dialect::Single, payload.as_bytes()).unwrap();
            assert_eq!(message.characters, 0);
            let length = message.text_length;
            counts(Dialect::Multi, &payload, 0, length);
            counts(Dialect::Dialogue, &payload, length, length);
        }
        counts(Dialect::Single, r#"{"text":" \u200b"}"#, 2, 2);
    }

    #[test]
    fn a_dialogue_is_charged_for_all_of_its_inputs() {
        for dialect in [Dialect::Dialogue, Dialect::DialogueMulti] {
            counts(
                dialect,
                r#"{"inputs":[{"text":"abc"},{"text":" "},{"text":"\u00e9"}]}"#,
                5,
                5,
            );
            counts(dialect, r#"{"inputs":[{"text":"abc"}],"text":"de"}"#, 5, 5);
            counts(
                dialect,
                r#"{"inputs":[{"text":null,"voice_id":"v"},{}]}"#,
                0,
                0,
            );
            counts(dialect, r#"{"inputs":[],"text":null}"#, 0, 0);
            counts(dialect, r#"{"inputs":null}"#, 0, 0);
            counts(dialect, r#"{"inputs":[{"x":{"text":"abc"}}]}"#, 0, 0);
        }
    }

    #[test]
    fn the_text_is_all_there_is_to_hear() {
        let message = scan(Dialect::Single, br#"{"text":"a\u0062"}"#).unwrap();
        assert_eq!(message.text(), "ab");
        let payload = br#"{"inputs":[{"text":"b"},{},{"text":"c"}],"text":"a"}"#;
        assert_eq!(scan(Dialect::Dialogue, payload).unwrap().text(), "abc");
        assert_eq!(scan(Dialect::Dialogue, b"{}").unwrap().text(), "");
    }

    #[track_caller]
    fn refuses(dialect: Dialect, payload: impl AsRef<[u8]>, expected: InvalidMessage) {
        assert_eq!(scan(dialect, payload.as_ref()).err(), Some(expected));
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for dialect in DIALECTS {
            for payload in [
                r#"{"text":"a","text":"b"}"#,
                r#"{"text":"a","te\u0078t":"b"}"#,
                r#"{"\u0074ext":"a","\u0074\u0065xt":"b"}"#,
                r#"{"a":1,"text":"a","a":2}"#,
                r#"{"x":{"a":1,"a":1}}"#,
                r#"{"x":[[{"a":{"b":1,"\u0062":1}}]]}"#,
                r#"{"voices":{"a":1,"a":1}}"#,
                r#"{"voices":["v",{"a":1,"a":1}]}"#,
                r#"{"text":{"a":1,"a":1}}"#,
                r#"{"":1,"":2}"#,
            ] {
                refuses(dialect, payload, InvalidMessage::KeyTwice);
            }
            for payload in [
                "",
                " ",
                "{",
                r#"{"text":"a"}x"#,
                r#"{"text":"a"}{"text":"b"}"#,
                r#"{"text":"a",}"#,
                r"{'text':'a'}",
                r#"{"text":NaN}"#,
                r#"{"x":Infinity}"#,
                r#"{"x":1e999}"#,
                r#"{"x":01}"#,
                "{\"text\":\"a\nb\"}",
                r#"{"text":"\ud83d"}"#,
                r#"{"text":"\ude00"}"#,
                r#"{"text":"\ud83dx"}"#,
                r#"{"x":["\ud83d"]}"#,
                r#"{"\ud83d":1}"#,
                r#"{"text":"\x41"}"#,
                "\u{feff}{}",
                "{}\0",
                "// {}\n{}",
            ] {
                refuses(dialect, payload, InvalidMessage::NotJson);
            }
            for payload in ["[]", "null", "1", "\"text\"", "true", r#"[{"text":"a"}]"#] {
                refuses(dialect, payload, InvalidMessage::NotAnObject);
            }
            for value in ["1", "true", "[]", "[\"a\"]", "{}", "1.5", "-1"] {
                refuses(
                    dialect,
                    format!(r#"{{"text":{value}}}"#),
                    InvalidMessage::Text,
                );
            }
            refuses(dialect, b"{\"text\":\"\xff\"}", InvalidMessage::NotUtf8);
            refuses(
                dialect,
                b"{\"text\":\"\xed\xa0\xbd\"}",
                InvalidMessage::NotUtf8,
            );
        }
        refuses(
            Dialect::Dialogue,
            r#"{"inputs":[{"text":"a","text":"b"}]}"#,
            InvalidMessage::KeyTwice,
        );
        refuses(
            Dialect::Dialogue,
            r#"{"inputs":[{"x":{"a":1,"a":1}}]}"#,
            InvalidMessage::KeyTwice,
        );
        refuses(
            Dialect::Dialogue,
            r#"{"inputs":[{"text":7}]}"#,
            InvalidMessage::Text,
        );
        for inputs in [
            "{}", "\"a\"", "7", "true", "[7]", "[null]", "[[]]", "[\"a\"]", "1.5", "-1",
        ] {
            let payload = format!(r#"{{"inputs":{inputs}}}"#);
            refuses(Dialect::DialogueMulti, payload, InvalidMessage::Inputs);
        }
        refuses(
            Dialect::Dialogue,
            r#"{"inputs":[}"#,
            InvalidMessage::NotJson,
        );
    }

    #[test]
    fn nesting_is_limited_and_cannot_exhaust_the_stack() {
        let nested = |n: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(n), "]".repeat(n));
        assert!(scan(Dialect::Single, nested(99).as_bytes()).is_ok());
        refuses(Dialect::Single, nested(100), InvalidMessage::TooDeep);
        refuses(Dialect::Single, nested(30_000), InvalidMessage::TooDeep);
        refuses(
            Dialect::Dialogue,
            r#"{"voices":["#.to_owned() + &"[".repeat(9000),
            InvalidMessage::TooDeep,
        );
        refuses(
            Dialect::Dialogue,
            r#"{"inputs":[{"x":"#.to_owned() + &"[".repeat(9000),
            InvalidMessage::TooDeep,
        );
    }

    #[test]
    fn many_keys_are_told_apart() {
        let keys: Vec<_> = (0..20_000).map(|n| format!("\"k{n}\":0")).collect();
        let payload = format!("{{{},\"text\":\"abc\"}}", keys.join(","));
        counts(Dialect::Single, &payload, 3, 3);
        for twice in ["k0", "k7", "k8", "k19999", "text"] {
            let payload = format!("{{{},\"text\":\"abc\",\"{twice}\":0}}", keys.join(","));
            refuses(Dialect::Single, payload, InvalidMessage::KeyTwice);
        }
    }

    #[test]
    fn reasons_say_what_to_do() {
        for invalid in [
            InvalidMessage::NotUtf8,
            InvalidMessage::NotJson,
            InvalidMessage::NotAnObject,
            InvalidMessage::KeyTwice,
            InvalidMessage::TooDeep,
            InvalidMessage::Text,
            InvalidMessage::Inputs,
        ] {
            assert!(invalid.reason().starts_with("Send ") && invalid.reason().ends_with('.'));
            assert!(invalid.reason().len() <= 123, "fits into a close reason");
            assert_eq!(invalid.to_string(), invalid.reason());
        }
    }

    #[track_caller]
    fn shows(payload: &str, expected: Option<(CredentialName, &str)>) {
        for dialect in DIALECTS {
            let message = scan(dialect, payload.as_bytes()).unwrap();
            let seen = message
                .credential
                .as_ref()
                .map(|c| (c.name, c.token.expose_secret()));
            assert_eq!(seen, expected);
            assert!(message.has_credentials);
        }
    }

    #[test]
    fn credentials_are_found_in_any_spelling() {
        use CredentialName::{ApiKey, Authorization, SingleUseToken};
        shows(r#"{"text":" ","xi_api_key":"tok"}"#, Some((ApiKey, "tok")));
        shows(r#"{"\u0078i-api-key":"t\u006fk"}"#, Some((ApiKey, "tok")));
        shows(r#"{"XI_API_KEY":"tok"}"#, Some((ApiKey, "tok")));
        shows(
            r#"{"authorization":"Bearer tok"}"#,
            Some((Authorization, "tok")),
        );
        shows(
            r#"{"single_use_token":"tok"}"#,
            Some((SingleUseToken, "tok")),
        );
        shows(
            r#"{"single_use_token":"c","authorization":"b","xi-api-key":"a"}"#,
            Some((ApiKey, "a")),
        );
        shows(
            r#"{"xi_api_key":"","authorization":"b"}"#,
            Some((Authorization, "b")),
        );
        shows(r#"{"xi_api_key":null}"#, None);
        shows(r#"{"xi_api_key":{"a":"tok"}}"#, None);
        let message = scan(Dialect::Single, br#"{"x":{"xi_api_key":"tok"}}"#).unwrap();
        assert!(!message.has_credentials);
    }

    #[test]
    fn contexts_models_and_voices_are_read() {
        let context = |payload: &str| {
            let message = scan(Dialect::Multi, payload.as_bytes()).unwrap();
            message.context.map(Cow::into_owned)
        };
        assert_eq!(context(r#"{"context_id":"a"}"#).as_deref(), Some("a"));
        assert_eq!(context(r#"{"contextId":"a"}"#).as_deref(), Some("a"));
        assert_eq!(
            context(r#"{"contextId":"b","context_id":"a"}"#).as_deref(),
            Some("a")
        );
        assert_eq!(
            context(r#"{"context_id":"a","contextId":"b"}"#).as_deref(),
            Some("a")
        );
        assert_eq!(
            context(r#"{"context_id":null,"contextId":"b"}"#).as_deref(),
            Some("b")
        );
        assert_eq!(
            context(r#"{"contextId":"b","context_id":null}"#).as_deref(),
            Some("b")
        );
        assert_eq!(context(r#"{"context_id":7}"#), None);

        let message = scan(Dialect::Single, br#"{"model_id":"m","text":"a"}"#).unwrap();
        assert_eq!(message.model.as_deref(), Some("m"));

        let voices = |payload: &str| {
            let message = scan(Dialect::Dialogue, payload.as_bytes()).unwrap();
            let ids = message.voice_ids().collect::<Vec<_>>().join(" ");
            (ids, message.has_unreadable_voices)
        };
        let seen =
            voices(r#"{"inputs":[{"voice_id":"c"},{"voice_id":null}],"voices":["a","\u0062"]}"#);
        assert_eq!(seen, ("a b c".to_owned(), false));
        assert_eq!(voices(r#"{"voices":null}"#), (String::new(), false));
        for odd in [
            "7",
            "-7",
            "1.5",
            "true",
            "\"a\"",
            "\"\\u0061\"",
            "{}",
            "{\"a\":1}",
            "[7]",
            "[[\"a\"]]",
        ] {
            assert_eq!(
                voices(&format!(r#"{{"voices":{odd}}}"#)),
                (String::new(), true),
                "{odd}"
            );
        }
        assert_eq!(
            voices(r#"{"inputs":[{"voice_id":7}]}"#),
            (String::new(), true)
        );
    }

    #[track_caller]
    fn is(dialect: Dialect, payload: &str, first: ClientKind, later: ClientKind) {
        let message = scan(dialect, payload.as_bytes()).unwrap();
        assert_eq!(
            (message.kind(true), message.kind(false)),
            (first, later),
            "{payload}"
        );
    }

    #[test]
    fn messages_of_one_stream_have_their_kinds() {
        use ClientKind::{Close, Flush, Initialize, Keepalive, Other, Text};
        let check = |payload, first, later| is(Dialect::Single, payload, first, later);
        check(
            r#"{"text":" ","voice_settings":{"speed":1}}"#,
            Initialize,
            Initialize,
        );
        check(
            r#"{"text":" ","generation_config":{}}"#,
            Initialize,
            Initialize,
        );
        check(
            r#"{"text":" ","voice_settings":null}"#,
            Initialize,
            Keepalive,
        );
        check(r#"{"text":"Hi. "}"#, Initialize, Text);
        check(r#"{"text":"Hi. ","voice_settings":{}}"#, Initialize, Text);
        check(r#"{"text":"Hi. ","flush":true}"#, Initialize, Flush);
        check(r#"{"flush":true}"#, Initialize, Flush);
        check(r#"{"text":"","flush":true}"#, Initialize, Flush);
        check(r#"{"text":"","flush":false}"#, Close, Close);
        check(r#"{"text":""}"#, Close, Close);
        check(r#"{"text":" "}"#, Initialize, Keepalive);
        check(r#"{"text":null}"#, Initialize, Other);
        check("{}", Initialize, Other);
        check(r#"{"close_socket":true}"#, Initialize, Other);
        check(r#"{"close_context":true}"#, Initialize, Other);
    }

    #[test]
    fn messages_of_contexts_have_their_kinds() {
        use ClientKind::{Close, CloseContext, Flush, Initialize, Keepalive, Text};
        let check = |payload, first, later| is(Dialect::Multi, payload, first, later);
        check(
            r#"{"text":"Hi. ","context_id":"b","voice_settings":{}}"#,
            Initialize,
            Initialize,
        );
        check(r#"{"text":"Hi. ","context_id":"b"}"#, Initialize, Text);
        check(r#"{"text":""}"#, Initialize, Keepalive);
        check(
            r#"{"text":"","context_id":"b","flush":true}"#,
            Initialize,
            Flush,
        );
        check(
            r#"{"context_id":"b","close_context":true}"#,
            CloseContext,
            CloseContext,
        );
        check(r#"{"close_socket":true}"#, Close, Close);
        check(
            r#"{"close_socket":false,"text":" "}"#,
            Initialize,
            Keepalive,
        );
    }

    #[test]
    fn messages_of_dialogues_have_their_kinds() {
        use ClientKind::{Close, CloseContext, Flush, Initialize, Keepalive, Other, Text};
        let check = |payload, first, later| is(Dialect::Dialogue, payload, first, later);
        check(r#"{"voices":["v"]}"#, Initialize, Initialize);
        check(r#"{"inputs":[{"text":"Hi. "}]}"#, Initialize, Text);
        check(
            r#"{"inputs":[{"text":"Hi. "}],"flush":true}"#,
            Initialize,
            Flush,
        );
        check(
            r#"{"inputs":[{"text":"Hi. "}],"close_socket":true}"#,
            Close,
            Close,
        );
        check(r#"{"keep_alive":true}"#, Initialize, Keepalive);
        check(r#"{"keep_alive":false}"#, Initialize, Other);
        check(r#"{"text":""}"#, Initialize, Other);
        check(r#"{"close_context":true}"#, Initialize, Other);
        is(
            Dialect::DialogueMulti,
            r#"{"close_context":true}"#,
            CloseContext,
            CloseContext,
        );
    }

    #[test]
    fn the_end_of_text_is_told_from_keepalives() {
        let ends = |dialect, payload: &str| scan(dialect, payload.as_bytes()).unwrap().ends_text();
        assert!(ends(Dialect::Single, r#"{"text":""}"#));
        assert!(ends(
            Dialect::Single,
            r#"{"text":"","voice_settings":null}"#
        ));
        assert!(!ends(Dialect::Single, r#"{"text":"","flush":true}"#));
        assert!(!ends(Dialect::Single, r#"{"text":" "}"#));
        assert!(!ends(Dialect::Single, r#"{"close_socket":true}"#));
        assert!(!ends(Dialect::Multi, r#"{"text":""}"#));
        assert!(ends(Dialect::Multi, r#"{"close_socket":true}"#));
        assert!(ends(Dialect::DialogueMulti, r#"{"close_socket":true}"#));
        assert!(!ends(Dialect::Dialogue, r#"{"text":""}"#));
    }

    #[test]
    fn debug_shows_neither_text_nor_credentials() {
        let message = scan(
            Dialect::Single,
            br#"{"text":"spoken","xi_api_key":"hush-hush"}"#,
        );
        let shown = format!("{message:?}");
        assert!(
            !shown.contains("spoken") && !shown.contains("hush"),
            "{shown}"
        );
    }

    /// What a message should be found to be, from the way it was made.
    fn expected_length(dialect: Dialect, node: &Node) -> Option<u64> {
        let Node::Object(members) = node else {
            return None;
        };
        if node.has_key_twice() {
            return None;
        }
        let text_of = |value: &Node| match value {
            Node::Text(text) => Some(text.chars().count() as u64),
            Node::Plain("null") => Some(0),
            _ => None,
        };
        let mut length = 0;
        for (key, value) in members {
            match (key.as_str(), value) {
                ("text", value) => length += text_of(value)?,
                ("inputs", Node::Plain("null")) => {}
                ("inputs", value) if dialect.is_dialogue() => {
                    let Node::Array(list) = value else {
                        return None;
                    };
                    for input in list {
                        let Node::Object(fields) = input else {
                            return None;
                        };
                        for (_, value) in fields.iter().filter(|(key, _)| key == "text") {
                            length += text_of(value)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Some(length)
    }

    fn length_by_another_parser(dialect: Dialect, json: &Json) -> u64 {
        let length = |text: &Json| text.as_str().map_or(0, |text| text.chars().count() as u64);
        let inputs = json["inputs"].as_array().filter(|_| dialect.is_dialogue());
        let inputs = inputs
            .into_iter()
            .flatten()
            .map(|input| length(&input["text"]));
        length(&json["text"]) + inputs.sum::<u64>()
    }

    proptest! {
        #[test]
        fn what_is_charged_is_what_another_parser_counts(
            node in message(), style in style(), dialect in prop::sample::select(&DIALECTS[..]),
        ) {
            let payload = node.write(&style);
            let expected = expected_length(dialect, &node);
            match scan(dialect, payload.as_bytes()) {
                Ok(message) => {
                    prop_assert_eq!(Some(message.text_length), expected);
                    let json: Json = serde_json::from_str(&payload).unwrap();
                    prop_assert_eq!(message.text_length, length_by_another_parser(dialect, &json));
                    prop_assert_eq!(message.text().chars().count() as u64, message.text_length);
                    let is_free = !dialect.is_dialogue() && message.text().trim().is_empty();
                    prop_assert_eq!(message.characters, if is_free { 0 } else { message.text_length });
                }
                Err(_) => prop_assert_eq!(expected, None),
            }
        }

        #[test]
        fn any_value_is_judged_alike(node in node(), style in style()) {
            let payload = node.write(&style);
            for dialect in DIALECTS {
                let is_accepted = scan(dialect, payload.as_bytes()).is_ok();
                prop_assert_eq!(is_accepted, expected_length(dialect, &node).is_some());
            }
        }

        #[test]
        fn broken_bytes_never_panic_and_are_counted_alike(
            node in message(), style in style(),
            breaks in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut payload = node.write(&style).into_bytes();
            for (index, byte) in breaks {
                if byte % 3 == 0 {
                    payload.truncate(index.index(payload.len() + 1));
                } else if !payload.is_empty() {
                    let at = index.index(payload.len());
                    payload[at] = byte;
                }
            }
            for dialect in DIALECTS {
                if let Ok(message) = scan(dialect, &payload) {
                    let json: Json = serde_json::from_slice(&payload).unwrap();
                    prop_assert_eq!(message.text_length, length_by_another_parser(dialect, &json));
                }
            }
        }
    }
}
