//! The query of a request, and the credential of its head.

use std::time::Duration;

use http::HeaderMap;

use super::account::Credential;
use super::format::{self, Endpoint, Format};
use super::model::{self, Model, Socket};
use super::refusal::Refusal;

/// The parameters that the sandbox acts on. Unknown ones are ignored, and so are values that make
/// no sense, as Python's `True` does.
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let query = query.unwrap_or_default().as_bytes();
        Self {
            pairs: url::form_urlencoded::parse(query).into_owned().collect(),
        }
    }

    /// How many parameters there are.
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.get(name)?.parse().ok()
    }

    pub(super) fn format(&self, endpoint: Endpoint) -> Result<Format, Refusal> {
        match self.get("output_format") {
            None => Ok(format::DEFAULT),
            Some(name) => {
                Format::parse(name, endpoint).ok_or_else(|| Refusal::unknown_format(endpoint))
            }
        }
    }

    /// The model of a text-to-speech socket.
    pub(super) fn speech_model(&self) -> Result<&'static Model, Refusal> {
        let id = self.get("model_id").unwrap_or("eleven_multilingual_v2");
        let model = model::find(id).ok_or_else(Refusal::unknown_model)?;
        match model.socket {
            Socket::TextToSpeech => Ok(model),
            Socket::Dialogue { .. } => Err(Refusal::unsupported_model(id)),
        }
    }

    /// The model of a dialogue socket, and how many voices it takes.
    pub(super) fn dialogue_model(&self) -> Result<(&'static Model, usize), Refusal> {
        let id = self.get("model_id").unwrap_or("eleven_v3_conversational");
        let model = model::find(id).ok_or_else(Refusal::unknown_model)?;
        match model.socket {
            Socket::TextToSpeech => Err(Refusal::unsupported_model(id)),
            Socket::Dialogue { max_voices } => Ok((model, max_voices)),
        }
    }

    /// `inactivity_timeout`: 20 s, held to 1 to 180 s.
    pub(super) fn inactivity(&self) -> Duration {
        let seconds = self.number("inactivity_timeout").unwrap_or(20);
        Duration::from_secs(seconds.clamp(1, 180).into())
    }

    /// Whether numbers are spelled out.
    pub(super) fn spell_numbers(&self) -> bool {
        self.get("apply_text_normalization") != Some("off")
    }
}

/// The credential of a request's head: a header first, then the query.
pub(super) fn credential(headers: &HeaderMap, query: &Query) -> Option<Credential> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(key) = header("xi-api-key") {
        return Some(Credential::Key(key.to_owned()));
    }
    if let Some(bearer) = header("authorization").or_else(|| query.get("authorization")) {
        return Some(Credential::Key(without_bearer(bearer).to_owned()));
    }
    query
        .get("single_use_token")
        .map(|token| Credential::SingleUse(token.to_owned()))
}

/// A bearer token without the word before it, which some clients leave out.
pub(super) fn without_bearer(value: &str) -> &str {
    match value.split_once(' ') {
        Some((word, token)) if word.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_leniently_and_held_to_their_range() {
        let query = Query::parse(Some("auto_mode=True&inactivity_timeout=300&seed=7&x=y"));
        assert!(!query.flag("auto_mode"));
        assert_eq!(query.inactivity(), Duration::from_secs(180));
        assert_eq!(query.number("seed"), Some(7));
        assert_eq!(Query::parse(None).inactivity(), Duration::from_secs(20));
    }

    #[test]
    fn models_belong_to_one_kind_of_socket() {
        let error = |query: &str| {
            let query = Query::parse(Some(query));
            (
                query.speech_model().err().map(|refusal| refusal.error),
                query.dialogue_model().err().map(|refusal| refusal.error),
            )
        };
        assert_eq!(
            error("model_id=eleven_v3"),
            (Some("unsupported_model"), None)
        );
        assert_eq!(
            error("model_id=eleven_flash_v2_5"),
            (None, Some("unsupported_model"))
        );
        assert_eq!(
            error("model_id=x"),
            (Some("model_not_found"), Some("model_not_found"))
        );
        assert_eq!(error(""), (None, None));
    }

    #[test]
    fn credentials_stand_in_headers_and_query() {
        let key = |headers: &[(&'static str, &'static str)], query: &str| {
            let headers = headers
                .iter()
                .map(|(name, value)| {
                    let name = http::HeaderName::from_static(name);
                    (name, http::HeaderValue::from_static(value))
                })
                .collect();
            match credential(&headers, &Query::parse(Some(query))) {
                Some(Credential::Key(key)) => Some(key),
                Some(Credential::SingleUse(token)) => Some(format!("single {token}")),
                None => None,
            }
        };
        assert_eq!(
            key(&[("xi-api-key", "a")], "authorization=b").as_deref(),
            Some("a")
        );
        assert_eq!(
            key(&[("authorization", "Bearer a")], "").as_deref(),
            Some("a")
        );
        assert_eq!(key(&[], "authorization=Bearer%20b").as_deref(), Some("b"));
        assert_eq!(key(&[], "authorization=b").as_deref(), Some("b"));
        assert_eq!(key(&[], "single_use_token=c").as_deref(), Some("single c"));
        assert_eq!(key(&[], "x=y"), None);
    }
}
