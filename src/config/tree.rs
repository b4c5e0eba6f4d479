//! Settings as they were written: tables, arrays and scalars, each with the place it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::Error;

/// A table by its keys.
pub(super) type Table = BTreeMap<String, Node>;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The defaults inside the binary.
    Defaults,
    /// A file, and the line in it.
    File { name: Arc<str>, line: usize },
    /// An environment variable.
    Variable(Arc<str>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("built-in defaults"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Variable(name) => f.write_str(name),
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

/// Reads a file's tables.
pub(super) fn parse_file(name: &str, text: &str) -> Result<Table, Error> {
    let place = |span: Range<usize>| Origin::File {
        name: name.into(),
        line: line_of(text, &span),
    };
    parse(text, &place).map_err(|(message, span)| Error::new(Some(place(span)), message))
}

/// Reads the defaults inside the binary.
pub(super) fn parse_defaults(text: &str) -> Table {
    let place = |_: Range<usize>| Origin::Defaults;
    parse(text, &place).expect("a test reads the built-in defaults")
}

/// Reads an array or inline table in a variable; anything else stays as it is.
pub(super) fn parse_variable(name: &Arc<str>, text: &str) -> Node {
    let origin = Origin::Variable(Arc::clone(name));
    let place = |_: Range<usize>| origin.clone();
    let value = match text.trim_start().as_bytes().first() {
        Some(b'[' | b'{') => DeValue::parse(text.trim())
            .ok()
            .and_then(|value| node(&value, &place).ok())
            .map(|node| node.value),
        _ => None,
    };
    Node {
        value: value.unwrap_or_else(|| Value::Raw(text.to_owned())),
        origin,
    }
}

/// A message and where it belongs.
type Fault = (String, Range<usize>);
type Place<'a> = &'a dyn Fn(Range<usize>) -> Origin;

fn parse(text: &str, place: Place<'_>) -> Result<Table, Fault> {
    let document = DeTable::parse(text).map_err(|error| {
        // Only the first line: the others quote the file, which may hold secrets.
        let message = error.message().lines().next().unwrap_or_default();
        (
            format!("not valid TOML: {message}"),
            error.span().unwrap_or(0..0),
        )
    })?;
    table(document.get_ref(), place)
}

fn table(source: &DeTable<'_>, place: Place<'_>) -> Result<Table, Fault> {
    let rows = source.iter();
    rows.map(|(key, value)| {
        let mut node = node(value, place)?;
        // The line of the key: a table's own span may begin elsewhere.
        node.origin = place(key.span());
        Ok((key.get_ref().to_string(), node))
    })
    .collect()
}

fn array(source: &DeArray<'_>, place: Place<'_>) -> Result<Vec<Node>, Fault> {
    source.iter().map(|value| node(value, place)).collect()
}

fn node(source: &Spanned<DeValue<'_>>, place: Place<'_>) -> Result<Node, Fault> {
    let too_large = || ("a number that is too large".to_owned(), source.span());
    let value = match source.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            Value::Integer(number.map_err(|_| too_large())?)
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().map_err(|_| too_large())?),
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        // Settings take dates as text, with or without quotes.
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Array(values) => Value::Array(array(values, place)?),
        DeValue::Table(rows) => Value::Table(table(rows, place)?),
    };
    Ok(Node {
        value,
        origin: place(source.span()),
    })
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.get(..span.start).unwrap_or(text);
    1 + before.matches('\n').count()
}

/// Lays `upper` over `lower`: tables are merged, everything else is replaced.
pub(super) fn merge(lower: &mut Table, upper: Table) {
    for (key, node) in upper {
        match (lower.get_mut(&key), node) {
            (
                Some(Node {
                    value: Value::Table(below),
                    origin,
                }),
                Node {
                    value: Value::Table(above),
                    origin: newer,
                },
            ) => {
                *origin = newer;
                merge(below, above);
            }
            (_, node) => {
                lower.insert(key, node);
            }
        }
    }
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

/// Puts `node` at a path, making tables on the way. A key is found whatever its case, as variables
/// are written in capitals.
///
/// # Errors
/// The path of something on the way that is no table.
pub(super) fn set(table: &mut Table, path: &[&str], node: Node) -> Result<(), String> {
    let Some((first, rest)) = path.split_first() else {
        return Ok(());
    };
    let known = table
        .keys()
        .find(|key| key.eq_ignore_ascii_case(first))
        .cloned();
    let key = known.unwrap_or_else(|| first.to_ascii_lowercase());
    if rest.is_empty() {
        merge(table, Table::from([(key, node)]));
        return Ok(());
    }
    let origin = node.origin.clone();
    let below = table.entry(key.clone()).or_insert_with(|| Node {
        value: Value::Table(Table::new()),
        origin,
    });
    match &mut below.value {
        Value::Table(below) => set(below, rest, node).map_err(|at| format!("{key}.{at}")),
        _ => Err(key),
    }
}
