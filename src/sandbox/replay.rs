//! A socket that answers as upstream did in a recorded session with the same text.
//!
//! What upstream sent then is sent once the client has said what had been said before. It matters
//! what a client says, not how it cuts it into messages; settings and credentials do not matter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::ReplayPace;
use super::conversation::{Conversation, Lane, Reply};
use super::player::Out;
use super::recording::{Recording, Said};
use super::refusal::Refusal;

/// A socket that follows a recording.
pub(super) struct Replay {
    /// The recordings that begin like this conversation; the first is followed.
    candidates: Vec<Arc<Recording>>,
    said: Said,
    /// The next cue of the recording that is followed.
    next_cue: usize,
    pace: ReplayPace,
    is_dialogue: bool,
    /// Set until what upstream sent unasked has been sent.
    opens_at: Option<Instant>,
    is_done: bool,
}

impl Replay {
    /// Follows one of `candidates`, the first preferred.
    pub(super) fn new(
        candidates: Vec<Arc<Recording>>,
        pace: ReplayPace,
        is_dialogue: bool,
        now: Instant,
    ) -> Self {
        Self {
            candidates,
            said: Said::default(),
            next_cue: 0,
            pace,
            is_dialogue,
            opens_at: Some(now),
            is_done: false,
        }
    }

    /// Gives up the recordings that went on differently.
    fn choose(&mut self, n_said_before: usize) {
        let followed = self.candidates.first().cloned();
        self.candidates
            .retain(|recording| recording.begins_with(&self.said));
        let (Some(followed), Some(chosen)) = (followed, self.candidates.first()) else {
            return;
        };
        if !Arc::ptr_eq(&followed, chosen) && self.next_cue > 0 {
            // What was due before has been said in the other recording's way.
            self.next_cue = chosen
                .cues
                .partition_point(|cue| cue.after <= n_said_before);
        }
    }

    /// What is due by what has been said.
    fn due(&mut self) -> Vec<Reply> {
        let Some(recording) = self.candidates.first() else {
            return Vec::new();
        };
        let mut replies = Vec::new();
        while let Some(cue) = recording.cues.get(self.next_cue)
            && cue.after <= self.said.steps.len()
        {
            self.next_cue += 1;
            let out = match &cue.out {
                Out::Text(frame) => Out::Text(with_contexts(
                    frame,
                    &recording.said.contexts,
                    &self.said.contexts,
                )),
                out => {
                    self.is_done |= matches!(out, Out::Close { .. } | Out::Drop);
                    out.clone()
                }
            };
            let delay = match self.pace {
                ReplayPace::Recorded => cue.delay,
                ReplayPace::Fast => Duration::ZERO,
            };
            replies.push(Reply::Replay { delay, out });
        }
        replies
    }
}

impl Conversation for Replay {
    fn on_message(&mut self, _now: Instant, text: &str) -> Vec<Reply> {
        if self.is_done {
            return Vec::new();
        }
        self.opens_at = None;
        let n_said_before = self.said.steps.len();
        self.said.hear(text);
        self.choose(n_said_before);
        if self.candidates.is_empty() {
            self.is_done = true;
            let refusal = Refusal::NO_RECORDING;
            return vec![if self.is_dialogue {
                refusal.fail_dialogue()
            } else {
                refusal.fail()
            }];
        }
        self.due()
    }

    fn deadline(&self) -> Option<Instant> {
        self.opens_at
    }

    fn on_deadline(&mut self, _now: Instant) -> Vec<Reply> {
        self.opens_at = None;
        self.due()
    }

    fn on_last_sent(&mut self, _lane: Lane) {}
}

/// A frame with the context's name of this conversation in place of the recorded one.
fn with_contexts(frame: &str, recorded: &[Option<String>], now: &[Option<String>]) -> String {
    let new_name = |old: &str| {
        let index = recorded
            .iter()
            .position(|name| name.as_deref() == Some(old))?;
        now.get(index)?.as_deref().filter(|new| *new != old)
    };
    let mut out = String::new();
    let mut rest = frame;
    // No base64 and no text of one character holds a quote and then a key.
    while let Some((before, after)) = split_behind_context_key(rest) {
        out.push_str(before);
        rest = after;
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
        if let Some(Ok(old)) = values.next()
            && let Some(new) = new_name(&old)
        {
            out.push_str(&serde_json::Value::from(new).to_string());
            rest = &after[values.byte_offset()..];
        }
    }
    out.push_str(rest);
    out
}

