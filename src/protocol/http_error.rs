//! What upstream says in the body of an HTTP error (ElevenLabs API reference, "Errors").

use serde_json::Value;

use super::Secrets;

/// The longest message that is passed on, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Upstream's own name and sentence for an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpError {
    /// The machine-readable name; none when there is none, or it does not look like one.
    pub code: Option<String>,
    /// The sentence for people, freed of secrets and cut to 1024 bytes.
    pub message: Option<String>,
}

impl HttpError {
    /// Reads a body in any of the shapes in use: `{"detail":{"code","status","message"}}`, the
    /// older one without `code`, the validation errors `{"detail":[{"msg","loc"}]}`, and
    /// `{"detail":"…"}`. Of any other body nothing is read.
    #[must_use]
    pub fn read(body: &[u8], secrets: &Secrets) -> Self {
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return Self::default();
        };
        let (code, message) = match &body["detail"] {
            Value::String(message) => (None, Some(message.as_str())),
            Value::Array(list) => {
                let first = list.first().map(|first| &first["msg"]);
                (Some("validation_error"), first.and_then(Value::as_str))
            }
            detail => {
                let field = |name: &str| detail[name].as_str();
                (field("code").or(field("status")), field("message"))
            }
        };
        let message = message
            .filter(|message| !message.is_empty())
            .map(|message| {
                let message = secrets.scrub_text(message);
                let ends = message
                    .char_indices()
                    .map(|(start, c)| start + c.len_utf8());
                let end = ends.take_while(|&end| end <= MAX_MESSAGE_BYTES).last();
                message[..end.unwrap_or(0)].to_owned()
            });
        let code = code.filter(|code| is_name(code) && !secrets.contains(code.as_bytes()));
        Self {
            code: code.map(str::to_owned),
            message,
        }
    }
}

/// Names are words such as `voice_not_found` or `only_for_creator+`.
fn is_name(code: &str) -> bool {
    (1..=64).contains(&code.len())
        && code
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, code: Option<&str>, message: Option<&str>) {
        let secrets = Secrets::new(&["hush-hush".into()]);
        let error = HttpError::read(body.as_bytes(), &secrets);
        assert_eq!(
            (error.code.as_deref(), error.message.as_deref()),
            (code, message),
            "{body}"
        );
    }

    #[test]
    fn every_shape_of_body_is_read() {
        check(
            r#"{"detail":{"type":"not_found","code":"voice_not_found","message":"No."}}"#,
            Some("voice_not_found"),
            Some("No."),
        );
        check(
            r#"{"detail":{"status":"quota_exceeded","message":"Spent."}}"#,
            Some("quota_exceeded"),
            Some("Spent."),
        );
        check(
            r#"{"detail":[{"type":"missing","loc":["body","text"],"msg":"Field required"}]}"#,
            Some("validation_error"),
            Some("Field required"),
        );
        check(r#"{"detail":"Not Found"}"#, None, Some("Not Found"));
        check(
            r#"{"detail":{"status":"only_for_creator+"}}"#,
            Some("only_for_creator+"),
            None,
        );
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        for body in [
            "",
            "<html>",
            "[]",
            "null",
            "{}",
            r#"{"detail":null}"#,
            r#"{"detail":[]}"#,
        ] {
            let code = (body == r#"{"detail":[]}"#).then_some("validation_error");
            check(body, code, None);
        }
        check(r#"{"detail":{"code":7,"message":{}}}"#, None, None);
        check(r#"{"detail":{"code":"a b","message":""}}"#, None, None);
    }

    #[test]
    fn secrets_do_not_pass() {
        check(
            r#"{"detail":{"code":"hush-hush","message":"Key hush-hush is bad."}}"#,
            None,
            Some("Key *** is bad."),
        );
    }

    #[test]
    fn a_long_message_is_cut_on_a_character_border() {
        let body = format!(r#"{{"detail":"{}"}}"#, "é".repeat(600));
        check(&body, None, Some(&"é".repeat(512)));
    }
}
