#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::task::Waker;

use proptest::prelude::*;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::Acceptor;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream as ServerStream;

use super::super::chopped::Chopped;
use super::super::tickets::Tickets;
use super::*;

type Client = TlsStream<Chopped>;
type Server = ServerStream<DuplexStream>;

const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;
const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;

/// Both ends' configuration, with one certificate that the client trusts.
struct Ends {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Ends {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        Self::with(
            version,
            crate::crypto::provider(),
            crate::crypto::provider(),
        )
    }

    fn with(
        version: &'static SupportedProtocolVersion,
        clients: Arc<CryptoProvider>,
        servers: Arc<CryptoProvider>,
    ) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut server = ServerConfig::builder_with_provider(servers)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let mut client = ClientConfig::builder_with_provider(clients)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        client.resumption = Resumption::store(Arc::new(Tickets::default()));
        Self {
            client: Arc::new(client),
            server: Arc::new(server),
        }
    }

    /// A connection over a pipe of `room` bytes, of which the client reads `most` at a time.
    async fn connect(&self, room: usize, most: usize) -> (Client, Server) {
        let (near, far) = duplex(room);
        let acceptor = TlsAcceptor::from(Arc::clone(&self.server));
        let (client, server) = tokio::join!(self.dial(near, most), acceptor.accept(far));
        (client.unwrap(), server.unwrap())
    }

    async fn dial(&self, stream: DuplexStream, most: usize) -> io::Result<Client> {
        let mut client = self.greet(stream, most).await?;
        client.flush().await?;
        Ok(client)
    }

    /// A handshake whose last message has not gone out.
    async fn greet(&self, stream: DuplexStream, most: usize) -> io::Result<Client> {
        let name = ServerName::try_from("localhost").unwrap();
        let stream = Chopped::new(stream, most);
        TlsStream::connect(Arc::clone(&self.client), name, stream).await
    }
}

#[tokio::test]
async fn the_end_of_the_handshake_leaves_with_what_is_written_first() {
    let ends = Ends::new(TLS13);
    let (near, far) = duplex(ROOM);
    let accepting = tokio::spawn(TlsAcceptor::from(Arc::clone(&ends.server)).accept(far));
    let mut client = ends.greet(near, usize::MAX).await.unwrap();
    assert_eq!(client.stream.n_writes, 1, "its first message");
    client.write_all(b"hi").await.unwrap();
    assert_eq!(client.stream.n_writes, 2);
    let mut server = accepting.await.unwrap().unwrap();
    let mut heard = [0; 2];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hi");
}

const ROOM: usize = 1024 * 1024;

async fn pair() -> (Client, Server) {
    Ends::new(TLS13).connect(ROOM, usize::MAX).await
}

fn some_bytes(n_bytes: usize) -> Vec<u8> {
    (0..n_bytes).map(|i| (i % 251) as u8).collect()
}

/// One read, without waiting.
fn read_now(client: &mut Client, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut buffer = ReadBuf::new(buffer);
    Pin::new(client)
        .poll_read(&mut cx, &mut buffer)
        .map_ok(|()| buffer.filled().len())
}

#[track_caller]
fn assert_holds_nothing(client: &Client) {
    assert_eq!(client.records.n_held(), 0);
    assert_eq!(client.out.capacity(), 0);
}

#[tokio::test]
async fn every_split_of_the_records_gives_the_same_bytes() {
    let sent = some_bytes(40_000);
    for version in [TLS13, TLS12] {
        for most in [1, 2, 3, 5, 6, 21, 22, 1000, 4096, 16_406, usize::MAX] {
            let (mut client, mut server) = Ends::new(version).connect(ROOM, most).await;
            assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
            server.write_all(&sent).await.unwrap();
            server.flush().await.unwrap();
            let mut got = vec![0; sent.len()];
            client.read_exact(&mut got).await.unwrap();
            assert!(got == sent, "{version:?} in pieces of {most}");
            assert!(read_now(&mut client, &mut [0; 1]).is_pending());
            assert_holds_nothing(&client);

            client.write_all(&sent).await.unwrap();
            client.flush().await.unwrap();
            server.read_exact(&mut got).await.unwrap();
            assert!(got == sent);
            assert_holds_nothing(&client);
        }
    }
}

