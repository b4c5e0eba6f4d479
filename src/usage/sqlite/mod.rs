//! The books in an SQLite file: one writer thread with group commit, one connection for reading.
//!
//! The file is in WAL mode: a reservation that was answered survives the death of the process, and
//! with `sqlite_synchronous = "full"` that of the machine.

mod batch;
mod checkpoint;
mod ops;
mod read;
mod schema;
mod writer;

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use self::batch::Batch;
use self::checkpoint::{Checkpoints, WRITER_PAGES};
use self::schema::SchemaError;
use self::writer::Writer;
use super::config::OpenError;
use super::store::{Boxed, SettleFailed, Store, TokenKey};
use super::{
    Adjust, Admit, Admitted, Heartbeat, LiveSession, Opening, Query, Readopt, Record, Reserve,
    Reserved, Settle, StoreError, Synchronous, UsageRow, WallClock, WindowKey,
};
use crate::ids::ClientId;

/// How long a write waits for another process that holds the file; less than a request waits.
const BUSY: Duration = Duration::from_millis(150);

/// How long opening and reading may wait for another process that holds the file.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Sqlite {
    writer: Writer,
    reader: Arc<Mutex<Connection>>,
    owner: Arc<str>,
    lease_ms: i64,
    clock: WallClock,
    _checkpoints: Checkpoints,
    /// Held as long as this process has the file; tells others that they are not alone.
    _presence: Mutex<Connection>,
}

impl Sqlite {
    /// Opens the file, makes it with its directory if it is missing, and enters sessions of dead
    /// processes as lost.
    pub(crate) fn open(
        path: &Path,
        synchronous: Synchronous,
        lease: Duration,
        clock: WallClock,
    ) -> Result<Self, OpenError> {
        let failed = |cause: &dyn std::fmt::Display, cure| OpenError {
            store: format!("sqlite:{}", path.display()),
            cause: cause.to_string(),
            cure,
        };
        const WRITABLE: &str = "let the relay's user write there, or name another path";
        create(path).map_err(|error| failed(&error, WRITABLE))?;
        let mut connection =
            connect(path, synchronous).map_err(|error| failed(&error, cure(&error)))?;
        schema::migrate(&mut connection).map_err(|error| {
            let cure = match &error {
                SchemaError::Newer(_) => "use the newer program, or name another path",
                SchemaError::Sqlite(error) => cure(error),
            };
            failed(&error, cure)
        })?;
        let (presence, alone) = presence(path).map_err(|error| failed(&error, WRITABLE))?;
        let owner: Arc<str> = crate::ids::SessionId::random().to_string().into();
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        first_steps(&mut connection, &owner, clock.now_ms(), lease_ms, alone)
            .map_err(|error| failed(&error, cure(&error)))?;
        let settled = presence
            .execute_batch(HOLD_PRESENCE)
            .and_then(|()| connection.busy_timeout(BUSY));
        settled.map_err(|error| failed(&error, WRITABLE))?;
        let reader = open_reader(path).map_err(|error| failed(&error, cure(&error)))?;
        let beside = connect(path, synchronous).map_err(|error| failed(&error, cure(&error)))?;
        let checkpoints =
            Checkpoints::start(beside).map_err(|error| failed(&error, "free a thread"))?;
        let writer = Writer::start(connection).map_err(|error| failed(&error, "free a thread"))?;
        Ok(Self {
            writer,
            reader: Arc::new(Mutex::new(reader)),
            owner,
            lease_ms,
            clock,
            _checkpoints: checkpoints,
            _presence: Mutex::new(presence),
        })
    }

    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Boxed<'_, T> {
        self.write_batch(|batch| work(batch.all()?))
    }

    /// The same for what knows how to add to a batch.
    fn write_batch<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Boxed<'_, T> {
        Box::pin(self.writer.run(work, |_, _| Ok(())))
    }

    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Boxed<'_, T> {
        let reader = self.reader.clone();
        Box::pin(async move {
            // What this process has ended is to be seen; a file that is locked can be read all the
            // same.
            let _ = tokio::time::timeout(BUSY, self.writer.catch_up()).await;
            let done = tokio::task::spawn_blocking(move || work(&reader.lock())).await;
            done.map_err(|error| StoreError::Unavailable(error.to_string()))?
                .map_err(|error| StoreError::Unavailable(error.to_string()))
        })
    }
}

/// Reads the file while a relay may be writing it; takes no part in leases.
pub(crate) struct SqliteReader(Mutex<Connection>);

