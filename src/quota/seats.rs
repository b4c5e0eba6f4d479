//! Seats that sessions have left to the next ones of their client.
//!
//! A session whose client comes again and again leaves its slot, and what it reserved and did not
//! spend, where they are: the store has counted them, so the client's next session can take them
//! over without asking it. What nobody takes over goes back after [`KEPT_FOR`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Limits;
use super::client::Presence;
use super::meter::Meter;
use crate::ids::ClientId;

/// So long a seat stays vacant. A client whose sessions start further apart than this leaves none.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(1);

/// So many of one client stay vacant at most.
const MOST_VACANT: usize = 16;

/// A seat that nobody sits in.
pub(super) struct Seat {
    pub(super) client: Arc<Presence>,
    pub(super) meter: Arc<Meter>,
    /// The plan that it was kept under.
    pub(super) limits: Arc<Limits>,
    /// [`Books::era`](crate::usage::Books::era) when it was kept.
    pub(super) era: u64,
    pub(super) since: Instant,
}

/// The vacant seats of all clients. Locked when sessions start and end, never between.
#[derive(Default)]
pub(super) struct Seats {
    rows: Mutex<Rows>,
    /// Whether somebody takes back what is not taken over.
    is_tended: AtomicBool,
}

#[derive(Default)]
struct Rows {
    clients: HashMap<ClientId, Row>,
    /// No session will come any more.
    is_closed: bool,
}

#[derive(Default)]
struct Row {
    vacant: Vec<Seat>,
    /// When a session of this client was last let in.
    last_start: Option<Instant>,
}

impl Seats {
    /// A session starts. Whether another one did a short while ago, so that one more may follow.
    pub(super) fn note_start(&self, client: &ClientId) -> bool {
        let now = Instant::now();
        let mut rows = self.rows.lock();
        let Some(row) = rows.clients.get_mut(client) else {
            let last_start = Some(now);
            let vacant = Vec::new();
            rows.clients
                .insert(client.clone(), Row { vacant, last_start });
            return false;
        };
        let last = row.last_start.replace(now);
        last.is_some_and(|last| now - last < KEPT_FOR)
    }

    /// The seat that was left last.
    pub(super) fn take(&self, client: &ClientId) -> Option<Seat> {
        self.rows.lock().clients.get_mut(client)?.vacant.pop()
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self, client: &ClientId) -> bool {
        let rows = self.rows.lock();
        let row = rows.clients.get(client);
        !rows.is_closed && row.is_none_or(|row| row.vacant.len() < MOST_VACANT)
    }

    /// Keeps a seat; it comes back when no session will come for it.
    pub(super) fn leave(&self, seat: Seat) -> Result<(), Seat> {
        let mut rows = self.rows.lock();
        if rows.is_closed {
            return Err(seat);
        }
        let row = rows.clients.entry(seat.client.id.clone()).or_default();
        row.vacant.push(seat);
        Ok(())
    }

    /// Clients that have left seats vacant for so long. Those of whom nothing is known that matters
    /// are forgotten.
    pub(super) fn with_older(&self, than: Duration) -> Vec<Arc<Presence>> {
        let now = Instant::now();
        let mut found = Vec::new();
        self.rows.lock().clients.retain(|_, row| {
            let old = row.vacant.iter().find(|seat| now - seat.since >= than);
            found.extend(old.map(|seat| Arc::clone(&seat.client)));
            let is_recent = row.last_start.is_some_and(|start| now - start < KEPT_FOR);
            !row.vacant.is_empty() || is_recent
        });
        found
    }

    /// A seat that this client has left vacant for so long.
    pub(super) fn take_older(&self, client: &ClientId, than: Duration) -> Option<Seat> {
        let now = Instant::now();
        let mut rows = self.rows.lock();
        let vacant = &mut rows.clients.get_mut(client)?.vacant;
        let old = vacant.iter().position(|seat| now - seat.since >= than)?;
        Some(vacant.remove(old))
    }

    /// From now on none is kept.
    pub(super) fn close(&self) {
        self.rows.lock().is_closed = true;
    }

    /// Whether there is nothing to tend to.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.lock().clients.is_empty()
    }

    /// Whether the caller is to tend to the seats, because nobody does.
    pub(super) fn start_tending(&self) -> bool {
        !self.is_tended.load(Ordering::Acquire) && !self.is_tended.swap(true, Ordering::AcqRel)
    }

    /// The caller tends to them no longer.
    pub(super) fn stop_tending(&self) {
        self.is_tended.store(false, Ordering::Release);
    }
}
