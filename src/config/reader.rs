//! Turns the tree into the modules' own structs, and knows afterwards which keys nobody wanted.
//!
//! A struct takes the keys it has fields for and leaves the others, so that one table can be read
//! into several structs. What is left over in the end is refused by name.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::vec;

use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::Error;
use super::nearest::nearest;
use super::secret::is_secret;
use super::tree::{Node, Origin, Table, Value};

/// Reads tables and remembers what was read.
#[derive(Default)]
pub(super) struct Reader {
    /// The fields that structs have, by the path of their table.
    known: RefCell<BTreeMap<String, BTreeSet<&'static str>>>,
    /// Paths of keys that stand in the tree, with their place, by the path of their table.
    present: RefCell<BTreeMap<String, BTreeMap<String, Origin>>>,
}

impl Reader {
    /// Reads the key `name` of the topmost table; when it is absent, the default.
    pub(super) fn read<T: DeserializeOwned + Default>(
        &self,
        root: &Table,
        name: &'static str,
    ) -> Result<T, Error> {
        self.known
            .borrow_mut()
            .entry(String::new())
            .or_default()
            .insert(name);
        let Some(node) = root.get(name) else {
            return Ok(T::default());
        };
        T::deserialize(At {
            node,
            path: name.to_owned(),
            reader: self,
        })
        .map_err(|fault| fault.into_error(name, &node.origin))
    }

    /// Refuses the first key that no struct wanted.
    pub(super) fn finish(&self, root: &Table) -> Result<(), Error> {
        self.note("", root);
        let known = self.known.borrow();
        for (table, keys) in &*self.present.borrow() {
            let Some(fields) = known.get(table) else {
                continue;
            };
            let Some((key, origin)) = keys.iter().find(|(key, _)| !fields.contains(key.as_str()))
            else {
                continue;
            };
            let path = join(table, key);
            if path == "upstream.api_key" {
                let message = "`upstream.api_key` is not taken from here: set ELEVENLABS_API_KEY, \
                               or ELEVENLABS_API_KEY_FILE to the path of a file with the key";
                return Err(Error::new(Some(origin.clone()), message));
            }
            let all = known
                .iter()
                .flat_map(|(table, fields)| fields.iter().map(|field| join(table, field)));
            let hint = nearest(&path, all).map(|near| format!(", did you mean `{near}`?"));
            let message = format!("unknown key `{path}`{}", hint.unwrap_or_default());
            return Err(Error::new(Some(origin.clone()), message));
        }
        Ok(())
    }

    /// Every key that some struct has a field for, dotted.
    #[cfg(test)]
    pub(super) fn known(&self) -> BTreeSet<String> {
        let known = self.known.borrow();
        let rows = known.iter();
        rows.flat_map(|(table, fields)| fields.iter().map(|field| join(table, field)))
            .collect()
    }

    fn note(&self, path: &str, table: &Table) {
        let mut present = self.present.borrow_mut();
        let keys = present.entry(path.to_owned()).or_default();
        keys.extend(
            table
                .iter()
                .map(|(key, node)| (key.clone(), node.origin.clone())),
        );
    }
}

fn join(table: &str, key: &str) -> String {
    if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}.{key}")
    }
}

/// What a struct found wrong, before its place is known.
#[derive(Debug)]
pub(super) struct Fault {
    found: Option<String>,
    wanted: String,
    at: Option<(String, Origin)>,
}

impl Fault {
    /// Remembers the innermost place.
    fn at(mut self, path: &str, origin: &Origin) -> Self {
        self.at
            .get_or_insert_with(|| (path.to_owned(), origin.clone()));
        self
    }

    fn into_error(self, path: &str, origin: &Origin) -> Error {
        let (path, origin) = self.at.unwrap_or_else(|| (path.to_owned(), origin.clone()));
        // Names that people use, for those of the deserializer.
        let wanted = match self.wanted.as_str() {
            "a duration" => "a duration such as \"20s\"",
            "a sequence" => "a list",
            "a map" => "a table",
            wanted => wanted,
        };
        let message = match self.found {
            Some(found) if !is_secret(&path) && !found.contains('@') => {
                format!("`{path}` must be {wanted}, not {found}")
            }
            Some(_) => format!("`{path}` must be {wanted}"),
            None => format!("`{path}`: {wanted}"),
        };
        Error::new(Some(origin), message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wanted)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            found: None,
            wanted: message.to_string(),
            at: None,
        }
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self {
            found: Some(found.to_string()),
            wanted: wanted.to_string(),
            at: None,
        }
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::invalid_type(found, wanted)
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        let mut wanted = String::new();
        for (index, variant) in known.iter().enumerate() {
            let gap = match index {
                0 => "",
                _ if index + 1 == known.len() => " or ",
                _ => ", ",
            };
            wanted.push_str(&format!("{gap}\"{variant}\""));
        }
        Self {
            found: Some(format!("\"{found}\"")),
            wanted,
            at: None,
        }
    }
}

/// A node at its path.
struct At<'a> {
    node: &'a Node,
    path: String,
    reader: &'a Reader,
}

impl<'a> At<'a> {
    fn fail(&self, fault: Fault) -> Fault {
        fault.at(&self.path, &self.node.origin)
    }

