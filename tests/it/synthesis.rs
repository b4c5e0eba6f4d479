//! HTTP synthesis: what goes up, what comes down, when, and what it costs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::Request;
use crate::support::relay::{TOKEN, UPSTREAM_KEY};
use crate::support::{PROMPTLY, Peer, TestRelay, Upstream, eventually};

const CONVERT: &str = "/v1/text-to-speech/VoiceAlpha0000000001";
const STREAM: &str = "/v1/text-to-speech/VoiceAlpha0000000001/stream";
const HELLO: &str = r#"{"text":"Hello."}"#;
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\n";

fn post(target: &str, body: &str) -> Request {
    Request::plain("POST", target)
        .with("xi-api-key", TOKEN)
        .json(body)
}

/// The request's body, as its head announces it.
fn body(conn: &mut Peer) -> String {
    let length = conn
        .head
        .as_ref()
        .unwrap()
        .get("content-length")
        .unwrap_or("0")
        .to_owned();
    String::from_utf8(conn.wire().take(length.parse().unwrap())).unwrap()
}

fn header<'a>(conn: &'a Peer, name: &str) -> Vec<&'a str> {
    conn.head.as_ref().unwrap().all(name)
}

/// Answers with a body of a known length and hangs up.
fn answer(conn: &mut Peer, head: &str, body: &str) {
    let head = format!(
        "{head}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    conn.write(&[head.as_bytes(), body.as_bytes()].concat());
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// An upstream that says "audio" to whoever asks.
fn obliging() -> std::net::SocketAddr {
    Upstream::scripted(|mut conn| {
        body(&mut conn);
        answer(&mut conn, OK, "audio");
    })
}

#[test]
fn what_goes_up_is_what_the_client_sent_but_for_its_token() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for path in [
        CONVERT,
        STREAM,
        "/v1/text-to-speech/VoiceAlpha0000000001/with-timestamps",
        "/v1/text-to-speech/VoiceAlpha0000000001/stream/with-timestamps",
        "/v1/text-to-dialogue",
        "/v1/text-to-dialogue/stream",
        "/v1/text-to-dialogue/with-timestamps",
        "/v1/text-to-dialogue/stream/with-timestamps",
    ] {
        let sent = r#" {"text" : "h\u0065llo", "seed":1.50,
            "voice_settings":{"x":[1, 2]} , "future":null}
            "#;
        let sent = match path.contains("dialogue") {
            true => sent.replacen(
                r#""text" : "h\u0065llo""#,
                r#""inputs":[{"text":"a","voice_id":"v","y":1}]"#,
                1,
            ),
            false => sent.to_owned(),
        };
        let target =
            format!("{path}?output_format=pcm_24000&x=%41+b&y&=&enable_logging=false&q='|{{%}}");
        let request = post(&target, &sent).set("Content-Type", "application/json; charset=utf-8");
        let mut client = Peer::dial(relay.address);
        client.write(
            &request
                .with("Cookie", "a=b")
                .with("Accept", "audio/*")
                .encode(),
        );
        let mut conn = upstream.next();
        assert_eq!(
            conn.head.as_ref().unwrap().line,
            format!("POST {target} HTTP/1.1")
        );
        assert_eq!(body(&mut conn), sent);
        assert_eq!(header(&conn, "xi-api-key"), [UPSTREAM_KEY]);
        assert_eq!(
            header(&conn, "content-type"),
            ["application/json; charset=utf-8"]
        );
        assert_eq!(header(&conn, "accept"), ["audio/*"]);
        assert_eq!(header(&conn, "host"), [upstream.address.to_string()]);
        assert_eq!(header(&conn, "cookie"), Vec::<&str>::new());
        answer(&mut conn, OK, "audio");
        assert_eq!(client.expect_response().body, b"audio");
    }
}

