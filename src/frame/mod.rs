//! The WebSocket frame engine (RFC 6455 section 5): bytes in, frames and byte ranges out.
//!
//! Pure: no sockets, no clock, no allocation. A [`Reader`] follows what one peer sends and says
//! where each frame lies in the caller's buffer, so that the caller can forward the very bytes it
//! read. Whatever way the input is split over calls, the result is the same.

mod close;
mod encode;
mod header;
mod mask;
mod reader;
mod utf8;

pub use close::{Close, CloseCode};
pub use encode::{MAX_HEADER_BYTES, write_close, write_frame};
pub use header::{Header, Opcode};
pub use mask::{apply_mask, random_mask, unmask_onto};
pub use reader::{Frame, Reader, Step};

/// What a peer did against the protocol; it is told by the close code, the other leg by 1011.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Bad framing (RFC 6455 section 5): the text says which rule.
    #[error("{0}")]
    Protocol(&'static str),
    /// A text message or close reason that is not UTF-8 (RFC 6455 section 8.1).
    #[error("a text message was not valid UTF-8")]
    Utf8,
    /// A message over the size limit of its side.
    #[error("a message was larger than {limit} bytes")]
    TooBig {
        /// The limit, in bytes of payload.
        limit: u64,
    },
}

impl Fault {
    /// The code the guilty peer is closed with (RFC 6455 section 7.4.1).
    #[must_use]
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Protocol(_) => 1002,
            Self::Utf8 => 1007,
            Self::TooBig { .. } => 1009,
        }
    }
}
