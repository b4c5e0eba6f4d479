//! The books in this process's memory, for tests and throw-away relays: gone with the process.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::ledger::{Sums, Tally};
use super::store::{Boxed, SettleFailed, Store, TokenKey};
use super::window::{FIRST_SHARE, Per, Unit, WINDOWS_KEPT, grant};
use super::{
    Adjust, Admit, Admitted, Charge, Day, Heartbeat, LiveSession, Opening, Query, Readopt, Record,
    Reserve, Reserved, Settle, UsageRow, WindowKey,
};
use crate::ids::{ClientId, SessionId};

/// So many ledger rows are kept; their sums are kept longer.
const ROWS_KEPT: usize = 100_000;

#[derive(Default)]
pub(crate) struct Memory {
    state: Mutex<State>,
}

/// Counters of one kind of window, by the window's start.
type Windows = BTreeMap<i64, u64>;

/// What the ledger is summed up by: client, day, model and voice.
type Group = (Arc<str>, Day, Arc<str>, Arc<str>);

#[derive(Default)]
struct State {
    windows: HashMap<ClientId, BTreeMap<(Unit, Per), Windows>>,
    /// Who sits in which seat; nobody in one that was kept.
    live: HashMap<SessionId, Option<Arc<Opening>>>,
    live_by_client: HashMap<ClientId, u64>,
    /// Sessions whose row is in `rows`, so that a second settlement changes nothing.
    settled: HashSet<String>,
    rows: VecDeque<Record>,
    sums: HashMap<Group, Tally>,
    tokens: HashMap<TokenKey, (String, Instant)>,
    revoked: HashMap<TokenKey, Instant>,
}

impl State {
    fn used(&self, client: &ClientId, key: WindowKey) -> u64 {
        let windows = self
            .windows
            .get(client)
            .and_then(|kinds| kinds.get(&(key.unit, key.per)));
        windows.map_or(0, |windows| {
            windows
                .get(&effective(windows, key.start))
                .copied()
                .unwrap_or(0)
        })
    }

    fn used_by(&self, client: &ClientId, charges: &[Charge]) -> Vec<u64> {
        charges
            .iter()
            .map(|charge| self.used(client, charge.key))
            .collect()
    }

    /// Adds to a counter. Only spending opens a counter; giving back to one that is gone is void.
    fn add(&mut self, client: &ClientId, key: WindowKey, amount: i64) {
        let kinds = self.windows.entry(client.clone()).or_default();
        let windows = kinds.entry((key.unit, key.per)).or_default();
        let start = effective(windows, key.start);
        match windows.get_mut(&start) {
            Some(used) => *used = used.saturating_add_signed(amount),
            None if amount > 0 => {
                windows.insert(start, amount.unsigned_abs());
                if windows.len() > WINDOWS_KEPT {
                    windows.pop_first();
                }
            }
            None => {}
        }
    }

    fn spend(&mut self, client: &ClientId, charges: &[Charge], count: u64) {
        for charge in charges {
            let amount = i64::try_from(count.saturating_mul(charge.each)).unwrap_or(i64::MAX);
            self.add(client, charge.key, amount);
        }
    }

    fn adjust(&mut self, client: &ClientId, adjust: &[Adjust]) {
        for (key, amount) in adjust.iter().flat_map(|adjust| &adjust.amounts) {
            self.add(client, *key, *amount);
        }
    }

    fn n_live(&self, client: &ClientId) -> u64 {
        self.live_by_client.get(client).copied().unwrap_or(0)
    }

    fn enter(&mut self, seat: SessionId, opening: &Arc<Opening>) {
        if self.live.insert(seat, Some(opening.clone())).is_none() {
            *self
                .live_by_client
                .entry(opening.client.clone())
                .or_default() += 1;
        }
    }