#[test]
fn a_credential_goes_up_from_nowhere() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let bearer = format!("Bearer {TOKEN}");
    let plain = |target: &str| Request::plain("POST", target);
    let in_body = format!(
        r#"{{"xi_api_key":"{TOKEN}","text":"a","x":1,"\u0061uthorization":"{TOKEN}","Single_Use_Token":null}}"#
    );
    for (request, sent, expected) in [
        (plain(CONVERT).with("Authorization", &bearer), HELLO, HELLO),
        (
            plain(&format!("{CONVERT}?xi-api-key={TOKEN}")),
            HELLO,
            HELLO,
        ),
        (plain(&format!("/t/{TOKEN}{CONVERT}")), HELLO, HELLO),
        (
            plain(CONVERT).with("xi-api-key", TOKEN),
            &in_body,
            r#"{"text":"a","x":1}"#,
        ),
    ] {
        let mut client = Peer::dial(relay.address);
        client.write(&request.json(sent).encode());
        let mut conn = upstream.next();
        assert_eq!(conn.target(), CONVERT);
        assert_eq!(body(&mut conn), expected);
        assert!(!conn.transcript().contains(TOKEN));
        answer(&mut conn, OK, "audio");
        assert_eq!(client.expect_response().status, 200);
    }
    // A credential in the body alone lets nobody in.
    let refused = plain(CONVERT).json(&in_body).send(relay.address);
    assert_eq!(
        (refused.status, &refused.json()["detail"]["code"]),
        (401, &json!("needs_authorization"))
    );
    upstream.expect_none(Duration::from_millis(50));
}

#[test]
fn the_answer_comes_down_with_its_headers() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&post(CONVERT, HELLO).encode());
    let mut conn = upstream.next();
    answer(
        &mut conn,
        "HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\nrequest-id: r-1\r\nhistory-item-id: h-1\r\n\
         character-cost: 6\r\ncurrent-concurrent-requests: 1\r\ntts-latency-ms: 80\r\nx-region: us\r\n\
         x-trace-id: t-1\r\nserver: uvicorn\r\nvia: 1.1 google\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         x-future: yes\r\nset-cookie: a=b\r\naccess-control-allow-origin: *\r\nkeep-alive: timeout=5\r\n\
         alt-svc: h3=\":443\"\r\n",
        "audio",
    );
    let response = client.expect_response();
    let mut names: Vec<_> = response
        .head
        .headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "character-cost",
            "connection",
            "content-length",
            "content-type",
            "current-concurrent-requests",
            "date",
            "history-item-id",
            "request-id",
            "server",
            "tts-latency-ms",
            "via",
            "x-future",
            "x-region",
            "x-trace-id",
        ]
    );
    assert_eq!(response.head.get("content-length"), Some("5"));
    assert_eq!(
        response.head.get("date"),
        Some("Thu, 01 Jan 2026 00:00:00 GMT")
    );
    assert_eq!(response.body, b"audio");
}

#[test]
fn each_piece_comes_down_when_it_comes_in() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&post(STREAM, HELLO).encode());
    let mut conn = upstream.next();
    conn.write(format!("{OK}transfer-encoding: chunked\r\n\r\n").as_bytes());
    // The head is not held back until there is a body.
    let head = client.wire().take_until(b"\r\n\r\n").unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200 OK"));
    for text in ["first", "second", "third"] {
        conn.write(&chunk(text));
        assert_eq!(client.wire().take(chunk(text).len()), chunk(text));
    }
    conn.write(b"0\r\n\r\n");
    assert_eq!(client.wire().take_rest(), b"0\r\n\r\n");
    let row = relay.expect_log("a summary", |line| line["message"] == "session ended");
    assert_eq!(row["ending"], "completed");
    assert_eq!(
        (&row["chars"], &row["close_code"]),
        (&json!(6), &json!(200))
    );
    assert_eq!(row["bytes_down"], 16);
    let line = relay.expect_log("a line for the body", |line| line["kind"] == "text");
    assert_eq!(
        (&line["chars"], &line["bytes"]),
        (&json!(6), &json!(HELLO.len()))
    );
}

