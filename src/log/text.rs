//! Strings as they may stand in a log line: escaped, and cut where they came from outside.

use std::fmt;

/// Hex digits for `\u00XX`.
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as the inside of a JSON string (RFC 8259 section 7). DEL is escaped too, for the
/// sake of terminals.
pub(super) fn push_json(out: &mut Vec<u8>, text: &str) {
    // Nearly every string of nearly every line is this one copy.
    if is_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        push_json_escaped(out, text.as_bytes());
    }
}

/// Whether nothing has to be escaped, looking at eight bytes at once.
fn is_plain(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let odd = words
        .iter()
        .fold(0, |odd, word| odd | odd_bytes(u64::from_ne_bytes(*word)));
    // What is left is looked at once more together with its neighbours, which is cheaper than
    // byte by byte.
    let last = match (rest, bytes.last_chunk::<8>()) {
        ([], _) => 0,
        (_, Some(last)) => odd_bytes(u64::from_ne_bytes(*last)),
        (_, None) => match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (Some(first), Some(last)) => {
                let [first, last] = [first, last].map(|half| u64::from(u32::from_ne_bytes(*half)));
                odd_bytes(first | last << 32)
            }
            _ => u64::from(bytes.iter().any(|byte| must_escape(*byte))),
        },
    };
    odd | last == 0
}

fn must_escape(byte: u8) -> bool {
    byte < 0x20 || matches!(byte, b'"' | b'\\' | 0x7f)
}

/// Not zero when a byte of `word` is below 0x20, a quote, a backslash or DEL. The subtraction that
/// looks for small bytes may also hit the neighbour of one, never a word without any.
fn odd_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | equal(b'"') | equal(b'\\') | equal(0x7f)) & HIGH
}

#[cold]
fn push_json_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut done = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if !must_escape(byte) {
            continue;
        }
        out.extend_from_slice(&bytes[done..at]);
        done = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[done..]);
}

/// Appends `text` for a terminal: whatever could move its cursor, change its colours or reorder
/// what is read stands escaped.
pub(super) fn push_plain(out: &mut Vec<u8>, text: &str) {
    for c in text.chars() {
        let risky = c.is_control()
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if risky {
            out.extend(c.escape_default().map(|c| c as u8));
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// The longest start of `text` of at most `limit_bytes` that ends on a character border.
pub(super) fn cut(text: &str, limit_bytes: usize) -> &str {
    if text.len() <= limit_bytes {
        return text;
    }
    let mut end = limit_bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A `fmt::Write` that escapes and cuts what is formatted into it.
pub(super) struct Escaped<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) push: fn(&mut Vec<u8>, &str),
    /// Bytes that may still come, counted before escaping.
    pub(super) left_bytes: usize,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let head = cut(text, self.left_bytes);
        (self.push)(self.out, head);
        // After a cut nothing more may follow, or the line would have a hole.
        self.left_bytes = if head.len() < text.len() {
            0
        } else {
            self.left_bytes - head.len()
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test is the point")]

    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_survives_json(text in any::<String>()) {
            let mut out = vec![b'"'];
            push_json(&mut out, &text);
            out.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn what_is_cut_is_a_start_of_the_whole(parts in prop::collection::vec(any::<String>(), 0..6), limit in 0usize..40) {
            let mut out = Vec::new();
            let mut writer = Escaped { out: &mut out, push: |out, text| out.extend_from_slice(text.as_bytes()), left_bytes: limit };
            for part in &parts {
                writer.write_str(part).unwrap();
            }
            prop_assert!(out.len() <= limit);
            prop_assert!(parts.concat().starts_with(std::str::from_utf8(&out).unwrap()));
        }
    }

    #[test]
    fn every_byte_is_told_apart_at_every_place() {
        for length in 0..20 {
            for at in 0..length {
                for byte in 0..=255 {
                    let mut bytes = vec![b'x'; length];
                    bytes[at] = byte;
                    assert_eq!(
                        is_plain(&bytes),
                        !must_escape(byte),
                        "{byte:#x} at {at} of {length}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_terminal_sees_no_control_characters() {
        let mut out = Vec::new();
        push_plain(&mut out, "a\x1b[2J\r\nb\u{9b}1m\u{202e}é");
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            "a\\u{1b}[2J\\r\\nb\\u{9b}1m\\u{202e}é"
        );
    }
}
