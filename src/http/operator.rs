//! The operator's side: health, live sessions, metrics. Loopback by default.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use serde::Deserialize;

use super::gateway::Gateway;
use super::{HostName, body};
use crate::auth::TokenHash;
use crate::ids::{ClientId, SessionId};
use crate::metrics::CONTENT_TYPE as CONTENT_TYPE_OF_METRICS;
use crate::protocol::Problem;
use crate::session::{SessionEnd, SessionRow};
use crate::usage::{self, Day, GroupBy};

/// The longest body that may name a token: more than any header could hold.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// So many connection failures in a row make the relay not ready.
const FAILURES_UNTIL_NOT_READY: u32 = 3;

pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/usage", get(usage))
        .route("/sessions", get(sessions))
        .route("/tokens/revoke", axum::routing::post(revoke_token))
        .route("/sessions/{session}", axum::routing::delete(end_session))
        .layer(axum::middleware::from_fn(only_this_machine))
        .with_state(gateway)
}

/// Keeps web pages out: whoever sends an `Origin` is a browser, and a name that is not this
/// machine's may have been pointed here (DNS rebinding). Tools call by address or as localhost.
async fn only_this_machine(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_named = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .and_then(|host| HostName::parse(host).ok())
        .is_some_and(|host| matches!(host, HostName::Address(_)) || host.is_localhost());
    if !is_named || headers.contains_key(ORIGIN) {
        let reason = "call the operator's side by address or as localhost, and not from a page\n";
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    next.run(request).await
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    (
        [(CONTENT_TYPE, CONTENT_TYPE_OF_METRICS)],
        gateway.parts.metrics.render(),
    )
        .into_response()
}

/// What `/usage` may be asked: days as `YYYY-MM-DD`, `until` not included.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageQuestion {
    since: Option<Day>,
    until: Option<Day>,
    client: Option<ClientId>,
    /// Of `day`, `model`, `voice`, separated by commas; all by default.
    by: Option<GroupBy>,
}

async fn usage(
    State(gateway): State<Arc<Gateway>>,
    Query(question): Query<UsageQuestion>,
) -> Response {
    let UsageQuestion {
        since,
        until,
        client,
        by,
    } = question;
    let query = usage::Query {
        since,
        until,
        client,
        by: by.unwrap_or_default(),
    };
    match gateway.parts.quota.books().usage(&query).await {
        Ok(rows) => Json(rows).into_response(),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the usage store does not answer\n",
        )
            .into_response(),
    }
}

async fn ready(State(gateway): State<Arc<Gateway>>) -> Response {
    let reason = if gateway.is_draining() {
        "draining"
    } else if gateway.parts.upstream.failures_in_a_row() >= FAILURES_UNTIL_NOT_READY {
        "upstream cannot be reached"
    } else if !gateway.parts.quota.books().is_up() {
        "the usage store does not answer"
    } else if !gateway.parts.directory.has_keys() {
        "the keys that tokens are verified with have not been fetched"
    } else {
        return "ready\n".into_response();
    };
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("not ready: {reason}\n"),
    )
        .into_response()
}

async fn sessions(State(gateway): State<Arc<Gateway>>) -> Json<Vec<SessionRow>> {
    Json(
        gateway
            .parts
            .registry
            .all()
            .iter()
            .map(|live| live.row())
            .collect(),
    )
}

/// Withdraws the token in the body, given as it is or by its SHA-256: a single-use token opens
/// nothing any more, and sessions that rest on a token end.
async fn revoke_token(State(gateway): State<Arc<Gateway>>, body: Body) -> Response {
    let timeout = gateway.parts.config.body_timeout;
    let body = match body::read(body, MAX_TOKEN_BYTES, timeout).await {
        Ok(body) => body,
        Err(problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            return (status, format!("{}\n", problem.message)).into_response();
        }
    };
    let named = str::from_utf8(&body).unwrap_or_default().trim();
    if named.is_empty() {
        let what = "send the token, or its SHA-256 in hex, as the body\n";
        return (StatusCode::BAD_REQUEST, what).into_response();
    }
    let directory = &gateway.parts.directory;
    let mut is_stored = true;
    for hash in TokenHash::all_to_revoke(&named.to_owned().into()) {
        is_stored &= directory.revoke(hash, SystemTime::now()).await.is_ok();
        tracing::info!(token_sha256 = ?hash, "token revoked");
    }
    if !is_stored {
        let what = "revoked here, but the usage store does not answer: other replicas do not know, \
                    and neither will this one after a restart; ask again\n";
        return (StatusCode::SERVICE_UNAVAILABLE, what).into_response();
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn end_session(
    State(gateway): State<Arc<Gateway>>,
    Path(session): Path<String>,
) -> StatusCode {
    let end = SessionEnd::Refused(Problem::session_ended());
    match SessionId::parse(&session) {
        Some(session) if gateway.parts.registry.end(session, end) => StatusCode::NO_CONTENT,
        _ => StatusCode::NOT_FOUND,
    }
}