    /// The text of a variable as a TOML scalar where it is one, else as the string it is.
    fn scalar(raw: &str) -> Value {
        let parsed = raw.trim().parse::<toml::Value>();
        match parsed {
            Ok(toml::Value::Boolean(truth)) => Value::Boolean(truth),
            Ok(toml::Value::Integer(number)) => Value::Integer(number),
            Ok(toml::Value::Float(number)) => Value::Float(number),
            Ok(toml::Value::String(text)) => Value::String(text),
            _ => Value::String(raw.to_owned()),
        }
    }

    fn visit<'de, V: Visitor<'de>>(self, value: &Value, visitor: V) -> Result<V::Value, Fault> {
        match value {
            Value::Boolean(truth) => visitor.visit_bool(*truth),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::String(text) => visitor.visit_str(text),
            Value::Raw(raw) => {
                let value = Self::scalar(raw);
                return self.visit(&value, visitor);
            }
            Value::Array(nodes) => visitor.visit_seq(Items {
                rest: nodes.iter().enumerate().collect::<Vec<_>>().into_iter(),
                path: &self.path,
                reader: self.reader,
            }),
            Value::Table(table) => visitor.visit_map(self.rows(table, None)),
        }
        .map_err(|fault| self.fail(fault))
    }

    /// The rows of a table; with `fields`, those alone.
    fn rows<'t>(&'t self, table: &'t Table, fields: Option<&'static [&'static str]>) -> Rows<'t> {
        let wanted = |key: &str| fields.is_none_or(|fields| fields.contains(&key));
        let rows: Vec<_> = table.iter().filter(|(key, _)| wanted(key)).collect();
        Rows {
            rest: rows.into_iter(),
            value: None,
            path: &self.path,
            reader: self.reader,
        }
    }
}

impl<'de> Deserializer<'de> for At<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let value = &self.node.value;
        self.visit(value, visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            // Whoever wants text gets `1` and `true` as text, and quotes only where they close.
            Value::Raw(raw) => {
                let text = match Self::scalar(raw) {
                    Value::String(text) => text,
                    _ => raw.clone(),
                };
                visitor.visit_string(text).map_err(|fault| self.fail(fault))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Table(table) = &self.node.value else {
            return self.deserialize_any(visitor);
        };
        self.reader
            .known
            .borrow_mut()
            .entry(self.path.clone())
            .or_default()
            .extend(fields);
        self.reader.note(&self.path, table);
        visitor
            .visit_map(self.rows(table, Some(fields)))
            .map_err(|fault| self.fail(fault))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::String(text) | Value::Raw(text) => {
                let variant: StrDeserializer<'_, Fault> = text.trim().into_deserializer();
                visitor
                    .visit_enum(variant)
                    .map_err(|fault: Fault| self.fail(fault))
            }
            Value::Table(table) if table.len() == 1 => {
                let (key, node) = table.iter().next().expect("one row");
                let inner = At {
                    node,
                    path: join(&self.path, key),
                    reader: self.reader,
                };
                visitor
                    .visit_enum(Variant { key, inner })
                    .map_err(|fault| self.fail(fault))
            }
            _ => {
                let mut fault: Fault = de::Error::unknown_variant("", variants);
                fault.found = None;
                fault.wanted = format!("must be {}", fault.wanted);
                Err(self.fail(fault))
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

/// The rows of a table, in order.
struct Rows<'a> {
    rest: vec::IntoIter<(&'a String, &'a Node)>,
    value: Option<(&'a str, &'a Node)>,
    path: &'a str,
    reader: &'a Reader,
}

impl<'de> MapAccess<'de> for Rows<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, node)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some((key, node));
        let name: StringDeserializer<Fault> = key.clone().into_deserializer();
        seed.deserialize(name)
            .map(Some)
            .map_err(|fault| fault.at(&join(self.path, key), &node.origin))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, node) = self.value.take().expect("a value follows its key");
        let path = join(self.path, key);
        // What is wrong may turn out only after the value was read, so it is named here too.
        let at = |fault: Fault| fault.at(&path, &node.origin);
        let value = At {
            node,
            path: path.clone(),
            reader: self.reader,
        };
        seed.deserialize(value).map_err(at)
    }
}

/// The items of an array, named by their index.
struct Items<'a> {
    rest: vec::IntoIter<(usize, &'a Node)>,
    path: &'a str,
    reader: &'a Reader,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some((index, node)) = self.rest.next() else {
            return Ok(None);
        };
        let path = format!("{}[{index}]", self.path);
        let at = |fault: Fault| fault.at(&path, &node.origin);
        let value = At {
            node,
            path: path.clone(),
            reader: self.reader,
        };
        seed.deserialize(value).map(Some).map_err(at)
    }
}

/// `{ variant = … }`
struct Variant<'a> {
    key: &'a str,
    inner: At<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = At<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, At<'a>), Fault> {
        let name: StrDeserializer<'_, Fault> = self.key.into_deserializer();
        Ok((seed.deserialize(name)?, self.inner))
    }
}

impl<'de> VariantAccess<'de> for At<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        let fault: Fault = de::Error::custom("this takes no value");
        Err(self.fail(fault))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_struct("", fields, visitor)
    }
}
