//! Every refusal and ending of the relay's own, by name.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use super::{HttpError, Problem, Secrets};

/// The relay's own refusals and endings. Their texts are fixed, save for numbers of the relay's
/// configuration: nothing that a client sent stands in them.
impl Problem {
    fn new(error: &'static str, message: &'static str, close_code: u16, status: u16) -> Self {
        Self {
            error: Cow::Borrowed(error),
            message: Cow::Borrowed(message),
            close_code,
            status,
            retryable: false,
            retry_after: None,
        }
    }

    /// "You": the client has to change something (RFC 6455 close code 1008).
    fn refused(error: &'static str, status: u16, message: &'static str) -> Self {
        Self::new(error, message, 1008, status)
    }

    /// "Not you": upstream failed (RFC 6455 close code 1011).
    fn failed(error: &'static str, message: &'static str) -> Self {
        Self::new(error, message, 1011, 502)
    }

    fn retryable(self) -> Self {
        Self {
            retryable: true,
            ..self
        }
    }

    /// The same problem with a hint when to come back, in seconds; it is retryable then.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self {
            retryable: true,
            retry_after: Some(seconds),
            ..self
        }
    }

    /// A path or method that the relay does not serve.
    #[must_use]
    pub fn not_found() -> Self {
        Self::refused(
            "not_found",
            404,
            "This relay serves ElevenLabs' text-to-speech paths only; check path and method.",
        )
    }

    /// A request that is malformed; `reason` is a fixed sentence that says what to do.
    #[must_use]
    pub fn invalid_request(reason: &'static str) -> Self {
        Self::refused("invalid_request", 400, reason)
    }

    /// A WebSocket version other than 13 (RFC 6455 section 4.4).
    #[must_use]
    pub fn upgrade_required() -> Self {
        Self::refused(
            "upgrade_required",
            426,
            "This path is a WebSocket; connect with version 13.",
        )
    }

    /// A parameter that stands twice where it may stand once.
    #[must_use]
    pub fn repeated_parameter() -> Self {
        Self::invalid_request(
            "Send model_id, output_format and inactivity_timeout at most once each.",
        )
    }

    /// A request head that is too large.
    #[must_use]
    pub fn headers_too_large() -> Self {
        Self::refused(
            "headers_too_large",
            431,
            "Send fewer or shorter request headers.",
        )
    }

    /// A message that cannot be counted: an [`InvalidMessage`](super::InvalidMessage) or a fixed
    /// sentence that says what to do.
    #[must_use]
    pub fn invalid_input_message(reason: impl Into<&'static str>) -> Self {
        Self::refused("invalid_input_message", 400, reason.into())
    }

    /// A binary message (RFC 6455 close code 1003).
    #[must_use]
    pub fn binary_message() -> Self {
        let message = "Send text messages of one JSON object each; binary ones are not understood.";
        Self::new("invalid_input_message", message, 1003, 400)
    }

    /// A message or body over the limit, in bytes.
    #[must_use]
    pub fn message_too_big(limit_bytes: u64) -> Self {
        let message =
            format!("Send at most {limit_bytes} bytes in one message; split longer text.");
        Self {
            message: message.into(),
            ..Self::new("message_too_big", "", 1009, 413)
        }
    }

    /// No credential was shown in time.
    #[must_use]
    pub fn needs_authorization() -> Self {
        Self::refused(
            "needs_authorization",
            401,
            "Send your token as xi-api-key, as Bearer, or as xi_api_key in the first message.",
        )
    }

    /// A token that is unknown or spent.
    #[must_use]
    pub fn invalid_api_key() -> Self {
        Self::refused(
            "invalid_api_key",
            401,
            "Invalid API key or token: it is unknown here or used up; ask the relay's operator for one.",
        )
    }

    /// A token whose time is over.
    #[must_use]
    pub fn token_expired() -> Self {
        Self::refused(
            "token_expired",
            401,
            "The token has expired; get a new one.",
        )
    }

    /// A token that was taken back.
    #[must_use]
    pub fn token_revoked() -> Self {
        Self::refused(
            "token_revoked",
            401,
            "The token was revoked; ask for a new one.",
        )
    }

    /// A page whose origin is not in the list.
    #[must_use]
    pub fn origin_not_allowed() -> Self {
        Self::refused(
            "origin_not_allowed",
            403,
            "Pages from this origin may not use the relay; see server.allowed_origins, plan and token.",
        )
    }

    /// A host name that is not in the list.
    #[must_use]
    pub fn host_not_allowed() -> Self {
        Self::refused(
            "host_not_allowed",
            403,
            "The relay is not known by this host name; see server.allowed_hosts.",
        )
    }

    /// A voice outside of the plan, or of a narrowed token.
    #[must_use]
    pub fn voice_not_allowed() -> Self {
        Self::refused(
            "voice_not_allowed",
            403,
            "Your plan or token does not allow this voice; use another.",
        )
    }

    /// A model outside of the plan.
    #[must_use]
    pub fn model_not_allowed() -> Self {
        Self::refused(
            "model_not_allowed",
            403,
            "Your plan does not allow this model; use another.",
        )
    }

    /// An output format outside of the plan.
    #[must_use]
    pub fn output_format_not_allowed() -> Self {
        Self::refused(
            "output_format_not_allowed",
            403,
            "Your plan does not allow this output_format; use another.",
        )
    }

    /// A window or session is spent. `message` says what was used, the limit, and the reset time;
    /// `retry_after` is the seconds until then, none where waiting does not help.
    #[must_use]
    pub fn quota_exceeded(message: String, retry_after: Option<u64>) -> Self {
        Self {
            message: message.into(),
            retryable: retry_after.is_some(),
            retry_after,
            ..Self::refused("quota_exceeded", 429, "")
        }
    }

    /// All of the client's session slots are taken.
    #[must_use]
    pub fn too_many_concurrent_requests(limit: u64) -> Self {
        let message = format!("At most {limit} sessions may be open at once; end one first.");
        let problem = Self::refused("too_many_concurrent_requests", 429, "").retryable();
        Self {
            message: message.into(),
            ..problem
        }
    }

    /// Starts, connections or messages come too fast.
    #[must_use]
    pub fn rate_limit_exceeded() -> Self {
        Self::refused(
            "rate_limit_exceeded",
            429,
            "Too many at a time; slow down and try again.",
        )
        .retryable()
    }

    /// The client has sent nothing for as long as it may. The opening words are ElevenLabs' own.
    #[must_use]
    pub fn input_timeout_exceeded(limit: Duration) -> Self {
        let message = format!(
            "Have not received a new text input within the timeout of {:?} seconds. Send text, or \
             a single space to keep the connection open, or the empty string to end it.",
            limit.as_secs_f64()
        );
        let problem = Self::refused("input_timeout_exceeded", 408, "").retryable();
        Self {
            message: message.into(),
            ..problem
        }
    }

    /// The session has lasted as long as it may.
    #[must_use]
    pub fn session_expired() -> Self {
        Self::refused(
            "session_expired",
            408,
            "The session has reached the longest time your plan allows; open a new one.",
        )
        .retryable()
    }

    /// A fault of the relay's own.
    #[must_use]
    pub fn internal_error() -> Self {
        Self::new(
            "internal_error",
            "The relay failed on this request; tell its operator.",
            1011,
            500,
        )
    }

    /// A path that is served, asked for with another method.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::refused(
            "method_not_allowed",
            405,
            "This path takes another method; see Allow.",
        )
    }

    /// The operator ended the session.
    #[must_use]
    pub fn session_ended() -> Self {
        Self::refused(
            "session_ended",
            403,
            "The relay's operator ended this session.",
        )
    }

    /// The client does not read what is sent to it.
    #[must_use]
    pub fn slow_consumer() -> Self {
        Self::refused(
            "slow_consumer",
            408,
            "Audio was not read in time; read while you send.",
        )
        .retryable()
    }

    /// Upstream could not be reached.
    #[must_use]
    pub fn upstream_unavailable() -> Self {
        Self::failed(
            "upstream_unavailable",
            "The speech service cannot be reached; try again.",
        )
        .retryable()
    }

    /// Upstream broke off, or broke the protocol.
    #[must_use]
    pub fn upstream_disconnected() -> Self {
        Self::failed(
            "upstream_disconnected",
            "The speech service broke off; open a new session.",
        )
        .retryable()
    }

    /// Upstream refuses the relay's own key.
    #[must_use]
    pub fn upstream_auth_failed() -> Self {
        Self::failed(
            "upstream_auth_failed",
            "The speech service refuses the relay's own key; tell the relay's operator.",
        )
    }

    /// The relay's own account has no credits left.
    #[must_use]
    pub fn upstream_quota_exceeded() -> Self {
        Self::failed(
            "upstream_quota_exceeded",
            "The relay's own account is out of credits; tell the relay's operator.",
        )
    }

    /// Upstream answered a request with an HTTP error: its own status, name and message, both
    /// already freed of secrets.
    #[must_use]
    pub fn upstream_refused(status: u16, error: String, message: String) -> Self {
        // Who may and how much are questions between the relay's account and upstream.
        let is_about_the_request =
            (400..500).contains(&status) && !matches!(status, 401 | 402 | 407 | 408 | 429);
        Self {
            error: error.into(),
            message: message.into(),
            close_code: if is_about_the_request { 1008 } else { 1011 },
            status,
            retryable: status >= 500 || matches!(status, 408 | 429),
            retry_after: None,
        }
    }

    /// What a client is told of an upstream answer that is neither 101 nor 2xx: upstream's own
    /// name and message, freed of secrets, or whose fault it is where that is the relay's.
    #[must_use]
    pub fn from_upstream(status: u16, body: &[u8], secrets: &Secrets) -> Self {
        let HttpError { code, message } = HttpError::read(body, secrets);
        match (status, code.as_deref()) {
            (_, Some("quota_exceeded")) => Self::upstream_quota_exceeded(),
            (_, Some("invalid_api_key" | "needs_authorization" | "missing_permissions"))
            // ElevenLabs names what is wrong with a request; a 403 without a word is about who asks.
            | (401, Some("unauthorized") | None)
            | (403, None) => Self::upstream_auth_failed(),
            (400..=599, _) => Self::upstream_refused(
                status,
                code.unwrap_or_else(|| "upstream_error".to_owned()),
                message.unwrap_or_else(|| {
                    format!("The speech service answered with HTTP status {status}.")
                }),
            ),
            // Redirects are never followed, and nothing else makes sense as an answer.
            _ => Self::upstream_unavailable(),
        }
    }

    /// The quota store cannot be reached, or the relay is full.
    #[must_use]
    pub fn system_busy() -> Self {
        Self::new(
            "system_busy",
            "The relay is busy; try again in a moment.",
            1013,
            503,
        )
        .retryable()
    }

    /// The relay is about to stop.
    #[must_use]
    pub fn service_restart() -> Self {
        Self::new(
            "service_restart",
            "The relay restarts; open a new session.",
            1012,
            503,
        )
        .retryable()
    }
}
