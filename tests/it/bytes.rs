//! What one side sends is what the other side gets, byte for byte and in order.

use crate::support::frame::{CONTINUATION, Frame, PING, PONG, TEXT};
use crate::support::http::Request;
use crate::support::relay::TOKEN;
use crate::support::{PATH, Peer, TestRelay, Upstream, session};

#[test]
fn frames_from_upstream_arrive_byte_for_byte() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    let head = client.wire().received().len();

    let payloads = [
        r#"{"audio":"AAECAwQF","isFinal":null,"normalizedAlignment":null,"alignment":null}"#,
        r#"{ "audio" : "" , "isFinal":null}"#,
        "{\"audio\":null,\"isFinal\":true}\n",
        r#"{"type":"flush_done","unknown":[1.0e3,"\u00e9"]}"#,
        "not JSON at all",
        "",
    ];
    let big = format!(r#"{{"audio":"{}"}}"#, "QUJD".repeat(50_000));
    let mut sent = Vec::new();
    for payload in payloads.iter().copied().chain([big.as_str()]) {
        sent.extend(Frame::text(payload).encode());
    }
    conn.write(&sent);
    assert_eq!(client.wire().take(sent.len()), sent);
    assert_eq!(client.wire().received().len() - head, sent.len());
}

#[test]
fn messages_from_the_client_arrive_as_they_were() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);

    let messages = [
        r#"{"text":" ","voice_settings":null,"generation_config":{"chunk_length_schedule":[50]}}"#,
        "{\"text\":\"Na\u{ef}ve \u{1F30A} \", \"try_trigger_generation\" : true}\n",
        r#"{"flush":true}"#,
        r#"{"text":null,"close_context":true}"#,
        r#"{"text":"\ud83c\udf0a ","unknown":{"deep":[null,1.50e-300,98765432109876543210]}}"#,
        r#"{"text":" "}"#,
        r#"{"text":""}"#,
    ];
    for message in messages {
        client.say(message);
    }
    for message in messages {
        assert_eq!(conn.hear(), message);
    }
}

#[test]
fn a_message_cut_anywhere_arrives_whole() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);

    let message = "{\"text\":\"cut in \u{1F30A} pieces \"}";
    let frame = client.dress(Frame::text(message)).encode();
    for _ in 0..3 {
        client.wire().dribble(&frame);
        assert_eq!(conn.hear(), message);
    }
    // In fragments too, also where a character is cut in two.
    for cut in [1, 17, 19, message.len() - 1] {
        let (front, back) = message.as_bytes().split_at(cut);
        client.send(Frame::new(TEXT, front).unfinished());
        client.send(Frame::new(CONTINUATION, b"").unfinished());
        client.send(Frame::new(CONTINUATION, back));
        let got = conn.frame();
        assert!(got.fin, "a fragmented message goes up as one");
        assert_eq!(String::from_utf8(got.payload).unwrap(), message);
    }
}

