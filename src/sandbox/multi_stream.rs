//! `/v1/text-to-speech/{voice_id}/multi-stream-input`: up to five contexts on one socket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::conversation::{Agreement, Conversation, Lane, Reply, TextStream};
use super::fault::{self, Fault};
use super::message::Message;
use super::refusal::Refusal;
use super::wire::Wire;

/// Contexts that may be open on a socket, closing ones included.
pub(super) const MAX_CONTEXTS: usize = 5;

/// The id of a context; the default one has none.
type Name = Option<Arc<str>>;

/// The socket that speaks several texts side by side. Its inactivity clock is the socket's: a
/// message for any context keeps them all alive.
pub(super) struct MultiStream {
    agreement: Agreement,
    voice: String,
    auto_mode: bool,
    inactivity: Duration,
    last_input: Instant,
    state: State,
    open: Vec<(Name, TextStream)>,
    /// Contexts whose final frame is still to come.
    closing: Vec<(Name, Lane)>,
    next_lane: Lane,
}

enum State {
    Fresh,
    /// The settings of the first message hold for contexts that bring none.
    Open {
        settings: Option<Value>,
        fault: Option<Fault>,
    },
    Done,
}

impl MultiStream {
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
            open: Vec::new(),
            closing: Vec::new(),
            next_lane: 0,
        }
    }

    fn respond(&mut self, text: &str) -> Result<Vec<Reply>, Refusal> {
        let message = Message::parse(text)?;
        if matches!(self.state, State::Fresh) {
            self.agreement.judge(&message)?;
            let fault = fault::check_voice(&self.voice)?;
            if fault == Some(Fault::Mute) {
                self.state = State::Done;
                return Ok(vec![Reply::Mute]);
            }
            let settings = message.get("voice_settings").cloned();
            self.state = State::Open { settings, fault };
        }
        if message.flag("close_socket") {
            return Ok(self.close_socket());
        }
        let name: Name = message.context()?.map(Arc::from);
        let position = self.open.iter().position(|(open, _)| *open == name);
        let closes = message.flag("close_context");
        let index = match position {
            Some(index) => index,
            // Nobody is there to be closed.
            None if closes => return Ok(Vec::new()),
            None => self.open_context(name, &message)?,
        };
        let (_, stream) = &mut self.open[index];
        stream.check_settings(&message)?;
        match stream.on_text(&message, &self.voice, &self.agreement) {
            Ok(mut replies) => {
                if closes {
                    // What was not yet being generated is dropped with the context.
                    replies.extend(self.close(index));
                }
                Ok(replies)
            }
            // Here the end of the credits is silent: a final frame without audio.
            Err(refusal) if refusal == Refusal::QUOTA_EXCEEDED => Ok(self.close(index).into()),
            Err(refusal) => Err(refusal),
        }
    }

    fn open_context(&mut self, name: Name, message: &Message) -> Result<usize, Refusal> {
        if self.open.len() + self.closing.len() >= MAX_CONTEXTS {
            return Err(Refusal::MAX_CONTEXTS);
        }
        let State::Open { settings, fault } = &mut self.state else {
            return Err(Refusal::invalid_message("The socket is closing."));
        };
        // A reused id follows the audio of its former owner.
        let former = self.closing.iter().find(|(closing, _)| *closing == name);
        let lane = former.map_or(self.next_lane, |(_, lane)| *lane);
        self.next_lane += 1;
        let wire = Wire::Multi(name.clone());
        let fault = match fault {
            Some(Fault::SilentFinal) => *fault,
            _ => fault.take(),
        };
        let (inherited, auto) = (settings.as_ref(), self.auto_mode);
        let stream = TextStream::open(message, inherited, wire, lane, fault, auto, &self.agreement);
        self.open.push((name, stream));
        Ok(self.open.len() - 1)
    }

    fn close(&mut self, index: usize) -> [Reply; 2] {
        let (name, stream) = self.open.remove(index);
        self.closing.push((name, stream.lane));
        stream.finish()
    }

    fn close_socket(&mut self) -> Vec<Reply> {
        self.state = State::Done;
        let mut replies = Vec::new();
        while !self.open.is_empty() {
            let (_, stream) = &mut self.open[0];
            // Without credits the context ends in a silent final, as everywhere here.
            replies.extend(
                stream
                    .on_end(&self.voice, &self.agreement)
                    .unwrap_or_default(),
            );
            replies.extend(self.close(0));
        }
        replies.push(Reply::End {
            frame: None,
            code: 1000,
            reason: String::new(),
        });
        replies
    }
}

impl Conversation for MultiStream {
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

