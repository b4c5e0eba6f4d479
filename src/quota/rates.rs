//! What a character costs, by model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The `[credits_per_character]` table: rates by model id over the defaults; `other` is the rate of
/// models that are not named.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct RatesConfig(pub BTreeMap<String, f64>);

/// ElevenLabs' published rates in thousandths of a credit; the table's entries come over them.
const DEFAULTS: [(&str, u64); 8] = [
    ("eleven_flash_v2_5", 500),
    ("eleven_flash_v2", 500),
    ("eleven_turbo_v2_5", 500),
    ("eleven_turbo_v2", 500),
    ("eleven_multilingual_v2", 1000),
    ("eleven_multilingual_v1", 1000),
    ("eleven_monolingual_v1", 1000),
    ("eleven_v3", 1000),
];

/// The entry that stands for all models that are not named.
const OTHER: &str = "other";

/// Credits per character by model, in thousandths, so that sums are exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    models: BTreeMap<String, u64>,
    other: u64,
}

/// A rate that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("credits_per_character.{model} must be between 0 and 1000 with at most three decimals")]
pub struct InvalidRate {
    model: String,
}

impl Rates {
    /// Checks the table and lays it over the defaults.
    ///
    /// # Errors
    /// The first rate that cannot be, by its model.
    pub fn new(config: &RatesConfig) -> Result<Self, InvalidRate> {
        let mut models: BTreeMap<String, u64> = DEFAULTS
            .iter()
            .map(|(model, rate)| ((*model).to_owned(), *rate))
            .collect();
        for (model, rate) in &config.0 {
            let milli = milli(*rate).ok_or_else(|| InvalidRate {
                model: model.clone(),
            })?;
            models.insert(model.clone(), milli);
        }
        let other = models.remove(OTHER).unwrap_or(1000);
        Ok(Self { models, other })
    }

    /// Thousandths of a credit that one character costs with this model.
    #[must_use]
    pub fn milli_rate(&self, model: &str) -> u64 {
        self.models.get(model).copied().unwrap_or(self.other)
    }
}

impl Default for Rates {
    fn default() -> Self {
        let models = DEFAULTS
            .iter()
            .map(|(model, rate)| ((*model).to_owned(), *rate))
            .collect();
        Self {
            models,
            other: 1000,
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked and the value is whole"
)]
fn milli(rate: f64) -> Option<u64> {
    let milli = (rate * 1000.0).round();
    ((0.0..=1_000_000.0).contains(&milli) && (milli / 1000.0 - rate).abs() < 1e-9)
        .then_some(milli as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn the_table_comes_over_the_defaults() {
        let table = "eleven_v3 = 0.25\nmine = 3\nother = 2";
        let rates = Rates::new(&toml::from_str(table).unwrap()).unwrap();
        for (model, rate) in [
            ("eleven_v3", 250),
            ("mine", 3000),
            ("eleven_flash_v2_5", 500),
            ("new", 2000),
        ] {
            assert_eq!(rates.milli_rate(model), rate, "{model}");
        }
        assert_eq!(Rates::default().milli_rate("eleven_v4"), 1000);
        for wrong in ["m = -1", "m = 0.00001", "m = nan", "m = 1e9"] {
            let error = Rates::new(&toml::from_str(wrong).unwrap()).unwrap_err();
            assert!(
                error.to_string().starts_with("credits_per_character.m "),
                "{wrong}"
            );
        }
    }
}
