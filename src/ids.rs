//! Names of clients, sessions and voices, parsed once at the edge and right ever after.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Who spends: a configured client, a JWT's `sub`, or with open access the remote address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ClientId(Arc<str>);

/// A name that is not allowed, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct InvalidId {
    what: &'static str,
    rule: &'static str,
}

impl ClientId {
    /// Accepts 1 to 128 bytes of printable text without white space.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let ok = (1..=128).contains(&text.len())
            && text.chars().all(|c| !c.is_whitespace() && !c.is_control());
        ok.then(|| Self(text.into())).ok_or(InvalidId {
            what: "a client id",
            rule: "1 to 128 bytes of printable text without white space",
        })
    }

    /// The name as it stands in logs and in the ledger.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ClientId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl From<ClientId> for Arc<str> {
    fn from(id: ClientId) -> Self {
        id.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One session or HTTP request, written as 16 hex digits: 16 bits of the time, which grow by one
/// each 64 ms and begin anew after 70 minutes, and 48 random bits. It is the `session` of the log and
/// the ledger and the `request_id` of the relay's own errors. What is made at the same time stands next
/// to each other in a store's index, so that what is entered together touches few pages of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u64);

impl SessionId {
    /// A new id.
    #[must_use]
    pub fn random() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A clock before 1970 is wrong, and ids need not be in order then.
        let since_1970 = since_1970.unwrap_or_default().as_millis();
        let age = u64::try_from(since_1970).unwrap_or_default() / Self::AGE_MS;
        let random_bits = rand::random::<u64>() >> Self::AGE_BITS;
        Self(age << (64 - Self::AGE_BITS) | random_bits)
    }

    const AGE_BITS: u32 = 16;
    const AGE_MS: u64 = 64;

    /// Reads the 16 hex digits that `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16)
            .then(|| u64::from_str_radix(text, 16).ok())?
            .map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A voice as it may stand in a path: `[A-Za-z0-9_-]{1,64}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(transparent)]
pub struct VoiceId(Arc<str>);

impl VoiceId {
    /// Accepts `[A-Za-z0-9_-]{1,64}`; anything else could leave its place in an upstream path.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let ok = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        ok.then(|| Self(text.into())).ok_or(InvalidId {
            what: "a voice id",
            rule: "1 to 64 of A-Z a-z 0-9 _ -",
        })
    }

    /// What stands in logs and in the ledger: nothing where no voice was named.
    #[must_use]
    pub fn or_nothing(voice: Option<&Self>) -> Arc<str> {
        voice.map(|voice| Arc::clone(&voice.0)).unwrap_or_default()
    }

    /// The voice as it stands in a path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for VoiceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for VoiceId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for VoiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The end of a session that a frame came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Who connected to the relay.
    Client,
    /// Whom the relay connected to.
    Upstream,
}

impl Side {
    /// The name as it stands in logs and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        }
    }
}