#[tokio::test]
async fn a_caller_with_little_room_gets_everything() {
    let sent = some_bytes(40_000);
    for room in [1, 7, 1000, 16_384, 17_000] {
        let (mut client, mut server) = pair().await;
        server.write_all(&sent).await.unwrap();
        server.flush().await.unwrap();
        let mut got = Vec::new();
        let mut buffer = vec![0; room];
        while got.len() < sent.len() {
            let n_read = client.read(&mut buffer).await.unwrap();
            got.extend_from_slice(&buffer[..n_read]);
        }
        assert!(got == sent, "with room for {room}");
        assert_holds_nothing(&client);
    }
}

#[tokio::test]
async fn one_read_takes_all_the_records_there_are() {
    let (mut client, mut server) = pair().await;
    let sent = some_bytes(100_000);
    server.write_all(&sent).await.unwrap();
    server.flush().await.unwrap();
    let mut buffer = vec![0; 256 * 1024];
    let Poll::Ready(Ok(n_read)) = read_now(&mut client, &mut buffer) else {
        panic!("nothing was read");
    };
    assert!(buffer[..n_read] == sent);
    assert!(read_now(&mut client, &mut buffer).is_pending());
}

#[tokio::test]
async fn a_dropped_read_loses_nothing() {
    let sent = some_bytes(40_000);
    let (mut client, mut server) = Ends::new(TLS13).connect(ROOM, 100).await;
    let mut got = Vec::new();
    for piece in sent.chunks(10_000) {
        assert!(read_now(&mut client, &mut [0; 10]).is_pending());
        server.write_all(piece).await.unwrap();
        server.flush().await.unwrap();
        let mut buffer = [0; 30];
        let mut n_dropped = 0;
        while n_dropped < 2 {
            tokio::select! {
                biased;
                read = client.read(&mut buffer) => {
                    got.extend_from_slice(&buffer[..read.unwrap()]);
                    n_dropped = 0;
                }
                () = tokio::task::yield_now() => n_dropped += 1,
            }
        }
    }
    assert!(got == sent);
}

#[tokio::test]
async fn keys_may_change_at_any_time() {
    let (mut client, mut server) = Ends::new(TLS13).connect(ROOM, 10).await;
    let mut got = [0; 4];
    for _ in 0..3 {
        server.get_mut().1.refresh_traffic_keys().unwrap();
        server.write_all(b"down").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"down");
        // The peer asked for new keys of the client's, too.
        client.write_all(b"up..").await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"up..");
    }
}

/// Which of them the relay speaks depends on its processor.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn the_suites_of_either_library_understand_those_of_the_other() {
    let usual = || Arc::new(aws_lc_rs::default_provider());
    let other = || {
        Arc::new(CryptoProvider {
            cipher_suites: rustls::crypto::ring::ALL_CIPHER_SUITES.to_vec(),
            ..aws_lc_rs::default_provider()
        })
    };
    let sent = some_bytes(100_000);
    for version in [TLS13, TLS12] {
        for (clients, servers) in [(usual(), other()), (other(), usual())] {
            let ends = Ends::with(version, clients, servers);
            let mut earlier = Vec::new();
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let (mut client, mut server) = ends.connect(ROOM, usize::MAX).await;
                assert_eq!(server.get_ref().1.handshake_kind(), Some(kind));
                if version == TLS13 {
                    server.get_mut().1.refresh_traffic_keys().unwrap();
                }
                server.write_all(&sent).await.unwrap();
                server.flush().await.unwrap();
                let mut got = vec![0; sent.len()];
                client.read_exact(&mut got).await.unwrap();
                assert!(got == sent);
                client.write_all(&sent).await.unwrap();
                client.flush().await.unwrap();
                server.read_exact(&mut got).await.unwrap();
                assert!(got == sent);
                earlier.push((client, server));
            }
        }
    }
}

/// A caller with much room, such as an HTTP client, may have reserved it only.
#[tokio::test]
async fn memory_that_was_never_written_to_is_not_filled_with_zeros() {
    let (mut client, mut server) = pair().await;
    let mut memory = vec![std::mem::MaybeUninit::uninit(); 512 * 1024];
    let mut buffer = ReadBuf::uninit(&mut memory);
    let mut cx = Context::from_waker(Waker::noop());
    let polled = Pin::new(&mut client).poll_read(&mut cx, &mut buffer);
    assert!(polled.is_pending());
    let sent = some_bytes(100_000);
    server.write_all(&sent).await.unwrap();
    server.flush().await.unwrap();
    while buffer.filled().len() < sent.len() {
        let polled = Pin::new(&mut client).poll_read(&mut cx, &mut buffer);
        assert!(polled.is_ready());
        assert_eq!(buffer.initialized().len(), buffer.filled().len());
    }
    assert!(buffer.filled() == sent);
    assert_holds_nothing(&client);
}

