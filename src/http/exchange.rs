//! One HTTP request on its way up and its answer on the way down, piece by piece as it comes. It is
//! a session like those of the sockets: it can be listed and ended, it is settled exactly once, and
//! upstream is left as soon as the client is gone.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::answer::{error_response, passed_headers};
use super::connection::{Connection, TAKING_TIMEOUT};
use super::gateway::{Gateway, Place};
use super::refusal::response;
use crate::frame::Close;
use crate::ids::Side;
use crate::protocol::{AudioMeter, Problem};
use crate::quota::Admission;
use crate::session::{self, Facts, Live, Registration, SessionEnd, Tap};
use crate::upstream::{HttpAnswer, HttpError, HttpRequest};

/// The status in the log and the ledger of a request whose client did not wait for the answer.
const CLIENT_GONE: u16 = 499;

/// A request that may go up once its characters are charged.
pub(super) struct Exchange {
    pub(super) gateway: Arc<Gateway>,
    pub(super) admission: Admission,
    pub(super) presence: Presence,
    pub(super) tap: Tap,
    pub(super) facts: Facts,
    /// To be charged before the request goes up.
    pub(super) characters: u64,
    /// What it came on.
    pub(super) connection: Arc<Connection>,
    pub(super) request: HttpRequest,
    pub(super) audio: AudioMeter,
    pub(super) started: Instant,
    /// When the plan ends it.
    pub(super) deadline: Instant,
    /// When its token ends it, and what is said then.
    pub(super) expiry: Option<(Instant, Problem)>,
}

/// Keeps the relay from stopping before the exchange is over.
pub(super) struct Presence {
    pub(super) registration: Registration,
    pub(super) _place: Place,
}

/// What goes to the client behind the head of the answer.
enum Piece {
    Bytes(Bytes),
    /// The body is whole.
    End,
    /// It is not: the connection breaks off, as it did upstream.
    BrokenOff,
}

/// The way to the client: it has room for one piece, so that who reads slowly is read for slowly.
struct ToClient {
    pieces: mpsc::Sender<Piece>,
    patience: Duration,
}

/// What the client is still to be sent once the exchange is settled.
enum Parting {
    Nothing,
    /// The whole answer.
    Answer(oneshot::Sender<Response>, Response),
    /// The body's last piece, where it is known to be the last, and its end.
    Rest(ToClient, Option<Bytes>),
}

impl Exchange {
    /// Runs the exchange on a task of its own, which settles it even if the client is gone; returns
    /// once the head of the answer is known.
    pub(super) async fn answer(self) -> Response {
        let id = self.presence.registration.live().id;
        let (head, answered) = oneshot::channel();
        tokio::spawn(self.run(head));
        answered
            .await
            .unwrap_or_else(|_| response(&Problem::system_busy(), id))
    }