    fn admit(&mut self, admit: &Admit) -> Admitted {
        let client = &admit.opening.client;
        let live = self.n_live(client);
        if live >= admit.max_concurrent {
            return Admitted::Busy { live };
        }
        let starts = self.used_by(client, &admit.starts);
        if let Err(index) = grant(&admit.starts, &starts, live, 1, 0) {
            return Admitted::Spent {
                window: admit.starts[index].key,
                used: starts[index],
            };
        }
        let spent = self.used_by(client, &admit.spending);
        if let (Err(index), false) = (
            grant(&admit.spending, &spent, live, 1, 0),
            admit.even_if_spent,
        ) {
            return Admitted::Spent {
                window: admit.spending[index].key,
                used: spent[index],
            };
        }
        let sharers = (live + 1) * FIRST_SHARE;
        let ahead = grant(&admit.spending, &spent, sharers, 0, admit.ahead).unwrap_or(0);
        self.spend(client, &admit.starts, 1);
        self.spend(client, &admit.spending, ahead);
        self.enter(admit.opening.session, &admit.opening);
        Admitted::Granted { ahead }
    }

    fn reserve(&mut self, reserve: &Reserve) -> Reserved {
        let client = &reserve.client;
        self.adjust(client, &reserve.adjust);
        let used = self.used_by(client, &reserve.charges);
        let live = self.n_live(client);
        match grant(&reserve.charges, &used, live, reserve.need, reserve.ahead) {
            Ok(granted) => {
                self.spend(client, &reserve.charges, granted);
                Reserved::Granted(granted)
            }
            Err(window) => Reserved::Short { window, used },
        }
    }

    /// Frees a seat; false when there is none.
    fn free(&mut self, settle: &Settle) -> bool {
        let is_freed = self.live.remove(&settle.seat).is_some();
        if is_freed && let Some(live) = self.live_by_client.get_mut(&settle.client) {
            *live -= 1;
            if *live == 0 {
                self.live_by_client.remove(&settle.client);
            }
        }
        is_freed
    }

    fn settle(&mut self, settle: &Settle) {
        let is_freed = match settle.keeps_seat {
            true => {
                self.live.entry(settle.seat).and_modify(|seat| *seat = None);
                false
            }
            false => self.free(settle),
        };
        let Some(record) = &settle.record else {
            if is_freed {
                self.adjust(&settle.client, &settle.adjust);
            }
            return;
        };
        if !self.settled.insert(record.session.clone()) {
            return;
        }
        self.adjust(&settle.client, &settle.adjust);
        let group = (
            record.client.clone(),
            record.day(),
            record.model.clone(),
            record.voice.clone(),
        );
        self.sums.entry(group).or_default().add(&Tally::of(record));
        self.rows.push_back(record.clone());
        if self.rows.len() > ROWS_KEPT
            && let Some(oldest) = self.rows.pop_front()
        {
            self.settled.remove(&oldest.session);
        }
    }

    fn prune(&mut self, before_ms: i64) -> u64 {
        let before = Day::of_ms(before_ms);
        let size = |state: &Self| state.rows.len() + state.sums.len() + state.windows.len();
        let was = size(self);
        while self
            .rows
            .front()
            .is_some_and(|row| row.ended_ms < before_ms)
        {
            if let Some(row) = self.rows.pop_front() {
                self.settled.remove(&row.session);
            }
        }
        self.sums.retain(|(_, day, _, _), _| *day >= before);
        let kept = |windows: &Windows| {
            windows
                .keys()
                .next_back()
                .is_some_and(|start| *start >= before_ms / 1000)
        };
        self.windows.retain(|_, kinds| kinds.values().any(kept));
        let now = Instant::now();
        self.tokens.retain(|_, (_, expires)| *expires > now);
        self.revoked.retain(|_, expires| *expires > now);
        (was - size(self)) as u64
    }

    fn usage(&self, query: &Query) -> Vec<UsageRow> {
        let mut sums = Sums::default();
        for ((client, day, model, voice), tally) in &self.sums {
            sums.add(query, (client, *day, model, voice), tally);
        }
        for opening in self.live.values().flatten() {
            let (client, day) = (opening.client.as_str(), Day::of_ms(opening.started_ms));
            let group = (client, day, &*opening.model, &*opening.voice);
            sums.add(query, group, &Tally::of_live());
        }
        sums.into_rows()
    }
}

