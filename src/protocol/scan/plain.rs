//! The commonest message, read without a parser: a text without escapes, and nothing else that
//! means anything to the relay.

use memchr::memchr2;

/// What stands before the text, as the official Python client and as `JSON.stringify` write it.
const HEADS: [&str; 2] = [r#"{"text": ""#, r#"{"text":""#];

/// What stands behind it.
const TAILS: [&str; 3] = [
    r#""}"#,
    r#"", "try_trigger_generation": true}"#,
    r#"","try_trigger_generation":true}"#,
];

/// The text of a message that is written in one of these ways; of any other, none.
pub(super) fn text_alone(json: &str) -> Option<&str> {
    let rest = HEADS.iter().find_map(|head| json.strip_prefix(head))?;
    let length = memchr2(b'"', b'\\', rest.as_bytes())?;
    let (text, tail) = rest.split_at(length);
    // JSON has no control characters in strings (RFC 8259 section 7). The least byte is found sixteen
    // at a time.
    let least = text.bytes().fold(u8::MAX, u8::min);
    (TAILS.contains(&tail) && least >= 0x20).then_some(text)
}
