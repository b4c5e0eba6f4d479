//! `GET /v1/voices`, `/v2/voices` and `/v1/models`: upstream's lists, asked for with the real key
//! and cut down to what the client's plan allows. Nothing else of the account can be looked up.

use std::time::Duration;

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

/// How long upstream may take over a whole list.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers a lookup.
pub(super) async fn answer(
    gateway: &Gateway,
    ask: &Ask,
    headers: &HeaderMap,
    path_token: Option<SecretString>,
) -> Result<Response, Problem> {
    let (identity, limits) = identify::visitor(gateway, ask, headers, path_token).await?;
    // Lists are long, and each is held whole while it is cut down.
    let looking = async {
        let _permit = gateway.lookups.acquire().await;
        list(gateway, ask, &limits).await
    };
    let answer = tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| Err(unavailable(ask, "it took too long")))?;
    tracing::info!(
        session = %ask.id,
        client = %identity.client,
        endpoint = ask.endpoint.as_str(),
        status = answer.status().as_u16(),
        "looked up",
    );
    Ok(answer)
}

/// Upstream's list, cut down.
async fn list(gateway: &Gateway, ask: &Ask, limits: &Limits) -> Result<Response, Problem> {
    let request = HttpRequest {
        method: Method::GET,
        path_and_query: synthesis::path_and_query(ask.endpoint, None, &ask.query),
        accept: None,
        body: None,
    };
    let answer = gateway.parts.upstream.request(ask.worker(), request).await;
    let answer = answer.map_err(|error| unavailable(ask, &error.to_string()))?;
    let status = answer.status;
    if !status.is_success() {
        return Ok(error_response(gateway, answer, ask.id).await.0);
    }
    let mut headers = passed_headers(&answer.headers, &gateway.secrets());
    let max_bytes = usize::try_from(gateway.parts.max_upstream_message_bytes);
    let (mut body, is_whole) = answer.read(max_bytes.unwrap_or(usize::MAX)).await;
    if !is_whole {
        let cause = "it broke off or is longer than upstream.max_message_bytes";
        return Err(unavailable(ask, cause));
    }
    if !shows_all(ask.endpoint, limits) {
        if headers.contains_key(CONTENT_ENCODING) {
            return Err(unavailable(
                ask,
                "it is compressed, which was not asked for",
            ));
        }
        body = shown(ask.endpoint, limits, &body)
            .ok_or_else(|| unavailable(ask, "it is not the list it should be"))?;
        headers.remove(ETAG);
    }
    headers.remove(CONTENT_LENGTH);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn unavailable(ask: &Ask, cause: &str) -> Problem {
    tracing::warn!(session = %ask.id, cause, "upstream's list cannot be had");
    Problem::upstream_unavailable()
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
