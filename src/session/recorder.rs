//! Sessions written down, for a sandbox to replay: one file each, both directions, with times,
//! text and audio, without credentials.
//!
//! A session copies what crosses into a queue of bounded size that a thread of its own writes out.
//! When the disk cannot follow, recordings are given up and sessions go on: a file is there whole
//! or not at all.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::SessionEnd;
use crate::frame::Close;
use crate::ids::{SessionId, Side};
use crate::protocol::{Crossed, Recorded, RecordingHead, Secrets};

/// How much may wait to be written, over all sessions.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// What a queued message takes besides its payload.
const MESSAGE_OVERHEAD_BYTES: usize = 128;

/// The `[recording]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordingConfig {
    /// Where the files are put; without it nothing is recorded.
    pub directory: Option<PathBuf>,
    /// Which sessions are recorded.
    pub sessions: RecordedSessions,
}

/// Which sessions are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedSessions {
    /// Those of plans with `record = true`.
    #[default]
    Plans,
    /// Every one.
    All,
}

/// The recordings of this process.
pub struct Recordings {
    sessions: RecordedSessions,
    queue: Queue,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The way to the writing thread. What has a payload waits within [`MAX_QUEUED_BYTES`]; the rest is
/// two jobs a session.
#[derive(Clone)]
struct Queue {
    jobs: Sender<Job>,
    queued_bytes: Arc<AtomicUsize>,
}

enum Job {
    Begin(SessionId, Box<RecordingHead>),
    Write(SessionId, Line),
    /// The recording is whole, or is to be thrown away.
    End(SessionId, Outcome),
    Stop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Whole,
    GivenUp,
}

/// One line, before it is put into words.
struct Line {
    at_ms: u64,
    from: Side,
    payload: Payload,
    /// What it counts for in the queue.
    weight: usize,
}

enum Payload {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Close(Close),
    Lost,
}

impl Recordings {
    /// Makes the directory, if it is missing, and starts the thread that writes there; none if
    /// nothing is to be recorded.
    ///
    /// # Errors
    /// When the directory cannot be made or written to.
    pub fn start(config: &RecordingConfig) -> io::Result<Option<Arc<Self>>> {
        let Some(directory) = &config.directory else {
            return Ok(None);
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let probe = directory.join(format!("{}.part", SessionId::random()));
        create(&probe)?;
        fs::remove_file(&probe)?;

        let (jobs, received) = channel();
        let queue = Queue {
            jobs,
            queued_bytes: Arc::default(),
        };
        let mut writer = Writer {
            directory: directory.clone(),
            files: HashMap::new(),
            line: Vec::new(),
            queued_bytes: Arc::clone(&queue.queued_bytes),
        };
        let thread = std::thread::Builder::new()
            .name("recordings".to_owned())
            .spawn(move || writer.run(&received))?;
        Ok(Some(Arc::new(Self {
            sessions: config.sessions,
            queue,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Begins the recording of a session, if it is to be recorded: `plan_records` is what its plan
    /// says. `started` is when its times count from.
    #[must_use]
    pub fn begin(
        &self,
        plan_records: bool,
        session: SessionId,
        started: Instant,
        head: impl FnOnce() -> RecordingHead,
    ) -> Option<Recorder> {
        if self.sessions == RecordedSessions::Plans && !plan_records {
            return None;
        }
        let begun = self.queue.jobs.send(Job::Begin(session, Box::new(head())));
        begun.ok()?;
        Some(Recorder {
            queue: self.queue.clone(),
            session,
            started,
            pieces: Vec::new(),
            is_given_up: false,
            is_whole: false,
        })
    }

    /// Writes what waits and ends the thread. Blocks; for the end of the process.
    pub fn finish(&self) {
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        // Either the thread gets the order, or it has ended already.
        let _ = self.queue.jobs.send(Job::Stop);
        let _ = thread.join();
    }
}

/// Writes down one session. Dropped without [`finish`](Self::finish), it leaves no file.
pub struct Recorder {
    queue: Queue,
    session: SessionId,
    started: Instant,
    /// The payload of a message that goes on as it comes, as far as it has come; weighed already.
    pieces: Vec<u8>,
    is_given_up: bool,
    is_whole: bool,
}

impl Recorder {
    /// A whole message that `from` sent.
    pub(super) fn message(&mut self, from: Side, payload: &[u8], is_text: bool, now: Instant) {
        let weight = payload.len() + MESSAGE_OVERHEAD_BYTES;
        if self.weigh(weight) {
            let payload = payload.to_vec();
            let payload = if is_text {
                Payload::Text(payload)
            } else {
                Payload::Binary(payload)
            };
            self.write(from, payload, weight, now);
        }
    }

    /// A piece of a message from upstream that is too large to be held.
    pub(super) fn piece(&mut self, piece: &[u8]) {
        if self.weigh(piece.len()) {
            self.pieces.extend_from_slice(piece);
        }
    }

    /// The end of that message, which is written down without `secrets`.
    pub(super) fn end_of_pieces(&mut self, is_text: bool, secrets: &Secrets, now: Instant) {
        if self.weigh(MESSAGE_OVERHEAD_BYTES) {
            let mut payload = std::mem::take(&mut self.pieces);
            let weight = payload.len() + MESSAGE_OVERHEAD_BYTES;
            if secrets.contains(&payload) {
                payload = secrets.scrub(&payload).into_owned();
            }
            let payload = if is_text {
                Payload::Text(payload)
            } else {
                Payload::Binary(payload)
            };
            self.write(Side::Upstream, payload, weight, now);
        }
    }

    /// A close frame that `from` sent.
    pub(super) fn close(&mut self, from: Side, close: &Close, now: Instant) {
        if self.weigh(MESSAGE_OVERHEAD_BYTES) {
            self.write(
                from,
                Payload::Close(close.clone()),
                MESSAGE_OVERHEAD_BYTES,
                now,
            );
        }
    }

    /// The session is over; what has been written down is all of it.
    pub(super) fn finish(mut self, end: &SessionEnd) {
        if let SessionEnd::Lost(side) = end
            && self.weigh(MESSAGE_OVERHEAD_BYTES)
        {
            self.write(*side, Payload::Lost, MESSAGE_OVERHEAD_BYTES, Instant::now());
        }
        self.is_whole = true;
    }

    /// Takes room in the queue; without any, the recording is given up.
    fn weigh(&mut self, bytes: usize) -> bool {
        if self.is_given_up {
            return false;
        }
        let before = self.queue.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= MAX_QUEUED_BYTES {
            return true;
        }
        self.queue.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        tracing::warn!(
            session = %self.session,
            "the session is no longer recorded: the disk is too slow"
        );
        self.give_up();
        false
    }

    fn give_up(&mut self) {
        self.is_given_up = true;
        let pieces = std::mem::take(&mut self.pieces);
        self.queue
            .queued_bytes
            .fetch_sub(pieces.len(), Ordering::Relaxed);
    }

    fn write(&mut self, from: Side, payload: Payload, weight: usize, now: Instant) {
        let since_start = now.saturating_duration_since(self.started);
        let at_ms = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
        let line = Line {
            at_ms,
            from,
            payload,
            weight,
        };
        if self
            .queue
            .jobs
            .send(Job::Write(self.session, line))
            .is_err()
        {
            // The process is about to end.
            self.give_up();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let is_whole = self.is_whole && !self.is_given_up;
        self.give_up();
        let outcome = if is_whole {
            Outcome::Whole
        } else {
            Outcome::GivenUp
        };
        // Without the thread the process is about to end.
        let _ = self.queue.jobs.send(Job::End(self.session, outcome));
    }
}

/// Owns the files. A recording that cannot be written is taken out of `files`; what still comes
/// for it is dropped.
struct Writer {
    directory: PathBuf,
    files: HashMap<SessionId, File>,
    line: Vec<u8>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Writer {
    fn run(&mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Begin(session, head) => {
                    let begun = self.begin(session, &head);
                    self.check(session, begun);
                }
                Job::Write(session, line) => {
                    let written = self.write(session, &line);
                    self.check(session, written);
                    self.queued_bytes.fetch_sub(line.weight, Ordering::Relaxed);
                }
                Job::End(session, Outcome::Whole) => {
                    let ended = match self.files.remove(&session) {
                        Some(_) => fs::rename(self.part(session), self.whole(session)),
                        None => Ok(()),
                    };
                    self.check(session, ended);
                }
                Job::End(session, Outcome::GivenUp) => self.discard(session),
                Job::Stop => return,
            }
        }
    }

    fn begin(&mut self, session: SessionId, head: &RecordingHead) -> io::Result<()> {
        let mut file = create(&self.part(session))?;
        self.line.clear();
        serde_json::to_writer(&mut self.line, head)?;
        self.line.push(b'\n');
        let written = file.write_all(&self.line);
        self.files.insert(session, file);
        written
    }

    fn write(&mut self, session: SessionId, line: &Line) -> io::Result<()> {
        let Some(file) = self.files.get_mut(&session) else {
            return Ok(());
        };
        let what = match &line.payload {
            Payload::Text(text) => Crossed::Text {
                data: String::from_utf8_lossy(text),
            },
            Payload::Binary(bytes) => Crossed::Binary {
                data: STANDARD.encode(bytes).into(),
            },
            Payload::Close(close) => Crossed::Close {
                code: close.code,
                reason: close.reason.as_str().into(),
            },
            Payload::Lost => Crossed::Lost,
        };
        let recorded = Recorded {
            at_ms: line.at_ms,
            from: line.from,
            what,
        };
        self.line.clear();
        serde_json::to_writer(&mut self.line, &recorded)?;
        self.line.push(b'\n');
        file.write_all(&self.line)
    }

    fn check(&mut self, session: SessionId, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::warn!(
                session = %session,
                cause = %error,
                "the session is not recorded: its file cannot be written"
            );
            self.discard(session);
        }
    }

    fn discard(&mut self, session: SessionId) {
        if self.files.remove(&session).is_some() {
            // What cannot be written may not be removable either; it is not taken for a recording.
            let _ = fs::remove_file(self.part(session));
        }
    }

    /// Where a recording is written.
    fn part(&self, session: SessionId) -> PathBuf {
        self.directory.join(format!("{session}.jsonl.part"))
    }

    /// Where it stands once it is whole.
    fn whole(&self, session: SessionId) -> PathBuf {
        self.directory.join(format!("{session}.jsonl"))
    }
}

/// A new file that its owner alone can read.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
pub(super) mod tests;
