//! Why a client's message is refused before anything else is asked of it.

use super::Problem;

/// A message that cannot be charged for certain, and what to do about it. The texts are fixed:
/// nothing of the message stands in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum InvalidMessage {
    /// Not UTF-8.
    NotUtf8,
    /// Not JSON (RFC 8259): a syntax error, a byte order mark, `NaN`, half a surrogate pair, a
    /// number out of range.
    NotJson,
    /// JSON, but not an object.
    NotAnObject,
    /// A key that stands twice in one object.
    KeyTwice,
    /// Objects and arrays nested too deep.
    TooDeep,
    /// A `text` that is neither a string nor null.
    Text,
    /// An `inputs` that is no array of objects.
    Inputs,
}

impl InvalidMessage {
    /// The sentence for the client.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotUtf8 => "Send messages as UTF-8 text.",
            Self::NotJson => "Send one valid JSON object in each message; this was not JSON.",
            Self::NotAnObject => "Send a JSON object, such as {\"text\":\"Hello. \"}.",
            Self::KeyTwice => "Send each key once; one stood twice in the same JSON object.",
            Self::TooDeep => "Send JSON that is nested at most 100 levels deep.",
            Self::Text => "Send text as a JSON string.",
            Self::Inputs => "Send inputs as an array of objects, each with text and voice_id.",
        }
    }
}

impl From<InvalidMessage> for &'static str {
    fn from(invalid: InvalidMessage) -> Self {
        invalid.reason()
    }
}

impl From<InvalidMessage> for Problem {
    fn from(invalid: InvalidMessage) -> Self {
        Self::invalid_input_message(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_say_what_to_do() {
        for invalid in [
            InvalidMessage::NotUtf8,
            InvalidMessage::NotJson,
            InvalidMessage::NotAnObject,
            InvalidMessage::KeyTwice,
            InvalidMessage::TooDeep,
            InvalidMessage::Text,
            InvalidMessage::Inputs,
        ] {
            assert!(invalid.reason().starts_with("Send ") && invalid.reason().ends_with('.'));
            assert!(invalid.reason().len() <= 123, "fits into a close reason");
            assert_eq!(invalid.to_string(), invalid.reason());
        }
    }
}
