//! A TCP stream that reads in large pieces for a TLS library that asks for small ones.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What one read takes at the most: four TLS records.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// rustls takes at most 4 KiB from its stream at a time: sixteen reads for one message of audio.
/// This one reads 64 KiB into a buffer of the thread and keeps what was not asked for until the next
/// calls; an idle connection keeps nothing.
#[derive(Debug)]
pub struct ReadAhead {
    stream: TcpStream,
    kept: Vec<u8>,
    kept_start: usize,
}

impl ReadAhead {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            kept: Vec::new(),
            kept_start: 0,
        }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.kept.is_empty() {
            return READ.with_borrow_mut(|buffer| {
                let mut read = ReadBuf::new(buffer);
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
                let bytes = read.filled();
                let (now, later) = bytes.split_at(bytes.len().min(buf.remaining()));
                buf.put_slice(now);
                this.kept.extend_from_slice(later);
                Poll::Ready(Ok(()))
            });
        }
        let rest = &this.kept[this.kept_start..];
        let now = &rest[..rest.len().min(buf.remaining())];
        buf.put_slice(now);
        this.kept_start += now.len();
        if this.kept_start == this.kept.len() {
            this.kept = Vec::new();
            this.kept_start = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
