//! What clients may do: plans, admission, and charging before text goes up. The counters
//! themselves are kept by `usage`.
//!
//! Sessions spend from blocks that are reserved ahead of need, so the store stays off the message
//! path. Blocks shrink with what is left; a session that finds too little asks once more, alone,
//! and with what its siblings hold unspent. Over all sessions, forwarded never exceeds the limit.

mod admission;
mod client;
mod complete;
mod limits;
mod meter;
mod plan;
mod rates;
mod refusal;
mod seats;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::Handle;

pub use self::admission::{Admission, Reservation, Reserving};
pub use self::limits::{InvalidPlan, Limits};
pub use self::plan::{ParameterValue, PlanConfig, WindowConfig};
pub use self::rates::{InvalidRate, Rates, RatesConfig};
pub use self::refusal::Refusal;
pub use self::subscription::{Subscription, User};

use self::client::{Clients, Presence};
use self::complete::Complete;
use self::meter::{Basis, Meter};
use self::seats::{KEPT_FOR, Seat, Seats};
use crate::ids::{ClientId, SessionId, VoiceId};
use crate::metrics::Counter;
use crate::usage::{
    Adjust, Admit, Admitted, Books, Characters, Charge, LedgerRow, LiveSession, Opening, Outcome,
    Record, Reserve, Reserved, Settle, Unavailable, Unit, WindowKey,
};

/// How often a process looks whether another one wants idle blocks back.
const CALL_IN_POLL: Duration = Duration::from_millis(100);

/// How long a session that found too little waits for them.
const CALL_IN_WAIT: Duration = Duration::from_millis(200);

/// So long a client is expected to have plenty left, once it was seen.
const ROOMY_FOR: Duration = Duration::from_secs(60);

/// So many of them are remembered.
const MOST_ROOMY: usize = 10_000;

/// What all clients may do. Cloning is cheap.
#[derive(Clone)]
pub struct Quota {
    inner: Arc<Inner>,
}

/// Who wants to start what.
#[derive(Clone, Debug)]
pub struct AdmissionRequest {
    /// Who spends.
    pub client: ClientId,
    /// The client's plan.
    pub limits: Arc<Limits>,
    /// The session's or request's id.
    pub session: SessionId,
    /// The voice after [`Limits::resolve_voice`]; `None` where messages name it.
    pub voice: Option<VoiceId>,
    /// The model in effect, empty when none is known.
    pub model: Arc<str>,
    /// The output format in effect, empty when none is known.
    pub format: Arc<str>,
    /// The endpoint, as in [`LedgerRow::endpoint`].
    pub endpoint: &'static str,
    /// The most characters of this session, from a narrowed token.
    pub cap: Option<Characters>,
    /// Whether many messages are expected, so that a block is reserved ahead; false for requests
    /// that are charged once.
    pub streaming: bool,
}

impl AdmissionRequest {
    fn opening(&self, milli_rate: u64, started_ms: i64) -> Opening {
        Opening {
            session: self.session,
            client: self.client.clone(),
            plan: self.limits.plan.clone(),
            endpoint: self.endpoint,
            voice: VoiceId::or_nothing(self.voice.as_ref()),
            model: self.model.clone(),
            format: self.format.clone(),
            started_ms,
            milli_rate,
        }
    }
}

impl Quota {
    /// Quotas kept in `books`. Must be called inside a Tokio runtime.
    #[must_use]
    pub fn new(books: Arc<Books>, rates: Rates) -> Self {
        let inner = Arc::new(Inner {
            books,
            rates: ArcSwap::from_pointee(rates),
            clients: Arc::default(),
            seats: Seats::default(),
            roomy: Mutex::default(),
            refusals: Default::default(),
            runtime: Handle::current(),
        });
        if inner.books.is_shared() {
            inner.runtime.spawn(answer_calls(Arc::downgrade(&inner)));
        }
        Self { inner }
    }

    /// Puts other rates in force, for sessions that start from now on.
    pub fn set_rates(&self, rates: Rates) {
        self.inner.rates.store(Arc::new(rates));
    }

    /// The rates in force.
    #[must_use]
    pub fn rates(&self) -> Arc<Rates> {
        self.inner.rates.load_full()
    }

    /// The books that the quotas are kept in.
    #[must_use]
    pub fn books(&self) -> &Arc<Books> {
        &self.inner.books
    }

