//! The canary run: keys, tokens and texts are used in every way, and then looked for in everything
//! that the relay has said.

use crate::support::frame::Frame;
use crate::support::http::Request;
use crate::support::relay::{OTHER_TOKEN, TOKEN, UPSTREAM_KEY};
use crate::support::{PATH, Peer, TestRelay, Upstream, Wire, session};

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
