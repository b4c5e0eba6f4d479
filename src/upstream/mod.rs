//! The way to ElevenLabs: dialing, TLS, the server-held key, the WebSocket handshake, connections
//! kept warm. Knows nothing of clients.

mod base_url;
#[cfg(test)]
mod chopped;
mod dial;
mod handshake;
mod http;
mod pool;
mod stream;
mod tickets;
mod tls;
mod tls_stream;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use secrecy::SecretString;
use serde::Deserialize;

pub use base_url::{BaseUrl, InvalidBaseUrl};
#[cfg(test)]
pub(crate) use chopped::Chopped;
pub use dial::DialError;
pub use handshake::{Handshake, HandshakeError, Refusal};
pub use http::{HttpAnswer, HttpError, HttpRequest};
#[cfg(test)]
pub(crate) use pool::Share;
pub use pool::{PoolConfig, PoolCounts, Vacancy};
pub use stream::{MaybeTls, OverTcp, Stream};
pub use tls::{TlsError, client_config};

use dial::Dialer;
use http::HttpClients;
use pool::Pool;

use crate::protocol::Secrets;

/// The `[upstream]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where sessions go: `ws` or `wss`, any path prefix; `sandbox` for the built-in one; nothing
    /// for ElevenLabs when there is a key and the sandbox when there is none.
    pub base_url: Option<BaseUrl>,
    /// The deadline for TCP, TLS and the upgrade together.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long an HTTP answer may stay silent, before its first byte and between two.
    #[serde(with = "humantime_serde")]
    pub http_read_timeout: Duration,
    /// More certificate authorities to trust, as PEM; the system's stay trusted.
    pub ca_file: Option<PathBuf>,
    /// The largest message accepted from upstream, in bytes of payload; 64 to 1 GiB.
    pub max_message_bytes: u64,
    /// Connections kept ready.
    pub warm: PoolConfig,
    /// How many sessions may be open upstream on the dialogue sockets, which hold one of the
    /// account's slots for their whole life; 0 to 1,000,000.
    pub max_dialogue_sessions: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base_url: None,
            connect_timeout: Duration::from_secs(10),
            // As long as ElevenLabs' own clients wait: a long text has no first byte for minutes.
            http_read_timeout: Duration::from_secs(240),
            ca_file: None,
            max_message_bytes: 32 * 1024 * 1024,
            warm: PoolConfig::default(),
            max_dialogue_sessions: 35,
        }
    }
}

/// A connection on which upstream has said 101.
pub struct Connected {
    /// The bytes of the WebSocket from here on.
    pub stream: Stream,
    /// What came in the same read as the 101, to be read before the stream.
    pub read_ahead: Vec<u8>,
    /// Upstream's `x-trace-id`, unless it holds a secret.
    pub trace_id: Option<String>,
    /// From the first attempt to the 101.
    pub took: Duration,
    /// To be dropped when the session waits for upstream; none where no connections are kept warm.
    pub vacancy: Option<Vacancy>,
}

