//! The sessions that are live now: to be listed, to be ended, to be waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

use super::SessionEnd;
use crate::auth::Identity;
use crate::ids::SessionId;
use crate::protocol::Endpoint;
use crate::quota::Limits;

/// All sessions of this process, from the admission of the client to the last frame.
#[derive(Default)]
pub struct Registry {
    live: Mutex<HashMap<SessionId, Arc<Live>>>,
    emptied: Notify,
}

/// One session as others see it. The session writes the counters, nobody else does.
pub struct Live {
    /// The session's id.
    pub id: SessionId,
    /// Who was let in, by which token.
    pub identity: Identity,
    /// What was asked for.
    pub endpoint: Endpoint,
    /// The voice in the path; empty on the dialogue sockets.
    pub voice: Arc<str>,
    /// When it was let in.
    pub started: SystemTime,
    /// Characters that went up.
    pub characters: AtomicU64,
    /// Messages from the client.
    pub messages_up: AtomicU64,
    /// Messages from upstream.
    pub messages_down: AtomicU64,
    /// Payload bytes from upstream.
    pub bytes_down: AtomicU64,
    orders: Mutex<Orders>,
    has_orders: AtomicBool,
    waker: AtomicWaker,
}

/// What the outside wants of a session.
#[derive(Default)]
pub struct Orders {
    /// End for this reason.
    pub end: Option<SessionEnd>,
    /// Go on under these limits.
    pub limits: Option<Arc<Limits>>,
}

/// A row of `/sessions`.
#[derive(Serialize)]
pub struct SessionRow {
    session: String,
    client: String,
    plan: String,
    endpoint: &'static str,
    voice: Arc<str>,
    started_unix: u64,
    seconds: u64,
    characters: u64,
    messages_up: u64,
    messages_down: u64,
    bytes_down: u64,
}

/// Takes the session out of the registry when dropped.
pub struct Registration {
    registry: Arc<Registry>,
    live: Arc<Live>,
}

impl Registry {
    /// Enters a session.
    #[must_use]
    pub fn enter(
        self: &Arc<Self>,
        id: SessionId,
        identity: Identity,
        endpoint: Endpoint,
        voice: Arc<str>,
    ) -> Registration {
        let live = Arc::new(Live {
            id,
            identity,
            endpoint,
            voice,
            started: SystemTime::now(),
            characters: AtomicU64::new(0),
            messages_up: AtomicU64::new(0),
            messages_down: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            orders: Mutex::new(Orders::default()),
            has_orders: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        self.live.lock().insert(id, Arc::clone(&live));
        Registration {
            registry: Arc::clone(self),
            live,
        }
    }

    /// How many are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.lock().len()
    }

    /// Whether none is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that are live now, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Live>> {
        self.live.lock().values().cloned().collect()
    }

    /// Ends one session; says whether it was live.
    pub fn end(&self, id: SessionId, end: SessionEnd) -> bool {
        let found = self.live.lock().get(&id).cloned();
        found.is_some_and(|live| {
            live.end(end);
            true
        })
    }

    /// Returns once no session is live.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Waits for the live sessions until `timeout`; ends what is left with `end`, spread over the
    /// last tenth so that the clients do not all come back at once.
    pub async fn drain(&self, timeout: Duration, end: &SessionEnd) {
        let grace = timeout.mul_f64(0.9);
        if tokio::time::timeout(grace, self.emptied()).await.is_ok() {
            return;
        }
        let left = self.all();
        let pause = (timeout - grace).div_f64(left.len().max(1) as f64);
        let deadline = tokio::time::Instant::now() + (timeout - grace);
        for (index, live) in left.into_iter().enumerate() {
            live.end(end.clone());
            // One timer tick is a millisecond: shorter pauses are gathered.
            let due = deadline - (timeout - grace) + pause.mul_f64((index + 1) as f64);
            tokio::time::sleep_until(due).await;
        }
    }
}

impl Live {
    /// Tells the session to end; the first reason given wins.
    pub fn end(&self, end: SessionEnd) {
        self.order(|orders| {
            orders.end.get_or_insert(end);
        });
    }

    /// Puts the session under other limits.
    pub fn set_limits(&self, limits: Arc<Limits>) {
        self.order(|orders| orders.limits = Some(limits));
    }

    fn order(&self, give: impl FnOnce(&mut Orders)) {
        give(&mut self.orders.lock());
        self.has_orders.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready when there are orders.
    pub fn poll_orders(&self, cx: &mut Context<'_>) -> Poll<Orders> {
        if !self.has_orders.load(Ordering::Acquire) {
            self.waker.register(cx.waker());
            if !self.has_orders.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        let mut orders = self.orders.lock();
        self.has_orders.store(false, Ordering::Release);
        Poll::Ready(std::mem::take(&mut *orders))
    }

    /// Returns once the session is told to end; for the time before frames flow.
    pub async fn ended(&self) -> SessionEnd {
        loop {
            let orders = std::future::poll_fn(|cx| self.poll_orders(cx)).await;
            if let Some(end) = orders.end {
                return end;
            }
        }
    }

    /// The row of `/sessions`.
    #[must_use]
    pub fn row(&self) -> SessionRow {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let started = self
            .started
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        SessionRow {
            session: self.id.to_string(),
            client: self.identity.client.to_string(),
            plan: self.identity.plan.to_string(),
            endpoint: self.endpoint.as_str(),
            voice: self.voice.clone(),
            started_unix: started.as_secs(),
            seconds: self.started.elapsed().unwrap_or_default().as_secs(),
            characters: read(&self.characters),
            messages_up: read(&self.messages_up),
            messages_down: read(&self.messages_down),
            bytes_down: read(&self.bytes_down),
        }
    }
}

impl Registration {
    /// The session as others see it.
    #[must_use]
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut live = self.registry.live.lock();
        live.remove(&self.live.id);
        if live.is_empty() {
            self.registry.emptied.notify_waiters();
        }
    }
}
