//! From the client to upstream: held until whole, judged, charged, forwarded as it came.

use std::task::{Context, Poll, ready};

use super::super::intake::Intake;
use super::super::scratch::{with_read_buffer, with_unmasked};
use super::super::voices::allows_voices_of;
use super::super::{SessionEnd, Transport};
use super::{Relay, Taken, Waiting};
use crate::frame::{Close, Fault, Frame, Opcode, Step, unmask_onto, write_frame};
use crate::ids::Side;
use crate::protocol::{
    ClientMessage, Problem, scan_text, with_voices_rewritten, without_credentials,
};
use crate::quota::Refusal;
use crate::upstream::Vacancy;

/// Where the client's side of the conversation stands.
pub(super) struct Up {
    /// The payload of a message whose last fragment has not come.
    assembled: Vec<u8>,
    pub(super) waiting: Option<Box<Waiting>>,
    has_spoken: bool,
    /// Held until there is something to wait for.
    vacancy: Option<Vacancy>,
    /// Whether the client has ended its text; audio goes on.
    pub(super) text_ended: bool,
    /// Whether upstream takes no more; what it has sent before is still to be read.
    is_cut: bool,
}

impl Up {
    pub(super) fn new(vacancy: Option<Vacancy>) -> Self {
        Self {
            assembled: Vec::new(),
            waiting: None,
            has_spoken: false,
            vacancy,
            text_ended: false,
            is_cut: false,
        }
    }
}

