//! One segment of speech before it is sound: its spans, and when each character is said.

use serde::Serialize;

use super::spoken;
use super::voice::{self, Span, Voice};

/// What is said for one piece of text, and both of its alignments.
#[derive(Debug)]
pub(super) struct Speech {
    pub(super) spans: Vec<Span>,
    /// The text as it was written.
    pub(super) written: Timing,
    /// The text as it is spoken.
    pub(super) spoken: Timing,
}

/// How the text of a segment is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// As on the sockets: outer spaces go, one space is added behind, one is spoken before.
    Trimmed,
    /// As over HTTP: the text and nothing else.
    Verbatim,
}

/// Start times, in hops from the start of the segment.
#[derive(Debug, Default)]
pub(super) struct Timing {
    marks: Vec<(char, u32)>,
    end: u32,
}

/// A part of a [`Timing`] in whole milliseconds: three arrays of one length, each character ending
/// where the next begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Slice {
    pub(super) chars: Vec<char>,
    pub(super) starts_ms: Vec<u64>,
    pub(super) durations_ms: Vec<u64>,
}

impl Speech {
    /// Lays out `text`; `speed` above 1 makes it shorter.
    pub(super) fn new(
        text: &str,
        voice: Voice,
        speed: f64,
        spell_numbers: bool,
        frame: Frame,
    ) -> Self {
        let trimmed = match frame {
            Frame::Trimmed => text.trim(),
            Frame::Verbatim => text,
        };
        let mut layout = Layout {
            voice,
            speed,
            at: 0,
            spans: Vec::new(),
            spoken: Timing::default(),
        };
        let mut written = Timing::default();
        if frame == Frame::Trimmed {
            layout.say(' ');
        }
        for unit in spoken::units(trimmed, spell_numbers) {
            // The first written character takes the time of what is spoken before it.
            let start = if written.marks.is_empty() {
                0
            } else {
                layout.at
            };
            unit.spoken
                .chars()
                .for_each(|character| layout.say(character));
            written.spread(unit.written, start, layout.at, &layout);
        }
        if frame == Frame::Trimmed {
            let start = if written.marks.is_empty() {
                0
            } else {
                layout.hops()
            };
            written.marks.push((' ', start));
            layout.say(' ');
        }
        let end = layout.hops();
        written.end = end;
        Self {
            spans: layout.spans,
            written,
            spoken: Timing {
                end,
                ..layout.spoken
            },
        }
    }

    /// Nothing said yet.
    pub(super) fn empty() -> Self {
        Self {
            spans: Vec::new(),
            written: Timing::default(),
            spoken: Timing::default(),
        }
    }

    /// Its length in hops.
    pub(super) fn hops(&self) -> u32 {
        self.written.end
    }

    /// Puts `next` behind it.
    pub(super) fn append(&mut self, next: Self) {
        self.spans.extend(next.spans);
        self.written.append(next.written);
        self.spoken.append(next.spoken);
    }
}

/// The running position while a speech is laid out, in hops at normal speed.
struct Layout {
    voice: Voice,
    speed: f64,
    at: u64,
    spans: Vec<Span>,
    spoken: Timing,
}

impl Layout {
    fn say(&mut self, character: char) {
        let span = self.voice.span(character);
        let start = self.hops();
        self.at += u64::from(span.hops);
        self.spoken.marks.push((character, start));
        self.spans.push(Span {
            hops: self.hops() - start,
            ..span
        });
    }

    fn hops(&self) -> u32 {
        self.scaled(self.at)
    }

    /// Rounding the position rather than each length keeps errors from adding up.
    fn scaled(&self, at: u64) -> u32 {
        (at as f64 / self.speed).round() as u32
    }
}

impl Timing {
    /// Shares the time between `start` and `end` among the characters of `written`.
    fn spread(&mut self, written: &str, start: u64, end: u64, layout: &Layout) {
        let n_chars = written.chars().count() as u64;
        for (index, character) in written.chars().enumerate() {
            let at = start + (end - start) * index as u64 / n_chars;
            self.marks.push((character, layout.scaled(at)));
        }
    }

    fn append(&mut self, next: Self) {
        let offset = self.end;
        self.marks
            .extend(next.marks.into_iter().map(|(c, start)| (c, start + offset)));
        self.end += next.end;
    }

