//! The canary run: keys, tokens and texts are used in every way, and then looked for in everything
//! that the relay has said.

use std::net::TcpListener;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};

use crate::support::frame::Frame;
use crate::support::http::Request;
use crate::support::relay::{OTHER_TOKEN, TOKEN, UPSTREAM_KEY};
use crate::support::{PATH, Peer, TestRelay, Upstream, Wire, eventually, session};

const SPOKEN: &str = "the canary sings at dawn";
const HEARD: &str = "Y2FuYXJ5LWF1ZGlv";
const WRONG_TOKEN: &str = "wrong-token-of-the-tests-77d0";

#[test]
fn nothing_secret_is_ever_said() {
    let upstream = Upstream::start();
    // The libraries below may not tell either.
    let relay = TestRelay::start(upstream.address, "[log]\nlevel = \"trace\"");
    let mut said = Vec::new();

    // A whole conversation.
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(&format!(r#"{{"text":"{SPOKEN} "}}"#));
    conn.hear();
    conn.say(&format!(
        r#"{{"audio":"{HEARD}","alignment":{{"chars":["{SPOKEN}"]}}}}"#
    ));
    client.hear();
    said.push(relay.operator("GET", "/sessions").text());
    // An error of upstream that quotes the key.
    conn.say(&format!(
        r#"{{"message":"{UPSTREAM_KEY}","error":"invalid_api_key","code":1008}}"#
    ));
    conn.send(Frame::close(1008, UPSTREAM_KEY));
    client.hear_out();

    // Refusals with every kind of wrong credential, and the real key among them.
    for token in [WRONG_TOKEN, UPSTREAM_KEY] {
        let requests = [
            Request::upgrade(PATH).with("xi-api-key", token),
            Request::upgrade(PATH).with("Authorization", &format!("Bearer {token}")),
            Request::upgrade(PATH).with("Cookie", token),
            Request::upgrade(PATH).with(
                "Sec-WebSocket-Protocol",
                &format!("xi-relay, xi-api-key.{token}"),
            ),
            Request::upgrade(&format!("{PATH}?authorization={token}")),
            Request::upgrade(&format!(
                "{PATH}?xi-api-key={token}&single_use_token={token}"
            )),
            Request::upgrade(&format!("/t/{token}{PATH}")),
            Request::upgrade(&format!("/t/{token}/nowhere")),
            Request::upgrade(&format!("/nowhere/{token}?xi-api-key={token}")),
            Request::upgrade(PATH)
                .with("xi-api-key", token)
                .with("Host", "second"),
            Request::upgrade(PATH)
                .with("xi-api-key", token)
                .without("Sec-WebSocket-Key"),
            Request::upgrade(PATH)
                .with("xi-api-key", token)
                .with("bad name", token),
            Request::upgrade(PATH).with("xi-api-key", &format!("{token}\u{7}")),
            Request::plain("DELETE", &format!("/v1/voices/{token}")).with("xi-api-key", token),
        ];
        for request in requests {
            let mut wire = Wire::connect(relay.address);
            wire.write(&request.encode());
            wire.write(
                &Frame::text(format!(r#"{{"text":"{SPOKEN} "}}"#))
                    .masked()
                    .encode(),
            );
            wire.wait_for_end(crate::support::PATIENCE);
            said.push(String::from_utf8_lossy(&wire.received()).into_owned());
        }
    }

    // Malformed messages that hold a token or a text.
    let malformed = [
        format!(r#"{{"text":"{SPOKEN}","xi_api_key":"{WRONG_TOKEN}"}}"#),
        format!(r#"{{"text":"{SPOKEN}","xi_api_key":"{TOKEN}""#),
        format!(r#"{{"text":"{SPOKEN}","text":"{SPOKEN}","xi_api_key":"{TOKEN}"}}"#),
        format!("{TOKEN} {SPOKEN}"),
        format!(r#"{{"text":["{SPOKEN}"],"xi-api-key":"{TOKEN}"}}"#),
    ];
    for message in malformed {
        let mut client = Peer::dial(relay.address);
        client.write(&Request::upgrade(PATH).encode());
        client.say(&message);
        client.expect_upgraded();
        client.hear_out();
        said.push(client.transcript());
    }

    // Malformed heads, which the libraries see before the relay does.
    for head in [
        format!("GET {PATH}?authorization={TOKEN} HTTP/1.1\r\nxi-api-key {TOKEN}\r\n\r\n"),
        format!("GET  {PATH}?authorization={TOKEN} HTTP/3.1\r\nxi-api-key: {TOKEN}\r\n\r\n"),
        format!("{TOKEN}\r\n\r\n"),
        format!("GET {PATH} HTTP/1.1\r\nHost: {TOKEN}\r\nxi-api-key: {TOKEN}\r\n\r\n"),
        format!(
            "GET {PATH} HTTP/1.1\r\nxi-api-key: {TOKEN}\r\nX: {}\r\n\r\n",
            "a".repeat(70_000)
        ),
    ] {
        let mut wire = Wire::connect(relay.address);
        // Some are refused before they are read to the end.
        let _ = wire.try_write(head.as_bytes());
        wire.half_close();
        wire.wait_for_end(crate::support::PATIENCE);
        said.push(String::from_utf8_lossy(&wire.received()).into_owned());
    }

    // The token of another client, in the message, of a session that upstream cuts.
    let mut client = Peer::dial(relay.address);
    client.write(&Request::upgrade(PATH).encode());
    client.say(&format!(
        r#"{{"text":"{SPOKEN} ","xi_api_key":"{OTHER_TOKEN}"}}"#
    ));
    client.expect_upgraded();
    let mut conn = upstream.next();
    conn.accept();
    conn.hear();
    conn.reset();
    client.hear_out();
    said.push(client.transcript());

    relay.wait_until_idle();
    said.push(relay.metrics());
    said.push(relay.operator("GET", "/usage").text());
    said.push(relay.log_text());
    for said in said {
        for secret in [UPSTREAM_KEY, TOKEN, OTHER_TOKEN, WRONG_TOKEN, SPOKEN, HEARD] {
            let found = said
                .find(secret)
                .map(|at| &said[at.saturating_sub(300)..at]);
            assert!(
                found.is_none(),
                "{secret} was said after: {}",
                found.unwrap_or_default()
            );
        }
    }
}

/// The key stands neither in what clients have got, of one session each, nor in the log of these.
#[track_caller]
fn expect_unsaid(relay: &TestRelay, clients: &[String]) {
    eventually("the summaries", || {
        let lines = relay.log_lines();
        let n_ended = lines
            .iter()
            .filter(|line| line["message"] == "session ended")
            .count();
        (n_ended == clients.len()).then_some(())
    });
    for said in clients.iter().chain([&relay.log_text()]) {
        assert!(!said.contains(UPSTREAM_KEY), "{said}");
    }
}

#[test]
fn a_trace_id_that_quotes_the_key_is_dropped() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let quoting = format!("trace-of-{UPSTREAM_KEY}");

    let mut client = Peer::dial(relay.address);
    client.write(&relay.authorized(PATH).encode());
    let mut conn = upstream.next();
    let head = conn.acceptance().replace("trace-of-the-test", &quoting);
    conn.write(head.as_bytes());
    client.expect_upgraded();
    assert_eq!(client.head.as_ref().unwrap().get("x-trace-id"), None);
    conn.send(Frame::close(1000, ""));
    client.expect_close(1000);
    expect_unsaid(&relay, &[client.transcript()]);
}

#[test]
fn headers_of_a_refusal_that_quote_the_key_are_dropped() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&relay.authorized(PATH).encode());
    let head = format!(
        "HTTP/1.1 404 Not Found\r\ncontent-type: x/{UPSTREAM_KEY}\r\nretry-after: {UPSTREAM_KEY}\r\n\
         x-trace-id: t-{UPSTREAM_KEY}\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    upstream.next().write(head.as_bytes());
    assert_eq!(client.expect_response().status, 404);
    expect_unsaid(&relay, &[client.transcript()]);
}

#[test]
fn the_trace_id_of_an_http_answer_is_not_logged_when_it_quotes_the_key() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let answered = ["200 OK", "404 Not Found"].map(|status| {
        let target = PATH.replace("/stream-input", "");
        let request = Request::plain("POST", &target)
            .with("xi-api-key", TOKEN)
            .json(r#"{"text":"Hello."}"#);
        let mut client = Peer::dial(relay.address);
        client.write(&request.encode());
        let head = format!(
            "HTTP/1.1 {status}\r\nx-trace-id: t-{UPSTREAM_KEY}\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        upstream.next().write(head.as_bytes());
        client.expect_response();
        client.transcript()
    });
    expect_unsaid(&relay, &answered);
}

#[test]
fn what_upstream_says_on_a_socket_is_logged_without_the_key() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    let in_pieces = format!(
        r#"{{"audio":"AAEC","contextId":"{UPSTREAM_KEY}","note":"{}"}}"#,
        "x".repeat(1 << 20)
    );
    conn.say(&in_pieces);
    // Too large to be searched on its way.
    assert_eq!(client.hear(), in_pieces);
    let (mut other, mut other_conn) = session(&relay, &upstream);
    for message in [
        format!(r#"{{"message":"no","error":"bad {UPSTREAM_KEY}","code":1008}}"#),
        format!(r#"{{"audio":"AAEC","contextId":"c-{UPSTREAM_KEY}"}}"#),
        format!(
            r#"{{"error":"e","message":"{}{UPSTREAM_KEY}"}}"#,
            "x".repeat(20_000)
        ),
        format!(
            r#"{{"error":"escaped {}"}}"#,
            UPSTREAM_KEY.replace('u', "\\u0075")
        ),
    ] {
        other_conn.say(&message);
        assert_eq!(other.hear(), message.replace(UPSTREAM_KEY, "***"));
    }
    for conn in [&mut conn, &mut other_conn] {
        conn.send(Frame::close(1008, UPSTREAM_KEY));
    }
    other.expect_close(1008);
    client.expect_close(1008);
    let line = |error: &str| relay.expect_log(error, |line| line["error"] == error);
    assert_eq!(line("bad ***")["kind"], "error");
    line("escaped ***");
    relay.expect_log("the context", |line| line["context"] == "c-***");
    relay.expect_log("the large one", |line| line["context"] == "***");
    expect_unsaid(&relay, &[other.transcript(), String::new()]);
}

/// Says how TLS is spoken with a certificate for `name`, and is the certificate.
fn certified(name: &str) -> (Arc<ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), made.cert.pem())
}

#[test]
fn the_cause_of_a_failed_dial_is_logged_without_the_key() {
    let (tls, certificate) = certified(UPSTREAM_KEY);
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, certificate).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut connection = ServerConnection::new(Arc::clone(&tls)).unwrap();
            // The relay hangs up on such a name.
            let _ = connection.complete_io(&mut stream);
        }
    });
    let relay = TestRelay::start(
        address,
        &format!("[upstream]\nbase_url = \"wss://{address}\"\nca_file = {ca_file:?}"),
    );
    let response = relay.authorized(PATH).send(relay.address);
    assert_eq!(response.status, 502, "{}", response.head.raw);
    let line = relay.expect_log("the cause", |line| {
        line["message"] == "upstream is unavailable"
    });
    let cause = line["cause"].as_str().unwrap();
    assert!(cause.contains("***"), "{cause}");
    expect_unsaid(&relay, &[response.text()]);
}

#[test]
fn check_prints_the_configuration_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let output = crate::support::relay::command(&dir)
        .arg("check")
        .env("ELEVENLABS_API_KEY", UPSTREAM_KEY)
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    assert!(said.contains("127.0.0.1:8080"), "{said}");
    assert!(!said.contains(UPSTREAM_KEY), "{said}");
}
