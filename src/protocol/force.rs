//! Parameters of a plan that are sent upstream whatever the client asked for, in the body of an
//! HTTP request, where some of the sockets' parameters have their place.

use super::spans::{decode, members};

/// The sockets' query parameters that are fields of the body over HTTP (ElevenLabs API reference).
const BODY_FIELDS: [&str; 5] = [
    "model_id",
    "language_code",
    "seed",
    "apply_text_normalization",
    "apply_language_text_normalization",
];

/// Whether a parameter stands in the body of an HTTP request rather than in its query.
#[must_use]
pub fn is_body_field(name: &str) -> bool {
    BODY_FIELDS.contains(&name)
}

/// The JSON object `payload` with `value` as its top-level member `name`, in the place of the one it
/// had or before all others. Every other byte stays.
///
/// `payload` must be a message that [`scan`](super::scan) has accepted; of anything else it is none.
#[must_use]
pub fn with_body_field(payload: &[u8], name: &str, value: &str) -> Option<Vec<u8>> {
    let members = members(payload, 0..payload.len())?;
    let value = to_json(value);
    let mut place = None;
    for member in &members {
        if decode(payload, member.key.clone())? == name {
            place = Some(member.value.clone());
        }
    }
    let (place, new) = match (place, members.is_empty()) {
        (Some(place), _) => (place, value),
        (None, is_empty) => {
            let start = memchr::memchr(b'{', payload)? + 1;
            let comma = if is_empty { "" } else { "," };
            (start..start, format!("\"{name}\":{value}{comma}"))
        }
    };
    let mut changed = Vec::with_capacity(payload.len() + new.len());
    changed.extend_from_slice(&payload[..place.start]);
    changed.extend_from_slice(new.as_bytes());
    changed.extend_from_slice(&payload[place.end..]);
    Some(changed)
}

/// A query's value as JSON: truth values and numbers as such, else a string.
fn to_json(value: &str) -> String {
    match value {
        "true" | "false" => value.to_owned(),
        _ => match value.parse::<u64>() {
            Ok(number) => number.to_string(),
            Err(_) => serde_json::Value::from(value).to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use super::*;

    #[track_caller]
    fn check(payload: &str, name: &str, value: &str, expected: &str) {
        let changed = with_body_field(payload.as_bytes(), name, value).unwrap();
        assert_eq!(String::from_utf8(changed).unwrap(), expected);
    }

    #[test]
    fn a_field_is_replaced_or_added_and_nothing_else_changes() {
        check(
            r#" { "text" : "a", "seed":1.50, "x":[1 ,2] } "#,
            "seed",
            "7",
            r#" { "text" : "a", "seed":7, "x":[1 ,2] } "#,
        );
        check(
            r#"{"text":"a"}"#,
            "language_code",
            "de",
            r#"{"language_code":"de","text":"a"}"#,
        );
        check("{ }", "model_id", "m", r#"{"model_id":"m" }"#);
        check(r#"{"\u0073eed":null}"#, "seed", "7", r#"{"\u0073eed":7}"#);
        check(
            r#"{"x":{"seed":1}}"#,
            "apply_language_text_normalization",
            "true",
            r#"{"apply_language_text_normalization":true,"x":{"seed":1}}"#,
        );
    }
}
