//! One client paired with one upstream, over any two byte streams: frames both ways, every timer,
//! one ending, one line a message. Knows neither HTTP nor TLS.

mod bucket;
mod end;
mod farewell;
mod intake;
mod ledger;
mod leg;
mod opening;
mod parts;
mod recorder;
mod registry;
mod relay;
mod scratch;
mod tap;
mod transport;
mod voices;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

pub use end::{Farewell, SessionEnd};
pub(crate) use ledger::{report, settle, summarize};
pub use opening::{Opening, without_credential};
pub use recorder::{RecordedSessions, Recorder, RecordingConfig, Recordings};
pub use registry::{Live, Registration, Registry, SessionRow};
pub use relay::Terms;
pub(crate) use tap::Tap;
pub use transport::Transport;
pub(crate) use voices::{allows_voice, allows_voices_of};

use crate::frame::Reader;
use crate::ids::Side;
use crate::metrics::Metrics;
use crate::protocol::OutputFormat;
use crate::quota::Admission;
use crate::upstream::Vacancy;
use leg::Leg;
use relay::Relay;

/// Deadlines that hold for every client; their keys stand in the `[server]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// How long a socket may stay without a credential.
    #[serde(with = "humantime_serde")]
    pub credential_timeout: Duration,
    /// How long a refusal waits for the client's first message.
    #[serde(with = "humantime_serde")]
    pub refusal_delay: Duration,
    /// Both peers are pinged so often; one that leaves two unanswered is gone.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// How long a peer may leave bytes unread.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How long the echo of a close frame is awaited.
    #[serde(with = "humantime_serde")]
    pub close_timeout: Duration,
    /// How much longer than upstream the relay waits for a silent client, so that upstream's own
    /// message is the one the client sees.
    #[serde(with = "humantime_serde")]
    pub inactivity_grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            credential_timeout: Duration::from_secs(5),
            refusal_delay: Duration::from_secs(1),
            ping_interval: Duration::from_secs(20),
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(3),
            inactivity_grace: Duration::from_millis(500),
        }
    }
}

/// What the log and the ledger say of a session besides its counts.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The model, as asked for; empty when not.
    pub model: Arc<str>,
    /// The output format in effect.
    pub format: Arc<str>,
    /// Upstream's `x-trace-id`, unless it holds a secret.
    pub trace_id: Option<String>,
    /// From the client's request to the leave to run it.
    pub admit_time: Duration,
    /// From the dial to upstream's 101.
    pub connect_time: Duration,
    /// Whether text stands in the log.
    pub logs_text: bool,
    /// The status of an HTTP request's answer; none for a socket, which ends with a close code.
    pub status: Option<u16>,
}

/// Settles a session whose upstream never opened.
pub async fn settle_unopened(
    registration: Registration,
    admission: Admission,
    facts: &Facts,
    end: &SessionEnd,
    started: Instant,
) {
    let live = Arc::clone(registration.live());
    let counts = tap::Counts::default();
    ledger::summarize(&live, &counts, facts, end, started);
    ledger::settle(&live, admission, &counts, facts, end).await;
}

/// One end of a session: the bytes, and those that were read before they were handed over.
pub struct Peer<S> {
    /// The byte stream.
    pub stream: S,
    /// To be read before it.
    pub read_ahead: Vec<u8>,
}

/// A client that has been let in, with its upstream open.
pub struct Session<C, U> {
    /// The client's end.
    pub client: Peer<C>,
    /// Upstream's end.
    pub upstream: Peer<U>,
    /// The place of that connection among the warm ones, given up once the client has spoken.
    pub vacancy: Option<Vacancy>,
    /// The rules it runs under.
    pub terms: Terms,
    /// The leave to run it.
    pub admission: Admission,
    /// Its entry among the live sessions.
    pub registration: Registration,
    /// What is written down about it.
    pub facts: Facts,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// When the client asked for it.
    pub started: Instant,
    /// Where it is written down, if it is.
    pub recorder: Option<Recorder>,
}

