//! The parts of a message that dialogues alone have: `inputs` and `voices`.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::protocol::json::{Any, Fault, FaultCell, Key, Keys, Value, refuse};
use crate::protocol::{ClientMessage, Input};

/// Reads `inputs`: null or an array of objects.
pub(super) struct Inputs<'f, 'm, 'a> {
    pub(super) fault: &'f FaultCell,
    pub(super) message: &'m mut ClientMessage<'a>,
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
pub(super) struct Voices<'f, 'm, 'a> {
    pub(super) any: Any<'f>,
    pub(super) message: &'m mut ClientMessage<'a>,
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
