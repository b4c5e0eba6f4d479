//! What clients send, read as leniently as ElevenLabs reads it.

use serde_json::{Map, Value};

use super::account::Credential;
use super::query::without_bearer;
use super::refusal::Refusal;

/// One client message: a JSON object whose unknown keys are ignored.
pub(super) struct Message(Map<String, Value>);

impl Message {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Refusal::invalid_message("A message must be a JSON object.")),
            Err(_) => Err(Refusal::invalid_message("A message must be valid JSON.")),
        }
    }

    /// A field that is there and not `null`.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some(&Value::Bool(true))
    }

    /// The `text`, if there is one.
    pub(super) fn text(&self) -> Result<Option<&str>, Refusal> {
        match self.get("text") {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::invalid_message("text must be a string.").with_param("text")),
        }
    }

    /// The context that the message names, in either spelling.
    pub(super) fn context(&self) -> Result<Option<&str>, Refusal> {
        match self.get("context_id").or_else(|| self.get("contextId")) {
            None => Ok(None),
            Some(Value::String(id)) => Ok(Some(id)),
            Some(_) => {
                Err(Refusal::invalid_message("context_id must be a string.")
                    .with_param("context_id"))
            }
        }
    }

    /// The thresholds of `generation_config`, or of `generator_config` as one schema spells it.
    pub(super) fn schedule(&self) -> Vec<usize> {
        let config = self
            .get("generation_config")
            .or_else(|| self.get("generator_config"));
        let schedule = config.and_then(|config| config.get("chunk_length_schedule"));
        schedule
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .map(|n_chars| n_chars as usize)
            .collect()
    }

    /// The credential in the message.
    pub(super) fn credential(&self) -> Option<Credential> {
        let field = |name| self.get(name).and_then(Value::as_str);
        field("xi_api_key")
            .or_else(|| field("xi-api-key"))
            .or_else(|| field("authorization").map(without_bearer))
            .map(|key| Credential::Key(key.to_owned()))
            .or_else(|| {
                field("single_use_token").map(|token| Credential::SingleUse(token.to_owned()))
            })
    }
}

/// The `speed` of voice settings: 1, held to 0.7 to 1.2.
pub(super) fn speed(settings: Option<&Value>) -> f64 {
    let speed = settings
        .and_then(|settings| settings.get("speed"))
        .and_then(Value::as_f64);
    speed.unwrap_or(1.0).clamp(0.7, 1.2)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn nulls_are_absent_and_both_spellings_are_read() {
        let message = Message::parse(
            r#"{"text":null,"contextId":"a","voice_settings":null,"xi-api-key":"k",
                "generator_config":{"chunk_length_schedule":[50,"x",120.0]}}"#,
        )
        .unwrap();
        assert_eq!(message.text(), Ok(None));
        assert_eq!(message.context(), Ok(Some("a")));
        assert_eq!(message.get("voice_settings"), None);
        assert_eq!(message.schedule(), [50, 120]);
        assert!(matches!(message.credential(), Some(Credential::Key(key)) if key == "k"));
    }

    #[test]
    fn what_is_no_object_is_invalid() {
        for text in ["", "[]", "7", "{", "\"x\""] {
            let error = Message::parse(text).err().map(|refusal| refusal.error);
            assert_eq!(error, Some("invalid_message"));
        }
    }

    #[test]
    fn speed_is_held_to_its_range() {
        let speed = |json: &str| super::speed(Some(&serde_json::from_str(json).unwrap()));
        assert_eq!(speed(r#"{"speed":1.1}"#), 1.1);
        assert_eq!(speed(r#"{"speed":9}"#), 1.2);
        assert_eq!(speed(r#"{"similarity_boost":true}"#), 1.0);
    }
}
