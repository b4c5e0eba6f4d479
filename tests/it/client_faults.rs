//! Every breach of RFC 6455 by a client is answered by the close code that it earned, and the
//! other leg is told that it was not its fault.

use serde_json::json;

use crate::support::frame::{BINARY, CLOSE, CONTINUATION, Frame, Length, PING, PONG, TEXT};
use crate::support::{PATH, Peer, TestRelay, Upstream, session};

struct Legs {
    upstream: Upstream,
    relay: TestRelay,
}

impl Legs {
    fn start() -> Self {
        let upstream = Upstream::start();
        let relay = TestRelay::start(upstream.address, "");
        Self { upstream, relay }
    }

    /// In a session, the client sends `bytes` and is closed with `code`; upstream gets no message
    /// of it, and a close with `1011` or the end of the connection.
    #[track_caller]
    fn check(&self, what: &str, bytes: &[u8], code: u16) {
        let (mut client, mut conn) = session(&self.relay, &self.upstream);
        client.write(bytes);
        let (texts, close) = client.hear_out();
        let close = close.unwrap_or_else(|| panic!("{what}: no close frame, but {texts:?}"));
        assert_eq!(close.0, code, "{what}: {close:?} after {texts:?}");
        client.expect_gone();
        let (texts, close) = conn.hear_out();
        assert_eq!(texts, [""; 0], "{what}: this went up");
        assert_eq!(close.expect("upstream is told").0, 1011, "{what}");
    }
}

fn masked(frame: Frame) -> Vec<u8> {
    frame.masked().encode()
}

