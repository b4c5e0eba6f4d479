//! How many connections each worker has, and with which of them the next one belongs.
//!
//! They go to as few workers as can carry them: the more one thread has to do, the more it does each
//! time it wakes, and the less each message costs. Where one worker is busy or has many, the next one
//! is begun with; where all are, they share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::RuntimeMetrics;

/// So many connections one worker has before the next one gets any. As many as a thread can carry
/// when speech flows on all of them: a worker keeps what it has, even if it was silent at first.
pub(super) const MANY: usize = 4096;

/// A worker that does something for a larger part of the time than this is busy.
const BUSY: f64 = 0.95;

/// How often that is looked at. Within a shorter time a handful of clients that come and go fill a
/// worker now and then that has time to spare; within a longer one too many would come to a worker
/// that has none.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The connections of all workers.
pub(super) struct Loads(Box<[AtomicUsize]>);

/// One connection among those of its worker: from its accept until it is closed, or until the
/// session that came of it is over.
pub(super) struct Load {
    loads: Arc<Loads>,
    worker: usize,
}

impl Loads {
    pub(super) fn new(n_workers: usize) -> Arc<Self> {
        Arc::new(Self((0..n_workers).map(|_| AtomicUsize::new(0)).collect()))
    }

    /// Counts one more connection, with the worker that is to serve it.
    pub(super) fn assign(self: &Arc<Self>, is_busy: impl FnMut(usize) -> bool) -> Load {
        self.count(self.next(is_busy))
    }

    fn next(&self, mut is_busy: impl FnMut(usize) -> bool) -> usize {
        let load = |worker: &usize| self.0[*worker].load(Ordering::Relaxed);
        let workers = 0..self.0.len();
        workers
            .clone()
            .find(|worker| load(worker) < MANY && !is_busy(*worker))
            .or_else(|| workers.min_by_key(load))
            .unwrap_or(0)
    }

    /// Counts a connection with `worker`.
    pub(super) fn count(self: &Arc<Self>, worker: usize) -> Load {
        self.0[worker].fetch_add(1, Ordering::Relaxed);
        Load {
            loads: Arc::clone(self),
            worker,
        }
    }
}

impl Load {
    /// Where it is served.
    pub(super) fn worker(&self) -> usize {
        self.worker
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.loads.0[self.worker].fetch_sub(1, Ordering::Relaxed);
    }
}

/// How busy one worker is.
pub(super) struct Gauge {
    metrics: RuntimeMetrics,
    looked: Instant,
    busy_before: Duration,
    is_busy: bool,
}

impl Gauge {
    pub(super) fn new(metrics: RuntimeMetrics) -> Self {
        Self {
            busy_before: metrics.worker_total_busy_duration(0),
            metrics,
            looked: Instant::now(),
            is_busy: false,
        }
    }

    /// Whether the worker was busy when it was last looked at, which is now if that is long ago.
    pub(super) fn is_busy(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.looked) >= LOOK_INTERVAL {
            self.look(self.metrics.worker_total_busy_duration(0), now);
        }
        self.is_busy
    }

    /// The worker has been busy for so long since it was started.
    fn look(&mut self, busy: Duration, now: Instant) {
        let elapsed = now.saturating_duration_since(self.looked);
        let share = busy
            .saturating_sub(self.busy_before)
            .div_duration_f64(elapsed);
        self.is_busy = share > BUSY;
        (self.looked, self.busy_before) = (now, busy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(loads: &Loads, worker: usize) -> usize {
        loads.0[worker].load(Ordering::Relaxed)
    }

    #[test]
    fn a_worker_is_begun_with_when_those_before_it_are_busy() {
        let loads = Loads::new(3);
        let first = loads.assign(|_| false);
        let second = loads.assign(|_| false);
        assert_eq!((first.worker(), second.worker()), (0, 0));
        let third = loads.assign(|worker| worker == 0);
        assert_eq!(third.worker(), 1);
        // All are busy: the one with the fewest, of several the first.
        let fourth = loads.assign(|_| true);
        assert_eq!(fourth.worker(), 2);
        let fifth = loads.assign(|_| true);
        assert_eq!(fifth.worker(), 1);
        // What is over counts no more.
        drop((first, second));
        assert_eq!(loads.assign(|_| true).worker(), 0);
    }

    #[test]
    fn many_connections_are_shared_by_all() {
        let loads = Loads::new(3);
        let _kept: Vec<Load> = (0..2 * MANY + 5).map(|_| loads.assign(|_| false)).collect();
        assert_eq!([0, 1, 2].map(|worker| n(&loads, worker)), [MANY, MANY, 5]);
        let _more: Vec<Load> = (0..MANY + 1).map(|_| loads.assign(|_| false)).collect();
        let all = [0, 1, 2].map(|worker| n(&loads, worker));
        assert_eq!(all, [MANY + 2, MANY + 2, MANY + 2]);
    }

    #[tokio::test]
    async fn who_does_something_most_of_the_time_is_busy() {
        let mut gauge = Gauge::new(tokio::runtime::Handle::current().metrics());
        let (start, busy) = (gauge.looked, gauge.busy_before);
        let ms = Duration::from_millis;
        gauge.look(busy + ms(98), start + ms(100));
        assert!(gauge.is_busy);
        gauge.look(busy + ms(190), start + ms(200));
        assert!(!gauge.is_busy, "92 of the last 100 ms");
        gauge.look(busy + ms(288), start + ms(300));
        assert!(gauge.is_busy);
        assert!(gauge.is_busy(start + ms(300)), "it was just looked at");
    }
}