/// Sessions that start at once, as after an upstream that was away, need no certificates.
#[tokio::test]
async fn many_tickets_are_kept() {
    let ends = Ends::new(TLS13);
    let mut open = Vec::new();
    for _ in 0..10 {
        let (mut client, server) = ends.connect(ROOM, usize::MAX).await;
        // Two tickets come with each.
        assert!(read_now(&mut client, &mut [0; 1]).is_pending());
        open.push((client, server));
    }
    for _ in 0..11 {
        let (client, server) = ends.connect(ROOM, usize::MAX).await;
        let kind = server.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Resumed));
        open.push((client, server));
    }
}

#[tokio::test]
async fn tickets_that_come_while_nobody_reads_resume_the_next_session() {
    for version in [TLS13, TLS12] {
        let ends = Ends::new(version);
        let (mut first, server) = ends.connect(ROOM, usize::MAX).await;
        assert_eq!(
            server.get_ref().1.handshake_kind(),
            Some(HandshakeKind::Full)
        );
        // As a pool looks at a connection that waits.
        assert!(read_now(&mut first, &mut [0; 1]).is_pending());
        assert_holds_nothing(&first);
        let (_second, server) = ends.connect(ROOM, usize::MAX).await;
        assert_eq!(
            server.get_ref().1.handshake_kind(),
            Some(HandshakeKind::Resumed)
        );
    }
}

