//! How sessions end: nothing is lost on the way down, and each side learns how the other left.

use std::time::{Duration, Instant};

use crate::support::frame::{CLOSE, Frame};
use crate::support::http::Request;
use crate::support::relay::TOKEN;
use crate::support::{Event, PATH, PROMPTLY, Peer, TestRelay, Upstream, session};

#[test]
fn all_audio_after_the_end_of_text_arrives() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(r#"{"text":"a long story "}"#);
    client.say(r#"{"text":""}"#);
    conn.hear();
    assert_eq!(conn.hear(), r#"{"text":""}"#);

    let audio = |n: usize| format!(r#"{{"audio":"{}"}}"#, format!("{n:04}").repeat(10_000));
    let writer = std::thread::spawn(move || {
        for n in 0..200 {
            conn.say(&audio(n));
        }
        conn.say(r#"{"isFinal":true}"#);
        conn.send(Frame::close(1000, ""));
        conn
    });
    for n in 0..200 {
        assert!(client.hear() == audio(n), "frame {n} arrives");
    }
    assert_eq!(client.hear(), r#"{"isFinal":true}"#);
    assert_eq!(client.expect_close(1000), "");
    let mut conn = writer.join().unwrap();
    assert_eq!(conn.frame().opcode, CLOSE);
}

#[test]
fn a_client_that_half_closes_is_gone() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(r#"{"text":"words "}"#);
    client.say(r#"{"text":""}"#);
    conn.hear();
    conn.hear();
    // A TCP FIN without a close frame: the client is gone, and upstream must not go on charging.
    client.wire().half_close();
    conn.wire().wait_for_end(PROMPTLY);
}

#[test]
fn upstreams_close_codes_and_reasons_reach_the_client() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let longest = "x".repeat(123);
    for (code, reason) in [
        (1000, ""),
        (1000, "done"),
        (1001, "going away"),
        (1002, "protocol"),
        (1003, ""),
        (1007, ""),
        (1008, "A voice with voice_id nope does not exist."),
        (1009, ""),
        (1010, ""),
        (1011, "sorry, not charged"),
        (1012, "restart"),
        (1013, "later"),
        (3000, "registered"),
        (4321, "\u{1F30A} private"),
        (1008, longest.as_str()),
    ] {
        let (mut client, mut conn) = session(&relay, &upstream);
        conn.say(r#"{"message":"last words"}"#);
        conn.send(Frame::close(code, reason));
        assert_eq!(client.hear(), r#"{"message":"last words"}"#);
        assert_eq!(client.expect_close(code), reason);
        assert_eq!(
            conn.frame().close_parts().0,
            code,
            "the relay echoes the close"
        );
        conn.expect_gone();
    }
}

#[test]
fn a_code_that_may_not_be_sent_becomes_1011() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for code in [1005, 1006, 1014, 1015] {
        let (mut client, mut conn) = session(&relay, &upstream);
        conn.send(Frame::close(code, "bad gateway"));
        let close = client.hear_out().1.expect("a close frame");
        assert_eq!(close.0, 1011, "{close:?}");
    }
}

/// A client that compares sees what it would have seen without a relay.
#[test]
fn an_empty_close_of_upstream_stays_empty() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    conn.send(Frame::new(CLOSE, b""));
    let close = client.frame();
    assert_eq!((close.opcode, &close.payload[..]), (CLOSE, &b""[..]));
}

#[test]
fn the_clients_close_code_reaches_upstream() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for (code, reason) in [
        (1000, "bye"),
        (1001, ""),
        (1009, "too big"),
        (4000, "custom"),
    ] {
        let (mut client, mut conn) = session(&relay, &upstream);
        client.say(r#"{"text":"words "}"#);
        conn.hear();
        client.send(Frame::close(code, reason));
        assert_eq!(conn.expect_close(code), reason);
        assert_eq!(client.frame().close_parts().0, code);
        client.expect_gone();
    }
}

#[test]
fn the_clients_empty_close_ends_both_legs() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    client.send(Frame::new(CLOSE, b""));
    assert_eq!(client.frame().opcode, CLOSE);
    client.expect_gone();
    let (_, close) = conn.hear_out();
    assert!(close.is_some(), "upstream is told");
    conn.wire().wait_for_end(PROMPTLY);
}

#[test]
fn a_client_that_vanishes_closes_upstream_at_once() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let leave: [fn(Peer); 4] = [
        Peer::reset,
        drop,
        |mut client| {
            // Inside a frame.
            let bytes = client.dress(Frame::text(r#"{"text":"cut off "}"#)).encode();
            client.write(&bytes[..7]);
        },
        |mut client| {
            // Inside a frame, with a reset.
            let bytes = client.dress(Frame::text(r#"{"text":"cut off "}"#)).encode();
            client.write(&bytes[..7]);
            client.reset();
        },
    ];
    for leave in leave {
        let (mut client, mut conn) = session(&relay, &upstream);
        client.say(r#"{"text":"words "}"#);
        conn.hear();
        leave(client);
        let since = Instant::now();
        // A close frame may come first; no message that the client did not send may.
        let (heard, _) = conn.hear_out();
        assert_eq!(heard, [""; 0]);
        assert!(since.elapsed() < PROMPTLY, "after {:?}", since.elapsed());
        relay.wait_until_idle();
    }
}

#[test]
fn a_client_that_vanishes_during_the_dial_leaves_nothing_behind() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&relay.authorized(PATH).encode());
    let mut conn = upstream.next();
    client.reset();
    match conn.wire().event_within(PROMPTLY) {
        Some(Event::Eof | Event::Reset) => {}
        other => panic!("the relay stays at upstream: {other:?}"),
    }
    relay.wait_until_idle();
}

#[test]
fn a_client_that_closes_during_the_dial_is_answered_and_upstream_is_left() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&Request::upgrade(PATH).encode());
    client.expect_upgraded();
    let credential = format!(r#"{{"text":" ","xi_api_key":"{TOKEN}"}}"#);
    client.say(&credential);
    // Has been dialed, and does not answer.
    let mut conn = upstream.next();
    client.say(r#"{"text":"never mind "}"#);
    client.send(Frame::close(1000, "changed my mind"));
    client.expect_close(1000);
    match conn.wire().event_within(PROMPTLY) {
        Some(Event::Eof | Event::Reset) => {}
        other => panic!("the relay stays at upstream: {other:?}"),
    }
    relay.wait_until_idle();
    let summary = relay.expect_log("a summary", |line| line["message"] == "session ended");
    assert_eq!(summary["ending"], "client_closed");
}

#[test]
fn a_socket_without_a_credential_is_told_in_time() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&Request::upgrade(PATH).encode());
    client.expect_upgraded();
    client.expect_refusal("needs_authorization", 1008);
    upstream.expect_none(Duration::from_millis(50));
}

#[test]
fn an_idle_session_ends_after_upstreams_own_chance() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let target = format!("{PATH}?inactivity_timeout=1");
    let (mut client, mut conn) = crate::support::session_at(&relay, &upstream, &target);
    client.send(Frame::new(crate::support::frame::PING, b"no activity"));
    assert_eq!(client.frame().opcode, crate::support::frame::PONG);
    let refusal = client.expect_refusal("input_timeout_exceeded", 1008);
    let message = refusal["message"].as_str().unwrap();
    assert!(
        message.contains("1.0 seconds"),
        "a float, as upstream writes it: {message}"
    );
    conn.hear_out();
}

#[test]
fn a_session_may_last_only_so_long() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        "[plans.default]\nmax_session_duration = \"1s\"",
    );
    let (mut client, mut conn) = session(&relay, &upstream);
    client.expect_refusal("session_expired", 1008);
    conn.hear_out();
}

#[test]
fn the_operator_can_end_a_session() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    let sessions = relay.sessions();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    let id = ["id", "session"]
        .iter()
        .find_map(|name| sessions[0][name].as_str());
    let id = id.unwrap_or_else(|| panic!("an id: {sessions:?}"));
    let answer = relay.operator("DELETE", &format!("/sessions/{id}"));
    assert!((200..300).contains(&answer.status), "{}", answer.head.raw);
    let (texts, close) = client.hear_out();
    assert!(
        texts
            .last()
            .is_some_and(|text| text.contains("\"source\":\"relay\"")),
        "{texts:?}"
    );
    assert!(close.is_some());
    conn.hear_out();
    relay.wait_until_idle();
    let again = relay.operator("DELETE", &format!("/sessions/{id}"));
    assert_eq!(again.status, 404);
}

#[test]
fn every_ending_has_one_summary_line() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(r#"{"text":"five5 "}"#);
    conn.hear();
    conn.say(r#"{"audio":"AAECAwQF"}"#);
    client.hear();
    conn.send(Frame::close(1000, ""));
    client.expect_close(1000);
    relay.wait_until_idle();
    let is_summary = |line: &serde_json::Value| line["message"] == "session ended";
    let summary = relay.expect_log("the summary", is_summary);
    assert_eq!(summary["client"], "web", "{summary}");
    assert_eq!(summary["voice"], "VoiceAlpha0000000001", "{summary}");
    assert!(
        summary.to_string().contains("trace-of-the-test"),
        "{summary}"
    );
    assert_eq!(
        relay
            .log_lines()
            .iter()
            .filter(|line| is_summary(line))
            .count(),
        1
    );
}
