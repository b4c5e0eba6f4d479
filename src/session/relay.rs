//! The relay of one session: both directions, every timer, one task, no queue.
//!
//! A side is read only while nothing waits to be written to the other, so memory is bounded by one
//! read and one held message per direction. What upstream sends is forwarded as the very bytes that
//! were read; what the client sends is held until whole, judged, and then forwarded as it came.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::bucket::Bucket;
use super::farewell::Parting;
use super::intake::Intake;
use super::leg::Leg;
use super::parts::Parts;
use super::recorder::Recorder;
use super::tap::Tap;
use super::{Live, SessionEnd, Timing, Transport};
use crate::auth::Narrowing;
use crate::frame::Close;
use crate::ids::Side;
use crate::protocol::{Dialect, Problem, Secrets};
use crate::quota::{Admission, Limits, Reserving};
use crate::timer;
use crate::upstream::Vacancy;

mod down;
mod up;

pub(super) use down::MAX_HELD_BYTES;

/// What a session is told before its first frame.
pub struct Terms {
    /// The rules of messages on this socket.
    pub dialect: Dialect,
    /// The limits of the client's plan.
    pub limits: Arc<Limits>,
    /// The session's own deadlines.
    pub timing: Timing,
    /// The longest silence that upstream was asked for: the client's own wish, or what its plan
    /// allowed at the start.
    pub inactivity: Duration,
    /// When the session ends whatever happens, and what it is told then.
    pub expiry: Option<(Instant, Problem)>,
    /// What a single-use token allows less than the plan does.
    pub narrowing: Option<Narrowing>,
    /// The largest message from upstream, in bytes.
    pub max_upstream_message_bytes: u64,
    /// What may reach neither the client nor the log in what upstream says.
    pub secrets: Arc<Secrets>,
}

/// A session whose frames flow.
pub(super) struct Relay<C, U> {
    pub(super) client: Leg<C>,
    pub(super) upstream: Leg<U>,
    pub(super) tap: Tap,
    pub(super) recorder: Option<Box<Recorder>>,
    pub(super) admission: Admission,
    live: Arc<Live>,
    pub(super) terms: Terms,
    up: up::Up,
    pub(super) down: down::Down,
    messages: Bucket,
    frames: Bucket,
    now: Instant,
    /// When frames began to flow.
    since: Instant,
    last_message: Instant,
    /// Set once the client has sent its close frame and upstream has been given it.
    client_close: Option<(Close, Instant)>,
    timer: Pin<Box<Sleep>>,
}

/// How many frames a client may send for each message it may send: fragments and pings.
const FRAMES_PER_MESSAGE: u32 = 20;

/// A message that waits for its characters to be reserved. Boxed where it is held, as is everything
/// of size that most sessions have not got most of the time.
struct Waiting {
    /// The frame to be written once they are.
    frame: Vec<u8>,
    characters: u64,
    /// The payload in it, for a session that is recorded.
    recorded: Option<Vec<u8>>,
    reserving: Reserving,
}