#[test]
fn a_ping_between_fragments_is_answered_and_stays_on_its_leg() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);

    client.send(Frame::text(r#"{"text":"#).unfinished());
    client.send(Frame::new(PING, b"from the client"));
    let pong = client.frame();
    assert_eq!(
        (pong.opcode, &pong.payload[..]),
        (PONG, &b"from the client"[..])
    );
    client.send(Frame::new(CONTINUATION, r#""whole "}"#));
    assert_eq!(conn.hear(), r#"{"text":"whole "}"#);

    conn.send(Frame::text(r#"{"audio""#).unfinished());
    conn.send(Frame::new(PING, b"from upstream"));
    let pong = conn.frame();
    assert_eq!(
        (pong.opcode, &pong.payload[..]),
        (PONG, &b"from upstream"[..])
    );
    conn.send(Frame::new(CONTINUATION, r#":"AAEC"}"#));
    assert_eq!(client.hear(), r#"{"audio":"AAEC"}"#);

    // Nobody asked for these (RFC 6455 section 5.5.3).
    client.send(Frame::new(PONG, b"unasked"));
    conn.send(Frame::new(PONG, b"unasked"));
    client.say(r#"{"text":"still here "}"#);
    assert_eq!(conn.hear(), r#"{"text":"still here "}"#);
}

#[test]
fn sixteen_mebibytes_from_upstream_pass() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    let frame = Frame::text("A".repeat(16 * 1024 * 1024)).encode();
    let n = frame.len();
    let expected = frame.clone();
    let writer = std::thread::spawn(move || {
        conn.write(&frame);
        conn
    });
    assert!(client.wire().take(n) == expected, "16 MiB arrive unchanged");
    drop(writer.join().unwrap());
}

#[test]
fn a_message_in_the_packet_of_the_upgrade_arrives_exactly_once() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let message = r#"{"text":"first words "}"#;

    // With the token in a header: the upgrade is answered after upstream's.
    let mut client = Peer::dial(relay.address);
    let mut packet = relay.authorized(PATH).encode();
    packet.extend(client.dress(Frame::text(message)).encode());
    client.write(&packet);
    let mut conn = upstream.next();
    conn.accept();
    client.expect_upgraded();
    assert_eq!(conn.hear(), message);
    client.say(r#"{"text":""}"#);
    assert_eq!(conn.hear(), r#"{"text":""}"#);

    // With the token in the message itself.
    let mut client = Peer::dial(relay.address);
    let first = format!(r#"{{"text":"first words ","xi_api_key":"{TOKEN}"}}"#);
    let mut packet = Request::upgrade(PATH).encode();
    packet.extend(client.dress(Frame::text(first)).encode());
    client.write(&packet);
    client.expect_upgraded();
    let mut conn = upstream.next();
    conn.accept();
    let up = conn.hear_json();
    assert_eq!(up, serde_json::json!({"text": "first words "}));
    client.say(r#"{"text":""}"#);
    assert_eq!(conn.hear(), r#"{"text":""}"#);
}

#[test]
fn nothing_goes_up_before_upstreams_101() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    let mut packet = relay.authorized(PATH).encode();
    packet.extend(client.dress(Frame::text(r#"{"text":"early "}"#)).encode());
    client.write(&packet);
    let mut conn = upstream.next();
    let head = conn.wire().received().len();
    conn.expect_silence(std::time::Duration::from_millis(300));
    assert_eq!(conn.wire().received().len(), head);
    conn.accept();
    assert_eq!(conn.hear(), r#"{"text":"early "}"#);
    client.expect_upgraded();
}

#[test]
fn frames_right_behind_upstreams_101_arrive() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&relay.authorized(PATH).encode());
    let mut conn = upstream.next();
    let mut packet = conn.acceptance().into_bytes();
    packet.extend(Frame::text(r#"{"audio":"AAEC"}"#).encode());
    packet.extend(&Frame::text(r#"{"audio":"AwQF"}"#).encode()[..9]);
    conn.write(&packet);
    client.expect_upgraded();
    assert_eq!(client.hear(), r#"{"audio":"AAEC"}"#);
    conn.write(&Frame::text(r#"{"audio":"AwQF"}"#).encode()[9..]);
    assert_eq!(client.hear(), r#"{"audio":"AwQF"}"#);
}

#[test]
fn the_trace_id_of_upstream_reaches_the_client() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (client, _conn) = session(&relay, &upstream);
    let head = client.head.as_ref().unwrap();
    assert_eq!(head.all("x-trace-id"), ["trace-of-the-test"]);
}

#[test]
fn the_query_goes_up_as_it_was() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        &format!(
            "[upstream]\nbase_url = \"ws://{}/some/prefix/\"",
            upstream.address
        ),
    );
    let query = "model_id=eleven_flash_v2_5&output_format=pcm_24000&inactivity_timeout=30\
                 &unknown=%20a+b%2F&flag&empty=&voice_settings=%7B%22stability%22%3A1%7D";
    let target = format!("{PATH}?{query}");
    let (_client, conn) = crate::support::session_at(&relay, &upstream, &target);
    assert_eq!(conn.target(), format!("/some/prefix{target}"));
}

#[test]
fn an_inactivity_timeout_above_the_plans_is_clamped() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        "[plans.default]\nmax_inactivity_timeout = \"60s\"",
    );
    let target = format!("{PATH}?a=1&inactivity_timeout=170&b=2");
    let (_client, conn) = crate::support::session_at(&relay, &upstream, &target);
    assert_eq!(
        conn.target(),
        format!("{PATH}?a=1&inactivity_timeout=60&b=2")
    );
}
