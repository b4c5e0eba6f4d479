//! ElevenLabs' own refusals, in both of their shapes: error frame and close, or HTTP body.

use std::borrow::Cow;

use serde::Serialize;

use super::format::{Endpoint, Format};

/// Why the sandbox does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) error: &'static str,
    pub(super) message: Cow<'static, str>,
    /// WebSocket close code.
    pub(super) code: u16,
    /// HTTP status.
    pub(super) status: u16,
    /// The field of the request that is to blame.
    pub(super) param: Option<&'static str>,
}

/// The error frame. `param` exists on the dialogue sockets alone.
#[derive(Serialize)]
struct ErrorFrame<'a> {
    message: &'a str,
    error: &'a str,
    code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<&'a str>,
}

const fn refusal(error: &'static str, message: &'static str, status: u16) -> Refusal {
    full(error, message, 1008, status, None)
}

const fn full(
    error: &'static str,
    message: &'static str,
    code: u16,
    status: u16,
    param: Option<&'static str>,
) -> Refusal {
    Refusal {
        error,
        message: Cow::Borrowed(message),
        code,
        status,
        param,
    }
}

impl Refusal {
    pub(super) const NO_RECORDING: Self = refusal(
        "no_recording",
        "No recording of this endpoint and voice goes like this conversation.",
        404,
    );
    pub(super) const INVALID_API_KEY: Self = full(
        "invalid_api_key",
        "Invalid API key",
        1008,
        400,
        Some("api_key"),
    );
    pub(super) const NEEDS_AUTHORIZATION: Self = refusal(
        "needs_authorization",
        "Neither authorization header nor xi-api-key received, please provide one.",
        401,
    );
    pub(super) const AUTHENTICATION_REQUIRED: Self = refusal(
        "authentication_required",
        "You must authenticate before sending any text.",
        401,
    );
    pub(super) const LATE_VOICE_SETTINGS: Self = refusal(
        "invalid_message",
        "voice_settings field must be provided in the first message and must not change later. \
         Send the same settings again, or leave them out.",
        400,
    );
    pub(super) const MAX_CONTEXTS: Self = refusal(
        "max_active_conversations",
        "Maximum simultaneous contexts per WebSocket connection exceeded (5). Close a context and \
         wait for its final message before you open another.",
        429,
    );
    pub(super) const QUOTA_EXCEEDED: Self = refusal(
        "quota_exceeded",
        "This request exceeds your quota. You have 0 credits remaining.",
        401,
    );
    pub(super) const UNUSUAL_ACTIVITY: Self = refusal(
        "detected_unusual_activity",
        "Unusual activity detected. Free Tier usage disabled.",
        401,
    );
    pub(super) const TOO_MANY_REQUESTS: Self = refusal(
        "too_many_concurrent_requests",
        "Too many concurrent requests. Your plan's limit is reached.",
        429,
    );
    pub(super) const VENDOR_FAULT: Self = full(
        "internal_server_error",
        "Sorry, something went wrong on our side. You have not been charged.",
        1011,
        500,
        None,
    );
    pub(super) const RESTART: Self = full(
        "service_restart",
        "The service is restarting.",
        1012,
        503,
        None,
    );

    /// The refusal of a voice that asks for this HTTP status.
    pub(super) fn of_status(status: u16) -> Self {
        let error = match status {
            500.. => {
                return Self {
                    status,
                    ..Self::VENDOR_FAULT
                };
            }
            401 => "unauthorized",
            403 => "forbidden",
            404 => "not_found",
            429 => "rate_limit_exceeded",
            _ => "invalid_request",
        };
        let message = format!("This voice is refused with HTTP status {status}.");
        Self {
            message: message.into(),
            ..refusal(error, "", status)
        }
    }

    /// The voice is not there.
    pub(super) fn unknown_voice(voice: &str) -> Self {
        Self {
            message: format!("A voice with voice_id {voice} does not exist.").into(),
            param: Some("voice_id"),
            ..refusal("voice_id_does_not_exist", "", 404)
        }
    }

    /// A message that makes no sense.
    pub(super) fn invalid_message(message: &'static str) -> Self {
        refusal("invalid_message", message, 400)
    }

    /// Nothing came for `seconds`, on a text-to-speech socket.
    pub(super) fn input_timeout(seconds: f64) -> Self {
        let message = format!(
            "Have not received a new text input within the timeout of {seconds:?} seconds. \
             Streaming input terminated. Please make sure to feed new text input within the \
             timeout, or send an empty string as text to end the stream.",
        );
        Self {
            message: message.into(),
            ..refusal("input_timeout_exceeded", "", 408)
        }
    }

