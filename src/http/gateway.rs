//! What every request shares: the parts of the relay, who is live, and how many places are taken.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::address::ConnectionBuckets;
use super::connection::Connection;
use super::lookup::Lists;
use super::{CallerRules, Config};
use crate::auth::{self, AuthError, Directory, Identity};
use crate::ids::{SessionId, VoiceId};
use crate::metrics::Metrics;
use crate::protocol::{Endpoint, Problem, Query, Secrets};
use crate::quota::{Limits, Quota};
use crate::session::{Recordings, Registration, Registry, SessionEnd, Timing};
use crate::upstream::Upstream;

/// The limits of each plan by its name.
pub type Plans = HashMap<Arc<str>, Arc<Limits>>;

/// What a gateway is made of.
pub struct Parts {
    /// How the clients' side behaves.
    pub config: Config,
    /// Which pages may call, and under which names the relay may be called.
    pub callers: CallerRules,
    /// The sessions' deadlines.
    pub timing: Timing,
    /// Who may come in.
    pub directory: Arc<Directory>,
    /// What they have spent.
    pub quota: Quota,
    /// Where they go.
    pub upstream: Arc<Upstream>,
    /// The largest message from upstream, in bytes.
    pub max_upstream_message_bytes: u64,
    /// The most sessions upstream on the dialogue sockets.
    pub max_dialogue_sessions: usize,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who is live.
    pub registry: Arc<Registry>,
    /// The most sockets at once, as the limit on open files allows.
    pub max_sockets: usize,
    /// Whether text stands in the log.
    pub logs_text: bool,
    /// Where sessions are written down, if any are.
    pub recordings: Option<Arc<Recordings>>,
}

/// What every request shares.
pub struct Gateway {
    pub(super) parts: Parts,
    pub(super) plans: ArcSwap<Plans>,
    rechecking: Mutex<()>,
    secrets: ArcSwap<Secrets>,
    pub(super) unauthenticated: Arc<Semaphore>,
    /// One permit for each session upstream on the dialogue sockets.
    pub(super) dialogue_slots: Arc<Semaphore>,
    pub(super) lists: Lists,
    pub(super) connections: ConnectionBuckets,
    sockets: AtomicUsize,
    sockets_closed: Notify,
    draining: CancellationToken,
}

/// A place among the sockets of this process, and among those of its worker; dropping it frees
/// both.
pub(super) struct Place {
    gateway: Arc<Gateway>,
    _connection: Arc<Connection>,
}

/// What a request asks for, once its head is understood.
pub(super) struct Ask {
    pub(super) id: SessionId,
    pub(super) endpoint: Endpoint,
    pub(super) voice: Option<VoiceId>,
    pub(super) query: Query,
    pub(super) remote: IpAddr,
    /// The connection that it came on.
    pub(super) connection: Arc<Connection>,
    pub(super) origin: Option<auth::Origin>,
    pub(super) started: Instant,
}

impl Gateway {
    /// Puts the parts together with what a reload replaces: what clients may do, and what may reach
    /// nobody.
    #[must_use]
    pub fn new(parts: Parts, plans: Plans, secrets: Secrets) -> Arc<Self> {
        Arc::new(Self {
            plans: ArcSwap::from_pointee(plans),
            rechecking: Mutex::default(),
            unauthenticated: Arc::new(Semaphore::new(parts.config.max_unauthenticated_sockets)),
            dialogue_slots: Arc::new(Semaphore::new(parts.max_dialogue_sessions)),
            lists: Lists::new(),
            connections: ConnectionBuckets::new(
                parts.config.connections_per_second,
                parts.config.connection_burst,
                std::time::Instant::now(),
            ),
            secrets: ArcSwap::from_pointee(secrets),
            sockets: AtomicUsize::new(0),
            sockets_closed: Notify::new(),
            draining: CancellationToken::new(),
            parts,
        })
    }

    /// Takes other plans: live sessions go on under them, or end when their client is gone.
    pub fn reload(&self, plans: Plans) {
        self.plans.store(Arc::new(plans));
        self.recheck();
    }