#[test]
fn upstream_is_left_when_the_client_is_gone() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    // Before the head of the answer, and in the middle of its body.
    for has_answered in [false, true] {
        let mut client = Peer::dial(relay.address);
        client.write(&post(STREAM, HELLO).encode());
        let mut conn = upstream.next();
        body(&mut conn);
        if has_answered {
            conn.write(format!("{OK}transfer-encoding: chunked\r\n\r\n").as_bytes());
            conn.write(&chunk("first"));
            client.wire().take_until(b"first").unwrap();
        }
        drop(client);
        conn.wire().wait_for_end(PROMPTLY);
    }
    relay.wait_until_idle();
    let n_gone = || {
        let lines = relay.log_lines();
        let gone = |line: &&Value| line["ending"] == "client_disconnected";
        (lines.iter().filter(gone).count() == 2).then_some(())
    };
    eventually("both are logged as left by the client", n_gone);
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_the_client() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for framing in ["transfer-encoding: chunked", "content-length: 100"] {
        let mut client = Peer::dial(relay.address);
        client.write(&post(STREAM, HELLO).encode());
        let mut conn = upstream.next();
        body(&mut conn);
        conn.write(format!("{OK}{framing}\r\n\r\n5\r\naudio\r\n").as_bytes());
        client.wire().take_until(b"audio\r\n").unwrap();
        conn.reset();
        let rest = client.wire().take_rest();
        assert_eq!(rest, b"", "no end of the body");
    }
}

#[test]
fn errors_of_upstream_come_down_as_they_are() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let long = format!(r#"{{"detail":"{}"}}"#, "x".repeat(20_000));
    for (status, body) in [
        (
            "422 Unprocessable Entity",
            r#"{"detail":[{"type":"missing","loc":["body","text"],"msg":"Field required","input":null}]}"#,
        ),
        (
            "404 Not Found",
            r#"{"detail":{"status":"voice_not_found","message":"No such voice."}}"#,
        ),
        (
            "429 Too Many Requests",
            r#"{"detail":{"code":"rate_limit_exceeded"}}"#,
        ),
        ("500 Internal Server Error", "<html>oops</html>"),
        ("400 Bad Request", &long),
    ] {
        let mut client = Peer::dial(relay.address);
        client.write(&post(CONVERT, HELLO).encode());
        let mut conn = upstream.next();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: x/y\r\nretry-after: 7\r\nx-trace-id: t\r\n"
        );
        answer(&mut conn, &head, body);
        let response = client.expect_response();
        assert_eq!(response.head.line, format!("HTTP/1.1 {status}"));
        assert_eq!(response.text(), body);
        assert_eq!(response.head.get("content-type"), Some("x/y"));
        assert_eq!(response.head.get("retry-after"), Some("7"));
        assert_eq!(response.head.get("x-trace-id"), Some("t"));
    }
}

#[test]
fn what_is_wrong_with_the_relay_itself_is_told_in_its_own_words() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let quotes_the_key =
        format!(r#"{{"detail":{{"code":"bad","message":"Not {UPSTREAM_KEY}."}}}}"#);
    for (head, body, status, code) in [
        (
            "401 Unauthorized",
            r#"{"detail":{"status":"invalid_api_key","message":"x"}}"#,
            502,
            "upstream_auth_failed",
        ),
        (
            "400 Bad Request",
            r#"{"detail":{"code":"invalid_api_key","message":"x"}}"#,
            502,
            "upstream_auth_failed",
        ),
        (
            "401 Unauthorized",
            r#"{"detail":{"status":"quota_exceeded","message":"x"}}"#,
            502,
            "upstream_quota_exceeded",
        ),
        ("307 Temporary Redirect", "", 502, "upstream_unavailable"),
        ("400 Bad Request", quotes_the_key.as_str(), 400, "bad"),
    ] {
        let mut client = Peer::dial(relay.address);
        client.write(&post(CONVERT, HELLO).encode());
        let mut conn = upstream.next();
        let location = format!(
            "HTTP/1.1 {head}\r\nlocation: http://{}/elsewhere\r\nx-key: {UPSTREAM_KEY}\r\n",
            upstream.address
        );
        answer(&mut conn, &location, body);
        let response = client.expect_response();
        assert_eq!(
            (response.status, &response.json()["detail"]["code"]),
            (status, &json!(code))
        );
        assert!(!client.transcript().contains(UPSTREAM_KEY));
        assert_eq!(response.head.get("location"), None);
    }
    upstream.expect_none(Duration::from_millis(50));
}

