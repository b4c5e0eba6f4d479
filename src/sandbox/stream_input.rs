//! `/v1/text-to-speech/{voice_id}/stream-input`: one voice, one stream, ended by an empty text.

use std::time::{Duration, Instant};

use super::conversation::{Agreement, Conversation, Lane, Reply, TextStream};
use super::fault::{self, Fault};
use super::message::Message;
use super::refusal::Refusal;
use super::wire::Wire;

/// The socket that speaks one text.
pub(super) struct StreamInput {
    agreement: Agreement,
    voice: String,
    auto_mode: bool,
    inactivity: Duration,
    last_input: Instant,
    state: State,
}

enum State {
    Fresh,
    Open(TextStream),
    Done,
}

impl StreamInput {
    pub(super) fn new(
        agreement: Agreement,
        voice: String,
        auto_mode: bool,
        inactivity: Duration,
        now: Instant,
    ) -> Self {
        Self {
            agreement,
            voice,
            auto_mode,
            inactivity,
            last_input: now,
            state: State::Fresh,
        }
    }

    fn respond(&mut self, text: &str) -> Result<Vec<Reply>, Refusal> {
        let message = Message::parse(text)?;
        let mut stream = match std::mem::replace(&mut self.state, State::Done) {
            State::Done => return Ok(Vec::new()),
            State::Open(stream) => {
                stream.check_settings(&message)?;
                stream
            }
            State::Fresh => {
                self.agreement.judge(&message)?;
                let fault = fault::check_voice(&self.voice)?;
                if fault == Some(Fault::Mute) {
                    return Ok(vec![Reply::Mute]);
                }
                let (wire, auto) = (Wire::Single, self.auto_mode);
                TextStream::open(&message, None, wire, 0, fault, auto, &self.agreement)
            }
        };
        // A true `flush` makes an empty text a flush rather than the end.
        if message.text()? == Some("") && !message.flag("flush") {
            let mut replies = match stream.on_end(&self.voice, &self.agreement) {
                Err(_) if self.is_silent() => Vec::new(),
                spoken => spoken?,
            };
            replies.extend(stream.finish());
            replies.push(Reply::End {
                frame: None,
                code: 1000,
                reason: String::new(),
            });
            return Ok(replies);
        }
        let replies = match stream.on_text(&message, &self.voice, &self.agreement) {
            Err(_) if self.is_silent() => Vec::new(),
            spoken => spoken?,
        };
        self.state = State::Open(stream);
        Ok(replies)
    }

    fn is_silent(&self) -> bool {
        Fault::of_voice(&self.voice) == Some(Fault::SilentFinal)
    }
}

impl Conversation for StreamInput {
    fn on_message(&mut self, now: Instant, text: &str) -> Vec<Reply> {
        if matches!(self.state, State::Done) {
            return Vec::new();
        }
        self.last_input = now;
        self.respond(text).unwrap_or_else(|refusal| {
            self.state = State::Done;
            vec![refusal.fail()]
        })
    }

    fn deadline(&self) -> Option<Instant> {
        (!matches!(self.state, State::Done)).then(|| self.last_input + self.inactivity)
    }

    fn on_deadline(&mut self, _now: Instant) -> Vec<Reply> {
        self.state = State::Done;
        vec![Refusal::input_timeout(self.inactivity.as_secs_f64()).fail()]
    }

    fn on_last_sent(&mut self, _lane: Lane) {}
}

#[cfg(test)]
mod tests {
    use super::super::script::{Script, agreement, config};
    use super::*;

    fn script(voice: &str, auto_mode: bool) -> Script {
        let now = Instant::now();
        let limit = Duration::from_secs(20);
        Script::new(
            StreamInput::new(agreement(config()), voice.into(), auto_mode, limit, now),
            now,
        )
    }

    const FINAL: &str =
        r#"{"audio":null,"isFinal":true,"normalizedAlignment":null,"alignment":null}"#;