impl<C, U> Relay<C, U>
where
    C: Transport,
    U: Transport,
{
    pub(super) fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        with_read_buffer(|buffer| {
            let mut intake = std::mem::take(&mut self.client.carry).resume(buffer);
            let polled = self.poll_up_through(cx, &mut intake);
            self.client.carry = intake.into_carry();
            polled
        })
    }

    fn poll_up_through(
        &mut self,
        cx: &mut Context<'_>,
        intake: &mut Intake<'_>,
    ) -> Poll<SessionEnd> {
        loop {
            if self.up.waiting.is_some()
                && let Err(end) = ready!(self.poll_waiting(cx))
            {
                return Poll::Ready(end);
            }
            if !self.up.is_cut && ready!(self.upstream.poll_drain(cx, self.now)).is_err() {
                self.up.is_cut = true;
            }
            if let Err(end) = ready!(self.poll_side(cx, Side::Client, intake)) {
                return Poll::Ready(end);
            }
        }
    }

    /// Ready when no message waits for its characters.
    #[cold]
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionEnd>> {
        let Some(waiting) = &mut self.up.waiting else {
            return Poll::Ready(Ok(()));
        };
        let reserved = ready!(waiting.reserving.as_mut().poll(cx));
        let Waiting {
            frame,
            characters,
            recorded,
            ..
        } = *self.up.waiting.take().expect("it was there a line above");
        if let Err(refusal) = self.admission.apply(reserved) {
            self.tap.refused(characters);
            return Poll::Ready(Err(SessionEnd::Refused(Problem::from(&refusal))));
        }
        self.tap.forwarded(characters);
        if let Some(payload) = recorded {
            self.record_up(&payload);
        }
        self.write_up(cx, &frame, characters);
        Poll::Ready(Ok(()))
    }

    /// `taken` says at any time, so also behind an error, how many of `bytes` are done with.
    pub(super) fn take_from_client(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        taken: &mut usize,
    ) -> Result<Taken, SessionEnd> {
        *taken = 0;
        loop {
            if self.client_close.is_some() {
                // Nothing counts behind a close frame (RFC 6455 section 5.5.1).
                return Ok(Taken {
                    consumed: bytes.len(),
                    needs: 1,
                });
            }
            if self.up.waiting.is_some() || (self.upstream.is_stalled() && !self.up.is_cut) {
                return Ok(Taken {
                    consumed: *taken,
                    needs: 0,
                });
            }
            let rest = &bytes[*taken..];
            match self.client.reader.step(rest).map_err(faulty)? {
                Step::Need(needs) => {
                    return Ok(Taken {
                        consumed: *taken,
                        needs,
                    });
                }
                Step::Large(_) => unreachable!("a client's reader holds messages of any size"),
                Step::Frame(frame) => {
                    *taken += frame.len;
                    let ends = frame.opcode == Opcode::Close;
                    if !ends && !self.frames.take(self.now) {
                        // The farewell reads on behind it.
                        self.client.reader.pass_over(&frame);
                        return Err(self.too_fast());
                    }
                    self.on_client_frame(cx, &frame, rest)?;
                }
            }
        }
    }

    fn on_client_frame(
        &mut self,
        cx: &mut Context<'_>,
        frame: &Frame,
        bytes: &[u8],
    ) -> Result<(), SessionEnd> {
        let masked = &bytes[frame.payload.clone()];
        let key = frame
            .mask
            .expect("the reader refuses a client frame without a mask");
        if frame.opcode.is_control() {
            return self.on_client_control(cx, frame.opcode, masked, key);
        }
        if frame.fragmented {
            return self.on_client_fragment(cx, frame.fin, masked, key);
        }
        with_unmasked(|payload| {
            unmask_onto(payload, masked, key);
            let text = frame.text(payload).map_err(faulty)?;
            self.on_client_message(cx, Some(&bytes[..frame.len]), text)
        })
    }

    // Cold is what few messages run: then it does not lie between what all of them run.
    #[cold]
    fn on_client_fragment(
        &mut self,
        cx: &mut Context<'_>,
        is_last: bool,
        masked: &[u8],
        key: [u8; 4],
    ) -> Result<(), SessionEnd> {
        let mut message = std::mem::take(&mut self.up.assembled);
        let start = message.len();
        unmask_onto(&mut message, masked, key);
        let is_text = self
            .client
            .reader
            .payload(&message[start..], is_last)
            .map_err(faulty)?;
        if is_last {
            let text = is_text.then(|| std::str::from_utf8(&message)).transpose();
            let text = text.map_err(|_| faulty(Fault::Utf8))?;
            return self.on_client_message(cx, None, text);
        }
        self.up.assembled = message;
        Ok(())
    }

    #[cold]
    fn on_client_control(
        &mut self,
        cx: &mut Context<'_>,
        opcode: Opcode,
        masked: &[u8],
        key: [u8; 4],
    ) -> Result<(), SessionEnd> {
        let mut payload = Vec::new();
        unmask_onto(&mut payload, masked, key);
        match opcode {
            Opcode::Ping => self.client.owe_pong(&payload),
            Opcode::Close => {
                let close = Close::parse(&payload).map_err(faulty)?;
                self.on_client_close(cx, close);
            }
            _ => {}
        }
        Ok(())
    }

    /// Passes the client's close on and waits for upstream's, which may still have audio to send.
    fn on_client_close(&mut self, cx: &mut Context<'_>, close: Close) {
        self.tap.on_client_close(&close, self.now);
        if let Some(recorder) = &mut self.recorder {
            recorder.close(Side::Client, &close, self.now);
        }
        if !self.up.is_cut {
            let sent =
                self.upstream
                    .write_close(cx, close.forwardable_code(), &close.reason, self.now);
            self.up.is_cut = sent.is_err();
        }
        self.client_close = Some((close, self.now));
    }

    /// Judges and charges one message; `text` is none when it is binary. `frame` is the frame it
    /// came in, if it came in one.
    fn on_client_message(
        &mut self,
        cx: &mut Context<'_>,
        frame: Option<&[u8]>,
        text: Option<&str>,
    ) -> Result<(), SessionEnd> {
        if !self.messages.take(self.now) {
            return Err(self.too_fast());
        }
        let Some(text) = text else {
            return Err(SessionEnd::Refused(Problem::binary_message()));
        };
        let message = scan_text(self.terms.dialect, text)
            .map_err(|invalid| SessionEnd::Refused(Problem::from(invalid)))?;
        let payload = text.as_bytes();
        let rewritten = match message.has_credentials || self.terms.dialect.is_dialogue() {
            true => self.rewrite(&message, payload)?,
            false => None,
        };
        self.last_message = self.now;
        let kind = message.kind(!self.up.has_spoken);
        self.up.has_spoken = true;
        self.up.text_ended |= message.ends_text();
        self.tap
            .on_client_message(&message, kind, payload.len(), self.now);

        let rewritten = rewritten.as_deref().or(frame.is_none().then_some(payload));
        let characters = message.characters;
        match self.admission.try_charge(characters) {
            Some(Ok(())) => {
                self.tap.forwarded(characters);
                self.record_up(rewritten.unwrap_or(payload));
                match (rewritten, frame) {
                    (Some(payload), _) => self.write_up(cx, &self.masked(payload), characters),
                    (None, Some(frame)) => self.write_up(cx, frame, characters),
                    (None, None) => unreachable!("a message without a frame is framed anew"),
                }
                Ok(())
            }
            Some(Err(refusal)) => {
                self.tap.refused(characters);
                Err(SessionEnd::Refused(Problem::from(&refusal)))
            }
            None => {
                let frame = match (rewritten, frame) {
                    (Some(payload), _) => self.masked(payload),
                    (None, frame) => frame.unwrap_or_default().to_vec(),
                };
                self.wait_for(characters, frame, rewritten.unwrap_or(payload));
                Ok(())
            }
        }
    }

    /// Has the characters of a message reserved that is to go up as `frame`, in which `payload` is.
    #[cold]
    fn wait_for(&mut self, characters: u64, frame: Vec<u8>, payload: &[u8]) {
        let recorded = self.recorder.is_some().then(|| payload.to_vec());
        let reserving = self.admission.reserve(characters);
        self.up.waiting = Some(Box::new(Waiting {
            frame,
            characters,
            recorded,
            reserving,
        }));
    }

    /// The payload to send instead, when it named a credential or a voice's alias.
    #[inline(never)]
    fn rewrite(
        &self,
        message: &ClientMessage<'_>,
        payload: &[u8],
    ) -> Result<Option<Vec<u8>>, SessionEnd> {
        let mut rewritten = message
            .has_credentials
            .then(|| without_credentials(payload));
        if self.terms.dialect.is_dialogue() {
            let limits = &self.terms.limits;
            if !allows_voices_of(message, limits, self.terms.narrowing.as_ref()) {
                return Err(self.refuse(&Refusal::Voice));
            }
            let with_voices =
                with_voices_rewritten(rewritten.as_deref().unwrap_or(payload), |voice: &str| {
                    limits.resolve_named(voice).ok().flatten()
                });
            rewritten = with_voices.or(rewritten);
        }
        Ok(rewritten)
    }

    #[cold]
    fn too_fast(&self) -> SessionEnd {
        self.refuse(&Refusal::MessageRate {
            limit: self.terms.limits.max_messages_per_second,
        })
    }

    /// Ends the session by a limit that the admission does not see.
    #[cold]
    fn refuse(&self, refusal: &Refusal) -> SessionEnd {
        self.admission.note_refusal(refusal);
        SessionEnd::Refused(Problem::from(refusal))
    }

    #[cold]
    fn masked(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write_frame(&mut frame, Opcode::Text, payload, self.upstream.mask());
        frame
    }

    /// Writes down a message that goes up; it holds no credential any more.
    fn record_up(&mut self, payload: &[u8]) {
        if let Some(recorder) = &mut self.recorder {
            recorder.message(Side::Client, payload, true, self.now);
        }
    }

    /// Writes upstream what was charged with `characters`. A failure ends nothing yet: upstream may
    /// have said why before it went.
    fn write_up(&mut self, cx: &mut Context<'_>, frame: &[u8], characters: u64) {
        if !self.up.is_cut {
            self.up.is_cut = self.upstream.write(cx, frame, self.now).is_err();
        }
        if characters > 0 {
            // Another connection is dialed while upstream deals with that. The white space with which
            // clients begin has no answer, and text right behind it.
            self.up.vacancy = None;
        }
    }
}

#[cold]
fn faulty(fault: Fault) -> SessionEnd {
    SessionEnd::Faulty {
        side: Side::Client,
        fault,
    }
}