#[test]
fn frames_that_break_the_framing_are_1002() {
    let legs = Legs::start();
    let text = Frame::text(r#"{"text":"x "}"#);
    legs.check("unmasked", &text.encode(), 1002);
    for rsv in [1, 2, 4, 7] {
        legs.check("reserved bits", &masked(text.clone().with_rsv(rsv)), 1002);
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        legs.check("reserved opcode", &masked(Frame::new(opcode, b"")), 1002);
    }
    for length in [Length::Sixteen, Length::SixtyFour] {
        legs.check(
            "a length longer than needed",
            &masked(text.clone().with_length(length)),
            1002,
        );
    }
    let negative = text.clone().with_length(Length::Claimed(u64::MAX));
    legs.check("a length with the top bit set", &masked(negative), 1002);
}

#[test]
fn fragments_out_of_order_are_1002() {
    let legs = Legs::start();
    let start = masked(Frame::text(r#"{"text":"#).unfinished());
    legs.check(
        "a continuation of nothing",
        &masked(Frame::new(CONTINUATION, b"x")),
        1002,
    );
    let unfinished = masked(Frame::new(CONTINUATION, b"x").unfinished());
    legs.check("an unfinished continuation of nothing", &unfinished, 1002);
    for opcode in [TEXT, BINARY] {
        let bytes = [start.clone(), masked(Frame::new(opcode, b"x"))].concat();
        legs.check("a new message inside another", &bytes, 1002);
    }
    let whole = masked(Frame::text(r#"{"text":"x "}"#).unfinished());
    let ended = [
        whole,
        masked(Frame::new(CONTINUATION, b"")),
        masked(Frame::new(CONTINUATION, b"")),
    ];
    let (mut client, mut conn) = session(&legs.relay, &legs.upstream);
    client.write(&ended.concat());
    assert_eq!(conn.hear(), r#"{"text":"x "}"#);
    client.expect_close(1002);
    conn.expect_close(1011);
}

#[test]
fn control_frames_that_are_long_or_fragmented_are_1002() {
    let legs = Legs::start();
    for opcode in [PING, PONG, CLOSE] {
        legs.check(
            "fragmented",
            &masked(Frame::new(opcode, b"").unfinished()),
            1002,
        );
        legs.check("126 bytes", &masked(Frame::new(opcode, [b'x'; 126])), 1002);
    }
}

#[test]
fn close_frames_that_may_not_be_sent_are_1002() {
    let legs = Legs::start();
    legs.check("one byte", &masked(Frame::new(CLOSE, b"\x03")), 1002);
    for code in [
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
    ] {
        legs.check(
            &format!("close {code}"),
            &masked(Frame::close(code, "")),
            1002,
        );
    }
    let broken = Frame::new(CLOSE, b"\x03\xE8\xC3\x28");
    legs.check("a reason that is not UTF-8", &masked(broken), 1007);
}

#[test]
fn text_that_is_not_utf_8_is_1007() {
    let legs = Legs::start();
    for bytes in [
        &b"{\"text\":\"\xC3\x28 \"}"[..],
        b"\xFF",
        b"{\"text\":\"\xED\xA0\x80 \"}",
        b"{\"text\":\"\xC0\xAF \"}",
        b"{\"text\":\"\xF4\x90\x80\x80 \"}",
        b"{\"text\":\"\xE2\x82",
    ] {
        legs.check("bad UTF-8", &masked(Frame::text(bytes)), 1007);
    }
    let front = masked(Frame::text(b"{\"text\":\"\xE2").unfinished());
    let back = masked(Frame::new(CONTINUATION, b"\x28\xA1 \"}"));
    legs.check("bad UTF-8 across fragments", &[front, back].concat(), 1007);
}

#[test]
fn binary_is_refused_by_name() {
    let legs = Legs::start();
    let (mut client, mut conn) = session(&legs.relay, &legs.upstream);
    client.send(Frame::new(BINARY, br#"{"text":"x "}"#));
    client.expect_refusal("invalid_input_message", 1003);
    assert_eq!(conn.hear_out().0, [""; 0]);
}

#[test]
fn messages_that_are_not_an_object_with_a_text_are_refused_by_name() {
    let legs = Legs::start();
    for message in [
        "",
        "nonsense",
        "[]",
        "\"text\"",
        "7",
        "null",
        "{",
        "{}}",
        r#"{"text":"x "}{"text":"y "}"#,
        r#"{"text":5}"#,
        r#"{"text":["x"]}"#,
        r#"{"text":true}"#,
        r#"{"text":"x ","text":"y "}"#,
        r#"{"text":"\ud800 "}"#,
        "{\"text\":\"a\nb\"}",
        "{'text':'x '}",
    ] {
        let (mut client, mut conn) = session(&legs.relay, &legs.upstream);
        client.say(message);
        client.expect_refusal("invalid_input_message", 1008);
        let (heard, close) = conn.hear_out();
        assert_eq!(heard, [""; 0], "{message}");
        assert!(close.is_some(), "{message}: upstream is told");
    }
}

#[test]
fn a_message_over_the_limit_is_1009() {
    let legs = Legs::start();
    let text = |n: usize| json!({ "text": "x".repeat(n) }).to_string();
    let frame = text(65_536);
    legs.check("over 64 KiB", &masked(Frame::text(&frame)), 1009);
    let announced = Frame::text("").with_length(Length::Claimed(1 << 30));
    legs.check("only announced", &masked(announced), 1009);
    let mut fragments = masked(Frame::text(text(60_000)).unfinished());
    fragments.extend(masked(Frame::new(CONTINUATION, [b' '; 6_000])));
    legs.check("in fragments", &fragments, 1009);

    let fits = text(65_536 - r#"{"text":""}"#.len());
    assert_eq!(fits.len(), 65_536);
    let (mut client, mut conn) = session(&legs.relay, &legs.upstream);
    client.say(&fits);
    assert_eq!(conn.hear(), fits);
}

#[test]
fn pings_are_answered_in_order_with_their_payload() {
    let legs = Legs::start();
    let (mut client, mut conn) = session(&legs.relay, &legs.upstream);
    let payloads = [&b""[..], b"a", &[0xFF; 125], b"last"];
    let pings: Vec<u8> = payloads
        .iter()
        .flat_map(|payload| masked(Frame::new(PING, payload)))
        .collect();
    client.write(&pings);
    for payload in payloads {
        let pong = client.frame();
        assert_eq!((pong.opcode, &pong.payload[..]), (PONG, payload));
    }
    for payload in payloads {
        conn.send(Frame::new(PING, payload));
        let pong = conn.frame();
        assert_eq!((pong.opcode, &pong.payload[..]), (PONG, payload));
    }
}

#[test]
fn faults_before_the_credential_get_the_same_codes() {
    let legs = Legs::start();
    for (bytes, code) in [
        (Frame::text("{}").encode(), 1002),
        (masked(Frame::new(3, b"")), 1002),
        (masked(Frame::text(b"\xFF")), 1007),
        (masked(Frame::new(BINARY, b"x")), 1003),
        (masked(Frame::text("nonsense")), 1008),
    ] {
        let mut client = Peer::dial(legs.relay.address);
        client.write(&crate::support::Request::upgrade(PATH).encode());
        client.expect_upgraded();
        client.write(&bytes);
        let close = client.hear_out().1.expect("a close frame");
        assert_eq!(close.0, code, "{close:?}");
    }
}