    #[test]
    fn the_recorded_session_plays_again() {
        let mut script = script("AdaTone0000000000001", false);
        for text in [" ", "Hel", "lo", " world", "."] {
            script.send(&serde_json::json!({ "text": text, "xi_api_key": "k" }).to_string());
            assert!(script.log().is_empty());
        }
        script.send(r#"{"text":" ","flush":true}"#);
        assert_eq!(script.log(), ["audio:Hello world. "]);
        script.send(r#"{"text":""}"#);
        assert_eq!(script.log(), ["audio:null", FINAL, "close 1000 "]);
    }

    #[test]
    fn auto_mode_speaks_every_message_by_itself() {
        let mut script = script("AdaTone0000000000001", true);
        script.send(r#"{"text":" ","xi_api_key":"k"}"#);
        for text in ["Hel", "lo", " world", "."] {
            script.send(&serde_json::json!({ "text": text }).to_string());
        }
        assert_eq!(
            script.log(),
            ["audio:Hel ", "audio:lo ", "audio:world ", "audio:. "]
        );
    }

    #[test]
    fn a_keepalive_is_text() {
        let mut script = script("AdaTone0000000000001", false);
        for text in ["Hi", " ", " there."] {
            script.send(&serde_json::json!({ "text": text, "xi_api_key": "k" }).to_string());
        }
        script.send(r#"{"flush":true}"#);
        assert_eq!(script.log(), ["audio:Hi  there. "]);
    }

    #[test]
    fn an_empty_flush_is_no_end_of_text() {
        let mut script = script("AdaTone0000000000001", false);
        script.send(r#"{"text":"Hi","xi_api_key":"k"}"#);
        script.send(r#"{"text":"","flush":true}"#);
        assert_eq!(script.log(), ["audio:Hi "]);
        script.send(r#"{"text":"again"}"#);
        script.send(r#"{"text":""}"#);
        assert_eq!(
            script.log(),
            ["audio:again ", "audio:null", FINAL, "close 1000 "]
        );
        script.send(r#"{"text":"too late"}"#);
        assert!(script.log().is_empty());
    }

    #[test]
    fn no_text_at_all_ends_in_a_final_without_audio() {
        let mut script = script("AdaTone0000000000001", false);
        script.send(r#"{"text":" ","xi_api_key":"k"}"#);
        script.send(r#"{"text":""}"#);
        assert_eq!(script.log(), [FINAL, "close 1000 "]);
    }

    #[test]
    fn refusals_come_after_the_first_message() {
        #[track_caller]
        fn check(voice: &str, first: &str, error: &str) {
            let mut script = script(voice, false);
            assert!(script.log().is_empty());
            script.send(first);
            let log = script.log();
            assert!(
                log[0].contains(&format!(r#""error":"{error}","code":1008"#)),
                "{log:?}"
            );
            assert!(log[1].starts_with("close 1008 "), "{log:?}");
        }
        let ada = "AdaTone0000000000001";
        check(ada, r#"{"text":" "}"#, "needs_authorization");
        check(
            ada,
            r#"{"text":" ","xi-api-key":"invalid"}"#,
            "invalid_api_key",
        );
        check(
            ada,
            r#"{"text":" ","authorization":"Bearer invalid"}"#,
            "invalid_api_key",
        );
        check(
            "nope",
            r#"{"text":" ","xi_api_key":"k"}"#,
            "voice_id_does_not_exist",
        );
        check(
            "fault-quota",
            r#"{"text":" ","xi_api_key":"k"}"#,
            "quota_exceeded",
        );
        check(ada, "{", "invalid_message");
        check(ada, r#"{"text":7,"xi_api_key":"k"}"#, "invalid_message");
    }

    #[test]
    fn settings_may_be_repeated_but_neither_changed_nor_late() {
        let mut script = script("AdaTone0000000000001", false);
        script.send(r#"{"text":" ","xi_api_key":"k","voice_settings":{"speed":1.1}}"#);
        script.send(r#"{"text":"a ","voice_settings":{"speed":1.1}}"#);
        assert!(script.log().is_empty());
        script.send(r#"{"text":"b ","voice_settings":{"speed":1.2}}"#);
        let log = script.log();
        assert!(log[0].contains("voice_settings field must be provided in the first message"));
        assert!(log[1].starts_with("close 1008"));
    }

    #[test]
    fn only_messages_restart_the_inactivity_clock() {
        let mut script = script("AdaTone0000000000001", false);
        script.advance(Duration::from_secs(19));
        script.send(r#"{"text":" ","xi_api_key":"k"}"#);
        script.advance(Duration::from_secs(19));
        assert!(script.log().is_empty());
        script.advance(Duration::from_secs(1));
        let log = script.log();
        assert!(
            log[0].contains("within the timeout of 20.0 seconds"),
            "{log:?}"
        );
        assert!(log[0].contains("input_timeout_exceeded"));
    }

    #[test]
    fn a_silent_final_has_no_audio() {
        let mut script = script("fault-silent-final", false);
        script.send(r#"{"text":"Hello ","xi_api_key":"k","flush":true}"#);
        script.send(r#"{"text":""}"#);
        assert_eq!(script.log(), [FINAL, "close 1000 "]);
    }
}
