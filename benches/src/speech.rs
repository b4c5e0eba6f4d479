//! ElevenLabs' `stream-input` on the wire, and how a scenario is asked for: in the query string
//! of the session, which every proxy hands on.

use std::fmt::{self, Display};

/// What the fake upstream does with one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Answers every message with one frame.
    Echo,
    /// Sends a frame every `interval_ms` after the first message.
    Paced,
    /// Sends `count` frames as fast as they are taken after the first message, then closes.
    Bulk,
    /// Sends one frame `delay_us` after the first message.
    FirstAudio,
    /// Is silent for the first message, answers every later one with one frame.
    Idle,
}

impl Script {
    const NAMES: [(Self, &str); 5] = [
        (Self::Echo, "echo"),
        (Self::Paced, "paced"),
        (Self::Bulk, "bulk"),
        (Self::FirstAudio, "first_audio"),
        (Self::Idle, "idle"),
    ];
}

/// One session's order to the fake upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub script: Script,
    /// Payload bytes of each frame, JSON included.
    pub size: usize,
    /// For [`Script::Bulk`]: how many frames.
    pub count: u64,
    /// For [`Script::Paced`]: milliseconds between frames.
    pub interval_ms: u64,
    /// For [`Script::FirstAudio`]: microseconds that "generation" takes.
    pub delay_us: u64,
}

impl Order {
    /// An order of `script` with frames of `size` bytes, everything else zero.
    pub const fn new(script: Script, size: usize) -> Self {
        Self {
            script,
            size,
            count: 0,
            interval_ms: 0,
            delay_us: 0,
        }
    }

    /// Reads an order back out of a request target; `None` when it holds none.
    pub fn parse(target: &str) -> Option<Self> {
        let (_, query) = target.split_once('?')?;
        let value = |name: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name)
        };
        let number = |name| value(name).map_or(Some(0), |(_, text)| text.parse::<u64>().ok());
        let (_, name) = value("bench")?;
        let (script, _) = Script::NAMES
            .into_iter()
            .find(|(_, known)| *known == name)?;
        Some(Self {
            script,
            size: number("size")?.try_into().ok()?,
            count: number("count")?,
            interval_ms: number("interval_ms")?,
            delay_us: number("delay_us")?,
        })
    }
}

impl Display for Order {
    /// The request target that carries this order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Script::NAMES
            .iter()
            .find(|(script, _)| *script == self.script)
            .map_or("", |(_, name)| name);
        write!(
            f,
            "/v1/text-to-speech/bench/stream-input?model_id=eleven_flash_v2_5&inactivity_timeout=180\
             &bench={name}&size={}&count={}&interval_ms={}&delay_us={}",
            self.size, self.count, self.interval_ms, self.delay_us
        )
    }
}

/// A client's text message of exactly `size` bytes (at least 13), text of ordinary words.
pub fn text_message(size: usize) -> Vec<u8> {
    let (open, close) = (br#"{"text":""#, br#" "}"#);
    let words = b"The quick brown fox jumps over the lazy dog. "
        .iter()
        .cycle();
    let n_text = size.saturating_sub(open.len() + close.len());
    let mut message = open.to_vec();
    message.extend(words.take(n_text));
    message.extend_from_slice(close);
    message
}

/// An audio message as upstream sends it, of exactly `size` bytes (at least 80): base64 of
/// pseudo-random bytes, padded with white space behind the object where base64 does not fit.
pub fn audio_message(size: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let open = br#"{"audio":""#;
    let close = br#"","isFinal":null,"normalizedAlignment":null,"alignment":null}"#;
    let n_base64 = size.saturating_sub(open.len() + close.len()) / 4 * 4;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut message = open.to_vec();
    message.extend((0..n_base64).map(|_| {
        // A linear congruential generator: the bytes only have to look like audio.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ALPHABET[(state >> 58) as usize]
    }));
    message.extend_from_slice(close);
    message.resize(size.max(message.len()), b' ');
    message
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn an_order_survives_the_query_string() {
        let order = Order {
            count: 7,
            interval_ms: 20,
            delay_us: 1000,
            ..Order::new(Script::Bulk, 65_536)
        };
        assert_eq!(Order::parse(&order.to_string()), Some(order));
        assert_eq!(Order::parse("/v1/text-to-speech/x/stream-input"), None);
    }

    #[test]
    fn messages_have_the_size_asked_for_and_are_json() {
        for size in [80, 200, 8192, 16_384, 65_536] {
            let audio = audio_message(size);
            assert_eq!(audio.len(), size);
            let parsed: serde_json::Value = serde_json::from_slice(&audio).unwrap();
            assert!(parsed["audio"].as_str().unwrap().len().is_multiple_of(4));
            let text = text_message(size);
            assert_eq!(text.len(), size);
            assert!(
                serde_json::from_slice::<serde_json::Value>(&text).unwrap()["text"].is_string()
            );
        }
    }
}
