//! Tokens that open one session: what a page may be given instead of a client's own token.

use std::collections::HashMap;
use std::time::SystemTime;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::{AuthError, Narrowing, Origin, TokenHash, TokenRef};
use crate::ids::{ClientId, VoiceId};
use crate::protocol::Problem;

/// The most voices one token may list.
const MAX_VOICES: usize = 100;

/// The longest session one token may ask for, in seconds.
const MAX_SESSION_SECONDS: u64 = 24 * 60 * 60;

/// The most tokens that [`MemoryTokens`] keeps.
const MAX_IN_MEMORY: usize = 100_000;

/// Where single-use tokens wait to be spent. Every replica that may see a token shares it.
/// Records are opaque to the store and hold no token.
pub trait TokenStore: Send + Sync {
    /// Keeps a record under a hash until it is taken or `expires_at` has passed.
    fn put(
        &self,
        token: TokenHash,
        record: String,
        expires_at: SystemTime,
    ) -> BoxFuture<'_, Result<(), TokenStoreError>>;

    /// Removes and returns a record that has not expired. Of any number of takers at once, on
    /// any replica, one gets it.
    fn take(
        &self,
        token: TokenHash,
        now: SystemTime,
    ) -> BoxFuture<'_, Result<Option<String>, TokenStoreError>>;

    /// Removes a record; tells whether there was one.
    fn revoke(&self, token: TokenHash) -> BoxFuture<'_, Result<bool, TokenStoreError>>;
}

/// The store did not do it, for a reason that it logs itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store of single-use tokens cannot be reached")]
pub struct TokenStoreError;

/// A [`TokenStore`] for one process that forgets everything when it ends.
#[derive(Default)]
pub struct MemoryTokens {
    records: Mutex<HashMap<TokenHash, (String, SystemTime)>>,
}

impl TokenStore for MemoryTokens {
    fn put(
        &self,
        token: TokenHash,
        record: String,
        expires_at: SystemTime,
    ) -> BoxFuture<'_, Result<(), TokenStoreError>> {
        let mut records = self.records.lock();
        if records.len() >= MAX_IN_MEMORY {
            let now = SystemTime::now();
            records.retain(|_, (_, expires_at)| now < *expires_at);
        }
        let kept = if records.len() < MAX_IN_MEMORY {
            records.insert(token, (record, expires_at));
            Ok(())
        } else {
            Err(TokenStoreError)
        };
        std::future::ready(kept).boxed()
    }

    fn take(
        &self,
        token: TokenHash,
        now: SystemTime,
    ) -> BoxFuture<'_, Result<Option<String>, TokenStoreError>> {
        let taken = self.records.lock().remove(&token);
        let record = taken
            .filter(|(_, expires_at)| now < *expires_at)
            .map(|(record, _)| record);
        std::future::ready(Ok(record)).boxed()
    }

    fn revoke(&self, token: TokenHash) -> BoxFuture<'_, Result<bool, TokenStoreError>> {
        let revoked = self.records.lock().remove(&token).is_some();
        std::future::ready(Ok(revoked)).boxed()
    }
}

/// A single-use token that has just been made and stored.
#[derive(Debug)]
pub struct Minted {
    /// What the page is given.
    pub token: SecretString,
    /// What it is known by afterwards, for logs and for revoking it.
    pub hash: TokenHash,
    /// Until when it can be spent.
    pub expires_at: SystemTime,
}

impl Minted {
    /// The body of the answer: `{"token":"…"}`.
    #[must_use]
    pub fn to_body(&self) -> String {
        serde_json::json!({ "token": self.token.expose_secret() }).to_string()
    }
}

/// Why no single-use token was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The body does not say something that can be understood.
    #[error("{0}")]
    InvalidBody(&'static str),
    /// A single-use token cannot make others.
    #[error("a single-use token cannot make other tokens")]
    SingleUse,
    /// Whoever asks may not go on.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

impl From<MintError> for Problem {
    fn from(error: MintError) -> Self {
        let (error, message, status) = match error {
            MintError::Auth(error) => return error.into(),
            MintError::InvalidBody(message) => ("invalid_request", message, 422),
            MintError::SingleUse => (
                "missing_permissions",
                "A single-use token cannot make other tokens: use the client's own token.",
                403,
            ),
        };
        Self {
            error: error.into(),
            message: message.into(),
            close_code: 1008,
            status,
            retryable: false,
            retry_after: None,
        }
    }
}

impl Narrowing {
    /// Reads the optional body of `POST /v1/single-use-token/tts_websocket`: nothing, `null`, or
    /// an object with any of `max_characters`, `max_session_seconds`, `voices` and `origin`. A
    /// field of another name is refused, since a misspelled limit would be none.
    pub fn from_body(body: &[u8]) -> Result<Self, MintError> {
        let body = body.trim_ascii();
        if body.is_empty() || body == b"null" {
            return Ok(Self::default());
        }
        let request: Request = serde_json::from_slice(body).map_err(|_| {
            MintError::InvalidBody(
                "The body must be a JSON object with max_characters, max_session_seconds, voices or origin and nothing else.",
            )
        })?;
        request.validate()
    }
}

/// The body before its values are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    max_characters: Option<u64>,
    max_session_seconds: Option<u64>,
    voices: Option<Vec<String>>,
    origin: Option<String>,
}

