//! What every store can do. All of it is atomic: it happens as a whole or not at all.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::window::{Charge, WindowKey};
use super::{Characters, LiveSession, Opening, Query, Record, UsageRow};
use crate::ids::{ClientId, SessionId};

/// What a store's methods return.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why a store did not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, does not answer, or refuses to write.
    #[error("{0}")]
    Unavailable(String),
    /// It no longer knows this process: it came back empty, or took it for dead.
    /// [`Store::heartbeat`] and [`Store::readopt`] make it known again.
    #[error("the store no longer knows this process")]
    Estranged,
}

/// Leave for one session is asked for.
#[derive(Clone, Debug)]
pub struct Admit {
    /// Who starts what.
    pub opening: Arc<Opening>,
    /// The most sessions of this client at once.
    pub max_concurrent: u64,
    /// Windows that count starts.
    pub starts: Vec<Charge>,
    /// Windows that count what is spent; each must have room for one character.
    pub spending: Vec<Charge>,
    /// Whether spent windows are no hindrance, because siblings still hold unspent characters.
    pub even_if_spent: bool,
    /// Characters to reserve ahead, if plenty is left.
    pub ahead: Characters,
}

/// The answer to [`Admit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// The slot is taken, the start counted, so many characters reserved.
    Granted {
        /// Characters reserved ahead.
        ahead: Characters,
    },
    /// All slots are taken.
    Busy {
        /// By so many sessions.
        live: u64,
    },
    /// A window is spent.
    Spent {
        /// Which; its limit is in the request.
        window: WindowKey,
        /// What the counter shows.
        used: u64,
    },
}

/// Characters for a session are asked for.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// The seat of the session that they are for.
    pub seat: SessionId,
    /// The session's client.
    pub client: ClientId,
    /// What they are charged to.
    pub charges: Arc<[Charge]>,
    /// At least so many.
    pub need: Characters,
    /// And up to so many more, if plenty is left.
    pub ahead: Characters,
    /// Applied first, and even if there is too little for `need`.
    pub adjust: Vec<Adjust>,
    /// Whether other processes should be told to give back what their idle sessions hold, if there
    /// is too little for `need`.
    pub call_in: bool,
}

/// A correction of counters: what a session gives back (negative), or spent without asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjust {
    /// Whose seat.
    pub seat: SessionId,
    /// Added to what is reserved there.
    pub characters: i64,
    /// Added to the counters, which never show less than nothing.
    pub amounts: Vec<(WindowKey, i64)>,
}

/// The answer to [`Reserve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// So many characters, at least those needed.
    Granted(Characters),
    /// Too little is left; nothing was reserved.
    Short {
        /// The window that falls short, as an index into the request's `charges`.
        window: usize,
        /// What the counter of each charge shows.
        used: Vec<u64>,
    },
}

/// The end of a session, or a refusal: the ledger row, and what is given back.
#[derive(Clone, Debug)]
pub struct Settle {
    /// Who spent.
    pub client: ClientId,
    /// Where the session sat.
    pub seat: SessionId,
    /// Whether the seat stays the client's, for its next session, with what is reserved there; only
    /// where the store [keeps seats](Store::keeps_seats).
    pub keeps_seat: bool,
    /// What goes into the ledger. A session is entered once; a second settlement changes nothing,
    /// except that it replaces a row that says the session was lost. None when a seat is given up
    /// that nobody sits in.
    pub record: Option<Record>,
    /// Corrections, applied only if the row is entered; without one, if the seat was there to be given
    /// up.
    pub adjust: Vec<Adjust>,
}

impl Settle {
    /// The end of a session that sat in a seat of its own, or was never admitted.
    #[must_use]
    pub fn new(client: ClientId, session: SessionId, record: Record) -> Self {
        Self {
            client,
            seat: session,
            keeps_seat: false,
            record: Some(record),
            adjust: Vec::new(),
        }
    }
}

/// A live session that a process makes known again.
#[derive(Clone, Debug)]
pub struct Readopt {
    /// Where it sits.
    pub seat: SessionId,
    /// Who sits there.
    pub opening: Arc<Opening>,
    /// What is reserved there.
    pub reserved: Characters,
}

/// The answer to a heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The store had lost its counters; those this process knew were put back.
    pub emptied: bool,
    /// The store had taken this process for dead; its sessions must be readopted.
    pub expired: bool,
}

/// The SHA-256 of a token. Stores never see a token itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenKey(pub [u8; 32]);

