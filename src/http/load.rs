//! How many connections each worker has, and with which of them the next one belongs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much more than another, which has so many, a worker may have before it hands a connection
/// over, which costs a wake of the other thread. The kernel's spread varies by about the square
/// root of what there is; that is left alone.
fn tolerated(n_connections: usize) -> usize {
    1 + (n_connections / 2).isqrt()
}

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

    /// Counts a connection that `worker` has accepted with the worker that is to serve it.
    pub(super) fn assign(self: &Arc<Self>, worker: usize) -> Load {
        let load = |worker: usize| self.0[worker].load(Ordering::Relaxed);
        let n_workers = self.0.len();
        // From the next one on: where several have the least, not all turn to the same.
        let others = (1..n_workers).map(|ahead| (worker + ahead) % n_workers);
        let least = others.min_by_key(|other| load(*other));
        match least {
            Some(least) if load(worker) > load(least) + tolerated(load(least)) => self.count(least),
            _ => self.count(worker),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_keeps_what_it_accepts_until_another_has_two_fewer() {
        let loads = Loads::new(2);
        let mut kept: Vec<Load> = (0..6).map(|_| loads.assign(0)).collect();
        let workers: Vec<usize> = kept.iter().map(Load::worker).collect();
        assert_eq!(workers, [0, 0, 1, 0, 1, 0]);
        // What is over counts no more.
        kept.retain(|load| load.worker() == 1);
        assert_eq!(loads.assign(1).worker(), 0);
        assert_eq!(loads.assign(0).worker(), 0);
    }

    #[test]
    fn whoever_accepts_everything_shares_it_with_all() {
        let loads = Loads::new(4);
        let kept: Vec<Load> = (0..40).map(|_| loads.assign(2)).collect();
        for worker in 0..4 {
            let n = kept.iter().filter(|load| load.worker() == worker).count();
            assert!((9..=13).contains(&n), "worker {worker} has {n}");
        }
    }

    #[test]
    fn a_single_worker_has_everything() {
        let loads = Loads::new(1);
        let kept: Vec<Load> = (0..3).map(|_| loads.assign(0)).collect();
        assert!(kept.iter().all(|load| load.worker() == 0));
    }
}
