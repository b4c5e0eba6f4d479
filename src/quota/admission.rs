//! Leave to run one session, and the characters it may send.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::client::Presence;
use super::complete::Complete;
use super::meter::{Basis, Meter};
use super::{Inner, Limits, Refusal};
use crate::usage::{Characters, LedgerRow, Opening, Outcome, Record};

/// Leave to run one session. [`settle`](Self::settle) it; dropping it instead also frees its slot
/// and gives back what is unspent, in the background, and enters it as `abandoned`.
#[must_use = "dropping an admission ends it"]
pub struct Admission {
    pub(super) inner: Arc<Inner>,
    pub(super) client: Arc<Presence>,
    pub(super) meter: Arc<Meter>,
    pub(super) limits: Arc<Limits>,
    pub(super) opening: Arc<Opening>,
    pub(super) ahead: Characters,
    pub(super) cap: Option<Characters>,
    pub(super) charged: Characters,
    /// Whether the client's next session is likely to come soon.
    pub(super) leaves_seat: bool,
    pub(super) settled: bool,
}

/// A reservation under way. It borrows nothing, so a session can hold it while it does other things.
pub type Reserving = Pin<Box<dyn Future<Output = Reservation> + Send>>;

/// What came of a reservation; [`Admission::apply`] it. Dropped instead, its characters go back to
/// the session's block.
#[must_use = "characters are granted only once this is applied"]
pub struct Reservation {
    inner: Arc<Inner>,
    client: Arc<Presence>,
    meter: Arc<Meter>,
    characters: Characters,
    basis: Basis,
    outcome: Result<(), Refusal>,
}

impl Reservation {
    /// Takes the characters out, or says why there are none.
    fn redeem(mut self) -> Result<Characters, Refusal> {
        let outcome = std::mem::replace(&mut self.outcome, Err(Refusal::StoreUnavailable));
        outcome.map(|()| self.characters)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.outcome.is_ok() && self.characters > 0 {
            let left = self.meter.fill(self.characters, &self.basis);
            self.inner
                .give_back_later(self.client.clone(), left.into_iter().collect());
        }
    }
}

impl Admission {
    /// Charges a message, if the block that the session holds decides it: no lock, no waiting.
    /// `None` when the store must be asked, with [`reserve`](Self::reserve). A refused message
    /// costs nothing.
    pub fn try_charge(&mut self, characters: Characters) -> Option<Result<(), Refusal>> {
        if characters == 0 {
            return Some(Ok(()));
        }
        if let Err(refusal) = self.fits_session(characters) {
            return Some(Err(refusal));
        }
        if !self.meter.try_take(characters, self.inner.now_ms()) {
            return None;
        }
        self.charged += characters;
        if self.ahead > 0 && self.meter.runs_low() {
            self.refill();
        }
        Some(Ok(()))
    }

    // Once in many messages, and the task it begins takes kilobytes of a stack frame.
    #[cold]
    #[inline(never)]
    fn refill(&self) {
        self.inner
            .refill(&self.client, &self.meter, self.basis(), self.ahead);
    }

    /// Asks the store for a message that the block does not cover. Dropping the future is safe at
    /// any time: what it was granted stays with the session.
    pub fn reserve(&mut self, characters: Characters) -> Reserving {
        let (reply, answer) = oneshot::channel();
        let (inner, client, meter) = (self.inner.clone(), self.client.clone(), self.meter.clone());
        let (basis, ahead) = (self.basis(), self.ahead);
        let lost = self.reservation(characters, Basis::default(), Err(Refusal::StoreUnavailable));
        // On a task of its own, so that an answer finds its way into the books even if the session
        // no longer waits for it.
        self.inner.spawn_here(async move {
            let outcome = inner
                .reserve(&client, &meter, &basis, characters, ahead)
                .await;
            let reservation = Reservation {
                inner,
                client,
                meter,
                characters,
                basis,
                outcome,
            };
            // Nobody waiting means that the reservation is dropped, which returns its characters.
            drop(reply.send(reservation));
        });
        Box::pin(async move { answer.await.unwrap_or(lost) })
    }

    /// Takes a message's characters out, from the block or the store, for a caller that charges them
    /// with [`apply`](Self::apply) once it knows that the message has gone up. They stay reserved, so
    /// a crash counts them as spent, until then.
    ///
    /// # Errors
    /// Why the message must not go up.
    pub async fn hold(&mut self, characters: Characters) -> Result<Reservation, Refusal> {
        self.fits_session(characters)?;
        let set_aside = match characters {
            0 => Some(Basis::default()),
            _ => self.meter.set_aside(characters, self.inner.now_ms()),
        };
        if let Some(basis) = set_aside {
            return Ok(self.reservation(characters, basis, Ok(())));
        }
        let reservation = self.reserve(characters).await;
        match &reservation.outcome {
            Ok(()) => Ok(reservation),
            Err(refusal) => {
                self.note_refusal(refusal);
                Err(refusal.clone())
            }
        }
    }