#[test]
fn an_upstream_that_cannot_be_reached_costs_nothing() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let relay = TestRelay::start(
        nobody,
        "[plans.default]\nwindows = [{ unit = \"characters\", limit = 6, per = \"month\" }]\n",
    );
    for _ in 0..3 {
        let response = post(CONVERT, HELLO).send(relay.address);
        let code = &response.json()["detail"]["code"];
        assert_eq!(
            (response.status, code),
            (502, &json!("upstream_unavailable"))
        );
    }
}

#[test]
fn a_body_that_cannot_be_counted_is_refused() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "[server]\nmax_body_bytes = 1000\n");
    for (sent, status, code) in [
        (r#"{"text":"a","text":"b"}"#, 400, "invalid_input_message"),
        (
            r#"{"text":"a","x":{"y":1,"\u0079":2}}"#,
            400,
            "invalid_input_message",
        ),
    ] {
        let response = post(CONVERT, sent).send(relay.address);
        assert_eq!(
            (response.status, &response.json()["detail"]["code"]),
            (status, &json!(code))
        );
    }
    for (sent, kind, place) in [
        ("", "json_invalid", json!(["body"])),
        ("{", "json_invalid", json!(["body"])),
        ("\u{feff}{}", "json_invalid", json!(["body"])),
        (r#"["text"]"#, "model_attributes_type", json!(["body"])),
        (r#"{"text":["a"]}"#, "string_type", json!(["body", "text"])),
    ] {
        let response = post(CONVERT, sent).send(relay.address);
        let detail = &response.json()["detail"][0];
        assert_eq!(
            (response.status, &detail["type"]),
            (422, &json!(kind)),
            "{sent}"
        );
        assert_eq!(detail["loc"], place);
    }
    let response = post("/v1/text-to-dialogue", r#"{"inputs":"a"}"#).send(relay.address);
    assert_eq!(
        response.json()["detail"][0]["loc"],
        json!(["body", "inputs"])
    );
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(1000));
    assert_eq!(post(CONVERT, &long).send(relay.address).status, 413);
    upstream.expect_none(Duration::from_millis(50));
}

#[test]
fn text_is_charged_before_it_goes_up() {
    let upstream = Upstream::start();
    let window =
        "[plans.default]\nwindows = [{ unit = \"characters\", limit = 20, per = \"month\" }]\n";
    let relay = TestRelay::start(upstream.address, window);
    // Scalar values after escapes: 5 and, in the dialogue, 3; over HTTP spaces count too.
    for (path, sent) in [
        (CONVERT, r#"{"text":"\u00e9\ud83d\ude00abc"}"#),
        (
            "/v1/text-to-dialogue",
            r#"{"inputs":[{"text":"ab","voice_id":"v"},{"text":"c","voice_id":"w"}]}"#,
        ),
        (STREAM, r#"{"text":"  "}"#),
    ] {
        let mut client = Peer::dial(relay.address);
        client.write(&post(path, sent).encode());
        let mut conn = upstream.next();
        body(&mut conn);
        answer(&mut conn, OK, "audio");
        assert_eq!(client.expect_response().status, 200);
    }
    let refused = post(CONVERT, r#"{"text":"eleven char"}"#).send(relay.address);
    assert_eq!(refused.status, 429);
    let detail = &refused.json()["detail"];
    assert_eq!(detail["code"], "quota_exceeded");
    let message = detail["message"].as_str().unwrap();
    assert!(
        message.starts_with("10 of 20 characters per month are used, 11 more"),
        "{message}"
    );
    assert!(
        refused
            .head
            .get("retry-after")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    upstream.expect_none(Duration::from_millis(50));

    let subscription = Request::plain("GET", "/v1/user/subscription").with("xi-api-key", TOKEN);
    let subscription = subscription.send(relay.address).json();
    assert_eq!(
        (
            &subscription["character_count"],
            &subscription["character_limit"]
        ),
        (&json!(10), &json!(20))
    );
}

#[test]
fn one_slot_serves_one_request_after_another() {
    let relay = TestRelay::start(obliging(), "[plans.default]\nmax_concurrent_sessions = 1\n");
    for _ in 0..50 {
        let response = post(CONVERT, HELLO).send(relay.address);
        assert_eq!((response.status, response.body), (200, b"audio".to_vec()));
    }
}

#[test]
fn plans_say_which_voices_models_and_formats() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        r#"
        [plans.default]
        voices = ["VoiceAlpha0000000001"]
        voice_aliases = { assistant = "RealVoice00000000002" }
        models = ["eleven_multilingual_v2", "eleven_v3", "forced"]
        output_formats = ["mp3_44100_128", "pcm_16000"]
        "#,
    );
    for (target, sent, code) in [
        ("/v1/text-to-speech/other", HELLO, "voice_not_allowed"),
        (
            "/v1/text-to-dialogue",
            r#"{"inputs":[{"text":"a","voice_id":"other"}]}"#,
            "voice_not_allowed",
        ),
        (
            "/v1/text-to-dialogue",
            r#"{"inputs":[{"text":"a","voice_id":7}]}"#,
            "voice_not_allowed",
        ),
        (
            CONVERT,
            r#"{"text":"a","model_id":"eleven_flash_v2_5"}"#,
            "model_not_allowed",
        ),
        (
            &format!("{CONVERT}?output_format=ulaw_8000"),
            HELLO,
            "output_format_not_allowed",
        ),
    ] {
        let refused = post(target, sent).send(relay.address);
        assert_eq!(
            (refused.status, &refused.json()["detail"]["code"]),
            (403, &json!(code))
        );
    }
    upstream.expect_none(Duration::from_millis(50));
    for (target, sent, target_up, sent_up) in [
        (
            "/v1/text-to-speech/assistant/stream?a=1",
            HELLO,
            "/v1/text-to-speech/RealVoice00000000002/stream?a=1",
            HELLO,
        ),
        (
            "/v1/text-to-dialogue",
            r#"{"inputs":[ {"voice_id" :"assistant","text":"a"}, {"text":"b","voice_id":"VoiceAlpha0000000001"}]}"#,
            "/v1/text-to-dialogue",
            r#"{"inputs":[ {"voice_id" :"RealVoice00000000002","text":"a"}, {"text":"b","voice_id":"VoiceAlpha0000000001"}]}"#,
        ),
    ] {
        let mut client = Peer::dial(relay.address);
        client.write(&post(target, sent).encode());
        let mut conn = upstream.next();
        assert_eq!(conn.target(), target_up);
        assert_eq!(body(&mut conn), sent_up);
        answer(&mut conn, OK, "audio");
        client.expect_response();
    }
}

#[test]
fn forced_parameters_stand_where_the_endpoint_reads_them() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        "[plans.default.forced_parameters]\nenable_logging = false\nlanguage_code = \"de\"\nseed = 7\n",
    );
    let mut client = Peer::dial(relay.address);
    let target = format!("{CONVERT}?enable_logging=true&x=1");
    client.write(&post(&target, r#"{"text":"a","seed": 1}"#).encode());
    let mut conn = upstream.next();
    assert_eq!(conn.target(), format!("{CONVERT}?enable_logging=false&x=1"));
    assert_eq!(
        body(&mut conn),
        r#"{"language_code":"de","text":"a","seed": 7}"#
    );
    answer(&mut conn, OK, "audio");
    client.expect_response();
}

#[test]
fn a_request_can_be_ended_like_any_session() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for has_answered in [false, true] {
        let mut client = Peer::dial(relay.address);
        client.write(&post(STREAM, HELLO).encode());
        let mut conn = upstream.next();
        body(&mut conn);
        if has_answered {
            conn.write(format!("{OK}transfer-encoding: chunked\r\n\r\n").as_bytes());
            conn.write(&chunk("first"));
            client.wire().take_until(b"first\r\n").unwrap();
        }
        let sessions = relay.sessions();
        assert_eq!(sessions[0]["endpoint"], "stream");
        let id = sessions[0]["session"].as_str().unwrap();
        assert_eq!(
            relay.operator("DELETE", &format!("/sessions/{id}")).status,
            204
        );
        if has_answered {
            assert_eq!(client.wire().take_rest(), b"");
        } else {
            let response = client.expect_response();
            assert_eq!(
                (response.status, &response.json()["detail"]["code"]),
                (403, &json!("session_ended"))
            );
        }
        conn.wire().wait_for_end(PROMPTLY);
        relay.wait_until_idle();
    }
}

#[test]
fn a_client_that_does_not_read_is_not_waited_for() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "[server]\nwrite_timeout = \"200ms\"\n");
    let mut client = Peer::dial(relay.address);
    client.write(&post(STREAM, HELLO).encode());
    let mut conn = upstream.next();
    body(&mut conn);
    conn.write(format!("{OK}transfer-encoding: chunked\r\n\r\n").as_bytes());
    let piece = chunk(&"x".repeat(1 << 20));
    // More than the buffers on the way can hold.
    while conn.wire().try_write(&piece).is_ok() {}
    let row = relay.expect_log("a summary", |line| line["message"] == "session ended");
    assert_eq!(row["ending"], "slow_consumer");
    assert!(relay.memory_kb() < 100_000);
    // Its place is free again, though it still has not closed.
    relay.wait_until_idle();
    drop(client);
}

#[test]
fn connections_to_upstream_are_used_again() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    let request = post(CONVERT, HELLO).without("Connection").encode();
    client.write(&request);
    let mut conn = upstream.next();
    for n in 0..3 {
        assert_eq!(body(&mut conn), HELLO);
        conn.write(format!("{OK}content-length: 5\r\n\r\naudio").as_bytes());
        assert_eq!(client.expect_response().body, b"audio");
        if n < 2 {
            client.write(&request);
            assert!(crate::support::http::Head::read(conn.wire()).is_some());
        }
    }
}

