//! PCM and G.711: samples computed one by one.

use std::f64::consts::TAU;

use crate::sandbox::format::{Codec, Format};
use crate::sandbox::voice::{self, HOP_RATE, HOP_SAMPLES, Span};

const AMPLITUDE: f64 = 0.25 * 32_767.0;

/// Computes samples and writes them in the format's own way.
pub(super) struct Samples {
    rate: u64,
    write: fn(i16, &mut Vec<u8>),
}

impl Samples {
    pub(super) fn new(format: Format) -> Self {
        let write = match format.codec {
            Codec::Ulaw => |sample, out: &mut Vec<u8>| out.push(ulaw(sample)),
            Codec::Alaw => |sample, out: &mut Vec<u8>| out.push(alaw(sample)),
            _ => |sample: i16, out: &mut Vec<u8>| out.extend_from_slice(&sample.to_le_bytes()),
        };
        Self {
            rate: u64::from(format.rate),
            write,
        }
    }

    /// Writes the samples of `span`, which starts at hop `from` of the stream.
    pub(super) fn push(&self, span: Span, from: u64, out: &mut Vec<u8>) {
        let at = |hops: u64| hops * HOP_SAMPLES * self.rate / HOP_RATE;
        let n_samples = at(from + u64::from(span.hops)) - at(from);
        let Some(tone) = span.tone else {
            (0..n_samples).for_each(|_| (self.write)(0, out));
            return;
        };
        let step = TAU * voice::frequency(tone) / self.rate as f64;
        // Faded in and out over 5 ms, or the edges would click.
        let fade = self.rate / 200;
        for index in 0..n_samples {
            let edge = (index + 1).min(n_samples - index).min(fade) as f64 / fade as f64;
            let sample = AMPLITUDE * edge * (step * index as f64).sin();
            (self.write)(sample as i16, out);
        }
    }
}

/// G.711 mu-law of a linear sample (ITU-T G.711, table 2).
fn ulaw(sample: i16) -> u8 {
    const BIAS: u32 = 0x84;
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = (u32::from(sample.unsigned_abs()) + BIAS).min(0x7fff);
    // The segment is where the leading one stands; the bias puts it at bit 7 or above.
    let segment = 24 - magnitude.leading_zeros();
    let mantissa = magnitude >> (segment + 3) & 0x0f;
    !(sign | (segment << 4 | mantissa) as u8)
}

/// G.711 A-law of a linear sample (ITU-T G.711, table 1), even bits inverted.
fn alaw(sample: i16) -> u8 {
    let sign = if sample < 0 { 0 } else { 0x80 };
    let magnitude = if sample < 0 { !sample } else { sample } as u32 >> 3;
    let code = match magnitude {
        0..32 => magnitude >> 1,
        _ => {
            let segment = 27 - magnitude.leading_zeros();
            segment << 4 | (magnitude >> segment & 0x0f)
        }
    };
    (sign | code as u8) ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decoders written from the other direction of the recommendation's tables.
    fn ulaw_decoded(code: u8) -> i32 {
        let code = !code;
        let magnitude = (((i32::from(code & 0x0f) << 3) + 0x84) << (code >> 4 & 7)) - 0x84;
        if code & 0x80 == 0 {
            magnitude
        } else {
            -magnitude
        }
    }

    fn alaw_decoded(code: u8) -> i32 {
        let code = code ^ 0x55;
        let (segment, mantissa) = (code >> 4 & 7, i32::from(code & 0x0f) << 4);
        let magnitude = match segment {
            0 => mantissa + 8,
            _ => (mantissa + 0x108) << (segment - 1),
        };
        if code & 0x80 == 0 {
            -magnitude
        } else {
            magnitude
        }
    }

    #[test]
    fn codes_survive_a_round_trip() {
        for code in 0..=255u8 {
            // The two zeros of mu-law decode alike.
            if code != 0x7f {
                assert_eq!(ulaw(ulaw_decoded(code) as i16), code);
            }
            assert_eq!(alaw(alaw_decoded(code) as i16), code);
        }
    }

    #[test]
    fn every_sample_stays_close() {
        for sample in i16::MIN..=i16::MAX {
            let near = |decoded: i32| {
                (decoded - i32::from(sample)).abs() <= 24 + i32::from(sample).abs() / 16
            };
            assert!(near(ulaw_decoded(ulaw(sample))), "{sample}");
            assert!(near(alaw_decoded(alaw(sample))), "{sample}");
        }
    }
}
