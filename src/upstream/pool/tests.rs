#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::pin::pin;

use futures_util::poll;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::BaseUrl;
use super::*;

/// An upstream of one's own behind TLS, and who dials it.
struct TlsUpstream {
    dialer: Arc<Dialer>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl TlsUpstream {
    async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = crate::crypto::provider();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let base_url = BaseUrl::parse(&format!("wss://localhost:{port}")).unwrap();
        Self {
            dialer: Arc::new(Dialer::new(&base_url, Some(Arc::new(client)), false)),
            listener,
            acceptor: TlsAcceptor::from(Arc::new(server)),
        }
    }

    async fn accept(&self) -> TlsStream<TcpStream> {
        let (stream, _) = self.listener.accept().await.unwrap();
        self.acceptor.accept(stream).await.unwrap()
    }
}

/// A connection as the pool holds it, and its other end.
async fn dialed() -> (Stream, TlsStream<TcpStream>) {
    let upstream = TlsUpstream::start().await;
    let dialing = async {
        let mut stream = upstream.dialer.dial().await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    tokio::join!(dialing, upstream.accept())
}

/// Whether the two ends hear each other.
async fn speak(stream: &mut Stream, peer: &mut TlsStream<TcpStream>) {
    let mut got = [0; 4];
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    peer.read_exact(&mut got).await.unwrap();
    peer.write_all(b"pong").await.unwrap();
    peer.flush().await.unwrap();
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"pong");
}

/// A pool of so many workers.
fn pool(dialer: &Arc<Dialer>, min: usize, max: usize, n_workers: usize) -> Pool {
    let config = PoolConfig {
        min,
        max,
        ..PoolConfig::default()
    };
    let n_workers = NonZeroUsize::new(n_workers).unwrap();
    let timeout = Duration::from_secs(10);
    Pool::new(Arc::clone(dialer), config, timeout, n_workers)
}

/// Looks at a connection until it is no longer fit to be handed out.
async fn found_dead(stream: &mut Stream) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while is_quiet(stream) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("a connection that upstream has left was taken for a good one");
}

#[tokio::test]
async fn a_connection_that_has_waited_can_be_used() {
    let (mut stream, mut peer) = dialed().await;
    // The tickets that follow the handshake are no reason to drop it.
    for _ in 0..20 {
        assert!(is_quiet(&mut stream));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    speak(&mut stream, &mut peer).await;
}

#[tokio::test]
async fn a_connection_that_upstream_has_left_is_noticed() {
    let (mut closed, mut peer) = dialed().await;
    peer.shutdown().await.unwrap();
    found_dead(&mut closed).await;

    let (mut dropped, peer) = dialed().await;
    drop(peer);
    found_dead(&mut dropped).await;

    let (mut spoken_to, mut peer) = dialed().await;
    peer.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        .await
        .unwrap();
    peer.flush().await.unwrap();
    found_dead(&mut spoken_to).await;
}

#[tokio::test]
async fn a_worker_without_a_connection_takes_one_over() {
    let upstream = TlsUpstream::start().await;
    let pool = Arc::new(pool(&upstream.dialer, 1, 2, 2));
    // Another worker, with a thread and a runtime of its own, dials what this one is to use.
    let other = std::thread::spawn({
        let pool = Arc::clone(&pool);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            assert!(runtime.block_on(pool.add_one(1)));
            runtime
        }
    });
    let mut peer = upstream.accept().await;
    let runtime = other.join().unwrap();
    assert_eq!(pool.counts().ready, 1);
    let seems_far = |dial_time| pool.demand.lock().dial_time = dial_time;
    seems_far(WORTH_TAKING_OVER - Duration::from_millis(1));
    assert!(
        pool.take(0).0.is_none(),
        "a dial of its own takes no longer"
    );
    seems_far(WORTH_TAKING_OVER);
    let mut stream = pool.take(0).0.expect("the other's");
    // From here on it has nothing to do with where it was dialed.
    runtime.shutdown_background();
    let spoken = tokio::time::timeout(Duration::from_secs(10), speak(&mut stream, &mut peer));
    spoken.await.expect("woken where it is used");
    assert!(pool.take(0).0.is_none());
    let counts = pool.counts();
    assert_eq!((counts.ready, counts.hits, counts.misses), (0, 1, 2));
    assert_eq!(counts.stale, 0);
}

