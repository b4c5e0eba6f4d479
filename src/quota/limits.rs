//! A plan whose every value has been checked: what a client may do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Refusal;
use super::plan::{PlanConfig, WindowConfig};
use crate::ids::VoiceId;
use crate::usage::{Characters, Charge, Unit, WindowKey};

/// The largest limit of a window, so that sums of thousandths stay exact in every store.
const LARGEST_WINDOW: u64 = 1_000_000_000_000;

/// Query parameters that a plan may not force, since they would carry a credential.
const CREDENTIALS: [&str; 4] = [
    "xi-api-key",
    "xi_api_key",
    "authorization",
    "single_use_token",
];

/// A validated plan. Shared by all sessions under it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The plan's name.
    pub plan: Arc<str>,
    /// Sessions of one client at once.
    pub max_concurrent_sessions: u64,
    /// Messages of one session per second.
    pub max_messages_per_second: u32,
    /// The longest silence a client may ask for.
    pub max_inactivity_timeout: Duration,
    /// The longest a session may last.
    pub max_session_duration: Duration,
    /// The most characters of one session.
    pub max_session_characters: Option<Characters>,
    /// The longest client message in bytes.
    pub max_message_bytes: usize,
    /// Query parameters that are sent upstream whatever the client asked for.
    pub forced_parameters: Vec<(String, String)>,
    /// Whether sessions are recorded.
    pub record: bool,
    windows: Vec<WindowConfig>,
    voices: BTreeSet<VoiceId>,
    aliases: BTreeMap<VoiceId, VoiceId>,
    models: BTreeSet<String>,
    formats: BTreeSet<String>,
    origins: BTreeSet<String>,
}

/// A value of a plan that cannot be, with the key that holds it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plans.{plan}.{key} {rule}")]
pub struct InvalidPlan {
    plan: String,
    key: String,
    rule: String,
}

impl Limits {
    /// Checks every value of the plan `name`.
    ///
    /// # Errors
    /// The first value that cannot be, by its key.
    pub fn new(name: &str, plan: &PlanConfig) -> Result<Self, InvalidPlan> {
        let check = Check { plan: name };
        check.range(
            "max_concurrent_sessions",
            plan.max_concurrent_sessions,
            1,
            1_000_000,
        )?;
        check.range(
            "max_messages_per_second",
            plan.max_messages_per_second.into(),
            1,
            100_000,
        )?;
        check.duration("max_inactivity_timeout", plan.max_inactivity_timeout, 3600)?;
        check.duration(
            "max_session_duration",
            plan.max_session_duration,
            30 * 86_400,
        )?;
        if let Some(characters) = plan.max_session_characters {
            check.range("max_session_characters", characters, 1, LARGEST_WINDOW)?;
        }
        check.range("max_message_bytes", plan.max_message_bytes, 64, 16 << 20)?;
        check.windows(&plan.windows)?;
        let forced = plan.forced_parameters.iter();
        Ok(Self {
            plan: name.into(),
            max_concurrent_sessions: plan.max_concurrent_sessions,
            max_messages_per_second: plan.max_messages_per_second,
            max_inactivity_timeout: plan.max_inactivity_timeout,
            max_session_duration: plan.max_session_duration,
            max_session_characters: plan.max_session_characters,
            max_message_bytes: usize::try_from(plan.max_message_bytes).unwrap_or(16 << 20),
            forced_parameters: forced
                .map(|(name, value)| check.parameter(name, &value.to_string()))
                .collect::<Result<_, _>>()?,
            record: plan.record,
            windows: plan.windows.clone(),
            voices: check.each("voices", &plan.voices, |voice| VoiceId::parse(voice).ok())?,
            aliases: check.aliases(&plan.voice_aliases)?,
            models: check.each("models", &plan.models, word)?,
            formats: check.each("output_formats", &plan.output_formats, |format| {
                word(format)
            })?,
            origins: check.each("origins", &plan.origins, origin)?,
        })
    }

    /// The voice that `asked` stands for.
    ///
    /// # Errors
    /// [`Refusal::Voice`] when the plan does not allow it.
    pub fn resolve_voice(&self, asked: &VoiceId) -> Result<VoiceId, Refusal> {
        let voice = self.aliases.get(asked).unwrap_or(asked);
        self.allows_voice(voice)
            .then(|| voice.clone())
            .ok_or(Refusal::Voice)
    }

    /// Whether a real voice may be used.
    #[must_use]
    pub fn allows_voice(&self, voice: &VoiceId) -> bool {
        self.voices.is_empty()
            || self.voices.contains(voice)
            || self.aliases.values().any(|target| target == voice)
    }

    /// Whether `named` stands as it is in the list of voices that a client sees. A voice that the plan
    /// has only as what an alias stands for is listed by that name.
    #[must_use]
    pub fn lists_voice(&self, named: &str) -> bool {
        !self.aliases.contains_key(named)
            && (!self.restricts_voices() || self.voices.contains(named))
    }