impl TokenKey {
    /// 64 hex digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        use fmt::Write as _;
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut hex, byte| {
                // Writing into a string cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            })
    }

    /// Reads what [`to_hex`](Self::to_hex) writes.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        let mut key = [0; 32];
        if hex.len() != 64 || !hex.is_ascii() {
            return None;
        }
        for (index, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Self(key))
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

/// Told why a settlement was not entered.
pub type SettleFailed = Box<dyn FnOnce(&StoreError) + Send>;

/// Counters, slots and the ledger, for one process among several.
pub trait Store: Send + Sync + 'static {
    /// Takes a slot, counts the start, enters the session as live, reserves characters ahead.
    fn admit<'a>(&'a self, admit: &'a Admit) -> Boxed<'a, Admitted>;

    /// Reserves characters for a live session.
    fn reserve<'a>(&'a self, reserve: &'a Reserve) -> Boxed<'a, Reserved>;

    /// Takes back what sessions of one client do not need.
    fn give_back<'a>(&'a self, client: &'a ClientId, adjust: &'a [Adjust]) -> Boxed<'a, ()>;

    /// Enters a ledger row and frees the session's slot.
    fn settle<'a>(&'a self, settle: &'a Settle) -> Boxed<'a, ()>;

    /// The same without an answer, behind all that this process has asked before and ahead of all
    /// that it asks from now on; `failed` is called if it does not come to it. Whether the store
    /// works like that, and has room.
    fn settle_in_turn(&self, settle: &Arc<Settle>, failed: SettleFailed) -> bool {
        let _ = (settle, failed);
        false
    }

    /// Whether a settlement may leave the session's seat, which is its slot and what is reserved
    /// there, to the client's next session. Other processes see such a seat as taken.
    fn keeps_seats(&self) -> bool {
        false
    }

    /// Enters who sits in a seat that was kept, in turn and without an answer, if it is still so by
    /// then. Until it is entered, a crash leaves the ledger a lost row without the session's name.
    fn seat_in_turn(&self, live: &Arc<LiveSession>, opening: &Arc<Opening>) {
        let _ = (live, opening);
    }

    /// What the counters show.
    fn used<'a>(&'a self, client: &'a ClientId, keys: &'a [WindowKey]) -> Boxed<'a, Vec<u64>>;

    /// Renews this process's lease. Also proves that the store can write.
    fn heartbeat(&self) -> Boxed<'_, Heartbeat>;

    /// Enters sessions of this process that the store does not know.
    fn readopt<'a>(&'a self, sessions: &'a [Readopt]) -> Boxed<'a, ()>;

    /// Enters some sessions of dead processes as lost and frees their slots. Returns how many;
    /// 0 when there are no more.
    fn sweep(&self) -> Boxed<'_, u64>;

    /// Deletes some of what ended before `before_ms` (Unix time in milliseconds): ledger rows,
    /// sums, counters, expired tokens. Returns how much; 0 when there is no more.
    fn prune(&self, before_ms: i64) -> Boxed<'_, u64>;

    /// Usage by client, day, model and voice.
    fn usage<'a>(&'a self, query: &'a Query) -> Boxed<'a, Vec<UsageRow>>;

    /// The newest ledger rows, newest first.
    fn recent(&self, limit: usize) -> Boxed<'_, Vec<Record>>;

    /// Keeps a single-use token's record for `ttl`.
    fn put_token<'a>(&'a self, key: TokenKey, record: &'a str, ttl: Duration) -> Boxed<'a, ()>;

    /// Takes a token's record out: of any number of callers, at most one gets it.
    fn take_token(&self, key: TokenKey) -> Boxed<'_, Option<String>>;

    /// Marks a token as revoked for `ttl`, and drops its record if it was a single-use token.
    fn revoke(&self, key: TokenKey, ttl: Duration) -> Boxed<'_, ()>;

    /// All revoked tokens whose time has not run out.
    fn revoked(&self) -> Boxed<'_, Vec<TokenKey>>;

    /// Clients for whom another process lately found too little; see [`Reserve::call_in`].
    fn called_in(&self) -> Boxed<'_, Vec<ClientId>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Whether other processes may hold reserved characters of the same clients.
    fn is_shared(&self) -> bool {
        false
    }

    /// How long it may take over one request of a session. No session may wait longer than 500 ms
    /// for its refusal.
    fn deadline(&self) -> Duration {
        Duration::from_millis(250)
    }

    /// Ends this process's lease, so that nobody waits for it to run out.
    fn close(&self) -> Boxed<'_, ()>;
}