/// Why there is no session upstream.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not reachable: name, TCP, proxy or TLS.
    #[error("cannot reach upstream: {0}")]
    Dial(#[from] DialError),
    /// Reached, but did not upgrade.
    #[error("upstream did not upgrade: {0}")]
    Handshake(#[from] HandshakeError),
    /// No 101 before the deadline.
    #[error("upstream did not answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
}

/// How long connection failures count. Nobody may be sent here to try again while they do.
const FAILURE_MEMORY: Duration = Duration::from_secs(15);

/// Connects to the one configured upstream. Whoever connects says on which of the workers that
/// share it: what is kept for later is kept where it can be used without waking another thread.
pub struct Upstream {
    base_url: BaseUrl,
    api_key: ArcSwapOption<SecretString>,
    connect_timeout: Duration,
    dialer: Arc<Dialer>,
    pool: Pool,
    http: HttpClients,
    /// Connection failures since the last success, and when the last one was.
    failures: Mutex<(u32, Option<Instant>)>,
}

impl Upstream {
    /// Prepares connections to `base_url` for `n_workers`; nothing is dialed yet.
    ///
    /// # Errors
    /// A CA file that cannot be read, or no trusted CA at all while `base_url` is `wss`.
    pub fn new(
        base_url: BaseUrl,
        config: &Config,
        api_key: Option<SecretString>,
        is_local: bool,
        n_workers: NonZeroUsize,
    ) -> Result<Self, TlsError> {
        let tls = match base_url.is_tls() {
            true => Some(client_config(config.ca_file.as_deref())?),
            false => None,
        };
        let http = HttpClients::new(&base_url, config, tls.as_deref(), !is_local, n_workers);
        let dialer = Arc::new(Dialer::new(&base_url, tls, !is_local));
        Ok(Self {
            http,
            pool: Pool::new(
                Arc::clone(&dialer),
                config.warm.clone(),
                config.connect_timeout,
                n_workers,
            ),
            api_key: ArcSwapOption::from(api_key.map(Arc::new)),
            connect_timeout: config.connect_timeout,
            failures: Mutex::default(),
            base_url,
            dialer,
        })
    }

    /// Takes another key for the sessions to come.
    pub fn set_api_key(&self, api_key: Option<SecretString>) {
        self.api_key.store(api_key.map(Arc::new));
    }

    /// Keeps the connections of `worker` warm until dropped, on the thread that polls it; does
    /// nothing when the pool is off.
    pub async fn keep_warm(&self, worker: usize) {
        self.pool.keep_filled(worker).await;
    }

    /// How the pool fares.
    #[must_use]
    pub fn pool_counts(&self) -> PoolCounts {
        self.pool.counts()
    }

    /// Connection failures in a row; 0 after a success, and when the last one is so long ago that
    /// only another attempt can tell.
    #[must_use]
    pub fn failures_in_a_row(&self) -> u32 {
        let (failures, last) = *self.failures.lock();
        match last {
            Some(last) if last.elapsed() < FAILURE_MEMORY => failures,
            _ => 0,
        }
    }

    fn note_failure(&self) {
        let mut failures = self.failures.lock();
        *failures = (failures.0 + 1, Some(Instant::now()));
    }

    fn note_success(&self) {
        *self.failures.lock() = (0, None);
    }

    /// Dials, upgrades `path_and_query` (which begins with `/v1/`) and returns once upstream has
    /// said 101. Nothing of the client is in what goes up but this path and query, and nothing of
    /// `secrets` in the headers that come back.
    ///
    /// # Errors
    /// See [`ConnectError`]; an HTTP answer other than 101 is in it with its body.
    pub async fn connect(
        &self,
        worker: usize,
        path_and_query: &str,
        secrets: &Secrets,
    ) -> Result<Connected, ConnectError> {
        let started = Instant::now();
        let connecting = self.try_connect(worker, path_and_query, secrets);
        let result = tokio::time::timeout(self.connect_timeout, connecting)
            .await
            .unwrap_or(Err(ConnectError::TimedOut(self.connect_timeout)));
        match &result {
            // A refusal about the request says that upstream is well.
            Err(ConnectError::Handshake(HandshakeError::Refused(refusal)))
                if refusal.status < 500 => {}
            Err(_) => {
                self.note_failure();
            }
            Ok(_) => self.note_success(),
        }
        let (stream, handshake, vacancy) = result?;
        Ok(Connected {
            vacancy,
            stream,
            read_ahead: handshake.read_ahead,
            trace_id: handshake.trace_id,
            took: started.elapsed(),
        })
    }

    /// Sends an HTTP request and returns with the head of the answer, whatever its status; the body
    /// follows as it comes. Dropping the future or the answer cancels the request upstream.
    /// Redirects are not followed. Nothing of `secrets` stands in the error's text.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn request(
        &self,
        worker: usize,
        request: HttpRequest,
        secrets: &Secrets,
    ) -> Result<HttpAnswer, HttpError> {
        let api_key = self.api_key.load_full();
        let client = self.http.of(worker);
        let result = client.request(request, api_key.as_deref(), secrets).await;
        match &result {
            Ok(_) => self.note_success(),
            Err(_) => {
                self.note_failure();
            }
        }
        result
    }

    async fn try_connect(
        &self,
        worker: usize,
        path_and_query: &str,
        secrets: &Secrets,
    ) -> Result<(Stream, Handshake, Option<Vacancy>), ConnectError> {
        let api_key = self.api_key.load_full();
        let request = handshake::Request::new(&self.base_url, path_and_query, api_key.as_deref());
        let (warm, vacancy) = self.pool.take(worker);
        if let Some(mut stream) = warm {
            match request.upgrade(&mut stream, secrets).await {
                Ok(handshake) => return Ok((stream, handshake, vacancy)),
                // It died while it waited; nothing of the client has gone up yet.
                Err(HandshakeError::Broken(_)) => self.pool.note_stale(),
                Err(error) => return Err(error.into()),
            }
        }
        // Boxed, so that who finds a warm connection has no room for a dial.
        let mut stream = Box::pin(self.dialer.dial()).await?;
        let handshake = request.upgrade(&mut stream, secrets).await?;
        Ok((stream, handshake, vacancy))
    }
}