    /// The voice that `named` in a message stands for: another one if it is an alias.
    ///
    /// # Errors
    /// [`Refusal::Voice`] when the plan does not allow it.
    pub fn resolve_named(&self, named: &str) -> Result<Option<&str>, Refusal> {
        if let Some(voice) = self.aliases.get(named) {
            return Ok(Some(voice.as_str()));
        }
        let allowed = !self.restricts_voices()
            || self.voices.contains(named)
            || self.aliases.values().any(|voice| voice.as_str() == named);
        if allowed {
            Ok(None)
        } else {
            Err(Refusal::Voice)
        }
    }

    /// Whether some voices may not be used.
    #[must_use]
    pub fn restricts_voices(&self) -> bool {
        !self.voices.is_empty()
    }

    /// Whether some models may not be used.
    #[must_use]
    pub fn restricts_models(&self) -> bool {
        !self.models.is_empty()
    }

    /// Whether a model may be used.
    #[must_use]
    pub fn allows_model(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.contains(model)
    }

    /// Whether an output format may be used.
    #[must_use]
    pub fn allows_format(&self, format: &str) -> bool {
        self.formats.is_empty() || self.formats.contains(format)
    }

    /// Whether a page from this origin may use the plan.
    #[must_use]
    pub fn allows_origin(&self, origin: &str) -> bool {
        self.origins.is_empty() || self.origins.contains(origin)
    }

    /// Names that stand for voices, each with its voice.
    pub fn voice_aliases(&self) -> impl Iterator<Item = (&VoiceId, &VoiceId)> {
        self.aliases.iter()
    }

    /// The plan's windows, as written.
    #[must_use]
    pub fn windows(&self) -> &[WindowConfig] {
        &self.windows
    }

    /// What a character is charged to at this moment, at this rate.
    pub(super) fn spending(&self, now_ms: i64, milli_rate: u64) -> Vec<Charge> {
        let charge = |window: &WindowConfig| {
            let key = WindowKey::at(window.unit, window.per, now_ms);
            match window.unit {
                Unit::Characters => Some(Charge {
                    key,
                    limit: window.limit,
                    each: 1,
                }),
                Unit::Credits => Some(Charge {
                    key,
                    limit: window.limit * 1000,
                    each: milli_rate,
                }),
                Unit::Sessions => None,
            }
        };
        self.windows.iter().filter_map(charge).collect()
    }

    /// Whether a session's start is charged to anything.
    pub(super) fn counts_starts(&self) -> bool {
        self.windows
            .iter()
            .any(|window| window.unit == Unit::Sessions)
    }

    /// What a session's start is charged to at this moment.
    pub(super) fn starts(&self, now_ms: i64) -> Vec<Charge> {
        let starts = self
            .windows
            .iter()
            .filter(|window| window.unit == Unit::Sessions);
        let key = |window: &WindowConfig| WindowKey::at(window.unit, window.per, now_ms);
        starts
            .map(|window| Charge {
                key: key(window),
                limit: window.limit,
                each: 1,
            })
            .collect()
    }
}

fn word(text: &str) -> Option<String> {
    let ok = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    ok.then(|| text.to_owned())
}

/// An origin as browsers send it (RFC 6454 section 6.2): scheme, host, port if not the default.
fn origin(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    (url.origin().ascii_serialization() == text).then(|| text.to_owned())
}

struct Check<'a> {
    plan: &'a str,
}

