//! The `[plans.NAME]` tables as they are written.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::usage::{Characters, Per, Unit};

/// One `[plans.NAME]` table.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanConfig {
    /// Sessions of one client at once, over all processes that share a store; 1 to 1,000,000.
    pub max_concurrent_sessions: u64,
    /// Messages of one session per second, of any kind; 1 to 100,000. A burst of one second's worth
    /// passes, at rates of 20 and more of several, at most five.
    pub max_messages_per_second: u32,
    /// The longest silence a client may ask for; 1 s to 1 h.
    #[serde(with = "humantime_serde")]
    pub max_inactivity_timeout: Duration,
    /// The longest a session may last; 1 s to 30 days.
    #[serde(with = "humantime_serde")]
    pub max_session_duration: Duration,
    /// The most characters of one session; unlimited when not given.
    pub max_session_characters: Option<Characters>,
    /// The longest client message in bytes; 64 to 16 MiB.
    pub max_message_bytes: u64,
    /// What may be spent in UTC calendar windows; each unit and span at most once.
    pub windows: Vec<WindowConfig>,
    /// Allowed voices; all when empty. Voices that an alias stands for are allowed in any case.
    pub voices: Vec<String>,
    /// Names that may stand in place of a voice, and the voice each stands for.
    pub voice_aliases: BTreeMap<String, String>,
    /// Allowed models; all when empty.
    pub models: Vec<String>,
    /// Allowed output formats; all when empty.
    pub output_formats: Vec<String>,
    /// Origins from which browsers may use the plan, exact; no rule of the plan's own when empty.
    pub origins: Vec<String>,
    /// Query parameters that are sent upstream whatever the client asked for.
    pub forced_parameters: BTreeMap<String, ParameterValue>,
    /// Whether sessions are recorded; where to is no matter of the plan.
    pub record: bool,
}

impl Default for PlanConfig {
    fn default() -> Self {
        Self {
            max_concurrent_sessions: 10,
            max_messages_per_second: 50,
            max_inactivity_timeout: Duration::from_secs(180),
            max_session_duration: Duration::from_secs(3600),
            max_session_characters: None,
            max_message_bytes: 65_536,
            windows: Vec::new(),
            voices: Vec::new(),
            voice_aliases: BTreeMap::new(),
            models: Vec::new(),
            output_formats: Vec::new(),
            origins: Vec::new(),
            forced_parameters: BTreeMap::new(),
            record: false,
        }
    }
}

/// One window of a plan: `{ unit = "characters", limit = 100000, per = "day" }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    /// What is counted.
    pub unit: Unit,
    /// The most of it; 1 to 1,000,000,000,000.
    pub limit: u64,
    /// In which span.
    pub per: Per,
}

/// The value of a forced parameter: text, a number or a truth value.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ParameterValue {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

impl fmt::Display for ParameterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
        }
    }
}
