//! The settings in effect, as TOML that can be shown to anybody.

use super::secret::is_secret;
use super::tree::{Node, Origin, Table, Value};

/// Writes the tree with secrets hidden; what is not a default names its place.
pub(super) fn show(root: &Table) -> String {
    let mut out = String::new();
    rows(root, "", &mut out);
    out
}

fn rows(table: &Table, path: &str, out: &mut String) {
    let join = |key: &str| {
        if path.is_empty() {
            quoted(key)
        } else {
            format!("{path}.{}", quoted(key))
        }
    };
    let (tables, plain): (Vec<_>, Vec<_>) = table
        .iter()
        .partition(|(_, node)| matches!(node.value, Value::Table(_)) || is_rows(node));
    for (key, node) in plain {
        out.push_str(&format!(
            "{} = {}",
            quoted(key),
            value(&node.value, &join(key))
        ));
        match &node.origin {
            Origin::Defaults => out.push('\n'),
            origin => out.push_str(&format!(" # {origin}\n")),
        }
    }
    for (key, node) in tables {
        let path = join(key);
        match &node.value {
            Value::Table(below) => {
                // A table of nothing but tables needs no head of its own.
                let bare = below.is_empty()
                    || below
                        .values()
                        .any(|node| !matches!(node.value, Value::Table(_)));
                if bare {
                    out.push_str(&format!("\n[{path}]\n"));
                }
                rows(below, &path, out);
            }
            Value::Array(items) => {
                for item in items {
                    out.push_str(&format!("\n[[{path}]]\n"));
                    if let Value::Table(below) = &item.value {
                        rows(below, &path, out);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether it is an array of tables at the top, such as `[[clients]]`.
fn is_rows(node: &Node) -> bool {
    match &node.value {
        Value::Array(items) => {
            !items.is_empty()
                && items.iter().all(|item| match &item.value {
                    Value::Table(below) => below.contains_key("id"),
                    _ => false,
                })
        }
        _ => false,
    }
}

fn value(value: &Value, path: &str) -> String {
    match value {
        _ if is_secret(path) => "\"[hidden]\"".to_owned(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => toml::Value::from(*number).to_string(),
        Value::String(text) | Value::Raw(text) => {
            toml::Value::from(without_password(text)).to_string()
        }
        Value::Array(items) => {
            let items: Vec<_> = items
                .iter()
                .map(|item| self::value(&item.value, path))
                .collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(table) => {
            let rows = table.iter().map(|(key, node)| {
                let path = format!("{path}.{key}");
                format!("{} = {}", quoted(key), self::value(&node.value, &path))
            });
            format!("{{ {} }}", rows.collect::<Vec<_>>().join(", "))
        }
    }
}

/// A URL without the password in it.
fn without_password(text: &str) -> String {
    let found = text.split_once("://").and_then(|(scheme, rest)| {
        let (user, host) = rest.rsplit_once('@')?;
        let (user, _) = user.split_once(':')?;
        Some(format!("{scheme}://{user}:[hidden]@{host}"))
    });
    found.unwrap_or_else(|| text.to_owned())
}

/// A key, with quotes where it needs them.
fn quoted(key: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !key.is_empty() && key.bytes().all(bare) {
        key.to_owned()
    } else {
        toml::Value::from(key).to_string()
    }
}
