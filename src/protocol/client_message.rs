//! What a client's message asks for: how much text, by whom, for which context and voices.

use std::borrow::Cow;
use std::fmt;

use super::Dialect;
use super::credential::{Credential, CredentialName};
use super::json::Value;

/// What a message is, for logs and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClientKind {
    /// The first message of a connection or a context, or one with settings.
    Initialize,
    /// Text to speak.
    Text,
    /// Generate what is buffered.
    Flush,
    /// Keep the connection or context open.
    Keepalive,
    /// The end of the text, or `close_socket`.
    Close,
    /// `close_context`.
    CloseContext,
    /// Anything else.
    Other,
}

impl ClientKind {
    /// The name in logs and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Text => "text",
            Self::Flush => "flush",
            Self::Keepalive => "keepalive",
            Self::Close => "close",
            Self::CloseContext => "close_context",
            Self::Other => "other",
        }
    }
}

/// What the relay needs of a client's message, borrowed from it where it has no escapes. `Debug`
/// shows neither text nor credentials.
pub struct ClientMessage<'a> {
    /// Unicode scalar values to be charged before the message may go up. White space alone is free
    /// on the text-to-speech sockets, where it is the keepalive.
    pub characters: u64,
    /// Unicode scalar values of all text in the message, white space included.
    pub text_length: u64,
    /// The first credential in the order of [`CredentialName`].
    pub credential: Option<Credential>,
    /// Whether a member stands under a credential's name, even an empty one: the message must then
    /// go through [`without_credentials`](super::without_credentials).
    pub has_credentials: bool,
    /// `context_id` (or `contextId`).
    pub context: Option<Cow<'a, str>>,
    /// `model_id`, which HTTP bodies have.
    pub model: Option<Cow<'a, str>>,
    /// The entries of a dialogue's `voices`.
    pub voices: Vec<Cow<'a, str>>,
    /// A dialogue's `inputs`.
    pub inputs: Vec<Input<'a>>,
    /// Whether some entry of `voices`, or some `voice_id`, was no string: such a message cannot be
    /// checked against a list of voices.
    pub has_unreadable_voices: bool,
    pub(super) dialect: Dialect,
    pub(super) text: Option<Cow<'a, str>>,
    pub(super) has_settings: bool,
    pub(super) flushes: bool,
    pub(super) closes_context: bool,
    pub(super) closes_socket: bool,
    pub(super) keeps_alive: bool,
}

/// One of a dialogue's `inputs`.
pub struct Input<'a> {
    /// The text, if there is any.
    pub text: Option<Cow<'a, str>>,
    /// The voice, if it is named.
    pub voice: Option<Cow<'a, str>>,
}

