//! `POST /v1/single-use-token/tts_websocket`: a token that a page can be given, good for one
//! session. It is the relay's own; upstream is not asked.

use std::time::SystemTime;

use axum::body::Body;
use axum::response::Response;
use http::HeaderMap;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use secrecy::SecretString;

use super::gateway::{Ask, Gateway};
use super::refusal::{REQUEST_ID, request_id};
use super::{body, identify};
use crate::protocol::Problem;

/// The longest body that is looked at: a hundred voices fit.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// Mints a token for the client that asks.
pub(super) async fn mint(
    gateway: &Gateway,
    ask: &Ask,
    headers: &HeaderMap,
    path_token: Option<SecretString>,
    request_body: Body,
) -> Result<Response, Problem> {
    let (identity, _) = identify::visitor(gateway, ask, headers, path_token).await?;
    let parts = &gateway.parts;
    let narrowing = body::read(request_body, MAX_BODY_BYTES, parts.config.body_timeout).await?;
    let minted = parts
        .directory
        .mint(&identity, &narrowing, SystemTime::now())
        .await?;
    tracing::info!(
        session = %ask.id,
        client = %identity.client,
        token_sha256 = %minted.hash,
        "single-use token made",
    );
    let mut response = Response::new(Body::from(minted.to_body()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, request_id(ask.id));
    Ok(response)
}
