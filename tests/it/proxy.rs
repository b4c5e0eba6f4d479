//! The way upstream through an HTTP proxy.

use std::net::TcpListener;
use std::sync::mpsc::channel;

use crate::support::http::{Head, Request};
use crate::support::relay::UPSTREAM_KEY;
use crate::support::{PATH, PATIENCE, TestRelay, Wire};

const UPSTREAM: &str = "[upstream]\nbase_url = \"wss://upstream.invalid\"\n";

/// A relay behind a proxy that gives `answer` to CONNECT; and what the proxy got: the request head
/// and what came first through the tunnel.
fn ask_through_proxy(answer: &'static str) -> (TestRelay, impl Fn() -> (Head, Vec<u8>)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut wire = Wire::new(stream);
            let Some(head) = Head::read(&mut wire) else {
                continue;
            };
            wire.write(answer.as_bytes());
            let first = if answer.contains(" 200 ") {
                wire.take(5)
            } else {
                Vec::new()
            };
            // The test may have seen enough.
            let _ = sender.send((head, first));
        }
    });
    let proxy = format!("http://someone:pass-of-the-proxy@{address}");
    let open = "[server]\nallowed_hosts = [\"localhost\"]";
    let relay = TestRelay::launch(&[UPSTREAM, open], &[("HTTPS_PROXY", &proxy)]);
    (relay, move || {
        receiver.recv_timeout(PATIENCE).expect("the proxy is asked")
    })
}

#[test]
fn https_proxy_is_asked_for_a_tunnel_that_carries_tls() {
    let (relay, asked) = ask_through_proxy("HTTP/1.1 200 Connection established\r\n\r\n");
    let mut client = crate::support::Peer::dial(relay.address);
    client.write(&Request::upgrade(PATH).encode());
    client.say(r#"{"text":" "}"#);
    let (head, first) = asked();
    assert_eq!(head.line, "CONNECT upstream.invalid:443 HTTP/1.1");
    assert_eq!(head.all("proxy-authorization").len(), 1, "{}", head.raw);
    assert!(!head.raw.contains(UPSTREAM_KEY), "{}", head.raw);
    assert_eq!(&first[..2], b"\x16\x03", "a TLS handshake");
    client.expect_upgraded();
    client.expect_refusal("upstream_unavailable", 1011);
    assert!(
        !relay.log_text().contains("pass-of-the-proxy"),
        "{}",
        relay.log_text()
    );
}

#[test]
fn a_proxy_that_refuses_makes_upstream_unavailable() {
    let (relay, asked) = ask_through_proxy(
        "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    );
    let mut client = crate::support::Peer::dial(relay.address);
    client.write(&Request::upgrade(PATH).encode());
    client.say(r#"{"text":" "}"#);
    asked();
    client.expect_upgraded();
    client.expect_refusal("upstream_unavailable", 1011);
}
