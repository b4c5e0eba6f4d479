//! A seat: a slot among the sessions of a client, with the characters reserved there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Characters, Opening};
use crate::ids::SessionId;

/// A seat as the books know it, and who sits there. A seat is named after the first session in it;
/// for a moment after its session has ended it may stay the client's, for the next one.
#[derive(Debug)]
pub struct LiveSession {
    seat: SessionId,
    opening: Mutex<Option<Arc<Opening>>>,
    /// Characters reserved for it, those given back taken off.
    reserved: AtomicU64,
}

impl LiveSession {
    pub(super) fn new(opening: Arc<Opening>, reserved: Characters) -> Self {
        Self {
            seat: opening.session,
            opening: Mutex::new(Some(opening)),
            reserved: AtomicU64::new(reserved),
        }
    }

    /// The seat's name.
    #[must_use]
    pub fn seat(&self) -> SessionId {
        self.seat
    }

    /// What was known of the session there when it started; none when the seat is vacant.
    #[must_use]
    pub fn opening(&self) -> Option<Arc<Opening>> {
        self.opening.lock().clone()
    }

    /// Characters reserved there.
    #[must_use]
    pub fn reserved(&self) -> Characters {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Whether that session sits there and no other.
    pub(super) fn seats(&self, opening: &Arc<Opening>) -> bool {
        let seated = self.opening.lock();
        seated
            .as_ref()
            .is_some_and(|seated| Arc::ptr_eq(seated, opening))
    }

    /// Another session sits down, or none.
    pub(super) fn seat_next(&self, opening: Option<Arc<Opening>>) {
        *self.opening.lock() = opening;
    }

    /// Takes note of what was reserved (positive) or given back.
    pub(super) fn add_reserved(&self, characters: i64) {
        let add = |held: u64| Some(held.saturating_add_signed(characters));
        // The closure never refuses.
        let _ = self
            .reserved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}
