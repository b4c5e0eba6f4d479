//! From upstream to the client: the very bytes that were read.
//!
//! A message is held until it is whole, so that a session that breaks off can still tell the
//! client why, and that a secret which upstream quotes in it can be taken out. One larger than
//! [`MAX_HELD_BYTES`] goes on as it comes, unsearched: a secret may lie across two pieces of it, and
//! its length has been announced before its words are there.

use std::task::{Context, Poll, ready};

use super::super::intake::Intake;
use super::super::scratch::with_read_buffer;
use super::super::{SessionEnd, Transport};
use super::{Relay, Taken};
use crate::frame::{Close, Fault, Frame, Opcode, Step, write_frame};
use crate::ids::Side;
use crate::protocol::{ServerMessage, look};

/// Messages up to here reach the client whole or not at all: the official Python client takes no
/// larger ones.
pub(in super::super) const MAX_HELD_BYTES: u64 = 1024 * 1024;

/// How much of a message that is passed on in pieces is kept to tell what it was.
const HEAD_BYTES: usize = 4096;

/// What has been read of a message whose end has not come.
#[derive(Default)]
pub(in super::super) struct Down {
    /// The whole frames of a fragmented message.
    held: Vec<u8>,
    /// Their payload.
    assembled: Vec<u8>,
    /// A message too large to be held.
    passing: Option<Box<Passing>>,
}

struct Passing {
    /// What is to come of the frame that has begun.
    frame_left: u64,
    frame_fin: bool,
    message_bytes: u64,
    head: Vec<u8>,
}

impl Down {
    /// Whether a frame of the relay's own may be written to the client now.
    pub(in super::super) fn is_at_frame_border(&self) -> bool {
        self.passing
            .as_ref()
            .is_none_or(|passing| passing.frame_left == 0)
    }

    /// Whether the client has seen the start of a message but not its end: then it can be sent a
    /// close frame, but no message.
    pub(in super::super) fn is_inside_message(&self) -> bool {
        self.passing.is_some()
    }
}