/// Splits behind the first `"contextId":` or `"context_id":`.
fn split_behind_context_key(text: &str) -> Option<(&str, &str)> {
    let behind = |key: &str| {
        text.match_indices(key).find_map(|(at, key)| {
            let rest = &text[at + key.len()..];
            let value = rest.trim_start().strip_prefix(':')?.trim_start();
            Some(text.len() - value.len())
        })
    };
    let at = [behind(r#""contextId""#), behind(r#""context_id""#)]
        .into_iter()
        .flatten()
        .min()?;
    Some(text.split_at(at))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::super::script::Script;
    use super::*;

    const HEAD: &str = r#"{"xi_relay_recording":1,"session":"s","endpoint":"stream-input","voice":"ada","query":"","started_ms":0}"#;

    /// A recording of `(who, at_ms, what)`; a number is a close.
    fn recording(rows: &[(&str, u64, &str)]) -> Arc<Recording> {
        let mut text = HEAD.to_owned();
        for (from, at_ms, data) in rows {
            let row = match data.parse::<u16>() {
                Ok(code) => {
                    serde_json::json!({"at_ms": at_ms, "from": from, "kind": "close", "code": code, "reason": "bye"})
                }
                Err(_) => {
                    serde_json::json!({"at_ms": at_ms, "from": from, "kind": "text", "data": data})
                }
            };
            text.push_str(&format!("\n{row}"));
        }
        Arc::new(Recording::parse(&text).unwrap().1)
    }

    fn hello() -> Arc<Recording> {
        recording(&[
            ("client", 0, r#"{"text":" "}"#),
            ("client", 10, r#"{"text":"Hello "}"#),
            ("client", 20, r#"{"text":"there. ","flush":true}"#),
            ("upstream", 320, "one"),
            ("client", 400, r#"{"text":""}"#),
            ("upstream", 410, "two"),
            ("upstream", 900, "1000"),
        ])
    }

    fn bye() -> Arc<Recording> {
        recording(&[
            ("client", 0, r#"{"text":" "}"#),
            ("client", 10, r#"{"text":"Bye. ","flush":true}"#),
            ("upstream", 20, "three"),
            ("client", 30, "1000"),
            ("upstream", 40, "1000"),
        ])
    }

    fn script(candidates: &[Arc<Recording>], pace: ReplayPace) -> Script {
        let now = Instant::now();
        Script::new(Replay::new(candidates.to_vec(), pace, false, now), now)
    }

    #[test]
    fn upstream_answers_once_the_client_has_said_what_came_before() {
        let mut script = script(&[hello()], ReplayPace::Fast);
        script.send(r#"{"text":" ","xi_api_key":"whatever","voice_settings":{"speed":1.1}}"#);
        script.send(r#"{"text":"Hello "}"#);
        assert!(script.log().is_empty());
        script.send(r#"{"text":"there. ","flush":true}"#);
        assert_eq!(script.log(), ["one"]);
        script.send(r#"{"text":""}"#);
        assert_eq!(script.log(), ["two", "close 1000 bye"]);
        script.send(r#"{"text":"too late"}"#);
        assert!(script.log().is_empty());
    }

    #[test]
    fn text_may_be_cut_into_messages_in_another_way() {
        let mut script = script(&[hello()], ReplayPace::Fast);
        script.send(r#"{"text":" Hel"}"#);
        script.send(r#"{"text":"lo there. "}"#);
        assert!(script.log().is_empty());
        script.send(r#"{"flush":true}"#);
        assert_eq!(script.log(), ["one"]);
    }

    #[test]
    fn the_recording_that_fits_is_followed() {
        let mut script = script(&[hello(), bye()], ReplayPace::Fast);
        script.send(r#"{"text":" "}"#);
        script.send(r#"{"text":"Bye. ","flush":true}"#);
        // What came after the client's close is not sent.
        assert_eq!(script.log(), ["three"]);
    }

    #[test]
    fn what_was_not_recorded_is_refused() {
        for said in [
            r#"{"text":"Hello you"}"#,
            r#"{"flush":true}"#,
            "[",
            r#"{"voices":[]}"#,
        ] {
            let mut script = script(&[hello(), bye()], ReplayPace::Fast);
            script.send(r#"{"text":" "}"#);
            script.send(said);
            let log = script.log();
            assert!(
                log[0].contains(r#""error":"no_recording","code":1008"#),
                "{log:?}"
            );
            assert!(log[1].starts_with("close 1008 "), "{log:?}");
        }
        let mut script = script(&[], ReplayPace::Fast);
        assert!(script.log().is_empty());
        script.send(r#"{"text":" "}"#);
        assert!(script.log()[0].contains("no_recording"));
    }

    #[test]
    fn another_recording_takes_over_where_the_first_went_another_way() {
        let rows = |last, answer| {
            recording(&[
                ("client", 0, r#"{"text":"A. ","flush":true}"#),
                ("upstream", 1, "to A"),
                ("client", 2, last),
                ("upstream", 3, answer),
            ])
        };
        let candidates = [
            rows(r#"{"text":"B. "}"#, "to B"),
            rows(r#"{"text":"C. "}"#, "to C"),
        ];
        let mut script = script(&candidates, ReplayPace::Fast);
        script.send(r#"{"text":"A. ","flush":true}"#);
        assert_eq!(script.log(), ["to A"]);
        script.send(r#"{"text":"C. "}"#);
        assert_eq!(script.log(), ["to C"]);
    }

    #[test]
    fn at_the_recorded_pace_answers_take_as_long_as_then() {
        let mut script = script(&[hello()], ReplayPace::Recorded);
        script.send(r#"{"text":" Hello there. ","flush":true}"#);
        script.advance(Duration::from_millis(299));
        assert!(script.log().is_empty());
        script.advance(Duration::from_millis(1));
        assert_eq!(script.log(), ["one"]);
        script.send(r#"{"text":""}"#);
        script.advance(Duration::from_millis(10));
        assert_eq!(script.log(), ["two"]);
        script.advance(Duration::from_millis(489));
        assert!(script.log().is_empty());
        script.advance(Duration::from_millis(1));
        assert_eq!(script.log(), ["close 1000 bye"]);
    }

    #[test]
    fn what_upstream_says_first_needs_no_message() {
        let first = recording(&[("upstream", 5, "hi"), ("upstream", 6, "1008")]);
        let mut script = script(&[first], ReplayPace::Fast);
        script.advance(Duration::ZERO);
        assert_eq!(script.log(), ["hi", "close 1008 bye"]);
    }

    #[test]
    fn contexts_may_have_other_names() {
        let two = recording(&[
            ("client", 0, r#"{"text":"A. ","context_id":"a"}"#),
            ("client", 1, r#"{"text":"B. ","context_id":"b"}"#),
            ("upstream", 2, r#"{"audio":"AA==","contextId":"b"}"#),
            (
                "upstream",
                2,
                r#"{"is_final":true, "context_id" : "a", "x":1}"#,
            ),
            ("upstream", 2, r#"{"contextId":null}"#),
        ]);
        let mut script = script(&[two], ReplayPace::Fast);
        script.send(r#"{"text":"A. ","context_id":"b"}"#);
        script.send(r#"{"text":"B. ","context_id":"a\n"}"#);
        assert_eq!(
            script.log(),
            [
                r#"audio:nulla
"#,
                r#"{"is_final":true, "context_id" : "b", "x":1}"#,
                r#"{"contextId":null}"#,
            ]
        );
    }

    #[test]
    fn voices_of_a_dialogue_matter() {
        let dialogue = recording(&[
            ("client", 0, r#"{"voices":["ada","bob"]}"#),
            (
                "client",
                1,
                r#"{"inputs":[{"text":"A","voice_id":"ada"},{"text":"B","voice_id":"bob"}]}"#,
            ),
            ("upstream", 2, "both"),
        ]);
        let said = |inputs: &[&str]| {
            let mut script = script(&[Arc::clone(&dialogue)], ReplayPace::Fast);
            script.send(r#"{"voices":["ada","bob"]}"#);
            for input in inputs {
                script.send(input);
            }
            script.log()
        };
        let (ada, bob) = (
            r#"{"inputs":[{"text":"A","voice_id":"ada"}]}"#,
            r#"{"inputs":[{"text":"B","voice_id":"bob"}]}"#,
        );
        assert_eq!(said(&[ada, bob]), ["both"]);
        assert!(said(&[bob])[0].contains("no_recording"));
    }

    #[test]
    fn what_is_no_recording_is_named_by_its_line() {
        let check = |text: &str, line| assert_eq!(Recording::parse(text).unwrap_err().0, line);
        check("", 1);
        check("{}", 1);
        check(&HEAD.replace("recording\":1", "recording\":2"), 1);
        check(&format!("{HEAD}\n{{}}"), 2);
    }
}
