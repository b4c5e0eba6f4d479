//! A misbehaving upstream is failed with the code that it earned; the client reads an error frame
//! and 1011, since it is not to blame.

use crate::support::frame::{CLOSE, CONTINUATION, Frame, Length, PING, TEXT};
use crate::support::http::Request;
use crate::support::relay::UPSTREAM_KEY;
use crate::support::{Event, PATH, Peer, TestRelay, Upstream, session};

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

    /// In a session, upstream sends `bytes` and is closed with `code`; the client is told with an
    /// error frame and 1011.
    #[track_caller]
    fn check(&self, what: &str, bytes: &[u8], code: u16) {
        let (mut client, mut conn) = session(&self.relay, &self.upstream);
        conn.write(bytes);
        let (texts, close) = client.hear_out();
        let close = close.unwrap_or_else(|| panic!("{what}: the client got no close frame"));
        assert_eq!(close.0, 1011, "{what}: {close:?}");
        let last = texts
            .last()
            .unwrap_or_else(|| panic!("{what}: no error frame"));
        let refusal: serde_json::Value = serde_json::from_str(last).unwrap();
        assert_eq!(
            refusal["error"], "upstream_disconnected",
            "{what}: {refusal}"
        );
        assert_eq!(
            (&refusal["code"], &refusal["source"]),
            (&1011.into(), &"relay".into())
        );
        let close = conn
            .hear_out()
            .1
            .unwrap_or_else(|| panic!("{what}: upstream got no close"));
        assert_eq!(close.0, code, "{what}: {close:?}");
    }
}

#[test]
fn frames_that_break_the_framing_are_1002() {
    let legs = Legs::start();
    let text = Frame::text(r#"{"audio":"AAEC"}"#);
    legs.check("masked", &text.clone().masked().encode(), 1002);
    for rsv in [1, 2, 4] {
        legs.check("reserved bits", &text.clone().with_rsv(rsv).encode(), 1002);
    }
    for opcode in [3, 7, 11, 15] {
        legs.check("reserved opcode", &Frame::new(opcode, b"").encode(), 1002);
    }
    for length in [Length::Sixteen, Length::SixtyFour] {
        legs.check(
            "a length longer than needed",
            &text.clone().with_length(length).encode(),
            1002,
        );
    }
    legs.check(
        "a continuation of nothing",
        &Frame::new(CONTINUATION, b"x").encode(),
        1002,
    );
    legs.check(
        "a fragmented ping",
        &Frame::new(PING, b"").unfinished().encode(),
        1002,
    );
    legs.check("a long ping", &Frame::new(PING, [0; 126]).encode(), 1002);
    legs.check(
        "a close of one byte",
        &Frame::new(CLOSE, b"x").encode(),
        1002,
    );
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
        legs.check(
            &format!("close {code}"),
            &Frame::close(code, "").encode(),
            1002,
        );
    }
}

