//! What the sandbox can be told.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Deserializer};

/// The `[sandbox]` table. The defaults are lifelike; [`Config::immediate`] suits tests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// From the text that starts a segment to its first audio. ElevenLabs' fast models take 75 to
    /// 250 ms.
    #[serde(with = "humantime_serde")]
    pub first_audio_delay: Duration,
    /// How many seconds of audio are sent in one second; 0 sends as fast as the socket takes it.
    #[serde(deserialize_with = "pace")]
    pub pace: f64,
    /// From the last frame of a conversation to the close frame; ElevenLabs takes 740 to 800 ms.
    #[serde(with = "humantime_serde")]
    pub close_delay: Duration,
    /// The keys that are good. Empty: any key that is not empty and does not begin with `invalid`.
    #[serde(deserialize_with = "secrets")]
    pub api_keys: Vec<SecretString>,
    /// Credits the account may spend before it meets the quota errors; absent, it never runs
    /// out. At most 1,000,000,000,000.
    pub character_limit: Option<u64>,
    /// Origins of web pages that may connect, exact, besides those from localhost names.
    pub allowed_origins: Vec<String>,
    /// Host names, without port, that the sandbox answers to besides localhost names and IP
    /// addresses.
    pub allowed_hosts: Vec<String>,
    /// Where the times of a segment count from while `sync_alignment=true`.
    pub sync_alignment: AlignmentOrigin,
    /// How long a dialogue context or socket may be silent; ElevenLabs fixes it at 20 s. The
    /// text-to-speech sockets take theirs from the query.
    #[serde(with = "humantime_serde")]
    pub dialogue_inactivity: Duration,
    /// A directory of recorded sessions: sockets answer as upstream did in them, whatever the key.
    pub replay: Option<PathBuf>,
    /// How fast recorded sessions are answered.
    pub replay_pace: ReplayPace,
}

/// How fast recorded sessions are answered.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ReplayPace {
    /// As long after a client's message as it was then.
    #[default]
    Recorded,
    /// As soon as the client has said what came before.
    Fast,
}

/// What `sync_alignment` counts from. ElevenLabs does not say; its clients disagree.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum AlignmentOrigin {
    /// The start of the segment that is being spoken.
    #[default]
    Segment,
    /// The first audio of the socket or context.
    Context,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            first_audio_delay: Duration::from_millis(120),
            pace: 8.0,
            close_delay: Duration::from_millis(750),
            api_keys: Vec::new(),
            character_limit: None,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            sync_alignment: AlignmentOrigin::Segment,
            dialogue_inactivity: Duration::from_secs(20),
            replay: None,
            replay_pace: ReplayPace::Recorded,
        }
    }
}

impl Config {
    /// No waiting anywhere: audio and closes leave as fast as the socket takes them.
    #[must_use]
    pub fn immediate() -> Self {
        Self {
            first_audio_delay: Duration::ZERO,
            pace: 0.0,
            close_delay: Duration::ZERO,
            replay_pace: ReplayPace::Fast,
            ..Self::default()
        }
    }
}

fn pace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let pace = f64::deserialize(deserializer)?;
    if pace.is_finite() && (0.0..=1000.0).contains(&pace) {
        Ok(pace)
    } else {
        Err(serde::de::Error::custom("pace must be 0 to 1000"))
    }
}

fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SecretString>, D::Error> {
    let keys = Vec::<String>::deserialize(deserializer)?;
    Ok(keys.into_iter().map(SecretString::from).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn reads_durations_and_refuses_what_it_does_not_know() {
        let config: Config =
            toml::from_str("first_audio_delay = \"5ms\"\npace = 0\nsync_alignment = \"context\"")
                .unwrap();
        assert_eq!(config.first_audio_delay, Duration::from_millis(5));
        assert_eq!(config.sync_alignment, AlignmentOrigin::Context);
        assert!(toml::from_str::<Config>("pase = 1").is_err());
        assert!(toml::from_str::<Config>("pace = -1.0").is_err());
    }
}
