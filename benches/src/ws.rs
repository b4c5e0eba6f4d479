//! The least WebSocket (RFC 6455) that a load generator and its upstream need: heads, frame
//! headers, control frames. Payloads of data frames are skipped, never copied.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use ring::digest;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Added to the client's key before hashing (RFC 6455, section 1.3).
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a control frame may carry at most (RFC 6455, section 5.5).
const MAX_CONTROL: usize = 125;

/// The kinds of frame told apart here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// Text or binary: counted, not looked into.
    Data,
    /// To be answered with a pong of the same payload.
    Ping,
    /// An answer; nothing to do.
    Pong,
    /// The end; to be echoed once.
    Close,
}

/// One frame, whole on the wire when this is handed out.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Its kind.
    pub opcode: Opcode,
    /// Payload size in bytes.
    pub len: usize,
    control: [u8; MAX_CONTROL],
}

impl Frame {
    /// The unmasked payload of a control frame; empty for data.
    pub fn control(&self) -> &[u8] {
        match self.opcode {
            Opcode::Data => &[],
            _ => &self.control[..self.len],
        }
    }
}

/// Builds a server's frame (not masked).
pub fn server_frame(opcode: u8, payload: &[u8]) -> Bytes {
    let mut frame = header(opcode, payload.len(), 0);
    frame.put_slice(payload);
    frame.freeze()
}

/// Builds a client's frame, masked with `mask`.
pub fn client_frame(opcode: u8, payload: &[u8], mask: [u8; 4]) -> Bytes {
    let mut frame = header(opcode, payload.len(), 0x80);
    frame.put_slice(&mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame.freeze()
}

/// Opcode of a text frame.
pub const TEXT: u8 = 0x1;
/// Opcode of a close frame.
pub const CLOSE: u8 = 0x8;
/// Opcode of a pong frame.
pub const PONG: u8 = 0xA;

fn header(opcode: u8, len: usize, masked: u8) -> BytesMut {
    let mut frame = BytesMut::with_capacity(len + 14);
    frame.put_u8(0x80 | opcode);
    match len {
        0..=125 => frame.put_u8(masked | len as u8),
        126..=0xFFFF => {
            frame.put_u8(masked | 126);
            frame.put_u16(len as u16);
        }
        _ => {
            frame.put_u8(masked | 127);
            frame.put_u64(len as u64);
        }
    }
    frame
}

/// The answer to a client's `Sec-WebSocket-Key`.
pub fn accept_key(key: &str) -> String {
    let mut sha1 = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key.trim().as_bytes());
    sha1.update(ACCEPT_GUID.as_bytes());
    STANDARD.encode(sha1.finish())
}

/// Reads one side of a connection: first a head, then frames, out of one buffer.
pub struct Reader {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Reader {
    /// A reader that asks the socket for up to `capacity` bytes at a time (at least 4096).
    pub fn new(capacity: usize) -> Self {
        Self {
            buffer: vec![0; capacity.max(4096)].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Reads an HTTP head, up to and including the empty line. Bytes after it stay buffered.
    ///
    /// # Errors
    /// When the peer closes first, or sends a head larger than the buffer.
    pub async fn head<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<String> {
        loop {
            let seen = &self.buffer[self.start..self.end];
            if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&seen[..at + 4]).into_owned();
                self.start += at + 4;
                return Ok(head);
            }
            if self.fill(stream).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads the next frame to its last byte; `None` when the peer has closed between frames.
    ///
    /// # Errors
    /// When the connection breaks inside a frame, and for fragments and reserved opcodes, which
    /// nothing here sends.
    pub async fn frame<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
    ) -> io::Result<Option<Frame>> {
        if self.start == self.end && self.fill(stream).await? == 0 {
            return Ok(None);
        }
        self.need(stream, 2).await?;
        let (first, second) = (self.buffer[self.start], self.buffer[self.start + 1]);
        let opcode = match first {
            0x81 | 0x82 => Opcode::Data,
            0x88 => Opcode::Close,
            0x89 => Opcode::Ping,
            0x8A => Opcode::Pong,
            _ => return Err(io::Error::other(format!("frame starts with {first:#04x}"))),
        };
        let extended = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_len = if second & 0x80 == 0 { 0 } else { 4 };
        self.need(stream, 2 + extended + mask_len).await?;
        let head = &self.buffer[self.start + 2..];
        let len = match extended {
            0 => usize::from(second & 0x7F),
            n => head[..n]
                .iter()
                .fold(0, |len, byte| len << 8 | usize::from(*byte)),
        };
        let mut mask = [0; 4];
        mask[..mask_len].copy_from_slice(&head[extended..extended + mask_len]);
        self.start += 2 + extended + mask_len;

        let mut frame = Frame {
            opcode,
            len,
            control: [0; MAX_CONTROL],
        };
        if opcode == Opcode::Data {
            self.skip(stream, len).await?;
        } else {
            if len > MAX_CONTROL {
                return Err(io::Error::other("control frame over 125 bytes"));
            }
            self.need(stream, len).await?;
            let payload = &self.buffer[self.start..self.start + len];
            for (to, (from, key)) in frame
                .control
                .iter_mut()
                .zip(payload.iter().zip(mask.iter().cycle()))
            {
                *to = from ^ key;
            }
            self.start += len;
        }
        Ok(Some(frame))
    }

    /// Whether more bytes have been read than were handed out.
    pub fn has_buffered(&self) -> bool {
        self.start < self.end
    }

    async fn need<S: AsyncRead + Unpin>(&mut self, stream: &mut S, len: usize) -> io::Result<()> {
        while self.end - self.start < len {
            if self.fill(stream).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    async fn skip<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        mut len: usize,
    ) -> io::Result<()> {
        loop {
            let here = len.min(self.end - self.start);
            self.start += here;
            len -= here;
            if len == 0 {
                return Ok(());
            }
            if self.fill(stream).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn fill<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            return Err(io::Error::other("head or header larger than the buffer"));
        }
        let n = stream.read(&mut self.buffer[self.end..]).await?;
        self.end += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn the_accept_key_is_that_of_the_rfc() {
        assert_eq!(
            accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    async fn read_back(mut wire: &[u8]) -> Vec<(Opcode, usize, Vec<u8>)> {
        let mut reader = Reader::new(4096);
        let mut frames = Vec::new();
        while let Some(frame) = reader.frame(&mut wire).await.unwrap() {
            frames.push((frame.opcode, frame.len, frame.control().to_vec()));
        }
        frames
    }

    #[tokio::test]
    async fn frames_of_every_length_form_are_read_back() {
        let mut wire = Vec::new();
        for len in [0, 125, 126, 4096, 65_535, 65_536, 200_000] {
            wire.extend_from_slice(&server_frame(TEXT, &vec![b'x'; len]));
            wire.extend_from_slice(&client_frame(TEXT, &vec![b'x'; len], [1, 2, 3, 4]));
        }
        wire.extend_from_slice(&client_frame(CLOSE, &1000_u16.to_be_bytes(), [9, 8, 7, 6]));
        let frames = read_back(&wire).await;
        assert_eq!(frames.len(), 15);
        assert_eq!(frames[12].1, 200_000);
        assert_eq!(
            frames[14],
            (Opcode::Close, 2, 1000_u16.to_be_bytes().to_vec())
        );
    }

    #[tokio::test]
    async fn a_frame_cut_short_is_an_error() {
        let wire = server_frame(TEXT, b"hello");
        let mut cut = &wire[..4];
        assert!(Reader::new(4096).frame(&mut cut).await.is_err());
    }
}
