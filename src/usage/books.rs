//! One store behind a deadline and a breaker, with its background work: the heartbeat, the sweeper
//! of dead processes, retention, and ledger rows that wait for a store to come back.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::config::{Config, OnStoreFailure, OpenError, StoreUrl};
use super::counters::{Counters, Operation};
use super::live::LiveSession;
use super::memory::Memory;
use super::redis::{Redis, RedisReader};
use super::sqlite::{self, Sqlite, SqliteReader};
use super::store::{Boxed, Readopt, Store, StoreError, TokenKey};
use super::{
    Adjust, Admit, Admitted, Characters, Opening, Query, Record, Reserve, Reserved, Settle,
    UsageRow, WallClock, WindowKey,
};
use crate::ids::{ClientId, SessionId};

/// How long it may take over each step of getting to know this process again.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(2);

/// How long it may take over a report, which no session waits for.
const REPORT_DEADLINE: Duration = Duration::from_secs(30);

/// How long the end of the process may wait for a store that has failed: as long as another program
/// may hold a file. Rows that are not written by then are entered as lost by the next start.
const CLOSE_PATIENCE: Duration = Duration::from_secs(6);

/// How often a store that is down is tried.
const PROBE: Duration = Duration::from_millis(250);

/// How often old rows are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// The pause between two batches of deletions, so that they never crowd out sessions.
const PRUNE_PAUSE: Duration = Duration::from_millis(50);

/// So many ledger rows may wait for a store to come back.
const ROWS_WAITING: usize = 50_000;

/// So many of them are written side by side.
const WRITE_BATCH: usize = 64;

/// So many sessions are readopted in one request.
const READOPT_BATCH: usize = 100;

/// The store cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the usage store cannot be reached")]
pub struct Unavailable {
    /// Whether the request may have reached the store, so that its effect is unknown.
    pub maybe_done: bool,
}

/// The books of this process: what was spent, who is live, the ledger.
pub struct Books {
    store: Box<dyn Store>,
    counters: Arc<Counters>,
    clock: WallClock,
    on_failure: OnStoreFailure,
    reserve_ahead: Characters,
    lease: Duration,
    retention: Duration,
    /// Seats that somebody sits in.
    live: Mutex<HashMap<SessionId, Arc<LiveSession>>>,
    /// See [`Books::era`]; odd while the store gets to know this process again.
    era: AtomicU64,
    waiting: Mutex<VecDeque<Settle>>,
    /// How many rows have left for the store, which has not said what became of them.
    undecided: Undecided,
    /// Wakes the background work: the store has failed, a row waits, or the books are dropped.
    bell: Arc<Notify>,
    /// Whether the lease has been ended for good. Held by the one recovery at a time.
    has_left: tokio::sync::Mutex<bool>,
}

/// Opens the store that `config` names and starts its background work on the current runtime.
///
/// # Errors
/// One line naming cause and cure. A Redis that is merely not there yet is no error: the books
/// start closed and open by themselves.
pub async fn open(
    config: &Config,
    clock: WallClock,
    counters: Arc<Counters>,
) -> Result<Arc<Books>, OpenError> {
    config.validate().map_err(|cause| OpenError {
        store: config.store.to_string(),
        cause,
        cure: "correct the [usage] table",
    })?;
    let store: Box<dyn Store> = match &config.store {
        StoreUrl::Memory => Box::new(Memory::default()),
        StoreUrl::Sqlite(path) => {
            let (path, lease, clock) = (path.clone(), config.lease, clock.clone());
            let synchronous = config.sqlite_synchronous;
            let opened =
                tokio::task::spawn_blocking(move || Sqlite::open(&path, synchronous, lease, clock));
            Box::new(opened.await.map_err(|error| OpenError {
                store: config.store.to_string(),
                cause: error.to_string(),
                cure: "start the relay again",
            })??)
        }
        StoreUrl::Redis(url) => Box::new(Redis::open(url, config, clock.clone()).await?),
    };
    Ok(Books::start(store, config, clock, counters).await)
}

impl Books {
    async fn start(
        store: Box<dyn Store>,
        config: &Config,
        clock: WallClock,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        counters.up.store(true, Ordering::Relaxed);
        let books = Arc::new(Self {
            store,
            counters,
            clock,
            on_failure: config.on_store_failure,
            reserve_ahead: config.reserve_ahead,
            lease: config.lease,
            retention: config.retention,
            live: Mutex::default(),
            era: AtomicU64::new(0),
            waiting: Mutex::default(),
            undecided: Undecided::default(),
            bell: Arc::default(),
            has_left: tokio::sync::Mutex::default(),
        });
        // A failure is logged and puts the books into the state that the background work ends.
        let _ = books.recover().await;
        tokio::spawn(keep(Arc::downgrade(&books), books.bell.clone()));
        books
    }

