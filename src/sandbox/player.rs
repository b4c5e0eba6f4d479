//! When each reply is due. Time comes in as an argument, so that tests need none to pass.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::config::Config;
use super::conversation::{Lane, Reply};
use super::fault::Fault;
use super::utterance::{Piece, Utterance};
use super::wire::Wire;

/// No more messages are read while so many characters wait to be spoken.
const MAX_WAITING: usize = 64 * 1024;

/// What leaves through the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Out {
    Text(String),
    Binary(Vec<u8>),
    /// The last frame of a lane.
    Last(Lane, String),
    Close {
        code: u16,
        reason: String,
    },
    /// A TCP reset.
    Cut,
    /// The end of TCP, without a close frame.
    Drop,
}

/// Holds replies until they are due.
pub(super) struct Player {
    first_audio_delay: Duration,
    close_delay: Duration,
    pace: f64,
    lanes: BTreeMap<Lane, Track>,
    /// What goes out before anything else.
    urgent: VecDeque<Out>,
    ending: Option<Ending>,
    /// Counts what was sent, so that lanes take turns.
    n_sent: u64,
    is_stalled: bool,
}

/// The replies of one lane.
struct Track {
    items: VecDeque<Item>,
    /// The audio sent so far has been heard by then.
    heard: Instant,
    last_sent: u64,
}

struct Item {
    queued: Instant,
    has_begun: bool,
    what: What,
}

enum What {
    Speak(Wire, Utterance),
    Say(String),
    Last(String),
    /// As it was recorded.
    Replayed(Out),
}

/// The lane of all that is replayed: it keeps its order.
const REPLAY_LANE: Lane = 0;

struct Ending {
    /// Since when nothing else waits.
    since: Instant,
    frame: Option<String>,
    close: Out,
}