    /// How many characters there are.
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    /// The characters that start in `from..to` hops, as times counted from hop `-before`. `None` if
    /// there are none.
    pub(super) fn slice(&self, from: u32, to: u32, origin: Origin) -> Option<Slice> {
        let first = self.marks.partition_point(|(_, start)| *start < from);
        let last = self.marks.partition_point(|(_, start)| *start < to);
        if first >= last {
            return None;
        }
        let ms = |hops: u32| match origin {
            Origin::Segment => voice::hops_to_ms(hops.into()),
            Origin::After(before) => voice::hops_to_ms(before + u64::from(hops)),
            Origin::Slice => {
                voice::hops_to_ms(hops.into()) - voice::hops_to_ms(self.marks[first].1.into())
            }
        };
        let mut slice = Slice::default();
        for index in first..last {
            let (character, start) = self.marks[index];
            let end = self
                .marks
                .get(index + 1)
                .map_or(self.end, |(_, next)| *next);
            slice.chars.push(character);
            slice.starts_ms.push(ms(start));
            slice.durations_ms.push(ms(end) - ms(start));
        }
        Some(slice)
    }
}

/// Where the times of a slice count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Segment,
    /// So many hops before the segment.
    After(u64),
    /// The first character of the slice.
    Slice,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use proptest::prelude::*;

    use super::*;

    fn voice() -> Voice {
        Voice::new("AdaTone0000000000001", 0)
    }

    fn whole(timing: &Timing) -> Slice {
        timing
            .slice(0, u32::MAX, Origin::Segment)
            .unwrap_or_default()
    }

    fn said(slice: &Slice) -> String {
        slice.chars.iter().collect()
    }

    #[test]
    fn written_ends_in_a_space_and_spoken_begins_with_one() {
        let speech = Speech::new("  Hi  there. ", voice(), 1.0, true, Frame::Trimmed);
        let (written, spoken) = (whole(&speech.written), whole(&speech.spoken));
        assert_eq!(said(&written), "Hi  there. ");
        assert_eq!(said(&spoken), " Hi there. ");
        // "H" absorbs the spoken leading space.
        assert_eq!(written.starts_ms[0], 0);
        assert_eq!(written.starts_ms[1], spoken.starts_ms[2]);
        assert_eq!(
            written.durations_ms[0],
            spoken.durations_ms[0] + spoken.durations_ms[1]
        );
    }

    #[test]
    fn digits_share_the_time_of_their_words() {
        let speech = Speech::new("12", voice(), 1.0, true, Frame::Verbatim);
        assert_eq!(said(&whole(&speech.written)), "12");
        assert_eq!(said(&whole(&speech.spoken)), "twelve");
        assert!(
            whole(&speech.written)
                .durations_ms
                .iter()
                .all(|ms| *ms > 50)
        );
    }

    #[test]
    fn speed_shortens() {
        let hops = |speed| Speech::new("Hello world.", voice(), speed, true, Frame::Trimmed).hops();
        assert!(hops(1.2) < hops(1.0) && hops(1.0) < hops(0.7));
    }

    proptest! {
        #[test]
        fn times_are_whole_and_without_gaps(text in ".{0,80}", speed in 0.7..1.2f64) {
            let speech = Speech::new(&text, voice(), speed, true, Frame::Trimmed);
            let total = voice::hops_to_ms(speech.hops().into());
            prop_assert_eq!(
                speech.spans.iter().map(|span| span.hops).sum::<u32>(), speech.hops());
            for timing in [&speech.written, &speech.spoken] {
                let slice = whole(timing);
                prop_assert_eq!(slice.chars.len(), slice.starts_ms.len());
                prop_assert_eq!(slice.chars.len(), slice.durations_ms.len());
                prop_assert_eq!(slice.starts_ms[0], 0);
                for i in 1..slice.chars.len() {
                    prop_assert_eq!(
                        slice.starts_ms[i - 1] + slice.durations_ms[i - 1], slice.starts_ms[i]);
                }
                prop_assert_eq!(slice.durations_ms.iter().sum::<u64>(), total);
            }
            prop_assert_eq!(said(&whole(&speech.written)), format!("{} ", text.trim()));
        }

        #[test]
        fn slices_join_to_the_whole(text in "[a-z0-9 ]{1,60}", cut in 0..400u32) {
            let speech = Speech::new(&text, voice(), 1.0, true, Frame::Trimmed);
            let mut joined = speech.written.slice(0, cut, Origin::Segment).unwrap_or_default();
            let rest = speech.written.slice(cut, u32::MAX, Origin::Segment).unwrap_or_default();
            joined.chars.extend(rest.chars);
            joined.starts_ms.extend(rest.starts_ms);
            joined.durations_ms.extend(rest.durations_ms);
            prop_assert_eq!(joined, whole(&speech.written));
        }
    }
}