    /// Leave to run one session, or which limit refuses it. A refused start costs nothing.
    ///
    /// # Errors
    /// The limit. The caller counts the refusal with [`note_refusal`](Self::note_refusal) and enters
    /// it with [`record_refused`](Self::record_refused).
    pub async fn admit(&self, request: AdmissionRequest) -> Result<Admission, Refusal> {
        // A caller that goes away between the store's answer and its arrival must not take the slot
        // with it. What nobody takes is settled by being dropped.
        let inner = Arc::clone(&self.inner);
        let admitting = async move { inner.admit(request).await };
        Complete::new(admitting, &self.inner.runtime).await
    }

    /// Gives up what is kept for sessions to come and closes the books. Call it when all sessions are
    /// settled.
    pub async fn close(&self) {
        self.inner.seats.close();
        self.inner.give_up_seats(Duration::ZERO).await;
        self.inner.books.close().await;
    }

    /// Whether [`admit`](Self::admit) will most likely let this client in: a short while ago it had
    /// plenty left. Only good for doing things early that can be undone.
    #[must_use]
    pub fn expects_room(&self, client: &ClientId) -> bool {
        let roomy = self.inner.roomy.lock();
        roomy
            .get(client)
            .is_some_and(|since| since.elapsed() < ROOMY_FOR)
    }

    /// Enters a refused session or request in the ledger, in the background.
    pub fn record_refused(&self, row: LedgerRow) {
        let (client, session) = (row.client.clone(), row.session);
        let mut record = Record::new(row, Outcome::Refused);
        record.characters_forwarded = 0;
        record.milli_credits = 0;
        let settle = Settle::new(client, session, record);
        self.inner.books.settle_later(settle);
    }

    /// Counts a refusal of a session or request. Those of an admission's messages it counts itself.
    pub fn note_refusal(&self, refusal: &Refusal) {
        self.inner.note(refusal);
    }

    /// The counts of refusals by the limit's name.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, &Arc<Counter>)> {
        Refusal::LIMIT_NAMES.into_iter().zip(&self.inner.refusals)
    }

    /// Characters that live sessions hold unspent, and seats that are kept for the next ones.
    #[must_use]
    pub fn reserved_ahead(&self) -> Characters {
        self.inner
            .clients
            .all()
            .iter()
            .map(|client| client.held())
            .sum()
    }

    /// Live sessions of this process by client.
    #[must_use]
    pub fn live_sessions(&self) -> Vec<(ClientId, usize)> {
        let clients = self.inner.clients.all();
        clients
            .iter()
            .map(|client| (client.id.clone(), client.n_live()))
            .collect()
    }
}

struct Inner {
    books: Arc<Books>,
    rates: ArcSwap<Rates>,
    clients: Arc<Clients>,
    seats: Seats,
    /// Clients that had plenty left when they were last let in, and when that was.
    roomy: Mutex<HashMap<ClientId, Instant>>,
    refusals: [Arc<Counter>; Refusal::LIMIT_NAMES.len()],
    /// That of the process, which ends after those of the workers.
    runtime: Handle,
}

/// What came of asking the store once.
enum Attempt {
    Granted,
    /// Too little; what was needed beyond the session's own, and what the counters show.
    Short {
        need: Characters,
        window: usize,
        used: Vec<u64>,
    },
    Down(Unavailable),
}

impl Inner {
    fn now_ms(&self) -> i64 {
        self.books.clock().now_ms()
    }

    /// Has something done that a session waits for, on its own thread. What must outlive the sessions
    /// belongs to `runtime`.
    fn spawn_here(&self, work: impl Future<Output = ()> + Send + 'static) {
        let here = Handle::try_current();
        here.as_ref().unwrap_or(&self.runtime).spawn(work);
    }

    fn note(&self, refusal: &Refusal) {
        self.refusals[refusal.index()].inc();
    }