impl Player {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            first_audio_delay: config.first_audio_delay,
            close_delay: config.close_delay,
            pace: config.pace,
            lanes: BTreeMap::new(),
            urgent: VecDeque::new(),
            ending: None,
            n_sent: 0,
            is_stalled: false,
        }
    }

    pub(super) fn push(&mut self, now: Instant, replies: Vec<Reply>) {
        for reply in replies {
            if self.is_stalled {
                // Nothing will be sent, so nothing need wait.
                return;
            }
            match reply {
                Reply::Speak {
                    lane,
                    wire,
                    utterance,
                } => {
                    self.queue(now, lane, What::Speak(wire, utterance));
                }
                Reply::Say { lane, frame } => self.queue(now, lane, What::Say(frame)),
                Reply::Last { lane, frame } => self.queue(now, lane, What::Last(frame)),
                Reply::End {
                    frame,
                    code,
                    reason,
                } => {
                    let since = self
                        .lanes
                        .values()
                        .map(|t| t.heard)
                        .max()
                        .unwrap_or(now)
                        .max(now);
                    self.ending = Some(Ending {
                        since,
                        frame,
                        close: Out::Close { code, reason },
                    });
                }
                Reply::Fail {
                    frame,
                    code,
                    reason,
                } => {
                    self.lanes.clear();
                    self.urgent.push_back(Out::Text(frame));
                    let close = Out::Close { code, reason };
                    self.ending = Some(Ending {
                        since: now,
                        frame: None,
                        close,
                    });
                }
                Reply::Replay { delay, out } => {
                    self.queue(now + delay, REPLAY_LANE, What::Replayed(out));
                }
                Reply::Mute => self.is_stalled = true,
            }
        }
    }

    fn queue(&mut self, now: Instant, lane: Lane, what: What) {
        let new = || Track {
            items: VecDeque::new(),
            heard: now,
            last_sent: 0,
        };
        let track = self.lanes.entry(lane).or_insert_with(new);
        track.items.push_back(Item {
            queued: now,
            has_begun: false,
            what,
        });
    }

    /// Whether more messages may come in.
    pub(super) fn has_room(&self) -> bool {
        let items = self.lanes.values().flat_map(|track| &track.items);
        let waiting = items.map(|item| match &item.what {
            What::Speak(_, utterance) => utterance.n_chars(),
            _ => 0,
        });
        waiting.sum::<usize>() < MAX_WAITING
    }

    /// Whether nothing will ever be sent again.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    /// When `pop` has something; a time that is past means now.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        if !self.urgent.is_empty() {
            return Some(now);
        }
        if self.is_stalled {
            return None;
        }
        self.next_lane().map(|(due, _)| due).or_else(|| {
            let ending = self.ending.as_ref()?;
            let has_frame = ending.frame.is_some();
            Some(if has_frame {
                ending.since
            } else {
                ending.since + self.close_delay
            })
        })
    }

    /// The lane that is due first; of several the one that has waited longest.
    fn next_lane(&self) -> Option<(Instant, Lane)> {
        self.lanes
            .iter()
            .filter_map(|(lane, track)| {
                let item = track.items.front()?;
                let ready = match &item.what {
                    What::Speak(_, utterance) if !item.has_begun && utterance.n_chars() > 0 => {
                        item.queued + self.first_audio_delay
                    }
                    _ => item.queued,
                };
                Some((ready.max(track.heard), track.last_sent, *lane))
            })
            .min()
            .map(|(due, _, lane)| (due, lane))
    }

    /// What is due by now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Out> {
        loop {
            if self.next_due(now)? > now {
                return None;
            }
            if let Some(out) = self.urgent.pop_front() {
                return Some(out);
            }
            let Some((due, lane)) = self.next_lane() else {
                return self.pop_ending(now);
            };
            // A piece of speech may have nothing left to say.
            if let Some(out) = self.pop_lane(due, lane) {
                return Some(out);
            }
        }
    }

    fn pop_ending(&mut self, now: Instant) -> Option<Out> {
        let ending = self.ending.as_mut()?;
        if let Some(frame) = ending.frame.take() {
            ending.since = now;
            return Some(Out::Text(frame));
        }
        self.ending.take().map(|ending| ending.close)
    }

    fn pop_lane(&mut self, due: Instant, lane: Lane) -> Option<Out> {
        let track = self.lanes.get_mut(&lane)?;
        self.n_sent += 1;
        track.last_sent = self.n_sent;
        let item = track.items.front_mut()?;
        if let What::Speak(wire, utterance) = &mut item.what {
            let Some(piece) = utterance.next_piece() else {
                track.items.pop_front();
                return None;
            };
            item.has_begun = true;
            track.heard = due;
            if self.pace > 0.0 {
                track.heard += piece.plays.div_f64(self.pace);
            }
            let fault = utterance.fault.take();
            let wire = wire.clone();
            return Some(self.audio(&wire, &piece, fault));
        }
        let item = track.items.pop_front()?;
        track.heard = due;
        let is_empty = track.items.is_empty();
        if let Some(ending) = &mut self.ending {
            ending.since = ending.since.max(due);
        }
        match item.what {
            What::Last(frame) => {
                if is_empty {
                    self.lanes.remove(&lane);
                }
                Some(Out::Last(lane, frame))
            }
            What::Say(frame) => Some(Out::Text(frame)),
            What::Replayed(out) => Some(out),
            What::Speak(..) => None,
        }
    }

    /// An audio frame, or what a fault makes of it.
    fn audio(&mut self, wire: &Wire, piece: &Piece, fault: Option<Fault>) -> Out {
        let mut frame = wire.audio(piece);
        match fault {
            Some(Fault::Stall) => {
                self.is_stalled = true;
                return Out::Text(frame);
            }
            Some(Fault::Cut) => self.urgent.push_back(Out::Cut),
            Some(Fault::Drop) => self.urgent.push_back(Out::Drop),
            Some(Fault::Close(code)) => {
                let reason = "closed on request".to_owned();
                self.urgent.push_back(Out::Close { code, reason });
            }
            Some(Fault::Oversize(mib)) => {
                // Three bytes of audio are four of base64; the rest of the JSON comes on top.
                let audio = vec![0; usize::from(mib) * 1024 * 1024 / 4 * 3];
                frame = wire.audio(&Piece::untimed(audio));
            }
            Some(Fault::Malformed) => frame.truncate("{\"audio\":\"AAAA".len()),
            Some(Fault::Binary) => {
                return Out::Binary(piece.audio.clone());
            }
            Some(Fault::EmptyAudio) => {
                self.urgent.push_back(Out::Text(frame));
                return Out::Text(wire.audio(&Piece::untimed(Vec::new())));
            }
            Some(Fault::Refuse(_) | Fault::Http(_) | Fault::Mute | Fault::SilentFinal) | None => {}
        }
        Out::Text(frame)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::super::encoder::Encoder;
    use super::super::format::{Endpoint, Format};
    use super::super::speech::{Frame, Speech};
    use super::super::utterance::Timings;
    use super::super::voice::Voice;
    use super::*;

    fn speak(lane: Lane, text: &str, fault: Option<Fault>) -> Reply {
        let format = Format::parse("pcm_48000", Endpoint::Stream).expect("a known format");
        let speech = Speech::new(text, Voice::new("ada", 0), 1.0, true, Frame::Trimmed);
        let encoder = Arc::new(Mutex::new(Encoder::new(format)));
        let mut utterance = Utterance::speech(speech, Timings::First, encoder);
        utterance.fault = fault;
        Reply::Speak {
            lane,
            wire: Wire::Single,
            utterance,
        }
    }

    fn last(lane: Lane) -> Reply {
        Reply::Last {
            lane,
            frame: format!("last {lane}"),
        }
    }

    fn end() -> Reply {
        Reply::End {
            frame: None,
            code: 1000,
            reason: String::new(),
        }
    }

    /// Plays to the end and tells what was sent after how many milliseconds.
    fn play(config: &Config, replies: Vec<Reply>) -> Vec<(u128, Out)> {
        let start = Instant::now();
        let mut player = Player::new(config);
        player.push(start, replies);
        let mut now = start;
        let mut sent = Vec::new();
        while let Some(due) = player.next_due(now) {
            now = now.max(due);
            if let Some(out) = player.pop(now) {
                sent.push(((now - start).as_millis(), out));
            }
        }
        sent
    }

    fn lifelike() -> Config {
        Config {
            first_audio_delay: Duration::from_millis(100),
            pace: 4.0,
            close_delay: Duration::from_millis(750),
            ..Config::default()
        }
    }

    #[test]
    fn audio_waits_for_the_model_and_then_for_the_pace() {
        let text = "A sentence that is long enough for several frames of audio. ";
        let sent = play(&lifelike(), vec![speak(0, text, None), last(0), end()]);
        let times: Vec<_> = sent.iter().map(|(at, _)| *at).collect();
        assert_eq!(times[0], 100);
        // About a third of a second of audio a frame, sent at four times its speed.
        assert!((60..90).contains(&(times[1] - times[0])), "{times:?}");
        let (at_last, at_close) = (times[times.len() - 2], times[times.len() - 1]);
        assert!(matches!(sent[sent.len() - 2].1, Out::Last(0, _)));
        assert_eq!(at_close - at_last, 750);
    }

    #[test]
    fn without_delay_and_pace_all_is_due_at_once() {
        let config = Config::immediate();
        let sent = play(
            &config,
            vec![speak(0, "Hello there. ", None), last(0), end()],
        );
        assert!(sent.iter().all(|(at, _)| *at == 0));
    }

    #[test]
    fn lanes_take_turns_and_keep_their_order() {
        let text = "A sentence that is long enough for several frames of audio. ";
        let replies = vec![
            speak(0, text, None),
            last(0),
            speak(1, "Short. ", None),
            last(1),
            end(),
        ];
        let sent = play(&Config::immediate(), replies);
        let position = |wanted: Lane| {
            sent.iter()
                .position(|(_, out)| matches!(out, Out::Last(lane, _) if *lane == wanted))
        };
        assert!(position(1) < position(0));
        assert!(matches!(
            sent.last(),
            Some((_, Out::Close { code: 1000, .. }))
        ));
    }

    #[test]
    fn a_failure_goes_out_before_all_that_waits() {
        let fail = Reply::Fail {
            frame: "error".into(),
            code: 1008,
            reason: "r".into(),
        };
        let sent = play(
            &lifelike(),
            vec![speak(0, "Never heard. ", None), last(0), fail],
        );
        let close = Out::Close {
            code: 1008,
            reason: "r".into(),
        };
        assert_eq!(sent, [(0, Out::Text("error".into())), (750, close)]);
    }

    #[test]
    fn faults_strike_at_the_first_frame() {
        let play = |fault| {
            play(
                &Config::immediate(),
                vec![speak(0, "Hello. ", Some(fault)), last(0), end()],
            )
        };
        assert_eq!(play(Fault::Stall).len(), 1);
        assert!(matches!(play(Fault::Cut)[1].1, Out::Cut));
        assert!(matches!(play(Fault::Drop)[1].1, Out::Drop));
        assert!(matches!(
            play(Fault::Close(1012))[1].1,
            Out::Close { code: 1012, .. }
        ));
        assert!(
            matches!(&play(Fault::Oversize(1))[0].1, Out::Text(text) if text.len() > 1024 * 1024)
        );
        assert!(matches!(&play(Fault::Malformed)[0].1, Out::Text(text)
            if serde_json::from_str::<serde_json::Value>(text).is_err()));
        assert!(matches!(&play(Fault::Binary)[0].1, Out::Binary(_)));
        assert!(
            matches!(&play(Fault::EmptyAudio)[0].1, Out::Text(text) if text.contains(r#""audio":"""#))
        );
    }
}
