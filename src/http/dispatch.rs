//! From a request's head to the endpoint it asks for.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{ALLOW, HeaderValue};
use tokio::time::Instant;

use super::address::remote_address;
use super::gateway::{Ask, Gateway};
use super::refusal::response;
use super::{account, lookup, socket, synthesis, tokens};
use crate::ids::SessionId;
use crate::protocol::{Endpoint, Problem, Query, route_of_path};

/// The address a connection came from; the listener puts it into each request's extensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote(pub(super) IpAddr);

/// Everything that clients can reach.
pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new().fallback(dispatch).with_state(gateway)
}

async fn dispatch(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let started = Instant::now();
    let id = SessionId::random();
    let (head, body) = request.into_parts();
    let parts = &gateway.parts;
    let Some(&Remote(peer)) = head.extensions.get::<Remote>() else {
        return response(&Problem::system_busy(), id);
    };
    let remote = remote_address(peer, &head.headers, &parts.config.trusted_proxies);
    if let Err(wait) = gateway.connections.take(remote, std::time::Instant::now()) {
        let problem = Problem::rate_limit_exceeded().retry_after(wait.as_secs() + 1);
        return response(&problem, id);
    }
    let origin = match parts.callers.check(&head.headers, parts.directory.is_open()) {
        Ok(origin) => origin,
        Err(error) => return response(&Problem::from(error), id),
    };
    let Some(route) = route_of_path(&gateway.parts.config.path_prefix, head.uri.path()) else {
        return response(&Problem::not_found(), id);
    };
    let method = route.endpoint.method();
    if head.method != method {
        let mut response = response(&Problem::method_not_allowed(), id);
        if let Ok(method) = HeaderValue::from_str(method.as_str()) {
            response.headers_mut().insert(ALLOW, method);
        }
        return response;
    }
    if gateway.is_draining() {
        return response(&Problem::service_restart(), id);
    }
    let ask = Ask {
        id,
        endpoint: route.endpoint,
        voice: route.voice,
        query: Query::parse(head.uri.query().unwrap_or_default()),
        remote,
        origin,
        started,
    };
    if route.endpoint.is_socket() {
        return socket::answer(gateway, ask, route.token, head).await;
    }
    if route.endpoint.is_synthesis() {
        return synthesis::answer(gateway, ask, route.token, head, body).await;
    }
    let (headers, token) = (&head.headers, route.token);
    let answered = match route.endpoint {
        Endpoint::SingleUseToken => tokens::mint(&gateway, &ask, headers, token, body).await,
        Endpoint::Subscription | Endpoint::User => {
            account::answer(&gateway, &ask, headers, token).await
        }
        _ => lookup::answer(&gateway, &ask, headers, token).await,
    };
    answered.unwrap_or_else(|problem| response(&problem, id))
}
