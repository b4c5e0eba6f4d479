//! Upstream's HTTP answers, made fit to be the relay's own.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{self, CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName};

use super::gateway::Gateway;
use super::refusal::response;
use crate::ids::SessionId;
use crate::protocol::{Problem, Secrets};
use crate::upstream::HttpAnswer;

/// How much of an error's body is passed on.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// How long it may take to come.
const ERROR_PATIENCE: Duration = Duration::from_secs(10);

/// Headers that speak of one connection only (RFC 9110 section 7.6.1) or of upstream's host, which
/// the relay is not. Everything else is passed on, the counts of the account's requests among them:
/// clients read them, and they hold no secret.
const NOT_PASSED: [HeaderName; 20] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::SET_COOKIE,
    header::WWW_AUTHENTICATE,
    header::ALT_SVC,
    header::STRICT_TRANSPORT_SECURITY,
    header::LOCATION,
    header::REFRESH,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("expect-ct"),
];

/// The headers of an answer that are passed on. Which pages may read it is for the relay to say,
/// so none about that is among them.
pub(super) fn passed_headers(upstream: &HeaderMap, secrets: &Secrets) -> HeaderMap {
    let named_by_connection: Vec<HeaderName> = upstream
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let is_passed = |name: &HeaderName| {
        !NOT_PASSED.contains(name)
            && !named_by_connection.contains(name)
            && !name.as_str().starts_with("access-control-")
    };
    let mut passed = HeaderMap::with_capacity(upstream.len());
    for (name, value) in upstream {
        if is_passed(name) && !secrets.contains(value.as_bytes()) {
            passed.append(name, value.clone());
        }
    }
    passed
}

/// What a client is told of an answer other than 2xx, and what it comes to. An error about the
/// request is upstream's own, body and all, without the secrets that may stand in it; one about the
/// relay's key or account is the relay's to tell.
pub(super) async fn error_response(
    gateway: &Gateway,
    answer: HttpAnswer,
    request: SessionId,
) -> (Response, Problem) {
    let status = answer.status;
    let mut headers = passed_headers(&answer.headers, &gateway.secrets());
    let body = tokio::time::timeout(ERROR_PATIENCE, answer.read(MAX_ERROR_BYTES)).await;
    let (body, _) = body.unwrap_or_default();
    let problem = Problem::from_upstream(status.as_u16(), &body, &gateway.secrets());
    if is_about_the_relay(&problem) {
        return (response(&problem, request), problem);
    }
    headers.remove(CONTENT_LENGTH);
    let body = gateway.secrets().scrub(&body).into_owned();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    (response, problem)
}

/// Whether upstream's refusal is about the relay rather than about the client's request.
pub(super) fn is_about_the_relay(problem: &Problem) -> bool {
    matches!(
        &*problem.error,
        "upstream_auth_failed" | "upstream_quota_exceeded" | "upstream_unavailable"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use super::*;

    #[test]
    fn headers_pass_but_those_of_a_connection_or_a_host() {
        let upstream: HeaderMap = [
            ("content-type", "audio/mpeg"),
            ("content-length", "3"),
            ("request-id", "r1"),
            ("character-cost", "5"),
            ("current-concurrent-requests", "1"),
            ("x-trace-id", "t1"),
            ("x-unknown", "kept"),
            ("via", "1.1 google"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("alt-svc", "h3=\":443\""),
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "*"),
        ]
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect();
        let passed = passed_headers(&upstream, &Secrets::default());
        let mut names: Vec<_> = passed.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "character-cost",
                "content-length",
                "content-type",
                "current-concurrent-requests",
                "request-id",
                "via",
                "x-trace-id",
                "x-unknown",
            ]
        );
    }

    #[test]
    fn a_header_that_repeats_is_passed_as_often() {
        let mut upstream = HeaderMap::new();
        upstream.append("vary", "accept".parse().unwrap());
        upstream.append("vary", "accept-encoding".parse().unwrap());
        let passed = passed_headers(&upstream, &Secrets::default());
        assert_eq!(passed.get_all("vary").iter().count(), 2);
    }
}
