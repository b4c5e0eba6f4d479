//! `GET /v1/voices`, `/v2/voices` and `/v1/models`: upstream's lists, asked for with the real key
//! and cut down to what the client's plan allows. Nothing else of the account can be looked up.

use axum::body::Body;
use axum::response::Response;
use http::Method;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap};
use secrecy::SecretString;

use super::answer::{error_response, passed_headers};
use super::gateway::{Ask, Gateway};
use super::{identify, synthesis};
use crate::protocol::{Endpoint, Problem, Shown, with_models_shown, with_voices_shown};
use crate::quota::Limits;
use crate::upstream::HttpRequest;

/// Answers a lookup.
pub(super) async fn answer(
    gateway: &Gateway,
    ask: &Ask,
    headers: &HeaderMap,
    path_token: Option<SecretString>,
) -> Result<Response, Problem> {
    let (identity, limits) = identify::visitor(gateway, ask, headers, path_token).await?;
    // Lists are long, and each is held whole while it is cut down.
    let Ok(_permit) = gateway.lookups.acquire().await else {
        return Err(Problem::system_busy());
    };
    let request = HttpRequest {
        method: Method::GET,
        path_and_query: synthesis::path_and_query(ask.endpoint, None, &ask.query),
        accept: None,
        body: None,
    };
    let answer = match gateway.parts.upstream.request(request).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(session = %ask.id, cause = %error, "upstream is unavailable");
            return Err(Problem::upstream_unavailable());
        }
    };
    let status = answer.status;
    tracing::info!(
        session = %ask.id,
        client = %identity.client,
        endpoint = ask.endpoint.as_str(),
        status = status.as_u16(),
        "looked up",
    );
    if !status.is_success() {
        return Ok(error_response(gateway, answer, ask.id).await.0);
    }
    let mut headers = passed_headers(&answer.headers, &gateway.secrets());
    let max_bytes = usize::try_from(gateway.parts.max_upstream_message_bytes);
    let (mut body, is_whole) = answer.read(max_bytes.unwrap_or(usize::MAX)).await;
    let unusable = |why: &str| {
        tracing::warn!(session = %ask.id, bytes = body.len(), why, "upstream's list cannot be shown");
        Problem::upstream_unavailable()
    };
    if !is_whole {
        return Err(unusable("it broke off or is longer than upstream.max_message_bytes"));
    }
    if !shows_all(ask.endpoint, &limits) {
        if headers.contains_key(CONTENT_ENCODING) {
            return Err(unusable("it is compressed, which was not asked for"));
        }
        body = shown(ask.endpoint, &limits, &body).ok_or_else(|| unusable("it is no such list"))?;
        headers.remove(ETAG);
    }
    headers.remove(CONTENT_LENGTH);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Whether a client under `limits` sees the whole list, byte for byte.
fn shows_all(endpoint: Endpoint, limits: &Limits) -> bool {
    match endpoint {
        Endpoint::Models => !limits.restricts_models(),
        _ => !limits.restricts_voices() && limits.voice_aliases().next().is_none(),
    }
}

/// The list as a client under `limits` sees it; none when it is no such list.
fn shown(endpoint: Endpoint, limits: &Limits, body: &[u8]) -> Option<Vec<u8>> {
    match endpoint {
        Endpoint::Models => with_models_shown(body, |model| limits.allows_model(model)),
        _ => with_voices_shown(body, |voice| {
            let aliases: Vec<&str> = limits
                .voice_aliases()
                .filter(|(_, real)| real.as_str() == voice)
                .map(|(alias, _)| alias.as_str())
                .collect();
            match limits.resolve_named(voice) {
                Ok(None) if aliases.is_empty() => Shown::AsIs,
                // A voice that is an alias's name is not what a client gets by that name.
                _ => Shown::Under(aliases),
            }
        }),
    }
}