    /// Ends the live sessions whose token has been taken back, and puts the others under the
    /// limits of their plan.
    pub fn recheck(&self) {
        // One at a time: an earlier one must not put old plans over those of a later one.
        let _turn = self.rechecking.lock();
        let plans = self.plans.load();
        for live in self.parts.registry.all() {
            match self
                .parts
                .directory
                .recheck(&live.identity, SystemTime::now())
            {
                Ok(plan) => {
                    if let Some(limits) = plans.get(&plan) {
                        live.set_limits(Arc::clone(limits));
                    }
                }
                Err(error) => live.end(SessionEnd::Refused(Problem::from(error))),
            }
        }
    }

    /// Enters a session among the live ones. A token that was taken back since it was looked at
    /// ends it.
    pub(super) fn enter(&self, ask: &Ask, identity: Identity, voice: Arc<str>) -> Registration {
        let registration = self
            .parts
            .registry
            .enter(ask.id, identity, ask.endpoint, voice);
        let live = registration.live();
        if let Err(error) = self
            .parts
            .directory
            .recheck(&live.identity, SystemTime::now())
        {
            live.end(SessionEnd::Refused(Problem::from(error)));
        }
        // Draining may have begun since the request came, and has then not waited for this one.
        if self.is_draining() {
            live.end(SessionEnd::Refused(Problem::service_restart()));
        }
        registration
    }

    /// Accepts no new sessions from here on.
    pub fn start_draining(&self) {
        self.draining.cancel();
    }

    /// Whether new sessions are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// What comes of `waiting` for a client that has nothing live yet, unless the relay stops first.
    pub(super) async fn unless_draining<T>(
        &self,
        waiting: impl Future<Output = T>,
    ) -> Result<T, Problem> {
        tokio::select! {
            biased;
            done = waiting => Ok(done),
            () = self.draining.cancelled() => Err(Problem::service_restart()),
        }
    }

    /// What may reach nobody.
    pub(super) fn secrets(&self) -> Arc<Secrets> {
        self.secrets.load_full()
    }

    /// Takes other secrets, for the sessions to come.
    pub fn set_secrets(&self, secrets: Secrets) {
        self.secrets.store(Arc::new(secrets));
    }

    /// Changes whenever [`recheck`](Self::recheck) is due.
    #[must_use]
    pub fn access_changes(&self) -> watch::Receiver<u64> {
        self.parts.directory.changes()
    }

    /// Returns once the last socket is closed.
    pub async fn sockets_closed(&self) {
        loop {
            let closed = self.sockets_closed.notified();
            if self.sockets.load(Ordering::Acquire) == 0 {
                return;
            }
            closed.await;
        }
    }

    /// A place for one more socket, that of `ask`.
    pub(super) fn place(self: &Arc<Self>, ask: &Ask) -> Result<Place, Problem> {
        let taken = self.sockets.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            gateway: Arc::clone(self),
            _connection: Arc::clone(&ask.connection),
        };
        if taken >= self.parts.max_sockets {
            Err(Problem::system_busy())
        } else {
            Ok(place)
        }
    }

    /// The limits of a client's plan, as they are now. What its token allows less is not in them.
    pub(super) fn limits(&self, identity: &Identity) -> Result<Arc<Limits>, Problem> {
        let plans = self.plans.load();
        plans
            .get(&identity.plan)
            .cloned()
            .ok_or_else(|| AuthError::PlanUnknown.into())
    }
}

impl Ask {
    /// The worker that it is served by.
    pub(super) fn worker(&self) -> usize {
        self.connection.worker()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.gateway.sockets.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.gateway.sockets_closed.notify_waiters();
        }
    }
}

/// When a session of `identity` must end, and what it is told then.
pub(super) fn expiry(identity: &Identity, now: Instant) -> Option<(Instant, Problem)> {
    let at = |end: Duration| now + end;
    let token = identity.expires_at.map(|expires_at| {
        let left = expires_at
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        (at(left), Problem::token_expired())
    });
    let narrowed = identity
        .narrowing
        .as_ref()
        .and_then(|narrowing| narrowing.max_session())
        .map(|longest| (at(longest), Problem::session_expired()));
    match (token, narrowed) {
        (Some(token), Some(narrowed)) => Some(if token.0 <= narrowed.0 {
            token
        } else {
            narrowed
        }),
        (token, narrowed) => token.or(narrowed),
    }
}