    /// What the books have to tell a metrics page.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The wall clock that windows follow.
    #[must_use]
    pub fn clock(&self) -> &WallClock {
        &self.clock
    }

    /// Whether the store answered when it was last asked: what `/readyz` wants to know.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.counters.up.load(Ordering::Relaxed)
    }

    pub(crate) fn allows_failure(&self) -> bool {
        self.on_failure == OnStoreFailure::Allow
    }

    pub(crate) fn reserve_ahead(&self) -> Characters {
        self.reserve_ahead
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Takes a slot for a session. The handle belongs to the answer `Granted`.
    pub(crate) async fn admit(
        &self,
        admit: &Admit,
    ) -> Result<(Admitted, Arc<LiveSession>), Unavailable> {
        let admitted = self
            .call(Operation::Admit, || self.store.admit(admit))
            .await?;
        let reserved = if let Admitted::Granted { ahead } = admitted {
            ahead
        } else {
            0
        };
        let live = Arc::new(LiveSession::new(admit.opening.clone(), reserved));
        if matches!(admitted, Admitted::Granted { .. }) {
            self.enter(&live);
        }
        Ok((admitted, live))
    }

    /// Takes note of a session that goes on without the store's leave.
    pub(crate) fn admit_unasked(&self, opening: &Arc<Opening>) -> Arc<LiveSession> {
        let live = Arc::new(LiveSession::new(opening.clone(), 0));
        self.enter(&live);
        live
    }

    fn enter(&self, live: &Arc<LiveSession>) {
        self.live.lock().insert(live.seat(), live.clone());
    }

    /// Whether a settlement may leave the session's seat to the client's next one.
    pub(crate) fn keeps_seats(&self) -> bool {
        self.store.keeps_seats() && self.is_up()
    }

    /// Another one begins whenever the store has been away: seats kept before that it may no longer
    /// know. None while the store gets to know this process again.
    pub(crate) fn era(&self) -> Option<u64> {
        let era = self.era.load(Ordering::Acquire);
        era.is_multiple_of(2).then_some(era)
    }

    /// A session sits down in a seat that was kept. Nobody waits for the store, which counts the
    /// seat as taken already.
    pub(crate) fn seat(&self, live: &Arc<LiveSession>, opening: &Arc<Opening>) {
        live.seat_next(Some(opening.clone()));
        self.enter(live);
        self.store.seat_in_turn(live, opening);
    }

    /// A session gets up again that was not to sit down there.
    pub(crate) fn unseat(&self, live: &LiveSession) {
        self.live.lock().remove(&live.seat());
        live.seat_next(None);
    }

    /// Reserves characters.
    pub(crate) async fn reserve(
        &self,
        live: &LiveSession,
        reserve: &Reserve,
    ) -> Result<Reserved, Unavailable> {
        let reserved = self
            .call(Operation::Reserve, || self.store.reserve(reserve))
            .await?;
        self.note(&reserve.adjust);
        if let Reserved::Granted(granted) = reserved {
            live.add_reserved(i64::try_from(granted).unwrap_or(i64::MAX));
        }
        Ok(reserved)
    }

    /// Gives back what sessions of one client do not need.
    pub(crate) async fn give_back(
        &self,
        client: &ClientId,
        adjust: &[Adjust],
    ) -> Result<(), Unavailable> {
        self.call(Operation::GiveBack, || self.store.give_back(client, adjust))
            .await?;
        self.note(adjust);
        Ok(())
    }

    fn note(&self, adjust: &[Adjust]) {
        if adjust.is_empty() {
            return;
        }
        let live = self.live.lock();
        for adjust in adjust {
            if let Some(session) = live.get(&adjust.seat) {
                session.add_reserved(adjust.characters);
            }
        }
    }

    /// Enters a row and frees the session's slot, or keeps it as asked; if the store is down, as soon
    /// as it is back. A store of this process alone is not waited for: whatever is asked next comes
    /// behind it.
    pub(crate) async fn settle(self: &Arc<Self>, settle: Settle) {
        let settle = Arc::new(settle);
        let in_turn = self.is_up() && {
            let (books, kept) = (Arc::downgrade(self), Arc::clone(&settle));
            let undecided = self.undecided.count(1);
            let failed = move |error: &StoreError| {
                if let Some(books) = books.upgrade() {
                    books.counters.failed(Operation::Settle);
                    books.enqueue(Arc::unwrap_or_clone(kept));
                    books.fail(Operation::Settle, error);
                }
                drop(undecided);
            };
            self.store.settle_in_turn(&settle, Box::new(failed))
        };
        let is_done = in_turn
            || self
                .call(Operation::Settle, || self.store.settle(&settle))
                .await
                .is_ok();
        self.leave_seat(&settle);
        if !is_done {
            self.enqueue(Arc::unwrap_or_clone(settle));
        }
    }

    /// Nobody sits there any more.
    fn leave_seat(&self, settle: &Settle) {
        let Some(live) = self.live.lock().remove(&settle.seat) else {
            return;
        };
        live.seat_next(None);
        for adjust in settle.adjust.iter().filter(|a| a.seat == live.seat()) {
            live.add_reserved(adjust.characters);
        }
        let spent = settle
            .record
            .as_ref()
            .map_or(0, |record| record.characters_forwarded);
        live.add_reserved(-i64::try_from(spent).unwrap_or(i64::MAX));
    }

    /// Enters a row when the store gets round to it; nobody waits.
    pub(crate) fn settle_later(self: &Arc<Self>, settle: Settle) {
        if self.enqueue(settle) {
            self.bell.notify_one();
        }
    }

    /// Whether there was room.
    fn enqueue(&self, settle: Settle) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= ROWS_WAITING {
            if self.counters.rows_dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::error!(
                    "too many ledger rows wait for the usage store; the newest are dropped"
                );
            }
            return false;
        }
        waiting.push_back(settle);
        self.counters
            .rows_waiting
            .store(waiting.len() as u64, Ordering::Relaxed);
        true
    }

    /// What the counters show.
    pub(crate) async fn used(
        &self,
        client: &ClientId,
        keys: &[WindowKey],
    ) -> Result<Vec<u64>, Unavailable> {
        self.call(Operation::Read, || self.store.used(client, keys))
            .await
    }

    pub(crate) async fn called_in(&self) -> Result<Vec<ClientId>, Unavailable> {
        self.call(Operation::Read, || self.store.called_in()).await
    }

    /// Usage by client, day, model and voice, as the query asks.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn usage(&self, query: &Query) -> Result<Vec<UsageRow>, Unavailable> {
        self.report(self.store.usage(query)).await
    }

    /// The newest ledger rows, newest first.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn recent(&self, limit: usize) -> Result<Vec<Record>, Unavailable> {
        self.report(self.store.recent(limit)).await
    }

    /// Keeps a single-use token's record for `ttl`.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn put_token(
        &self,
        key: TokenKey,
        record: &str,
        ttl: Duration,
    ) -> Result<(), Unavailable> {
        self.call(Operation::Token, || self.store.put_token(key, record, ttl))
            .await
    }

    /// Takes a single-use token's record out: of any number of callers, at most one gets it.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn take_token(&self, key: TokenKey) -> Result<Option<String>, Unavailable> {
        self.call(Operation::Token, || self.store.take_token(key))
            .await
    }

    /// Marks a token as revoked for `ttl`, its remaining life.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn revoke(&self, key: TokenKey, ttl: Duration) -> Result<(), Unavailable> {
        self.call(Operation::Token, || self.store.revoke(key, ttl))
            .await
    }

    /// All revoked tokens whose time has not run out.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn revoked(&self) -> Result<Vec<TokenKey>, Unavailable> {
        // Nobody waits for it, so that it may be slow without the store being taken for down.
        if !self.is_up() {
            return Err(Unavailable { maybe_done: false });
        }
        self.report(self.store.revoked()).await
    }

    /// Writes what waits and ends this process's lease. Call it when all sessions are settled. A
    /// store that has failed is waited for a while, if there are rows for it.
    pub async fn close(&self) {
        let closing = async {
            let mut owed = false;
            loop {
                owed |= self.has_rows();
                if self.is_up() {
                    self.write_waiting().await;
                    if self.end_lease().await {
                        return;
                    }
                    owed |= self.has_rows();
                }
                if !owed {
                    return;
                }
                tokio::time::sleep(PROBE).await;
            }
        };
        // Without an answer the lease runs out by itself.
        let _ = timeout(CLOSE_PATIENCE, closing).await;
    }

    /// Whether any row is still to be written, as far as is known.
    fn has_rows(&self) -> bool {
        // With the lock, so that none is missed on its way from one to the other.
        let waiting = self.waiting.lock();
        !waiting.is_empty() || self.undecided.any()
    }

    /// Ends the lease. Whether it stays ended: with rows still to write it has to be renewed.
    async fn end_lease(&self) -> bool {
        // A heartbeat under way would begin a new one.
        let mut has_left = self.has_left.lock().await;
        // It comes behind the settlements that nobody has waited for; those that fail wait as rows
        // by then.
        let ended = self.ask(Operation::Heartbeat, RECOVERY_DEADLINE, self.store.close());
        match ended.await {
            Ok(()) => *has_left = !self.has_rows(),
            Err(error) => {
                self.fail(Operation::Heartbeat, &error);
            }
        }
        *has_left
    }

    #[cfg(test)]
    pub(crate) fn store_for_tests(&self) -> &dyn Store {
        &*self.store
    }

    #[cfg(test)]
    pub(crate) async fn beat_for_tests(&self) -> Result<(), Unavailable> {
        self.recover().await
    }

    async fn report<T>(&self, answer: Boxed<'_, T>) -> Result<T, Unavailable> {
        match timeout(REPORT_DEADLINE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.counters.failed(Operation::Read);
                tracing::error!(%error, "the usage store could not be read");
                Err(Unavailable { maybe_done: false })
            }
            Err(_) => Err(Unavailable { maybe_done: false }),
        }
    }

    /// Asks the store, unless it is known to be down. The first failure closes the books for all;
    /// the background work opens them again.
    async fn call<'a, T>(
        &'a self,
        operation: Operation,
        ask: impl Fn() -> Boxed<'a, T>,
    ) -> Result<T, Unavailable> {
        if !self.is_up() {
            self.counters.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(Unavailable { maybe_done: false });
        }
        match self.ask(operation, self.store.deadline(), ask()).await {
            Err(StoreError::Estranged) => {
                // Others need not find out the same; the background work goes on if time runs out.
                self.counters.up.store(false, Ordering::Relaxed);
                match timeout(self.store.deadline(), self.recover()).await {
                    Ok(recovered) => recovered?,
                    Err(_) => return Err(self.fail(operation, &StoreError::Estranged)),
                }
                let again = self.ask(operation, self.store.deadline(), ask()).await;
                again.map_err(|error| self.fail(operation, &error))
            }
            Err(error) => Err(self.fail(operation, &error)),
            Ok(answer) => Ok(answer),
        }
    }

    async fn ask<T>(
        &self,
        operation: Operation,
        deadline: Duration,
        answer: Boxed<'_, T>,
    ) -> Result<T, StoreError> {
        let asked = Instant::now();
        let late = || StoreError::Unavailable(format!("no answer in {} ms", deadline.as_millis()));
        let answer = timeout(deadline, answer)
            .await
            .unwrap_or_else(|_| Err(late()));
        match &answer {
            Ok(_) => self.counters.latency.observe(asked.elapsed()),
            Err(StoreError::Unavailable(_)) => self.counters.failed(operation),
            Err(StoreError::Estranged) => {}
        }
        answer
    }

    fn fail(&self, operation: Operation, error: &StoreError) -> Unavailable {
        if self.counters.up.swap(false, Ordering::Relaxed) {
            tracing::error!(operation = operation.as_str(), %error, "the usage store cannot be reached");
        }
        self.bell.notify_one();
        Unavailable { maybe_done: true }
    }

    /// Makes this process and its sessions known to the store, and opens the books.
    async fn recover(&self) -> Result<(), Unavailable> {
        let mut has_left = self.has_left.lock().await;
        if *has_left && !self.has_rows() {
            return Err(Unavailable { maybe_done: false });
        }
        // With a row that came late, the lease is left to run out.
        *has_left = false;
        let failed = |error| self.fail(Operation::Heartbeat, &error);
        let ask = |answer| self.ask(Operation::Heartbeat, RECOVERY_DEADLINE, answer);
        let heartbeat = ask(self.store.heartbeat()).await.map_err(failed)?;
        if heartbeat.emptied {
            self.counters.emptied.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                "the usage store came back without its counters; those this process knew are put back, \
                 what only other or former processes knew is lost"
            );
        }
        let was_down = !self.is_up();
        if was_down || heartbeat.emptied || heartbeat.expired {
            // Odd already, where the last attempt has failed.
            let era = self.era.load(Ordering::Acquire) | 1;
            self.era.store(era, Ordering::Release);
            let sessions: Vec<_> = {
                let live = self.live.lock();
                let known = live.values().filter_map(|live| {
                    Some(Readopt {
                        seat: live.seat(),
                        opening: live.opening()?,
                        reserved: live.reserved(),
                    })
                });
                known.collect()
            };
            for sessions in sessions.chunks(READOPT_BATCH) {
                let readopted = self.store.readopt(sessions);
                let readopted = self
                    .ask(Operation::Heartbeat, RECOVERY_DEADLINE, readopted)
                    .await;
                readopted.map_err(failed)?;
            }
            self.era.store(era + 1, Ordering::Release);
        }
        if was_down {
            self.counters.up.store(true, Ordering::Relaxed);
            tracing::info!("the usage store answers again");
        }
        Ok(())
    }

    /// Writes the rows that wait, side by side, so that they share commits.
    async fn write_waiting(&self) {
        loop {
            let (batch, undecided): (Vec<Settle>, _) = {
                let mut waiting = self.waiting.lock();
                let n = waiting.len().min(WRITE_BATCH);
                (waiting.drain(..n).collect(), self.undecided.count(n))
            };
            if batch.is_empty() {
                return;
            }
            let writes = batch
                .iter()
                .map(|settle| self.call(Operation::Settle, move || self.store.settle(settle)));
            let written = futures_util::future::join_all(writes).await;
            let mut waiting = self.waiting.lock();
            let failed = batch
                .into_iter()
                .zip(&written)
                .filter(|(_, written)| written.is_err());
            waiting.extend(failed.map(|(settle, _)| settle));
            drop(undecided);
            self.counters
                .rows_waiting
                .store(waiting.len() as u64, Ordering::Relaxed);
            if written.iter().any(Result::is_err) {
                return;
            }
        }
    }

    async fn sweep(&self) {
        let mut lost = 0;
        while let Ok(swept @ 1..) = self.call(Operation::Sweep, || self.store.sweep()).await {
            lost += swept;
        }
        if lost > 0 {
            self.counters
                .lost_sessions
                .fetch_add(lost, Ordering::Relaxed);
            tracing::warn!(
                sessions = lost,
                "sessions of a relay that died are entered as lost"
            );
        }
    }

    /// Deletes one batch of what is too old. Returns whether there may be more.
    async fn prune(&self, now_ms: i64) -> bool {
        let retention = i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX);
        let before_ms = now_ms.saturating_sub(retention);
        matches!(
            self.call(Operation::Prune, || self.store.prune(before_ms))
                .await,
            Ok(1..)
        )
    }
}

