//! Connections that have done TCP and TLS but not the upgrade: taking one saves two round trips to
//! the first audio. Path, query and key belong to a session, so nothing is sent on them before.
//!
//! A connection wakes the thread that dialed it. So each worker keeps its share of them, and takes
//! one over from another worker only when it has none.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Stream;
use super::dial::Dialer;
use crate::timer;

/// The `[upstream.warm]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// Connections kept ready even when nobody connects, at most 10,000.
    pub min: usize,
    /// The most connections kept ready, at most 10,000; 0 turns warm connections off.
    pub max: usize,
    /// A connection that has waited for so long is replaced; keep it below upstream's idle limit.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Whether connections to the built-in sandbox are kept warm too.
    pub sandbox: bool,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            min: 1,
            max: 8,
            max_age: Duration::from_secs(45),
            sandbox: false,
        }
    }
}

/// How the pool has fared since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Connections ready now.
    pub ready: u64,
    /// Sessions that found one ready.
    pub hits: u64,
    /// Sessions that had to dial.
    pub misses: u64,
    /// Connections that upstream had closed, or that died on use.
    pub stale: u64,
}

/// How fast the memory of past starts fades.
const RATE_HALF_LIFE: Duration = Duration::from_secs(10);
/// How long a connection that was taken waits for a client to speak before it is replaced all the
/// same, where others are ready. No shorter than the pulse of a worker to which clients come, so that
/// setting it does not wake that worker.
const PATIENCE: Duration = Duration::from_millis(100);
/// The same where none is left.
const SHORT_PATIENCE: Duration = Duration::from_millis(5);
/// A dial that takes less time is cheaper than to wake the worker whose connection was taken.
const WORTH_TAKING_OVER: Duration = Duration::from_millis(10);
/// How often ready connections are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after a failed dial, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) struct Pool {
    dialer: Arc<Dialer>,
    config: PoolConfig,
    dial_timeout: Duration,
    demand: Mutex<Demand>,
    /// One for each worker.
    shares: Box<[Arc<Share>]>,
    hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
}

/// What tells how many connections the workers keep.
struct Demand {
    /// Starts on each worker.
    rates: Box<[Rate]>,
    /// How long the last dial took.
    dial_time: Duration,
}

/// What one worker keeps.
#[derive(Default)]
pub(crate) struct Share {
    ready: Mutex<VecDeque<Ready>>,
    /// Rung when a connection was taken, or looked for.
    taken: Notify,
    /// Rung when there is time to replace it.
    vacated: Notify,
}

/// The place of a connection that was taken, or was not there to be taken. Another one is dialed when
/// it is dropped, or a little after the connection was taken if it is not: a dial costs the worker what
/// several messages do, so whoever holds it drops it when there is nothing to do but to wait for
/// upstream.
#[must_use = "dropping it has another connection dialed"]
pub struct Vacancy(Arc<Share>);

#[cfg(test)]
impl Vacancy {
    /// One of which the share tells when it has been dropped.
    pub(crate) fn watched() -> (Self, Arc<Share>) {
        let share = Arc::<Share>::default();
        (Self(Arc::clone(&share)), share)
    }
}

impl Drop for Vacancy {
    fn drop(&mut self) {
        self.0.vacated.notify_one();
    }
}

struct Ready {
    stream: Stream,
    since: Instant,
}

