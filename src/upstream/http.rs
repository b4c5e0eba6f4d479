//! HTTP requests to upstream over connections that are kept and shared: HTTP/2 where upstream
//! speaks it, else HTTP/1.1. They are dialed as the sockets' connections are.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tower::Service;

use super::dial::{Dialer, describe};
use super::{BaseUrl, Config, ConnectError, Stream};
use crate::protocol::Secrets;
use crate::timer;

/// A connection without a request is closed after so long; upstream keeps them longer.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// The most connections that wait for a request, over all workers.
const MAX_IDLE_CONNECTIONS: usize = 32;
/// The largest read, and so the longest response head, of HTTP/1.1.
const MAX_READ_BYTES: usize = 64 * 1024;
/// How much of one HTTP/2 answer upstream may send ahead of a client that reads slowly.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same for all answers of one connection: so many slow clients that their windows fill it
/// would hold up the others.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// A dead HTTP/2 connection is found within twice this time.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// A request in all that a client has a say in. The rest of its head is the relay's.
#[derive(Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// The path, which begins with `/v1/` or `/v2/`, and the query.
    pub path_and_query: String,
    /// `Accept`; `*/*` where absent.
    pub accept: Option<HeaderValue>,
    /// `Content-Type` and the body.
    pub body: Option<(HeaderValue, Bytes)>,
}

/// The head of upstream's answer, with the body to follow.
#[derive(Debug)]
pub struct HttpAnswer {
    /// The status.
    pub status: StatusCode,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// `x-trace-id`, unless it holds a secret.
    pub trace_id: Option<String>,
    body: Incoming,
    read_timeout: Duration,
    _under_way: UnderWay,
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Name, TCP, proxy or TLS; nothing has gone up.
    #[error("cannot reach upstream: {0}")]
    Connect(String),
    /// The connection ended before the answer did, or what came is not HTTP.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Nothing came for too long.
    #[error("upstream sent nothing for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// The key holds characters that no header can have.
    #[error("the API key cannot stand in a header")]
    Key,
}

/// Sends requests to one upstream. Each worker has a client, whose connections wake no other thread.
pub(super) struct HttpClients(Box<[HttpClient]>);

/// The connections that one worker has dialed.
pub(super) struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    /// Scheme, host, port and path prefix.
    base: String,
    read_timeout: Duration,
    activity: Arc<Mutex<Activity>>,
}

/// Whether a client has connections, as far as its requests tell.
#[derive(Debug, Default)]
struct Activity {
    n_under_way: usize,
    last_answer: Option<Instant>,
}

impl Activity {
    /// When its last answer ended, unless what is kept of it has been closed since.
    fn kept_since(&self, now: Instant) -> Option<Instant> {
        self.last_answer.filter(|last| now - *last < MAX_IDLE)
    }
}

/// A request, until its answer has ended.
#[derive(Debug)]
struct UnderWay {
    activity: Arc<Mutex<Activity>>,
    is_answered: bool,
}

impl UnderWay {
    fn new(activity: &Arc<Mutex<Activity>>) -> Self {
        activity.lock().n_under_way += 1;
        Self {
            activity: Arc::clone(activity),
            is_answered: false,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut activity = self.activity.lock();
        activity.n_under_way -= 1;
        if self.is_answered {
            activity.last_answer = Some(Instant::now());
        }
    }
}

impl HttpClients {
    pub(super) fn new(
        base_url: &BaseUrl,
        config: &Config,
        tls: Option<&ClientConfig>,
        may_use_proxy: bool,
        n_workers: NonZeroUsize,
    ) -> Self {
        let tls = tls.map(|tls| {
            let mut tls = tls.clone();
            tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Arc::new(tls)
        });
        let connector = Connector {
            dialer: Arc::new(Dialer::new(base_url, tls, may_use_proxy)),
            timeout: config.connect_timeout,
        };
        let max_idle = MAX_IDLE_CONNECTIONS.div_ceil(n_workers.get());
        let client = || HttpClient::new(base_url, config, connector.clone(), max_idle);
        Self((0..n_workers.get()).map(|_| client()).collect())
    }

