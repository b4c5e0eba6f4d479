//! The pre-encoded frames of MP3 and Opus (`assets/make.py` makes them), and the clock that says
//! which of them comes next.

use std::collections::VecDeque;

use crate::sandbox::format::{Codec, Format};
use crate::sandbox::voice::{HOP_RATE, HOP_SAMPLES, Span, TONES};

/// The frame for a tone, or for silence.
pub(super) fn frame_of(format: Format, tone: Option<u8>) -> &'static [u8] {
    let frames = frames(format);
    let size = frames.len() / (usize::from(TONES) + 1);
    // Silence stands first.
    let index = tone.map_or(0, |tone| usize::from(tone) + 1);
    &frames[index * size..(index + 1) * size]
}

fn frames(format: Format) -> &'static [u8] {
    match (format.codec, format.rate, format.kbps) {
        (Codec::Mp3, 22_050, _) => include_bytes!("../assets/mp3_22050_32.bin"),
        (Codec::Mp3, 24_000, _) => include_bytes!("../assets/mp3_24000_48.bin"),
        (Codec::Mp3, _, 32) => include_bytes!("../assets/mp3_44100_32.bin"),
        (Codec::Mp3, _, 64) => include_bytes!("../assets/mp3_44100_64.bin"),
        (Codec::Mp3, _, 96) => include_bytes!("../assets/mp3_44100_96.bin"),
        (Codec::Mp3, _, 192) => include_bytes!("../assets/mp3_44100_192.bin"),
        (Codec::Mp3, ..) => include_bytes!("../assets/mp3_44100_128.bin"),
        (_, _, 32) => include_bytes!("../assets/opus_48000_32.bin"),
        (_, _, 64) => include_bytes!("../assets/opus_48000_64.bin"),
        (_, _, 96) => include_bytes!("../assets/opus_48000_96.bin"),
        (_, _, 192) => include_bytes!("../assets/opus_48000_192.bin"),
        _ => include_bytes!("../assets/opus_48000_128.bin"),
    }
}

/// Turns spans into frames of a fixed length: a frame has the tone that sounds in its middle.
pub(super) struct FrameClock {
    /// Samples of a frame.
    samples: u64,
    /// Samples a second.
    rate: u64,
    /// Samples of the first frames that lie before the audio.
    pre_skip: u64,
    /// Samples that a decoder plays a frame later than its place in the stream says.
    delay: u64,
    n_frames: u64,
    /// All that was pushed, in hops.
    hops: u64,
    /// Tones not yet passed, each with the hop it ends at.
    tones: VecDeque<(u64, Option<u8>)>,
}

impl FrameClock {
    pub(super) fn new(samples: u64, rate: u64, pre_skip: u64, delay: u64) -> Self {
        Self {
            samples,
            rate,
            pre_skip,
            delay,
            n_frames: 0,
            hops: 0,
            tones: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, span: Span) {
        self.hops += u64::from(span.hops);
        self.tones.push_back((self.hops, span.tone));
    }

    /// The next frame if it will be heard within what was pushed.
    pub(super) fn next_whole(&mut self) -> Option<Option<u8>> {
        self.next_if_reaching(2 * (self.samples + self.delay))
    }

    /// The next frame if at least half of it lies within what was pushed.
    pub(super) fn next_nearest(&mut self) -> Option<Option<u8>> {
        self.next_if_reaching(self.samples)
    }

    /// The next frame if any of it lies within what was pushed.
    pub(super) fn next_covering(&mut self) -> Option<Option<u8>> {
        let starts = 2 * self.n_frames * self.samples;
        (starts < self.end() && self.hops > 0).then(|| self.next())
    }

    fn next_if_reaching(&mut self, half_samples: u64) -> Option<Option<u8>> {
        let reached = 2 * self.n_frames * self.samples + half_samples;
        (reached <= self.end() && self.hops > 0).then(|| self.next())
    }

    /// The end of what was pushed, in half samples.
    fn end(&self) -> u64 {
        2 * self.pre_skip + 2 * self.hops * HOP_SAMPLES * self.rate / HOP_RATE
    }

    fn next(&mut self) -> Option<u8> {
        let middle = (2 * self.n_frames + 1) * self.samples;
        self.n_frames += 1;
        let audio = (middle + 2 * self.delay).saturating_sub(2 * self.pre_skip);
        while let Some((end, tone)) = self.tones.front() {
            if audio * HOP_RATE < 2 * end * HOP_SAMPLES * self.rate {
                return *tone;
            }
            self.tones.pop_front();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::format;
    use super::*;

    #[test]
    fn every_frame_has_the_size_its_bit_rate_asks_for() {
        for format in format::ALL {
            let expected = match format.codec {
                Codec::Mp3 => {
                    super::super::mp3_samples(format.rate) as u32 / 8 * format.kbps * 1000
                        / format.rate
                }
                Codec::Opus => format.kbps * 1000 / 8 / 50,
                _ => continue,
            };
            assert_eq!(
                frame_of(format, None).len(),
                expected as usize,
                "{}",
                format.name
            );
            assert_ne!(frame_of(format, Some(0)), frame_of(format, Some(TONES - 1)));
        }
    }
}
