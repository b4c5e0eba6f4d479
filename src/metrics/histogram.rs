//! Durations by size. Every thread counts in a cache line of its own, so that sessions on different
//! threads do not pass one back and forth with each message.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::Metric;
use super::encode::{Kind, Samples};

/// Threads beyond this number share.
const SHARDS: usize = 8;

/// Buckets of one histogram at most, the infinite one included.
const MAX_BUCKETS: usize = 15;

/// Fills two cache lines, as processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    buckets: [AtomicU64; MAX_BUCKETS],
    sum_ns: AtomicU64,
}

/// Durations counted by size.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds in nanoseconds, rising.
    bounds_ns: &'static [u64],
    shards: [Shard; SHARDS],
}

impl Histogram {
    /// At most fourteen upper bounds in nanoseconds, rising; what is above the last is counted too.
    #[must_use]
    pub fn new(bounds_ns: &'static [u64]) -> Self {
        assert!(
            bounds_ns.len() < MAX_BUCKETS && bounds_ns.is_sorted(),
            "bounds are constants"
        );
        Self {
            bounds_ns,
            shards: Default::default(),
        }
    }

    /// Counts one duration: two additions to memory that other threads seldom touch.
    pub fn observe(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self
            .bounds_ns
            .iter()
            .take_while(|bound| **bound < ns)
            .count();
        let shard = &self.shards[shard_index()];
        shard.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        shard.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn bucket(&self, index: usize) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.buckets[index].load(Ordering::Relaxed))
            .sum()
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        (0..=self.bounds_ns.len())
            .map(|index| self.bucket(index))
            .sum()
    }
}

impl Metric for Histogram {
    const KIND: Kind = Kind::Histogram;

    fn sample(&self, labels: &[(&str, &str)], samples: &mut Samples<'_>) {
        let bounds = self
            .bounds_ns
            .iter()
            .map(|ns| Duration::from_nanos(*ns).as_secs_f64());
        let mut below = 0;
        let cumulative = bounds
            .chain([f64::INFINITY])
            .enumerate()
            .map(|(index, bound)| {
                below += self.bucket(index);
                (bound, below)
            });
        let sums = self
            .shards
            .iter()
            .map(|shard| shard.sum_ns.load(Ordering::Relaxed));
        let sum_ns = sums.fold(0, u64::wrapping_add);
        samples.histogram(
            labels,
            cumulative,
            Duration::from_nanos(sum_ns).as_secs_f64(),
        );
    }
}

fn shard_index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static INDEX: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    INDEX.with(|index| {
        if index.get() == usize::MAX {
            index.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        index.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::encode::Encoder;

    #[test]
    fn buckets_are_cumulative_over_all_threads_and_bounds_inclusive() {
        let histogram = Histogram::new(&[1_000, 1_000_000]);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    histogram.observe(Duration::from_nanos(1_000));
                    histogram.observe(Duration::from_nanos(1_001));
                    histogram.observe(Duration::from_secs(1));
                });
            }
        });
        assert_eq!(histogram.count(), 60);
        let mut page = Encoder::default();
        histogram.sample(&[], &mut page.family(Kind::Histogram, "h_seconds", "H."));
        let page = page.finish();
        assert!(page.contains("_bucket{le=\"0.000001\"} 20\n"), "{page}");
        assert!(page.contains("_bucket{le=\"0.001\"} 40\n"), "{page}");
        assert!(page.contains("_bucket{le=\"+Inf\"} 60\n"), "{page}");
        assert!(page.contains("_sum 20.00004002\n"), "{page}");
    }
}