impl Check<'_> {
    fn wrong<T>(&self, key: impl Into<String>, rule: impl Into<String>) -> Result<T, InvalidPlan> {
        Err(InvalidPlan {
            plan: self.plan.to_owned(),
            key: key.into(),
            rule: rule.into(),
        })
    }

    fn range(&self, key: &str, value: u64, least: u64, most: u64) -> Result<(), InvalidPlan> {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        self.wrong(key, format!("must be between {least} and {most}"))
    }

    fn duration(&self, key: &str, value: Duration, most_s: u64) -> Result<(), InvalidPlan> {
        if (Duration::from_secs(1)..=Duration::from_secs(most_s)).contains(&value) {
            return Ok(());
        }
        self.wrong(key, format!("must be between 1s and {most_s}s"))
    }

    fn windows(&self, windows: &[WindowConfig]) -> Result<(), InvalidPlan> {
        let mut seen = BTreeSet::new();
        for (index, window) in windows.iter().enumerate() {
            self.range(
                &format!("windows[{index}].limit"),
                window.limit,
                1,
                LARGEST_WINDOW,
            )?;
            if !seen.insert((window.unit, window.per)) {
                let (unit, per) = (window.unit.as_str(), window.per.as_str());
                let rule = format!("is a second window of {unit} per {per}; keep one");
                return self.wrong(format!("windows[{index}]"), rule);
            }
        }
        Ok(())
    }

    fn each<T: Ord>(
        &self,
        key: &str,
        values: &[String],
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<BTreeSet<T>, InvalidPlan> {
        let parsed = values
            .iter()
            .enumerate()
            .map(|(index, value)| match parse(value) {
                Some(parsed) => Ok(parsed),
                None => self.wrong(
                    format!("{key}[{index}]"),
                    match key {
                        "voices" => "must be a voice id: 1 to 64 of A-Z a-z 0-9 _ -",
                        "origins" => {
                            "must be an origin such as https://app.example.com, without a path"
                        }
                        _ => "must be 1 to 128 printable ASCII characters",
                    },
                ),
            });
        parsed.collect()
    }

    fn aliases(
        &self,
        aliases: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<VoiceId, VoiceId>, InvalidPlan> {
        let parsed = aliases.iter().map(|(name, voice)| {
            match (VoiceId::parse(name), VoiceId::parse(voice)) {
                (Ok(name), Ok(voice)) => Ok((name, voice)),
                _ => {
                    let rule = "must name a voice, both sides 1 to 64 of A-Z a-z 0-9 _ -";
                    self.wrong(format!("voice_aliases.{name}"), rule)
                }
            }
        });
        parsed.collect()
    }

    fn parameter(&self, name: &str, value: &str) -> Result<(String, String), InvalidPlan> {
        let key = || format!("forced_parameters.{name}");
        if CREDENTIALS.contains(&name.to_ascii_lowercase().as_str()) {
            return self.wrong(
                key(),
                "would carry a credential; the upstream key is set in [upstream]",
            );
        }
        if word(name).is_none() || value.len() > 1024 || value.chars().any(char::is_control) {
            return self.wrong(
                key(),
                "must be a short parameter without control characters",
            );
        }
        Ok((name.to_owned(), value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::usage::Per;

    fn plan(text: &str) -> Result<Limits, InvalidPlan> {
        Limits::new("p", &toml::from_str(text).unwrap())
    }

    fn voice(text: &str) -> VoiceId {
        VoiceId::parse(text).unwrap()
    }

    #[test]
    fn the_default_plan_is_valid_and_restricts_no_voice() {
        let limits = plan("").unwrap();
        assert!(limits.allows_voice(&voice("v")) && limits.allows_model("m"));
        assert!(limits.allows_format("f") && limits.allows_origin("https://a.example"));
        assert!(limits.spending(0, 1000).is_empty());
    }

    #[test]
    fn wrong_values_are_named_by_their_key() {
        let check = |text: &str, message: &str| {
            assert_eq!(plan(text).unwrap_err().to_string(), message);
        };
        check(
            "max_concurrent_sessions = 0",
            "plans.p.max_concurrent_sessions must be between 1 and 1000000",
        );
        check(
            "max_inactivity_timeout = \"10ms\"",
            "plans.p.max_inactivity_timeout must be between 1s and 3600s",
        );
        check(
            "windows = [{ unit = \"credits\", limit = 0, per = \"day\" }]",
            "plans.p.windows[0].limit must be between 1 and 1000000000000",
        );
        let twice = "{ unit = \"sessions\", limit = 1, per = \"day\" }";
        check(
            &format!("windows = [{twice}, {twice}]"),
            "plans.p.windows[1] is a second window of sessions per day; keep one",
        );
        check(
            "voices = [\"a/b\"]",
            "plans.p.voices[0] must be a voice id: 1 to 64 of A-Z a-z 0-9 _ -",
        );
        check(
            "origins = [\"https://a.example/\"]",
            "plans.p.origins[0] must be an origin such as https://app.example.com, without a path",
        );
        check(
            "forced_parameters = { Authorization = \"x\" }",
            "plans.p.forced_parameters.Authorization would carry a credential; \
             the upstream key is set in [upstream]",
        );
        for unknown in [
            "window = []",
            "windows = [{ unit = \"bytes\", limit = 1, per = \"day\" }]",
        ] {
            assert!(toml::from_str::<PlanConfig>(unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn aliases_stand_for_voices_and_allow_them() {
        let limits = plan("voices = [\"a\"]\nvoice_aliases = { assistant = \"b\" }").unwrap();
        assert_eq!(limits.resolve_voice(&voice("assistant")), Ok(voice("b")));
        assert_eq!(limits.resolve_voice(&voice("a")), Ok(voice("a")));
        assert_eq!(limits.resolve_voice(&voice("b")), Ok(voice("b")));
        assert_eq!(limits.resolve_voice(&voice("c")), Err(Refusal::Voice));
    }

    #[test]
    fn forced_parameters_are_text() {
        let limits = plan("forced_parameters = { enable_logging = false, seed = 7 }").unwrap();
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            limits.forced_parameters,
            [text("enable_logging", "false"), text("seed", "7")]
        );
    }

    #[test]
    fn credits_are_counted_in_thousandths() {
        let window = "windows = [{ unit = \"credits\", limit = 10, per = \"hour\" }]";
        let charges = plan(window).unwrap().spending(0, 500);
        let key = WindowKey {
            unit: Unit::Credits,
            per: Per::Hour,
            start: 0,
        };
        assert_eq!(
            charges,
            [Charge {
                key,
                limit: 10_000,
                each: 500
            }]
        );
    }
}
