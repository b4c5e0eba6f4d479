//! What one seat holds: characters granted ahead of need, and which windows they were taken from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::ids::SessionId;
use crate::usage::{Adjust, Characters, Charge, LiveSession, WindowKey};

/// Granted characters of one seat, for the session in it. Its own message path only decrements an
/// atomic that no other session writes, except when a sibling near the limit takes the whole block.
pub(super) struct Meter {
    pub(super) live: Arc<LiveSession>,
    held: AtomicU64,
    /// Until when the block may be spent, Unix milliseconds: the end of its first window to end.
    valid_until_ms: AtomicI64,
    /// The most to reserve ahead the next time.
    next_block: AtomicU64,
    /// Below this a further block is fetched while the session goes on; a quarter of the last one.
    low_water: AtomicU64,
    refilling: AtomicBool,
    /// Taken by whoever adds to `held` or takes all of it; never on the message path of a socket.
    block: Mutex<Block>,
}

/// The windows that characters are taken from, under limits that were in force.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Basis {
    pub(super) charges: Arc<[Charge]>,
    /// Which of the session's limits these are, counted from its start.
    version: u64,
}

#[derive(Default)]
struct Block {
    /// What the held characters were charged to; they may only be spent under the same limits.
    basis: Basis,
    /// Which limits are in force. A request that was sent under others may still bring characters.
    version: u64,
    /// Corrections that the store does not know yet.
    pending: Vec<Adjust>,
    /// The session is settled; nothing may be added any more.
    closed: bool,
}

impl Meter {
    /// The first block of a session in characters: a few sentences. Each further one may be twice as
    /// large as the one before: what a process that dies takes with it is in proportion to what its
    /// sessions spent.
    pub(super) const FIRST_BLOCK: Characters = 2048;

    /// What a session must leave for the next one to go on with it, and what it leaves at most.
    const WORTH_KEEPING: Characters = Self::FIRST_BLOCK / 8;
    const MOST_KEPT: Characters = 2 * Self::FIRST_BLOCK;

    /// A block is to cover so many messages of the size that called for it.
    const MESSAGES_AHEAD: u64 = 8;

    pub(super) fn new(live: Arc<LiveSession>) -> Self {
        Self {
            live,
            held: AtomicU64::new(0),
            valid_until_ms: AtomicI64::new(0),
            next_block: AtomicU64::new(2 * Self::FIRST_BLOCK),
            low_water: AtomicU64::new(0),
            refilling: AtomicBool::new(false),
            block: Mutex::default(),
        }
    }

    fn seat(&self) -> SessionId {
        self.live.seat()
    }

    /// `charges` as made of the limits that are in force now.
    pub(super) fn basis(&self, charges: Vec<Charge>) -> Basis {
        Basis {
            charges: charges.into(),
            version: self.block.lock().version,
        }
    }

    /// Pays from the block, if it covers all of it and its windows still run.
    pub(super) fn try_take(&self, characters: Characters, now_ms: i64) -> bool {
        now_ms < self.valid_until_ms.load(Ordering::Relaxed) && self.take(characters)
    }

    /// The same for what may have to come back: says what it was charged to.
    pub(super) fn set_aside(&self, characters: Characters, now_ms: i64) -> Option<Basis> {
        let block = self.block.lock();
        self.try_take(characters, now_ms)
            .then(|| block.basis.clone())
    }

    /// How many characters to reserve ahead of a message of `characters`, `most` at most.
    pub(super) fn next_block(&self, characters: Characters, most: Characters) -> Characters {
        let several = characters.saturating_mul(Self::MESSAGES_AHEAD);
        let next = self.next_block.load(Ordering::Relaxed);
        let next = next.max(several).min(most);
        self.next_block
            .store(next.saturating_mul(2), Ordering::Relaxed);
        next
    }

    /// Whether the block has run low and nobody is fetching another one. The caller then does, and
    /// says so with [`refilled`](Self::refilled).
    pub(super) fn runs_low(&self) -> bool {
        self.held() < self.low_water.load(Ordering::Relaxed)
            && !self.refilling.swap(true, Ordering::Relaxed)
    }

    pub(super) fn refilled(&self) {
        self.refilling.store(false, Ordering::Relaxed);
    }

    /// Notes how much was granted beyond the need. Near the limit that is nothing, and then nothing
    /// is fetched ahead either.
    pub(super) fn granted_ahead(&self, characters: Characters) {
        self.low_water.store(characters / 4, Ordering::Relaxed);
    }

    /// Characters held and not spent.
    pub(super) fn held(&self) -> Characters {
        self.held.load(Ordering::Relaxed)
    }

    /// What of a window's counter this session holds unspent.
    pub(super) fn held_of(&self, key: WindowKey) -> u64 {
        let block = self.block.lock();
        let each = block
            .basis
            .charges
            .iter()
            .find(|charge| charge.key == key)
            .map_or(0, |c| c.each);
        self.held().saturating_mul(each)
    }

    /// From now on the store must be asked, because limits have changed: what was granted before is
    /// not spent, and neither is what is still on its way.
    pub(super) fn expire(&self) {
        let mut block = self.block.lock();
        block.version += 1;
        self.valid_until_ms.store(0, Ordering::Relaxed);
    }

