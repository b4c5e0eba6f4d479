//! From a request's head to the endpoint it asks for.

use std::any::Any;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::BoxError;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::response::Response;
use bytes::Bytes;
use http::header::{ALLOW, HeaderValue, ORIGIN};
use http::request::Parts;
use tokio::time::Instant;
use tower::{Layer, Service};
use tower_http::catch_panic::CatchPanicLayer;

use super::address::remote_address;
use super::connection::Connection;
use super::gateway::{Ask, Gateway};
use super::refusal::response;
use super::{account, cors, lookup, socket, synthesis, tokens};
use crate::auth::Origin;
use crate::ids::SessionId;
use crate::protocol::{Endpoint, Problem, Query, Route, route_of_path};

/// The connection that a request came on; the listener puts it into each request's extensions.
#[derive(Clone)]
pub(super) struct Remote {
    pub(super) address: IpAddr,
    pub(super) connection: Arc<Connection>,
}

/// What is known of a request before its path is looked at.
struct Caller {
    id: SessionId,
    remote: IpAddr,
    connection: Arc<Connection>,
    origin: Option<Origin>,
    started: Instant,
}

/// Everything that clients can reach. No `Router`: paths have a prefix that is configured and
/// tokens in them, so that [`route_of_path`] reads them in any case.
pub(super) fn service(
    gateway: Arc<Gateway>,
) -> impl Service<
    Request,
    Response = http::Response<impl http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    CatchPanicLayer::custom(after_panic).layer(dispatch.with_state(gateway))
}

/// What the client is told when a request has run into a fault of the relay's own; the log has the
/// place.
fn after_panic(_: Box<dyn Any + Send>) -> Response {
    response(&Problem::internal_error(), SessionId::random())
}

async fn dispatch(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let (started, id) = (Instant::now(), SessionId::random());
    let (head, body) = request.into_parts();
    let metrics = Arc::clone(&gateway.parts.metrics);
    let route = route_of_path(&gateway.parts.config.path_prefix, head.uri.path());
    let endpoint = route.as_ref().map(|route| route.endpoint);
    let page = head.headers.get(ORIGIN).cloned();
    let response = match admit(&gateway, &head, id, started) {
        Ok(caller) => {
            let mut response = answer(gateway, caller, route, head, body).await;
            // A browser lets no page read what a socket's handshake says.
            if let Some(page) = page
                && !endpoint.is_some_and(Endpoint::is_socket)
            {
                cors::let_read(&mut response, &page);
            }
            response
        }
        Err(problem) => response(&problem, id),
    };
    let endpoint = endpoint.map_or("none", Endpoint::as_str);
    metrics
        .http_requests
        .with([endpoint, response.status().as_str()])
        .inc();
    response
}

/// What holds for every request: addresses have their rate, pages and host names their lists.
fn admit(
    gateway: &Gateway,
    head: &Parts,
    id: SessionId,
    started: Instant,
) -> Result<Caller, Problem> {
    let parts = &gateway.parts;
    let Remote {
        address,
        connection,
    } = head
        .extensions
        .get::<Remote>()
        .ok_or_else(Problem::system_busy)?;
    let remote = remote_address(*address, &head.headers, &parts.config.trusted_proxies);
    gateway
        .connections
        .take(remote, started.into_std())
        .map_err(|wait| Problem::rate_limit_exceeded().retry_after(wait.as_secs() + 1))?;
    let origin = parts
        .callers
        .check(&head.headers, parts.directory.is_open())?;
    Ok(Caller {
        id,
        remote,
        connection: Arc::clone(connection),
        origin,
        started,
    })
}

async fn answer(
    gateway: Arc<Gateway>,
    caller: Caller,
    route: Option<Route>,
    head: Parts,
    body: Body,
) -> Response {
    let id = caller.id;
    let Some(route) = route else {
        return response(&Problem::not_found(), id);
    };
    let Route {
        endpoint,
        voice,
        token,
    } = route;
    let method = endpoint.method();
    if !endpoint.is_socket() && cors::is_preflight(&head.method, &head.headers) {
        return cors::preflight(&method, &head.headers);
    }
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
    let Caller {
        remote,
        connection,
        origin,
        started,
        ..
    } = caller;
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let ask = Ask {
        id,
        endpoint,
        voice,
        query,
        remote,
        connection,
        origin,
        started,
    };
    if endpoint.is_socket() {
        return socket::answer(gateway, ask, token, head).await;
    }
    if endpoint.is_synthesis() {
        return synthesis::answer(gateway, ask, token, head, body).await;
    }
    let headers = &head.headers;
    let answered = match endpoint {
        Endpoint::SingleUseToken => tokens::mint(&gateway, &ask, headers, token, body).await,
        Endpoint::Subscription | Endpoint::User => {
            account::answer(&gateway, &ask, headers, token).await
        }
        _ => lookup::answer(&gateway, &ask, headers, token).await,
    };
    answered.unwrap_or_else(|problem| response(&problem, id))
}
