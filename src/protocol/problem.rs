//! A refusal or ending of the relay's own, in the words that both wires share.

use std::borrow::Cow;

use crate::ids::SessionId;

/// What a client is told when the relay refuses or ends something: one JSON text frame and a close
/// on a socket, one JSON body over HTTP. Never holds anything of the request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The machine-readable name, such as `quota_exceeded`.
    pub error: Cow<'static, str>,
    /// One sentence for people: what happened and what to do.
    pub message: Cow<'static, str>,
    /// The WebSocket close code (RFC 6455 section 7.4).
    pub close_code: u16,
    /// The HTTP status.
    pub status: u16,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Seconds until a retry makes sense, where known.
    pub retry_after: Option<u64>,
}

impl Problem {
    /// The error frame: `{"message","error","code","source":"relay","retryable","request_id"}`.
    #[must_use]
    pub fn to_frame(&self, request: SessionId) -> String {
        let mut frame = serde_json::json!({
            "message": self.message,
            "error": self.error,
            "code": self.close_code,
            "source": "relay",
            "retryable": self.retryable,
            "request_id": request.to_string(),
        });
        if let Some(seconds) = self.retry_after {
            frame["retry_after"] = seconds.into();
        }
        frame.to_string()
    }

    /// The HTTP body: `{"detail":{"type","code","status","message","request_id"}}`.
    #[must_use]
    pub fn to_body(&self, request: SessionId) -> String {
        let kind = match self.status {
            401 | 403 => "authentication_error",
            404 => "not_found",
            429 => "rate_limit_error",
            400 | 413 | 422 => "validation_error",
            408 | 426 | 431 => "invalid_request",
            _ => "api_error",
        };
        serde_json::json!({ "detail": {
            "type": kind,
            "code": self.error,
            "status": self.error,
            "message": self.message,
            "request_id": request.to_string(),
        }})
        .to_string()
    }
}
