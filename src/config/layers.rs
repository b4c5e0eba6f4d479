//! The layers of the settings, which the `config` crate lays over each other: tables are merged,
//! everything else is replaced.
//!
//! Every value keeps its place: its `origin` is `FILE:LINE`, the name of a variable, or nothing for
//! the defaults.

use std::fmt;
use std::ops::Range;

use config::builder::{ConfigBuilder, DefaultState};
use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::tree::{self, Node, Origin, Table};
use super::{Error, VARIABLE_PREFIX};

type Rows = Map<String, Value>;

/// The defaults and what lies over them, the topmost last.
pub(super) struct Layers {
    defaults: &'static str,
    above: Vec<Layer>,
}

impl Layers {
    /// `defaults` is TOML.
    pub(super) fn new(defaults: &'static str) -> Self {
        Self {
            defaults,
            above: Vec::new(),
        }
    }

    /// Puts a file's text on top.
    ///
    /// # Errors
    /// When it is not TOML.
    pub(super) fn add_file(&mut self, name: &str, text: &str) -> Result<(), Error> {
        let place = |span: Range<usize>| format!("{name}:{}", line_of(text, &span));
        let rows = parse(text, &place)
            .map_err(|(message, span)| Error::new(Some(Origin::at(&place(span))), message))?;
        self.add(rows)
    }

    /// Puts the variable `name` on top, whose setting is at `path`. A key is found whatever its
    /// case, as variables are written in capitals.
    ///
    /// # Errors
    /// When something on the way is no table.
    pub(super) fn add_variable(
        &mut self,
        name: &str,
        path: &[&str],
        text: &str,
    ) -> Result<(), Error> {
        let path = known_path(&self.merged(), path)
            .map_err(|at| Error::overall(format!("{name}: `{at}` holds no keys")))?;
        let origin = name.to_owned();
        let mut value = variable(&origin, text);
        let mut rows = Rows::new();
        for (depth, key) in path.into_iter().enumerate().rev() {
            let row = Rows::from([(key, value)]);
            if depth == 0 {
                rows = row;
                break;
            }
            value = Value::new(Some(&origin), row);
        }
        self.add(rows)
    }

    fn add(&mut self, rows: Rows) -> Result<(), Error> {
        // `config` reads topmost keys as paths: `"server.bind" = 1` would pass for `server.bind`.
        if let Some((key, value)) = rows.iter().find(|(key, _)| key.contains(['.', '['])) {
            let origin = value.origin().map(Origin::at);
            return Err(Error::new(origin, format!("unknown key `{key}`")));
        }
        self.above.push(Layer(rows));
        Ok(())
    }

    /// All layers in one tree.
    pub(super) fn tree(&self) -> Table {
        self.table(self.merged(), &mut Vec::new())
    }

    fn merged(&self) -> Rows {
        let defaults = File::from_str(self.defaults, FileFormat::Toml);
        let builder = Config::builder().add_source(defaults);
        let layers = self.above.iter().cloned();
        let merged = layers
            .fold(builder, ConfigBuilder::<DefaultState>::add_source)
            .build()
            .expect("a test reads the defaults, and layers are no more than their rows");
        table(&merged.cache).cloned().unwrap_or_default()
    }

    fn table(&self, rows: Rows, path: &mut Vec<String>) -> Table {
        let convert = |(key, value): (String, Value)| {
            path.push(key.clone());
            let node = self.node(value, path);
            path.pop();
            (key, node)
        };
        rows.into_iter().map(convert).collect()
    }

    fn node(&self, value: Value, path: &mut Vec<String>) -> Node {
        let mut origin = value.origin().map_or(Origin::Defaults, Origin::at);
        let value = match value.kind {
            ValueKind::Boolean(truth) => tree::Value::Boolean(truth),
            ValueKind::I64(number) => tree::Value::Integer(number),
            ValueKind::Float(number) => tree::Value::Float(number),
            ValueKind::String(text) if is_raw(&origin, path.len()) => tree::Value::Raw(text),
            ValueKind::String(text) => tree::Value::String(text),
            ValueKind::Array(items) => {
                let items = items.into_iter().enumerate().map(|(index, item)| {
                    path.push(format!("[{index}]"));
                    let node = self.node(item, path);
                    path.pop();
                    node
                });
                tree::Value::Array(items.collect())
            }
            ValueKind::Table(rows) => {
                // `config` forgets the places of tables when it merges them.
                if origin == Origin::Defaults
                    && let Some(place) = self.above.iter().find_map(|layer| layer.place(path))
                {
                    origin = Origin::at(place);
                }
                tree::Value::Table(self.table(rows, path))
            }
            // TOML has no more kinds.
            other => tree::Value::String(other.to_string()),
        };
        Node { value, origin }
    }
}

