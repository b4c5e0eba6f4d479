//! Every number the relay keeps about itself, as one page of Prometheus text.
//!
//! Counting takes no lock that sessions share: sessions gather what is frequent and add it in one
//! go, and fetch the counters of their labels once, at their start.

mod encode;
mod family;
mod histogram;
mod messages;
mod number;
mod process;

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

pub use self::encode::{Encoder, Kind, Samples};
pub use self::family::Family;
pub use self::histogram::Histogram;
pub use self::messages::ByKind;
pub use self::number::{Counter, Gauge, GaugeGuard};

use self::family::LabelValues;
use self::process::Process;
use crate::ids::Side;

/// What a page of metrics is served as.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Series of a family whose labels come from the program itself.
const MAX_SERIES: usize = 256;

/// The `[metrics]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Clients that have a label of their own; those that come later are counted as `other`; 0 to
    /// 100,000.
    pub max_client_labels: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_client_labels: 100,
        }
    }
}

/// Something that has samples on the page.
pub trait Metric {
    /// What its `TYPE` line says.
    const KIND: Kind;

    /// Writes its samples, each with `labels` and its own.
    fn sample(&self, labels: &[(&str, &str)], samples: &mut Samples<'_>);
}

impl<M: Metric> Metric for Arc<M> {
    const KIND: Kind = M::KIND;

    fn sample(&self, labels: &[(&str, &str)], samples: &mut Samples<'_>) {
        M::sample(self, labels, samples);
    }
}

/// Numbers that somebody else keeps, written to the page when it is asked for.
type Source = Box<dyn Fn(&mut Encoder) + Send + Sync>;

/// Makes the struct, its start and its page of one list; a field's documentation is its help text.
macro_rules! metrics {
    (
        $(#[$outer:meta])*
        pub struct Metrics {
            $( $(#[doc = $help:literal])+ $field:ident: $kind:ty = $name:literal, $new:expr; )*
        }
    ) => {
        $(#[$outer])*
        pub struct Metrics {
            $( $(#[doc = $help])+ pub $field: $kind, )*
            clients: LabelValues,
            models: LabelValues,
            process: Process,
            sources: RwLock<Vec<Source>>,
        }

        impl Metrics {
            /// Everything at zero. `models` are the models that have a label of their own; a
            /// client can ask for any name, so what is not among them is counted as `other`.
            pub fn new(config: &Config, models: impl IntoIterator<Item = String>) -> Self {
                Self {
                    $( $field: $new, )*
                    clients: LabelValues::new(config.max_client_labels, []),
                    models: LabelValues::new(0, models),
                    process: Process::new(),
                    sources: RwLock::default(),
                }
            }

            fn encode(&self, page: &mut Encoder) {
                $(
                    let help = concat!($($help),+).trim();
                    let mut samples = page.family(<$kind as Metric>::KIND, $name, help);
                    self.$field.sample(&[], &mut samples);
                )*
            }
        }
    };
}

metrics! {
    /// Every number the relay keeps about itself.
    pub struct Metrics {
        /// Sessions that were admitted and connected, by endpoint.
        sessions_started: Family<Counter, 1> =
            "sessions_started_total", Family::new(["endpoint"], MAX_SERIES);
        /// Sessions that are open now.
        sessions_live: Arc<Gauge> = "sessions_live", Arc::default();
        /// Sessions that are open now, by client.
        client_sessions_live: Family<Gauge, 1> =
            "client_sessions_live", Family::new(["client"], usize::MAX);
        /// Sessions that have ended, by reason.
        sessions_ended: Family<Counter, 1> =
            "sessions_ended_total", Family::new(["reason"], MAX_SERIES);
        /// Messages read, by the side that sent them and their kind.
        messages: ByKind = "messages_total", ByKind::default();
        /// Payload bytes of messages read, by the side that sent them and their kind.
        message_bytes: ByKind = "message_bytes_total", ByKind::default();
        /// Characters that were charged and went upstream, by client and model.
        characters: Family<Counter, 2> =
            "characters_total", Family::new(["client", "model"], usize::MAX);
        /// Sessions, requests and messages that were refused, by the limit or rule that did.
        refusals: Family<Counter, 1> = "refusals_total", Family::new(["limit"], MAX_SERIES);
        /// Time from the start of a session to its first audio.
        first_audio: Histogram = "first_audio_seconds", Histogram::new(&FIRST_AUDIO_NS);
        /// Time to connect a session upstream, with TLS and upgrade unless the connection was warm.
        upstream_connect: Histogram =
            "upstream_connect_seconds", Histogram::new(&UPSTREAM_CONNECT_NS);
        /// HTTP requests answered, upgrades included, by endpoint and status.
        http_requests: Family<Counter, 2> =
            "http_requests_total", Family::new(["endpoint", "status"], MAX_SERIES);
        /// Streams that upstream ended without audio though text had gone up.
        silent_finals: Counter = "silent_finals_total", Counter::default();
    }
}

/// 50 ms to 10 s.
const FIRST_AUDIO_NS: [u64; 14] = times(
    1_000_000,
    [
        50, 100, 150, 200, 300, 400, 500, 750, 1000, 1500, 2000, 3000, 5000, 10_000,
    ],
);
/// 1 ms to 10 s.
const UPSTREAM_CONNECT_NS: [u64; 13] = times(
    1_000_000,
    [1, 2, 5, 10, 25, 50, 100, 200, 350, 500, 1000, 2500, 10_000],
);

/// Each of `numbers` in a unit of `ns` nanoseconds.
const fn times<const N: usize>(ns: u64, mut numbers: [u64; N]) -> [u64; N] {
    let mut index = 0;
    while index < N {
        numbers[index] *= ns;
        index += 1;
    }
    numbers
}

impl Metrics {
    /// Adds what a session has gathered of one kind of message.
    pub fn add_messages(&self, side: Side, kind: &str, messages: u64, bytes: u64) {
        self.messages.add(side, kind, messages);
        self.message_bytes.add(side, kind, bytes);
    }

    /// The counter of a client's characters for a model, to be kept for a session's length.
    #[must_use]
    pub fn characters_of(&self, client: &str, model: &str) -> Arc<Counter> {
        self.characters
            .with([self.clients.bound(client), self.models.bound(model)])
    }

    /// Counts a session as live until both guards are dropped.
    pub fn enter_session(&self, client: &str) -> [GaugeGuard; 2] {
        let of_client = self.client_sessions_live.with([self.clients.bound(client)]);
        [self.sessions_live.enter(), of_client.enter()]
    }

    /// Lets `source` write numbers that are kept elsewhere to every page. It must not block.
    pub fn register(&self, source: impl Fn(&mut Encoder) + Send + Sync + 'static) {
        self.sources.write().push(Box::new(source));
    }

    /// The page, as [`CONTENT_TYPE`].
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = Encoder::default();
        self.encode(&mut page);
        for source in &*self.sources.read() {
            source(&mut page);
        }
        page.family(
            Kind::Gauge,
            "build_info",
            "A constant 1 labelled with the version.",
        )
        .value(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.process.encode(&mut page);
        page.finish()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&Config::default(), [])
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
