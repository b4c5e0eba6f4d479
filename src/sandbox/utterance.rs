//! A piece of speech on its way out: made into audio frame by frame, only when the next is due.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::encoder::Encoder;
use super::fault::Fault;
use super::speech::{Origin, Slice, Speech};
use super::voice;

/// The most audio one frame holds, in bytes before base64.
const MAX_AUDIO: usize = 32 * 1024;

/// The encoder of one socket or context, shared by its utterances, which are spoken one by one.
pub(super) type SharedEncoder = Arc<Mutex<Encoder>>;

/// Audio still to be made.
pub(super) struct Utterance {
    work: Work,
    encoder: SharedEncoder,
    /// What goes wrong while it is spoken.
    pub(super) fault: Option<Fault>,
}

enum Work {
    Speech {
        speech: Speech,
        timings: Timings,
        n_spans: usize,
        hops: u32,
    },
    Drain,
    Tail,
    Nothing,
}

/// Which frames carry alignments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timings {
    Never,
    /// The first frame has the whole segment's.
    First,
    /// Each frame has its own part, counted from the start of the segment,
    Segment,
    /// from the start of the stream,
    Stream,
    /// or from the start of the frame.
    Frame,
}

/// One frame of audio.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) audio: Vec<u8>,
    /// Which hops of the segment it holds.
    pub(super) range: Range<u32>,
    /// How long it sounds.
    pub(super) plays: Duration,
    pub(super) written: Option<Slice>,
    pub(super) spoken: Option<Slice>,
}

impl Piece {
    /// Audio that no character is said in.
    pub(super) fn untimed(audio: Vec<u8>) -> Self {
        Self {
            audio,
            range: 0..0,
            plays: Duration::ZERO,
            written: None,
            spoken: None,
        }
    }
}

impl Utterance {
    pub(super) fn speech(speech: Speech, timings: Timings, encoder: SharedEncoder) -> Self {
        let work = Work::Speech {
            speech,
            timings,
            n_spans: 0,
            hops: 0,
        };
        Self {
            work,
            encoder,
            fault: None,
        }
    }

    /// What the encoder holds back, its stream going on.
    pub(super) fn drain(encoder: SharedEncoder) -> Self {
        Self {
            work: Work::Drain,
            encoder,
            fault: None,
        }
    }

    /// What the encoder holds back at the end of its stream.
    pub(super) fn tail(encoder: SharedEncoder) -> Self {
        Self {
            work: Work::Tail,
            encoder,
            fault: None,
        }
    }

    /// Characters that are still to be spoken, for a bound on what may wait.
    pub(super) fn n_chars(&self) -> usize {
        match &self.work {
            Work::Speech { speech, .. } => speech.spoken.len(),
            _ => 0,
        }
    }

    /// Makes the next frame.
    pub(super) fn next_piece(&mut self) -> Option<Piece> {
        let mut encoder = self.encoder.lock();
        let rest = match &mut self.work {
            Work::Speech {
                speech,
                timings,
                n_spans,
                hops,
            } => {
                let piece = next_of_speech(&mut encoder, speech, *timings, n_spans, hops);
                if *n_spans == speech.spans.len() {
                    self.work = Work::Nothing;
                }
                return Some(piece);
            }
            Work::Drain => encoder.drain(),
            Work::Tail => encoder.finish(),
            Work::Nothing => return None,
        };
        self.work = Work::Nothing;
        (!rest.is_empty()).then(|| Piece::untimed(rest))
    }
}

fn next_of_speech(
    encoder: &mut Encoder,
    speech: &Speech,
    timings: Timings,
    n_spans: &mut usize,
    hops: &mut u32,
) -> Piece {
    let from = *hops;
    let before = encoder.hops() - u64::from(from);
    while let Some(span) = speech.spans.get(*n_spans) {
        let is_full = encoder.n_ready() + encoder.size_of(span.hops) > MAX_AUDIO;
        if is_full && *hops > from {
            break;
        }
        encoder.push(*span);
        *n_spans += 1;
        *hops += span.hops;
    }
    let to = if *n_spans == speech.spans.len() {
        u32::MAX
    } else {
        *hops
    };
    let (to, origin) = match timings {
        Timings::Never => (from, Origin::Segment),
        Timings::First if from == 0 => (u32::MAX, Origin::Segment),
        Timings::First => (from, Origin::Segment),
        Timings::Segment => (to, Origin::Segment),
        Timings::Stream => (to, Origin::After(before)),
        Timings::Frame => (to, Origin::Slice),
    };
    Piece {
        audio: encoder.take(),
        range: from..*hops,
        plays: voice::hops_to_duration((*hops - from).into()),
        written: speech.written.slice(from, to, origin),
        spoken: speech.spoken.slice(from, to, origin),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{Endpoint, Format};
    use super::super::speech::Frame;
    use super::super::voice::Voice;
    use super::*;

    fn pieces(format: Format, timings: Timings) -> (Vec<Piece>, u32) {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(8);
        let speech = Speech::new(&text, Voice::new("ada", 0), 0.7, true, Frame::Trimmed);
        let hops = speech.hops();
        let encoder = Arc::new(Mutex::new(Encoder::new(format)));
        let mut utterance = Utterance::speech(speech, timings, encoder.clone());
        let mut tail = Utterance::tail(encoder);
        let pieces = std::iter::from_fn(|| utterance.next_piece())
            .chain(std::iter::from_fn(|| tail.next_piece()))
            .collect();
        (pieces, hops)
    }

    #[test]
    fn frames_are_bounded_and_each_has_its_own_part() {
        for format in Format::of(Endpoint::Stream) {
            let (pieces, hops) = pieces(format, Timings::Segment);
            assert!(
                pieces.iter().all(|piece| piece.audio.len() <= MAX_AUDIO),
                "{}",
                format.name
            );
            let (tail, spoken) = pieces.split_last().expect("there is audio");
            assert!(tail.written.is_none());
            let slices = || {
                spoken
                    .iter()
                    .map(|p| p.written.as_ref().expect("a part of the timing"))
            };
            let total: u64 = slices().flat_map(|slice| &slice.durations_ms).sum();
            assert_eq!(total, voice::hops_to_ms(hops.into()));
            let starts: Vec<_> = slices().flat_map(|slice| &slice.starts_ms).collect();
            assert!(starts.is_sorted());
        }
    }

    #[test]
    fn without_sync_alignment_the_first_frame_has_it_all() {
        let format = Format::parse("pcm_48000", Endpoint::Stream).expect("a known format");
        let (pieces, hops) = pieces(format, Timings::First);
        assert!(pieces.len() > 3);
        let first = pieces[0].spoken.as_ref().expect("the whole timing");
        assert_eq!(
            first.durations_ms.iter().sum::<u64>(),
            voice::hops_to_ms(hops.into())
        );
        assert!(pieces[1..].iter().all(|piece| piece.written.is_none()));
        let n_bytes: usize = pieces.iter().map(|piece| piece.audio.len()).sum();
        assert_eq!(n_bytes as u64, u64::from(hops) * 256 * 48_000 / 22_050 * 2);
    }

    #[test]
    fn each_frame_can_count_from_its_own_start() {
        let format = Format::parse("pcm_24000", Endpoint::Stream).expect("a known format");
        let (pieces, _) = pieces(format, Timings::Frame);
        for piece in &pieces[..pieces.len() - 1] {
            assert_eq!(
                piece.written.as_ref().map(|slice| slice.starts_ms[0]),
                Some(0)
            );
        }
    }
}
