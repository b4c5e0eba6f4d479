//! Lets a conversation be written down in tests: messages in, a readable log out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::account::Account;
use super::config::Config;
use super::conversation::{Agreement, Conversation};
use super::format::{Endpoint, Format};
use super::model;
use super::player::{Out, Player};

pub(super) fn config() -> Config {
    Config::immediate()
}

/// What a socket with `ulaw_8000` and no credential in its head agrees on.
pub(super) fn agreement(config: Config) -> Agreement {
    Agreement {
        account: Arc::new(Account::new(&config)),
        config: Arc::new(config),
        credential: None,
        model: model::find("eleven_multilingual_v2").expect("a known model"),
        format: Format::parse("ulaw_8000", Endpoint::Stream).expect("a known format"),
        seed: 0,
        sync_alignment: false,
        spell_numbers: true,
    }
}

/// A conversation on a clock that only the test moves.
pub(super) struct Script {
    conversation: Box<dyn Conversation>,
    player: Player,
    now: Instant,
    is_held: bool,
    log: Vec<String>,
}

impl Script {
    pub(super) fn new(conversation: impl Conversation + 'static, now: Instant) -> Self {
        let (conversation, player) = (Box::new(conversation), Player::new(&config()));
        Self {
            conversation,
            player,
            now,
            is_held: false,
            log: Vec::new(),
        }
    }

    pub(super) fn send(&mut self, message: &str) {
        let replies = self.conversation.on_message(self.now, message);
        self.player.push(self.now, replies);
        self.pump();
    }

    /// Lets time pass, and strike.
    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        if self
            .conversation
            .deadline()
            .is_some_and(|deadline| deadline <= self.now)
        {
            let replies = self.conversation.on_deadline(self.now);
            self.player.push(self.now, replies);
        }
        self.pump();
    }

    /// From here on nothing leaves the socket,
    pub(super) fn hold(&mut self) {
        self.is_held = true;
    }

    /// until here.
    pub(super) fn release(&mut self) {
        self.is_held = false;
        self.pump();
    }

    fn pump(&mut self) {
        while !self.is_held
            && let Some(out) = self.player.pop(self.now)
        {
            if let Out::Last(lane, _) = &out {
                self.conversation.on_last_sent(*lane);
            }
            self.log.push(line(out));
        }
    }

    /// What was sent since it was last asked. Audio is written as the text of its alignment, with
    /// the context of the text-to-speech sockets behind it.
    pub(super) fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

fn line(out: Out) -> String {
    match out {
        Out::Text(text) | Out::Last(_, text) => audio_line(&text).unwrap_or(text),
        Out::Close { code, reason } => format!("close {code} {reason}"),
        other => format!("{other:?}"),
    }
}

fn audio_line(text: &str) -> Option<String> {
    let frame: Value = serde_json::from_str(text).ok()?;
    frame["audio"].as_str()?;
    let said = match frame["alignment"]["chars"].as_array() {
        Some(chars) => chars.iter().filter_map(Value::as_str).collect(),
        None => "null".to_owned(),
    };
    let context = frame
        .get("contextId")
        .map(|id| id.as_str().unwrap_or("null"));
    Some(format!("audio:{said}{}", context.unwrap_or_default()))
}
