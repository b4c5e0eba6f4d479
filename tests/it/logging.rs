//! The log: one line for each message, one for each session, and never a reason to wait.

use crate::support::frame::Frame;
use crate::support::{TestRelay, Upstream, session};

#[test]
fn every_message_has_one_line() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    // White space alone is counted, and logged, as nothing.
    let up = [
        (r#"{"text":" ","voice_settings":null}"#, "initialize", 0),
        (r#"{"text":"Na\u00efve \ud83c\udf0a "}"#, "text", 8),
        (r#"{"text":" "}"#, "keepalive", 0),
        (r#"{"text":"more ","flush":true}"#, "flush", 5),
        (r#"{"text":""}"#, "close", 0),
    ];
    for (message, _, _) in up {
        client.say(message);
        conn.hear();
    }
    let down = [
        (r#"{"audio":"AAECAwQF","isFinal":null}"#, "audio"),
        (r#"{"audio":null,"isFinal":true}"#, "final"),
        (
            r#"{"message":"sorry","error":"some_error","code":1011}"#,
            "error",
        ),
        (r#"{"type":"news"}"#, "other"),
    ];
    for (message, _) in down {
        conn.say(message);
        client.hear();
    }
    conn.send(Frame::close(1000, ""));
    client.expect_close(1000);
    relay.wait_until_idle();
    relay.expect_log("the summary", |line| line["message"] == "session ended");

    let lines = relay.log_lines();
    let of = |side: &str| -> Vec<serde_json::Value> {
        let is_message = |line: &&serde_json::Value| line["target"] == "xi_relay::message";
        lines
            .iter()
            .filter(is_message)
            // The close frame is no message, but has its line.
            .filter(|line| line["from"] == side && line["kind"] != "close_frame")
            .cloned()
            .collect()
    };
    let (from_client, from_upstream) = (of("client"), of("upstream"));
    assert_eq!(from_client.len(), up.len(), "{from_client:#?}");
    for (line, (message, kind, chars)) in from_client.iter().zip(up) {
        assert_eq!(line["kind"], kind, "{line}");
        assert_eq!(line["bytes"], message.len(), "{line}");
        assert_eq!(line["chars"].as_u64().unwrap_or(0), chars, "{line}");
        assert_eq!(line["client"], "web", "{line}");
        assert!(
            line["session"].is_string() && line["since_start_ms"].is_number(),
            "{line}"
        );
    }
    assert_eq!(from_upstream.len(), down.len(), "{from_upstream:#?}");
    for (line, (message, kind)) in from_upstream.iter().zip(down) {
        assert_eq!(line["kind"], kind, "{line}");
        assert_eq!(line["bytes"], message.len(), "{line}");
    }
    assert_eq!(from_upstream[0]["audio_bytes"], 6, "{}", from_upstream[0]);
    for lines in [from_client, from_upstream] {
        let sequence: Vec<_> = lines
            .iter()
            .map(|line| line["seq"].as_u64().unwrap())
            .collect();
        assert!(
            sequence.windows(2).all(|pair| pair[0] < pair[1]),
            "{sequence:?}"
        );
    }
}

#[test]
fn a_log_reader_that_stalls_slows_nothing() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    relay.stall_log();
    let before = relay.memory_kb();
    let message = r#"{"text":"x "}"#;
    // Some 20 MB of log: far more than a pipe and a bounded buffer hold.
    const ROUNDS: usize = 200;
    for _ in 0..ROUNDS {
        let burst = client.dress(Frame::text(message)).encode().repeat(500);
        client.write(&burst);
        for _ in 0..500 {
            assert_eq!(conn.hear(), message);
        }
    }
    assert_eq!(relay.operator("GET", "/healthz").status, 200);
    let dropped = relay.metric("xi_relay_log_lines_dropped_total");
    assert!(dropped.is_some_and(|n| n > 0.0), "{dropped:?}");
    let grown = relay.memory_kb().saturating_sub(before);
    assert!(grown < 24 * 1024, "grew by {grown} kB");

    // Once what was kept is out, the log says what was not, and goes on.
    relay.resume_log();
    relay.expect_log("lines were dropped", |line| {
        line["dropped"].as_u64() > Some(0)
    });
    conn.send(Frame::close(1000, ""));
    client.expect_close(1000);
    relay.expect_log("the summary", |line| line["message"] == "session ended");
}

#[test]
fn the_messages_of_other_levels_can_be_turned_off() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        "[log]\nlevel = \"info,xi_relay::message=off\"",
    );
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(r#"{"text":"x "}"#);
    conn.hear();
    conn.send(Frame::close(1000, ""));
    client.expect_close(1000);
    relay.expect_log("the summary", |line| line["message"] == "session ended");
    assert!(
        relay
            .log_lines()
            .iter()
            .all(|line| line["target"] != "xi_relay::message")
    );
}
