//! The seats of one client in this process, and whose turn it is to ask the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::RwLock;

use super::meter::{Basis, Meter, given_back};
use crate::ids::ClientId;
use crate::usage::{Adjust, Characters, Charge, WindowKey};

/// So often other processes are asked, for one client, to give back what idle sessions hold.
const CALL_IN_EVERY: Duration = Duration::from_secs(1);

/// One client with sessions in this process.
pub(super) struct Client {
    pub(super) id: ClientId,
    /// Shared by requests that may run side by side; held alone by one that found too little and
    /// must see exactly what siblings hold and what the store has.
    pub(super) turn: RwLock<()>,
    meters: Mutex<Vec<Arc<Meter>>>,
    /// How many of them nobody sits at.
    n_vacant: AtomicUsize,
    called_in: Mutex<Option<Instant>>,
}

/// What was taken from siblings for one request.
pub(super) struct Taken(Vec<(Arc<Meter>, Characters, Basis)>);

impl Taken {
    pub(super) fn adjust(&self) -> Vec<Adjust> {
        let parts = self.0.iter();
        parts
            .map(|(meter, n, basis)| given_back(meter.live.seat(), *n, &basis.charges))
            .collect()
    }

    /// Puts it back after a request that never reached the store; what does not fit any more is left.
    pub(super) fn put_back(self) -> Vec<Adjust> {
        self.0
            .into_iter()
            .filter_map(|(meter, n, basis)| meter.fill(n, &basis))
            .collect()
    }
}

impl Client {
    fn new(id: ClientId) -> Self {
        Self {
            id,
            turn: RwLock::new(()),
            meters: Mutex::default(),
            n_vacant: AtomicUsize::new(0),
            called_in: Mutex::default(),
        }
    }

    pub(super) fn join(&self, meter: Arc<Meter>) {
        self.meters.lock().push(meter);
    }

    pub(super) fn leave(&self, meter: &Arc<Meter>) {
        self.meters
            .lock()
            .retain(|other| !Arc::ptr_eq(other, meter));
    }

    /// Somebody has left a seat that stays, or sits down there.
    pub(super) fn note_vacant(&self, is_vacant: bool) {
        match is_vacant {
            true => self.n_vacant.fetch_add(1, Ordering::Relaxed),
            false => self.n_vacant.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// Whether there are seats that nobody sits at.
    pub(super) fn has_vacant(&self) -> bool {
        self.n_vacant.load(Ordering::Relaxed) > 0
    }

    /// Sessions; vacant seats do not count.
    pub(super) fn n_live(&self) -> usize {
        let n_meters = self.meters.lock().len();
        n_meters.saturating_sub(self.n_vacant.load(Ordering::Relaxed))
    }

    /// Whether anything is held unspent.
    pub(super) fn holds_any(&self) -> bool {
        self.meters.lock().iter().any(|meter| meter.held() > 0)
    }

    /// Characters that sessions of this client hold unspent.
    pub(super) fn held(&self) -> Characters {
        self.meters.lock().iter().map(|meter| meter.held()).sum()
    }

    /// What of a window's counter sessions of this client hold unspent.
    pub(super) fn held_of(&self, key: WindowKey) -> u64 {
        self.meters
            .lock()
            .iter()
            .map(|meter| meter.held_of(key))
            .sum()
    }

    /// Takes from siblings what makes up for the lack, if together they hold it; else leaves them
    /// alone, since their own messages may be smaller. `used` is what the counters of `charges` show.
    pub(super) fn take_from_siblings(
        &self,
        own: &Arc<Meter>,
        charges: &[Charge],
        used: &[u64],
        need: Characters,
    ) -> Option<Taken> {
        let lack = |charge: &Charge, used: u64| {
            used.saturating_add(need.saturating_mul(charge.each))
                .saturating_sub(charge.limit)
        };
        let mut lacks: Vec<(WindowKey, u64)> = charges
            .iter()
            .zip(used)
            .map(|(charge, used)| (charge.key, lack(charge, *used)))
            .collect();
        let siblings: Vec<Arc<Meter>> = {
            let meters = self.meters.lock();
            meters
                .iter()
                .filter(|meter| !Arc::ptr_eq(meter, own))
                .cloned()
                .collect()
        };
        let in_reach = |(key, lack): &(WindowKey, u64)| {
            siblings
                .iter()
                .map(|meter| meter.held_of(*key))
                .sum::<u64>()
                >= *lack
        };
        if !lacks.iter().all(in_reach) {
            return None;
        }
        let mut taken = Vec::new();
        for meter in siblings {
            if lacks.iter().all(|(_, lack)| *lack == 0) {
                break;
            }
            if let Some((characters, block)) = meter.take_all() {
                for (key, lack) in &mut lacks {
                    let each = block
                        .charges
                        .iter()
                        .find(|charge| charge.key == *key)
                        .map_or(0, |c| c.each);
                    *lack = lack.saturating_sub(characters.saturating_mul(each));
                }
                taken.push((meter, characters, block));
            }
        }
        Some(Taken(taken))
    }

    /// Everything that sessions hold, taken out of their hands.
    pub(super) fn take_all(&self) -> Taken {
        let meters = self.meters.lock().clone();
        let taken = meters.into_iter().filter_map(|meter| {
            let (characters, basis) = meter.take_all()?;
            Some((meter, characters, basis))
        });
        Taken(taken.collect())
    }

    /// Whether it is time to ask other processes; they are not asked again for a while.
    pub(super) fn may_call_in(&self) -> bool {
        let mut called_in = self.called_in.lock();
        let due = called_in.is_none_or(|at| at.elapsed() >= CALL_IN_EVERY);
        if due {
            *called_in = Some(Instant::now());
        }
        due
    }
}

/// All clients with sessions in this process. Locked when sessions start and end, never between.
#[derive(Default)]
pub(super) struct Clients(Mutex<HashMap<ClientId, (Arc<Client>, usize)>>);

/// Keeps a client in the register; dropped with its last session and the last seat it has left.
pub(super) struct Presence {
    clients: Arc<Clients>,
    client: Arc<Client>,
}

impl Clients {
    pub(super) fn enter(self: &Arc<Self>, id: &ClientId) -> Arc<Presence> {
        let mut clients = self.0.lock();
        let (client, users) = clients
            .entry(id.clone())
            .or_insert_with(|| (Arc::new(Client::new(id.clone())), 0));
        *users += 1;
        Arc::new(Presence {
            clients: self.clone(),
            client: client.clone(),
        })
    }

    pub(super) fn get(&self, id: &ClientId) -> Option<Arc<Client>> {
        self.0.lock().get(id).map(|(client, _)| client.clone())
    }

    pub(super) fn all(&self) -> Vec<Arc<Client>> {
        self.0
            .lock()
            .values()
            .map(|(client, _)| client.clone())
            .collect()
    }
}

impl std::ops::Deref for Presence {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut clients = self.clients.0.lock();
        if let Some((_, users)) = clients.get_mut(&self.client.id) {
            *users -= 1;
            if *users == 0 {
                clients.remove(&self.client.id);
            }
        }
    }
}
