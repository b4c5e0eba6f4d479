//! Settings as they were written: tables, arrays and scalars, each with the place it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A table by its keys.
pub(super) type Table = BTreeMap<String, Node>;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the defaults inside the binary.
    Defaults,
    /// In a file, as `FILE:LINE`, or in the environment variable of this name.
    Place(Arc<str>),
}

impl Origin {
    pub(super) fn at(place: &str) -> Self {
        Self::Place(place.into())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("built-in defaults"),
            Self::Place(place) => f.write_str(place),
        }
    }
}

/// One value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    String(String),
    /// The text of an environment variable: whatever its setting wants to read in it.
    Raw(String),
    Array(Vec<Node>),
    Table(Table),
}

/// The value at a dotted path.
pub(super) fn get<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Node> {
    let (first, rest) = path.split_first()?;
    let node = table.get(*first)?;
    match (&node.value, rest.is_empty()) {
        (_, true) => Some(node),
        (Value::Table(below), false) => get(below, rest),
        _ => None,
    }
}

/// Puts `node` at a path, making tables on the way.
///
/// # Errors
/// The path of something on the way that is no table.
pub(super) fn set(table: &mut Table, path: &[&str], node: Node) -> Result<(), String> {
    let Some((key, rest)) = path.split_first() else {
        return Ok(());
    };
    if rest.is_empty() {
        table.insert((*key).to_owned(), node);
        return Ok(());
    }
    let origin = node.origin.clone();
    let below = table.entry((*key).to_owned()).or_insert_with(|| Node {
        value: Value::Table(Table::new()),
        origin,
    });
    match &mut below.value {
        Value::Table(below) => set(below, rest, node).map_err(|at| format!("{key}.{at}")),
        _ => Err((*key).to_owned()),
    }
}
