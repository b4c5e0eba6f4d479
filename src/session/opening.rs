//! A client's socket between its 101 and upstream's: who has not shown a credential in the upgrade
//! shows it in the first message, and who is to be refused is refused behind that message.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::farewell::{Parting, leave};
use super::{SessionEnd, Transport};
use crate::frame::{Close, Fault, Frame, Opcode, Reader, Step, unmask_onto, write_frame};
use crate::ids::{SessionId, Side};
use crate::protocol::Problem;

/// A client that waits for its upstream. What it says is kept, to be relayed as it came.
pub struct Opening<C> {
    stream: C,
    reader: Reader,
    /// All that the client has said, but for pings that have been answered.
    bytes: Vec<u8>,
    /// How much of `bytes` has been looked at.
    n_seen: usize,
    /// The first message, as far as it has come.
    message: Vec<u8>,
    /// Whether the first message is text; none while it has not come.
    is_text: Option<bool>,
    max_message_bytes: u64,
}

impl<C: Transport> Opening<C> {
    /// Takes over a socket that has been upgraded; `read_ahead` came with the upgrade.
    pub fn new(stream: C, read_ahead: Vec<u8>, max_message_bytes: u64) -> Self {
        Self {
            stream,
            reader: Reader::whole(Side::Client, max_message_bytes),
            bytes: read_ahead,
            n_seen: 0,
            message: Vec::new(),
            is_text: None,
            max_message_bytes,
        }
    }

    /// Waits for the first whole message and returns its payload, and whether it is text. It stays
    /// to be relayed.
    ///
    /// # Errors
    /// The client closed, went, or broke the protocol.
    pub async fn first_message(&mut self) -> Result<(&[u8], bool), SessionEnd> {
        loop {
            self.look().await?;
            if let Some(is_text) = self.is_text {
                return Ok((&self.message, is_text));
            }
            self.read().await?;
        }
    }

    /// Keeps reading until the client has gone or closed, as far as there is room; for the time in
    /// which upstream is dialed.
    pub async fn gone(&mut self) -> SessionEnd {
        let room = usize::try_from(self.max_message_bytes).unwrap_or(usize::MAX);
        loop {
            if let Err(end) = self.look_for_close() {
                return end;
            }
            if self.bytes.len() >= room {
                return std::future::pending().await;
            }
            if let Err(end) = self.read().await {
                return end;
            }
        }
    }

    /// Passes over frames that are for the relay, up to a close frame.
    fn look_for_close(&mut self) -> Result<(), SessionEnd> {
        while let Some((frame, payload)) = self.next_frame()? {
            match frame.opcode {
                Opcode::Close => return Err(closed(&payload)),
                opcode if opcode.is_control() => self.n_seen += frame.len,
                _ => self.pass(&frame, &payload)?,
            }
        }
        Ok(())
    }

    /// Accepts larger messages, once the client is known.
    pub fn set_max_message_bytes(&mut self, max_message_bytes: u64) {
        self.max_message_bytes = max_message_bytes;
        self.reader.set_max_message_bytes(max_message_bytes);
    }

    /// The stream, and what has been read from it.
    pub fn into_parts(self) -> (C, Vec<u8>) {
        (self.stream, self.bytes)
    }

    /// Tells the client why there is no session. The refusal waits for the client's first message,
    /// at most `patience`: some clients hang when a socket ends before they have said anything.
    pub async fn refuse(
        mut self,
        end: SessionEnd,
        request: SessionId,
        patience: Duration,
        timing: &super::Timing,
    ) {
        let is_client_fault = matches!(
            end,
            SessionEnd::Faulty {
                side: Side::Client,
                ..
            } | SessionEnd::Closed { .. }
        );
        let mut end = end;
        if !is_client_fault && self.is_text.is_none() {
            match tokio::time::timeout(patience, self.first_message()).await {
                Ok(Err(SessionEnd::Lost(_))) => return,
                Ok(Err(worse)) => end = worse,
                _ => {}
            }
        }
        let parting = Parting::new(&end, request);
        let mut carry = self.bytes.split_off(self.n_seen);
        leave(
            &mut self.stream,
            &mut self.reader,
            &mut carry,
            parting,
            timing,
        )
        .await;
    }

    /// Looks at the frames that have come and not been seen.
    async fn look(&mut self) -> Result<(), SessionEnd> {
        while self.is_text.is_none() {
            let Some((frame, payload)) = self.next_frame()? else {
                return Ok(());
            };
            if !frame.opcode.is_control() {
                self.message.extend_from_slice(&payload);
                self.pass(&frame, &payload)?;
                continue;
            }
            self.bytes.drain(self.n_seen..self.n_seen + frame.len);
            match frame.opcode {
                Opcode::Ping => {
                    let mut pong = Vec::new();
                    write_frame(&mut pong, Opcode::Pong, &payload, None);
                    let written = self.stream.write_all(&pong).await;
                    written.map_err(|_| SessionEnd::Lost(Side::Client))?;
                }
                Opcode::Close => return Err(closed(&payload)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The next frame that has come whole and not been seen, with its payload unmasked.
    fn next_frame(&mut self) -> Result<Option<(Frame, Vec<u8>)>, SessionEnd> {
        let bytes = &self.bytes[self.n_seen..];
        let frame = match self.reader.step(bytes).map_err(faulty)? {
            Step::Need(_) => return Ok(None),
            Step::Large(_) => unreachable!("a client's reader holds messages of any size"),
            Step::Frame(frame) => frame,
        };
        let key = frame
            .mask
            .expect("the reader refuses a client frame without a mask");
        let mut payload = Vec::new();
        unmask_onto(&mut payload, &bytes[frame.payload.clone()], key);
        Ok(Some((frame, payload)))
    }

    /// Leaves a data frame to the relay.
    fn pass(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), SessionEnd> {
        let is_text = self.reader.payload_of(frame, payload).map_err(faulty)?;
        self.n_seen += frame.len;
        if frame.fin {
            self.is_text.get_or_insert(is_text);
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), SessionEnd> {
        // Fragments may be empty and count nothing against a message's size.
        let most = self
            .max_message_bytes
            .saturating_mul(2)
            .saturating_add(1024);
        if self.bytes.len() as u64 > most {
            let limit = self.max_message_bytes;
            return Err(faulty(Fault::TooBig { limit }));
        }
        match self.stream.read_buf(&mut self.bytes).await {
            Ok(n_read) if n_read > 0 => Ok(()),
            _ => Err(SessionEnd::Lost(Side::Client)),
        }
    }
}

/// The ending of a client that never showed a credential.
#[must_use]
pub fn without_credential() -> SessionEnd {
    SessionEnd::Refused(Problem::needs_authorization())
}

/// The ending that a client's close frame stands for.
fn closed(payload: &[u8]) -> SessionEnd {
    match Close::parse(payload) {
        Ok(close) => SessionEnd::Closed {
            by: Side::Client,
            close,
        },
        Err(fault) => faulty(fault),
    }
}

fn faulty(fault: Fault) -> SessionEnd {
    SessionEnd::Faulty {
        side: Side::Client,
        fault,
    }
}
