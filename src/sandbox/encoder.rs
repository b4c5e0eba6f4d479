//! Spans of tone and silence become bytes of one format. One encoder makes one continuous stream.

mod ogg;
mod samples;
mod tone_frames;

use super::format::{Codec, Format};
use super::voice::{HOP_RATE, HOP_SAMPLES, Span};
use ogg::OggWriter;
use samples::Samples;
use tone_frames::{FrameClock, frame_of};

/// Makes the bytes of one audio stream. Its output lags a little behind what was pushed; `drain`
/// and `finish` give the rest.
pub(super) struct Encoder {
    format: Format,
    stream: Stream,
    /// Everything pushed so far, in hops.
    hops: u64,
    /// Made, but not yet taken.
    ready: Vec<u8>,
}

enum Stream {
    Samples(Samples),
    Mp3 { clock: FrameClock, remainder: u32 },
    Opus { clock: FrameClock, ogg: OggWriter },
}

/// Samples by which an MP3 decoder's filter bank delays the sound.
const MP3_DECODER_DELAY: u64 = 528;
/// Samples that an Opus decoder throws away at the start (RFC 7845 section 4.2).
const OPUS_PRE_SKIP: u64 = 312;

impl Encoder {
    pub(super) fn new(format: Format) -> Self {
        let rate = u64::from(format.rate);
        let stream = match format.codec {
            Codec::Pcm | Codec::Wav | Codec::Ulaw | Codec::Alaw => {
                Stream::Samples(Samples::new(format))
            }
            Codec::Mp3 => Stream::Mp3 {
                clock: FrameClock::new(mp3_samples(format.rate), rate, 0, MP3_DECODER_DELAY),
                remainder: 0,
            },
            Codec::Opus => Stream::Opus {
                clock: FrameClock::new(960, rate, OPUS_PRE_SKIP, 0),
                ogg: OggWriter::new(OPUS_PRE_SKIP as u16),
            },
        };
        Self {
            format,
            stream,
            hops: 0,
            ready: Vec::new(),
        }
    }

    /// All that was pushed so far, in hops.
    pub(super) fn hops(&self) -> u64 {
        self.hops
    }

    /// Bytes that pushing `hops` more may add to what can be taken, at most.
    pub(super) fn size_of(&self, hops: u32) -> usize {
        let a_second = u64::from(self.format.bytes_per_second());
        // One codec frame, page headers and the stream's own headers may come on top.
        (u64::from(hops) * HOP_SAMPLES * a_second / HOP_RATE + a_second / 25) as usize + 512
    }

    /// Bytes that can be taken, at most.
    pub(super) fn n_ready(&self) -> usize {
        match &self.stream {
            Stream::Opus { ogg, .. } => self.ready.len() + ogg.n_waiting(),
            _ => self.ready.len(),
        }
    }

    /// Appends a span.
    pub(super) fn push(&mut self, span: Span) {
        let from = self.hops;
        self.hops += u64::from(span.hops);
        match &mut self.stream {
            Stream::Samples(samples) => samples.push(span, from, &mut self.ready),
            Stream::Mp3 { clock, remainder } => {
                clock.push(span);
                while let Some(tone) = clock.next_whole() {
                    push_mp3(self.format, tone, remainder, &mut self.ready);
                }
            }
            Stream::Opus { clock, ogg } => {
                clock.push(span);
                while let Some(tone) = clock.next_whole() {
                    ogg.push(frame_of(self.format, tone));
                }
            }
        }
    }

