//! What a client's message asks for: how much text, by whom, for which context and voices.
//!
//! What is counted here and what goes upstream must be the same for any JSON a client can invent.
//! So a message that two parsers could read differently is refused, and nothing else is: unknown
//! fields, nulls and odd types of fields that neither cost nor identify are upstream's business.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Dialect, Problem};
use super::credential::{Credential, CredentialName};
use super::json::{Any, Fault, FaultCell, Key, Keys, Value, refuse};

/// A message that cannot be charged for certain, and what to do about it. The texts are fixed:
/// nothing of the message stands in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// Not UTF-8.
    #[error("A message must be UTF-8 text.")]
    NotUtf8,
    /// Not JSON (RFC 8259): a syntax error, a byte order mark, `NaN`, half a surrogate pair, a
    /// number out of range.
    #[error("A message must be one valid JSON object; this one could not be parsed.")]
    NotJson,
    /// JSON, but not an object.
    #[error("A message must be a JSON object, such as {{\"text\":\"Hello. \"}}.")]
    NotAnObject,
    /// A key that stands twice in one object.
    #[error("A message must not have the same key twice in one object; send each key once.")]
    KeyTwice,
    /// Nested too deep.
    #[error("A message must not nest objects and arrays more than 100 deep.")]
    TooDeep,
    /// A `text` that is neither a string nor null.
    #[error("The field text must be a string.")]
    Text,
    /// An `inputs` that is no array of objects.
    #[error("The field inputs must be an array of objects with text and voice_id.")]
    Inputs,
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
    let mut message = Message {
        dialect,
        fault: &fault,
    }
    .deserialize(&mut deserializer)
    .and_then(|message| deserializer.end().map(|()| message))
    .map_err(|error| refusal(&error, fault.get()))?;
    message.count();
    Ok(message)
}

impl From<InvalidMessage> for Problem {
    fn from(invalid: InvalidMessage) -> Self {
        Self { message: invalid.to_string().into(), ..Self::invalid_input_message("") }
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
struct Message<'f> {
    dialect: Dialect,
    fault: &'f FaultCell,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ClientMessage<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ClientMessage<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let any = Any::new(self.fault, 1);
        let is_dialogue = self.dialect.is_dialogue();
        let mut message = ClientMessage::new(self.dialect);
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
                        message: &mut message,
                    })?;
                }
                Field::Voices if is_dialogue => {
                    message.has_settings = true;
                    map.next_value_seed(Voices {
                        any,
                        message: &mut message,
                    })?;
                }
                Field::Context { is_first_choice } => {
                    let context = map.next_value_seed(any.keeping_text())?.text();
                    if is_first_choice || message.context.is_none() {
                        message.context = context.or(message.context);
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
        Ok(message)
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
