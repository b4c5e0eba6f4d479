#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::super::Upstream;
use super::*;

const TWO_WORKERS: NonZeroUsize = NonZeroUsize::new(2).expect("2 is not 0");

/// An upstream of one's own behind TLS: what it was asked, and how often it was connected to.
struct TlsUpstream {
    upstream: Upstream,
    requests: mpsc::UnboundedReceiver<Asked>,
    n_connections: Arc<AtomicUsize>,
    _ca: tempfile::NamedTempFile,
}

/// A request, and the way to its answer.
struct Asked {
    head: http::request::Parts,
    pieces: mpsc::Sender<Bytes>,
}

/// The server's side of TLS, and the file with the certificate that vouches for it.
fn certified(alpn: &[u8]) -> (tokio_rustls::TlsAcceptor, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = crate::crypto::provider();
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![alpn.to_vec()];
    (tokio_rustls::TlsAcceptor::from(Arc::new(tls)), ca)
}

/// What sends requests to the server that listens at `port`.
fn upstream_at(port: u16, ca: &tempfile::NamedTempFile) -> Upstream {
    let config = Config {
        ca_file: Some(ca.path().to_owned()),
        ..Config::default()
    };
    let base_url = BaseUrl::parse(&format!("wss://localhost:{port}/below")).unwrap();
    Upstream::new(base_url, &config, Some("the-key".into()), true, TWO_WORKERS).unwrap()
}

async fn start(alpn: &[u8]) -> TlsUpstream {
    let (acceptor, ca) = certified(alpn);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let n_connections = Arc::new(AtomicUsize::new(0));
    let (asked, requests) = mpsc::unbounded_channel();
    let counter = Arc::clone(&n_connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let (acceptor, asked) = (acceptor.clone(), asked.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let service = service_fn(move |request: Request<Incoming>| {
                    let (pieces, body) = mpsc::channel(1);
                    asked
                        .send(Asked {
                            head: request.into_parts().0,
                            pieces,
                        })
                        .unwrap();
                    let pieces = futures_util::stream::unfold(body, async |mut body| {
                        Some((body.recv().await?, body))
                    });
                    let pieces = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
                    std::future::ready(Ok::<_, Infallible>(http::Response::new(StreamBody::new(
                        pieces,
                    ))))
                });
                // It ends with an error when the client leaves, as some of these do.
                let _ = match is_http2 {
                    true => {
                        http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), service)
                            .await
                    }
                    false => {
                        http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await
                    }
                };
            });
        }
    });

    TlsUpstream {
        upstream: upstream_at(port, &ca),
        requests,
        n_connections,
        _ca: ca,
    }
}

fn post() -> HttpRequest {
    HttpRequest {
        method: Method::POST,
        path_and_query: "/v1/text-to-speech/v/stream?a=%41".to_owned(),
        accept: None,
        body: Some((
            HeaderValue::from_static("application/json"),
            Bytes::from("{}"),
        )),
    }
}

impl TlsUpstream {
    async fn ask(&mut self) -> (HttpAnswer, Asked) {
        self.ask_on(0).await
    }

    async fn ask_on(&mut self, worker: usize) -> (HttpAnswer, Asked) {
        let answer = self
            .upstream
            .request(worker, post(), &Secrets::default())
            .await
            .unwrap();
        (answer, self.requests.recv().await.unwrap())
    }

