//! The measurements of one run, by scenario, target and name.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    scenario: String,
    target: String,
    metrics: BTreeMap<String, Option<f64>>,
}

/// All that was measured.
pub(crate) struct Figures(BTreeMap<(String, String, String), Spread>);

/// The values of one figure over all rounds, in rising order; never empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread(Vec<f64>);

impl Figures {
    pub(crate) fn parse(lines: &str) -> Result<Self> {
        let mut figures: BTreeMap<_, Spread> = BTreeMap::new();
        for line in lines.lines().filter(|line| !line.is_empty()) {
            let line: Line =
                serde_json::from_str(line).with_context(|| format!("not a result: {line}"))?;
            for (name, value) in line.metrics {
                let Some(value) = value else { continue };
                let spread = figures
                    .entry((line.scenario.clone(), line.target.clone(), name))
                    .or_default();
                spread.0.push(value);
                spread.0.sort_by(f64::total_cmp);
            }
        }
        Ok(Self(figures))
    }

    pub(crate) fn get(&self, scenario: &str, target: &str, name: &str) -> Option<&Spread> {
        self.0
            .get(&(scenario.to_owned(), target.to_owned(), name.to_owned()))
    }

    pub(crate) fn median(&self, scenario: &str, target: &str, name: &str) -> Option<f64> {
        self.get(scenario, target, name).map(Spread::median)
    }
}

impl Spread {
    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 {
            self.0[middle]
        } else {
            f64::midpoint(self.0[middle - 1], self.0[middle])
        }
    }

    /// The least and the most of several values; none when there is but one.
    pub(crate) fn range(&self) -> Option<(f64, f64)> {
        match self.0.as_slice() {
            [least, .., most] => Some((*least, *most)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn rounds_are_gathered_into_median_and_range() {
        let lines = (1..=4).map(|n| {
            format!(r#"{{"scenario":"s","target":"t","round":{n},"metrics":{{"a":{n},"b":null}}}}"#)
        });
        let figures = Figures::parse(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        assert_eq!(figures.median("s", "t", "a"), Some(2.5));
        assert_eq!(
            figures.get("s", "t", "a").unwrap().range(),
            Some((1.0, 4.0))
        );
        assert!(figures.get("s", "t", "b").is_none());
    }
}
