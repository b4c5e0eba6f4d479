//! Which answers a page in a browser may read (Fetch standard, "CORS protocol"). Nothing here needs
//! cookies, so no answer allows credentials, and a page is trusted for its token alone.

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY,
};
use http::{HeaderMap, Method, StatusCode};

/// How long a browser may remember an answer to its preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Allowed where a browser does not say which headers it wants to send.
const USUAL_HEADERS: HeaderValue =
    HeaderValue::from_static("xi-api-key, authorization, content-type");

/// Whether a request is a browser's question before the request proper.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight from an allowed page: `method` with whatever headers it asks for,
/// since a client library sends its own beside the token and none of them goes upstream.
pub(super) fn preflight(method: &Method, headers: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let answer = response.headers_mut();
    let method = HeaderValue::from_str(method.as_str()).expect("a method is a header value");
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, method);
    answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(USUAL_HEADERS));
    answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    for header in [
        ACCESS_CONTROL_REQUEST_METHOD,
        ACCESS_CONTROL_REQUEST_HEADERS,
    ] {
        answer.append(VARY, HeaderValue::from(header));
    }
    response
}

/// Lets the page at `origin`, which is allowed, read `response` and all of its headers.
pub(super) fn let_read(response: &mut Response, origin: &HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    headers.append(VARY, HeaderValue::from(ORIGIN));
}