    /// Takes out what may be spent on `basis`. What was taken from other windows, because those
    /// have ended or the limits have changed, goes back with the next request.
    pub(super) fn take_for(&self, basis: &Basis) -> Characters {
        let mut block = self.block.lock();
        let held = self.held.swap(0, Ordering::AcqRel);
        if held == 0 || block.basis == *basis {
            return held;
        }
        let adjust = given_back(self.seat(), held, &block.basis.charges);
        block.pending.push(adjust);
        0
    }

    /// Takes out everything, for a sibling or another process.
    pub(super) fn take_all(&self) -> Option<(Characters, Basis)> {
        let block = self.block.lock();
        let held = self.held.swap(0, Ordering::AcqRel);
        (held > 0).then(|| (held, block.basis.clone()))
    }

    /// Adds characters that were taken from the windows of `basis`. What must not be spent comes
    /// back as a correction for the store: these, if the session is settled or its limits have
    /// changed since they were asked for; else what it held of other windows.
    #[must_use]
    pub(super) fn fill(&self, characters: Characters, basis: &Basis) -> Option<Adjust> {
        let mut block = self.block.lock();
        let back = |characters, charges: &[Charge]| {
            (characters > 0).then(|| given_back(self.seat(), characters, charges))
        };
        if block.closed || basis.version != block.version {
            return back(characters, &basis.charges);
        }
        let mut left = None;
        if block.basis != *basis {
            let held = self.held.swap(0, Ordering::AcqRel);
            left = back(held, &block.basis.charges);
            block.basis = basis.clone();
        }
        self.held.fetch_add(characters, Ordering::AcqRel);
        let charges = basis.charges.iter();
        let ends = charges.map(|charge| charge.key.end().saturating_mul(1000));
        self.valid_until_ms
            .store(ends.min().unwrap_or(i64::MAX), Ordering::Relaxed);
        left
    }

    /// Notes characters that went up without the store's leave.
    pub(super) fn owe(&self, characters: Characters, charges: &[Charge]) {
        let mut owed = given_back(self.seat(), characters, charges);
        owed.characters = -owed.characters;
        for (_, amount) in &mut owed.amounts {
            *amount = -*amount;
        }
        self.block.lock().pending.push(owed);
    }

    pub(super) fn take_pending(&self) -> Vec<Adjust> {
        std::mem::take(&mut self.block.lock().pending)
    }

    /// Keeps corrections after a request that failed. When it may have been carried out, a second
    /// giving back could free what is spent; a second charge cannot.
    pub(super) fn keep_pending(&self, pending: Vec<Adjust>, maybe_done: bool) {
        let kept = pending
            .into_iter()
            .filter(|adjust| !maybe_done || adjust.characters > 0);
        self.block.lock().pending.extend(kept);
    }

    /// Whether another session could go on with the block: it is worth it, and may be spent for a
    /// while.
    pub(super) fn is_worth_keeping(&self, now_ms: i64) -> bool {
        self.held() >= Self::WORTH_KEEPING && now_ms < self.valid_until_ms.load(Ordering::Relaxed)
    }

    /// Ends the session, but leaves the block to the next one: what goes back to the store of it.
    pub(super) fn leave(&self) -> Vec<Adjust> {
        let mut block = self.block.lock();
        let mut adjust = std::mem::take(&mut block.pending);
        let excess = self.held().saturating_sub(Self::MOST_KEPT);
        if excess > 0 && self.take(excess) {
            adjust.push(given_back(self.seat(), excess, &block.basis.charges));
        }
        adjust
    }

    /// Whether a session that would be charged like this can go on with what the last one left;
    /// begins anew for it.
    pub(super) fn resume(&self, charges: &[Charge], now_ms: i64) -> bool {
        let block = self.block.lock();
        let fits = !block.closed
            && *block.basis.charges == *charges
            && block.basis.version == block.version
            && self.is_worth_keeping(now_ms);
        if fits {
            self.next_block
                .store(2 * Self::FIRST_BLOCK, Ordering::Relaxed);
        }
        fits
    }

    fn take(&self, characters: Characters) -> bool {
        let rest = |held: Characters| held.checked_sub(characters);
        self.held
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, rest)
            .is_ok()
    }

    /// Ends the session: everything that goes back to the store.
    pub(super) fn close(&self) -> Vec<Adjust> {
        let mut block = self.block.lock();
        block.closed = true;
        let mut adjust = std::mem::take(&mut block.pending);
        let held = self.held.swap(0, Ordering::AcqRel);
        if held > 0 {
            adjust.push(given_back(self.seat(), held, &block.basis.charges));
        }
        adjust
    }
}

/// The correction that gives characters back to the windows they were taken from.
pub(super) fn given_back(seat: SessionId, characters: Characters, charges: &[Charge]) -> Adjust {
    let minus = |amount: u64| -i64::try_from(amount).unwrap_or(i64::MAX);
    let amount = |charge: &Charge| (charge.key, minus(characters.saturating_mul(charge.each)));
    Adjust {
        seat,
        characters: minus(characters),
        amounts: charges.iter().map(amount).collect(),
    }
}
