//! `GET /v1/voices`, `/v2/voices` and `/v1/models`: upstream's lists, asked for with the real key
//! and cut down to what the client's plan allows. Nothing else of the account can be looked up.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::Method;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::answer::{error_response, passed_headers};
use super::connection::{Connection, TAKING_TIMEOUT};
use super::gateway::{Ask, Gateway, Place};
use super::{identify, synthesis};
use crate::ids::{ClientId, SessionId};
use crate::protocol::{Endpoint, Problem, Shown, with_models_shown, with_voices_shown};
use crate::quota::Limits;
use crate::upstream::HttpRequest;

/// How long upstream may take over a whole list.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much of a list is handed to hyper at once.
const PIECE_BYTES: usize = 64 * 1024;

/// How many lists are held in memory at once; they may be long.
const MAX_LISTS: usize = 8;

/// How many of them are one client's, so that none keeps the others waiting.
const MAX_LISTS_OF_CLIENT: usize = 2;

/// Counts the lists in memory.
pub(super) struct Lists {
    all: Arc<Semaphore>,
    of_clients: Mutex<HashMap<ClientId, Arc<Semaphore>>>,
}

/// What a list in memory takes from the others, until nearly all of it is written.
struct Hold {
    _place: Place,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Lists {
    pub(super) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(MAX_LISTS)),
            of_clients: Mutex::default(),
        }
    }

    /// Leave to hold a list of `client`, once there is room.
    async fn enter(&self, client: &ClientId) -> [OwnedSemaphorePermit; 2] {
        let own = {
            let mut of_clients = self.of_clients.lock();
            of_clients.retain(|_, own| Arc::strong_count(own) > 1);
            let own = of_clients.entry(client.clone());
            Arc::clone(own.or_insert_with(|| Arc::new(Semaphore::new(MAX_LISTS_OF_CLIENT))))
        };
        const OPEN: &str = "these semaphores are never closed";
        let own = own.acquire_owned().await.expect(OPEN);
        [
            own,
            Arc::clone(&self.all).acquire_owned().await.expect(OPEN),
        ]
    }
}

/// Answers a lookup.
pub(super) async fn answer(
    gateway: &Arc<Gateway>,
    ask: &Ask,
    headers: &HeaderMap,
    path_token: Option<SecretString>,
) -> Result<Response, Problem> {
    let (identity, limits) = identify::visitor(gateway, ask, headers, path_token).await?;
    // A list is held whole while it is cut down and sent.
    let place = gateway.place(ask)?;
    let permits = tokio::time::timeout(PATIENCE, gateway.lists.enter(&identity.client));
    let hold = Hold {
        _place: place,
        _permits: permits.await.map_err(|_| Problem::system_busy())?,
    };
    let answer = tokio::time::timeout(PATIENCE, list(gateway, ask, &limits, hold))
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
async fn list(
    gateway: &Gateway,
    ask: &Ask,
    limits: &Limits,
    hold: Hold,
) -> Result<Response, Problem> {
    let request = HttpRequest {
        method: Method::GET,
        path_and_query: synthesis::path_and_query(ask.endpoint, None, &ask.query),
        accept: None,
        body: None,
    };
    let (upstream, secrets) = (&gateway.parts.upstream, gateway.secrets());
    let answer = upstream.request(ask.worker(), request, &secrets).await;
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
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let mut response = Response::new(in_pieces(body.into(), hold, &ask.connection, ask.id));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// A body that keeps its `hold` while it is sent; a client that takes too long over it is cut off.
fn in_pieces(
    body: Bytes,
    hold: impl Send + 'static,
    connection: &Arc<Connection>,
    session: SessionId,
) -> Body {
    let (sending, sent) = oneshot::channel::<Infallible>();
    let connection = Arc::clone(connection);
    tokio::spawn(async move {
        let sent = async {
            // It is only ever dropped.
            let _ = sent.await;
        };
        connection.cut_unless(sent, TAKING_TIMEOUT, session).await;
    });
    let rest = (body, hold, sending);
    Body::from_stream(stream::unfold(rest, |(mut body, hold, sending)| async {
        let piece = body.split_to(body.len().min(PIECE_BYTES));
        (!piece.is_empty()).then(|| (Ok::<_, Infallible>(piece), (body, hold, sending)))
    }))
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
        _ => with_voices_shown(body, |voice| Shown {
            as_is: limits.lists_voice(voice),
            under: limits
                .voice_aliases()
                .filter(|(_, real)| real.as_str() == voice)
                .map(|(alias, _)| alias.as_str())
                .collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::super::load::Loads;
    use super::*;

    const LIST: Bytes = Bytes::from_static(&[b'x'; 3 * PIECE_BYTES + 1]);

    fn connection() -> Arc<Connection> {
        Arc::new(Connection::new(Loads::new(1).count(0)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_held_until_it_is_taken() {
        let (connection, hold) = (connection(), Arc::new(()));
        let mut body = in_pieces(LIST, Arc::clone(&hold), &connection, SessionId::random());
        let mut taken = Vec::new();
        while let Some(frame) = body.frame().await {
            assert_eq!(Arc::strong_count(&hold), 2);
            taken.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!((taken, Arc::strong_count(&hold)), (LIST.to_vec(), 1));
        tokio::time::sleep(2 * TAKING_TIMEOUT).await;
        assert!(connection.is_cut().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_a_list_is_cut_off() {
        let connection = connection();
        let mut body = in_pieces(LIST, (), &connection, SessionId::random());
        body.frame().await.unwrap().unwrap();
        tokio::time::timeout(2 * TAKING_TIMEOUT, connection.is_cut())
            .await
            .unwrap();
    }
}
