//! SIGTERM: live sessions finish or are told, new ones are turned away, and the process ends well.

use std::time::{Duration, Instant};

use crate::support::frame::Frame;
use crate::support::http::Request;
use crate::support::relay::TOKEN;
use crate::support::{Event, PATH, Peer, TestRelay, Upstream, eventually, session};

#[test]
fn a_hundred_live_sessions_are_drained() {
    let upstream = Upstream::start();
    let mut relay = TestRelay::start(upstream.address, "[server]\ndrain_timeout = \"10s\"");
    let mut sessions: Vec<(Peer, Peer)> = (0..100).map(|_| session(&relay, &upstream)).collect();
    assert_eq!(relay.sessions().len(), 100);

    let since = Instant::now();
    relay.signal("TERM");
    eventually("not ready", || {
        (relay.operator("GET", "/readyz").status == 503).then_some(())
    });
    assert_eq!(
        relay.operator("GET", "/healthz").status,
        200,
        "alive, though not ready"
    );
    let turned_away = relay.authorized(PATH).send(relay.address);
    assert_eq!(turned_away.status, 503, "{}", turned_away.head.raw);

    // The live ones still speak, and one that ends by itself ends as always.
    for (client, conn) in &mut sessions {
        client.say(r#"{"text":"still here "}"#);
        assert_eq!(conn.hear(), r#"{"text":"still here "}"#);
        conn.say(r#"{"audio":"AAEC"}"#);
        assert_eq!(client.hear(), r#"{"audio":"AAEC"}"#);
    }
    let (mut client, mut conn) = sessions.pop().unwrap();
    conn.send(Frame::close(1000, ""));
    client.expect_close(1000);
    // None is told before the last tenth. What is noticed here is noticed late, never early.
    let last_tenth = Duration::from_secs(9);
    std::thread::sleep(Duration::from_secs(8).saturating_sub(since.elapsed()));
    for (client, _) in &mut sessions {
        let is_told = client.wire().hears_within(Duration::from_millis(1));
        assert!(
            !is_told || since.elapsed() >= last_tenth,
            "told after {:?}",
            since.elapsed()
        );
    }
    for (client, _) in &mut sessions {
        client.expect_refusal("service_restart", 1012);
        assert!(
            since.elapsed() >= last_tenth,
            "told after {:?}",
            since.elapsed()
        );
    }
    let status = relay.wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{status}");
    for (_, mut conn) in sessions {
        let (heard, _) = conn.hear_out();
        assert_eq!(heard, [""; 0]);
    }
}

#[test]
fn who_has_nothing_live_yet_is_told_at_once() {
    let upstream = Upstream::start();
    let mut relay = TestRelay::start(
        upstream.address,
        "[server]\ndrain_timeout = \"1h\"\ncredential_timeout = \"1h\"\nbody_timeout = \"1h\"",
    );
    let (live, conn) = session(&relay, &upstream);
    let mut silent = Peer::dial(relay.address);
    silent.write(&Request::upgrade(PATH).encode());
    silent.expect_upgraded();
    let mut half = Peer::dial(relay.address);
    let post = Request::plain("POST", "/v1/text-to-speech/VoiceAlpha0000000001")
        .with("xi-api-key", TOKEN)
        .with("Expect", "100-continue")
        .json(r#"{"text":"Hello"}"#);
    let head = post.encode();
    half.write(&head[..head.len() - 1]);
    // Its body is being waited for.
    assert!(half.wire().take_until(b"\r\n\r\n").is_some());

    relay.signal("TERM");
    silent.expect_refusal("service_restart", 1012);
    let told = half.expect_response();
    assert_eq!(told.status, 503, "{}", told.head.raw);
    drop((live, conn));
    let status = relay.wait(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn without_sessions_it_ends_at_once() {
    let upstream = Upstream::start();
    for signal in ["TERM", "INT"] {
        let mut relay = TestRelay::start(upstream.address, "");
        relay.signal(signal);
        let status = relay.wait(Duration::from_secs(5));
        assert_eq!(status.code(), Some(0), "{signal}: {status}");
    }
}

#[test]
fn it_ends_as_soon_as_the_last_session_has() {
    let upstream = Upstream::start();
    let mut relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    relay.signal("TERM");
    eventually("not ready", || {
        (relay.operator("GET", "/readyz").status == 503).then_some(())
    });
    conn.send(Frame::close(1000, ""));
    client.expect_close(1000);
    assert_eq!(conn.frame().close_parts().0, 1000);
    let status = relay.wait(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn a_second_signal_ends_it_now() {
    let upstream = Upstream::start();
    let mut relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    relay.signal("TERM");
    eventually("not ready", || {
        (relay.operator("GET", "/readyz").status == 503).then_some(())
    });
    relay.signal("TERM");
    relay.wait(Duration::from_secs(5));
    let told = client.hear_out().1;
    assert!(told.is_none_or(|(code, _)| code == 1012));
    match conn.event() {
        Event::Eof | Event::Reset => {}
        Event::Frame(frame) => assert_eq!(frame.opcode, crate::support::frame::CLOSE),
    }
}
