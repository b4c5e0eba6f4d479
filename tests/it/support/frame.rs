//! WebSocket frames written by hand (RFC 6455 section 5.2), so that every bit can be wrong.

/// Opcodes of RFC 6455 section 5.2.
pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// How the payload's length is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// As short as the RFC demands.
    Shortest,
    /// In 16 bits, however short the payload is.
    Sixteen,
    /// In 64 bits, however short the payload is.
    SixtyFour,
    /// This many bytes are announced in 64 bits, whatever follows.
    Claimed(u64),
}

/// One frame, to be sent or as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// The three reserved bits, 0 to 7.
    pub rsv: u8,
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    pub length: Length,
    /// Never masked here, masked on the wire when `mask` is set.
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        Self {
            fin: true,
            rsv: 0,
            opcode,
            mask: None,
            length: Length::Shortest,
            payload: payload.as_ref().to_vec(),
        }
    }

    pub fn text(payload: impl AsRef<[u8]>) -> Self {
        Self::new(TEXT, payload)
    }

    pub fn close(code: u16, reason: &str) -> Self {
        Self::new(CLOSE, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
    }

    /// The same frame with more of its message to come.
    pub fn unfinished(mut self) -> Self {
        self.fin = false;
        self
    }

    pub fn masked(mut self) -> Self {
        self.mask = Some(MASK);
        self
    }

    pub fn with_rsv(mut self, rsv: u8) -> Self {
        self.rsv = rsv;
        self
    }

    pub fn with_length(mut self, length: Length) -> Self {
        self.length = length;
        self
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode];
        let mask_bit = if self.mask.is_some() { 0x80 } else { 0 };
        let n = self.payload.len();
        match self.length {
            Length::Shortest if n < 126 => bytes.push(mask_bit | n as u8),
            Length::Shortest if n <= usize::from(u16::MAX) => push_16(&mut bytes, mask_bit, n),
            Length::Sixteen => push_16(&mut bytes, mask_bit, n),
            Length::Shortest | Length::SixtyFour => push_64(&mut bytes, mask_bit, n as u64),
            Length::Claimed(n) => push_64(&mut bytes, mask_bit, n),
        }
        if let Some(mask) = self.mask {
            bytes.extend(mask);
            bytes.extend(apply(mask, &self.payload));
        } else {
            bytes.extend(&self.payload);
        }
        bytes
    }

    /// Reads one whole frame off the front of `bytes`; gives it and how many bytes it took.
    pub fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (n, mut at) = match second & 0x7F {
            126 => (
                u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
                4,
            ),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
            short => (u64::from(short), 2),
        };
        let mask: Option<[u8; 4]> = if second & 0x80 == 0 {
            None
        } else {
            at += 4;
            Some(bytes.get(at - 4..at)?.try_into().ok()?)
        };
        let end = at.checked_add(usize::try_from(n).ok()?)?;
        let payload = bytes.get(at..end)?;
        let frame = Self {
            fin: first & 0x80 != 0,
            rsv: first >> 4 & 7,
            opcode: first & 0xF,
            mask,
            length: Length::Shortest,
            payload: mask.map_or_else(|| payload.to_vec(), |mask| apply(mask, payload)),
        };
        Some((frame, end))
    }

    /// Code and reason of a close frame; 1005 stands for an empty one (RFC 6455 section 7.1.5).
    pub fn close_parts(&self) -> (u16, String) {
        assert_eq!(self.opcode, CLOSE, "not a close frame: {self:?}");
        match self.payload.split_at_checked(2) {
            Some((code, reason)) => (
                u16::from_be_bytes([code[0], code[1]]),
                String::from_utf8(reason.to_vec()).expect("a close reason is UTF-8"),
            ),
            None => (1005, String::new()),
        }
    }
}

fn push_16(bytes: &mut Vec<u8>, mask_bit: u8, n: usize) {
    bytes.push(mask_bit | 126);
    bytes.extend(
        u16::try_from(n)
            .expect("the length fits 16 bits")
            .to_be_bytes(),
    );
}

fn push_64(bytes: &mut Vec<u8>, mask_bit: u8, n: u64) {
    bytes.push(mask_bit | 127);
    bytes.extend(n.to_be_bytes());
}

fn apply(mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, key)| byte ^ key)
        .collect()
}
