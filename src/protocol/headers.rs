//! Credentials in the head of a request. None of these headers goes upstream: the head of the
//! upstream request is built from nothing.

use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};

use super::credential::{Credential, CredentialName, bearer};

/// The subprotocol that a client offers next to its token, and that the answer selects.
pub const SUBPROTOCOL: &str = "xi-relay";

/// What stands before the token in an offered subprotocol.
const TOKEN_PREFIX: &str = "xi-api-key.";

/// The credential of a server-side client: `xi-api-key`, or else `Authorization: Bearer`.
#[must_use]
pub fn header_credential(headers: &HeaderMap) -> Option<Credential> {
    let api_key = texts(headers, "xi-api-key")
        .find_map(|value| Credential::new(CredentialName::ApiKey, value));
    api_key.or_else(|| {
        texts(headers, AUTHORIZATION.as_str())
            .filter_map(|value| bearer(value.trim()))
            .find_map(|token| Credential::new(CredentialName::Authorization, token))
    })
}

/// What a client offers in `Sec-WebSocket-Protocol` (RFC 6455 section 11.3.4).
#[derive(Debug, Default)]
pub struct Subprotocols {
    /// Whether [`SUBPROTOCOL`] is offered; the answer then selects it, and nothing otherwise.
    pub has_ours: bool,
    /// The token of `xi-api-key.<token>`, which the answer never echoes.
    pub credential: Option<Credential>,
}

/// Reads all `Sec-WebSocket-Protocol` headers. Names of subprotocols are case-sensitive.
#[must_use]
pub fn subprotocols(headers: &HeaderMap) -> Subprotocols {
    let mut offered = Subprotocols::default();
    for name in texts(headers, SEC_WEBSOCKET_PROTOCOL.as_str()).flat_map(|list| list.split(',')) {
        let name = name.trim();
        offered.has_ours |= name == SUBPROTOCOL;
        if offered.credential.is_none() {
            offered.credential = name
                .strip_prefix(TOKEN_PREFIX)
                .and_then(|token| Credential::new(CredentialName::ApiKey, token));
        }
    }
    offered
}

/// The values of a header that are visible text.
fn texts<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use http::HeaderName;
    use secrecy::ExposeSecret;

    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[track_caller]
    fn check(list: &[(&str, &str)], expected: Option<(CredentialName, &str)>) {
        let credential = header_credential(&headers(list));
        let seen = credential
            .as_ref()
            .map(|c| (c.name, c.token.expose_secret()));
        assert_eq!(seen, expected, "{list:?}");
    }

    #[test]
    fn the_api_key_comes_before_the_bearer() {
        use CredentialName::{ApiKey, Authorization};
        check(&[("XI-API-Key", " tok ")], Some((ApiKey, "tok")));
        check(
            &[("authorization", "Bearer tok")],
            Some((Authorization, "tok")),
        );
        check(
            &[("authorization", "bEARER   tok")],
            Some((Authorization, "tok")),
        );
        check(
            &[("authorization", "Bearer b"), ("xi-api-key", "a")],
            Some((ApiKey, "a")),
        );
        check(
            &[("authorization", "Bearer b"), ("xi-api-key", "")],
            Some((Authorization, "b")),
        );
        check(
            &[
                ("authorization", "Basic dTpw"),
                ("authorization", "Bearer b"),
            ],
            Some((Authorization, "b")),
        );
        check(&[("authorization", "tok")], None);
        check(&[("authorization", "Bearer ")], None);
        check(&[("authorization", "Basic dTpw")], None);
        check(&[("cookie", "xi-api-key=tok")], None);
        check(&[], None);
    }

    #[track_caller]
    fn check_offer(values: &[&str], has_ours: bool, token: Option<&str>) {
        let list: Vec<_> = values
            .iter()
            .map(|value| ("sec-websocket-protocol", *value))
            .collect();
        let offered = subprotocols(&headers(&list));
        assert_eq!(offered.has_ours, has_ours, "{values:?}");
        let seen = offered.credential.as_ref().map(|c| c.token.expose_secret());
        assert_eq!(seen, token, "{values:?}");
    }

    #[test]
    fn a_token_is_read_from_the_offered_subprotocols() {
        check_offer(&["xi-relay, xi-api-key.tok_1-2"], true, Some("tok_1-2"));
        check_offer(&["xi-api-key.a", "xi-relay"], true, Some("a"));
        check_offer(&["xi-api-key.a,xi-api-key.b"], false, Some("a"));
        check_offer(&["xi-api-key."], false, None);
        check_offer(&["xi-relay"], true, None);
        check_offer(&["XI-Relay", "graphql-ws"], false, None);
        check_offer(&[], false, None);
    }
}
