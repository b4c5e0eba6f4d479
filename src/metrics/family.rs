//! Metrics with labels. However many values a label is offered, a family keeps a bounded number of
//! series; what comes later is counted under `other`.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::RwLock;

use super::Metric;
use super::encode::{Kind, Samples};

/// The label value of everything that has no series of its own.
pub(super) const OTHER: &str = "other";

/// One metric for each combination of `N` label values. Finding one takes a lock: who counts often
/// keeps what [`Family::with`] gave.
#[derive(Debug)]
pub struct Family<M, const N: usize> {
    labels: [&'static str; N],
    max_series: usize,
    series: RwLock<Series<M, N>>,
}

/// Metrics in the order of their label values.
#[derive(Debug)]
struct Series<M, const N: usize>(Vec<([Box<str>; N], Arc<M>)>);

impl<M, const N: usize> Series<M, N> {
    /// Where these label values stand, or would stand. Takes no memory, as a map by them would.
    fn find(&self, values: &[&str; N]) -> Result<usize, usize> {
        self.0
            .binary_search_by(|(key, _)| key.iter().map(AsRef::as_ref).cmp(values.iter().copied()))
    }

    /// The metric of these label values, made where there is none.
    fn entry(&mut self, values: [&str; N]) -> &mut Arc<M>
    where
        M: Default,
    {
        let index = self.find(&values).unwrap_or_else(|index| {
            let made = (values.map(Box::from), Arc::default());
            self.0.insert(index, made);
            index
        });
        &mut self.0[index].1
    }
}

impl<M: Metric + Default, const N: usize> Family<M, N> {
    /// A family with these label names that keeps at most `max_series` and the one for the others.
    #[must_use]
    pub fn new(labels: [&'static str; N], max_series: usize) -> Self {
        Self {
            labels,
            max_series,
            series: RwLock::new(Series(Vec::new())),
        }
    }

    /// The metric of these label values, made at the first call.
    pub fn with(&self, values: [&str; N]) -> Arc<M> {
        let series = self.series.read();
        if let Ok(index) = series.find(&values) {
            return Arc::clone(&series.0[index].1);
        }
        drop(series);
        let mut series = self.series.write();
        let is_full = series.0.len() >= self.max_series && series.find(&values).is_err();
        let values = if is_full { [OTHER; N] } else { values };
        Arc::clone(series.entry(values))
    }

    /// Shows a metric that is kept elsewhere under these label values.
    pub fn put(&self, values: [&str; N], metric: Arc<M>) {
        *self.series.write().entry(values) = metric;
    }
}

impl<M: Metric, const N: usize> Metric for Family<M, N> {
    const KIND: Kind = M::KIND;

    fn sample(&self, outer: &[(&str, &str)], samples: &mut Samples<'_>) {
        for (values, metric) in &self.series.read().0 {
            let labels = self
                .labels
                .iter()
                .zip(values)
                .map(|(label, value)| (*label, &**value));
            let labels: Vec<_> = outer.iter().copied().chain(labels).collect();
            metric.sample(&labels, samples);
        }
    }
}

/// The values that a label may take: those known from the start, and the first few that come.
#[derive(Debug)]
pub(super) struct LabelValues {
    max: usize,
    seen: RwLock<BTreeSet<Box<str>>>,
}

impl LabelValues {
    pub(super) fn new(max: usize, known: impl IntoIterator<Item = String>) -> Self {
        let seen = known.into_iter().map(String::into_boxed_str).collect();
        Self {
            max,
            seen: RwLock::new(seen),
        }
    }

    /// `value` itself, or `other` when there were too many before it.
    pub(super) fn bound<'a>(&self, value: &'a str) -> &'a str {
        if self.seen.read().contains(value) {
            return value;
        }
        let mut seen = self.seen.write();
        if seen.len() < self.max {
            seen.insert(value.into());
        }
        if seen.contains(value) { value } else { OTHER }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counter;
    use crate::metrics::encode::Encoder;

    #[test]
    fn a_family_is_bounded_and_what_is_too_much_is_other() {
        let family: Family<Counter, 2> = Family::new(["a", "b"], 2);
        for n in 0..10 {
            family.with([&n.to_string(), "x"]).inc();
        }
        family.with(["0", "x"]).add(5);
        family.put(["kept", "elsewhere"], Arc::default());
        let mut page = Encoder::default();
        family.sample(&[], &mut page.family(Kind::Counter, "n_total", "N."));
        let page = page.finish();
        let samples: Vec<_> = page.lines().skip(2).collect();
        assert_eq!(
            samples,
            [
                "xi_relay_n_total{a=\"0\",b=\"x\"} 6",
                "xi_relay_n_total{a=\"1\",b=\"x\"} 1",
                "xi_relay_n_total{a=\"kept\",b=\"elsewhere\"} 0",
                "xi_relay_n_total{a=\"other\",b=\"other\"} 8",
            ]
        );
    }

    #[test]
    fn known_values_have_their_place_and_later_ones_share_what_is_left() {
        let values = LabelValues::new(3, ["a", "b"].map(String::from));
        assert_eq!(values.bound("x"), "x");
        assert_eq!(values.bound("y"), OTHER);
        assert_eq!(values.bound("b"), "b");
        assert_eq!(values.bound("x"), "x");
    }
}