    fn on_last_sent(&mut self, lane: Lane) {
        if let Some(index) = self
            .closing
            .iter()
            .position(|(_, closing)| *closing == lane)
        {
            self.closing.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::super::script::{Script, agreement, config};
    use super::*;

    fn script_with(config: Config, voice: &str) -> Script {
        let now = Instant::now();
        let limit = Duration::from_secs(20);
        Script::new(
            MultiStream::new(agreement(config), voice.into(), false, limit, now),
            now,
        )
    }

    fn script(voice: &str) -> Script {
        script_with(config(), voice)
    }

    fn last(context: &str) -> String {
        format!(
            r#"{{"audio":null,"isFinal":true,"normalizedAlignment":null,"alignment":null,"contextId":"{context}"}}"#
        )
    }

    #[test]
    fn livekit_s_flow_ends_in_one_final() {
        let mut script = script("AdaTone0000000000001");
        script.send(r#"{"text":" ","voice_settings":{},"context_id":"c","xi_api_key":"k"}"#);
        script.send(r#"{"text":"One. ","context_id":"c","flush":true}"#);
        script.send(r#"{"text":"","context_id":"c","flush":true}"#);
        assert_eq!(script.log(), ["audio:One. c"]);
        script.send(r#"{"context_id":"c","close_context":true}"#);
        assert_eq!(script.log(), ["audio:nullc".to_owned(), last("c")]);
        script.send(r#"{"context_id":"c","close_context":true}"#);
        assert!(script.log().is_empty());
    }

    #[test]
    fn close_context_drops_what_was_not_begun() {
        let mut script = script("AdaTone0000000000001");
        script.send(r#"{"text":"Never said. ","contextId":"c","xi_api_key":"k"}"#);
        script.send(r#"{"contextId":"c","close_context":true}"#);
        assert_eq!(script.log(), [last("c")]);
    }

    #[test]
    fn a_closing_context_holds_its_slot_until_its_final_is_out() {
        let mut script = script("AdaTone0000000000001");
        script.hold();
        for id in ["1", "2", "3", "4", "5"] {
            script.send(
                &serde_json::json!({"text":"Hi ","context_id":id,"xi_api_key":"k","flush":true})
                    .to_string(),
            );
        }
        script.send(r#"{"context_id":"1","close_context":true}"#);
        script.release();
        script.log();
        script.send(r#"{"text":" ","context_id":"6"}"#);
        assert!(script.log().is_empty());
        script.hold();
        script.send(r#"{"context_id":"6","close_context":true}"#);
        script.send(r#"{"text":" ","context_id":"7"}"#);
        script.release();
        let log = script.log();
        assert!(log[0].contains("max_active_conversations"), "{log:?}");
        assert!(
            log[0].contains("Maximum simultaneous contexts per WebSocket connection exceeded (5)")
        );
    }

    #[test]
    fn an_id_can_be_used_again_while_its_first_owner_closes() {
        let mut script = script("AdaTone0000000000001");
        script.hold();
        script.send(r#"{"text":"Old. ","context_id":"a","flush":true,"xi_api_key":"k"}"#);
        script.send(r#"{"context_id":"a","close_context":true}"#);
        script.send(r#"{"text":"New. ","context_id":"a","flush":true}"#);
        script.release();
        assert_eq!(
            script.log(),
            [
                "audio:Old. a".to_owned(),
                "audio:nulla".to_owned(),
                last("a"),
                "audio:New. a".to_owned()
            ]
        );
    }

    #[test]
    fn a_keepalive_before_the_first_message_makes_settings_late() {
        let mut script = script("AdaTone0000000000001");
        script.send(r#"{"text":"","context_id":"a","xi_api_key":"k"}"#);
        script.send(r#"{"text":" ","context_id":"a","voice_settings":{"stability":0.4}}"#);
        assert!(script.log()[0].contains("voice_settings field must be provided"));
    }

    #[test]
    fn settings_of_the_first_message_carry_over() {
        let mut script = script("AdaTone0000000000001");
        script.send(
            r#"{"text":" ","context_id":"a","voice_settings":{"speed":1.2},"xi_api_key":"k"}"#,
        );
        script.send(r#"{"text":"Hi ","context_id":"b"}"#);
        script.send(r#"{"text":"Hi ","context_id":"b","voice_settings":{"speed":1.2}}"#);
        assert!(script.log().is_empty());
    }

    #[test]
    fn the_default_context_has_no_id() {
        let mut script = script("AdaTone0000000000001");
        script.send(r#"{"text":"Hi ","xi_api_key":"k"}"#);
        script.send(r#"{"text":""}"#);
        assert!(script.log().is_empty());
        script.send(r#"{"close_socket":true}"#);
        let log = script.log();
        assert_eq!(log[0], "audio:Hi null");
        assert!(log[2].ends_with(r#""contextId":null}"#));
        assert_eq!(log[3], "close 1000 ");
    }

    #[test]
    fn without_credits_the_final_is_silent() {
        let config = Config {
            character_limit: Some(3),
            ..config()
        };
        let mut script = script_with(config, "AdaTone0000000000001");
        script.send(r#"{"text":"Long enough. ","context_id":"a","xi_api_key":"k","flush":true}"#);
        assert_eq!(script.log(), [last("a")]);
    }

    #[test]
    fn a_message_for_any_context_keeps_the_socket() {
        let mut script = script("AdaTone0000000000001");
        script.send(r#"{"text":" ","context_id":"a","xi_api_key":"k"}"#);
        script.advance(Duration::from_secs(15));
        script.send(r#"{"text":""}"#);
        script.advance(Duration::from_secs(15));
        assert!(script.log().is_empty());
        script.advance(Duration::from_secs(6));
        assert!(script.log()[0].contains("input_timeout_exceeded"));
    }
}
