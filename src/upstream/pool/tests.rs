#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::BaseUrl;
use super::*;

/// A connection as the pool holds it, and its other end.
async fn dialed() -> (Stream, TlsStream<TcpStream>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
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
    let dialer = Dialer::new(&base_url, Some(Arc::new(client)), false);
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        acceptor.accept(stream).await.unwrap()
    };
    let (stream, peer) = tokio::join!(dialer.dial(), accept);
    (stream.unwrap(), peer)
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
    let mut got = [0; 4];
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    peer.read_exact(&mut got).await.unwrap();
    peer.write_all(b"pong").await.unwrap();
    peer.flush().await.unwrap();
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"pong");
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
