//! Pages in browsers: what they may read, and the tokens that they are given.

use std::time::Duration;

use serde_json::json;

use crate::support::http::Request;
use crate::support::relay::TOKEN;
use crate::support::{PATH, Peer, TestRelay, Upstream};

const PAGE: &str = "https://app.example.com";
const ORIGINS: &str = "[server]\nallowed_origins = [\"https://app.example.com\"]\n";
const MINT: &str = "/v1/single-use-token/tts_websocket";
const STREAM: &str = "/v1/text-to-speech/VoiceAlpha0000000001/stream";

fn preflight(target: &str, origin: &str) -> Request {
    Request::plain("OPTIONS", target)
        .with("Origin", origin)
        .with("Access-Control-Request-Method", "POST")
        .with(
            "Access-Control-Request-Headers",
            "content-type,x-fern-sdk-name,xi-api-key",
        )
}

#[test]
fn pages_of_the_list_are_answered_and_others_are_not() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, ORIGINS);
    for (target, method) in [(STREAM, "POST"), (MINT, "POST"), ("/v1/voices", "GET")] {
        let answer = preflight(target, PAGE).send(relay.address);
        assert_eq!(answer.status, 204, "{target}");
        let header = |name| answer.head.get(name);
        assert_eq!(header("access-control-allow-origin"), Some(PAGE));
        assert_eq!(header("access-control-allow-methods"), Some(method));
        let allowed = header("access-control-allow-headers");
        assert_eq!(allowed, Some("content-type,x-fern-sdk-name,xi-api-key"));
        assert_eq!(header("access-control-allow-credentials"), None);
        assert!(answer.head.all("vary").contains(&"origin"));
    }
    for origin in ["https://evil.example.com", "null", "http://app.example.com"] {
        let answer = preflight(STREAM, origin).send(relay.address);
        assert_eq!(answer.status, 403);
        assert_eq!(answer.head.get("access-control-allow-origin"), None);
    }
    assert_eq!(
        preflight("/v1/history", PAGE).send(relay.address).status,
        404
    );

    // A page reads refusals too, and every header of an answer.
    let refused = Request::plain("POST", STREAM)
        .with("Origin", PAGE)
        .json("{}");
    let refused = refused.send(relay.address);
    assert_eq!(refused.status, 401);
    assert_eq!(refused.head.get("access-control-allow-origin"), Some(PAGE));

    let mut client = Peer::dial(relay.address);
    let request = Request::plain("POST", STREAM)
        .with("Origin", PAGE)
        .with("xi-api-key", TOKEN);
    client.write(&request.json(r#"{"text":"a"}"#).encode());
    let mut conn = upstream.next();
    conn.write(
        b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\nvary: accept\r\ncontent-length: 1\r\n\r\nx",
    );
    let answer = client.expect_response();
    assert_eq!(answer.head.all("access-control-allow-origin"), [PAGE]);
    assert_eq!(answer.head.all("access-control-expose-headers"), ["*"]);
    assert_eq!(answer.head.all("vary"), ["accept", "origin"]);
    // Who is no page is told nothing about pages.
    let plain = Request::plain("GET", "/v1/user")
        .with("xi-api-key", TOKEN)
        .send(relay.address);
    assert!(
        !plain
            .head
            .raw
            .to_ascii_lowercase()
            .contains("access-control")
    );
}

#[test]
fn while_access_is_open_pages_of_this_machine_are_answered() {
    let upstream = Upstream::start();
    let base_url = format!("[upstream]\nbase_url = \"ws://{}\"\n", upstream.address);
    let relay = TestRelay::launch(&[&base_url], &[]);
    let local = preflight(STREAM, "http://localhost:5173").send(relay.address);
    assert_eq!(local.status, 204);
    assert_eq!(
        local.head.get("access-control-allow-origin"),
        Some("http://localhost:5173")
    );
    assert_eq!(preflight(STREAM, PAGE).send(relay.address).status, 403);
}

#[test]
fn a_minted_token_opens_one_socket_within_what_it_was_narrowed_to() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, ORIGINS);
    let narrowed =
        json!({ "max_characters": 10, "voices": ["VoiceAlpha0000000001"], "origin": PAGE });
    let mint = Request::plain("POST", MINT).with("xi-api-key", TOKEN);
    let minted = mint.clone().json(&narrowed.to_string()).send(relay.address);
    assert_eq!(
        (minted.status, minted.head.get("cache-control")),
        (200, Some("no-store"))
    );
    let token = minted.json()["token"].as_str().unwrap().to_owned();

    let target = format!("{PATH}?single_use_token={token}");
    let mut client = Peer::dial(relay.address);
    client.write(&Request::upgrade(&target).with("Origin", PAGE).encode());
    client.expect_upgraded();
    let mut conn = upstream.next();
    assert_eq!(conn.target(), PATH);
    conn.accept();
    client.say(r#"{"text":"ten chars "}"#);
    conn.hear();
    client.say(r#"{"text":"more"}"#);
    client.expect_refusal("quota_exceeded", 1008);

    let mut again = Peer::dial(relay.address);
    again.write(&Request::upgrade(&target).with("Origin", PAGE).encode());
    again.expect_upgraded();
    again.say(r#"{"text":"a "}"#);
    again.expect_refusal("invalid_api_key", 1008);

    for (request, status) in [
        (mint.clone().json(r#"{"max_charaters":1}"#), 422),
        (mint.clone().json(&"x".repeat(20_000)), 413),
        (Request::plain("POST", MINT), 401),
    ] {
        assert_eq!(request.send(relay.address).status, status);
    }
    assert!(!relay.log_text().contains(&token));
}

#[test]
fn a_single_use_token_pays_for_one_request_and_looks_nothing_up() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, ORIGINS);
    let mint = Request::plain("POST", MINT).with("xi-api-key", TOKEN);
    let minted = mint
        .json(r#"{"voices":["VoiceAlpha0000000001"]}"#)
        .send(relay.address);
    let token = minted.json()["token"].as_str().unwrap().to_owned();
    for (method, path) in [("GET", "/v1/voices"), ("GET", "/v1/user"), ("POST", MINT)] {
        let target = format!("{path}?single_use_token={token}");
        assert_eq!(
            Request::plain(method, &target).send(relay.address).status,
            403,
            "{path}"
        );
    }
    upstream.expect_none(Duration::from_millis(50));
    let target = format!("{STREAM}?single_use_token={token}");
    let mut client = Peer::dial(relay.address);
    client.write(
        &Request::plain("POST", &target)
            .json(r#"{"text":"a"}"#)
            .encode(),
    );
    let mut conn = upstream.next();
    assert_eq!(conn.target(), STREAM);
    conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx");
    assert_eq!(client.expect_response().status, 200);
    let again = Request::plain("POST", &target)
        .json(r#"{"text":"a"}"#)
        .send(relay.address);
    assert_eq!(again.status, 401);
}