    async fn admit(self: &Arc<Self>, request: AdmissionRequest) -> Result<Admission, Refusal> {
        check_allowed(&request)?;
        let now_ms = self.now_ms();
        let rate = self.rates.load().milli_rate(&request.model);
        let opening = Arc::new(request.opening(rate, now_ms));
        let AdmissionRequest {
            limits,
            cap,
            streaming,
            ..
        } = request;
        let ahead = if streaming {
            self.books.reserve_ahead()
        } else {
            0
        };
        let client = self.clients.enter(&opening.client);
        // Together with the meter's entry: a sibling that counts what all hold must not miss it.
        let mut turn = client.turn.read().await;
        let leaves_seat = self.note_start(&opening.client) && streaming;
        let spending = limits.spending(now_ms, opening.milli_rate);
        let meter = match self.take_seat(&limits, &opening, &spending).await {
            Some(meter) => meter,
            None => {
                if client.has_vacant() {
                    // One is being given up: what was reserved there, and its slot, are in nobody's
                    // count before that is done.
                    drop(turn);
                    drop(client.turn.write().await);
                    turn = client.turn.read().await;
                }
                let admit = Admit {
                    opening: opening.clone(),
                    max_concurrent: limits.max_concurrent_sessions,
                    starts: limits.starts(now_ms),
                    spending,
                    even_if_spent: client.holds_any(),
                    ahead: Meter::FIRST_BLOCK.min(cap.map_or(ahead, |cap| ahead.min(cap))),
                };
                self.new_seat(&client, admit).await?
            }
        };
        drop(turn);
        Ok(Admission {
            inner: self.clone(),
            client,
            meter,
            limits,
            opening,
            ahead,
            cap,
            charged: 0,
            leaves_seat,
            settled: false,
        })
    }

    /// Asks the store for a slot and a first block. The caller has a turn.
    async fn new_seat(&self, client: &Presence, admit: Admit) -> Result<Arc<Meter>, Refusal> {
        let asked = self.ask_leave(client, &admit).await;
        // A request that reserves nothing ahead says nothing of what is left.
        if admit.ahead > 0 {
            self.note_room(&admit, client, asked.as_ref().map(|(_, granted)| *granted));
        }
        let (live, granted) = asked?;
        let meter = Arc::new(Meter::new(live));
        meter.granted_ahead(granted);
        // A meter just made is not closed, so everything fits in.
        let _ = meter.fill(granted, &meter.basis(admit.spending));
        client.join(meter.clone());
        Ok(meter)
    }

    /// Remembers whether there was plenty: a whole block, and slots for twice as many sessions.
    fn note_room(&self, admit: &Admit, client: &Presence, granted: Result<Characters, &Refusal>) {
        let n_live = client.n_live() as u64 + 1;
        let is_roomy = granted.is_ok_and(|granted| granted >= admit.ahead)
            && n_live.saturating_mul(2) <= admit.max_concurrent;
        let mut roomy = self.roomy.lock();
        if !is_roomy {
            roomy.remove(&client.id);
            return;
        }
        if roomy.len() >= MOST_ROOMY {
            roomy.clear();
        }
        roomy.insert(client.id.clone(), Instant::now());
    }

    async fn ask_leave(
        &self,
        client: &Presence,
        admit: &Admit,
    ) -> Result<(Arc<LiveSession>, Characters), Refusal> {
        match self.books.admit(admit).await {
            Ok((Admitted::Granted { ahead }, live)) => Ok((live, ahead)),
            Ok((Admitted::Busy { .. }, _)) => Err(Refusal::Sessions {
                limit: admit.max_concurrent,
            }),
            Ok((Admitted::Spent { window, used }, _)) => {
                let charges = admit.starts.iter().chain(&admit.spending);
                let charge = charges.into_iter().find(|charge| charge.key == window);
                let limit = charge.map_or(used, |charge| charge.limit);
                Err(self.window_refusal(client, window, limit, used, 0))
            }
            Err(_) if self.books.allows_failure() => {
                if client.n_live() as u64 >= admit.max_concurrent {
                    return Err(Refusal::Sessions {
                        limit: admit.max_concurrent,
                    });
                }
                Ok((self.books.admit_unasked(&admit.opening), 0))
            }
            Err(Unavailable { maybe_done }) => {
                if maybe_done {
                    self.free_unsure(&admit.opening);
                }
                Err(Refusal::StoreUnavailable)
            }
        }
    }

    /// Enters a refusal for a session of which the store may think that it was admitted; that frees
    /// its slot.
    fn free_unsure(&self, opening: &Opening) {
        let mut record = Record::opened(opening);
        record.outcome = Outcome::Refused;
        record.ending = Refusal::StoreUnavailable.error();
        record.milli_credits = 0;
        let settle = Settle::new(opening.client.clone(), opening.session, record);
        self.books.settle_later(settle);
    }

