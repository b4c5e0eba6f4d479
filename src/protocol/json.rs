//! Reading JSON so that no second parser can read something else out of it: a key that stands
//! twice in one object is refused at any depth, since readers differ in which one they take.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// How deep objects and arrays may nest; below the limit of serde_json, which is 128.
const MAX_DEPTH: u8 = 100;

/// Why a text that is JSON is refused all the same. It travels beside serde's own error, whose
/// text may quote what it read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    KeyTwice,
    TooDeep,
    Text,
    Inputs,
}

/// Where a visitor leaves its [`Fault`].
pub(super) type FaultCell = Cell<Option<Fault>>;

/// Leaves `fault` and gives serde an error that says nothing.
pub(super) fn refuse<E: Error>(cell: &FaultCell, fault: Fault) -> E {
    cell.set(Some(fault));
    E::custom("refused")
}

/// A value, of which only what the relay looks at is kept.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    /// A number; its value where it is a whole one that is not negative.
    Number(Option<u64>),
    /// A string; empty when it was not asked for.
    Text(Cow<'a, str>),
    Array,
    Object,
}

impl<'a> Value<'a> {
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_true(&self) -> bool {
        matches!(self, Self::Bool(true))
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// Reads any value to its end and checks all that is in it.
#[derive(Clone, Copy)]
pub(super) struct Any<'f> {
    fault: &'f FaultCell,
    depth: u8,
    keeps_text: bool,
}

impl<'f> Any<'f> {
    /// For a value at `depth` objects and arrays below the top.
    pub(super) fn new(fault: &'f FaultCell, depth: u8) -> Self {
        Self {
            fault,
            depth,
            keeps_text: false,
        }
    }

    /// Keeps the string, when the value is one.
    pub(super) fn keeping_text(self) -> Self {
        Self {
            keeps_text: true,
            ..self
        }
    }

    /// For a value inside of this one.
    pub(super) fn inside<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(refuse(self.fault, Fault::TooDeep));
        }
        Ok(Self {
            depth: self.depth + 1,
            keeps_text: false,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(Value::Number(Some(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(Value::Number(value.try_into().ok()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value<'de>, E> {
        Ok(Value::Number(None))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        let kept = if self.keeps_text {
            Cow::Owned(text.to_owned())
        } else {
            Cow::Borrowed("")
        };
        Ok(Value::Text(kept))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
        let inner = self.inside()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(Value::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let inner = self.inside()?;
        let mut keys = Keys::default();
        while let Some(key) = map.next_key_seed(Key)? {
            if !keys.is_new(key) {
                return Err(refuse(self.fault, Fault::KeyTwice));
            }
            map.next_value_seed(inner)?;
        }
        Ok(Value::Object)
    }
}

/// Reads a key, borrowed unless it has escapes.
pub(super) struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// The keys seen so far in one object. The first few without escapes are kept on the stack; the
/// others go to a hash table, so that an object of very many keys costs no more than its length.
#[derive(Default)]
pub(super) struct Keys<'a> {
    few: [&'a str; 8],
    n_few: usize,
    more: Option<HashSet<Cow<'a, str>>>,
}

impl<'a> Keys<'a> {
    /// Takes `key` in; false when it was there before.
    pub(super) fn is_new(&mut self, key: Cow<'a, str>) -> bool {
        if self.few[..self.n_few].contains(&key.as_ref()) {
            return false;
        }
        match key {
            Cow::Borrowed(key) if self.more.is_none() && self.n_few < self.few.len() => {
                self.few[self.n_few] = key;
                self.n_few += 1;
                true
            }
            key => self.more.get_or_insert_default().insert(key),
        }
    }
}
