//! How the relay leaves a client and an upstream: what is said last, and how long it waits.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{SessionEnd, Timing, Transport};
use crate::frame::{Opcode, Reader, Step, random_mask, write_close, write_frame};
use crate::ids::{SessionId, Side};

/// How long upstream is given to take a close frame: it must not keep a client's slot.
const UPSTREAM_PATIENCE: Duration = Duration::from_millis(500);
/// How much a peer that was told to stop may still send: about what sockets hold.
const MAX_DRAINED_BYTES: usize = 1024 * 1024;
/// How long a client whose framing is broken is read on, so that the close reaches it.
const FAULTY_PATIENCE: Duration = Duration::from_secs(1);

/// The last words to a client.
pub(super) struct Parting {
    /// What upstream has said and the client has not got.
    pub(super) held: Vec<u8>,
    /// What follows it: the words of the ending, the close frame last.
    bytes: Vec<u8>,
    /// Whether the client's close frame has come: then there is nothing to wait for.
    pub(super) has_closed: bool,
    /// Whether the client can still be understood.
    pub(super) is_faulty: bool,
}

impl Parting {
    /// The error frame of `end`, if there is one, and the close.
    pub(super) fn new(end: &SessionEnd, request: SessionId) -> Self {
        let mut parting = Self::silent(end);
        if let Some(problem) = end.problem() {
            let frame = problem.to_frame(request);
            write_frame(&mut parting.bytes, Opcode::Text, frame.as_bytes(), None);
        }
        parting.add_close(end);
        parting
    }

    /// The close alone, for a client that is in the middle of a message.
    pub(super) fn close_only(end: &SessionEnd) -> Self {
        let mut parting = Self::silent(end);
        parting.add_close(end);
        parting
    }

    fn silent(end: &SessionEnd) -> Self {
        Self {
            held: Vec::new(),
            bytes: Vec::new(),
            has_closed: matches!(
                end,
                SessionEnd::Closed {
                    by: Side::Client,
                    ..
                }
            ),
            is_faulty: matches!(
                end,
                SessionEnd::Faulty {
                    side: Side::Client,
                    ..
                }
            ),
        }
    }

    fn add_close(&mut self, end: &SessionEnd) {
        if let Some(farewell) = end.to_client() {
            write_close(&mut self.bytes, farewell.code, &farewell.reason, None);
        }
    }
}

/// Says the last words to a client, waits for its close frame, and ends the connection. What the
/// client still sends is read and dropped: unread bytes would reset the connection, and the reset
/// would overtake the words.
pub(super) async fn leave<S>(
    stream: &mut S,
    reader: &mut Reader,
    carry: &mut Vec<u8>,
    mut parting: Parting,
    timing: &Timing,
) where
    S: Transport,
{
    let awaits_close = !parting.has_closed && !parting.is_faulty;
    if !awaits_close {
        stream.gather();
    }
    let mut words = parting.held;
    words.append(&mut parting.bytes);
    if say(stream, &words, timing.write_timeout).await.is_err() {
        return;
    }
    if awaits_close {
        // Either way the connection ends here: with the echo, or without.
        let _ = timeout(timing.close_timeout, heard_close(stream, reader, carry)).await;
    }
    // The peer may be gone already; there is nobody left to tell.
    let _ = timeout(FAULTY_PATIENCE, stream.shutdown()).await;
    if parting.is_faulty {
        let _ = timeout(FAULTY_PATIENCE, drain(stream)).await;
    }
}

/// Writes everything, however slowly it is read, as long as some of it is read within `patience`.
pub(super) async fn say<S>(stream: &mut S, mut bytes: &[u8], patience: Duration) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    while !bytes.is_empty() {
        match timeout(patience, stream.write(bytes)).await?? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n_written => bytes = &bytes[n_written..],
        }
    }
    timeout(patience, stream.flush()).await?
}

/// Tells upstream that the session is over and ends the connection, in any case within a second.
pub(super) async fn leave_upstream<S>(stream: &mut S, end: &SessionEnd, has_closed: bool)
where
    S: Transport,
{
    let Some(farewell) = end.to_upstream() else {
        return;
    };
    let mut bytes = Vec::new();
    if !has_closed {
        write_close(
            &mut bytes,
            farewell.code,
            &farewell.reason,
            Some(random_mask()),
        );
    }
    stream.gather();
    let spoken = async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    };
    if matches!(timeout(UPSTREAM_PATIENCE, spoken).await, Ok(Ok(()))) {
        // Read on a little, so that the close frame is not overtaken by a reset.
        let _ = timeout(UPSTREAM_PATIENCE, drain(stream)).await;
    }
}

/// Reads until the peer's close frame, or the end of its stream.
async fn heard_close<S: AsyncRead + Unpin>(
    stream: &mut S,
    reader: &mut Reader,
    carry: &mut Vec<u8>,
) {
    loop {
        let mut n_seen = 0;
        loop {
            match reader.step(&carry[n_seen..]) {
                Ok(Step::Frame(frame)) => {
                    if frame.opcode == Opcode::Close {
                        return;
                    }
                    reader.pass_over(&frame);
                    n_seen += frame.len;
                }
                Ok(_) => break,
                Err(_) => return,
            }
        }
        // Once for all of them: there may be a whole read of very small frames.
        carry.drain(..n_seen);
        if !matches!(stream.read_buf(carry).await, Ok(n_read) if n_read > 0) {
            return;
        }
    }
}

/// Reads what is under way, to the end of the stream or until it is plain that there is no end.
async fn drain<S: AsyncRead + Unpin>(stream: &mut S) {
    // On the heap: in the future it would count for every session from its start.
    let mut sink = Vec::with_capacity(4096);
    let mut left = MAX_DRAINED_BYTES;
    while left > 0 {
        match stream.read_buf(&mut sink).await {
            Ok(n_read) if n_read > 0 => left = left.saturating_sub(n_read),
            _ => return,
        }
        sink.clear();
    }
}
