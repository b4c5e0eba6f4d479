//! Accepting connections and serving HTTP/1.1 on them.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use super::client_stream::{ClientStream, Patient};
use super::connection::Connection;
use super::dispatch::{Remote, service};
use super::gateway::Gateway;
use super::operator;
use super::pulse::Pulse;
use super::tls::ServerTls;
use super::workers::{Accepted, Worker};

/// The largest request head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The most headers in a request.
const MAX_HEADERS: usize = 64;
/// The pause after an `accept` that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the clients of one worker until `stopped`, encrypted where `tls` is given; sessions that
/// are live then go on by themselves. To run on the worker's own thread.
pub(super) async fn serve_clients(
    mut worker: Worker,
    tls: Option<Arc<ServerTls>>,
    gateway: Arc<Gateway>,
    stopped: CancellationToken,
) {
    let deadlines = Deadlines::of(&gateway);
    let pulse = Arc::new(Pulse::default());
    let ticking = tokio::spawn({
        let pulse = Arc::clone(&pulse);
        async move { pulse.keep().await }
    });
    tokio::spawn({
        let upstream = Arc::clone(&gateway.parts.upstream);
        let worker = worker.index;
        async move { upstream.keep_warm(worker).await }
    });
    let app = service(gateway);
    loop {
        let accepted = tokio::select! {
            () = stopped.cancelled() => break ticking.abort(),
            accepted = worker.next() => accepted,
        };
        pulse.beat();
        let Accepted {
            stream,
            remote,
            load,
        } = accepted;
        let remote = Remote {
            address: remote.ip(),
            connection: Arc::new(Connection::new(load)),
        };
        let app = app.clone();
        let acceptor = tls.as_ref().map(|tls| tls.acceptor());
        let stopped = stopped.clone();
        tokio::spawn(async move {
            let Some(acceptor) = acceptor else {
                let stream = ClientStream::Plain(stream);
                return serve(stream, Some(remote), app, deadlines, stopped).await;
            };
            // Whoever does not speak TLS, or too slowly, is not answered.
            if let Ok(Ok(stream)) =
                tokio::time::timeout(deadlines.header, acceptor.accept(stream)).await
            {
                let stream = ClientStream::Tls(Box::new(stream));
                serve(stream, Some(remote), app, deadlines, stopped).await;
            }
        });
    }
}

/// Serves the operator until `stopped`.
pub async fn serve_operator(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    stopped: CancellationToken,
) {
    let deadlines = Deadlines::of(&gateway);
    let app = operator::router(gateway);
    let listener = match Listener::new(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(cause = %error, "cannot serve the operator"),
    };
    loop {
        let (stream, _) = tokio::select! {
            () = stopped.cancelled() => return,
            accepted = accept(&listener) => accepted,
        };
        let app = app.clone();
        let stream = ClientStream::Plain(stream);
        tokio::spawn(serve(stream, None, app, deadlines, stopped.clone()));
    }
}

/// How much may wait unsent in the kernel for one client. Without a limit it takes megabytes, and a
/// client that reads at the pace of speech would look as if it did not read at all: the socket only
/// becomes writable again when a third of them is gone.
const MAX_UNSENT_BYTES: u32 = 512 * 1024;

/// The least time in which any client that reads shows it. At the pace of the leanest speech, four
/// kilobytes a second, half of the above takes 64 seconds.
const MIN_WRITE_TIMEOUT: Duration = Duration::from_secs(90);

/// Sets what a client's socket needs. With Nagle's algorithm the first audio is 40 ms late.
fn prepare(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(MAX_UNSENT_BYTES)
}

/// There is no network to be congested on the way to a client on this machine. Where BBR is the
/// system's choice, it would pace such a client all the same: one timer for every 64 KB, at up to a
/// third of the processor time that it takes to forward them. Reno does not pace and is part of every
/// kernel; one that knows no choice keeps what it has.
fn do_not_pace(socket: SockRef<'_>) {
    let _ = socket.set_tcp_congestion(b"reno");
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// A listener, and whether all that it accepts comes from this machine. On Linux the sockets that it
/// accepts have its options, so that they need not be set for each.
pub(super) struct Listener {
    tcp: TcpListener,
    is_local: bool,
}

impl Listener {
    /// To be made on the runtime that accepts.
    pub(super) fn new(tcp: TcpListener) -> io::Result<Self> {
        let is_local = is_loopback(tcp.local_addr()?);
        prepare(SockRef::from(&tcp))?;
        if is_local {
            do_not_pace(SockRef::from(&tcp));
        }
        Ok(Self { tcp, is_local })
    }

    fn prepare(&self, stream: &TcpStream, remote: SocketAddr) -> io::Result<()> {
        let inherits = cfg!(target_os = "linux");
        if is_loopback(remote) && !(inherits && self.is_local) {
            do_not_pace(SockRef::from(stream));
        }
        match inherits {
            true => Ok(()),
            false => prepare(SockRef::from(stream)),
        }
    }
}

/// The next connection.
pub(super) async fn accept(listener: &Listener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.tcp.accept().await {
            Ok((stream, remote)) if listener.prepare(&stream, remote).is_ok() => {
                return (stream, remote);
            }
            // The connection was gone before it was accepted.
            Ok(_) => {}
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(cause = %error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// What a connection is allowed to take its time over.
#[derive(Clone, Copy)]
struct Deadlines {
    /// A whole request head.
    header: Duration,
    /// Any progress in taking an answer.
    write: Duration,
}

impl Deadlines {
    fn of(gateway: &Gateway) -> Self {
        Self {
            header: gateway.parts.config.header_timeout,
            write: MIN_WRITE_TIMEOUT.max(2 * gateway.parts.timing.write_timeout),
        }
    }
}

async fn serve<S, B>(
    stream: ClientStream,
    remote: Option<Remote>,
    app: S,
    deadlines: Deadlines,
    stopped: CancellationToken,
) where
    S: Service<Request, Response = http::Response<B>, Error = Infallible> + Clone + Send,
    S::Future: Send,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let connection = remote.as_ref().map(|remote| Arc::clone(&remote.connection));
    let cut = async move {
        match connection {
            Some(connection) => connection.is_cut().await,
            None => std::future::pending().await,
        }
    };
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        if let Some(remote) = &remote {
            request.extensions_mut().insert(remote.clone());
        }
        app.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadlines.header)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Patient::new(stream, deadlines.write)), service)
        .with_upgrades();
    tokio::pin!(connection);
    // A connection that breaks, or a head that is malformed, concerns its client alone; hyper has
    // answered what can be answered.
    let served = async {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stopped.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    };
    tokio::select! {
        () = served => {}
        () = cut => {}
    }
}
