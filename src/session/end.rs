//! The single reason a session stopped, and what each side is told because of it.

use std::borrow::Cow;
use std::time::Duration;

use crate::frame::{Close, Fault};
use crate::ids::Side;
use crate::protocol::Problem;

/// Why a session stopped. What both peers are told, the metric's label and the ledger's word all
/// follow from it.
#[derive(Clone, Debug)]
pub enum SessionEnd {
    /// A peer sent a close frame; the other gets the same.
    Closed {
        /// Who closed.
        by: Side,
        /// What its frame said.
        close: Close,
    },
    /// A peer's connection ended without a close frame.
    Lost(Side),
    /// A peer broke the WebSocket protocol, or sent more than it may.
    Faulty {
        /// Who did.
        side: Side,
        /// What it did.
        fault: Fault,
    },
    /// A peer did not answer pings.
    Silent(Side),
    /// A peer did not read what was written to it.
    Stalled(Side),
    /// The relay refused something, or ended the session by a rule of its own.
    Refused(Problem),
    /// Nothing was said for as long as the client had asked to be waited for.
    Idle(Duration),
}

/// A close frame to be sent: the code (none for an empty frame) and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// The code; an empty frame without.
    pub code: Option<u16>,
    /// The reason, cut when it is written.
    pub reason: Cow<'static, str>,
}

impl Farewell {
    fn new(code: u16, reason: &'static str) -> Option<Self> {
        Some(Self {
            code: Some(code),
            reason: reason.into(),
        })
    }
}

impl SessionEnd {
    /// The name in the log, the ledger and the metrics; one of a fixed set.
    #[must_use]
    pub fn label(&self) -> Cow<'static, str> {
        match self {
            Self::Closed {
                by: Side::Upstream,
                close,
            } if close.code == Some(1000) => "completed".into(),
            Self::Closed {
                by: Side::Upstream, ..
            } => "upstream_closed".into(),
            Self::Closed {
                by: Side::Client, ..
            } => "client_closed".into(),
            Self::Lost(Side::Client) => "client_disconnected".into(),
            Self::Lost(Side::Upstream) => "upstream_disconnected".into(),
            Self::Faulty {
                side: Side::Client,
                fault: Fault::TooBig { .. },
            } => "client_message_too_big".into(),
            Self::Faulty {
                side: Side::Client, ..
            } => "client_protocol_error".into(),
            Self::Faulty {
                side: Side::Upstream,
                ..
            } => "upstream_protocol_error".into(),
            Self::Silent(Side::Client) => "client_silent".into(),
            Self::Silent(Side::Upstream) => "upstream_silent".into(),
            Self::Stalled(Side::Client) => "slow_consumer".into(),
            Self::Stalled(Side::Upstream) => "upstream_stalled".into(),
            Self::Refused(problem) => problem.error.clone(),
            Self::Idle(_) => "input_timeout_exceeded".into(),
        }
    }

    /// What the client is told in an error frame before the close; nothing when the ending is a
    /// peer's own, or the client's framing is broken and a message would only confuse it.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        match self {
            Self::Closed { .. }
            | Self::Lost(Side::Client)
            | Self::Silent(Side::Client)
            | Self::Faulty {
                side: Side::Client, ..
            } => None,
            Self::Lost(Side::Upstream)
            | Self::Silent(Side::Upstream)
            | Self::Stalled(Side::Upstream)
            | Self::Faulty {
                side: Side::Upstream,
                ..
            } => Some(Problem::upstream_disconnected()),
            Self::Stalled(Side::Client) => Some(Problem::slow_consumer()),
            Self::Refused(problem) => Some(problem.clone()),
            Self::Idle(limit) => Some(Problem::input_timeout_exceeded(*limit)),
        }
    }

    /// The close frame for the client; none when it is gone.
    #[must_use]
    pub fn to_client(&self) -> Option<Farewell> {
        match self {
            Self::Closed { close, .. } => Some(Farewell {
                code: close.forwardable_code(),
                reason: close.reason.clone().into(),
            }),
            Self::Lost(Side::Client) | Self::Silent(Side::Client) => None,
            Self::Faulty {
                side: Side::Client,
                fault,
            } => Some(Farewell {
                code: Some(fault.close_code()),
                reason: fault.to_string().into(),
            }),
            Self::Lost(Side::Upstream)
            | Self::Silent(Side::Upstream)
            | Self::Stalled(_)
            | Self::Faulty {
                side: Side::Upstream,
                ..
            }
            | Self::Refused(_)
            | Self::Idle(_) => self.problem().map(|problem| Farewell {
                code: Some(problem.close_code),
                reason: problem.message,
            }),
        }
    }

    /// The close frame for upstream; none when it is gone. An ending that is not upstream's fault
    /// tells it no more than that the client has left.
    #[must_use]
    pub fn to_upstream(&self) -> Option<Farewell> {
        match self {
            Self::Closed { close, .. } => Some(Farewell {
                code: close.forwardable_code(),
                reason: close.reason.clone().into(),
            }),
            Self::Lost(Side::Upstream) | Self::Silent(Side::Upstream) => None,
            Self::Faulty {
                side: Side::Upstream,
                fault,
            } => Some(Farewell {
                code: Some(fault.close_code()),
                reason: fault.to_string().into(),
            }),
            Self::Faulty {
                side: Side::Client, ..
            } => Farewell::new(1011, "the client failed"),
            Self::Lost(Side::Client)
            | Self::Silent(Side::Client)
            | Self::Stalled(_)
            | Self::Refused(_)
            | Self::Idle(_) => Farewell::new(1001, ""),
        }
    }

    /// The close code that the client sees, as the ledger holds it: 1005 for an empty close frame,
    /// 1006 for none at all.
    #[must_use]
    pub fn client_code(&self) -> u16 {
        match self.to_client() {
            Some(farewell) => farewell.code.unwrap_or(1005),
            None => 1006,
        }
    }
}