#[test]
fn an_answer_under_way_is_finished_when_the_relay_stops() {
    let upstream = Upstream::start();
    let mut relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&post(STREAM, HELLO).encode());
    let mut conn = upstream.next();
    body(&mut conn);
    conn.write(format!("{OK}transfer-encoding: chunked\r\n\r\n").as_bytes());
    conn.write(&chunk("first"));
    client.wire().take_until(b"first\r\n").unwrap();
    relay.signal("TERM");
    eventually("not ready", || {
        (relay.operator("GET", "/readyz").status == 503).then_some(())
    });
    assert_eq!(post(STREAM, HELLO).send(relay.address).status, 503);
    conn.write(&[chunk("last"), b"0\r\n\r\n".to_vec()].concat());
    let rest = client.wire().take_rest();
    assert_eq!(rest, [chunk("last"), b"0\r\n\r\n".to_vec()].concat());
    assert_eq!(relay.wait(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn a_refused_request_stands_in_the_ledger() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        "[plans.default]\nmodels = [\"eleven_v3\"]\n",
    );
    assert_eq!(post(CONVERT, HELLO).send(relay.address).status, 403);
    let row = relay.expect_log("a refusal", |line| line["message"] == "refused");
    assert_eq!(row["ending"], "model_not_allowed");
    assert_eq!(
        (&row["client"], &row["endpoint"]),
        (&json!("web"), &json!("convert"))
    );
    let usage = eventually("a row", || {
        let usage = relay.operator("GET", "/usage").json();
        usage.to_string().contains("\"web\"").then_some(usage)
    });
    assert!(usage.to_string().contains("refused"), "{usage}");
}
