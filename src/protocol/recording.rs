//! The file of a recorded session: JSON lines, a head and then everything that crossed, in order.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::Side;

/// The version of the format that is written and read.
pub const RECORDING_VERSION: u32 = 1;

/// The first line: what the session was opened with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingHead {
    /// [`RECORDING_VERSION`].
    pub xi_relay_recording: u32,
    /// The session's id.
    pub session: String,
    /// [`Endpoint::as_str`](super::Endpoint::as_str).
    pub endpoint: String,
    /// The voice in upstream's path; empty on the dialogue sockets.
    pub voice: String,
    /// The query as it went upstream, without credentials.
    pub query: String,
    /// When the session began, in milliseconds of Unix time.
    pub started_ms: u64,
}

/// Every other line: one thing that one side sent and the other got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded<'a> {
    /// Milliseconds since the session began.
    pub at_ms: u64,
    /// Who sent it.
    pub from: Side,
    /// What it was.
    #[serde(flatten)]
    pub what: Crossed<'a>,
}

/// What a side sent. `Debug` shows no text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Crossed<'a> {
    /// A text message.
    Text {
        /// Its payload.
        data: Cow<'a, str>,
    },
    /// A binary message.
    Binary {
        /// Its payload in base64.
        data: Cow<'a, str>,
    },
    /// A close frame.
    Close {
        /// Its code; none in an empty frame.
        code: Option<u16>,
        /// Its reason.
        reason: Cow<'a, str>,
    },
    /// The connection ended without a close frame.
    Lost,
}

impl fmt::Debug for Crossed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { data } => write!(f, "Text({} bytes)", data.len()),
            Self::Binary { data } => write!(f, "Binary({} bytes of base64)", data.len()),
            Self::Close { code, .. } => write!(f, "Close({code:?})"),
            Self::Lost => f.write_str("Lost"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use super::*;

    #[track_caller]
    fn check(recorded: &Recorded<'_>, line: &str) {
        assert_eq!(serde_json::to_string(recorded).unwrap(), line);
        assert_eq!(
            &serde_json::from_str::<Recorded<'_>>(line).unwrap(),
            recorded
        );
    }

    #[test]
    fn lines_read_back_as_they_were_written() {
        let text = Crossed::Text {
            data: r#"{"text":"Ää \n"}"#.into(),
        };
        check(
            &Recorded {
                at_ms: 12,
                from: Side::Client,
                what: text,
            },
            r#"{"at_ms":12,"from":"client","kind":"text","data":"{\"text\":\"Ää \\n\"}"}"#,
        );
        let close = Crossed::Close {
            code: Some(1000),
            reason: "".into(),
        };
        check(
            &Recorded {
                at_ms: 80,
                from: Side::Upstream,
                what: close,
            },
            r#"{"at_ms":80,"from":"upstream","kind":"close","code":1000,"reason":""}"#,
        );
        check(
            &Recorded {
                at_ms: 80,
                from: Side::Upstream,
                what: Crossed::Lost,
            },
            r#"{"at_ms":80,"from":"upstream","kind":"lost"}"#,
        );
    }
}
