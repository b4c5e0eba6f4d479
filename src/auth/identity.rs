//! What a credential is, and what knowing its bearer comes to.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Origin, TokenHash};
use crate::ids::{ClientId, VoiceId};

/// What a request showed to say who it is, without the word `Bearer`.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A client's token or a JWT, from any place where an ElevenLabs key may stand.
    Key(SecretString),
    /// A token from `POST /v1/single-use-token/tts_websocket`, from a place that is only for such.
    SingleUse(SecretString),
}

/// A client that has shown who it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Who spends.
    pub client: ClientId,
    /// The plan whose limits apply.
    pub plan: Arc<str>,
    /// When sessions of this identity end, if its token says so.
    pub expires_at: Option<SystemTime>,
    /// What a single-use token allows less than the plan does.
    pub narrowing: Option<Narrowing>,
    /// What the identity rests on, for [`Directory::recheck`](super::Directory::recheck).
    pub token: TokenRef,
}

/// What an identity rests on. Holds no secret: of a token only its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRef {
    /// Nothing: access is open.
    Open,
    /// A token that the configuration lists.
    Configured(TokenHash),
    /// A JWT.
    Jwt {
        /// What of it is signed, see [`TokenHash::to_revoke`].
        token: TokenHash,
        /// The key that its signature was verified with.
        key: TokenHash,
    },
    /// A single-use token, now spent.
    SingleUse {
        /// The single-use token itself.
        token: TokenHash,
        /// What its minter rested on.
        minter: Box<TokenRef>,
    },
}

impl TokenRef {
    /// What the token that was shown is revoked by; `None` with open access.
    #[must_use]
    pub fn hash(&self) -> Option<TokenHash> {
        match self {
            Self::Open => None,
            Self::Configured(token) | Self::Jwt { token, .. } | Self::SingleUse { token, .. } => {
                Some(*token)
            }
        }
    }
}

/// What a single-use token allows less than the plan does. Absent means: as the plan has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Narrowing {
    /// Unicode scalar values that may go up in the session, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_characters: Option<u64>,
    /// Seconds that the session may last, 1 to 86400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_session_seconds: Option<u64>,
    /// The only voices allowed, as the client writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voices: Option<Vec<VoiceId>>,
    /// The only page that may use the token. A request without an `Origin` header is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

impl Narrowing {
    /// How long the session may last at most.
    #[must_use]
    pub fn max_session(&self) -> Option<Duration> {
        self.max_session_seconds.map(Duration::from_secs)
    }

    /// Whether the token may be used with the voice `real` by the name `asked`: its list may hold
    /// either.
    #[must_use]
    pub fn allows_voice(&self, asked: &str, real: &str) -> bool {
        self.voices.as_ref().is_none_or(|voices| {
            let mut voices = voices.iter().map(VoiceId::as_str);
            voices.any(|voice| voice == asked || voice == real)
        })
    }

    /// Whether the token may be used from this page; `None` for a request without `Origin`.
    #[must_use]
    pub fn allows_origin(&self, origin: Option<&Origin>) -> bool {
        self.origin.is_none() || self.origin.as_ref() == origin
    }
}