impl<C, U> Session<C, U>
where
    C: Transport,
    U: Transport,
{
    /// Relays to the end: frames, farewell, ledger.
    ///
    /// Not an `async fn`: that would keep room for `self` besides what has been made of it, in every
    /// session for as long as it lasts.
    pub fn run(self) -> impl Future<Output = ()> {
        let Self {
            client,
            upstream,
            vacancy,
            terms,
            admission,
            registration,
            facts,
            metrics,
            started,
            recorder,
        } = self;
        let live = Arc::clone(registration.live());
        let now = Instant::now();
        let client_reader = Reader::whole(Side::Client, terms.limits.max_message_bytes as u64);
        let upstream_reader = Reader::new(
            Side::Upstream,
            terms.max_upstream_message_bytes,
            relay::MAX_HELD_BYTES,
        );
        let tap = Tap::new(
            live.id,
            live.identity.client.as_str(),
            started,
            OutputFormat::parse(&facts.format),
            facts.logs_text,
        );
        let live_gauges = metrics.enter_session(live.identity.client.as_str());
        metrics
            .sessions_started
            .with([live.endpoint.as_str()])
            .inc();
        metrics.upstream_connect.observe(facts.connect_time);
        let ping_interval = terms.timing.ping_interval;
        // Boxed at once: it is large, and would be moved several times on its way into the task.
        let mut relay = Box::new(Relay::new(
            (
                Leg::new(client, Side::Client, client_reader, ping_interval, now),
                Leg::new(
                    upstream,
                    Side::Upstream,
                    upstream_reader,
                    ping_interval,
                    now,
                ),
            ),
            vacancy,
            terms,
            admission,
            live,
            tap,
            recorder,
        ));
        async move {
            let end = relay.run().await;
            if let Some(recorder) = relay.recorder.take() {
                recorder.finish(&end);
            }
            Self::finish(relay, end, registration, facts, metrics).await;
            drop(live_gauges);
        }
    }

    /// What is left to do is allocated only now, and is code of its own: most of a session's life is
    /// spent before it, and each of its turns would take a stack frame with room for it.
    #[inline(never)]
    fn finish(
        relay: Box<Relay<C, U>>,
        end: SessionEnd,
        registration: Registration,
        facts: Facts,
        metrics: Arc<Metrics>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let live = Arc::clone(registration.live());
            let timing = relay.terms.timing.clone();
            let mut remains = relay.into_remains(&end);
            let started = remains.tap.started();
            ledger::summarize(&live, remains.tap.counts(), &facts, &end, started);
            ledger::report(&metrics, &live, &mut remains.tap, &facts, &end);
            let upstream_left = farewell::leave_upstream(
                &mut remains.upstream.stream,
                &end,
                remains.has_told_upstream,
            );
            let client_left = async {
                // Settled before the client hears of the end: who comes back at once finds its slot
                // free.
                let settling = async {
                    let counts = remains.tap.counts();
                    ledger::settle(&live, remains.admission, counts, &facts, &end).await;
                    drop(registration);
                };
                let mut settling = pin!(settling);
                let Leg {
                    stream,
                    reader,
                    carry,
                    ..
                } = &mut remains.client;
                if futures_util::poll!(settling.as_mut()).is_pending() {
                    // What upstream has said does not wait for the store.
                    let parting = remains.parting.as_mut();
                    let held =
                        parting.map_or_else(Vec::new, |parting| std::mem::take(&mut parting.held));
                    let said = farewell::say(stream, &held, timing.write_timeout);
                    let ((), said) = tokio::join!(settling, said);
                    if said.is_err() {
                        remains.parting = None;
                    }
                }
                if let Some(parting) = remains.parting {
                    farewell::leave(stream, reader, &mut carry.bytes, parting, &timing).await;
                }
            };
            // The client first: its last bytes may be audio.
            tokio::join!(client_left, upstream_left);
        })
    }
}

#[cfg(test)]
mod tests;
