//! TCP, the proxy that the environment asks for, and TLS.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tower::{Service, ServiceExt};

use super::tls_stream::TlsStream;
use super::{BaseUrl, Stream};

/// Which step towards a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Name resolution or TCP.
    #[error("{0}")]
    Tcp(String),
    /// The CONNECT that `HTTPS_PROXY` or `HTTP_PROXY` asks for.
    #[error("through the proxy: {0}")]
    Proxy(String),
    /// The TLS handshake; never retried without verification.
    #[error("TLS: {0}")]
    Tls(String),
}

/// Opens connections to one upstream.
pub(super) struct Dialer {
    origin: Uri,
    way: Way,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// How upstream is reached.
enum Way {
    Proxy(Tunnel<HttpConnector>),
    /// By name: resolved each time, and of several addresses the one that answers first.
    Name(HttpConnector),
    Address(SocketAddr),
}

impl Dialer {
    /// Dials `base_url`, through the proxy that the environment names for it when `may_use_proxy`.
    pub(super) fn new(
        base_url: &BaseUrl,
        tls: Option<Arc<ClientConfig>>,
        may_use_proxy: bool,
    ) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        // The port of the scheme is what the connector and the proxy rules assume.
        let origin: Uri = base_url
            .http_origin()
            .parse()
            .expect("a base URL is a valid origin");
        // Dead peers are found by pings and read timeouts, and no connection waits for long: nothing
        // is left for TCP's own keepalive to do.
        let proxy = may_use_proxy
            .then(Matcher::from_env)
            .and_then(|matcher| matcher.intercept(&origin))
            .map(|intercept| {
                let tunnel = Tunnel::new(intercept.uri().clone(), tcp.clone());
                match intercept.basic_auth() {
                    Some(auth) => tunnel.with_auth(auth.clone()),
                    None => tunnel,
                }
            });
        let tls = tls.map(|config| {
            let name = ServerName::try_from(base_url.host().to_owned())
                .expect("a URL's host is a server name");
            (config, name)
        });
        let way = match (proxy, base_url.address()) {
            (Some(proxy), _) => Way::Proxy(proxy),
            (None, Some(address)) => Way::Address(address),
            (None, None) => Way::Name(tcp),
        };
        Self { origin, way, tls }
    }

    /// Opens one connection, encrypted where the base URL says so. The caller sets the deadline.
    pub(super) async fn dial(&self) -> Result<Stream, DialError> {
        let tcp = match &self.way {
            Way::Proxy(proxy) => Box::pin(connect(proxy.clone(), self.origin.clone()))
                .await
                .map_err(|error| DialError::Proxy(describe(&error)))?,
            Way::Name(tcp) => Box::pin(connect(tcp.clone(), self.origin.clone()))
                .await
                .map_err(|error| DialError::Tcp(describe(&error)))?,
            Way::Address(address) => connect_to(*address)
                .await
                .map_err(|error| DialError::Tcp(describe(&error)))?,
        };
        match &self.tls {
            None => Ok(Stream::Plain(tcp)),
            Some((config, name)) => TlsStream::connect(Arc::clone(config), name.clone(), tcp)
                .await
                .map(|stream| Stream::Tls(Box::new(stream)))
                .map_err(|error| DialError::Tls(describe(&error))),
        }
    }
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn connect<S>(mut connector: S, origin: Uri) -> Result<TcpStream, S::Error>
where
    S: Service<Uri, Response = hyper_util::rt::TokioIo<TcpStream>>,
{
    let stream = connector.ready().await?.call(origin).await?;
    Ok(stream.into_inner())
}

/// The error with what caused it: connectors hide the cause behind a general first sentence.
pub(super) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
