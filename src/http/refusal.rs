//! Refusals as HTTP answers.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION};

use crate::ids::SessionId;
use crate::protocol::{InvalidMessage, Problem};

/// The name of the header that carries the relay's own id of a request.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// `problem` in ElevenLabs' HTTP shape.
pub(super) fn response(problem: &Problem, request: SessionId) -> Response {
    let mut response = Response::new(Body::from(problem.to_body(request)));
    *response.status_mut() = http::StatusCode::from_u16(problem.status)
        .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REQUEST_ID, request_id(request));
    if let Some(seconds) = problem.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.status == 426 {
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

/// What upstream answers to a body that does not fit its schema (ElevenLabs API reference,
/// "Errors"): 422 and a list. What upstream would take and the relay does not is a plain refusal.
pub(super) fn invalid_body(invalid: InvalidMessage, request: SessionId) -> Response {
    let (kind, place) = match invalid {
        InvalidMessage::NotUtf8 | InvalidMessage::NotJson => ("json_invalid", None),
        InvalidMessage::NotAnObject => ("model_attributes_type", None),
        InvalidMessage::Text => ("string_type", Some("text")),
        InvalidMessage::Inputs => ("list_type", Some("inputs")),
        InvalidMessage::KeyTwice | InvalidMessage::TooDeep => {
            return response(&Problem::from(invalid), request);
        }
    };
    let place: Vec<&str> = ["body"].into_iter().chain(place).collect();
    let body = serde_json::json!({ "detail": [
        { "type": kind, "loc": place, "msg": invalid.to_string(), "input": null }
    ]});
    let mut response = response(&Problem::from(invalid), request);
    *response.status_mut() = http::StatusCode::UNPROCESSABLE_ENTITY;
    *response.body_mut() = Body::from(body.to_string());
    response
}

/// The id as a header's value.
pub(super) fn request_id(request: SessionId) -> HeaderValue {
    HeaderValue::from_str(&request.to_string()).expect("hex digits are a header value")
}