#[test]
fn a_second_message_inside_the_first_fails_both_legs() {
    let legs = Legs::start();
    let (mut client, mut conn) = session(&legs.relay, &legs.upstream);
    conn.send(Frame::text(r#"{"audio""#).unfinished());
    conn.send(Frame::new(TEXT, "x"));
    let code = conn.hear_out().1.expect("upstream is closed").0;
    assert_eq!(code, 1002);
    // The client already has the first fragment, so no error frame can stand before the close.
    let close = client.hear_out().1;
    assert_eq!(close.expect("the client is closed").0, 1011);
}

#[test]
fn text_that_is_not_utf_8_is_1007() {
    let legs = Legs::start();
    legs.check(
        "bad UTF-8",
        &Frame::text(b"{\"audio\":\"\xC3\x28\"}").encode(),
        1007,
    );
    legs.check(
        "a reason that is not UTF-8",
        &Frame::new(CLOSE, b"\x03\xE8\xFF").encode(),
        1007,
    );
}

#[test]
fn a_frame_beyond_all_bounds_is_1009() {
    let legs = Legs::start();
    let announced = Frame::text("").with_length(Length::Claimed(1 << 40));
    legs.check("a tebibyte announced", &announced.encode(), 1009);
}

#[test]
fn a_reset_at_any_offset_is_told() {
    let legs = Legs::start();
    let audio = Frame::text(r#"{"audio":"AAECAwQF","isFinal":null}"#).encode();
    let stream = [audio.clone(), audio.clone()].concat();
    for offset in 0..stream.len() {
        let (mut client, mut conn) = session(&legs.relay, &legs.upstream);
        conn.write(&stream[..offset]);
        // A reset may overtake data that nobody has read, so whole frames are waited for.
        for _ in 0..offset / audio.len() {
            assert_eq!(client.hear(), r#"{"audio":"AAECAwQF","isFinal":null}"#);
        }
        conn.reset();
        expect_disconnected(&mut client, offset % audio.len() == 0);
    }
}

#[test]
fn an_end_without_close_frame_is_told() {
    let legs = Legs::start();
    let frame = Frame::text(r#"{"audio":"AAEC"}"#).encode();
    for cut in [0, 1, 2, 5, frame.len() - 1, frame.len()] {
        let (mut client, mut conn) = session(&legs.relay, &legs.upstream);
        conn.write(&frame[..cut]);
        drop(conn);
        if cut == frame.len() {
            assert_eq!(client.hear(), r#"{"audio":"AAEC"}"#);
        }
        expect_disconnected(&mut client, cut == 0 || cut == frame.len());
    }
}

/// At a frame border the client reads frame and code; inside a frame that has partly gone down
/// already nothing can follow it, and the connection just ends.
#[track_caller]
fn expect_disconnected(client: &mut Peer, is_border: bool) {
    if is_border {
        client.expect_refusal("upstream_disconnected", 1011);
        return;
    }
    match client.event() {
        Event::Eof | Event::Reset => {}
        Event::Frame(frame) if frame.opcode == TEXT => {
            let text = String::from_utf8(frame.payload).unwrap();
            let refusal: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(refusal["error"], "upstream_disconnected", "{refusal}");
            client.expect_close(1011);
        }
        Event::Frame(frame) => panic!("{frame:?}"),
    }
}

/// An upstream that gives this answer to every upgrade and hangs up.
fn refusing(answer: &str) -> std::net::SocketAddr {
    let answer = answer.to_owned();
    Upstream::scripted(move |mut conn: Peer| {
        // The relay may have left after the head.
        let _ = conn.wire().try_write(answer.as_bytes());
    })
}

const MODEL_REFUSED: &str = r#"{"detail":{"type":"validation_error","code":"unsupported_model","status":"unsupported_model","param":"model_id","message":"eleven_v3 cannot be streamed on this socket","request_id":"req_demo"}}"#;

#[test]
fn a_refused_upgrade_reaches_a_header_client_in_http() {
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\
                x-trace-id: trace-of-a-refusal\r\nConnection: close\r\n\r\n";
    let relay = TestRelay::start(refusing(&format!("{head}{MODEL_REFUSED}")), "");
    let response = relay.authorized(PATH).send(relay.address);
    assert_eq!(response.status, 400, "{}", response.head.raw);
    let detail = &response.json()["detail"];
    assert_eq!(detail["code"], "unsupported_model", "{detail}");
    assert_eq!(
        detail["message"], "eleven_v3 cannot be streamed on this socket",
        "{detail}"
    );
}

#[test]
fn a_refused_upgrade_reaches_a_browser_as_a_frame() {
    let (front, back) = MODEL_REFUSED.split_at(40);
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    for answer in [
        format!("HTTP/1.1 400 Bad Request\r\n\r\n{MODEL_REFUSED}"),
        format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{MODEL_REFUSED}",
            MODEL_REFUSED.len()
        ),
        format!(
            "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n",
            chunk(front),
            chunk(back)
        ),
    ] {
        let relay = TestRelay::start(refusing(&answer), "");
        let refusal = browser(&relay).expect_refusal("unsupported_model", 1008);
        assert_eq!(
            refusal["message"],
            "eleven_v3 cannot be streamed on this socket"
        );
    }
}

/// A client that shows its token where a page can.
fn browser(relay: &TestRelay) -> Peer {
    let mut client = Peer::dial(relay.address);
    let token = crate::support::relay::TOKEN;
    client.write(&Request::upgrade(&format!("{PATH}?authorization={token}")).encode());
    client.say(r#"{"text":" "}"#);
    client.expect_upgraded();
    client
}

#[test]
fn our_own_faults_upstream_are_not_the_clients() {
    for (answer, error) in [
        (
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            "upstream_auth_failed",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n{}",
            "upstream_auth_failed",
        ),
        (
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 53\r\n\r\n\
             {\"detail\":{\"status\":\"quota_exceeded\",\"message\":\"no\"}}",
            "upstream_quota_exceeded",
        ),
    ] {
        let relay = TestRelay::start(refusing(answer), "");
        browser(&relay).expect_refusal(error, 1011);
        let response = relay.authorized(PATH).send(relay.address);
        assert_eq!(response.status, 502, "{}", response.head.raw);
        assert_eq!(response.json()["detail"]["code"], error);
    }
}

#[test]
fn an_upstream_that_answers_nonsense_is_unavailable() {
    for answer in [
        "",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 301 Moved\r\nLocation: ws://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let relay = TestRelay::start(refusing(answer), "");
        browser(&relay).expect_refusal("upstream_unavailable", 1011);
        let response = relay.authorized(PATH).send(relay.address);
        assert_eq!(response.status, 502, "{answer}: {}", response.head.raw);
        assert_eq!(
            response.json()["detail"]["code"],
            "upstream_unavailable",
            "{answer}"
        );
    }
}

#[test]
fn an_extension_nobody_asked_for_is_refused() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = browser(&relay);
    let mut conn = upstream.next();
    let head = conn.acceptance().replace(
        "x-trace-id: trace-of-the-test",
        "Sec-WebSocket-Extensions: permessage-deflate",
    );
    conn.write(head.as_bytes());
    client.expect_refusal("upstream_unavailable", 1011);
}

#[test]
fn an_upstream_that_is_not_there_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let relay = TestRelay::start(address, "");
    browser(&relay).expect_refusal("upstream_unavailable", 1011);
    let response = relay.authorized(PATH).send(relay.address);
    assert_eq!(response.status, 502, "{}", response.head.raw);
    assert!(
        !response.text().contains(&address.to_string()),
        "{}",
        response.text()
    );
}

#[test]
fn an_error_of_upstream_that_quotes_the_key_is_scrubbed() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&relay.authorized(PATH).encode());
    let mut conn = upstream.next();
    let body = format!(
        r#"{{"detail":{{"code":"voice_not_found","message":"{UPSTREAM_KEY} may not use it"}}}}"#
    );
    let head = format!(
        "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    conn.write(format!("{head}{body}").as_bytes());
    let response = client.expect_response();
    assert_eq!(response.status, 404, "{}", response.head.raw);
    assert_eq!(response.json()["detail"]["code"], "voice_not_found");
    assert!(
        !client.transcript().contains(UPSTREAM_KEY),
        "{}",
        client.transcript()
    );
}
