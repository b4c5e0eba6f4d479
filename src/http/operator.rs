//! The operator's side: health, live sessions, metrics. Loopback by default.

use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use serde::Deserialize;

use super::HostName;
use super::gateway::Gateway;
use crate::ids::{ClientId, SessionId};
use crate::metrics::CONTENT_TYPE as CONTENT_TYPE_OF_METRICS;
use crate::protocol::Problem;
use crate::session::{SessionEnd, SessionRow};
use crate::usage::{self, Day, GroupBy};

/// So many connection failures in a row make the relay not ready.
const FAILURES_UNTIL_NOT_READY: u32 = 3;

pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/usage", get(usage))
        .route("/sessions", get(sessions))
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
    ([(CONTENT_TYPE, CONTENT_TYPE_OF_METRICS)], gateway.parts.metrics.render()).into_response()
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
    let UsageQuestion { since, until, client, by } = question;
    let query = usage::Query { since, until, client, by: by.unwrap_or_default() };
    match gateway.parts.quota.books().usage(&query).await {
        Ok(rows) => Json(rows).into_response(),
        Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the usage store does not answer\n").into_response()
        }
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
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response()
}

async fn sessions(State(gateway): State<Arc<Gateway>>) -> Json<Vec<SessionRow>> {
    Json(gateway.parts.registry.all().iter().map(|live| live.row()).collect())
}

async fn end_session(State(gateway): State<Arc<Gateway>>, Path(session): Path<String>) -> StatusCode {
    let end = SessionEnd::Refused(Problem::session_ended());
    match SessionId::parse(&session) {
        Some(session) if gateway.parts.registry.end(session, end) => StatusCode::NO_CONTENT,
        _ => StatusCode::NOT_FOUND,
    }
}
