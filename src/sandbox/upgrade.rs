//! The server's half of the WebSocket handshake (RFC 6455 section 4.2).

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::account::random_hex;

/// Checks the head of an upgrade; gives the connection to be and the 101, or the refusal.
pub(super) fn accept(request: &mut Request) -> Result<(OnUpgrade, Response), Box<Response>> {
    let headers = request.headers();
    let key = key_of(headers).ok_or_else(|| {
        (
            StatusCode::BAD_REQUEST,
            "This path takes WebSocket upgrades alone.",
        )
            .into_response()
    })?;
    if only(headers, &header::SEC_WEBSOCKET_VERSION) != Some("13") {
        let version = [(header::SEC_WEBSOCKET_VERSION, "13")];
        let response = (StatusCode::UPGRADE_REQUIRED, version, Body::empty()).into_response();
        return Err(Box::new(response));
    }
    let accept = derive_accept_key(key.as_bytes());
    let head = [
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::UPGRADE, "websocket".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
        (
            HeaderName::from_static("x-trace-id"),
            format!("{}{}", random_hex(), random_hex()),
        ),
    ];
    let response = (StatusCode::SWITCHING_PROTOCOLS, head, Body::empty()).into_response();
    Ok((hyper::upgrade::on(request), response))
}

/// The key of an upgrade that is otherwise well formed.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    let names = |name, token: &str| {
        let values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    let key = only(headers, &header::SEC_WEBSOCKET_KEY)?;
    let is_key = STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16);
    (names(header::CONNECTION, "upgrade") && names(header::UPGRADE, "websocket") && is_key)
        .then_some(key)
}

/// The value of a header that stands there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