    /// Grants characters for one message; those beyond it go into the session's block.
    async fn reserve(
        self: &Arc<Self>,
        client: &Arc<Presence>,
        meter: &Arc<Meter>,
        basis: &Basis,
        characters: Characters,
        ahead: Characters,
    ) -> Result<(), Refusal> {
        let asking = Asking {
            inner: self,
            client,
            meter,
            basis,
            characters,
            ahead,
        };
        let attempt = {
            let _turn = client.turn.read().await;
            asking.attempt(Vec::new(), false).await
        };
        let attempt = match attempt {
            Attempt::Short { .. } => asking.exactly().await,
            other => other,
        };
        match attempt {
            Attempt::Granted => Ok(()),
            Attempt::Short { window, used, .. } => {
                let (charge, used) = (&basis.charges[window], used[window]);
                let asked = characters.saturating_mul(charge.each);
                Err(self.window_refusal(client, charge.key, charge.limit, used, asked))
            }
            Attempt::Down(_) if self.books.allows_failure() => {
                meter.owe(characters, &basis.charges);
                Ok(())
            }
            Attempt::Down(_) => Err(Refusal::StoreUnavailable),
        }
    }

    /// Fetches a further block in the background, for a session that spends its last one.
    fn refill(
        self: &Arc<Self>,
        client: &Arc<Presence>,
        meter: &Arc<Meter>,
        basis: Basis,
        ahead: Characters,
    ) {
        let (inner, client, meter) = (self.clone(), client.clone(), meter.clone());
        self.spawn_here(async move {
            {
                let _turn = client.turn.read().await;
                let characters = 0;
                let (inner, client, meter, basis) = (&inner, &client, &meter, &basis);
                let asking = Asking {
                    inner,
                    client,
                    meter,
                    basis,
                    characters,
                    ahead,
                };
                asking.fetch().await;
            }
            meter.refilled();
        });
    }

    /// A refusal in whole units; what sessions here hold unspent is not shown as used.
    fn window_refusal(
        &self,
        client: &Presence,
        key: WindowKey,
        limit: u64,
        used: u64,
        asked: u64,
    ) -> Refusal {
        let used = used.saturating_sub(client.held_of(key)).min(limit);
        let whole = |amount: u64| {
            if key.unit == Unit::Credits {
                amount.div_ceil(1000)
            } else {
                amount
            }
        };
        let wait_ms = key.end().saturating_mul(1000).saturating_sub(self.now_ms());
        Refusal::Window {
            unit: key.unit,
            per: key.per,
            limit: whole(limit),
            used: whole(used),
            asked: whole(asked),
            resets_at: key.end(),
            retry_after: u64::try_from(wait_ms).unwrap_or(0).div_ceil(1000).max(1),
        }
    }

    /// A seat that the client's last session has left, if it is of use for this one; those that
    /// are not are given up, so that the store that is asked next knows of it. The caller has a turn.
    async fn take_seat(
        &self,
        limits: &Arc<Limits>,
        opening: &Arc<Opening>,
        spending: &[Charge],
    ) -> Option<Arc<Meter>> {
        while let Some(seat) = self.seats.take(&opening.client) {
            let fits = self.knows(&seat)
                && Arc::ptr_eq(&seat.limits, limits)
                && seat.meter.resume(spending, self.now_ms());
            if fits {
                self.books.seat(&seat.meter.live, opening);
                // A store that has begun to ask who is live just before may have missed this one.
                if self.knows(&seat) {
                    seat.client.note_vacant(false);
                    return Some(seat.meter);
                }
                self.books.unseat(&seat.meter.live);
            }
            self.give_up(seat).await;
        }
        None
    }

    /// Whether the store has known of a seat ever since it was left.
    fn knows(&self, seat: &Seat) -> bool {
        self.books.keeps_seats() && self.books.era() == Some(seat.era)
    }