    async fn run(self, mut head: oneshot::Sender<Response>) {
        let Self {
            gateway,
            mut admission,
            mut tap,
            mut facts,
            ..
        } = self;
        let live = Arc::clone(self.presence.registration.live());
        let presence = Arc::new(self.presence);
        let metrics = &gateway.parts.metrics;
        let patience = gateway.parts.timing.write_timeout;
        let _live_gauges = metrics.enter_session(live.identity.client.as_str());
        metrics
            .sessions_started
            .with([live.endpoint.as_str()])
            .inc();

        let mut ended = pin!(ended(&live, self.deadline, self.expiry));
        let mut up = Up {
            gateway: &gateway,
            worker: self.connection.worker(),
            live: &live,
            head: &mut head,
        };
        let answered = up
            .forward(
                &mut admission,
                self.characters,
                self.request,
                ended.as_mut(),
            )
            .await;
        match admission.charged() {
            0 => tap.refused(self.characters),
            charged => tap.forwarded(charged),
        }
        tap.publish(&live);
        let (end, parting) = match answered {
            Err(end) => {
                let problem = end.problem();
                facts.status = Some(
                    problem
                        .as_ref()
                        .map_or(CLIENT_GONE, |problem| problem.status),
                );
                let parting = problem.map_or(Parting::Nothing, |problem| {
                    Parting::Answer(head, response(&problem, live.id))
                });
                (end, parting)
            }
            Ok(answer) if !answer.status.is_success() => {
                facts.trace_id.clone_from(&answer.trace_id);
                let (response, problem) = error_response(&gateway, answer, live.id).await;
                facts.status = Some(response.status().as_u16());
                tap.on_answer_end(response.status().as_u16(), Instant::now());
                (
                    SessionEnd::Refused(problem),
                    Parting::Answer(head, response),
                )
            }
            Ok(answer) => {
                let status = answer.status.as_u16();
                facts.trace_id.clone_from(&answer.trace_id);
                facts.status = Some(status);
                let (pieces, body) = mpsc::channel(1);
                let to_client = ToClient { pieces, patience };
                // The client may be gone, which the first piece will show.
                let _ = head.send(streamed(&gateway, &answer, body, Arc::clone(&presence)));
                let (end, last) = tokio::select! {
                    biased;
                    end = ended => (end, None),
                    end = down(answer, &to_client, self.audio, &mut tap, &live) => end,
                };
                tap.on_answer_end(status, Instant::now());
                (end, Parting::Rest(to_client, last))
            }
        };
        session::summarize(&live, tap.counts(), &facts, &end, self.started);
        session::report(metrics, &live, &mut tap, &facts, &end);
        // Settled before the client has the last of it: who asks again at once finds its slot free.
        session::settle(&live, admission, tap.counts(), &facts, &end).await;
        let is_complete = is_complete(&end);
        let patience = match end {
            // It has had its time.
            SessionEnd::Stalled(Side::Client) => Duration::ZERO,
            _ if is_complete => TAKING_TIMEOUT.max(patience),
            _ => patience,
        };
        let sent = parting.send(is_complete);
        self.connection.cut_unless(sent, patience, live.id).await;
        drop(presence);
    }
}

/// The way up, which ends early when the client does not wait.
struct Up<'a> {
    gateway: &'a Gateway,
    worker: usize,
    live: &'a Live,
    head: &'a mut oneshot::Sender<Response>,
}

impl Up<'_> {
    /// Charges the request, sends it and waits for the head of the answer.
    async fn forward(
        &mut self,
        admission: &mut Admission,
        characters: u64,
        request: HttpRequest,
        mut ended: Pin<&mut impl Future<Output = SessionEnd>>,
    ) -> Result<HttpAnswer, SessionEnd> {
        let reservation = tokio::select! {
            biased;
            end = ended.as_mut() => return Err(end),
            () = self.head.closed() => return Err(SessionEnd::Lost(Side::Client)),
            held = admission.hold(characters) => {
                held.map_err(|refusal| SessionEnd::Refused(Problem::from(&refusal)))?
            }
        };
        let secrets = self.gateway.secrets();
        let upstream = &self.gateway.parts.upstream;
        let answered = tokio::select! {
            biased;
            end = ended => Err(Unanswered::Ended(end)),
            () = self.head.closed() => Err(Unanswered::Ended(SessionEnd::Lost(Side::Client))),
            answered = upstream.request(self.worker, request, &secrets) => {
                answered.map_err(Unanswered::Failed)
            }
        };
        let has_gone_up = !matches!(
            answered,
            Err(Unanswered::Failed(HttpError::Connect(_) | HttpError::Key))
        );
        // Dropping the reservation instead gives the characters back.
        if has_gone_up {
            let applied = admission.apply(reservation);
            debug_assert!(applied.is_ok(), "what was granted can be applied");
        }
        answered.map_err(|unanswered| match unanswered {
            Unanswered::Ended(end) => end,
            Unanswered::Failed(error) => {
                tracing::warn!(session = %self.live.id, cause = %error, "upstream is unavailable");
                SessionEnd::Refused(Problem::upstream_unavailable())
            }
        })
    }
}

/// Why upstream has not answered.
enum Unanswered {
    Ended(SessionEnd),
    Failed(HttpError),
}