impl Pool {
    pub(super) fn new(
        dialer: Arc<Dialer>,
        config: PoolConfig,
        dial_timeout: Duration,
        n_workers: NonZeroUsize,
    ) -> Self {
        Self {
            dialer,
            config,
            dial_timeout,
            demand: Mutex::new(Demand {
                rates: (0..n_workers.get())
                    .map(|_| Rate::new(Instant::now()))
                    .collect(),
                dial_time: Duration::from_millis(100),
            }),
            shares: (0..n_workers.get()).map(|_| Arc::default()).collect(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            stale: AtomicU64::new(0),
        }
    }

    /// The youngest connection of `worker`, which calls this, that upstream has not closed; where it
    /// has none and upstream is far, one of another worker. With it comes its place, unless the pool
    /// is off.
    pub(super) fn take(&self, worker: usize) -> (Option<Stream>, Option<Vacancy>) {
        if self.config.max == 0 {
            return (None, None);
        }
        let is_far = {
            let mut demand = self.demand.lock();
            demand.rates[worker].count(Instant::now());
            demand.dial_time >= WORTH_TAKING_OVER
        };
        let found = self.take_from(worker);
        let found = found.or_else(|| is_far.then(|| self.take_over(worker)).flatten());
        let counter = if found.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let share = &self.shares[worker];
        share.taken.notify_one();
        (found, Some(Vacancy(Arc::clone(share))))
    }

    fn take_from(&self, worker: usize) -> Option<Stream> {
        let mut ready = self.shares[worker].ready.lock();
        loop {
            let mut found = ready.pop_back()?;
            if is_quiet(&mut found.stream) && found.since.elapsed() < self.config.max_age {
                return Some(found.stream);
            }
            self.note_stale();
        }
    }

    /// Takes one that another worker keeps; from then on it wakes this one.
    fn take_over(&self, worker: usize) -> Option<Stream> {
        let n_workers = self.shares.len();
        let mut others = (1..n_workers).map(|ahead| (worker + ahead) % n_workers);
        others.find_map(|other| {
            let stream = self.take_from(other)?;
            self.shares[other].vacated.notify_one();
            let moved = stream.moved_here();
            moved.inspect_err(|_| self.note_stale()).ok()
        })
    }

    pub(super) fn note_stale(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> PoolCounts {
        PoolCounts {
            ready: self.shares.iter().map(|share| share.len()).sum::<usize>() as u64,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
        }
    }

    /// Keeps the share of `worker` in as many connections as the rate of starts asks for. To run on
    /// that worker.
    pub(super) async fn keep_filled(&self, worker: usize) {
        if self.config.max == 0 {
            return;
        }
        let mut pause = FIRST_PAUSE;
        let mut look = pin!(timer::distant(Instant::now() + CHECK_INTERVAL));
        loop {
            let n_missing = self.prune(worker);
            if n_missing == 0 {
                let share = &self.shares[worker];
                if worker > 0 && share.len() == 0 && self.wanted(worker) == 0 {
                    // It has a part only once sessions start there.
                    share.vacancy().await;
                } else {
                    // Whatever dies in between is found at the next look.
                    tokio::select! {
                        () = share.vacancy() => {}
                        () = look.as_mut() => look.as_mut().reset(Instant::now() + CHECK_INTERVAL),
                    }
                }
                continue;
            }
            let dials = (0..n_missing).map(|_| self.add_one(worker));
            let results = futures_util::future::join_all(dials).await;
            if results.iter().any(|dialed| *dialed) {
                pause = FIRST_PAUSE;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Drops what is old or dead; says how many are missing.
    fn prune(&self, worker: usize) -> usize {
        let wanted = self.wanted(worker);
        // When sessions begin to start on another worker, its part grows before this one's shrinks.
        let others = self.shares.iter().enumerate();
        let others = others.filter(|(other, _)| *other != worker);
        let n_others: usize = others.map(|(_, share)| share.len()).sum();
        let most = self.config.max.saturating_sub(n_others);
        let mut ready = self.shares[worker].ready.lock();
        ready.retain_mut(|connection| {
            if connection.since.elapsed() >= self.config.max_age {
                return false;
            }
            let quiet = is_quiet(&mut connection.stream);
            if !quiet {
                self.note_stale();
            }
            quiet
        });
        while ready.len() > wanted {
            ready.pop_front();
        }
        wanted.min(most).saturating_sub(ready.len())
    }

    /// How many `worker` is to keep, reckoning that no client speaks before patience is over.
    fn wanted(&self, worker: usize) -> usize {
        let Demand { rates, dial_time } = &mut *self.demand.lock();
        let now = Instant::now();
        let rates: Vec<f64> = rates.iter_mut().map(|rate| rate.per_second(now)).collect();
        let total = wanted(rates.iter().sum(), PATIENCE + *dial_time);
        let total = total.clamp(self.config.min.min(self.config.max), self.config.max);
        part_of(total, &rates, worker)
    }

    async fn add_one(&self, worker: usize) -> bool {
        let started = Instant::now();
        let dialing = async {
            let mut stream = self.dialer.dial().await.ok()?;
            // Nothing is written for a while: the handshake is to be over on both sides.
            stream.flush().await.ok()?;
            Some(stream)
        };
        let Ok(Some(stream)) = tokio::time::timeout(self.dial_timeout, dialing).await else {
            return false;
        };
        self.demand.lock().dial_time = started.elapsed();
        self.shares[worker].ready.lock().push_back(Ready {
            stream,
            since: Instant::now(),
        });
        true
    }
}

impl Share {
    /// Returns when what was taken is to be replaced.
    async fn vacancy(&self) {
        tokio::select! {
            biased;
            // First, so that of two that were rung while a dial was under way neither is left over.
            () = self.taken.notified() => {}
            () = self.vacated.notified() => return,
        }
        let since = Instant::now();
        loop {
            let patience = match self.len() {
                0 => SHORT_PATIENCE,
                _ => PATIENCE,
            };
            tokio::select! {
                () = self.vacated.notified() => return,
                // It may have been the last one.
                () = self.taken.notified() => {}
                () = tokio::time::sleep_until(since + patience) => return,
            }
        }
    }

    fn len(&self) -> usize {
        self.ready.lock().len()
    }

    /// Whether a vacancy was dropped since this was last asked.
    #[cfg(test)]
    pub(crate) fn take_vacated(&self) -> bool {
        use futures_util::FutureExt as _;
        self.vacated.notified().now_or_never().is_some()
    }
}

/// What falls to `worker` when `total` is shared out by the starts on each; the first has what is
/// over, and everything where none start.
fn part_of(total: usize, per_second: &[f64], worker: usize) -> usize {
    let sum: f64 = per_second.iter().sum();
    let part = |rate: f64| match sum > 0.01 {
        true => whole((total as f64 * rate / sum).floor()).min(total),
        false => 0,
    };
    match worker {
        0 => total.saturating_sub(per_second[1..].iter().map(|rate| part(*rate)).sum()),
        _ => part(per_second[worker]),
    }
}

/// Starts per second, fading by half in [`RATE_HALF_LIFE`].
struct Rate {
    per_second: f64,
    last: Instant,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self {
            per_second: 0.0,
            last: now,
        }
    }

    fn count(&mut self, now: Instant) {
        self.fade(now);
        self.per_second += std::f64::consts::LN_2 / RATE_HALF_LIFE.as_secs_f64();
    }

    fn fade(&mut self, now: Instant) {
        let half_lives = (now - self.last).as_secs_f64() / RATE_HALF_LIFE.as_secs_f64();
        self.per_second *= 0.5f64.powf(half_lives);
        self.last = now;
    }

    fn per_second(&mut self, now: Instant) -> f64 {
        self.fade(now);
        self.per_second
    }
}

/// Twice the starts that fall into the time of one replacement, and one for the next caller.
fn wanted(per_second: f64, replaced_in: Duration) -> usize {
    if per_second < 0.01 {
        return 0;
    }
    1 + whole((per_second * replaced_in.as_secs_f64() * 2.0).ceil())
}

/// A count that is no less than 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it comes of at most a few thousand starts a second, far below 2^52"
)]
fn whole(count: f64) -> usize {
    count as usize
}

/// Whether upstream has neither closed nor said anything; TLS tickets are read on the way.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    let mut buffer = ReadBuf::new(&mut byte);
    let mut cx = Context::from_waker(Waker::noop());
    let polled: Poll<io::Result<()>> = Pin::new(stream).poll_read(&mut cx, &mut buffer);
    polled.is_pending()
}

#[cfg(test)]
mod tests;