/// Counts rows for as long as what it gives out for them lives.
#[derive(Default)]
struct Undecided(Arc<AtomicUsize>);

struct CountedIn {
    all: Arc<AtomicUsize>,
    n_rows: usize,
}

impl Undecided {
    fn count(&self, n_rows: usize) -> CountedIn {
        self.0.fetch_add(n_rows, Ordering::AcqRel);
        CountedIn {
            all: Arc::clone(&self.0),
            n_rows,
        }
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

impl Drop for CountedIn {
    fn drop(&mut self) {
        self.all.fetch_sub(self.n_rows, Ordering::AcqRel);
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        self.bell.notify_one();
    }
}

/// The background work of the books, until they are dropped.
async fn keep(books: Weak<Books>, bell: Arc<Notify>) {
    let started = Instant::now();
    let Some(started_ms) = books.upgrade().map(|books| books.clock.now_ms()) else {
        return;
    };
    let (mut next_beat, mut next_prune) = (started, started);
    let mut patience = Patience::default();
    while let Some(strong) = books.upgrade() {
        let relapsed = !strong.is_up() && patience.has_relapsed();
        if relapsed {
            drop(strong);
            tokio::time::sleep(patience.longer()).await;
            continue;
        }
        if !strong.is_up() || next_beat <= Instant::now() {
            next_beat = Instant::now() + strong.lease / 3;
            let was_down = !strong.is_up();
            // A failure closes the books, and the next round tries again.
            if strong.recover().await.is_ok() {
                if was_down {
                    patience.recovered();
                }
                strong.sweep().await;
            }
        }
        if strong.is_up() {
            strong.write_waiting().await;
        }
        if strong.is_up() && next_prune <= Instant::now() {
            // A wall clock that leaps ahead must not take the ledger with it.
            let elapsed = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
            let now_ms = strong
                .clock
                .now_ms()
                .min(started_ms.saturating_add(elapsed));
            let more = strong.prune(now_ms).await;
            next_prune = Instant::now() + if more { PRUNE_PAUSE } else { PRUNE_EVERY };
        }
        let (is_up, probe) = (strong.is_up(), PROBE.min(strong.lease / 3));
        drop(strong);
        if is_up {
            // Rung or not, there is something to do then.
            let _ = tokio::time::timeout_at(next_beat.min(next_prune), bell.notified()).await;
        } else {
            tokio::time::sleep(probe).await;
        }
    }
}

/// How soon a store that failed is tried again. At once after a first failure; a store that keeps
/// failing right after it came back, as on a disk that is almost full, is left alone for longer.
#[derive(Default)]
struct Patience {
    recovered: Option<Instant>,
    waited: bool,
    relapses: u32,
}

impl Patience {
    /// So long a store must have been up to count as sound.
    const SOUND: Duration = Duration::from_secs(10);

    fn has_relapsed(&self) -> bool {
        !self.waited && self.recovered.is_some_and(|at| at.elapsed() < Self::SOUND)
    }

    fn longer(&mut self) -> Duration {
        self.waited = true;
        self.relapses = (self.relapses + 1).min(4);
        PROBE / 2 * (1 << (self.relapses - 1))
    }

    fn recovered(&mut self) {
        if self.recovered.is_some_and(|at| at.elapsed() >= Self::SOUND) {
            self.relapses = 0;
        }
        self.recovered = Some(Instant::now());
        self.waited = false;
    }
}

/// Reads books that a relay may be writing, for `xi-relay usage`. Takes no part in leases.
pub struct Reader(Kind);

enum Kind {
    Sqlite(SqliteReader),
    Redis(RedisReader),
}

/// Opens the store that `config` names for reading alone.
///
/// # Errors
/// One line naming cause and cure; always for `memory`, which other processes cannot read.
pub async fn open_reader(config: &Config) -> Result<Reader, OpenError> {
    match &config.store {
        StoreUrl::Memory => Err(OpenError {
            store: config.store.to_string(),
            cause: "books in memory can only be read by the relay that holds them".to_owned(),
            cure: "ask the running relay at /usage on its operator listener",
        }),
        StoreUrl::Sqlite(path) => {
            SqliteReader::open(path).map(|reader| Reader(Kind::Sqlite(reader)))
        }
        StoreUrl::Redis(url) => RedisReader::open(url, config)
            .await
            .map(|reader| Reader(Kind::Redis(reader))),
    }
}

/// Marks a token as revoked in the store that `config` names, beside the relays that use it, which
/// learn of it within seconds; a single-use token that waits there is gone. Tells whether it was
/// there.
///
/// # Errors
/// One line naming cause and cure; always for `memory`, which other processes cannot write.
pub async fn revoke(config: &Config, key: TokenKey, ttl: Duration) -> Result<bool, OpenError> {
    match &config.store {
        StoreUrl::Memory => Err(OpenError {
            store: config.store.to_string(),
            cause: "books in memory can only be changed by the relay that holds them".to_owned(),
            cure: "POST the token to /tokens/revoke on the running relay's operator listener",
        }),
        StoreUrl::Sqlite(path) => sqlite::revoke(
            path,
            config.sqlite_synchronous,
            key,
            ttl,
            &WallClock::system(),
        ),
        StoreUrl::Redis(url) => {
            let reader = RedisReader::open(url, config).await?;
            reader.revoke(key, ttl).await.map_err(|error| OpenError {
                store: config.store.to_string(),
                cause: error.to_string(),
                cure: "let this user write there, and try again",
            })
        }
    }
}

impl Reader {
    /// Usage by client, day, model and voice, as the query asks.
    ///
    /// # Errors
    /// What the store said.
    pub async fn usage(&self, query: &Query) -> Result<Vec<UsageRow>, StoreError> {
        match &self.0 {
            Kind::Sqlite(reader) => reader.usage(query),
            Kind::Redis(reader) => reader.usage(query).await,
        }
    }

    /// The newest ledger rows, newest first.
    ///
    /// # Errors
    /// What the store said.
    pub async fn recent(&self, limit: usize) -> Result<Vec<Record>, StoreError> {
        match &self.0 {
            Kind::Sqlite(reader) => reader.recent(limit),
            Kind::Redis(reader) => reader.recent(limit).await,
        }
    }
}
