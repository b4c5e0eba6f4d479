//! The one thread that writes. What is waiting when it comes round goes into one transaction, so
//! that many sessions share one commit; nobody is answered before the commit. When requests come
//! thick and fast, it lets some gather; those that nobody waits for it lets gather for longer.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::batch::Batch;
use crate::usage::StoreError;

/// So many requests may wait; more means that the disk has stopped.
const WAITING: usize = 8192;

/// So many requests share a commit at most.
const BATCH: usize = 256;

/// A busy writer begins one commit in this time. A commit costs several times what a request in it
/// does, and so does waking this thread.
const PACE: Duration = Duration::from_millis(1);

/// The same while nobody waits for an answer. Others see what is written so much later.
const LAG: Duration = Duration::from_millis(25);

/// The writer is busy when more requests than this are to be expected within [`PACE`].
const BUSY_REQUESTS: f64 = 2.0;

/// How much of what was expected stays when the next commit shows what came.
const MEMORY: f64 = 0.75;

/// The sending end; the thread ends with it, once all is written.
pub(super) struct Writer(Arc<Queue>);

impl Writer {
    /// Starts the thread.
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let receiver = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("usage-writer".to_owned())
            .spawn(move || {
                // However it ends: who asks from then on is told so.
                let _stopped = Stopped(&receiver);
                run(&connection, &receiver);
            })?;
        Ok(Self(queue))
    }

    /// Runs `work` in a transaction. When the answer is no longer awaited by the time the
    /// transaction is committed, `undo` runs in the next one.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
        undo: impl FnOnce(&mut Batch<'_>, T) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Request {
            work: Some(work),
            undo,
            value: None,
            reply,
        };
        self.0.send(Box::new(job), true)?;
        answer
            .await
            .unwrap_or_else(|_| Err(unavailable("the writer has stopped")))
    }

    /// Runs `work` in a transaction behind all that was asked before; if that fails, `failed`.
    /// Whether there was room for it.
    pub(super) fn run_unattended(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<()> + Send + 'static,
        failed: impl FnOnce(&StoreError) + Send + 'static,
    ) -> bool {
        let job = Unattended {
            work: Some(work),
            failed,
        };
        self.0.send(Box::new(job), false).is_ok()
    }

    /// Returns when what nobody waits for has been done, as far as it has been asked.
    pub(super) async fn catch_up(&self) {
        if self.0.state.lock().n_unattended > 0 {
            // A failure concerns those whose requests they are.
            let _ = self.run(|_| Ok(()), |_, ()| Ok(())).await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.state.lock().is_closed = true;
        self.0.bell.notify_one();
    }
}

/// What the thread has to do.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// Wakes the thread.
    bell: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Box<dyn Job>>,
    /// How many of `jobs` somebody waits for.
    n_attended: usize,
    /// Requests that nobody waits for and that are not done.
    n_unattended: usize,
    /// Whether the thread sleeps until there is anything to do.
    is_idle: bool,
    /// Nobody will ask any more.
    is_closed: bool,
    /// Nobody will answer any more.
    is_stopped: bool,
}

