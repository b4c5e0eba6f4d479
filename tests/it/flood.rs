//! Floods, stalls and slow readers cost the relay little, and others nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::frame::Frame;
use crate::support::http::Request;
use crate::support::relay::{OTHER_TOKEN, TOKEN};
use crate::support::{PATH, PATIENCE, Peer, TestRelay, Upstream, Wire, session};

/// The relay's deadline for a request head and for a credential is 5 s; this leaves room for a
/// slow machine.
const AFTER_THE_DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn silent_and_dribbling_sockets_are_gone_while_a_good_client_gets_in() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let head = relay.authorized(PATH).encode();
    let silent: Vec<Wire> = (0..500).map(|_| Wire::connect(relay.address)).collect();
    let mut dribbling: Vec<Wire> = (0..500).map(|_| Wire::connect(relay.address)).collect();

    let since = Instant::now();
    for (n, byte) in head[..head.len() - 2].iter().enumerate() {
        // By the end all of them have been cut, and writing fails.
        let n_left = dribbling
            .iter_mut()
            .filter_map(|it| it.try_write(&[*byte]).ok())
            .count();
        if n == 10 {
            let (mut client, mut conn) = session(&relay, &upstream);
            client.say(r#"{"text":"let me in "}"#);
            assert_eq!(conn.hear(), r#"{"text":"let me in "}"#);
        }
        if n_left == 0 || since.elapsed() > AFTER_THE_DEADLINE {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let deadline = since + AFTER_THE_DEADLINE;
    for mut wire in silent.into_iter().chain(dribbling) {
        let left = deadline.saturating_duration_since(Instant::now());
        wire.wait_for_end(left.max(Duration::from_secs(1)));
    }
    upstream.expect_none(Duration::from_millis(50));
}

#[test]
fn upgraded_sockets_that_show_no_credential_are_gone_after_their_deadline() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut sockets: Vec<Peer> = (0..100)
        .map(|_| {
            let mut client = Peer::dial(relay.address);
            client.write(&Request::upgrade(PATH).encode());
            client.expect_upgraded();
            client
        })
        .collect();
    // Pings and half messages are not a credential.
    for client in &mut sockets {
        client.send(Frame::text(r#"{"text":"#).unfinished());
    }
    let since = Instant::now();
    for client in &mut sockets {
        client.hear_out();
    }
    assert!(
        since.elapsed() < AFTER_THE_DEADLINE,
        "took {:?}",
        since.elapsed()
    );
    upstream.expect_none(Duration::from_millis(50));
}

#[test]
fn a_client_that_never_reads_is_cut_and_holds_little_memory() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (client, mut conn) = session(&relay, &upstream);
    let before = relay.memory_kb();

    // Upstream pushes until the relay takes no more and then hangs up; `client` reads nothing.
    let frame = Frame::text(format!(r#"{{"audio":"{}"}}"#, "A".repeat(256 * 1024))).encode();
    let since = Instant::now();
    let mut sent = 0;
    let mut most = before;
    let mut stream = conn.wire().stream();
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let (mut at, mut is_cut) = (0, false);
    while !is_cut && since.elapsed() < Duration::from_secs(90) {
        match stream.write(&frame[at..]) {
            Ok(n) => {
                sent += n;
                at = (at + n) % frame.len();
            }
            Err(e) => {
                use std::io::ErrorKind::{TimedOut, WouldBlock};
                is_cut = !matches!(e.kind(), TimedOut | WouldBlock);
            }
        }
        most = most.max(relay.memory_kb());
    }
    assert!(
        is_cut,
        "still connected after {:?} and {sent} bytes",
        since.elapsed()
    );
    assert!(most - before < 8 * 1024, "{before} kB grew to {most} kB");
    relay.wait_until_idle();
    relay.expect_log("the reason", |line| line["ending"] == "slow_consumer");
    drop(client);
}

#[test]
fn an_upstream_that_never_reads_holds_the_client_back() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (client, conn) = session(&relay, &upstream);
    let before = relay.memory_kb();
    let message = client
        .dress(Frame::text(format!(
            r#"{{"text":"{}"}}"#,
            "a".repeat(60_000)
        )))
        .encode();
    let mut client = client;
    let mut stream = client.wire().stream();
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let (mut at, mut is_held) = (0, false);
    for _ in 0..4000 {
        match stream.write(&message[at..]) {
            Ok(n) => at = (at + n) % message.len(),
            Err(_) => {
                is_held = true;
                break;
            }
        }
    }
    assert!(
        is_held,
        "the relay takes 240 MB for an upstream that reads nothing"
    );
    let grown = relay.memory_kb().saturating_sub(before);
    assert!(grown < 8 * 1024, "grew by {grown} kB");
    drop(conn);
}

#[test]
fn a_flood_of_connections_from_one_address_is_429() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        "[server]\nconnections_per_second = 1\nconnection_burst = 5",
    );
    let statuses: Vec<u16> = (0..30)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(relay.address).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // A flood may also be cut without a word.
            let _ = stream.write_all(&Request::upgrade("/nowhere").encode());
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).ok()?;
            std::str::from_utf8(&answer[9..]).ok()?.parse().ok()
        })
        .collect();
    let n_passed = statuses.iter().filter(|status| **status == 404).count();
    assert!((5..=15).contains(&n_passed), "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    // The operator's side is not behind the same gate.
    assert_eq!(relay.operator("GET", "/healthz").status, 200);
}

#[test]
fn messages_too_fast_are_refused_by_name() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        "[plans.default]\nmax_messages_per_second = 10",
    );
    for flood in [
        Frame::text(r#"{"text":" "}"#),
        Frame::text("{}"),
        Frame::new(9, b"ping"),
    ] {
        let (mut client, mut conn) = session(&relay, &upstream);
        let bytes = client.dress(flood).encode().repeat(500);
        client.write(&bytes);
        let (texts, close) = client.hear_out();
        assert_eq!(close.expect("a close frame").0, 1008);
        let last = texts.last().expect("an error frame");
        assert!(last.contains("rate_limit_exceeded"), "{last}");
        let (heard, _) = conn.hear_out();
        assert!(heard.len() <= 100, "{} of 500 went up", heard.len());
    }
    let metrics = relay.metrics();
    let counted = r#"xi_relay_refusals_total{limit="message_rate"} 3"#;
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}

#[test]
fn sessions_at_once_are_limited_for_each_client_alone() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        "[plans.default]\nmax_concurrent_sessions = 2",
    );
    let (first, _conn_1) = session(&relay, &upstream);
    let (_second, _conn_2) = session(&relay, &upstream);

    let refused = relay.authorized(PATH).send(relay.address);
    assert_eq!(refused.status, 429, "{}", refused.head.raw);
    assert_eq!(
        refused.json()["detail"]["code"],
        "too_many_concurrent_requests"
    );
    let mut page = Peer::dial(relay.address);
    page.write(&Request::upgrade(&format!("{PATH}?authorization={TOKEN}")).encode());
    page.say(r#"{"text":" "}"#);
    page.expect_upgraded();
    page.expect_refusal("too_many_concurrent_requests", 1008);

    let mut other = Peer::dial(relay.address);
    other.write(
        &Request::upgrade(PATH)
            .with("xi-api-key", OTHER_TOKEN)
            .encode(),
    );
    upstream.next().accept();
    other.expect_upgraded();

    // A slot is free again as soon as its client is gone.
    first.reset();
    crate::support::eventually("a free slot", || {
        let of_web = |session: &serde_json::Value| session["client"] == "web";
        (relay.sessions().into_iter().filter(of_web).count() == 1).then_some(())
    });
    session(&relay, &upstream);
}