impl<'a> ClientMessage<'a> {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            characters: 0,
            text_length: 0,
            credential: None,
            has_credentials: false,
            context: None,
            model: None,
            voices: Vec::new(),
            inputs: Vec::new(),
            has_unreadable_voices: false,
            dialect,
            text: None,
            has_settings: false,
            flushes: false,
            closes_context: false,
            closes_socket: false,
            keeps_alive: false,
        }
    }

    /// All text of the message, for logs that may hold it: `text`, then that of each input.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        if self.inputs.is_empty() {
            return Cow::Borrowed(self.text.as_deref().unwrap_or_default());
        }
        self.texts().collect::<String>().into()
    }

    /// Every voice that the message names, `voices` first; with repetitions.
    pub fn voice_ids(&self) -> impl Iterator<Item = &str> {
        let inputs = self
            .inputs
            .iter()
            .filter_map(|input| input.voice.as_deref());
        self.voices.iter().map(AsRef::as_ref).chain(inputs)
    }

    /// Whether no text may follow on this socket, while audio still does.
    #[must_use]
    pub fn ends_text(&self) -> bool {
        match self.dialect {
            Dialect::Single => !self.flushes && self.text.as_deref() == Some(""),
            Dialect::Multi | Dialect::Dialogue | Dialect::DialogueMulti => self.closes_socket,
        }
    }

    /// What the message is; `is_first` says whether it is the first of the connection.
    #[must_use]
    pub fn kind(&self, is_first: bool) -> ClientKind {
        if self.ends_text() {
            ClientKind::Close
        } else if self.closes_context && self.dialect.has_contexts() {
            ClientKind::CloseContext
        } else if is_first || self.initializes() {
            ClientKind::Initialize
        } else if self.flushes {
            ClientKind::Flush
        } else if self.characters > 0 {
            ClientKind::Text
        } else if self.is_keepalive() {
            ClientKind::Keepalive
        } else {
            ClientKind::Other
        }
    }

    /// On a socket of one stream settings may be repeated with every text; elsewhere they come
    /// with the first message of a context.
    fn initializes(&self) -> bool {
        self.has_settings && !(self.dialect == Dialect::Single && self.characters > 0)
    }

    fn is_keepalive(&self) -> bool {
        if self.dialect.is_dialogue() {
            self.keeps_alive
        } else {
            self.text.is_some()
        }
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let inputs = self.inputs.iter().filter_map(|input| input.text.as_deref());
        self.text.as_deref().into_iter().chain(inputs)
    }

    pub(super) fn count(&mut self) {
        let length = self.texts().map(scalar_values).sum();
        let is_free = !self.dialect.is_dialogue()
            && self
                .text
                .as_deref()
                .unwrap_or_default()
                .chars()
                .all(char::is_whitespace);
        self.text_length = length;
        self.characters = if is_free { 0 } else { length };
    }

    pub(super) fn add_credential(&mut self, name: CredentialName, value: Option<&str>) {
        self.has_credentials = true;
        let Some(credential) = value.and_then(|value| Credential::new(name, value)) else {
            return;
        };
        if self
            .credential
            .as_ref()
            .is_none_or(|best| credential.name < best.name)
        {
            self.credential = Some(credential);
        }
    }

    pub(super) fn add_voice(&mut self, voice: Value<'a>) -> Option<Cow<'a, str>> {
        let is_null = voice.is_null();
        let voice = voice.text();
        self.has_unreadable_voices |= voice.is_none() && !is_null;
        voice
    }
}

fn scalar_values(text: &str) -> u64 {
    // ASCII is told faster than counted.
    let count = match text.is_ascii() {
        true => text.len(),
        false => text.chars().count(),
    };
    count as u64
}

