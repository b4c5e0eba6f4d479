//! `GET /v1/user/subscription` and `/v1/user`: the client's own window in ElevenLabs' shape. The
//! account behind the relay is nobody's to see.

use axum::body::Body;
use axum::response::Response;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use secrecy::SecretString;
use serde::Serialize;

use super::gateway::{Ask, Gateway};
use super::identify;
use super::refusal::{REQUEST_ID, request_id};
use crate::protocol::{Endpoint, Problem};
use crate::quota::Refusal;

/// Answers what a client asks about itself.
pub(super) async fn answer(
    gateway: &Gateway,
    ask: &Ask,
    headers: &HeaderMap,
    path_token: Option<SecretString>,
) -> Result<Response, Problem> {
    let (identity, limits) = identify::visitor(gateway, ask, headers, path_token).await?;
    let (quota, client) = (&gateway.parts.quota, &identity.client);
    let body = match ask.endpoint {
        Endpoint::User => quota.user(client, &limits).await.map(|user| json(&user)),
        _ => quota
            .subscription(client, &limits)
            .await
            .map(|subscription| json(&subscription)),
    };
    let body = body.map_err(|refusal: Refusal| Problem::from(&refusal))?;
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REQUEST_ID, request_id(ask.id));
    Ok(response)
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("numbers, text and truth values are JSON")
}