#[tokio::test]
async fn a_worker_takes_its_own_connection_first() {
    let upstream = TlsUpstream::start().await;
    let pool = pool(&upstream.dialer, 0, 4, 2);
    for worker in [0, 1, 1] {
        let (added, _peer) = tokio::join!(pool.add_one(worker), upstream.accept());
        assert!(added);
    }
    let ready = || {
        pool.shares
            .iter()
            .map(|share| share.len())
            .collect::<Vec<_>>()
    };
    assert_eq!(ready(), [1, 2]);
    // Their peers have left; those are not handed out, and the other's are looked at too.
    let (added, _peer) = tokio::join!(pool.add_one(0), upstream.accept());
    assert!(added);
    assert!(pool.take(0).0.is_some());
    assert_eq!(ready(), [1, 2]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    pool.demand.lock().dial_time = WORTH_TAKING_OVER;
    assert!(pool.take(0).0.is_none());
    assert_eq!(ready(), [0, 0]);
    assert_eq!(pool.counts().stale, 3);
}

#[tokio::test]
async fn all_that_upstream_has_closed_are_replaced_at_once() {
    let upstream = TlsUpstream::start().await;
    let pool = pool(&upstream.dialer, 2, 2, 1);
    for _ in 0..2 {
        let (added, peer) = tokio::join!(pool.add_one(0), upstream.accept());
        assert!(added);
        drop(peer);
    }
    let mut ready = std::mem::take(&mut *pool.shares[0].ready.lock());
    for connection in &mut ready {
        found_dead(&mut connection.stream).await;
    }
    *pool.shares[0].ready.lock() = ready;
    assert_eq!(pool.prune(0), 2, "there is room for as many as have gone");
}

#[tokio::test]
async fn what_was_taken_is_replaced_when_its_place_is_given_up_or_it_takes_too_long() {
    let upstream = TlsUpstream::start().await;
    let pool = pool(&upstream.dialer, 0, 4, 1);
    let mut peers = Vec::new();
    for _ in 0..4 {
        let (added, peer) = tokio::join!(pool.add_one(0), upstream.accept());
        assert!(added);
        peers.push(peer);
    }
    // From here on time passes only where something waits for it.
    tokio::time::pause();
    let share = &pool.shares[0];
    let take = || {
        let (taken, place) = pool.take(0);
        assert!(taken.is_some());
        place
    };
    let takes = async |patience: Duration| {
        let started = Instant::now();
        share.vacancy().await;
        let late = started.elapsed().checked_sub(patience);
        assert!(
            late.is_some_and(|late| late <= Duration::from_millis(1)),
            "{late:?}"
        );
    };

    let mut vacancy = pin!(share.vacancy());
    let place = take();
    assert!(poll!(vacancy.as_mut()).is_pending());
    drop(place);
    assert!(poll!(vacancy).is_ready());

    // Who has taken one may be silent, and the next one is not to wait for that.
    let _second = take();
    takes(PATIENCE).await;

    let mut vacancy = pin!(share.vacancy());
    let _third = take();
    assert!(poll!(vacancy.as_mut()).is_pending());
    tokio::time::advance(SHORT_PATIENCE * 2).await;
    assert!(poll!(vacancy.as_mut()).is_pending(), "one is left");
    let _last = take();
    assert!(poll!(vacancy).is_ready(), "none is left");

    let (none, _place) = pool.take(0);
    assert!(none.is_none());
    takes(SHORT_PATIENCE).await;
}

#[tokio::test]
async fn each_worker_keeps_its_share() {
    let upstream = TlsUpstream::start().await;
    let pool = pool(&upstream.dialer, 3, 3, 2);
    // As many sessions start on the one as on the other.
    assert!(pool.take(0).0.is_none() && pool.take(1).0.is_none());
    let filling = async {
        tokio::join!(pool.keep_filled(0), pool.keep_filled(1));
    };
    let accepting = async {
        let mut peers = Vec::new();
        while peers.len() < 3 {
            peers.push(upstream.accept().await);
        }
        // Nothing more comes.
        let more = tokio::time::timeout(Duration::from_millis(100), upstream.accept());
        assert!(more.await.is_err());
        let ready: Vec<_> = pool.shares.iter().map(|share| share.len()).collect();
        assert_eq!(ready, [2, 1]);
    };
    tokio::select! {
        () = filling => {}
        () = accepting => {}
    }
}

#[test]
fn the_parts_make_up_the_whole() {
    for (total, per_second, parts) in [
        (0, &[0.0, 0.0][..], &[0, 0][..]),
        (3, &[0.0, 0.0], &[3, 0]),
        (3, &[2.0, 0.0], &[3, 0]),
        (3, &[2.0, 2.0], &[2, 1]),
        (8, &[0.0, 5.0], &[0, 8]),
        (8, &[9.0, 4.0, 3.0], &[5, 2, 1]),
        (5, &[1.0], &[5]),
    ] {
        let shared: Vec<_> = (0..per_second.len())
            .map(|worker| part_of(total, per_second, worker))
            .collect();
        assert_eq!(shared, parts);
    }
}