impl fmt::Debug for ClientMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMessage")
            .field("dialect", &self.dialect)
            .field("characters", &self.characters)
            .field("has_credentials", &self.has_credentials)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use super::super::scan;
    use super::*;

    #[test]
    fn the_text_is_all_there_is_to_hear() {
        let message = scan(Dialect::Single, br#"{"text":"a\u0062"}"#).unwrap();
        assert_eq!(message.text(), "ab");
        let payload = br#"{"inputs":[{"text":"b"},{},{"text":"c"}],"text":"a"}"#;
        assert_eq!(scan(Dialect::Dialogue, payload).unwrap().text(), "abc");
        assert_eq!(scan(Dialect::Dialogue, b"{}").unwrap().text(), "");
    }

    #[track_caller]
    fn is(dialect: Dialect, payload: &str, first: ClientKind, later: ClientKind) {
        let message = scan(dialect, payload.as_bytes()).unwrap();
        assert_eq!(
            (message.kind(true), message.kind(false)),
            (first, later),
            "{payload}"
        );
    }

    #[test]
    fn messages_of_one_stream_have_their_kinds() {
        use ClientKind::{Close, Flush, Initialize, Keepalive, Other, Text};
        let check = |payload, first, later| is(Dialect::Single, payload, first, later);
        check(
            r#"{"text":" ","voice_settings":{"speed":1}}"#,
            Initialize,
            Initialize,
        );
        check(
            r#"{"text":" ","generation_config":{}}"#,
            Initialize,
            Initialize,
        );
        check(
            r#"{"text":" ","voice_settings":null}"#,
            Initialize,
            Keepalive,
        );
        check(r#"{"text":"Hi. "}"#, Initialize, Text);
        check(r#"{"text":"Hi. ","voice_settings":{}}"#, Initialize, Text);
        check(r#"{"text":"Hi. ","flush":true}"#, Initialize, Flush);
        check(r#"{"flush":true}"#, Initialize, Flush);
        check(r#"{"text":"","flush":true}"#, Initialize, Flush);
        check(r#"{"text":"","flush":false}"#, Close, Close);
        check(r#"{"text":""}"#, Close, Close);
        check(r#"{"text":" "}"#, Initialize, Keepalive);
        check(r#"{"text":null}"#, Initialize, Other);
        check("{}", Initialize, Other);
        check(r#"{"close_socket":true}"#, Initialize, Other);
        check(r#"{"close_context":true}"#, Initialize, Other);
    }

    #[test]
    fn messages_of_contexts_have_their_kinds() {
        use ClientKind::{Close, CloseContext, Flush, Initialize, Keepalive, Text};
        let check = |payload, first, later| is(Dialect::Multi, payload, first, later);
        check(
            r#"{"text":"Hi. ","context_id":"b","voice_settings":{}}"#,
            Initialize,
            Initialize,
        );
        check(r#"{"text":"Hi. ","context_id":"b"}"#, Initialize, Text);
        check(r#"{"text":""}"#, Initialize, Keepalive);
        check(
            r#"{"text":"","context_id":"b","flush":true}"#,
            Initialize,
            Flush,
        );
        check(
            r#"{"context_id":"b","close_context":true}"#,
            CloseContext,
            CloseContext,
        );
        check(r#"{"close_socket":true}"#, Close, Close);
        check(
            r#"{"close_socket":false,"text":" "}"#,
            Initialize,
            Keepalive,
        );
    }

    #[test]
    fn messages_of_dialogues_have_their_kinds() {
        use ClientKind::{Close, CloseContext, Flush, Initialize, Keepalive, Other, Text};
        let check = |payload, first, later| is(Dialect::Dialogue, payload, first, later);
        check(r#"{"voices":["v"]}"#, Initialize, Initialize);
        check(r#"{"inputs":[{"text":"Hi. "}]}"#, Initialize, Text);
        check(
            r#"{"inputs":[{"text":"Hi. "}],"flush":true}"#,
            Initialize,
            Flush,
        );
        check(
            r#"{"inputs":[{"text":"Hi. "}],"close_socket":true}"#,
            Close,
            Close,
        );
        check(r#"{"keep_alive":true}"#, Initialize, Keepalive);
        check(r#"{"keep_alive":false}"#, Initialize, Other);
        check(r#"{"text":""}"#, Initialize, Other);
        check(r#"{"close_context":true}"#, Initialize, Other);
        is(
            Dialect::DialogueMulti,
            r#"{"close_context":true}"#,
            CloseContext,
            CloseContext,
        );
    }

    #[test]
    fn the_end_of_text_is_told_from_keepalives() {
        let ends = |dialect, payload: &str| scan(dialect, payload.as_bytes()).unwrap().ends_text();
        assert!(ends(Dialect::Single, r#"{"text":""}"#));
        assert!(ends(
            Dialect::Single,
            r#"{"text":"","voice_settings":null}"#
        ));
        assert!(!ends(Dialect::Single, r#"{"text":"","flush":true}"#));
        assert!(!ends(Dialect::Single, r#"{"text":" "}"#));
        assert!(!ends(Dialect::Single, r#"{"close_socket":true}"#));
        assert!(!ends(Dialect::Multi, r#"{"text":""}"#));
        assert!(ends(Dialect::Multi, r#"{"close_socket":true}"#));
        assert!(ends(Dialect::DialogueMulti, r#"{"close_socket":true}"#));
        assert!(!ends(Dialect::Dialogue, r#"{"text":""}"#));
    }

    #[test]
    fn debug_shows_neither_text_nor_credentials() {
        let message = scan(
            Dialect::Single,
            br#"{"text":"spoken","xi_api_key":"hush-hush"}"#,
        );
        let shown = format!("{message:?}");
        assert!(
            !shown.contains("spoken") && !shown.contains("hush"),
            "{shown}"
        );
    }
}
