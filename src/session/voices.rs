//! Which voices a client may use: those of its plan that its token leaves.

use crate::auth::Narrowing;
use crate::protocol::ClientMessage;
use crate::quota::Limits;

/// Whether the plan and the token allow the voice that the client calls `asked`.
pub(crate) fn allows_voice(limits: &Limits, narrowing: Option<&Narrowing>, asked: &str) -> bool {
    limits.resolve_named(asked).is_ok_and(|real| {
        let real = real.unwrap_or(asked);
        narrowing.is_none_or(|narrowing| narrowing.allows_voice(asked, real))
    })
}

/// Whether they allow all voices that a message names. What cannot be read is upstream's to judge,
/// unless there is a list to hold it against.
pub(crate) fn allows_voices_of(
    message: &ClientMessage<'_>,
    limits: &Limits,
    narrowing: Option<&Narrowing>,
) -> bool {
    let has_list =
        limits.restricts_voices() || narrowing.is_some_and(|narrowing| narrowing.voices.is_some());
    !(message.has_unreadable_voices && has_list)
        && message
            .voice_ids()
            .all(|asked| allows_voice(limits, narrowing, asked))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::ids::VoiceId;
    use crate::protocol::{Endpoint, scan};

    fn limits(plan: &str) -> Limits {
        Limits::new("default", &toml::from_str(plan).unwrap()).unwrap()
    }

    fn token(voices: &[&str]) -> Narrowing {
        let voices = voices.iter().map(|voice| VoiceId::parse(voice).unwrap());
        Narrowing {
            voices: Some(voices.collect()),
            ..Narrowing::default()
        }
    }

    #[test]
    fn a_token_may_name_a_voice_or_its_alias() {
        let plan = limits(r#"voice_aliases = { assistant = "real" }"#);
        let check = |token: Option<&Narrowing>, asked: &str, expected: bool| {
            assert_eq!(allows_voice(&plan, token, asked), expected, "{asked}");
        };
        check(None, "any", true);
        for token in [token(&["assistant"]), token(&["real"])] {
            check(Some(&token), "assistant", true);
            check(Some(&token), "any", false);
        }
        check(Some(&token(&["assistant"])), "real", false);
        check(Some(&token(&["real"])), "real", true);
        assert!(!allows_voice(&limits(r#"voices = ["v"]"#), None, "any"));
    }

    #[test]
    fn voices_that_cannot_be_read_are_refused_where_there_is_a_list() {
        let dialect = Endpoint::DialogueStreamInput.dialect().unwrap();
        let check = |plan: &str, token: Option<&Narrowing>, expected: bool| {
            let message = scan(dialect, br#"{"voices":[{"v":1}]}"#).unwrap();
            let allowed = allows_voices_of(&message, &limits(plan), token);
            assert_eq!(allowed, expected, "{plan} {token:?}");
        };
        check("", None, true);
        check("", Some(&Narrowing::default()), true);
        check("", Some(&token(&["v"])), false);
        check(r#"voices = ["v"]"#, None, false);
    }
}
