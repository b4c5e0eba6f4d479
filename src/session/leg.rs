//! One of a session's two connections: its bytes, what waits to be written, its signs of life.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Peer;
use super::intake::Carry;
use crate::frame::{Opcode, Reader, random_mask, write_close, write_frame};
use crate::ids::Side;

/// How many pings may stay unanswered before the peer is taken for gone.
const MAX_UNANSWERED_PINGS: u32 = 2;
/// How many bytes of pongs may wait to be written.
const MAX_PONGS_DUE_BYTES: usize = 2048;

pub(super) struct Leg<S> {
    pub(super) stream: S,
    side: Side,
    /// Follows what this peer sends.
    pub(super) reader: Reader,
    /// Bytes of this peer that have been read but not dealt with.
    pub(super) carry: Carry,
    /// What this peer's socket had no room for. While it is not empty, the other side is not read.
    out: Vec<u8>,
    out_written: usize,
    needs_flush: bool,
    /// Since when `out` has made no progress.
    stalled_since: Option<Instant>,
    /// The answers to pings, to be written at the next border of a frame.
    pongs_due: Vec<u8>,
    unanswered_pings: u32,
    ping_at: Instant,
    ping_interval: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Leg<S> {
    pub(super) fn new(
        peer: Peer<S>,
        side: Side,
        reader: Reader,
        ping_interval: Duration,
        now: Instant,
    ) -> Self {
        Self {
            stream: peer.stream,
            side,
            reader,
            carry: Carry::new(peer.read_ahead),
            out: Vec::new(),
            out_written: 0,
            needs_flush: false,
            stalled_since: None,
            pongs_due: Vec::new(),
            unanswered_pings: 0,
            ping_at: now + ping_interval,
            ping_interval,
        }
    }

    /// Writes `bytes` behind whatever waits; what the socket has no room for waits too.
    pub(super) fn write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        now: Instant,
    ) -> io::Result<()> {
        let mut rest = bytes;
        if self.out.is_empty() {
            while !rest.is_empty() {
                match Pin::new(&mut self.stream).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(n_written)) => rest = &rest[n_written..],
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => break,
                }
            }
            self.needs_flush = true;
        }
        if !rest.is_empty() {
            self.out.extend_from_slice(rest);
            self.stalled_since.get_or_insert(now);
        }
        Ok(())
    }

    /// Keeps `bytes` to be written with what is said last.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        // With room for a close frame behind it.
        self.out.reserve(bytes.len() + 128);
        self.out.extend_from_slice(bytes);
    }

    /// Ready when nothing waits to be written any more.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<io::Result<()>> {
        if !self.out.is_empty() {
            ready!(self.poll_write_out(cx, now))?;
        }
        if self.needs_flush {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(result) => {
                    result?;
                    self.needs_flush = false;
                }
                Poll::Pending => {
                    self.stalled_since.get_or_insert(now);
                    return Poll::Pending;
                }
            }
        }
        self.stalled_since = None;
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn poll_write_out(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        while self.out_written < self.out.len() {
            let rest = &self.out[self.out_written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n_written) => {
                    self.out_written += n_written;
                    self.stalled_since = Some(now);
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.out = Vec::new();
        self.out_written = 0;
        self.needs_flush = true;
        Poll::Ready(Ok(()))
    }

    /// What the socket had no room for, or was kept for the end.
    pub(super) fn take_unwritten(&mut self) -> Vec<u8> {
        match self.out_written {
            0 => std::mem::take(&mut self.out),
            n_written => self.out.split_off(n_written),
        }
    }

    /// Whether something waits to be written.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled_since.is_some()
    }

    /// Whether nothing of the relay's is on its way to the peer.
    pub(super) fn is_settled(&self) -> bool {
        self.stalled_since.is_none() && !self.needs_flush && !self.owes_pongs()
    }

    /// When the peer has had long enough to read, if it is not reading.
    pub(super) fn stall_deadline(&self, patience: Duration) -> Option<Instant> {
        self.stalled_since.map(|since| since + patience)
    }

    /// Appends a frame of the relay's own, masked where this peer is a server.
    pub(super) fn write_own(
        &mut self,
        cx: &mut Context<'_>,
        opcode: Opcode,
        payload: &[u8],
        now: Instant,
    ) -> io::Result<()> {
        let mut frame = Vec::new();
        write_frame(&mut frame, opcode, payload, self.mask());
        self.write(cx, &frame, now)
    }

    /// Appends a close frame.
    pub(super) fn write_close(
        &mut self,
        cx: &mut Context<'_>,
        code: Option<u16>,
        reason: &str,
        now: Instant,
    ) -> io::Result<()> {
        let mut frame = Vec::new();
        write_close(&mut frame, code, reason, self.mask());
        self.write(cx, &frame, now)
    }

    /// The mask for a frame to this peer: a fresh key towards a server, none towards a client.
    pub(super) fn mask(&self) -> Option<[u8; 4]> {
        (self.side == Side::Upstream).then(random_mask)
    }

    /// Keeps the answer to a ping. Each ping is answered, as long as its sender reads; of one that
    /// does not, the pings that nothing is kept of need no answer (RFC 6455 section 5.5.3).
    pub(super) fn owe_pong(&mut self, payload: &[u8]) {
        if self.pongs_due.len() > MAX_PONGS_DUE_BYTES {
            self.pongs_due.clear();
        }
        let mask = self.mask();
        write_frame(&mut self.pongs_due, Opcode::Pong, payload, mask);
    }

    /// Whether a ping is still to be answered.
    pub(super) fn owes_pongs(&self) -> bool {
        !self.pongs_due.is_empty()
    }

    /// Answers the pings, if the socket has room and a frame may begin.
    pub(super) fn pay_pongs(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<()> {
        if self.out.is_empty() && self.owes_pongs() {
            let pongs = std::mem::take(&mut self.pongs_due);
            self.write(cx, &pongs, now)?;
        }
        Ok(())
    }

    /// Takes any byte from the peer as a sign of life.
    pub(super) fn heard(&mut self) {
        self.unanswered_pings = 0;
    }

    /// When the next ping is due.
    pub(super) fn ping_at(&self) -> Instant {
        self.ping_at
    }

    /// Skips the ping that is due.
    pub(super) fn put_off_ping(&mut self, now: Instant) {
        self.ping_at = now + self.ping_interval;
    }

    /// Sends the ping that is due, if a frame may begin; says whether the peer is taken for gone.
    pub(super) fn ping(
        &mut self,
        cx: &mut Context<'_>,
        may_write: bool,
        now: Instant,
    ) -> io::Result<bool> {
        self.ping_at = now + self.ping_interval;
        if self.unanswered_pings >= MAX_UNANSWERED_PINGS {
            return Ok(true);
        }
        // A peer that is being written to is judged by whether it reads.
        if may_write && self.out.is_empty() {
            self.unanswered_pings += 1;
            self.write_own(cx, Opcode::Ping, b"", now)?;
        }
        Ok(false)
    }
}
