//! Which pages may use the sandbox: those from localhost names, and those that are configured. A
//! page on the open web must not reach a server on its reader's machine.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::config::Config;

/// Refuses foreign pages, and answers for CORS to the others.
pub(super) async fn guard(
    State(config): State<Arc<Config>>,
    request: Request,
    next: Next,
) -> Response {
    if !may_use(&config, request.headers()) {
        return (StatusCode::FORBIDDEN, "Origin or Host not allowed.").into_response();
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let asked = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .cloned();
    let is_preflight = request.method() == Method::OPTIONS && origin.is_some();
    let mut response = if is_preflight {
        (StatusCode::NO_CONTENT, Body::empty()).into_response()
    } else {
        next.run(request).await
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("*"),
        );
        if is_preflight {
            let methods = HeaderValue::from_static("GET, POST, OPTIONS");
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            let any = HeaderValue::from_static("xi-api-key, authorization, content-type");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(any));
        }
    }
    response
}

fn may_use(config: &Config, headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    let is_host_allowed = host.map(without_port).is_some_and(|host| {
        // An address cannot be rebound by DNS; a name can.
        is_localhost(host)
            || as_ip(host).is_some()
            || config.allowed_hosts.iter().any(|h| h == host)
    });
    let mut origins = headers.get_all(header::ORIGIN).iter();
    is_host_allowed
        && origins.all(|origin| {
            origin
                .to_str()
                .is_ok_and(|origin| is_origin_allowed(config, origin))
        })
}

fn is_origin_allowed(config: &Config, origin: &str) -> bool {
    let host = origin.split_once("://").map(|(_, rest)| without_port(rest));
    config
        .allowed_origins
        .iter()
        .any(|allowed| allowed == origin)
        || host.is_some_and(|host| {
            is_localhost(host) || as_ip(host).is_some_and(|ip| ip.is_loopback())
        })
}

fn is_localhost(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

fn as_ip(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(host: &'static str, origin: Option<&'static str>, expected: bool) {
        let config = Config {
            allowed_hosts: vec!["sandbox".into()],
            allowed_origins: vec!["https://app.example".into()],
            ..Config::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        assert_eq!(may_use(&config, &headers), expected, "{host} {origin:?}");
    }

    #[test]
    fn only_local_and_configured_names_are_answered() {
        check("127.0.0.1:8090", None, true);
        check("localhost", None, true);
        check("[::1]:8090", None, true);
        check("10.1.2.3:8090", None, true);
        check("sandbox:8090", None, true);
        check("rebound.example:8090", None, false);
    }

    #[test]
    fn only_local_and_configured_pages_may_connect() {
        check("localhost", Some("http://localhost:3000"), true);
        check("localhost", Some("http://app.localhost"), true);
        check("localhost", Some("http://127.0.0.1:3000"), true);
        check("localhost", Some("https://app.example"), true);
        check("localhost", Some("https://evil.example"), false);
        check("localhost", Some("http://localhost.evil.example"), false);
        check("localhost", Some("http://10.1.2.3"), false);
        check("localhost", Some("null"), false);
    }
}
