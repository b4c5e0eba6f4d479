//! The four ways in which text is sent.

/// The language of a socket's messages, or of an HTTP body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dialect {
    /// `text-to-speech/{voice_id}/stream-input`: one stream, `{"text":""}` ends it.
    Single,
    /// `text-to-speech/{voice_id}/multi-stream-input`: contexts, `{"text":""}` keeps them alive.
    Multi,
    /// `text-to-dialogue/stream-input`: voices and text in `inputs`.
    Dialogue,
    /// `text-to-dialogue/multi-stream-input`: the same with contexts.
    DialogueMulti,
}

impl Dialect {
    /// Whether the text stands in `inputs`, each with its voice.
    #[must_use]
    pub fn is_dialogue(self) -> bool {
        matches!(self, Self::Dialogue | Self::DialogueMulti)
    }

    /// Whether messages name a context.
    #[must_use]
    pub fn has_contexts(self) -> bool {
        matches!(self, Self::Multi | Self::DialogueMulti)
    }
}