    /// Settles a session, and leaves its seat to the next one if `heir` says under which limits and
    /// that is worth it.
    async fn finish(
        self: Arc<Self>,
        client: &Arc<Presence>,
        meter: &Arc<Meter>,
        record: Record,
        heir: Option<Arc<Limits>>,
    ) {
        let heir = heir.and_then(|limits| {
            let n_live = client.n_live() as u64;
            let keeps = !limits.counts_starts()
                && n_live.saturating_mul(2) <= limits.max_concurrent_sessions
                && meter.is_worth_keeping(self.now_ms())
                && self.seats.has_room(&client.id)
                && self.books.keeps_seats();
            let era = self.books.era().filter(|_| keeps)?;
            Some((limits, era))
        });
        // What goes back must not be on its way while a sibling counts what is left.
        let turn = client.turn.read().await;
        let settle = Settle {
            client: client.id.clone(),
            seat: meter.live.seat(),
            keeps_seat: heir.is_some(),
            record: Some(record),
            adjust: match heir {
                Some(_) => meter.leave(),
                None => meter.close(),
            },
        };
        self.books.settle(settle).await;
        let Some((limits, era)) = heir else {
            drop(turn);
            return client.leave(meter);
        };
        client.note_vacant(true);
        let left = self.seats.leave(Seat {
            client: Arc::clone(client),
            meter: Arc::clone(meter),
            limits,
            era,
            since: Instant::now(),
        });
        match left {
            Ok(()) => self.tend(),
            Err(seat) => self.give_up(seat).await,
        }
    }

    /// A session of this client starts. Whether another one did a short while ago, so that the next
    /// one is likely to come soon.
    fn note_start(self: &Arc<Self>, client: &ClientId) -> bool {
        let is_brisk = self.seats.note_start(client);
        self.tend();
        is_brisk
    }

    /// Has somebody look after the seats, unless somebody does.
    fn tend(self: &Arc<Self>) {
        if self.seats.start_tending() {
            self.runtime.spawn(tend_seats(Arc::downgrade(self)));
        }
    }

    /// Gives back a seat that nobody sits in, with what is reserved there. The caller has a turn.
    async fn give_up(&self, seat: Seat) {
        let settle = Settle {
            client: seat.client.id.clone(),
            seat: seat.meter.live.seat(),
            keeps_seat: false,
            record: None,
            adjust: seat.meter.close(),
        };
        self.books.settle(settle).await;
        seat.client.leave(&seat.meter);
        seat.client.note_vacant(false);
    }

    /// Gives up the seats that have been vacant for so long.
    async fn give_up_seats(&self, vacant_for: Duration) {
        for client in self.seats.with_older(vacant_for) {
            // Not before there is a turn: what is in nobody's hands cannot be taken over.
            let _turn = client.turn.read().await;
            while let Some(seat) = self.seats.take_older(&client.id, vacant_for) {
                self.give_up(seat).await;
            }
        }
    }

    /// Gives back in the background what a settled session could no longer hold.
    fn give_back_later(self: &Arc<Self>, client: Arc<Presence>, adjust: Vec<Adjust>) {
        if adjust.is_empty() {
            return;
        }
        let inner = self.clone();
        self.runtime.spawn(async move {
            let _turn = client.turn.read().await;
            // If the store is down, what is not given back counts as spent.
            let _ = inner.books.give_back(&client.id, &adjust).await;
        });
    }
}

/// One message that the block did not cover.
struct Asking<'a> {
    inner: &'a Arc<Inner>,
    client: &'a Arc<Presence>,
    meter: &'a Arc<Meter>,
    basis: &'a Basis,
    characters: Characters,
    ahead: Characters,
}