impl Request {
    fn validate(self) -> Result<Narrowing, MintError> {
        if self.max_characters == Some(0) {
            return Err(MintError::InvalidBody("max_characters must be at least 1."));
        }
        if self
            .max_session_seconds
            .is_some_and(|s| !(1..=MAX_SESSION_SECONDS).contains(&s))
        {
            return Err(MintError::InvalidBody(
                "max_session_seconds must be 1 to 86400.",
            ));
        }
        let voices = self.voices.map(|voices| {
            let listed = (1..=MAX_VOICES).contains(&voices.len());
            let voices = voices
                .iter()
                .map(|voice| VoiceId::parse(voice).ok())
                .collect();
            listed
                .then_some(voices)
                .flatten()
                .ok_or(MintError::InvalidBody(
                    "voices must list 1 to 100 voice ids of A-Z a-z 0-9 _ -.",
                ))
        });
        let origin = self.origin.map(|origin| {
            Origin::parse(&origin).map_err(|_| {
                MintError::InvalidBody(
                    "origin must be a scheme, a host and maybe a port, such as https://app.example.com.",
                )
            })
        });
        Ok(Narrowing {
            max_characters: self.max_characters,
            max_session_seconds: self.max_session_seconds,
            voices: voices.transpose()?,
            origin: origin.transpose()?,
        })
    }
}

/// What is stored of a single-use token. One that holds more than is known here may be meant to
/// allow less, so it is not accepted.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub client: ClientId,
    pub plan: String,
    /// When the session ends, because the minter's own token does.
    #[serde(
        with = "humantime_serde",
        skip_serializing_if = "Option::is_none",
        default
    )]
    pub session_expires_at: Option<SystemTime>,
    pub narrowing: Narrowing,
    pub minter: Minter,
}

/// What the minter rested on.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Minter {
    Open,
    Configured(TokenHash),
    Jwt { token: TokenHash, key: TokenHash },
}

impl Minter {
    /// `None` for a single-use token, which cannot make others.
    pub fn of(token: &TokenRef) -> Option<Self> {
        match token {
            TokenRef::Open => Some(Self::Open),
            TokenRef::Configured(token) => Some(Self::Configured(*token)),
            TokenRef::Jwt { token, key } => Some(Self::Jwt {
                token: *token,
                key: *key,
            }),
            TokenRef::SingleUse { .. } => None,
        }
    }
}

impl From<Minter> for TokenRef {
    fn from(minter: Minter) -> Self {
        match minter {
            Minter::Open => Self::Open,
            Minter::Configured(token) => Self::Configured(token),
            Minter::Jwt { token, key } => Self::Jwt { token, key },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn no_body_narrows_nothing() {
        for body in ["", "  \n", "null", "{}"] {
            assert_eq!(
                Narrowing::from_body(body.as_bytes()),
                Ok(Narrowing::default()),
                "{body}"
            );
        }
    }

    #[test]
    fn every_field_of_the_body_narrows() {
        let body = br#"{"max_characters":500,"max_session_seconds":60,
            "voices":["21m00Tcm4TlvDq8ikWAM","assistant"],"origin":"https://App.example.com:443"}"#;
        let narrowing = Narrowing::from_body(body).unwrap();
        assert_eq!(narrowing.max_characters, Some(500));
        assert_eq!(
            narrowing.max_session(),
            Some(std::time::Duration::from_secs(60))
        );
        assert!(narrowing.allows_voice("assistant", "assistant"));
        assert!(narrowing.allows_voice("assistant", "real"));
        assert!(narrowing.allows_voice("other", "assistant"));
        assert!(!narrowing.allows_voice("other", "real"));
        assert!(narrowing.allows_origin(Some(&Origin::parse("https://app.example.com").unwrap())));
        assert!(!narrowing.allows_origin(Some(&Origin::parse("http://app.example.com").unwrap())));
        assert!(!narrowing.allows_origin(None));
    }

    #[test]
    fn what_cannot_be_a_narrowing_is_refused() {
        for body in [
            "[]",
            "1",
            "{",
            "\u{feff}{}",
            r#"{"max_charaters":5}"#,
            r#"{"max_characters":0}"#,
            r#"{"max_characters":-1}"#,
            r#"{"max_characters":1.5}"#,
            r#"{"max_characters":"5"}"#,
            r#"{"max_characters":5,"max_characters":50000}"#,
            r#"{"max_session_seconds":0}"#,
            r#"{"max_session_seconds":86401}"#,
            r#"{"voices":[]}"#,
            r#"{"voices":["../v1/user"]}"#,
            r#"{"voices":"one"}"#,
            r#"{"origin":"*"}"#,
            r#"{"origin":"app.example.com"}"#,
        ] {
            let error = Narrowing::from_body(body.as_bytes()).expect_err(body);
            assert_eq!(Problem::from(error).status, 422, "{body}");
        }
        let many = format!(r#"{{"voices":[{}]}}"#, vec![r#""v""#; 101].join(","));
        assert!(Narrowing::from_body(many.as_bytes()).is_err());
    }

    #[tokio::test]
    async fn a_record_is_taken_once_and_never_after_its_time() {
        let tokens = MemoryTokens::default();
        let now = SystemTime::now();
        let later = now + std::time::Duration::from_secs(1);
        let hash = TokenHash::of_bytes(b"a");
        tokens.put(hash, "record".into(), later).await.unwrap();
        assert_eq!(tokens.take(hash, now).await, Ok(Some("record".into())));
        assert_eq!(tokens.take(hash, now).await, Ok(None));

        tokens.put(hash, "record".into(), later).await.unwrap();
        assert_eq!(tokens.take(hash, later).await, Ok(None));

        tokens.put(hash, "record".into(), later).await.unwrap();
        assert_eq!(tokens.revoke(hash).await, Ok(true));
        assert_eq!(tokens.revoke(hash).await, Ok(false));
        assert_eq!(tokens.take(hash, now).await, Ok(None));
    }
}