    fn reservation(
        &self,
        characters: Characters,
        basis: Basis,
        outcome: Result<(), Refusal>,
    ) -> Reservation {
        Reservation {
            inner: self.inner.clone(),
            client: self.client.clone(),
            meter: self.meter.clone(),
            characters,
            basis,
            outcome,
        }
    }

    /// Charges what a reservation brought.
    ///
    /// # Errors
    /// Why the message must not go up.
    pub fn apply(&mut self, reservation: Reservation) -> Result<(), Refusal> {
        match reservation.redeem() {
            Ok(characters) => {
                self.charged += characters;
                Ok(())
            }
            Err(refusal) => {
                self.note_refusal(&refusal);
                Err(refusal)
            }
        }
    }

    /// Charges a message, asking the store where it must be asked; for callers that can wait.
    ///
    /// # Errors
    /// Why the message must not go up.
    pub async fn charge(&mut self, characters: Characters) -> Result<(), Refusal> {
        match self.try_charge(characters) {
            Some(charged) => charged,
            None => {
                let reservation = self.reserve(characters).await;
                self.apply(reservation)
            }
        }
    }

    /// Counts a refusal that the session itself found, such as of a voice that a message names.
    pub fn note_refusal(&self, refusal: &Refusal) {
        self.inner.note(refusal);
    }

    /// What the session may do at present.
    #[must_use]
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Puts other limits in force, for the next message on.
    pub fn set_limits(&mut self, limits: Arc<Limits>) {
        self.limits = limits;
        self.meter.expire();
    }

    /// Characters charged so far.
    #[must_use]
    pub fn charged(&self) -> Characters {
        self.charged
    }

    /// What they cost, in thousandths of a credit.
    #[must_use]
    pub fn milli_credits(&self) -> u64 {
        self.charged.saturating_mul(self.opening.milli_rate)
    }

    /// When the session was admitted, Unix time in milliseconds.
    #[must_use]
    pub fn started_ms(&self) -> i64 {
        self.opening.started_ms
    }

    /// Ends the session: gives back what is unspent, enters the row, frees the slot. What the row
    /// says of characters forwarded and credits is replaced by what was charged. If the store is
    /// down, the row is entered as soon as it is back.
    pub async fn settle(mut self, row: LedgerRow) {
        self.settled = true;
        let record = self.charged_record(row, Outcome::Ended);
        // It happens even if the caller is dropped here.
        let heir = self.leaves_seat.then(|| Arc::clone(&self.limits));
        Complete::new(self.finish(record, heir), &self.inner.runtime).await;
    }

    /// What is charged at this moment.
    fn basis(&self) -> Basis {
        let (now_ms, rate) = (self.inner.now_ms(), self.opening.milli_rate);
        self.meter.basis(self.limits.spending(now_ms, rate))
    }

    fn charged_record(&self, row: LedgerRow, outcome: Outcome) -> Record {
        // The row of another session would free that one's slot.
        let row = LedgerRow {
            session: self.opening.session,
            client: self.opening.client.clone(),
            ..row
        };
        let mut record = Record::new(row, outcome);
        record.characters_forwarded = self.charged;
        record.characters_asked = record.characters_asked.max(self.charged);
        record.milli_credits = self.milli_credits();
        record
    }

    fn finish(
        &self,
        record: Record,
        heir: Option<Arc<Limits>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (inner, client, meter) = (self.inner.clone(), self.client.clone(), self.meter.clone());
        async move { inner.finish(&client, &meter, record, heir).await }
    }

    /// Holds the message against the limits of the session; a refusal is counted.
    fn fits_session(&self, characters: Characters) -> Result<(), Refusal> {
        let limits = [self.limits.max_session_characters, self.cap];
        match limits.into_iter().flatten().min() {
            Some(limit) if self.charged.saturating_add(characters) > limit => {
                let refusal = Refusal::SessionCharacters {
                    limit,
                    used: self.charged,
                    asked: characters,
                };
                self.note_refusal(&refusal);
                Err(refusal)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut record = Record::opened(&self.opening);
        record.outcome = Outcome::Ended;
        record.ending = "abandoned".into();
        record.ended_ms = self.inner.now_ms().max(record.started_ms);
        record.characters_asked = self.charged;
        record.characters_forwarded = self.charged;
        record.milli_credits = self.milli_credits();
        self.inner.runtime.spawn(self.finish(record, None));
    }
}