impl Queue {
    fn send(&self, job: Box<dyn Job>, is_attended: bool) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if state.is_stopped {
            return Err(unavailable("the writer has stopped"));
        }
        if state.jobs.len() >= WAITING {
            return Err(unavailable("too many requests wait for the file"));
        }
        state.jobs.push_back(job);
        let n_sent = match is_attended {
            true => &mut state.n_attended,
            false => &mut state.n_unattended,
        };
        *n_sent += 1;
        // A thread that lets requests gather is left asleep by those that can wait.
        let wakes = is_attended || state.is_idle || state.jobs.len() == BATCH;
        state.is_idle = false;
        drop(state);
        if wakes {
            self.bell.notify_one();
        }
        Ok(())
    }

    /// The next requests, when it is time for them; none when there will be no more. With something
    /// `to_undo` nothing is waited for.
    fn next(&self, pace: &Pace, to_undo: bool) -> Option<Vec<Box<dyn Job>>> {
        let mut state = self.state.lock();
        while state.jobs.is_empty() && !to_undo {
            if state.is_closed {
                return None;
            }
            state.is_idle = true;
            self.bell.wait(&mut state);
        }
        state.is_idle = false;
        if !to_undo {
            self.gather(pace, &mut state);
        }
        let n = state.jobs.len().min(BATCH);
        let batch: Vec<_> = state.jobs.drain(..n).collect();
        state.n_attended -= batch.iter().filter(|job| job.is_attended()).count();
        Some(batch)
    }

    /// Lets more requests come.
    fn gather(&self, pace: &Pace, state: &mut MutexGuard<'_, State>) {
        let can_wait =
            |state: &State| state.n_attended == 0 && state.jobs.len() < BATCH && !state.is_closed;
        while can_wait(state) && Instant::now() < pace.begun + LAG {
            self.bell.wait_until(state, pace.begun + LAG);
        }
        if state.n_attended > 0 {
            MutexGuard::unlocked(state, || pace.wait());
        }
    }
}

/// Whoever waits is told that nothing is answered any more.
struct Stopped<'a>(&'a Queue);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.state.lock();
            state.is_stopped = true;
            std::mem::take(&mut state.jobs)
        };
        let stopped = unavailable("the writer has stopped");
        for job in left {
            // Nothing was done, so there is nothing to undo.
            let _ = job.answer(Some(&stopped));
        }
    }
}

/// Follows how thick requests come.
struct Pace {
    /// When the last commit began.
    begun: Instant,
    /// How many requests came within [`PACE`] of late.
    expected: f64,
}

impl Pace {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            expected: 0.0,
        }
    }

    /// Lets more requests gather, if more are to be expected.
    fn wait(&self) {
        if self.expected > BUSY_REQUESTS {
            std::thread::sleep(PACE.saturating_sub(self.begun.elapsed()));
        }
    }

    /// A commit of so many requests begins.
    fn begin(&mut self, n_requests: usize) {
        let now = Instant::now();
        let paces = (now - self.begun).as_secs_f64() / PACE.as_secs_f64();
        self.expected =
            MEMORY * self.expected + (1.0 - MEMORY) * n_requests as f64 / paces.max(1.0);
        self.begun = now;
    }
}

fn unavailable(why: &str) -> StoreError {
    StoreError::Unavailable(why.to_owned())
}

