//! The tone voice: which tone a character has and how long it sounds.
//!
//! Time is counted in hops of 256 samples at 22,050 Hz (11.61 ms), the grid that the times of
//! ElevenLabs' own alignments lie on.

use std::time::Duration;

/// How many tones there are; the pre-encoded frames hold as many.
pub(super) const TONES: u8 = 48;

/// Samples of a hop, at [`HOP_RATE`].
pub(super) const HOP_SAMPLES: u64 = 256;
/// Samples a second that hops are counted at.
pub(super) const HOP_RATE: u64 = 22_050;

/// A stretch of one sound; without a tone it is silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) hops: u32,
    pub(super) tone: Option<u8>,
}

/// One speaker: each voice and seed shifts the tones and stretches some characters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Voice {
    hash: u64,
}

impl Voice {
    pub(super) fn new(id: &str, seed: u32) -> Self {
        // Without a seed nothing is mixed in, so that seed 0 and no seed sound alike.
        let hash = mix(id
            .bytes()
            .chain(seed.to_le_bytes().into_iter().take_while(|_| seed != 0)));
        Self { hash }
    }

    /// How `character` sounds at normal speed.
    pub(super) fn span(self, character: char) -> Span {
        if character.is_whitespace() {
            return Span {
                hops: 3,
                tone: None,
            };
        }
        let lower = character.to_lowercase().next().unwrap_or(character);
        let (base, hops) = match lower {
            'a' | 'e' | 'i' | 'o' | 'u' => (lower as u32 - 'a' as u32, 6),
            'a'..='z' => (lower as u32 - 'a' as u32, 4 + lower as u32 % 3),
            '0'..='9' => (26 + lower as u32 - '0' as u32, 7),
            '.' | '!' | '?' => (36 + lower as u32 % 12, 10),
            // From here on a character is a syllable rather than a letter.
            '\u{3000}'.. => (36 + lower as u32 % 12, 14),
            _ => (36 + lower as u32 % 12, 5),
        };
        let drawl = mix(self.hash.to_le_bytes().into_iter().chain([base as u8])) & 1;
        let shift = (self.hash >> 32) % u64::from(TONES);
        let tone = (u64::from(base) + shift) % u64::from(TONES);
        Span {
            hops: hops + drawl as u32 + u32::from(character != lower),
            tone: Some(tone as u8),
        }
    }
}

/// The frequency of a tone in hertz. The pre-encoded formats are off by up to half the rate of
/// their frames, at most 25 Hz.
pub(super) fn frequency(tone: u8) -> f64 {
    300.0 + 50.0 * f64::from(tone)
}

/// Hops as whole milliseconds, rounded to the nearest.
pub(super) fn hops_to_ms(hops: u64) -> u64 {
    (hops * HOP_SAMPLES * 1000 + HOP_RATE / 2) / HOP_RATE
}

/// Hops as time.
pub(super) fn hops_to_duration(hops: u64) -> Duration {
    Duration::from_nanos(hops * HOP_SAMPLES * 1_000_000_000 / HOP_RATE)
}

/// FNV-1a with a finisher that spreads its weak low bits: small, and the same on every machine.
fn mix(bytes: impl Iterator<Item = u8>) -> u64 {
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_digits_have_tones_of_their_own() {
        let voice = Voice::new("AdaTone0000000000001", 0);
        let tones: std::collections::BTreeSet<_> = ('a'..='z')
            .chain('0'..='9')
            .map(|c| voice.span(c).tone)
            .collect();
        assert_eq!(tones.len(), 36);
        assert_eq!(voice.span(' ').tone, None);
    }

    #[test]
    fn voices_and_seeds_differ() {
        let said = |voice: Voice| {
            "the quick brown fox"
                .chars()
                .map(|c| voice.span(c))
                .collect()
        };
        let one: Vec<Span> = said(Voice::new("one", 0));
        assert_ne!(one, said(Voice::new("two", 0)));
        assert_ne!(one, said(Voice::new("one", 7)));
        assert_eq!(one, said(Voice::new("one", 0)));
    }

    #[test]
    fn times_lie_on_the_grid_of_recorded_alignments() {
        let seen: Vec<_> = [2, 3, 4, 5, 6, 7, 8, 10, 13]
            .into_iter()
            .map(hops_to_ms)
            .collect();
        assert_eq!(seen, [23, 35, 46, 58, 70, 81, 93, 116, 151]);
    }
}
