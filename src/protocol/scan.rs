//! Reading a client's message.
//!
//! What is counted here and what goes upstream must be the same for any JSON a client can invent.
//! So a message that two parsers could read differently is refused, and nothing else is: unknown
//! fields, nulls and odd types of fields that neither cost nor identify are upstream's business.

mod dialogue;
mod plain;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use self::dialogue::{Inputs, Voices};
use super::credential::CredentialName;
use super::json::{Any, Fault, FaultCell, Key, Keys, Value, refuse};
use super::{ClientMessage, Dialect, InvalidMessage};

/// Reads a client's message, or an HTTP body, which has the same text fields.
///
/// # Errors
/// See [`InvalidMessage`].
pub fn scan(dialect: Dialect, payload: &[u8]) -> Result<ClientMessage<'_>, InvalidMessage> {
    let text = simdutf8::basic::from_utf8(payload).map_err(|_| InvalidMessage::NotUtf8)?;
    scan_text(dialect, text)
}

/// The same for what is known to be UTF-8.
///
/// # Errors
/// See [`InvalidMessage`].
pub fn scan_text(dialect: Dialect, text: &str) -> Result<ClientMessage<'_>, InvalidMessage> {
    // Filled in place: the struct is large enough for moves to show in the time of a scan.
    let mut message = ClientMessage::new(dialect);
    match plain::text_alone(text) {
        Some(text) => message.text = Some(Cow::Borrowed(text)),
        None => read(text, &mut message)?,
    }
    message.count();
    Ok(message)
}

/// Reads any message.
fn read<'a>(text: &'a str, message: &mut ClientMessage<'a>) -> Result<(), InvalidMessage> {
    let fault = Cell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Message {
        fault: &fault,
        message,
    }
    .deserialize(&mut deserializer)
    .and_then(|()| deserializer.end())
    .map_err(|error| refusal(&error, fault.get()))
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
