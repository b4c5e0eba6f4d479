//! What a socket does, without the socket: messages in, replies out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::account::{Account, Credential};
use super::buffer::Buffer;
use super::config::{AlignmentOrigin, Config};
use super::encoder::Encoder;
use super::fault::Fault;
use super::format::Format;
use super::message::{self, Message};
use super::model::Model;
use super::player::Out;
use super::refusal::Refusal;
use super::speech::{Frame, Speech};
use super::utterance::{SharedEncoder, Timings, Utterance};
use super::voice::Voice;
use super::wire::Wire;

/// Replies of one lane keep their order; those of different lanes are sent in turns.
pub(super) type Lane = u32;

/// What is to be sent.
pub(super) enum Reply {
    /// Audio, made when it is due.
    Speak {
        lane: Lane,
        wire: Wire,
        utterance: Utterance,
    },
    /// A frame behind the audio of its lane.
    Say { lane: Lane, frame: String },
    /// The last frame of a lane, behind its audio; the conversation is told when it is out.
    Last { lane: Lane, frame: String },
    /// When all lanes are done: a frame, if any, and a close.
    End {
        frame: Option<String>,
        code: u16,
        reason: String,
    },
    /// At once and in place of all that waits: an error frame and a close.
    Fail {
        frame: String,
        code: u16,
        reason: String,
    },
    /// What was sent in a recorded session, so long after what called for it.
    Replay { delay: Duration, out: Out },
    /// Nothing ever again.
    Mute,
}

/// One socket's side of the protocol. The caller owns the clock and the socket.
pub(super) trait Conversation: Send {
    fn on_message(&mut self, now: Instant, text: &str) -> Vec<Reply>;

    /// When `on_deadline` is to be called.
    fn deadline(&self) -> Option<Instant>;

    fn on_deadline(&mut self, now: Instant) -> Vec<Reply>;

    /// The `Last` of that lane has been sent.
    fn on_last_sent(&mut self, lane: Lane);
}

/// What was agreed at the upgrade, the same for every kind of socket.
pub(super) struct Agreement {
    pub(super) config: Arc<Config>,
    pub(super) account: Arc<Account>,
    pub(super) credential: Option<Credential>,
    pub(super) model: &'static Model,
    pub(super) format: Format,
    pub(super) seed: u32,
    pub(super) sync_alignment: bool,
    pub(super) spell_numbers: bool,
}

impl Agreement {
    /// Judges the credential of the upgrade, else that of the first message.
    pub(super) fn judge(&self, first: &Message) -> Result<(), Refusal> {
        match &self.credential {
            Some(credential) => self.account.judge(Some(credential)),
            None => self.account.judge(first.credential().as_ref()),
        }
    }

    pub(super) fn new_encoder(&self) -> SharedEncoder {
        Arc::new(parking_lot::Mutex::new(Encoder::new(self.format)))
    }

    /// Spends what a segment costs and lays it out.
    pub(super) fn speech(&self, text: &str, voice: &str, speed: f64) -> Result<Speech, Refusal> {
        self.account.spend(text, self.model.halves_per_character)?;
        let voice = Voice::new(voice, self.seed);
        Ok(Speech::new(
            text,
            voice,
            speed,
            self.spell_numbers,
            Frame::Trimmed,
        ))
    }
}

impl Refusal {
    /// The refusal on a text-to-speech socket.
    pub(super) fn fail(&self) -> Reply {
        Reply::Fail {
            frame: self.frame(),
            code: self.code,
            reason: self.reason().to_owned(),
        }
    }

    /// The refusal on a dialogue socket.
    pub(super) fn fail_dialogue(&self) -> Reply {
        Reply::Fail {
            frame: self.dialogue_frame(),
            code: self.code,
            reason: self.reason().to_owned(),
        }
    }
}

/// One text-to-speech stream: a socket of its own, or a context on a shared one.
pub(super) struct TextStream {
    pub(super) lane: Lane,
    wire: Wire,
    buffer: Buffer,
    settings: Option<Value>,
    encoder: SharedEncoder,
    fault: Option<Fault>,
    auto_mode: bool,
}

impl TextStream {
    /// A stream that opens with `first`; without settings of its own it has the `inherited` ones.
    pub(super) fn open(
        first: &Message,
        inherited: Option<&Value>,
        wire: Wire,
        lane: Lane,
        fault: Option<Fault>,
        auto_mode: bool,
        agreement: &Agreement,
    ) -> Self {
        Self {
            lane,
            wire,
            buffer: Buffer::new(&first.schedule()),
            settings: first.get("voice_settings").or(inherited).cloned(),
            encoder: agreement.new_encoder(),
            fault,
            auto_mode,
        }
    }

    pub(super) fn settings(&self) -> Option<&Value> {
        self.settings.as_ref()
    }

    /// Settings may be repeated but not changed.
    pub(super) fn check_settings(&self, message: &Message) -> Result<(), Refusal> {
        match message.get("voice_settings") {
            Some(settings) if Some(settings) != self.settings.as_ref() => {
                Err(Refusal::LATE_VOICE_SETTINGS)
            }
            _ => Ok(()),
        }
    }

    /// Takes in the text of a message and speaks what is due by it.
    pub(super) fn on_text(
        &mut self,
        message: &Message,
        voice: &str,
        agreement: &Agreement,
    ) -> Result<Vec<Reply>, Refusal> {
        self.buffer.push(message.text()?.unwrap_or_default());
        let due = if self.auto_mode || message.flag("flush") {
            // What the schedule has reached by itself is a segment of its own.
            let mut due = if self.auto_mode {
                Vec::new()
            } else {
                self.buffer.take_due()
            };
            due.extend(self.buffer.take_all());
            due
        } else {
            let mut due = self.buffer.take_due();
            if message.flag("try_trigger_generation") {
                due.extend(self.buffer.take_triggered());
            }
            due
        };
        self.speak(due, voice, agreement)
    }

    /// Speaks all that is left.
    pub(super) fn on_end(
        &mut self,
        voice: &str,
        agreement: &Agreement,
    ) -> Result<Vec<Reply>, Refusal> {
        let rest = self.buffer.take_all();
        self.speak(rest, voice, agreement)
    }

    fn speak(
        &mut self,
        segments: Vec<String>,
        voice: &str,
        agreement: &Agreement,
    ) -> Result<Vec<Reply>, Refusal> {
        segments
            .into_iter()
            .map(|text| {
                if self.fault == Some(Fault::SilentFinal) {
                    return Err(Refusal::QUOTA_EXCEEDED);
                }
                let speed = message::speed(self.settings());
                let speech = agreement.speech(&text, voice, speed)?;
                let timings = match (agreement.sync_alignment, agreement.config.sync_alignment) {
                    (false, _) => Timings::First,
                    (true, AlignmentOrigin::Segment) => Timings::Segment,
                    (true, AlignmentOrigin::Context) => Timings::Stream,
                };
                let mut utterance = Utterance::speech(speech, timings, self.encoder.clone());
                utterance.fault = self.fault.take();
                Ok(Reply::Speak {
                    lane: self.lane,
                    wire: self.wire.clone(),
                    utterance,
                })
            })
            .collect()
    }

    /// The rest of the audio and the final frame.
    pub(super) fn finish(self) -> [Reply; 2] {
        let Self {
            lane,
            wire,
            encoder,
            ..
        } = self;
        let frame = wire.last();
        let utterance = Utterance::tail(encoder);
        [
            Reply::Speak {
                lane,
                wire,
                utterance,
            },
            Reply::Last { lane, frame },
        ]
    }
}