impl<C, U> Relay<C, U>
where
    C: Transport,
    U: Transport,
{
    pub(super) fn new(
        (client, upstream): (Leg<C>, Leg<U>),
        vacancy: Option<Vacancy>,
        terms: Terms,
        admission: Admission,
        live: Arc<Live>,
        tap: Tap,
        recorder: Option<Recorder>,
    ) -> Self {
        let now = Instant::now();
        Self {
            messages: Bucket::of_messages(terms.limits.max_messages_per_second, now),
            frames: Bucket::of_frames(
                terms
                    .limits
                    .max_messages_per_second
                    .saturating_mul(FRAMES_PER_MESSAGE),
                now,
            ),
            client,
            upstream,
            tap,
            recorder: recorder.map(Box::new),
            admission,
            live,
            up: up::Up::new(vacancy),
            down: down::Down::default(),
            now,
            since: now,
            last_message: now,
            client_close: None,
            // The first deadline of a usual session.
            timer: Box::pin(timer::distant(now + terms.timing.ping_interval)),
            terms,
        }
    }

    /// Forwards frames until the session ends, and says why it did.
    pub(super) async fn run(&mut self) -> SessionEnd {
        let mut parts: Option<Parts> = None;
        std::future::poll_fn(|cx| {
            let parts = match &mut parts {
                Some(parts) if parts.are_of(cx) => parts,
                parts => parts.insert(Parts::new(cx)),
            };
            let polled = self.poll(parts);
            self.tap.publish(&self.live);
            polled
        })
        .await
    }

    /// One turn: each part that was woken, or all of them while anything waits to be written, since
    /// then the one may have to go on with what the other has begun.
    fn poll(&mut self, parts: &Parts) -> Poll<SessionEnd> {
        self.now = Instant::now();
        let all = !self.is_settled();
        let rest = parts.rest.take_woken() || all;
        if rest && let Poll::Ready(end) = self.poll_orders(&mut parts.rest.context()) {
            return Poll::Ready(end);
        }
        // Upstream first: what it has sent is worth more than what it would be asked for next.
        let down = parts.down.take_woken() || all;
        if down && let Poll::Ready(end) = self.poll_down(&mut parts.down.context()) {
            return Poll::Ready(end);
        }
        // What upstream sent may have called for an answer on its own leg.
        let up = parts.up.take_woken() || all || !self.is_settled();
        if up && let Poll::Ready(end) = self.poll_up(&mut parts.up.context()) {
            return Poll::Ready(end);
        }
        if !rest && self.is_settled() {
            // No deadline has come nearer, and the timer wakes its part.
            return Poll::Pending;
        }
        let cx = &mut parts.rest.context();
        // What the client sent may have called for an answer on its own leg.
        if let Err(end) = self.pay_pongs(cx) {
            return Poll::Ready(end);
        }
        self.poll_timer(cx)
    }

    /// Whether no part waits for anything but what wakes it.
    fn is_settled(&self) -> bool {
        self.client.is_settled()
            && self.upstream.is_settled()
            && self.up.waiting.is_none()
            && self.client_close.is_none()
    }

    #[inline(never)]
    fn poll_orders(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        loop {
            let orders = ready!(self.live.poll_orders(cx));
            if let Some(end) = orders.end {
                return Poll::Ready(end);
            }
            if let Some(limits) = orders.limits {
                self.set_limits(limits);
            }
        }
    }

    #[inline(never)]
    fn set_limits(&mut self, limits: Arc<Limits>) {
        let per_second = limits.max_messages_per_second;
        self.messages.set_rate(per_second);
        self.frames
            .set_rate(per_second.saturating_mul(FRAMES_PER_MESSAGE));
        self.client
            .reader
            .set_max_message_bytes(limits.max_message_bytes as u64);
        self.admission.set_limits(Arc::clone(&limits));
        // Where a deadline has come nearer, the timer is asked about it in the same turn.
        self.terms.limits = limits;
    }

    fn pay_pongs(&mut self, cx: &mut Context<'_>) -> Result<(), SessionEnd> {
        match self.client.owes_pongs() || self.upstream.owes_pongs() {
            true => self.pay_all_pongs(cx),
            false => Ok(()),
        }
    }

    #[cold]
    fn pay_all_pongs(&mut self, cx: &mut Context<'_>) -> Result<(), SessionEnd> {
        if self.down.is_at_frame_border() {
            self.client
                .pay_pongs(cx, self.now)
                .map_err(|_| SessionEnd::Lost(Side::Client))?;
        }
        self.upstream
            .pay_pongs(cx, self.now)
            .map_err(|_| SessionEnd::Lost(Side::Upstream))
    }

    /// Wakes at the earliest deadline. Deadlines that only move on, such as the idle one, are not
    /// re-armed with every message: the timer fires, finds that there is time left, and sleeps on.
    #[inline(never)]
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        loop {
            let (deadline, end) = self.next_deadline();
            if deadline <= self.now {
                match end {
                    Deadline::End(end) => return Poll::Ready(end),
                    Deadline::Ping(side) => {
                        if let Err(end) = self.ping(cx, side) {
                            return Poll::Ready(end);
                        }
                        continue;
                    }
                }
            }
            if self.timer.deadline() > deadline || self.timer.is_elapsed() {
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(cx));
            self.now = Instant::now();
        }
    }

    fn ping(&mut self, cx: &mut Context<'_>, side: Side) -> Result<(), SessionEnd> {
        let gone = match side {
            Side::Client => {
                let may_write = self.down.is_at_frame_border();
                self.client.ping(cx, may_write, self.now)
            }
            // Upstream is not read while the client is slow, so its pongs could not be seen.
            Side::Upstream if self.client.is_stalled() => {
                self.upstream.put_off_ping(self.now);
                Ok(false)
            }
            Side::Upstream => self.upstream.ping(cx, true, self.now),
        };
        match gone {
            Ok(false) => Ok(()),
            Ok(true) => Err(SessionEnd::Silent(side)),
            Err(_) => Err(SessionEnd::Lost(side)),
        }
    }

    fn next_deadline(&self) -> (Instant, Deadline) {
        let timing = &self.terms.timing;
        let limits = &self.terms.limits;
        // A plan may come to allow less than upstream was asked for, but upstream stays with it.
        let inactivity = self.terms.inactivity.min(limits.max_inactivity_timeout);
        let mut next = (self.client.ping_at(), Deadline::Ping(Side::Client));
        let mut offer = |at: Instant, deadline: Deadline| {
            if at < next.0 {
                next = (at, deadline);
            }
        };
        offer(self.upstream.ping_at(), Deadline::Ping(Side::Upstream));
        // While the client still takes what has come for it, nobody is silent.
        if !self.client.is_stalled() {
            offer(
                self.last_message + inactivity + timing.inactivity_grace,
                Deadline::End(SessionEnd::Idle(inactivity)),
            );
        }
        offer(
            self.since + limits.max_session_duration,
            Deadline::End(SessionEnd::Refused(Problem::session_expired())),
        );
        if let Some((at, problem)) = &self.terms.expiry {
            offer(*at, Deadline::End(SessionEnd::Refused(problem.clone())));
        }
        for (leg, side) in [
            (
                self.client.stall_deadline(timing.write_timeout),
                Side::Client,
            ),
            (
                self.upstream.stall_deadline(timing.write_timeout),
                Side::Upstream,
            ),
        ] {
            if let Some(at) = leg {
                offer(at, Deadline::End(SessionEnd::Stalled(side)));
            }
        }
        if let Some((close, since)) = &self.client_close {
            // After the end of its text the client still has audio coming; before, nothing.
            let at = if self.up.text_ended {
                (*since).max(self.last_message) + inactivity
            } else {
                *since + timing.close_timeout
            };
            let end = SessionEnd::Closed {
                by: Side::Client,
                close: close.clone(),
            };
            offer(at, Deadline::End(end));
        }
        next
    }

    /// Reads from `side`, unless `intake` has something to deal with already, and deals with it.
    /// Pending when there is nothing to read; `Ok` when there may be more to do.
    fn poll_side(
        &mut self,
        cx: &mut Context<'_>,
        side: Side,
        intake: &mut Intake<'_>,
    ) -> Poll<Result<(), SessionEnd>> {
        if !intake.is_ready() {
            let read = match side {
                Side::Client => ready!(intake.poll_read(cx, &mut self.client.stream)),
                Side::Upstream => ready!(intake.poll_read(cx, &mut self.upstream.stream)),
            };
            self.heard(side, read)?;
            if !intake.is_ready() {
                return Poll::Ready(Ok(()));
            }
        }
        let mut n_done = intake.bytes().len();
        let taken = match side {
            Side::Client => self.take_from_client(cx, intake.bytes(), &mut n_done),
            Side::Upstream => self.take_from_upstream(cx, intake.bytes()),
        };
        Poll::Ready(match taken {
            Ok(Taken { consumed, needs }) => {
                intake.consume(consumed, needs);
                Ok(())
            }
            Err(end) => {
                // What stands behind the message that ends the session is still listened to: the
                // client's close frame may be in it.
                intake.consume(n_done, 0);
                Err(end)
            }
        })
    }

    /// Takes bytes for a sign of life, and their end for the end.
    fn heard(&mut self, side: Side, read: io::Result<usize>) -> Result<(), SessionEnd> {
        match (read, side) {
            (Ok(0) | Err(_), _) => return Err(self.lost(side)),
            (Ok(_), Side::Client) => self.client.heard(),
            (Ok(_), Side::Upstream) => self.upstream.heard(),
        }
        Ok(())
    }

    /// The ending when `side` is gone without a close frame. Once the client has closed, its close
    /// stands, whoever goes first.
    #[cold]
    fn lost(&self, side: Side) -> SessionEnd {
        match (&self.client_close, side) {
            (Some((close, _)), _) => SessionEnd::Closed {
                by: Side::Client,
                close: close.clone(),
            },
            (None, side) => SessionEnd::Lost(side),
        }
    }

    /// Lets go of the streams, with what is to be said on them last.
    pub(super) fn into_remains(mut self, end: &SessionEnd) -> Remains<C, U> {
        let can_be_told = !matches!(
            end,
            SessionEnd::Lost(Side::Client)
                | SessionEnd::Silent(Side::Client)
                | SessionEnd::Stalled(Side::Client)
        );
        let parting = (can_be_told && self.down.is_at_frame_border()).then(|| {
            let mut parting = match self.down.is_inside_message() {
                true => Parting::close_only(end),
                false => Parting::new(end, self.live.id),
            };
            parting.has_closed |= self.client_close.is_some();
            parting.held = self.client.take_unwritten();
            parting
        });
        Remains {
            has_told_upstream: self.client_close.is_some(),
            client: self.client,
            upstream: self.upstream,
            tap: self.tap,
            admission: self.admission,
            parting,
        }
    }
}

/// What is left when no more frames flow.
pub(super) struct Remains<C, U> {
    pub(super) client: Leg<C>,
    pub(super) upstream: Leg<U>,
    pub(super) tap: Tap,
    pub(super) admission: Admission,
    /// What the client is still to be told; nothing when it is gone, does not read, or has been
    /// left in the middle of a frame.
    pub(super) parting: Option<Parting>,
    /// Whether upstream has been sent a close frame.
    pub(super) has_told_upstream: bool,
}

/// How much of a buffer has been dealt with.
struct Taken {
    /// Bytes that are done with.
    consumed: usize,
    /// How many bytes the rest must grow to before more can be done; 0 when more could be done now.
    needs: usize,
}

enum Deadline {
    End(SessionEnd),
    Ping(Side),
}