/// The window that is charged when the clock says `start`; see [`WINDOWS_KEPT`].
fn effective(windows: &Windows, start: i64) -> i64 {
    match windows.first_key_value() {
        Some((oldest, _)) if windows.len() >= WINDOWS_KEPT => start.max(*oldest),
        _ => start,
    }
}

/// A future that is ready at once.
fn ready<'a, T: Send + 'a>(value: T) -> Boxed<'a, T> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Store for Memory {
    fn admit<'a>(&'a self, admit: &'a Admit) -> Boxed<'a, Admitted> {
        ready(self.state.lock().admit(admit))
    }

    fn reserve<'a>(&'a self, reserve: &'a Reserve) -> Boxed<'a, Reserved> {
        ready(self.state.lock().reserve(reserve))
    }

    fn give_back<'a>(&'a self, client: &'a ClientId, adjust: &'a [Adjust]) -> Boxed<'a, ()> {
        self.state.lock().adjust(client, adjust);
        ready(())
    }

    fn settle<'a>(&'a self, settle: &'a Settle) -> Boxed<'a, ()> {
        self.state.lock().settle(settle);
        ready(())
    }

    fn settle_in_turn(&self, settle: &Arc<Settle>, _failed: SettleFailed) -> bool {
        self.state.lock().settle(settle);
        true
    }

    fn keeps_seats(&self) -> bool {
        true
    }

    fn seat_in_turn(&self, live: &Arc<LiveSession>, opening: &Arc<Opening>) {
        if let Some(seat) = self.state.lock().live.get_mut(&live.seat()) {
            *seat = Some(opening.clone());
        }
    }

    fn used<'a>(&'a self, client: &'a ClientId, keys: &'a [WindowKey]) -> Boxed<'a, Vec<u64>> {
        let state = self.state.lock();
        ready(keys.iter().map(|key| state.used(client, *key)).collect())
    }

    fn heartbeat(&self) -> Boxed<'_, Heartbeat> {
        ready(Heartbeat::default())
    }

    fn readopt<'a>(&'a self, sessions: &'a [Readopt]) -> Boxed<'a, ()> {
        let mut state = self.state.lock();
        for session in sessions {
            state.enter(session.seat, &session.opening);
        }
        ready(())
    }

    fn sweep(&self) -> Boxed<'_, u64> {
        ready(0)
    }

    fn prune(&self, before_ms: i64) -> Boxed<'_, u64> {
        ready(self.state.lock().prune(before_ms))
    }

    fn usage<'a>(&'a self, query: &'a Query) -> Boxed<'a, Vec<UsageRow>> {
        ready(self.state.lock().usage(query))
    }

    fn recent(&self, limit: usize) -> Boxed<'_, Vec<Record>> {
        ready(
            self.state
                .lock()
                .rows
                .iter()
                .rev()
                .take(limit)
                .cloned()
                .collect(),
        )
    }

    fn put_token<'a>(&'a self, key: TokenKey, record: &'a str, ttl: Duration) -> Boxed<'a, ()> {
        let expires = Instant::now() + ttl;
        self.state
            .lock()
            .tokens
            .insert(key, (record.to_owned(), expires));
        ready(())
    }

    fn take_token(&self, key: TokenKey) -> Boxed<'_, Option<String>> {
        let taken = self.state.lock().tokens.remove(&key);
        let live = taken.filter(|(_, expires)| *expires > Instant::now());
        ready(live.map(|(record, _)| record))
    }

    fn revoke(&self, key: TokenKey, ttl: Duration) -> Boxed<'_, ()> {
        let mut state = self.state.lock();
        state.tokens.remove(&key);
        state.revoked.insert(key, Instant::now() + ttl);
        ready(())
    }

    fn revoked(&self) -> Boxed<'_, Vec<TokenKey>> {
        let now = Instant::now();
        let state = self.state.lock();
        let live = state.revoked.iter().filter(|(_, expires)| **expires > now);
        ready(live.map(|(key, _)| *key).collect())
    }

    fn close(&self) -> Boxed<'_, ()> {
        ready(())
    }
}
