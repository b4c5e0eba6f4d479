//! What a client shows to say who it is, and the names under which it shows it.

use secrecy::SecretString;

/// The names that carry a credential in a query or in a client message. Wherever one of them
/// stands, the relay takes it out before anything goes upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum CredentialName {
    /// `xi-api-key`, in bodies and queries also `xi_api_key`.
    ApiKey,
    /// `authorization`, with or without `Bearer `.
    Authorization,
    /// `single_use_token`.
    SingleUseToken,
}

impl CredentialName {
    /// The credential that `name` announces, in any mixture of upper and lower case.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        // By length first: this is asked of every key of every message.
        match name.len() {
            10 if name.eq_ignore_ascii_case("xi_api_key")
                || name.eq_ignore_ascii_case("xi-api-key") =>
            {
                Some(Self::ApiKey)
            }
            13 if name.eq_ignore_ascii_case("authorization") => Some(Self::Authorization),
            16 if name.eq_ignore_ascii_case("single_use_token") => Some(Self::SingleUseToken),
            _ => None,
        }
    }

    /// The name as it stands in ElevenLabs' API reference.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "xi-api-key",
            Self::Authorization => "authorization",
            Self::SingleUseToken => "single_use_token",
        }
    }
}

/// A token and the name under which it came. `Debug` shows the name alone.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The name under which the token came.
    pub name: CredentialName,
    /// The token, without `Bearer ` and without white space around it; never empty.
    pub token: SecretString,
}

impl Credential {
    /// The credential that `value` holds under `name`; none when it is empty.
    #[must_use]
    pub fn new(name: CredentialName, value: &str) -> Option<Self> {
        let value = value.trim();
        let token = bearer(value).unwrap_or(value);
        (!token.is_empty()).then(|| Self {
            name,
            token: token.into(),
        })
    }
}

/// What follows `Bearer`, the scheme in any case (RFC 6750 section 2.1, RFC 9110 section 11.1).
pub(super) fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = match value.split_once([' ', '\t']) {
        Some((scheme, token)) => (scheme, token.trim()),
        None => (value, ""),
    };
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_nothing_else_is() {
        for name in ["xi_api_key", "xi-api-key", "XI-Api-Key", "Xi_API_key"] {
            assert_eq!(CredentialName::of(name), Some(CredentialName::ApiKey));
        }
        assert_eq!(
            CredentialName::of("AUTHORIZATION"),
            Some(CredentialName::Authorization)
        );
        assert_eq!(
            CredentialName::of("Single_Use_Token"),
            Some(CredentialName::SingleUseToken)
        );
        for name in [
            "",
            "text",
            "xi_api_ke",
            "xi_api_keys",
            "xi api key",
            "authorisation",
        ] {
            assert_eq!(CredentialName::of(name), None, "{name}");
        }
    }

    #[track_caller]
    fn check(value: &str, expected: Option<&str>) {
        let credential = Credential::new(CredentialName::Authorization, value);
        assert_eq!(
            credential.as_ref().map(|c| c.token.expose_secret()),
            expected
        );
    }

    #[test]
    fn a_token_is_read_with_and_without_its_scheme() {
        check("tok", Some("tok"));
        check("Bearer tok", Some("tok"));
        check("bearer  tok ", Some("tok"));
        check("BEARER\ttok", Some("tok"));
        check("Bearertok", Some("Bearertok"));
        check("", None);
        check("  ", None);
        check("Bearer", None);
        check("Bearer ", None);
    }

    #[test]
    fn debug_shows_no_token() {
        let credential = Credential::new(CredentialName::ApiKey, "hush-hush").unwrap();
        assert!(!format!("{credential:?}").contains("hush"));
    }
}
