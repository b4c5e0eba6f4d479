//! Why a credential was not accepted, and the words in which its bearer is told.

use std::borrow::Cow;

use crate::protocol::Problem;

/// Why a client was refused, or why a live session may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No credential at all.
    #[error("no credential was sent")]
    Missing,
    /// A token that is unknown, spent or not well formed, or a JWT that no configured key signed.
    #[error("the token is unknown, already spent, or not well formed")]
    Unknown,
    /// The token's time is over.
    #[error("the token has expired")]
    Expired,
    /// The token, its key or its client was withdrawn.
    #[error("the token was revoked")]
    Revoked,
    /// The JWT's `nbf` is still to come.
    #[error("the token is not valid yet: its nbf claim lies in the future")]
    NotYetValid,
    /// The JWT lacks `exp`, or its `exp` or `nbf` is not a time.
    #[error("the token's exp claim is missing, or its exp or nbf claim is not a time")]
    NoTime,
    /// The JWT's `sub` is missing or cannot be a client's id.
    #[error(
        "the token names no client: its sub claim is missing or not 1 to 128 bytes of text without white space"
    )]
    NoSubject,
    /// The JWT is not from the configured issuer.
    #[error("the token is not from the configured issuer: see its iss claim")]
    WrongIssuer,
    /// The JWT is meant for somebody else.
    #[error("the token is not meant for this relay: see its aud claim")]
    WrongAudience,
    /// The JWT names a plan that does not exist.
    #[error("the token names a plan that this relay does not have")]
    PlanUnknown,
    /// The keys that JWTs are verified with have not been fetched yet.
    #[error("the keys that tokens are verified with have not been fetched yet")]
    KeysMissing,
    /// The store of single-use tokens did not answer.
    #[error("the store of single-use tokens cannot be reached")]
    StoreUnavailable,
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let invalid = |message: &'static str| Self {
            message: Cow::Borrowed(message),
            ..Self::invalid_api_key()
        };
        // What a signature covers is named; nothing is repeated.
        match error {
            AuthError::Missing => Self::needs_authorization(),
            AuthError::Unknown => Self::invalid_api_key(),
            AuthError::Expired => Self::token_expired(),
            AuthError::Revoked => Self::token_revoked(),
            AuthError::NotYetValid => invalid("The token is not valid yet."),
            AuthError::NoTime => {
                invalid("The token's exp claim is missing, or its exp or nbf claim is not a time.")
            }
            AuthError::NoSubject => {
                invalid("The token has no sub claim that can be a client's id.")
            }
            AuthError::WrongIssuer => {
                invalid("The token's iss claim is not the issuer that this relay trusts.")
            }
            AuthError::WrongAudience => invalid("The token's aud claim does not name this relay."),
            AuthError::PlanUnknown => {
                invalid("The token names a plan that this relay does not have.")
            }
            AuthError::KeysMissing | AuthError::StoreUnavailable => {
                Self::system_busy().retry_after(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: AuthError, code: &str, status: u16, close_code: u16) {
        let problem = Problem::from(error);
        assert_eq!(problem.error, code);
        assert_eq!((problem.status, problem.close_code), (status, close_code));
        assert_eq!(problem.retryable, status == 503);
        assert!(problem.message.len() <= 123, "fits a close frame");
    }

    #[test]
    fn each_error_has_its_words_and_codes() {
        check(AuthError::Missing, "needs_authorization", 401, 1008);
        check(AuthError::Unknown, "invalid_api_key", 401, 1008);
        check(AuthError::Expired, "token_expired", 401, 1008);
        check(AuthError::Revoked, "token_revoked", 401, 1008);
        check(AuthError::NotYetValid, "invalid_api_key", 401, 1008);
        check(AuthError::WrongAudience, "invalid_api_key", 401, 1008);
        check(AuthError::PlanUnknown, "invalid_api_key", 401, 1008);
        check(AuthError::KeysMissing, "system_busy", 503, 1013);
        check(AuthError::StoreUnavailable, "system_busy", 503, 1013);
    }
}