impl Asking<'_> {
    /// Pays from what the session still holds and the store together.
    async fn attempt(&self, mut adjust: Vec<Adjust>, call_in: bool) -> Attempt {
        let own = self.meter.take_for(self.basis);
        if let Some(rest) = own.checked_sub(self.characters) {
            self.put(rest).await;
            return Attempt::Granted;
        }
        let need = self.characters - own;
        let pending = self.meter.take_pending();
        adjust.extend(pending.iter().cloned());
        let reserve = Reserve {
            seat: self.meter.live.seat(),
            client: self.client.id.clone(),
            charges: self.basis.charges.clone(),
            need,
            ahead: self.meter.next_block(self.characters, self.ahead),
            adjust,
            call_in,
        };
        match self.inner.books.reserve(&self.meter.live, &reserve).await {
            Ok(Reserved::Granted(granted)) => {
                self.meter.granted_ahead(granted.saturating_sub(need));
                self.put(granted.saturating_sub(need)).await;
                Attempt::Granted
            }
            Ok(Reserved::Short { window, used }) => {
                self.put(own).await;
                Attempt::Short { need, window, used }
            }
            Err(unavailable) => {
                self.put(own).await;
                self.meter.keep_pending(pending, unavailable.maybe_done);
                Attempt::Down(unavailable)
            }
        }
    }

    /// Fetches a block that no message needs yet. A failure shows when one does.
    async fn fetch(&self) {
        let reserve = Reserve {
            seat: self.meter.live.seat(),
            client: self.client.id.clone(),
            charges: self.basis.charges.clone(),
            need: 0,
            ahead: self.meter.next_block(0, self.ahead),
            adjust: Vec::new(),
            call_in: false,
        };
        if let Ok(Reserved::Granted(granted)) =
            self.inner.books.reserve(&self.meter.live, &reserve).await
        {
            self.meter.granted_ahead(granted);
            self.put(granted).await;
        }
    }

    /// Puts characters into the block. What it cannot take goes back before this turn is over, so
    /// that no sibling finds it neither held nor free.
    async fn put(&self, characters: Characters) {
        let left = self.meter.fill(characters, self.basis);
        self.give_back(left.as_slice()).await;
    }

    async fn give_back(&self, adjust: &[Adjust]) {
        if !adjust.is_empty() {
            // If the store is down, what is not given back counts as spent.
            let _ = self.inner.books.give_back(&self.client.id, adjust).await;
        }
    }

    /// Asks again while nobody else of this client does: what siblings hold and what the store has
    /// is then all there is. If that does not do and other processes share the store, they are
    /// asked to give back what their sessions hold, once.
    async fn exactly(&self) -> Attempt {
        let turn = self.client.turn.write().await;
        let attempt = self.with_siblings().await;
        let may_call_in = matches!(attempt, Attempt::Short { .. })
            && self.inner.books.is_shared()
            && self.client.may_call_in();
        if !may_call_in {
            return attempt;
        }
        let attempt = self.attempt(Vec::new(), true).await;
        if !matches!(attempt, Attempt::Short { .. }) {
            return attempt;
        }
        drop(turn);
        tokio::time::sleep(CALL_IN_WAIT).await;
        let _turn = self.client.turn.write().await;
        self.with_siblings().await
    }

    async fn with_siblings(&self) -> Attempt {
        let attempt = self.attempt(Vec::new(), false).await;
        let Attempt::Short { need, used, .. } = &attempt else {
            return attempt;
        };
        let taken = self
            .client
            .take_from_siblings(self.meter, &self.basis.charges, used, *need);
        let Some(taken) = taken else { return attempt };
        let attempt = self.attempt(taken.adjust(), false).await;
        if let Attempt::Down(Unavailable { maybe_done: false }) = attempt {
            self.give_back(&taken.put_back()).await;
        }
        attempt
    }
}

/// Gives up the seats that no session has taken over, as long as clients come.
async fn tend_seats(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(KEPT_FOR / 2).await;
        let Some(inner) = inner.upgrade() else { return };
        inner.give_up_seats(KEPT_FOR).await;
        if inner.seats.is_empty() {
            inner.seats.stop_tending();
            // A client may have come meanwhile, whose start found the seats tended.
            if inner.seats.is_empty() || !inner.seats.start_tending() {
                return;
            }
        }
    }
}

/// Gives back what sessions hold, for clients for whom another process found too little.
async fn answer_calls(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(CALL_IN_POLL).await;
        let Some(inner) = inner.upgrade() else { return };
        let holding = inner.clients.all().iter().any(|client| client.holds_any());
        if !holding || !inner.books.is_up() {
            continue;
        }
        let Ok(called) = inner.books.called_in().await else {
            continue;
        };
        for client in called.iter().filter_map(|id| inner.clients.get(id)) {
            let _turn = client.turn.read().await;
            let taken = client.take_all();
            let adjust = taken.adjust();
            if adjust.is_empty() {
                continue;
            }
            if let Err(Unavailable { maybe_done: false }) =
                inner.books.give_back(&client.id, &adjust).await
            {
                // A session settled meanwhile has left what it held to count as spent.
                drop(taken.put_back());
            }
        }
    }
}

fn check_allowed(request: &AdmissionRequest) -> Result<(), Refusal> {
    let limits = &request.limits;
    if let Some(voice) = &request.voice
        && !limits.allows_voice(voice)
    {
        return Err(Refusal::Voice);
    }
    if !limits.allows_model(&request.model) {
        return Err(Refusal::Model);
    }
    if !limits.allows_format(&request.format) {
        return Err(Refusal::OutputFormat);
    }
    Ok(())
}
