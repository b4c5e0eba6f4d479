//! What has been read of a peer and not been dealt with yet.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

/// What a session keeps of a peer's bytes while it waits for more: the start of a frame, or what
/// stood behind a message that has to wait.
#[derive(Debug, Default)]
pub(super) struct Carry {
    pub(super) bytes: Vec<u8>,
    /// How many bytes there must be before there is anything to do; 0 when there is now.
    needs: usize,
}

/// The same while it is read and dealt with, in a buffer of the thread. The start of a frame that a
/// read has cut stays there and the next read goes behind it, so that reads and writes stay large;
/// it is copied into memory of the session's own only when there is nothing more to read.
pub(super) struct Intake<'a> {
    buffer: &'a mut [u8],
    /// Where in `buffer` the bytes are, unless they are in `carried`.
    held: Range<usize>,
    /// Bytes that something still has to come behind, or that are to be more than `buffer` holds.
    carried: Vec<u8>,
    needs: usize,
    /// Whether there was no more to read behind what was read last; the stream wakes the task when
    /// there is.
    is_dry: bool,
}

impl Carry {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, needs: 0 }
    }

    /// Goes on with `buffer`, in which nothing is.
    pub(super) fn resume(self, buffer: &mut [u8]) -> Intake<'_> {
        Intake {
            buffer,
            held: 0..0,
            carried: self.bytes,
            needs: self.needs,
            is_dry: false,
        }
    }
}

impl Intake<'_> {
    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        if self.carried.is_empty() {
            &self.buffer[self.held.clone()]
        } else {
            &self.carried
        }
    }

    /// Whether there is anything to do with it.
    pub(super) fn is_ready(&self) -> bool {
        !self.bytes().is_empty() && self.bytes().len() >= self.needs
    }

    /// Forgets the first `n` bytes. There is nothing to do with the rest until it is `needs` long.
    pub(super) fn consume(&mut self, n: usize, needs: usize) {
        self.needs = needs;
        if self.carried.is_empty() {
            self.held.start += n;
        } else if n == self.carried.len() {
            self.carried = Vec::new();
        } else {
            self.carried.drain(..n);
        }
    }

    /// Reads what is there, almost as much as fits: several TLS records in one go, one packet's worth of
    /// plain bytes. `Ok(0)` is the end of the stream; so is an error behind bytes, at the next call.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        if self.is_dry {
            return Poll::Pending;
        }
        if self.needs > self.buffer.len() {
            return self.poll_read_long(cx, stream);
        }
        let len = self.bytes().len();
        if self.carried.is_empty() && self.held.start > 0 {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..len;
        }
        let (n_read, is_dry) = ready!(poll_fill(stream, cx, &mut self.buffer[len..]))?;
        self.is_dry = is_dry;
        if !self.carried.is_empty() {
            self.buffer[..len].copy_from_slice(&self.carried);
            self.carried = Vec::new();
        }
        self.held = 0..len + n_read;
        Poll::Ready(Ok(n_read))
    }

    /// The same for a frame that is longer than the buffer; nothing is read beyond its end.
    #[cold]
    fn poll_read_long<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        if self.carried.is_empty() {
            self.carried = self.buffer[self.held.clone()].to_vec();
            self.held = 0..0;
        }
        let before = self.carried.len();
        // By what a peer has announced, no memory is taken before some of it has come.
        self.carried
            .reserve_exact((self.needs - before).min(self.buffer.len()));
        while self.carried.len() < self.carried.capacity() {
            match poll_read_buf(Pin::new(&mut *stream), cx, &mut self.carried) {
                Poll::Ready(Ok(n_read)) if n_read > 0 => {}
                Poll::Ready(Err(error)) if self.carried.len() == before => {
                    return Poll::Ready(Err(error));
                }
                Poll::Pending if self.carried.len() == before => return Poll::Pending,
                _ => break,
            }
        }
        Poll::Ready(Ok(self.carried.len() - before))
    }

    /// Leaves the buffer as it found it.
    pub(super) fn into_carry(self) -> Carry {
        Carry {
            bytes: if self.carried.is_empty() {
                self.buffer[self.held].to_vec()
            } else {
                self.carried
            },
            needs: self.needs,
        }
    }
}

/// Reads into `room`, which is not empty, until it is almost full or there is no more for now; says
/// how much, and whether the stream wakes the task when there is more. The last bit of room is left:
/// a read for it would cost as much as one of many messages.
fn poll_fill<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    room: &mut [u8],
) -> Poll<io::Result<(usize, bool)>> {
    let mut room = ReadBuf::new(room);
    loop {
        let before = room.filled().len();
        let polled = Pin::new(&mut *stream).poll_read(cx, &mut room);
        let len = room.filled().len();
        let has_room = room.remaining() > room.capacity() / 8;
        match polled {
            Poll::Ready(Ok(())) if len > before && has_room => {}
            Poll::Ready(Err(error)) if len == 0 => return Poll::Ready(Err(error)),
            Poll::Pending if len == 0 => return Poll::Pending,
            _ => return Poll::Ready(Ok((len, polled.is_pending()))),
        }
    }
}

#[cfg(test)]
mod tests;
