//! What clients have done: counters of every window, slots of live sessions and the ledger, in
//! `memory`, `sqlite` or `redis`. What clients *may* do is left to `quota`.
//!
//! [`Books`] is what the rest of the relay holds: one store behind a deadline and a breaker, with
//! its heartbeat, its sweeper of dead processes and its retention running in the background.

mod books;
mod clock;
mod config;
mod counters;
mod ledger;
mod live;
mod memory;
mod redis;
mod sqlite;
mod store;
mod window;

#[cfg(test)]
pub(crate) mod suite;

pub use books::{Books, Reader, Unavailable, open, open_reader, revoke};
pub use clock::WallClock;
pub use config::{Config, OnStoreFailure, OpenError, RedisUrl, StoreUrl, Synchronous};
pub use counters::{Counters, Histogram, Operation};
pub use ledger::{
    Day, GroupBy, InvalidDay, InvalidGroupBy, LedgerRow, Opening, Outcome, Query, Record, UsageRow,
};
pub use live::LiveSession;
pub use store::{
    Adjust, Admit, Admitted, Boxed, Heartbeat, Readopt, Reserve, Reserved, Settle, Store,
    StoreError, TokenKey,
};
pub use window::{Charge, Per, Unit, WindowKey};

pub(crate) use clock::unix_ms;
pub(crate) use window::utc_time;

/// Unicode scalar values of text.
pub type Characters = u64;
