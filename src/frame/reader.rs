//! Follows the frames that one peer sends.

use std::ops::Range;

use super::utf8::Utf8;
use super::{Fault, Header, Opcode};
use crate::ids::Side;

/// Follows the frames of one peer through the caller's buffers and holds the rules that reach over
/// several frames: fragmentation, the size of a message, UTF-8 over its fragments.
///
/// The caller shows it bytes that start at a frame's border; it never keeps any.
#[derive(Debug)]
pub struct Reader {
    from: Side,
    max_message_bytes: u64,
    /// Messages up to here are handed out whole; a larger frame is announced by [`Step::Large`].
    max_held_bytes: u64,
    open: Option<OpenMessage>,
}

/// A message whose last fragment has not come yet.
#[derive(Debug)]
struct OpenMessage {
    opcode: Opcode,
    bytes: u64,
    utf8: Utf8,
}

/// What the bytes at the start of the buffer are.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Not enough yet: so many bytes, counted from the same start, complete what has begun.
    Need(usize),
    /// A whole frame.
    Frame(Frame),
    /// The header of a data frame too large to be held; its payload is to be passed on as it
    /// comes, shown to [`Reader::payload`] piece by piece.
    Large(Header),
}

/// Where a whole frame lies, counted from the start of the bytes that were shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is, as it stands in the frame.
    pub opcode: Opcode,
    /// Whether it ends its message.
    pub fin: bool,
    /// Whether its message began in an earlier frame or goes on in a later one.
    pub fragmented: bool,
    /// The client's mask.
    pub mask: Option<[u8; 4]>,
    /// Its payload.
    pub payload: Range<usize>,
    /// Its length with header.
    pub len: usize,
}

impl Frame {
    /// Whether it is a message of its own, neither control nor a fragment.
    #[must_use]
    pub fn is_message(&self) -> bool {
        !self.fragmented && !self.opcode.is_control()
    }

    /// The text of a message that came in this frame whole, of which `payload` is the unmasked
    /// payload; none when it is binary.
    ///
    /// # Errors
    /// Text that is not UTF-8.
    pub fn text<'a>(&self, payload: &'a [u8]) -> Result<Option<&'a str>, Fault> {
        match self.opcode {
            Opcode::Text => simdutf8::basic::from_utf8(payload)
                .map(Some)
                .map_err(|_| Fault::Utf8),
            _ => Ok(None),
        }
    }
}

impl Reader {
    /// Follows `from`, whose messages hold at most `max_message_bytes` of payload; those over
    /// `max_held_bytes` are handed out in pieces.
    #[must_use]
    pub fn new(from: Side, max_message_bytes: u64, max_held_bytes: u64) -> Self {
        Self {
            from,
            max_message_bytes,
            max_held_bytes,
            open: None,
        }
    }

    /// A reader that hands out every message whole.
    #[must_use]
    pub fn whole(from: Side, max_message_bytes: u64) -> Self {
        Self::new(from, max_message_bytes, u64::MAX)
    }

    /// Changes the size limit for messages whose header has not been seen yet.
    pub fn set_max_message_bytes(&mut self, max_message_bytes: u64) {
        self.max_message_bytes = max_message_bytes;
    }

    /// Says what stands at the start of `bytes`. After `Frame` or `Large` the reader expects what
    /// follows it; the payload of a data frame must then be shown to [`Self::payload_of`], or piece
    /// by piece to [`Self::payload`], or passed over with [`Self::pass_over`].
    ///
    /// # Errors
    /// Whatever the frame's header does against RFC 6455, or a message over the limit, both before
    /// the payload has come.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        let header = match Header::parse(bytes, self.from)? {
            Ok(header) => header,
            Err(needed) => return Ok(Step::Need(needed)),
        };
        let message_bytes = self.judge(&header)?;
        if !header.opcode.is_control() && message_bytes > self.max_held_bytes {
            self.follow(&header);
            return Ok(Step::Large(header));
        }
        let payload_len = usize::try_from(header.payload_len).map_err(|_| self.too_big())?;
        let len = header.len + payload_len;
        if bytes.len() < len {
            return Ok(Step::Need(len));
        }
        let fragmented = !header.opcode.is_control() && (self.open.is_some() || !header.fin);
        if fragmented {
            self.follow(&header);
        }
        Ok(Step::Frame(Frame {
            opcode: header.opcode,
            fin: header.fin,
            fragmented,
            mask: header.mask,
            payload: header.len..len,
            len,
        }))
    }

    /// Takes the unmasked payload of the data frame that [`Self::step`] gave last. Returns whether it
    /// is text.
    ///
    /// # Errors
    /// Text that is not UTF-8, as soon as the wrong byte has come.
    pub fn payload_of(&mut self, frame: &Frame, payload: &[u8]) -> Result<bool, Fault> {
        match frame.fragmented {
            true => self.payload(payload, frame.fin),
            false => Ok(frame.text(payload)?.is_some()),
        }
    }

    /// The same for a message of several frames, or for one too large to be held, piece by piece;
    /// `ends_message` with the last piece of a final frame.
    ///
    /// # Errors
    /// Text that is not UTF-8, as soon as the wrong byte has come.
    pub fn payload(&mut self, piece: &[u8], ends_message: bool) -> Result<bool, Fault> {
        debug_assert!(self.open.is_some(), "of a whole message, see `Frame::text`");
        let Some(open) = &mut self.open else {
            return Ok(false);
        };
        let is_text = open.opcode == Opcode::Text;
        let valid = !is_text || {
            if ends_message && open.utf8.is_whole() {
                simdutf8::basic::from_utf8(piece).is_ok()
            } else {
                open.utf8.feed(piece) && (!ends_message || open.utf8.is_whole())
            }
        };
        if ends_message {
            self.open = None;
        }
        if valid { Ok(is_text) } else { Err(Fault::Utf8) }
    }

    /// In place of [`Self::payload_of`] for a frame whose content does not matter, though its end does.
    pub fn pass_over(&mut self, frame: &Frame) {
        if frame.fin && frame.fragmented {
            self.open = None;
        }
    }

    /// Whether a message has begun whose end has not come.
    #[must_use]
    pub fn is_inside_message(&self) -> bool {
        self.open.is_some()
    }

    /// The size that the message would have with this frame, if the frame may come now.
    fn judge(&self, header: &Header) -> Result<u64, Fault> {
        let so_far = match (header.opcode, &self.open) {
            (opcode, _) if opcode.is_control() => return Ok(header.payload_len),
            (Opcode::Continuation, Some(open)) => open.bytes,
            (Opcode::Continuation, None) => {
                return Err(Fault::Protocol(
                    "a continuation came without a message to continue",
                ));
            }
            (_, Some(_)) => {
                return Err(Fault::Protocol("a new message began inside another"));
            }
            (_, None) => 0,
        };
        let message_bytes = so_far.saturating_add(header.payload_len);
        if message_bytes > self.max_message_bytes {
            return Err(self.too_big());
        }
        Ok(message_bytes)
    }

    fn follow(&mut self, header: &Header) {
        match (header.opcode, &mut self.open) {
            (opcode, _) if opcode.is_control() => {}
            (_, Some(open)) => open.bytes += header.payload_len,
            (opcode, open @ None) => {
                *open = Some(OpenMessage {
                    opcode,
                    bytes: header.payload_len,
                    utf8: Utf8::default(),
                });
            }
        }
    }

    fn too_big(&self) -> Fault {
        Fault::TooBig {
            limit: self.max_message_bytes,
        }
    }
}

#[cfg(test)]
mod tests;
