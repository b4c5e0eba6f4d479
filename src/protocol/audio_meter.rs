//! How much audio an HTTP answer holds, counted as its pieces pass by.

/// What stands before the audio in the answers with timestamps (ElevenLabs API reference).
const KEY: &[u8] = b"\"audio_base64\"";

/// Counts the bytes of audio in a body whose pieces may end anywhere.
#[derive(Debug)]
pub struct AudioMeter(State);

#[derive(Debug)]
enum State {
    /// The body is audio.
    Raw,
    /// The body is JSON, and so many bytes of [`KEY`] have been seen.
    Seeking(usize),
    /// The key has been seen, its value has not begun.
    Before,
    /// Inside of the value; so many bytes of its last group of four have been seen.
    Inside(u64),
}

impl AudioMeter {
    /// For a body that is audio and nothing else.
    #[must_use]
    pub fn raw() -> Self {
        Self(State::Raw)
    }

    /// For JSON that holds the audio in base64, as one object or as one a line.
    #[must_use]
    pub fn json() -> Self {
        Self(State::Seeking(0))
    }

    /// The bytes of audio in the next piece of the body, after base64 was undone.
    pub fn count(&mut self, piece: &[u8]) -> u64 {
        let mut n_audio = 0;
        let mut rest = piece;
        loop {
            match &mut self.0 {
                State::Raw => return piece.len() as u64,
                State::Inside(n_carried) => {
                    let end = memchr::memchr(b'"', rest);
                    let value = &rest[..end.unwrap_or(rest.len())];
                    // The padding stands in for no audio.
                    let n_padding = value.iter().rev().take_while(|&&byte| byte == b'=').count();
                    let n_digits = *n_carried + (value.len() - n_padding) as u64;
                    n_audio += n_digits / 4 * 3;
                    *n_carried = n_digits % 4;
                    let Some(end) = end else { return n_audio };
                    // Two or three digits are left of a group that was padded.
                    n_audio += n_carried.saturating_sub(1);
                    self.0 = State::Seeking(0);
                    rest = &rest[end + 1..];
                }
                State::Seeking(n_seen) => {
                    let Some((&byte, after)) = rest.split_first() else {
                        return n_audio;
                    };
                    if *n_seen == 0 && byte != KEY[0] {
                        // The alignment is many times longer than the key: skip to where it may be.
                        let Some(next) = memchr::memchr(KEY[0], rest) else {
                            return n_audio;
                        };
                        rest = &rest[next..];
                        continue;
                    }
                    *n_seen = match byte {
                        _ if byte == KEY[*n_seen] => *n_seen + 1,
                        b'"' => 1,
                        _ => 0,
                    };
                    if *n_seen == KEY.len() {
                        self.0 = State::Before;
                    }
                    rest = after;
                }
                State::Before => {
                    let Some((&byte, after)) = rest.split_first() else {
                        return n_audio;
                    };
                    self.0 = match byte {
                        b':' | b' ' | b'\t' | b'\r' | b'\n' => State::Before,
                        b'"' => State::Inside(0),
                        // `null`, or the words stand in some other place.
                        _ => State::Seeking(0),
                    };
                    rest = after;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(body: &str, expected: u64) {
        for size in [1, 2, 3, 7, body.len().max(1)] {
            let mut meter = AudioMeter::json();
            let counted: u64 = body
                .as_bytes()
                .chunks(size)
                .map(|piece| meter.count(piece))
                .sum();
            assert_eq!(counted, expected, "{body} in pieces of {size}");
        }
    }

    #[test]
    fn audio_in_json_is_counted_wherever_its_pieces_end() {
        check(r#"{"audio_base64":"AAEC","alignment":null}"#, 3);
        check(r#"{"audio_base64" : "AAE=" }"#, 2);
        check(
            r#"{"alignment":{"characters":["\"","a"]},"audio_base64":"AA=="}"#,
            1,
        );
        check(
            "{\"audio_base64\":\"AAEC\"}\n{\"audio_base64\":\"AAECAA==\"}\n",
            7,
        );
        check(r#"{"audio_base64":null,"x":"AAEC"}"#, 0);
        check(r#"{"audio_base64":""}"#, 0);
        check(r#"{"other":"audio_base64","more":"AAEC"}"#, 0);
        check("", 0);
    }

    #[test]
    fn a_raw_body_is_audio() {
        assert_eq!(AudioMeter::raw().count(b"{\"audio_base64\""), 15);
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_base64_decodes_to(
            audio in proptest::collection::vec(any::<u8>(), 0..200),
            size in 1_usize..50,
        ) {
            let body = format!("{{\"audio_base64\":\"{}\"}}", STANDARD.encode(&audio));
            let mut meter = AudioMeter::json();
            let counted: u64 = body.as_bytes().chunks(size).map(|piece| meter.count(piece)).sum();
            prop_assert_eq!(counted, audio.len() as u64);
        }
    }
}
