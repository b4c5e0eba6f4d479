//! The audio formats by name: codec, rate, and which endpoint takes them.

/// How samples are written on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// Signed 16-bit little-endian samples without header.
    Pcm,
    /// PCM behind a RIFF header; HTTP only.
    Wav,
    /// G.711, 8 bit.
    Ulaw,
    Alaw,
    /// MPEG audio layer III at a constant bit rate.
    Mp3,
    /// Opus in one Ogg stream.
    Opus,
}

/// One value of `output_format`. All sound is mono.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) name: &'static str,
    pub(super) codec: Codec,
    /// Samples a second.
    pub(super) rate: u32,
    /// Kilobits a second where the name says them, else 0.
    pub(super) kbps: u32,
}

/// Where a format is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Sockets and the streaming HTTP paths.
    Stream,
    /// HTTP paths that answer in one piece, which know `wav_*` too.
    Whole,
}

const fn format(name: &'static str, codec: Codec, rate: u32, kbps: u32) -> Format {
    Format {
        name,
        codec,
        rate,
        kbps,
    }
}

/// The default everywhere; `mp3_44100` is its alias.
pub(super) const DEFAULT: Format = format("mp3_44100_128", Codec::Mp3, 44_100, 128);

/// Every format, the order that of ElevenLabs' API reference.
pub(super) const ALL: [Format; 28] = [
    format("mp3_22050_32", Codec::Mp3, 22_050, 32),
    format("mp3_24000_48", Codec::Mp3, 24_000, 48),
    format("mp3_44100_32", Codec::Mp3, 44_100, 32),
    format("mp3_44100_64", Codec::Mp3, 44_100, 64),
    format("mp3_44100_96", Codec::Mp3, 44_100, 96),
    DEFAULT,
    format("mp3_44100_192", Codec::Mp3, 44_100, 192),
    format("pcm_8000", Codec::Pcm, 8_000, 0),
    format("pcm_16000", Codec::Pcm, 16_000, 0),
    format("pcm_22050", Codec::Pcm, 22_050, 0),
    format("pcm_24000", Codec::Pcm, 24_000, 0),
    format("pcm_32000", Codec::Pcm, 32_000, 0),
    format("pcm_44100", Codec::Pcm, 44_100, 0),
    format("pcm_48000", Codec::Pcm, 48_000, 0),
    format("ulaw_8000", Codec::Ulaw, 8_000, 0),
    format("alaw_8000", Codec::Alaw, 8_000, 0),
    format("opus_48000_32", Codec::Opus, 48_000, 32),
    format("opus_48000_64", Codec::Opus, 48_000, 64),
    format("opus_48000_96", Codec::Opus, 48_000, 96),
    format("opus_48000_128", Codec::Opus, 48_000, 128),
    format("opus_48000_192", Codec::Opus, 48_000, 192),
    format("wav_8000", Codec::Wav, 8_000, 0),
    format("wav_16000", Codec::Wav, 16_000, 0),
    format("wav_22050", Codec::Wav, 22_050, 0),
    format("wav_24000", Codec::Wav, 24_000, 0),
    format("wav_32000", Codec::Wav, 32_000, 0),
    format("wav_44100", Codec::Wav, 44_100, 0),
    format("wav_48000", Codec::Wav, 48_000, 0),
];

impl Format {
    /// The format of that name, if `endpoint` takes it.
    pub(super) fn parse(name: &str, endpoint: Endpoint) -> Option<Self> {
        if name == "mp3_44100" {
            return Some(DEFAULT);
        }
        Self::of(endpoint).find(|format| format.name == name)
    }

    /// All formats that `endpoint` takes.
    pub(super) fn of(endpoint: Endpoint) -> impl Iterator<Item = Self> {
        ALL.into_iter()
            .filter(move |format| endpoint == Endpoint::Whole || format.codec != Codec::Wav)
    }

    /// The HTTP content type.
    pub(super) fn content_type(self) -> &'static str {
        match self.codec {
            Codec::Pcm => "audio/pcm",
            Codec::Wav => "audio/wav",
            Codec::Ulaw => "audio/ulaw",
            Codec::Alaw => "audio/alaw",
            Codec::Mp3 => "audio/mpeg",
            Codec::Opus => "audio/opus",
        }
    }

    /// Bytes of a second of audio, headers of containers left out.
    pub(super) fn bytes_per_second(self) -> u32 {
        match self.codec {
            Codec::Pcm | Codec::Wav => self.rate * 2,
            Codec::Ulaw | Codec::Alaw => self.rate,
            Codec::Mp3 | Codec::Opus => self.kbps * 125,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_know_the_enum_the_extras_and_the_alias_but_no_wav() {
        assert_eq!(Format::of(Endpoint::Stream).count(), 21);
        assert_eq!(Format::of(Endpoint::Whole).count(), 28);
        assert_eq!(Format::parse("mp3_44100", Endpoint::Stream), Some(DEFAULT));
        assert_eq!(Format::parse("wav_8000", Endpoint::Stream), None);
        assert!(Format::parse("wav_8000", Endpoint::Whole).is_some());
        assert_eq!(Format::parse("m4a_aac_44100_128", Endpoint::Whole), None);
    }
}
