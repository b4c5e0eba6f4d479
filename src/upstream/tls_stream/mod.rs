//! A TLS client over any byte stream that costs little while bytes flow and next to nothing while
//! none do.
//!
//! rustls' own stream takes 4 KiB at a time and keeps what its buffers have grown to. This one reads
//! as much as the caller has room for, has every whole record of it decrypted there, and owns memory
//! only for what has to wait: the start of a record, bytes that the caller had no room for, records
//! that the socket had no room for. Callers with little room, or none that was ever written to, are
//! served from a buffer of the thread.

mod records;

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use records::{HEADROOM_BYTES, MAX_KEPT_BYTES, Records};

/// The least that one read has room for: a record of the longest kind.
const MIN_READ_BYTES: usize = 17 * 1024;
/// The buffer of a thread: for a read whose caller has too little room to decrypt in, or for what a
/// write makes of what it takes.
const BUFFER_BYTES: usize = 256 * 1024;
/// The most that one write takes: four records.
const MAX_WRITE_BYTES: usize = 64 * 1024;
const _: () = assert!(BUFFER_BYTES > HEADROOM_BYTES + MAX_KEPT_BYTES + MIN_READ_BYTES);
const _: () = assert!(BUFFER_BYTES > MAX_WRITE_BYTES + 4096);

/// One end of a TLS connection, with the handshake behind it. As with any buffering stream, what
/// was written is on its way only once it was flushed.
pub struct TlsStream<T> {
    stream: T,
    records: Records,
    /// Encrypted bytes that the socket had no room for.
    out: Vec<u8>,
    out_written: usize,
    close_sent: bool,
}

impl<T> TlsStream<T> {
    /// The stream below.
    pub(super) fn get_ref(&self) -> &T {
        &self.stream
    }

    /// The same end of the connection over what `map` makes of the stream below.
    pub(super) fn try_map<U>(
        self,
        map: impl FnOnce(T) -> io::Result<U>,
    ) -> io::Result<TlsStream<U>> {
        Ok(TlsStream {
            stream: map(self.stream)?,
            records: self.records,
            out: self.out,
            out_written: self.out_written,
            close_sent: self.close_sent,
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> TlsStream<T> {
    /// Shakes hands as `config` says with whom `name` names. The last of it may still have to go out,
    /// with what is written first or when it is flushed.
    ///
    /// # Errors
    /// What the stream fails with; [`io::ErrorKind::UnexpectedEof`] where it ends;
    /// [`io::ErrorKind::InvalidData`] around the [`rustls::Error`] where TLS fails.
    pub(super) async fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        stream: T,
    ) -> io::Result<Self> {
        let mut tls = Self {
            stream,
            records: Records::new(config, name)?,
            out: Vec::new(),
            out_written: 0,
            close_sent: false,
        };
        std::future::poll_fn(|cx| tls.poll_handshake(cx)).await?;
        Ok(tls)
    }

    /// The protocol that both ends agreed on (ALPN), if they spoke of any.
    pub(super) fn alpn_protocol(&self) -> Option<&[u8]> {
        self.records.alpn_protocol()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let end = self.records.poll_end()?;
            if !self.records.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut *self).poll_flush(cx))?;
            if end.is_ready() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
        }
    }

    /// Reads once, and decrypts what is whole then; ready with the end of the stream as well.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n_kept = self.records.kept().len();
        // Room that was never written to would have to be, with zeros, each time anew.
        let n_ready = plain.initialized().len() - plain.filled().len();
        if n_ready >= HEADROOM_BYTES + n_kept + MIN_READ_BYTES {
            // What was read, decrypted and moved stays in the same lines of the processor's cache.
            let room = plain.initialize_unfilled_to(n_ready);
            let n_plain = ready!(self.poll_receive_into(cx, room))?;
            plain.advance(n_plain);
            return Poll::Ready(Ok(()));
        }
        // Records are longer than what is in them, so little is decrypted that has no room.
        let n_room = plain.remaining().saturating_sub(n_kept);
        let n_room = n_room.clamp(MIN_READ_BYTES, BUFFER_BYTES - HEADROOM_BYTES - n_kept);
        with_buffer(|buffer| {
            let buffer = &mut buffer[..HEADROOM_BYTES + n_kept + n_room];
            let n_plain = ready!(self.poll_receive_into(cx, buffer))?;
            self.records.hand_out(&buffer[..n_plain], plain);
            Poll::Ready(Ok(()))
        })
    }

    /// The same in `buffer`, at whose front the plain bytes stand then.
    fn poll_receive_into(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let start = HEADROOM_BYTES + self.records.kept().len();
        let mut read = ReadBuf::new(&mut buffer[start..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        let n_read = read.filled().len();
        if n_read == 0 {
            self.records.end();
            return Poll::Ready(Ok(0));
        }
        let n_plain = self.records.receive(&mut buffer[..start + n_read]);
        if self.records.has_failed() {
            // The peer is told why, if there is room; the error itself is what matters.
            self.records.take_due(&mut self.out);
            let _ = self.poll_write_out(cx);
        }
        Poll::Ready(Ok(n_plain))
    }

    /// Ready when the stream has taken every record there is.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out_written < self.out.len() {
            let rest = &self.out[self.out_written..];
            let n_written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if n_written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out_written += n_written;
        }
        self.out = Vec::new();
        self.out_written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<T> {
    /// Fills `buf` with all that one read brings. An error comes behind the bytes before it; the end
    /// of the stream without a `close_notify` is one (RFC 8446 section 6.1).
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let n_filled = buf.filled().len();
        while buf.remaining() > 0 {
            if this.records.take_plain(buf) || buf.filled().len() > n_filled {
                break;
            }
            if this.records.poll_end()?.is_ready() {
                break;
            }
            ready!(this.poll_receive(cx, buf))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(cx))?;
        if this.close_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // What TLS has to say itself leaves with what is said now.
        this.records.take_due(&mut this.out);
        let plain = &buf[..buf.len().min(MAX_WRITE_BYTES)];
        with_buffer(|buffer| {
            let n_encrypted = this.records.encrypt(plain, buffer)?;
            let mut rest = &buffer[..n_encrypted];
            if !this.out.is_empty() {
                this.out.extend_from_slice(rest);
                return match this.poll_write_out(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    _ => Poll::Ready(Ok(plain.len())),
                };
            }
            while !rest.is_empty() {
                match Pin::new(&mut this.stream).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    Poll::Ready(Ok(n_written)) => rest = &rest[n_written..],
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            this.out.extend_from_slice(rest);
            Poll::Ready(Ok(plain.len()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.records.take_due(&mut this.out);
        ready!(this.poll_write_out(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    /// Sends a `close_notify` behind what was written, then closes the stream below.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.close_sent {
            this.close_sent = true;
            this.records.close(&mut this.out);
        }
        ready!(this.poll_write_out(cx))?;
        match ready!(Pin::new(&mut this.stream).poll_shutdown(cx)) {
            // The peer has closed it already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for TlsStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// Lends the buffer of this thread.
fn with_buffer<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local! {
        static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    // Taken rather than borrowed: where one such stream runs over another, each has its own.
    let mut buffer = BUFFER.take();
    if buffer.is_empty() {
        buffer = vec![0; BUFFER_BYTES];
    }
    let result = work(&mut buffer);
    BUFFER.set(buffer);
    result
}

#[cfg(test)]
mod tests;
