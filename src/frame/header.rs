//! The first 2 to 14 bytes of a frame (RFC 6455 section 5.2).

use super::Fault;
use crate::ids::Side;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// The next fragment of the open message.
    Continuation,
    /// A text message, or its first fragment.
    Text,
    /// A binary message, or its first fragment.
    Binary,
    /// The start of the close handshake, or its echo.
    Close,
    /// Answered with a pong by whoever receives it.
    Ping,
    /// The answer to a ping, or an unasked sign of life.
    Pong,
}

impl Opcode {
    fn parse(bits: u8) -> Result<Self, Fault> {
        Ok(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return Err(Fault::Protocol("a reserved opcode was used")),
        })
    }

    /// The four bits on the wire.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    /// Whether this is a control frame: short, never fragmented, allowed between fragments.
    #[must_use]
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A frame header that keeps every rule that can be judged from itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether this frame is the last of its message.
    pub fin: bool,
    /// What it is.
    pub opcode: Opcode,
    /// The key its payload is masked with: always from a client, never from a server.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload.
    pub payload_len: u64,
    /// Bytes of the header itself, 2 to 14.
    pub len: usize,
}

impl Header {
    /// Reads the header at the start of `bytes`, or tells how many bytes it takes to read it.
    ///
    /// # Errors
    /// A reserved bit or opcode, a mask where none may be or none where one must be, a length that
    /// is not in its shortest form or has its top bit set, a control frame that is long or a
    /// fragment. The first two bytes are judged as soon as they are there.
    pub fn parse(bytes: &[u8], from: Side) -> Result<Result<Self, usize>, Fault> {
        let &[first, second, ..] = bytes else {
            return Ok(Err(2));
        };
        if first & 0x70 != 0 {
            return Err(Fault::Protocol("a reserved bit was set"));
        }
        let opcode = Opcode::parse(first & 0x0F)?;
        let fin = first & 0x80 != 0;
        let masked = second & 0x80 != 0;
        match (from, masked) {
            (Side::Client, false) => return Err(Fault::Protocol("a client frame had no mask")),
            (Side::Upstream, true) => return Err(Fault::Protocol("a server frame had a mask")),
            _ => {}
        }
        let short_len = second & 0x7F;
        if opcode.is_control() {
            if !fin {
                return Err(Fault::Protocol("a control frame was fragmented"));
            }
            if short_len > 125 {
                return Err(Fault::Protocol("a control frame was longer than 125 bytes"));
            }
        }
        let len_bytes = match short_len {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let len = 2 + len_bytes + if masked { 4 } else { 0 };
        if bytes.len() < len {
            return Ok(Err(len));
        }
        let payload_len = match short_len {
            126 => u64::from(u16::from_be_bytes([bytes[2], bytes[3]])),
            127 => {
                let mut wide = [0; 8];
                wide.copy_from_slice(&bytes[2..10]);
                u64::from_be_bytes(wide)
            }
            short => u64::from(short),
        };
        let shortest = match short_len {
            126 => payload_len > 125,
            127 => payload_len > 0xFFFF,
            _ => true,
        };
        if !shortest {
            return Err(Fault::Protocol(
                "a frame length was not in its shortest form",
            ));
        }
        if payload_len >> 63 != 0 {
            return Err(Fault::Protocol("a frame length had its top bit set"));
        }
        let mask = masked.then(|| {
            [
                bytes[len - 4],
                bytes[len - 3],
                bytes[len - 2],
                bytes[len - 1],
            ]
        });
        Ok(Ok(Self {
            fin,
            opcode,
            mask,
            payload_len,
            len,
        }))
    }
}
