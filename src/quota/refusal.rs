//! Why something was refused, and what the client is told.

use std::borrow::Cow;

use crate::protocol::Problem;
use crate::usage::{Characters, Per, Unit, utc_time};

/// Which limit refused, how much, and when it resets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many sessions at once.
    Sessions {
        /// The plan's limit.
        limit: u64,
    },
    /// A window is spent, or holds too little for the message.
    Window {
        /// What it counts.
        unit: Unit,
        /// Over which span.
        per: Per,
        /// The plan's limit, in whole units.
        limit: u64,
        /// What is used of it, rounded up.
        used: u64,
        /// What was asked for, rounded up; 0 where nothing particular was.
        asked: u64,
        /// When it resets, Unix time in seconds.
        resets_at: i64,
        /// Seconds until then.
        retry_after: u64,
    },
    /// The session has sent all that one session, or its narrowed token, may send.
    SessionCharacters {
        /// The limit.
        limit: Characters,
        /// What the session has used of it.
        used: Characters,
        /// What the message asked for.
        asked: Characters,
    },
    /// Messages come too fast.
    MessageRate {
        /// The plan's limit per second.
        limit: u32,
    },
    /// The plan does not allow the voice.
    Voice,
    /// The plan does not allow the model.
    Model,
    /// The plan does not allow the output format.
    OutputFormat,
    /// The store that would have to be asked cannot be reached.
    StoreUnavailable,
}

impl Refusal {
    /// Every name that [`limit_name`](Self::limit_name) gives.
    pub const LIMIT_NAMES: [&str; 10] = [
        "concurrent_sessions",
        "characters",
        "credits",
        "session_starts",
        "session_characters",
        "message_rate",
        "voice",
        "model",
        "output_format",
        "store",
    ];

    /// The limit's name as it stands in metric labels.
    #[must_use]
    pub fn limit_name(&self) -> &'static str {
        Self::LIMIT_NAMES[self.index()]
    }

    pub(super) fn index(&self) -> usize {
        match self {
            Self::Sessions { .. } => 0,
            Self::Window {
                unit: Unit::Characters,
                ..
            } => 1,
            Self::Window {
                unit: Unit::Credits,
                ..
            } => 2,
            Self::Window {
                unit: Unit::Sessions,
                ..
            } => 3,
            Self::SessionCharacters { .. } => 4,
            Self::MessageRate { .. } => 5,
            Self::Voice => 6,
            Self::Model => 7,
            Self::OutputFormat => 8,
            Self::StoreUnavailable => 9,
        }
    }

    /// The machine-readable name: that of the ending and of the error frame.
    #[must_use]
    pub fn error(&self) -> Cow<'static, str> {
        Problem::from(self).error
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        match *refusal {
            Refusal::Sessions { limit } => Self::too_many_concurrent_requests(limit).retry_after(1),
            Refusal::Window {
                unit,
                per,
                limit,
                used,
                asked,
                resets_at,
                retry_after,
            } => {
                let (name, per, resets) = (unit.as_str(), per.as_str(), utc_time(resets_at));
                let more = match asked {
                    0 => String::new(),
                    asked => format!(", {asked} more were asked for"),
                };
                let message = format!(
                    "{used} of {limit} {name} per {per} are used{more}; the limit resets at {resets}."
                );
                // What asks for more than the whole window is refused tomorrow too.
                let retry_after = (asked <= limit).then_some(retry_after);
                match unit {
                    Unit::Characters | Unit::Credits => Self::quota_exceeded(message, retry_after),
                    Unit::Sessions => Self {
                        message: message.into(),
                        retryable: retry_after.is_some(),
                        retry_after,
                        ..Self::rate_limit_exceeded()
                    },
                }
            }
            Refusal::SessionCharacters { limit, asked, .. } if asked > limit => {
                let message = format!(
                    "{asked} characters are more than the {limit} that one session may send; \
                     split the text over several sessions."
                );
                Self::quota_exceeded(message, None)
            }
            Refusal::SessionCharacters { limit, used, asked } => {
                let message = format!(
                    "{used} of the {limit} characters that one session may send are used, {asked} \
                     more were asked for; open another session."
                );
                Self::quota_exceeded(message, None)
            }
            Refusal::MessageRate { limit } => {
                let message =
                    format!("More than {limit} messages per second; send fewer, longer ones.");
                Self {
                    message: message.into(),
                    ..Self::rate_limit_exceeded().retry_after(1)
                }
            }
            Refusal::Voice => Self::voice_not_allowed(),
            Refusal::Model => Self::model_not_allowed(),
            Refusal::OutputFormat => Self::output_format_not_allowed(),
            Refusal::StoreUnavailable => Self::system_busy().retry_after(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_window_says_which_how_much_and_until_when() {
        let refusal = Refusal::Window {
            unit: Unit::Characters,
            per: Per::Day,
            limit: 10_000,
            used: 9_996,
            asked: 7,
            resets_at: 1_795_392_000,
            retry_after: 3600,
        };
        let problem = Problem::from(&refusal);
        assert_eq!(
            problem.message,
            "9996 of 10000 characters per day are used, 7 more were asked for; \
             the limit resets at 2026-11-23T00:00:00Z."
        );
        assert_eq!(
            (&*problem.error, problem.close_code, problem.status),
            ("quota_exceeded", 1008, 429)
        );
        assert_eq!((problem.retryable, problem.retry_after), (true, Some(3600)));
        assert_eq!(refusal.limit_name(), "characters");
    }

    #[test]
    fn a_message_that_no_session_could_send_is_told_apart() {
        let message = |used, asked| {
            let limit = 100;
            let problem = Problem::from(&Refusal::SessionCharacters { limit, used, asked });
            assert!(!problem.retryable && problem.error == "quota_exceeded");
            problem.message
        };
        assert_eq!(
            message(90, 11),
            "90 of the 100 characters that one session may send are used, 11 more were asked for; \
             open another session."
        );
        assert_eq!(
            message(90, 101),
            "101 characters are more than the 100 that one session may send; split the text over \
             several sessions."
        );
    }

    #[test]
    fn a_store_that_is_down_says_try_again() {
        let problem = Problem::from(&Refusal::StoreUnavailable);
        assert_eq!(
            (&*problem.error, problem.close_code, problem.status),
            ("system_busy", 1013, 503)
        );
        assert_eq!((problem.retryable, problem.retry_after), (true, Some(1)));
    }
}