impl SqliteReader {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |cause: String, cure| OpenError {
            store: format!("sqlite:{}", path.display()),
            cause,
            cure,
        };
        const THE_FILE: &str = "name the file that the relay writes, and let this user read it";
        let opened = open_reader(path).and_then(|reader| {
            reader.query_row("SELECT count(*) FROM daily WHERE 0", [], |_| Ok(()))?;
            let version = schema::version(&reader)?;
            Ok((reader, version))
        });
        let (reader, version) = opened.map_err(|error| failed(error.to_string(), THE_FILE))?;
        match version.cmp(&schema::VERSION) {
            Ordering::Equal => Ok(Self(Mutex::new(reader))),
            Ordering::Less => Err(failed(
                format!("a relay of an older version writes it (schema version {version})"),
                "start that relay anew with this version, or use its own program to read it",
            )),
            Ordering::Greater => Err(failed(
                SchemaError::Newer(version).to_string(),
                "use the newer program",
            )),
        }
    }

    pub(crate) fn usage(&self, query: &Query) -> Result<Vec<UsageRow>, StoreError> {
        read::usage(&self.0.lock(), query).map_err(|e| StoreError::Unavailable(e.to_string()))
    }

    pub(crate) fn recent(&self, limit: usize) -> Result<Vec<Record>, StoreError> {
        read::recent(&self.0.lock(), limit).map_err(|e| StoreError::Unavailable(e.to_string()))
    }
}

/// Revokes a token in a file that relays may be using. Tells whether the token waited there.
pub(crate) fn revoke(
    path: &Path,
    synchronous: Synchronous,
    key: TokenKey,
    ttl: Duration,
    clock: &WallClock,
) -> Result<bool, OpenError> {
    let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    let expires_ms = clock.now_ms().saturating_add(ttl_ms);
    let revoked = connect(path, synchronous).and_then(|mut db| {
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let waited = ops::revoke(&transaction, key, expires_ms)?;
        transaction.commit()?;
        Ok(waited)
    });
    revoked.map_err(|error| OpenError {
        store: format!("sqlite:{}", path.display()),
        cause: error.to_string(),
        cure: "name the file that the relay writes, and let this user write it",
    })
}

/// Makes the file, readable for its owner alone, and its directory. SQLite's own side files take
/// over the mode.
fn create(path: &Path) -> std::io::Result<()> {
    if let Some(directory) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    for path in [path, &presence_path(path)] {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)?;
    }
    Ok(())
}

fn connect(path: &Path, synchronous: Synchronous) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", synchronous.as_str())?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "wal_autocheckpoint", WRITER_PAGES)?;
    // Only an `Outcome` is ever written where the ledger checks for one. SQLite would make a table of
    // the names that are allowed, in memory, for each row: half of what the end of a session costs it.
    connection.pragma_update(None, "ignore_check_constraints", true)?;
    Ok(connection)
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    Ok(connection)
}

fn presence_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-owner");
    name.into()
}

/// An open read transaction keeps SQLite's shared lock on the file beside the books.
const HOLD_PRESENCE: &str = "COMMIT; BEGIN; SELECT count(*) FROM sqlite_schema";

/// Whether another live process has the books open. The operating system drops a lock with the
/// process that held it, so after a crash nobody has to wait for a lease to run out. While the
/// answer is "alone", the lock is exclusive, so that two starting processes cannot both hear it.
fn presence(path: &Path) -> rusqlite::Result<(Connection, bool)> {
    let connection = Connection::open(presence_path(path))?;
    connection.busy_timeout(Duration::ZERO)?;
    if connection.execute_batch("BEGIN EXCLUSIVE").is_ok() {
        return Ok((connection, true));
    }
    connection.busy_timeout(PATIENCE)?;
    connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
    Ok((connection, false))
}

/// Enters the dead as lost, then this process as alive.
fn first_steps(
    connection: &mut Connection,
    owner: &str,
    now_ms: i64,
    lease_ms: i64,
    alone: bool,
) -> rusqlite::Result<()> {
    loop {
        let transaction = connection.transaction()?;
        let mut batch = Batch::new(&transaction);
        let swept = ops::sweep(&mut batch, owner, now_ms, alone)?;
        batch.write()?;
        if swept == 0 {
            ops::heartbeat(&transaction, owner, now_ms, lease_ms)?;
            return transaction.commit();
        }
        transaction.commit()?;
        tracing::warn!(
            sessions = swept,
            "sessions that were live when a relay died are entered as lost"
        );
    }
}

fn cure(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "name another path, or put a good copy of the file there"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "end the program that holds the file"
        }
        Some(ErrorCode::DiskFull) => "free space on the disk",
        _ => "let the relay's user write the file and its directory, or name another path",
    }
}

impl Store for Sqlite {
    fn admit<'a>(&'a self, admit: &'a Admit) -> Boxed<'a, Admitted> {
        let (admit, undone) = (admit.clone(), admit.clone());
        let (owner, now_ms) = (self.owner.clone(), self.clock.now_ms());
        Box::pin(self.writer.run(
            move |batch| ops::admit(batch.rest(), &owner, now_ms, &admit),
            move |batch, admitted| match admitted {
                Admitted::Granted { ahead } => ops::unadmit(batch.all()?, &undone, ahead),
                Admitted::Busy { .. } | Admitted::Spent { .. } => Ok(()),
            },
        ))
    }

