//! What is wrong with the settings, in one line: where, which key, and the cure.

use std::fmt;

use super::tree::Origin;

/// A mistake in the settings. Its text is one line and never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    origin: Option<Origin>,
    message: String,
}

impl Error {
    pub(super) fn new(origin: Option<Origin>, message: impl Into<String>) -> Self {
        Self {
            origin,
            message: message.into(),
        }
    }

    /// A mistake that lies in several settings together.
    pub(super) fn overall(message: impl Into<String>) -> Self {
        Self::new(None, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        // What a library said may have several lines.
        for (index, line) in self.message.lines().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{}", line.trim())?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