    /// The client for the next request of `worker`: its own, unless that would have to dial while
    /// another has a connection that waits. So requests that come now and then on changing workers
    /// find a connection as often as if they came on one.
    pub(super) fn of(&self, worker: usize) -> &HttpClient {
        let now = Instant::now();
        let own = &self.0[worker];
        {
            let activity = own.activity.lock();
            if activity.n_under_way > 0 || activity.kept_since(now).is_some() {
                return own;
            }
        }
        let lent = self.0.iter().filter_map(|other| {
            let activity = other.activity.lock();
            let since = activity.kept_since(now)?;
            (activity.n_under_way == 0).then_some((since, other))
        });
        lent.max_by_key(|(since, _)| *since)
            .map_or(own, |(_, other)| other)
    }
}

impl HttpClient {
    fn new(base_url: &BaseUrl, config: &Config, connector: Connector, max_idle: usize) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(MAX_IDLE)
            .pool_max_idle_per_host(max_idle)
            .http1_max_buf_size(MAX_READ_BYTES)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_INTERVAL)
            .http2_keep_alive_while_idle(true)
            .build(connector);
        Self {
            client,
            base: format!("{}{}", base_url.http_origin(), base_url.path_prefix()),
            read_timeout: config.http_read_timeout,
            activity: Arc::default(),
        }
    }

    pub(super) async fn request(
        &self,
        request: HttpRequest,
        api_key: Option<&SecretString>,
        secrets: &Secrets,
    ) -> Result<HttpAnswer, HttpError> {
        let request = self.with_head(request, api_key)?;
        let mut under_way = UnderWay::new(&self.activity);
        let answer = tokio::time::timeout(self.read_timeout, self.client.request(request))
            .await
            .map_err(|_| HttpError::Silent(self.read_timeout))?
            .map_err(|error| {
                // The words of an HTTP/2 upstream that ends the connection stand in it.
                let text = secrets.scrub_text(&describe(&error)).into_owned();
                match error.is_connect() {
                    true => HttpError::Connect(text),
                    false => HttpError::Broken(text),
                }
            })?;
        under_way.is_answered = true;
        let (head, body) = answer.into_parts();
        let trace_id = head.headers.get("x-trace-id");
        Ok(HttpAnswer {
            status: head.status,
            trace_id: trace_id
                .filter(|value| !secrets.contains(value.as_bytes()))
                .and_then(|value| Some(value.to_str().ok()?.to_owned())),
            headers: head.headers,
            body,
            read_timeout: self.read_timeout,
            _under_way: under_way,
        })
    }

    fn with_head(
        &self,
        request: HttpRequest,
        api_key: Option<&SecretString>,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        const API_KEY: HeaderName = HeaderName::from_static("xi-api-key");
        const AGENT: &str = concat!("xi-relay/", env!("CARGO_PKG_VERSION"));
        let uri: Uri = format!("{}{}", self.base, request.path_and_query)
            .parse()
            .map_err(|_| HttpError::Broken("its target is no URL".to_owned()))?;
        let mut head = HeaderMap::with_capacity(4);
        if let Some(api_key) = api_key {
            let mut api_key =
                HeaderValue::from_str(api_key.expose_secret()).map_err(|_| HttpError::Key)?;
            api_key.set_sensitive(true);
            head.insert(API_KEY, api_key);
        }
        head.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        head.insert(
            ACCEPT,
            request.accept.unwrap_or(HeaderValue::from_static("*/*")),
        );
        let body = match request.body {
            Some((content_type, body)) => {
                head.insert(CONTENT_TYPE, content_type);
                body
            }
            None => Bytes::new(),
        };
        let mut request_up = Request::new(Full::new(body));
        *request_up.method_mut() = request.method;
        *request_up.uri_mut() = uri;
        *request_up.headers_mut() = head;
        Ok(request_up)
    }
}

impl HttpAnswer {
    /// The next piece of the body as it came, never empty; none at its end. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// [`HttpError::Broken`] and [`HttpError::Silent`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = timer::within(self.read_timeout, self.body.frame())
                .await
                .ok_or(HttpError::Silent(self.read_timeout))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| HttpError::Broken(describe(&error)))?;
            match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                // Trailers, and frames that only pad.
                _ => {}
            }
        }
    }

    /// The body as far as it comes, and whether that is all of it: at most `max_bytes` are read.
    pub async fn read(mut self, max_bytes: usize) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            match self.chunk().await {
                Ok(Some(piece)) if body.len() + piece.len() <= max_bytes => {
                    body.extend_from_slice(&piece);
                }
                Ok(Some(piece)) => {
                    body.extend_from_slice(&piece[..max_bytes - body.len()]);
                    return (body, false);
                }
                Ok(None) => return (body, true),
                Err(_) => return (body, false),
            }
        }
    }
}

/// Dials for the pool.
#[derive(Clone)]
struct Connector {
    dialer: Arc<Dialer>,
    timeout: Duration,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Self::Response, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    /// Dials the one upstream there is, which every URI here names.
    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { dialer, timeout } = self.clone();
        async move {
            let stream = tokio::time::timeout(timeout, dialer.dial())
                .await
                .map_err(|_| ConnectError::TimedOut(timeout))??;
            Ok(TokioIo::new(stream))
        }
        .boxed()
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Stream::Tls(stream) if stream.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            Stream::Tls(_) | Stream::Plain(_) => Connected::new(),
        }
    }
}

#[cfg(test)]
mod tests;
