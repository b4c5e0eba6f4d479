//! What the books have to tell about themselves, for a metrics page to read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as the methods of `Store`")]
pub enum Operation {
    Admit,
    Reserve,
    GiveBack,
    Settle,
    Read,
    Heartbeat,
    Sweep,
    Prune,
    Token,
}

impl Operation {
    /// Every operation, in the order of its discriminant.
    pub const ALL: [Self; 9] = [
        Self::Admit,
        Self::Reserve,
        Self::GiveBack,
        Self::Settle,
        Self::Read,
        Self::Heartbeat,
        Self::Sweep,
        Self::Prune,
        Self::Token,
    ];

    /// The name as it stands in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Reserve => "reserve",
            Self::GiveBack => "give_back",
            Self::Settle => "settle",
            Self::Read => "read",
            Self::Heartbeat => "heartbeat",
            Self::Sweep => "sweep",
            Self::Prune => "prune",
            Self::Token => "token",
        }
    }
}

/// Counters and one histogram, all since the process started.
#[derive(Debug, Default)]
pub struct Counters {
    /// How long the store took to answer, over all operations that it answered.
    pub latency: Histogram,
    /// Operations that failed, by [`Operation`].
    pub failures: [AtomicU64; Operation::ALL.len()],
    /// Operations not even tried because the store was known to be down.
    pub rejected: AtomicU64,
    /// Whether the store answered when it was last asked.
    pub up: AtomicBool,
    /// How often the store came back without the counters it had.
    pub emptied: AtomicU64,
    /// Sessions of dead processes that this process entered as lost.
    pub lost_sessions: AtomicU64,
    /// Ledger rows that wait for the store to come back.
    pub rows_waiting: AtomicU64,
    /// Ledger rows given up because too many were waiting.
    pub rows_dropped: AtomicU64,
}

impl Counters {
    /// The failures of each operation by its name.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self
            .failures
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Operation::ALL
            .iter()
            .map(|operation| operation.as_str())
            .zip(counts)
    }

    pub(crate) fn failed(&self, operation: Operation) {
        self.failures[operation as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// A histogram with fixed bounds, as Prometheus counts: each bucket holds what is not above it.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; Histogram::BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Upper bounds of the buckets in seconds; one more bucket has none.
    pub const BOUNDS: [f64; 12] = [
        0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    ];

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = Self::BOUNDS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(Self::BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Upper bound and cumulative count of every bucket; the last bound is infinite.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = Self::BOUNDS.into_iter().chain([f64::INFINITY]);
        bounds
            .zip(self.buckets.iter())
            .scan(0, |total, (bound, count)| {
                *total += count.load(Ordering::Relaxed);
                Some((bound, *total))
            })
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// Their sum in seconds.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_bounds_inclusive() {
        let histogram = Histogram::default();
        for micros in [50, 51, 1000, 300_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let counts: Vec<_> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
        assert_eq!(histogram.count(), 4);
        assert!((histogram.sum_seconds() - 0.301_101).abs() < 1e-9);
    }

    #[test]
    fn operations_stand_at_their_index() {
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index);
        }
    }
}