trait Job: Send {
    /// Whether somebody is to get an answer.
    fn is_attended(&self) -> bool;
    /// Whether it is still to be done: somebody waits for the answer, or nobody ever did.
    fn is_wanted(&self) -> bool;
    /// Does the work inside the open transaction.
    fn work(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()>;
    /// Answers; what the next transaction has to undo comes back.
    fn answer(self: Box<Self>, failure: Option<&StoreError>) -> Option<Box<dyn Job>>;
}

struct Request<W, U, T> {
    work: Option<W>,
    undo: U,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W, U> Job for Request<W, U, T>
where
    T: Send + 'static,
    W: FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    U: FnOnce(&mut Batch<'_>, T) -> rusqlite::Result<()> + Send + 'static,
{
    fn is_attended(&self) -> bool {
        true
    }

    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn work(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.value = Some(work(batch)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, failure: Option<&StoreError>) -> Option<Box<dyn Job>> {
        let Self {
            undo, value, reply, ..
        } = *self;
        let answer = match (failure, value) {
            (None, Some(value)) => Ok(value),
            (None, None) => Err(unavailable("the writer skipped the request")),
            (Some(error), _) => Err(error.clone()),
        };
        match reply.send(answer) {
            Err(Ok(value)) => Some(Box::new(Undo {
                undo: Some(undo),
                value: Some(value),
            })),
            Ok(()) | Err(Err(_)) => None,
        }
    }
}

struct Undo<U, T> {
    undo: Option<U>,
    value: Option<T>,
}

impl<T, U> Job for Undo<U, T>
where
    T: Send + 'static,
    U: FnOnce(&mut Batch<'_>, T) -> rusqlite::Result<()> + Send + 'static,
{
    fn is_attended(&self) -> bool {
        false
    }

    fn is_wanted(&self) -> bool {
        true
    }

    fn work(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
        match (self.undo.take(), self.value.take()) {
            (Some(undo), Some(value)) => undo(batch, value),
            _ => Ok(()),
        }
    }

    fn answer(self: Box<Self>, _: Option<&StoreError>) -> Option<Box<dyn Job>> {
        None
    }
}

struct Unattended<W, F> {
    work: Option<W>,
    failed: F,
}

impl<W, F> Job for Unattended<W, F>
where
    W: FnOnce(&mut Batch<'_>) -> rusqlite::Result<()> + Send,
    F: FnOnce(&StoreError) + Send,
{
    fn is_attended(&self) -> bool {
        false
    }

    fn is_wanted(&self) -> bool {
        true
    }

    fn work(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
        match self.work.take() {
            Some(work) => work(batch),
            None => Ok(()),
        }
    }

    fn answer(self: Box<Self>, failure: Option<&StoreError>) -> Option<Box<dyn Job>> {
        if let Some(error) = failure {
            (self.failed)(error);
        }
        None
    }
}

fn run(connection: &Connection, queue: &Queue) {
    let mut undo: Vec<Box<dyn Job>> = Vec::new();
    let mut pace = Pace::new();
    while let Some(asked) = queue.next(&pace, !undo.is_empty()) {
        let n_unattended = asked.iter().filter(|job| !job.is_attended()).count();
        let mut batch = std::mem::take(&mut undo);
        // Whoever has given up has been told so; doing it now would only strand what it reserves.
        batch.extend(asked.into_iter().filter(|job| job.is_wanted()));
        if !batch.is_empty() {
            pace.begin(batch.len());
            let failure = attempt(connection, &mut batch).err().map(|why| {
                // The transaction may already be gone, as after a full disk.
                let _ = connection.execute_batch("ROLLBACK");
                StoreError::Unavailable(why)
            });
            undo.extend(
                batch
                    .into_iter()
                    .filter_map(|job| job.answer(failure.as_ref())),
            );
        }
        queue.state.lock().n_unattended -= n_unattended;
    }
}

/// Commits the batch, or says why it could not. A request that panics has failed like any other, with
/// those beside it: the thread is needed.
fn attempt(connection: &Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(|| commit(connection, jobs))) {
        Ok(committed) => committed.map_err(|error| error.to_string()),
        Err(_) => Err("a request panicked".to_owned()),
    }
}

fn commit(connection: &Connection, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut batch = Batch::new(connection);
    for job in jobs {
        job.work(&mut batch)?;
    }
    batch.write()?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_request_that_panics_fails_and_the_next_is_done() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (n)").unwrap();
        let writer = Writer::start(connection).unwrap();
        let (tell, told) = mpsc::channel();
        let bug = |batch: &mut Batch<'_>| {
            batch.rest().execute("INSERT INTO t VALUES (1)", [])?;
            panic!("the bug of this test")
        };
        let failed = move |error: &StoreError| tell.send(error.to_string()).unwrap();
        assert!(writer.run_unattended(bug, failed));
        let count = |batch: &mut Batch<'_>| {
            let db = batch.rest();
            db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        };
        let n: i64 = loop {
            // One that shares the transaction fails with it.
            if let Ok(n) = writer.run(count, |_, _| Ok(())).await {
                break n;
            }
        };
        assert_eq!(n, 0, "nothing of it stays");
        assert_eq!(told.try_recv().as_deref(), Ok("a request panicked"));
    }
}