/// Whether text of this origin is a whole variable's, not a string inside it: then it lies as deep
/// as the name of the variable says.
fn is_raw(origin: &Origin, depth: usize) -> bool {
    let Origin::Place(name) = origin else {
        return false;
    };
    name.strip_prefix(VARIABLE_PREFIX)
        .is_some_and(|path| path.split("__").count() == depth)
}

/// What one source says.
#[derive(Clone)]
struct Layer(Rows);

impl Layer {
    /// Where the table at `path` was written.
    fn place(&self, path: &[String]) -> Option<&str> {
        let (last, above) = path.split_last()?;
        let mut rows = &self.0;
        for key in above {
            rows = table(rows.get(key)?)?;
        }
        let value = rows.get(last)?;
        table(value).and(value.origin())
    }
}

fn table(value: &Value) -> Option<&Rows> {
    match &value.kind {
        ValueKind::Table(rows) => Some(rows),
        _ => None,
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Rows, ConfigError> {
        Ok(self.0.clone())
    }
}

impl fmt::Debug for Layer {
    /// Without the values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer").finish_non_exhaustive()
    }
}

/// The path with its keys as the settings write them.
///
/// # Errors
/// The path of something on the way that is no table.
fn known_path(root: &Rows, path: &[&str]) -> Result<Vec<String>, String> {
    let mut known = Vec::new();
    let mut table = Some(root);
    for (index, wanted) in path.iter().enumerate() {
        let same = |key: &&String| key.eq_ignore_ascii_case(wanted);
        let key = table.and_then(|rows| rows.keys().filter(same).min());
        let value = key.and_then(|key| table?.get(key));
        known.push(key.map_or_else(|| wanted.to_ascii_lowercase(), Clone::clone));
        table = match value.map(|value| &value.kind) {
            None => None,
            Some(ValueKind::Table(rows)) => Some(rows),
            Some(_) if index + 1 == path.len() => None,
            Some(_) => return Err(known.join(".")),
        };
    }
    Ok(known)
}

/// An array or inline table in a variable; anything else stays text.
fn variable(origin: &String, text: &str) -> Value {
    let place = |_: Range<usize>| origin.clone();
    let parsed = match text.trim_start().as_bytes().first() {
        Some(b'[' | b'{') => DeValue::parse(text.trim()).ok(),
        _ => None,
    };
    let parsed = parsed.and_then(|value| self::value(&value, origin.clone(), &place).ok());
    parsed.unwrap_or_else(|| Value::new(Some(origin), text))
}

/// A message and where it belongs.
type Fault = (String, Range<usize>);
type Place<'a> = &'a dyn Fn(Range<usize>) -> String;

fn parse(text: &str, place: Place<'_>) -> Result<Rows, Fault> {
    let document = DeTable::parse(text).map_err(|error| {
        // Only the first line: the others quote the file, which may hold secrets.
        let message = error.message().lines().next().unwrap_or_default();
        (
            format!("not valid TOML: {message}"),
            error.span().unwrap_or(0..0),
        )
    })?;
    rows(document.get_ref(), place)
}

fn rows(source: &DeTable<'_>, place: Place<'_>) -> Result<Rows, Fault> {
    let rows = source.iter();
    rows.map(|(key, value)| {
        // The line of the key: a table's own span may begin elsewhere.
        let value = self::value(value, place(key.span()), place)?;
        Ok((key.get_ref().to_string(), value))
    })
    .collect()
}

fn items(source: &DeArray<'_>, place: Place<'_>) -> Result<Vec<Value>, Fault> {
    let items = source.iter();
    items
        .map(|item| value(item, place(item.span()), place))
        .collect()
}

fn value(source: &Spanned<DeValue<'_>>, origin: String, place: Place<'_>) -> Result<Value, Fault> {
    let too_large = || ("a number that is too large".to_owned(), source.span());
    let kind = match source.get_ref() {
        DeValue::String(text) => ValueKind::String(text.to_string()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            ValueKind::I64(number.map_err(|_| too_large())?)
        }
        DeValue::Float(number) => {
            ValueKind::Float(number.as_str().parse().map_err(|_| too_large())?)
        }
        DeValue::Boolean(truth) => ValueKind::Boolean(*truth),
        // Settings take dates as text, with or without quotes.
        DeValue::Datetime(date) => ValueKind::String(date.to_string()),
        DeValue::Array(values) => ValueKind::Array(items(values, place)?),
        DeValue::Table(table) => ValueKind::Table(rows(table, place)?),
    };
    Ok(Value::new(Some(&origin), kind))
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.get(..span.start).unwrap_or(text);
    1 + before.matches('\n').count()
}
