//! Moves what has been committed from the write-ahead log into the file, beside the writer: the disk
//! may take half a second over it, and no reservation should wait for that.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rusqlite::Connection;

/// How often it is done.
const INTERVAL: Duration = Duration::from_secs(1);

/// The writer itself does it only when the log has grown to so many pages (200 MiB): then this
/// thread has failed.
pub(super) const WRITER_PAGES: i64 = 51_200;

/// The thread ends when this is dropped.
pub(super) struct Checkpoints {
    _stop: Sender<()>,
}

impl Checkpoints {
    /// Starts the thread, with a connection of its own.
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        std::thread::Builder::new()
            .name("usage-checkpoint".to_owned())
            .spawn(move || run(&connection, &stopped))?;
        Ok(Self { _stop: stop })
    }
}

fn run(connection: &Connection, stopped: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(INTERVAL) {
        // Passive: it never makes the writer wait. What it cannot move now it moves next time.
        let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    }
}