#[tokio::test]
async fn the_peers_close_is_the_end_and_the_other_way_stays_open() {
    let (mut client, mut server) = pair().await;
    server.write_all(b"last").await.unwrap();
    server.shutdown().await.unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last");
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_answer_may_follow_the_peers_close() {
    let (near, far) = duplex(ROOM);
    let ends = Ends::new(TLS13);
    let peer = async {
        let mut server = TlsAcceptor::from(Arc::clone(&ends.server))
            .accept(far)
            .await
            .unwrap();
        server.get_mut().1.send_close_notify();
        server.flush().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        got
    };
    let client = async {
        let mut client = ends.dial(near, usize::MAX).await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        client.write_all(b"answer").await.unwrap();
        client.shutdown().await.unwrap();
    };
    let (got, ()) = tokio::join!(peer, client);
    assert_eq!(got, b"answer");
}

#[tokio::test]
async fn an_end_without_close_is_an_error_behind_the_bytes() {
    let (mut client, mut server) = pair().await;
    server.write_all(b"cut off").await.unwrap();
    server.flush().await.unwrap();
    let (stream, _) = server.into_inner();
    drop(stream);
    let mut got = [0; 7];
    client.read_exact(&mut got).await.unwrap();
    for _ in 0..2 {
        let error = client.read(&mut got).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn a_record_that_breaks_off_is_an_error() {
    let (mut client, mut server) = pair().await;
    server
        .get_mut()
        .0
        .write_all(&[23, 3, 3, 0, 200, 1])
        .await
        .unwrap();
    drop(server.into_inner().0);
    let error = client.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn garbage_is_an_error_behind_the_bytes_and_the_peer_is_told() {
    for garbage in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        &[
            23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
        ],
    ] {
        let (mut client, mut server) = pair().await;
        server.write_all(b"good").await.unwrap();
        server.flush().await.unwrap();
        server.get_mut().0.write_all(garbage).await.unwrap();
        let mut got = [0; 100];
        assert_eq!(client.read(&mut got).await.unwrap(), 4);
        for _ in 0..2 {
            let error = client.read(&mut got).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert!(client.write(b"x").await.is_err());
        let told = server.read(&mut got).await.unwrap_err().to_string();
        assert!(told.contains("alert"), "{told}");
        client.shutdown().await.unwrap();
        assert_holds_nothing(&client);
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_fails_the_handshake() {
    let (near, mut far) = duplex(ROOM);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let error = Ends::new(TLS13).dial(near, 3).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);

    let (near, far) = duplex(ROOM);
    drop(far);
    assert!(Ends::new(TLS13).dial(near, 3).await.is_err());
}

#[tokio::test]
async fn a_message_that_never_becomes_whole_is_not_kept_for_ever() {
    let (near, mut far) = duplex(ROOM);
    // The head of a ServerHello of 64 KiB, then its body a byte a record.
    far.write_all(&[22, 3, 3, 0, 4, 2, 0, 0xff, 0xff])
        .await
        .unwrap();
    far.write_all(&[22, 3, 3, 0, 1, 0].repeat(20_000))
        .await
        .unwrap();
    let error = Ends::new(TLS13).dial(near, 1000).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_and_the_server_told() {
    let (near, far) = duplex(ROOM);
    let (client, server) = (Ends::new(TLS13), Ends::new(TLS13));
    let acceptor = TlsAcceptor::from(server.server);
    let (dialed, accepted) = tokio::join!(client.dial(near, usize::MAX), acceptor.accept(far));
    let error = dialed.unwrap_err();
    assert!(
        error.to_string().contains("invalid peer certificate"),
        "{error}"
    );
    let told = accepted.unwrap_err().to_string();
    assert!(told.contains("alert"), "{told}");
}

#[tokio::test]
async fn a_dialed_name_goes_into_the_first_message() {
    let (near, far) = duplex(ROOM);
    let ends = Ends::new(TLS13);
    let hello = async {
        tokio_rustls::LazyConfigAcceptor::new(Acceptor::default(), far)
            .await
            .unwrap()
            .client_hello()
            .server_name()
            .map(str::to_owned)
    };
    tokio::select! {
        name = hello => assert_eq!(name.as_deref(), Some("localhost")),
        _ = ends.dial(near, usize::MAX) => panic!("there was no answer"),
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_the_writer_and_gets_everything_later() {
    let (mut client, mut server) = Ends::new(TLS13).connect(4096, usize::MAX).await;
    let sent = some_bytes(1_000_000);
    let mut n_taken = 0;
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(taken) = Pin::new(&mut client).poll_write(&mut cx, &sent[n_taken..]) {
        n_taken += taken.unwrap();
    }
    assert_eq!(n_taken, MAX_WRITE_BYTES);
    let upwards = async {
        client.write_all(&sent[n_taken..]).await.unwrap();
        client.shutdown().await.unwrap();
        client
    };
    let mut got = Vec::new();
    let (client, n_read) = tokio::join!(upwards, server.read_to_end(&mut got));
    assert_eq!(n_read.unwrap(), sent.len());
    assert!(got == sent);
    assert_holds_nothing(&client);
}

#[tokio::test]
async fn nothing_is_written_behind_a_close() {
    let (mut client, mut server) = pair().await;
    client.write_all(b"bye").await.unwrap();
    client.shutdown().await.unwrap();
    client.shutdown().await.unwrap();
    let error = client.write(b"more").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"bye");
}

#[tokio::test]
async fn a_close_waits_for_room() {
    let (mut client, mut server) = Ends::new(TLS13).connect(4096, usize::MAX).await;
    let sent = some_bytes(60_000);
    assert_eq!(client.write(&sent).await.unwrap(), sent.len());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut client).poll_shutdown(&mut cx).is_pending());
    let mut got = Vec::new();
    let (closed, read) = tokio::join!(client.shutdown(), server.read_to_end(&mut got));
    closed.unwrap();
    assert_eq!(read.unwrap(), sent.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_garbage_panics(
        garbage in prop_oneof![
            prop::collection::vec(any::<u8>(), 1..300),
            (20u8..25, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(kind, body)| {
                let mut record = vec![kind, 3, 3];
                record.extend((body.len() as u16).to_be_bytes());
                record.extend(body);
                record
            }),
        ],
        most in 1usize..50,
        is_handshaken: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            if !is_handshaken {
                let (near, mut far) = duplex(ROOM);
                far.write_all(&garbage).await.unwrap();
                far.shutdown().await.unwrap();
                assert!(Ends::new(TLS13).dial(near, most).await.is_err());
                return;
            }
            let (mut client, mut server) = Ends::new(TLS13).connect(ROOM, most).await;
            server.get_mut().0.write_all(&garbage).await.unwrap();
            drop(server.into_inner().0);
            assert!(client.read(&mut [0; 100]).await.is_err());
            let _ = client.write(b"x").await;
            let _ = client.shutdown().await;
            assert!(client.read(&mut [0; 100]).await.is_err());
        });
    }
}