    /// Takes what is ready, except for a last part that keeps payloads from ending where codec
    /// frames do, as ElevenLabs' do not. Samples are never cut.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let lag = match &mut self.stream {
            Stream::Samples(_) => self.format.bytes_per_second() as usize / 200 * 2,
            Stream::Mp3 { .. } => frame_of(self.format, None).len() / 3,
            Stream::Opus { ogg, .. } => {
                ogg.write_page(&mut self.ready);
                return self.drain();
            }
        };
        let rest = self
            .ready
            .split_off(self.ready.len().saturating_sub(lag) & !1);
        std::mem::replace(&mut self.ready, rest)
    }

    /// Takes all that is ready, for the end of a turn in a stream that goes on.
    pub(super) fn drain(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ready)
    }

    /// Ends the stream and takes the rest of it. Empty if nothing was ever pushed.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        match &mut self.stream {
            Stream::Samples(_) => {}
            Stream::Mp3 { clock, remainder } => {
                while let Some(tone) = clock.next_nearest() {
                    push_mp3(self.format, tone, remainder, &mut self.ready);
                }
            }
            Stream::Opus { clock, ogg } => {
                while let Some(tone) = clock.next_covering() {
                    ogg.push(frame_of(self.format, tone));
                }
                if self.hops > 0 {
                    let samples = (self.hops * HOP_SAMPLES * 48_000 + HOP_RATE / 2) / HOP_RATE;
                    ogg.finish(OPUS_PRE_SKIP + samples, &mut self.ready);
                }
            }
        }
        self.drain()
    }
}

/// Samples of an MP3 frame: 1152 in MPEG-1, 576 at the lower rates of MPEG-2.
fn mp3_samples(rate: u32) -> u64 {
    if rate >= 32_000 { 1152 } else { 576 }
}

/// Writes one frame, padded by a byte where the bit rate asks for it (ISO 11172-3, 2.4.2.3).
fn push_mp3(format: Format, tone: Option<u8>, remainder: &mut u32, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(frame_of(format, tone));
    *remainder += (mp3_samples(format.rate) as u32 / 8 * format.kbps * 1000) % format.rate;
    if *remainder >= format.rate {
        *remainder -= format.rate;
        out[start + 2] |= 0x02;
        out.push(0);
    }
}

/// `samples`, 16-bit mono, as a WAV file.
pub(super) fn wav(rate: u32, samples: &[u8]) -> Vec<u8> {
    // Longer than any text makes it; a player then reads to the end of the file.
    let n_bytes = u32::try_from(samples.len()).unwrap_or(0x7fff_ffff);
    let mut out = Vec::with_capacity(44 + samples.len());
    out.extend_from_slice(b"RIFF");
    out.extend_from_slice(&n_bytes.saturating_add(36).to_le_bytes());
    out.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    out.extend_from_slice(&rate.to_le_bytes());
    out.extend_from_slice(&(rate * 2).to_le_bytes());
    out.extend_from_slice(b"\x02\0\x10\0data");
    out.extend_from_slice(&n_bytes.to_le_bytes());
    out.extend_from_slice(samples);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::format::{self, Endpoint};
    use super::*;

    fn encode(format: Format, spans: &[Span], chunk: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(format);
        let mut out = Vec::new();
        for spans in spans.chunks(chunk) {
            for span in spans {
                let before = encoder.n_ready();
                let bound = encoder.size_of(span.hops);
                encoder.push(*span);
                assert!(encoder.n_ready() <= before + bound);
            }
            let taken = encoder.take();
            if format.codec == Codec::Pcm {
                assert_eq!(taken.len() % 2, 0);
            }
            out.extend(taken);
        }
        out.extend(encoder.finish());
        out
    }

    #[test]
    fn nothing_pushed_is_nothing_written() {
        for format in format::ALL {
            assert!(Encoder::new(format).finish().is_empty(), "{}", format.name);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn where_it_is_cut_changes_nothing_but_ogg_pages(
            lengths in prop::collection::vec((1..20u32, prop::option::of(0..48u8)), 1..30),
            chunk in 1..10usize,
        ) {
            let spans: Vec<_> =
                lengths.into_iter().map(|(hops, tone)| Span { hops, tone }).collect();
            for format in Format::of(Endpoint::Stream) {
                let whole = encode(format, &spans, usize::MAX);
                let parts = encode(format, &spans, chunk);
                if format.codec != Codec::Opus {
                    prop_assert_eq!(whole, parts, "{}", format.name);
                }
            }
        }
    }
}