    /// Nothing came for `seconds`, on a dialogue socket.
    pub(super) fn dialogue_timeout(seconds: u64) -> Self {
        Self {
            message: format!("No message received within {seconds}s.").into(),
            ..refusal("input_timeout_exceeded", "", 408)
        }
    }

    /// The model is known but does not stream here.
    pub(super) fn unsupported_model(model: &str) -> Self {
        Self {
            message: format!("The model {model} cannot be streamed on this socket.").into(),
            param: Some("model_id"),
            ..refusal("unsupported_model", "", 400)
        }
    }

    /// There is no such model.
    pub(super) fn unknown_model() -> Self {
        Self {
            param: Some("model_id"),
            ..refusal(
                "model_not_found",
                "A model with that model_id does not exist.",
                404,
            )
        }
    }

    /// The format is not one that `endpoint` takes.
    pub(super) fn unknown_format(endpoint: Endpoint) -> Self {
        let names: Vec<_> = Format::of(endpoint).map(|format| format.name).collect();
        Self {
            message: format!(
                "Invalid output format. Must be one of: {}",
                names.join(", ")
            )
            .into(),
            param: Some("output_format"),
            ..refusal("invalid_output_format", "", 403)
        }
    }

    /// The text is longer than the model takes over HTTP.
    pub(super) fn text_too_long(limit: usize) -> Self {
        Self {
            message: format!("The text must not be longer than {limit} characters.").into(),
            param: Some("text"),
            ..refusal("text_too_long", "", 400)
        }
    }

    pub(super) fn with_param(self, param: &'static str) -> Self {
        Self {
            param: Some(param),
            ..self
        }
    }

    /// The frame on the text-to-speech sockets.
    pub(super) fn frame(&self) -> String {
        self.frame_with(None)
    }

    /// The frame on the dialogue sockets, which names the field.
    pub(super) fn dialogue_frame(&self) -> String {
        self.frame_with(self.param)
    }

    fn frame_with(&self, param: Option<&str>) -> String {
        let frame = ErrorFrame {
            message: &self.message,
            error: self.error,
            code: self.code,
            param,
        };
        serde_json::to_string(&frame).expect("strings and numbers always serialize")
    }

    /// The close reason: the message cut to the 123 bytes a close frame has room for (RFC 6455
    /// section 5.5), on a character border.
    pub(super) fn reason(&self) -> &str {
        let end = (0..=self.message.len().min(123))
            .rev()
            .find(|end| self.message.is_char_boundary(*end));
        &self.message[..end.unwrap_or(0)]
    }

    /// The HTTP body.
    pub(super) fn body(&self, request_id: &str) -> String {
        // The same thing has another name over HTTP.
        let code = match self.error {
            "voice_id_does_not_exist" => "voice_not_found",
            other => other,
        };
        let kind = match self.status {
            401 | 403 => "authentication_error",
            404 => "not_found",
            429 => "rate_limit_error",
            500.. => "internal_error",
            _ if code == "invalid_api_key" => "authentication_error",
            _ => "validation_error",
        };
        let mut detail = serde_json::json!({
            "type": kind,
            "code": code,
            "message": self.message,
            "status": code,
            "request_id": request_id,
        });
        if let Some(param) = self.param {
            detail["param"] = param.into();
        }
        serde_json::json!({ "detail": detail }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_has_exactly_the_recorded_fields() {
        assert_eq!(
            Refusal::unknown_voice("nope").frame(),
            r#"{"message":"A voice with voice_id nope does not exist.","error":"voice_id_does_not_exist","code":1008}"#
        );
    }

    #[test]
    fn seconds_are_written_as_a_float_and_the_reason_is_cut() {
        let refusal = Refusal::input_timeout(20.0);
        assert!(
            refusal.message.starts_with(
                "Have not received a new text input within the timeout of 20.0 seconds"
            )
        );
        assert_eq!(refusal.reason().len(), 123);
    }

    #[test]
    fn the_type_and_the_code_of_a_status_agree() {
        let check = |status, kind, code| {
            let body = Refusal::of_status(status).body("r");
            let body: serde_json::Value = serde_json::from_str(&body).expect("a JSON body");
            assert_eq!(body["detail"]["type"], kind, "{status}");
            assert_eq!(body["detail"]["code"], code, "{status}");
        };
        check(403, "authentication_error", "forbidden");
        check(418, "validation_error", "invalid_request");
        check(429, "rate_limit_error", "rate_limit_exceeded");
        check(503, "internal_error", "internal_server_error");
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        let refusal = Refusal {
            message: "é".repeat(100).into(),
            ..Refusal::RESTART
        };
        assert_eq!(refusal.reason().len(), 122);
    }
}
