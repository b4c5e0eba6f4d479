//! The server's side of the opening handshake (RFC 6455 section 4.2), stricter than the libraries:
//! what a proxy in front might read differently is refused.

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::protocol::{Problem, SUBPROTOCOL};

/// A request head that asks for a WebSocket and may have one.
pub(super) struct Upgrade {
    accept: HeaderValue,
}

impl Upgrade {
    /// Judges a request head.
    ///
    /// # Errors
    /// 426 for another version of the protocol, 400 for anything else that is wrong.
    pub(super) fn of(head: &Parts) -> Result<Self, Problem> {
        let headers = &head.headers;
        if head.version != Version::HTTP_11 {
            return Err(Problem::invalid_request("A WebSocket needs HTTP/1.1."));
        }
        if !lists(headers, &CONNECTION, "upgrade") || !lists(headers, &UPGRADE, "websocket") {
            return Err(Problem::invalid_request(
                "This path is a WebSocket: send Connection: Upgrade and Upgrade: websocket.",
            ));
        }
        let version = only(headers, &SEC_WEBSOCKET_VERSION)
            .ok_or_else(|| Problem::invalid_request("Send one Sec-WebSocket-Version: 13."))?;
        if version.as_bytes() != b"13" {
            return Err(Problem::upgrade_required());
        }
        let has_body = headers.contains_key(TRANSFER_ENCODING)
            || headers
                .get_all(CONTENT_LENGTH)
                .iter()
                .any(|length| length != "0");
        if has_body {
            return Err(Problem::invalid_request("An upgrade must not have a body."));
        }
        let key = only(headers, &SEC_WEBSOCKET_KEY)
            .filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16))
            .ok_or_else(|| {
                Problem::invalid_request("Send one Sec-WebSocket-Key of 16 bytes in base64.")
            })?;
        let accept = derive_accept_key(key.as_bytes());
        Ok(Self {
            accept: HeaderValue::from_str(&accept).expect("base64 is a header value"),
        })
    }

    /// The 101. `with_subprotocol` where the client offered ours; the token it offered besides is
    /// never echoed.
    pub(super) fn accept(self, with_subprotocol: bool, trace_id: Option<&str>) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        if with_subprotocol {
            headers.insert(
                SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static(SUBPROTOCOL),
            );
        }
        if let Some(trace_id) = trace_id.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert("x-trace-id", trace_id);
        }
        response
    }
}

/// Whether the comma-separated values of `name` hold `token`, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// The value of `name`, if it stands once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}