    fn n_connections(&self) -> usize {
        self.n_connections.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn requests_share_one_connection_where_upstream_speaks_http_2() {
    let mut tls = start(b"h2").await;
    let (mut one, asked_one) = tls.ask().await;
    let (mut two, asked_two) = tls.ask().await;
    for asked in [&asked_one, &asked_two] {
        assert_eq!(asked.head.version, http::Version::HTTP_2);
        assert_eq!(asked.head.uri.path(), "/below/v1/text-to-speech/v/stream");
        assert_eq!(asked.head.uri.query(), Some("a=%41"));
        assert_eq!(asked.head.headers["xi-api-key"], "the-key");
    }
    asked_two.pieces.send(Bytes::from("two")).await.unwrap();
    asked_one.pieces.send(Bytes::from("one")).await.unwrap();
    assert_eq!(one.chunk().await.unwrap().unwrap(), "one");
    assert_eq!(two.chunk().await.unwrap().unwrap(), "two");
    // Leaving one answer cancels that request and leaves the other alone.
    drop(one);
    asked_one.pieces.closed().await;
    asked_two.pieces.send(Bytes::from("more")).await.unwrap();
    assert_eq!(two.chunk().await.unwrap().unwrap(), "more");
    drop(asked_two);
    assert!(two.chunk().await.unwrap().is_none());
    assert_eq!(tls.n_connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn http_1_is_spoken_where_upstream_speaks_nothing_else() {
    let mut tls = start(b"http/1.1").await;
    for _ in 0..2 {
        let (mut answer, asked) = tls.ask().await;
        assert_eq!(asked.head.version, http::Version::HTTP_11);
        assert_eq!(asked.head.headers["xi-api-key"], "the-key");
        drop(asked);
        assert!(answer.chunk().await.unwrap().is_none());
    }
    let (answer, asked) = tls.ask().await;
    drop(answer);
    asked.pieces.closed().await;
}

#[tokio::test]
async fn a_worker_is_lent_the_connection_of_another_while_that_waits() {
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let mut tls = start(alpn).await;
        for worker in [0, 1, 0, 1] {
            let (mut answer, asked) = tls.ask_on(worker).await;
            drop(asked);
            assert!(answer.chunk().await.unwrap().is_none());
            // What HTTP/1.1 has used is back with the client a moment after.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(tls.n_connections(), 1, "requests one after another");
        let busy = tls.ask_on(0).await;
        let other = tls.ask_on(1).await;
        assert_eq!(
            tls.n_connections(),
            2,
            "each has its own when both are busy"
        );
        drop((busy, other));
        let _own = tls.ask_on(1).await;
        assert_eq!(tls.upstream.http.of(1).activity.lock().n_under_way, 1);
    }
}

#[tokio::test]
async fn a_connection_that_another_worker_dialed_works_as_long_as_that_does() {
    let mut tls = start(b"h2").await;
    let upstream = Arc::new(tls.upstream);
    // A worker beside this one: a thread with a runtime of its own.
    let (done, is_done) = tokio::sync::oneshot::channel::<()>();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let dialer = std::thread::spawn({
        let upstream = Arc::clone(&upstream);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                drop(
                    upstream
                        .request(1, post(), &Secrets::default())
                        .await
                        .unwrap(),
                );
                ready.send(()).unwrap();
                is_done.await.unwrap();
            });
        }
    });
    drop(tls.requests.recv().await.unwrap());
    is_ready.await.unwrap();
    let mut answer = upstream
        .request(0, post(), &Secrets::default())
        .await
        .unwrap();
    let asked = tls.requests.recv().await.unwrap();
    asked.pieces.send(Bytes::from("heard")).await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "heard");
    assert_eq!(tls.n_connections.load(Ordering::SeqCst), 1);
    done.send(()).unwrap();
    dialer.join().unwrap();
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let tls = start(b"h2").await;
    let config = Config::default();
    let base_url = tls.upstream.base_url.clone();
    // A machine without any authority refuses at the start.
    let Ok(upstream) = Upstream::new(base_url, &config, Some("the-key".into()), true, TWO_WORKERS)
    else {
        return;
    };
    let refused = upstream
        .request(0, post(), &Secrets::default())
        .await
        .unwrap_err();
    assert!(matches!(refused, HttpError::Connect(_)), "{refused}");
    assert_eq!(upstream.failures_in_a_row(), 1);
}

#[tokio::test]
async fn a_key_that_no_header_can_hold_is_not_sent() {
    let tls = start(b"h2").await;
    tls.upstream.set_api_key(Some("two\nlines".into()));
    let refused = tls
        .upstream
        .request(0, post(), &Secrets::default())
        .await
        .unwrap_err();
    assert!(matches!(refused, HttpError::Key));
    assert!(!refused.to_string().contains("two"));
    assert_eq!(tls.n_connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_an_upstream_says_as_it_hangs_up_tells_no_secret() {
    let (acceptor, ca) = certified(b"h2");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream_at(listener.local_addr().unwrap().port(), &ca);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let words = b"bad the-key";
        // RFC 9113 sections 6.5 and 6.8: SETTINGS, and GOAWAY with ENHANCE_YOUR_CALM.
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let go_away = [0, 0, 8 + 11, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
        let said = [&settings[..], &go_away, words].concat();
        stream.write_all(&said).await.unwrap();
        // Until the other side has read it and leaves.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let secrets = Secrets::new(&["the-key".into()]);
    let failed = upstream.request(0, post(), &secrets).await.unwrap_err();
    assert!(failed.to_string().contains("bad ***"), "{failed}");
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_not_waited_for_for_ever() {
    let mut tls = start(b"h2").await;
    let (mut answer, _asked) = tls.ask().await;
    answer.read_timeout = Duration::from_millis(20);
    assert!(matches!(answer.chunk().await, Err(HttpError::Silent(_))));
}