impl<C, U> Relay<C, U>
where
    C: Transport,
    U: Transport,
{
    pub(super) fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        with_read_buffer(|buffer| {
            let mut intake = std::mem::take(&mut self.upstream.carry).resume(buffer);
            let polled = self.poll_down_through(cx, &mut intake);
            self.upstream.carry = intake.into_carry();
            polled
        })
    }

    fn poll_down_through(
        &mut self,
        cx: &mut Context<'_>,
        intake: &mut Intake<'_>,
    ) -> Poll<SessionEnd> {
        loop {
            let was_stalled = self.client.is_stalled();
            let drained = ready!(self.client.poll_drain(cx, self.now));
            if was_stalled {
                // What it has just taken counts as said just now.
                self.last_message = self.now;
            }
            if drained.is_err() {
                return Poll::Ready(self.lost(Side::Client));
            }
            if let Err(end) = self.pay_pongs(cx) {
                return Poll::Ready(end);
            }
            if let Err(end) = ready!(self.poll_side(cx, Side::Upstream, intake)) {
                return Poll::Ready(end);
            }
        }
    }

    pub(super) fn take_from_upstream(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Result<Taken, SessionEnd> {
        let mut taken = 0;
        // What has been judged but not written: one write for all messages of a read.
        let mut run_start = 0;
        loop {
            if !self.down.is_at_frame_border() {
                taken += self.pass_piece(&bytes[taken..])?;
                if taken == bytes.len() && !self.down.is_at_frame_border() {
                    self.write_down(cx, &bytes[run_start..taken])?;
                    return Ok(Taken {
                        consumed: taken,
                        needs: 1,
                    });
                }
                continue;
            }
            let rest = &bytes[taken..];
            let step = match self.upstream.reader.step(rest) {
                Ok(step) => step,
                Err(fault) => return Err(self.fail(cx, &bytes[run_start..taken], fault)),
            };
            match step {
                Step::Frame(frame) if frame.is_message() => {
                    let payload = &rest[frame.payload.clone()];
                    let is_text = match frame.text(payload) {
                        Ok(text) => text.is_some(),
                        Err(fault) => return Err(self.fail(cx, &bytes[run_start..taken], fault)),
                    };
                    if let Some(rewritten) = self.on_upstream_message(payload, is_text) {
                        self.write_down(cx, &bytes[run_start..taken])?;
                        self.write_down(cx, &rewritten)?;
                        run_start = taken + frame.len;
                    }
                    taken += frame.len;
                }
                Step::Need(needs) => {
                    self.write_down(cx, &bytes[run_start..taken])?;
                    return Ok(Taken {
                        consumed: taken,
                        needs,
                    });
                }
                Step::Large(header) => {
                    self.write_down(cx, &bytes[run_start..taken])?;
                    run_start = taken;
                    taken += header.len;
                    self.begin_passing(cx, header.payload_len, header.fin)?;
                }
                Step::Frame(frame) => {
                    self.take_part(cx, &frame, rest, &bytes[run_start..taken])?;
                    taken += frame.len;
                    run_start = taken;
                }
            }
        }
    }

    /// Ends the session behind `run`, which is still written.
    #[cold]
    fn fail(&mut self, cx: &mut Context<'_>, run: &[u8], fault: Fault) -> SessionEnd {
        match self.write_down(cx, run) {
            Ok(()) => faulty(fault),
            Err(end) => end,
        }
    }

    /// Takes the control frame or the fragment that `bytes` begin with, behind `run`.
    #[cold]
    fn take_part(
        &mut self,
        cx: &mut Context<'_>,
        frame: &Frame,
        bytes: &[u8],
        run: &[u8],
    ) -> Result<(), SessionEnd> {
        let payload = &bytes[frame.payload.clone()];
        match frame.opcode {
            // What was said right before it leaves with the close frame.
            Opcode::Close => self.client.hold(run),
            _ => self.write_down(cx, run)?,
        }
        if frame.opcode.is_control() {
            return self.on_upstream_control(frame.opcode, payload);
        }
        let is_text = self
            .upstream
            .reader
            .payload(payload, frame.fin)
            .map_err(faulty)?;
        self.down.held.extend_from_slice(&bytes[..frame.len]);
        self.down.assembled.extend_from_slice(payload);
        if self.down.held.len() as u64 > 2 * MAX_HELD_BYTES {
            return Err(faulty(Fault::Protocol("a message had too many fragments")));
        }
        if frame.fin {
            let held = std::mem::take(&mut self.down.held);
            let message = std::mem::take(&mut self.down.assembled);
            let rewritten = self.on_upstream_message(&message, is_text);
            self.write_down(cx, rewritten.as_deref().unwrap_or(&held))?;
        }
        Ok(())
    }

    fn write_down(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), SessionEnd> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.client
            .write(cx, bytes, self.now)
            .map_err(|_| self.lost(Side::Client))
    }

    /// Follows the payload of a message that goes on as it comes; how many bytes are its.
    #[cold]
    fn pass_piece(&mut self, bytes: &[u8]) -> Result<usize, SessionEnd> {
        let Some(passing) = &mut self.down.passing else {
            return Ok(0);
        };
        let left = usize::try_from(passing.frame_left).unwrap_or(usize::MAX);
        let piece = &bytes[..left.min(bytes.len())];
        let frame_left = passing.frame_left - piece.len() as u64;
        let ends_message = frame_left == 0 && passing.frame_fin;
        // Judged before it counts as passed on: a client that lacks the end of a frame cannot be
        // told anything.
        let is_text = self
            .upstream
            .reader
            .payload(piece, ends_message)
            .map_err(faulty)?;
        passing.frame_left = frame_left;
        passing.message_bytes += piece.len() as u64;
        let head_room = HEAD_BYTES - passing.head.len();
        passing
            .head
            .extend_from_slice(&piece[..head_room.min(piece.len())]);
        if let Some(recorder) = &mut self.recorder {
            recorder.piece(piece);
        }
        if ends_message {
            self.end_passing(is_text);
        }
        Ok(piece.len())
    }

    #[cold]
    fn begin_passing(
        &mut self,
        cx: &mut Context<'_>,
        frame_left: u64,
        frame_fin: bool,
    ) -> Result<(), SessionEnd> {
        let held = std::mem::take(&mut self.down.held);
        let mut head = std::mem::take(&mut self.down.assembled);
        match &mut self.down.passing {
            Some(passing) => {
                passing.frame_left = frame_left;
                passing.frame_fin = frame_fin;
            }
            passing @ None => {
                let message_bytes = head.len() as u64;
                if let Some(recorder) = &mut self.recorder {
                    recorder.piece(&head);
                }
                head.truncate(HEAD_BYTES);
                *passing = Some(Box::new(Passing {
                    frame_left,
                    frame_fin,
                    message_bytes,
                    head,
                }));
            }
        }
        self.write_down(cx, &held)?;
        if frame_left == 0 && frame_fin {
            // An empty last fragment: there is no payload that would end the message.
            let is_text = self.upstream.reader.payload(&[], true).map_err(faulty)?;
            self.end_passing(is_text);
        }
        Ok(())
    }

    /// The message that went on as it came has ended.
    fn end_passing(&mut self, is_text: bool) {
        let Some(passing) = self.down.passing.take() else {
            return;
        };
        self.last_message = self.now;
        let secrets = &self.terms.secrets;
        if let Some(recorder) = &mut self.recorder {
            recorder.end_of_pieces(is_text, secrets, self.now);
        }
        self.tap
            .on_large_message(&passing.head, passing.message_bytes, secrets, self.now);
    }

    fn on_upstream_control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), SessionEnd> {
        match opcode {
            Opcode::Ping => self.upstream.owe_pong(payload),
            Opcode::Close => {
                let mut close = Close::parse(payload).map_err(faulty)?;
                self.tap.on_upstream_close(&close, self.now);
                close.reason = self.terms.secrets.scrub_text(&close.reason).into_owned();
                if let Some(recorder) = &mut self.recorder {
                    recorder.close(Side::Upstream, &close, self.now);
                }
                let by = match self.client_close {
                    Some(_) => Side::Client,
                    None => Side::Upstream,
                };
                return Err(SessionEnd::Closed { by, close });
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks at one whole message; the frame to send instead, if it held a secret. What is counted
    /// and logged is what the client is sent.
    fn on_upstream_message(&mut self, payload: &[u8], is_text: bool) -> Option<Vec<u8>> {
        self.last_message = self.now;
        let message = look(payload);
        if !message.is_bare_audio() {
            return self.on_searched_message(message, payload, is_text);
        }
        self.tap
            .on_upstream_message(&message, payload.len() as u64, self.now);
        self.record_down(payload, is_text);
        None
    }

    /// The same for a message that may quote a secret.
    #[inline(never)]
    fn on_searched_message(
        &mut self,
        as_it_came: ServerMessage<'_>,
        payload: &[u8],
        is_text: bool,
    ) -> Option<Vec<u8>> {
        let secrets = &self.terms.secrets;
        let scrubbed = as_it_came.scrubbed(payload, secrets);
        let (sent, mut message) = match &scrubbed {
            Some(scrubbed) => (scrubbed.as_slice(), look(scrubbed)),
            None => (payload, as_it_came),
        };
        message.scrub_unescaped(secrets);
        self.tap
            .on_upstream_message(&message, sent.len() as u64, self.now);
        self.record_down(sent, is_text);
        scrubbed.map(|payload| {
            let opcode = match is_text {
                true => Opcode::Text,
                false => Opcode::Binary,
            };
            let mut frame = Vec::new();
            write_frame(&mut frame, opcode, &payload, None);
            frame
        })
    }

    /// Writes down a message that goes to the client. There is time to search its audio too.
    fn record_down(&mut self, payload: &[u8], is_text: bool) {
        if let Some(recorder) = &mut self.recorder {
            let payload = self.terms.secrets.scrub(payload);
            recorder.message(Side::Upstream, &payload, is_text, self.now);
        }
    }
}

#[cold]
fn faulty(fault: Fault) -> SessionEnd {
    SessionEnd::Faulty {
        side: Side::Upstream,
        fault,
    }
}
