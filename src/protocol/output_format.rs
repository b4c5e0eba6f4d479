//! What an `output_format` says about the length of its audio. It is no list of what is allowed:
//! upstream judges that, and what it adds later is simply unknown here.

/// The format upstream takes when a request names none (ElevenLabs API reference).
pub const DEFAULT_OUTPUT_FORMAT: &str = "mp3_44100_128";

/// The bit rate of an `mp3_44100` without one, in kbit/s.
const DEFAULT_KBITS: u64 = 128;

/// A format whose audio has a constant number of bytes per second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputFormat {
    bytes_per_second: u64,
}

impl OutputFormat {
    /// Reads a name such as `pcm_24000` or `mp3_44100_128`; none when it is of no known kind.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.rsplit('_').peekable();
        let mut number =
            || parts.next_if(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        let (last, before) = (number(), number());
        let codec = name.split('_').next()?;
        let number = |part: Option<&str>| {
            part?
                .parse::<u64>()
                .ok()
                .filter(|&n| (1..=1_000_000).contains(&n))
        };
        let (rate, kbits) = match before {
            Some(_) => (number(before)?, Some(number(last)?)),
            None => (number(last)?, None),
        };
        let bytes_per_second = match (codec, kbits) {
            // 16-bit mono; the header of a WAV file is not worth counting.
            ("pcm" | "wav", None) => 2 * rate,
            // G.711: a byte a sample.
            ("ulaw" | "alaw", None) => rate,
            ("mp3", None) => 125 * DEFAULT_KBITS,
            ("mp3" | "opus" | "m4a", Some(kbits)) => 125 * kbits,
            _ => return None,
        };
        Some(Self { bytes_per_second })
    }

    /// Bytes of audio a second, before base64.
    #[must_use]
    pub fn bytes_per_second(self) -> u64 {
        self.bytes_per_second
    }

    /// How long `n_bytes` of audio sound, in milliseconds, rounded down.
    #[must_use]
    pub fn audio_ms(self, n_bytes: u64) -> u64 {
        // Division of 128 bits takes tens of times as long.
        if let Some(thousandfold) = n_bytes.checked_mul(1000) {
            return thousandfold / self.bytes_per_second;
        }
        let ms = u128::from(n_bytes) * 1000 / u128::from(self.bytes_per_second);
        u64::try_from(ms).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Option<u64>) {
        assert_eq!(
            OutputFormat::parse(name).map(OutputFormat::bytes_per_second),
            expected,
            "{name}"
        );
    }

    #[test]
    fn the_rate_follows_from_the_name() {
        for (name, rate) in [
            ("mp3_22050_32", 4000),
            ("mp3_24000_48", 6000),
            ("mp3_44100_32", 4000),
            ("mp3_44100_64", 8000),
            ("mp3_44100_96", 12_000),
            ("mp3_44100_128", 16_000),
            ("mp3_44100_192", 24_000),
            ("mp3_44100", 16_000),
            ("pcm_8000", 16_000),
            ("pcm_16000", 32_000),
            ("pcm_22050", 44_100),
            ("pcm_24000", 48_000),
            ("pcm_44100", 88_200),
            ("pcm_48000", 96_000),
            ("wav_32000", 64_000),
            ("ulaw_8000", 8000),
            ("alaw_8000", 8000),
            ("opus_48000_32", 4000),
            ("opus_48000_192", 24_000),
            ("m4a_aac_44100_128", 16_000),
        ] {
            check(name, Some(rate));
        }
    }

    #[test]
    fn what_is_not_known_has_no_rate() {
        for name in [
            "",
            "_",
            "pcm",
            "pcm_",
            "pcm_0",
            "pcm_x",
            "pcm_-1",
            "pcm_24000_16",
            "opus_48000",
            "flac_44100",
            "PCM_24000",
            "mp3_44100_0",
            "mp3_44100_",
            "mp3_99999999999999999999_128",
        ] {
            check(name, None);
        }
        assert!(OutputFormat::parse(DEFAULT_OUTPUT_FORMAT).is_some());
    }

    #[test]
    fn bytes_become_milliseconds() {
        let pcm = OutputFormat {
            bytes_per_second: 48_000,
        };
        assert_eq!(pcm.audio_ms(0), 0);
        assert_eq!(pcm.audio_ms(46_812), 975);
        assert_eq!(pcm.audio_ms(u64::MAX), u64::MAX / 48);
        assert_eq!(
            OutputFormat {
                bytes_per_second: 1
            }
            .audio_ms(u64::MAX),
            u64::MAX
        );
    }

    proptest! {
        #[test]
        fn no_name_panics(name in "\\PC{0,24}|(pcm|mp3|opus|m4a)(_[0-9]{0,22}){0,4}", bytes: u64) {
            if let Some(format) = OutputFormat::parse(&name) {
                prop_assert!(format.audio_ms(bytes) <= bytes.saturating_mul(1000));
            }
        }
    }
}