/// Passes the body on until it ends. The piece that makes it as long as was announced is not sent
/// but returned: with it the client knows that it has everything.
async fn down(
    mut answer: HttpAnswer,
    to_client: &ToClient,
    mut audio: AudioMeter,
    tap: &mut Tap,
    live: &Live,
) -> (SessionEnd, Option<Bytes>) {
    let mut announced = content_length(&answer);
    loop {
        let piece = tokio::select! {
            biased;
            piece = answer.chunk() => piece,
            () = to_client.pieces.closed() => return (SessionEnd::Lost(Side::Client), None),
        };
        let piece = match piece {
            Ok(Some(piece)) => piece,
            Ok(None) => return (completed(), None),
            Err(HttpError::Silent(_)) => return (SessionEnd::Silent(Side::Upstream), None),
            Err(_) => return (SessionEnd::Lost(Side::Upstream), None),
        };
        tap.on_answer_piece(piece.len() as u64, audio.count(&piece), Instant::now());
        tap.publish(live);
        if let Some(left) = &mut announced {
            *left = left.saturating_sub(piece.len() as u64);
            if *left == 0 {
                return (completed(), Some(piece));
            }
        }
        if let Err(end) = to_client.send(Piece::Bytes(piece)).await {
            return (end, None);
        }
    }
}

impl ToClient {
    async fn send(&self, piece: Piece) -> Result<(), SessionEnd> {
        match tokio::time::timeout(self.patience, self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(SessionEnd::Lost(Side::Client)),
            Err(_) => Err(SessionEnd::Stalled(Side::Client)),
        }
    }
}

impl Parting {
    /// Sends it, and returns once hyper has taken it. The client may be gone; there is nobody left to
    /// tell then.
    async fn send(self, is_complete: bool) {
        match self {
            Self::Nothing => {}
            Self::Answer(head, response) => drop(head.send(response)),
            Self::Rest(ToClient { pieces, .. }, last) => {
                let end = match is_complete {
                    true => Piece::End,
                    false => Piece::BrokenOff,
                };
                for piece in last.map(Piece::Bytes).into_iter().chain([end]) {
                    if pieces.send(piece).await.is_err() {
                        return;
                    }
                }
                pieces.closed().await;
            }
        }
    }
}

/// Upstream's head with a body that is still to come, which shares the presence: the relay does not
/// stop before all of it is written.
fn streamed(
    gateway: &Gateway,
    answer: &HttpAnswer,
    pieces: mpsc::Receiver<Piece>,
    presence: Arc<Presence>,
) -> Response {
    let pieces = stream::unfold((pieces, presence), |(mut pieces, presence)| async {
        match pieces.recv().await {
            Some(Piece::Bytes(bytes)) => Some((Ok(bytes), (pieces, presence))),
            Some(Piece::End) => None,
            Some(Piece::BrokenOff) | None => Some((Err(BrokenOff), (pieces, presence))),
        }
    });
    let mut response = Response::new(Body::from_stream(pieces));
    *response.status_mut() = answer.status;
    *response.headers_mut() = passed_headers(&answer.headers, &gateway.secrets());
    response
}

/// Makes the client's connection break off, so that half an answer is not taken for a whole one.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
struct BrokenOff;

/// Returns when something other than the two peers ends the exchange.
async fn ended(live: &Live, deadline: Instant, expiry: Option<(Instant, Problem)>) -> SessionEnd {
    let (at, problem) = match expiry {
        Some(expiry) if expiry.0 < deadline => expiry,
        _ => (deadline, Problem::session_expired()),
    };
    tokio::select! {
        end = live.ended() => end,
        () = sleep_until(at) => SessionEnd::Refused(problem),
    }
}

fn completed() -> SessionEnd {
    let close = Close {
        code: Some(1000),
        reason: String::new(),
    };
    SessionEnd::Closed {
        by: Side::Upstream,
        close,
    }
}

fn is_complete(end: &SessionEnd) -> bool {
    matches!(end, SessionEnd::Closed { .. })
}

fn content_length(answer: &HttpAnswer) -> Option<u64> {
    let length = answer
        .headers
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    // An empty body is told by its end.
    (length > 0).then_some(length)
}