    fn reserve<'a>(&'a self, reserve: &'a Reserve) -> Boxed<'a, Reserved> {
        let (reserve, undone) = (reserve.clone(), reserve.clone());
        let (owner, now_ms) = (self.owner.clone(), self.clock.now_ms());
        Box::pin(self.writer.run(
            move |batch| ops::reserve(batch.all()?, &owner, now_ms, &reserve),
            move |batch, reserved| match reserved {
                Reserved::Granted(granted) => ops::unreserve(batch.all()?, &undone, granted),
                Reserved::Short { .. } => Ok(()),
            },
        ))
    }

    fn give_back<'a>(&'a self, client: &'a ClientId, adjust: &'a [Adjust]) -> Boxed<'a, ()> {
        let (client, adjust) = (client.clone(), adjust.to_vec());
        self.write(move |db| ops::give_back(db, &client, &adjust))
    }

    fn settle<'a>(&'a self, settle: &'a Settle) -> Boxed<'a, ()> {
        let settle = settle.clone();
        self.write_batch(move |batch| ops::settle(batch, &settle))
    }

    fn settle_in_turn(&self, settle: &Arc<Settle>, failed: SettleFailed) -> bool {
        let settle = Arc::clone(settle);
        self.writer
            .run_unattended(move |batch| ops::settle(batch, &settle), failed)
    }

    fn keeps_seats(&self) -> bool {
        true
    }

    fn seat_in_turn(&self, live: &Arc<LiveSession>, opening: &Arc<Opening>) {
        let (live, opening) = (Arc::clone(live), Arc::clone(opening));
        let enter = move |batch: &mut Batch<'_>| match live.seats(&opening) {
            true => ops::seat(batch, live.seat(), &opening),
            // It has ended meanwhile.
            false => Ok(()),
        };
        // One that is not entered is lost without its name, if this process dies; a store that
        // fails shows with the next request.
        self.writer.run_unattended(enter, |_| ());
    }

    fn used<'a>(&'a self, client: &'a ClientId, keys: &'a [WindowKey]) -> Boxed<'a, Vec<u64>> {
        let (client, keys) = (client.clone(), keys.to_vec());
        self.read(move |db| {
            keys.iter()
                .map(|key| ops::used(db, &client, *key))
                .collect()
        })
    }

    fn heartbeat(&self) -> Boxed<'_, Heartbeat> {
        let (owner, now_ms, lease_ms) = (self.owner.clone(), self.clock.now_ms(), self.lease_ms);
        self.write(move |db| ops::heartbeat(db, &owner, now_ms, lease_ms))
    }

    fn readopt<'a>(&'a self, sessions: &'a [Readopt]) -> Boxed<'a, ()> {
        let (owner, sessions) = (self.owner.clone(), sessions.to_vec());
        self.write(move |db| ops::readopt(db, &owner, &sessions))
    }

    fn sweep(&self) -> Boxed<'_, u64> {
        let (owner, now_ms) = (self.owner.clone(), self.clock.now_ms());
        self.write_batch(move |batch| ops::sweep(batch, &owner, now_ms, false))
    }

    fn prune(&self, before_ms: i64) -> Boxed<'_, u64> {
        let now_ms = self.clock.now_ms();
        self.write(move |db| ops::prune(db, now_ms, before_ms))
    }

    fn usage<'a>(&'a self, query: &'a Query) -> Boxed<'a, Vec<UsageRow>> {
        let query = query.clone();
        self.read(move |db| read::usage(db, &query))
    }

    fn recent(&self, limit: usize) -> Boxed<'_, Vec<Record>> {
        self.read(move |db| read::recent(db, limit))
    }

    fn put_token<'a>(&'a self, key: TokenKey, record: &'a str, ttl: Duration) -> Boxed<'a, ()> {
        let (record, expires_ms) = (record.to_owned(), self.after(ttl));
        self.write(move |db| ops::put_token(db, key, &record, expires_ms))
    }

    fn take_token(&self, key: TokenKey) -> Boxed<'_, Option<String>> {
        let now_ms = self.clock.now_ms();
        self.write(move |db| ops::take_token(db, key, now_ms))
    }

    fn revoke(&self, key: TokenKey, ttl: Duration) -> Boxed<'_, ()> {
        let expires_ms = self.after(ttl);
        self.write(move |db| ops::revoke(db, key, expires_ms).map(drop))
    }

    fn revoked(&self) -> Boxed<'_, Vec<TokenKey>> {
        let now_ms = self.clock.now_ms();
        self.read(move |db| ops::revoked(db, now_ms))
    }

    /// Longer than Redis has: a disk that is busy with something else takes a while to sync.
    fn deadline(&self) -> Duration {
        Duration::from_millis(400)
    }

    fn close(&self) -> Boxed<'_, ()> {
        let owner = self.owner.clone();
        self.write(move |db| {
            db.execute("UPDATE owners SET expires_ms = 0 WHERE id = ?1", [&*owner])
                .map(|_| ())
        })
    }
}

impl Sqlite {
    fn after(&self, ttl: Duration) -> i64 {
        self.clock
            .now_ms()
            .saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
    }
}
