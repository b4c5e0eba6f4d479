//! The operator's side: health, live sessions, metrics. Loopback by default.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::gateway::Gateway;
use crate::ids::SessionId;
use crate::protocol::Problem;
use crate::session::{SessionEnd, SessionRow};

/// So many connection failures in a row make the relay not ready.
const FAILURES_UNTIL_NOT_READY: u32 = 3;

pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/sessions", get(sessions))
        .route("/sessions/{session}", axum::routing::delete(end_session))
        .with_state(gateway)
}

async fn ready(State(gateway): State<Arc<Gateway>>) -> Response {
    let reason = if gateway.is_draining() {
        "draining"
    } else if gateway.parts.upstream.failures_in_a_row() >= FAILURES_UNTIL_NOT_READY {
        "upstream cannot be reached"
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
