//! The one thread that writes. What is waiting when it comes round goes into one transaction, so
//! that many sessions share one commit; nobody is answered before the commit. When requests come
//! thick and fast, it lets some gather.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::usage::StoreError;

/// So many requests may wait; more means that the disk has stopped.
const WAITING: usize = 8192;

/// So many requests share a commit at most.
const BATCH: usize = 256;

/// A busy writer begins one commit in this time. A commit costs several times what a request in it
/// does, and so does waking this thread.
const PACE: Duration = Duration::from_millis(1);

/// The writer is busy when more requests than this are to be expected within [`PACE`].
const BUSY_REQUESTS: f64 = 2.0;

/// How much of what was expected stays when the next commit shows what came.
const MEMORY: f64 = 0.75;

/// The sending end; the thread ends with it, once all is written.
pub(super) struct Writer {
    requests: SyncSender<Box<dyn Job>>,
    /// Requests that nobody waits for and that are not done.
    unattended: Arc<AtomicUsize>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (requests, receiver) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("usage-writer".to_owned())
            .spawn(move || run(&connection, &receiver))?;
        Ok(Self {
            requests,
            unattended: Arc::default(),
        })
    }

    /// Runs `work` in a transaction. When the answer is no longer awaited by the time the
    /// transaction is committed, `undo` runs in the next one.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        undo: impl FnOnce(&Connection, T) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Request {
            work: Some(work),
            undo,
            value: None,
            reply,
        };
        self.requests
            .try_send(Box::new(job))
            .map_err(|error| match error {
                TrySendError::Full(_) => unavailable("too many requests wait for the file"),
                TrySendError::Disconnected(_) => unavailable("the writer has stopped"),
            })?;
        answer
            .await
            .unwrap_or_else(|_| Err(unavailable("the writer has stopped")))
    }

    /// Runs `work` in a transaction behind all that was asked before; if that fails, `failed`.
    /// Whether there was room for it.
    pub(super) fn run_unattended(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
        failed: impl FnOnce(&StoreError) + Send + 'static,
    ) -> bool {
        self.unattended.fetch_add(1, Ordering::Relaxed);
        let job = Unattended {
            work: Some(work),
            failed,
            count: Arc::clone(&self.unattended),
        };
        let sent = self.requests.try_send(Box::new(job)).is_ok();
        if !sent {
            self.unattended.fetch_sub(1, Ordering::Relaxed);
        }
        sent
    }

    /// Returns when what nobody waits for has been done, as far as it has been asked.
    pub(super) async fn catch_up(&self) {
        if self.unattended.load(Ordering::Acquire) > 0 {
            // A failure concerns those whose requests they are.
            let _ = self.run(|_| Ok(()), |_, ()| Ok(())).await;
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
    /// Whether it is still to be done: somebody waits for the answer, or nobody ever did.
    fn is_wanted(&self) -> bool;
    /// Does the work inside the open transaction.
    fn work(&mut self, connection: &Connection) -> rusqlite::Result<()>;
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
    W: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    U: FnOnce(&Connection, T) -> rusqlite::Result<()> + Send + 'static,
{
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn work(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.value = Some(work(connection)?);
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
    U: FnOnce(&Connection, T) -> rusqlite::Result<()> + Send + 'static,
{
    fn is_wanted(&self) -> bool {
        true
    }

    fn work(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        match (self.undo.take(), self.value.take()) {
            (Some(undo), Some(value)) => undo(connection, value),
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
    count: Arc<AtomicUsize>,
}

impl<W, F> Job for Unattended<W, F>
where
    W: FnOnce(&Connection) -> rusqlite::Result<()> + Send,
    F: FnOnce(&StoreError) + Send,
{
    fn is_wanted(&self) -> bool {
        true
    }

    fn work(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        match self.work.take() {
            Some(work) => work(connection),
            None => Ok(()),
        }
    }

    fn answer(self: Box<Self>, failure: Option<&StoreError>) -> Option<Box<dyn Job>> {
        if let Some(error) = failure {
            (self.failed)(error);
        }
        self.count.fetch_sub(1, Ordering::Release);
        None
    }
}

fn run(connection: &Connection, requests: &Receiver<Box<dyn Job>>) {
    let mut undo: Vec<Box<dyn Job>> = Vec::new();
    let mut pace = Pace::new();
    loop {
        let mut batch = std::mem::take(&mut undo);
        if batch.is_empty() {
            match requests.recv() {
                Ok(job) => batch.push(job),
                Err(_) => return,
            }
        }
        pace.wait();
        while batch.len() < BATCH
            && let Ok(job) = requests.try_recv()
        {
            batch.push(job);
        }
        // Whoever has given up has been told so; doing it now would only strand what it reserves.
        batch.retain(|job| job.is_wanted());
        if batch.is_empty() {
            continue;
        }
        pace.begin(batch.len());
        let failure = commit(connection, &mut batch).err().map(|error| {
            // The transaction may already be gone, as after a full disk.
            let _ = connection.execute_batch("ROLLBACK");
            StoreError::Unavailable(error.to_string())
        });
        undo.extend(
            batch
                .into_iter()
                .filter_map(|job| job.answer(failure.as_ref())),
        );
    }
}

fn commit(connection: &Connection, batch: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    for job in batch {
        job.work(connection)?;
    }
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}
