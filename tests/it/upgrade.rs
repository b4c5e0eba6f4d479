//! What is not a proper upgrade is refused in HTTP, with the status that says what is wrong.

use std::time::Duration;

use crate::support::http::{KEY, Request, Response};
use crate::support::relay::TOKEN;
use crate::support::{PATH, PATIENCE, Peer, TestRelay, Upstream, Wire};

/// A relay whose upstream must never be asked for anything.
struct Refusing {
    upstream: Upstream,
    relay: TestRelay,
}

impl Refusing {
    fn start(toml: &str) -> Self {
        let upstream = Upstream::start();
        let relay = TestRelay::start(upstream.address, toml);
        Self { upstream, relay }
    }

    fn upgrade(&self) -> Request {
        self.relay.authorized(PATH)
    }

    #[track_caller]
    fn check(&self, what: &str, request: &Request, statuses: &[u16]) -> Response {
        let response = request.send(self.relay.address);
        assert!(
            statuses.contains(&response.status),
            "{what}: {}",
            response.head.raw
        );
        for said in [&response.head.raw, &response.text()] {
            assert!(!said.contains(TOKEN), "{what} echoes the token: {said}");
        }
        response
    }

    fn done(self) {
        self.upstream.expect_none(Duration::from_millis(100));
    }
}

#[test]
fn malformed_upgrades_are_refused() {
    let it = Refusing::start("");
    let ok = it.upgrade();
    for (what, request) in [
        ("no Upgrade header", ok.clone().without("Upgrade")),
        ("no Connection header", ok.clone().without("Connection")),
        ("another protocol", ok.clone().set("Upgrade", "h2c")),
        (
            "Connection without upgrade",
            ok.clone().set("Connection", "keep-alive"),
        ),
        ("no version", ok.clone().without("Sec-WebSocket-Version")),
    ] {
        it.check(what, &request, &[400, 426]);
    }
    for (what, request) in [
        ("no key", ok.clone().without("Sec-WebSocket-Key")),
        (
            "a key of 3 bytes",
            ok.clone().set("Sec-WebSocket-Key", "YWJj"),
        ),
        (
            "a key of 17 bytes",
            ok.clone()
                .set("Sec-WebSocket-Key", "MDEyMzQ1Njc4OTAxMjM0NTY="),
        ),
        (
            "a key that is not base64",
            ok.clone()
                .set("Sec-WebSocket-Key", "!!!!!!!!!!!!!!!!!!!!!!=="),
        ),
        ("two keys", ok.clone().with("Sec-WebSocket-Key", KEY)),
        ("no Host", ok.clone().without("Host")),
        ("two Hosts", ok.clone().with("Host", "example.org")),
        ("a body", ok.clone().json(r#"{"text":" "}"#)),
        (
            "a chunked body",
            ok.clone().with("Transfer-Encoding", "chunked"),
        ),
        (
            "two lengths",
            ok.clone()
                .with("Content-Length", "0")
                .with("Content-Length", "5"),
        ),
        ("a header name with a space", ok.clone().with("X y", "z")),
    ] {
        it.check(what, &request, &[400]);
    }
    it.done();
}

#[test]
fn upgrades_that_keep_the_rules_in_odd_ways_are_taken() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let ok = relay.authorized(PATH);
    for request in [
        ok.clone().set("Upgrade", "WebSocket"),
        ok.clone().set("Connection", "keep-alive, UPGRADE"),
        ok.clone()
            .set("Connection", "keep-alive")
            .with("Connection", "upgrade"),
        ok.clone().with("Content-Length", "0"),
        ok.clone()
            .with("Sec-WebSocket-Extensions", "permessage-deflate"),
        ok.clone().with("Accept-Encoding", "gzip"),
    ] {
        let mut client = Peer::dial(relay.address);
        client.wire().dribble(&request.encode());
        upstream.next().accept();
        client.expect_upgraded();
    }
}

#[test]
fn another_version_is_told_the_right_one() {
    let it = Refusing::start("");
    for version in ["8", "12", "14", "013", "x"] {
        let request = it.upgrade().set("Sec-WebSocket-Version", version);
        let response = it.check(version, &request, &[426]);
        assert_eq!(response.head.get("sec-websocket-version"), Some("13"));
    }
    it.done();
}

#[test]
fn unknown_paths_are_404_in_the_vendors_shape() {
    let it = Refusing::start("");
    for target in [
        "/",
        "/v1",
        "/v1/",
        "/v1/history",
        "/v1/text-to-speech",
        "/v1/text-to-speech//stream-input",
        "/v1/text-to-speech/voice/stream-input/",
        "/v1/text-to-speech/voice/stream-inputs",
        "/v1/text-to-speech/voice/../stream-input",
        "/v1/text-to-speech/%2e%2e/stream-input",
        "/v1/text-to-speech/%2E%2E%2Fvoices/stream-input",
        "/v1/text-to-speech/a%2fb/stream-input",
        "/v1/text-to-speech/a%252fb/stream-input",
        "/v1/text-to-speech/a%00b/stream-input",
        "/v1/text-to-speech/a%0d%0ab/stream-input",
        "/v1/text-to-speech/a.b/stream-input",
        "/v1/text-to-speech/%ff/stream-input",
        "/v1/text-to-speech/a@b/stream-input",
        "/v2/text-to-speech/voice/stream-input",
        "/metrics",
        "/sessions",
    ] {
        let request = Request::upgrade(target).with("xi-api-key", TOKEN);
        let response = it.check(target, &request, &[404]);
        let detail = &response.json()["detail"];
        assert_eq!(detail["type"], "not_found", "{target}: {detail}");
        assert!(
            detail["message"].is_string() && detail["request_id"].is_string(),
            "{detail}"
        );
    }
    let long = format!("/v1/text-to-speech/{}/stream-input", "a".repeat(65));
    it.check(
        "a voice of 65 characters",
        &Request::upgrade(&long).with("xi-api-key", TOKEN),
        &[404],
    );
    it.done();
}

#[test]
fn other_methods_are_refused_and_forward_nothing() {
    let it = Refusing::start("");
    for method in ["POST", "PUT", "DELETE", "PATCH", "HEAD", "CONNECT", "BREW"] {
        let mut request = it.upgrade();
        request.line = format!("{method} {PATH} HTTP/1.1");
        it.check(method, &request, &[400, 405]);
    }
    for (method, target) in [
        ("DELETE", "/v1/voices/x"),
        ("DELETE", "/v1/voices"),
        ("PUT", "/v1/user"),
    ] {
        let request = Request::plain(method, target).with("xi-api-key", TOKEN);
        it.check(target, &request, &[404, 405]);
    }
    it.done();
}

#[test]
fn a_post_to_the_socket_is_405() {
    let it = Refusing::start("");
    let request = Request::plain("POST", PATH)
        .with("xi-api-key", TOKEN)
        .json("{}");
    let response = it.check("POST", &request, &[405]);
    assert!(
        response
            .head
            .get("allow")
            .is_some_and(|allow| allow.contains("GET"))
    );
    it.done();
}

#[test]
fn oversized_heads_are_431() {
    let it = Refusing::start("");
    it.check(
        "20 KB in one header",
        &it.upgrade().with("X-Long", &"a".repeat(20_000)),
        &[431],
    );
    let many = (0..100).fold(it.upgrade(), |request, n| {
        request.with(&format!("X-{n}"), "y")
    });
    it.check("100 headers", &many, &[431]);
    let query = format!("{PATH}?x={}", "a".repeat(70_000));
    it.check("70 KB of query", &it.relay.authorized(&query), &[414, 431]);
    it.done();
}

#[test]
fn what_is_not_http_is_400_or_cut() {
    let it = Refusing::start("");
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00\x00\x00\x00\r\n\r\n",
    ] {
        let mut wire = Wire::connect(it.relay.address);
        wire.write(bytes);
        wire.half_close();
        wire.wait_for_end(PATIENCE);
        let answer = String::from_utf8_lossy(&wire.received()).into_owned();
        assert!(
            answer.is_empty()
                || answer.starts_with("HTTP/1.1 4")
                || answer.starts_with("HTTP/1.1 5"),
            "{answer}"
        );
    }
    it.done();
}

#[test]
fn a_foreign_origin_is_403() {
    let it = Refusing::start("[server]\nallowed_origins = [\"https://app.example.org\"]");
    for origin in [
        "https://evil.example",
        "https://app.example.org.evil.example",
        "https://app.example.org:444",
        "http://app.example.org",
        "null",
        "",
    ] {
        let response = it.check(origin, &it.upgrade().with("Origin", origin), &[403]);
        assert!(response.json()["detail"]["message"].is_string());
    }
    it.done();
}

#[test]
fn the_listed_origin_and_none_at_all_are_taken() {
    let it = Refusing::start("[server]\nallowed_origins = [\"https://app.example.org\"]");
    for request in [
        it.upgrade(),
        it.upgrade().with("Origin", "https://app.example.org"),
    ] {
        let mut client = Peer::dial(it.relay.address);
        client.write(&request.encode());
        it.upstream.next().accept();
        client.expect_upgraded();
    }
}

#[test]
fn with_open_access_only_localhost_names_get_in() {
    let upstream = Upstream::start();
    let base_url = format!("[upstream]\nbase_url = \"ws://{}\"\n", upstream.address);
    let relay = TestRelay::launch(&[&base_url], &[]);
    let ok = Request::upgrade(PATH);
    for (what, request) in [
        (
            "a rebound name",
            ok.clone().set("Host", "rebind.evil.example"),
        ),
        (
            "a rebound name with a port",
            ok.clone().set("Host", "evil.example:8080"),
        ),
        (
            "a page from elsewhere",
            ok.clone().with("Origin", "https://evil.example"),
        ),
        (
            "a page without an origin of its own",
            ok.clone().with("Origin", "null"),
        ),
    ] {
        assert_eq!(request.send(relay.address).status, 403, "{what}");
    }
    upstream.expect_none(Duration::from_millis(50));
    for request in [
        ok.clone(),
        ok.clone().set("Host", "127.0.0.1:1234"),
        ok.clone().with("Origin", "http://localhost:3000"),
        ok.clone().set("Host", "[::1]:80"),
    ] {
        let mut client = Peer::dial(relay.address);
        client.write(&request.encode());
        client.say(r#"{"text":" "}"#);
        upstream.next().accept();
        client.expect_upgraded();
    }
}

#[test]
fn hosts_outside_the_list_are_403() {
    let it = Refusing::start("[server]\nallowed_hosts = [\"tts.example.org\"]");
    it.check("another host", &it.upgrade(), &[403]);
    let mut client = Peer::dial(it.relay.address);
    client.write(&it.upgrade().set("Host", "tts.example.org:8443").encode());
    it.upstream.next().accept();
    client.expect_upgraded();
}

#[test]
fn a_path_prefix_is_taken_off() {
    let it = Refusing::start("[server]\npath_prefix = \"/elevenlabs\"");
    // The prefix adds a second way; clients that know nothing of it still get in.
    for prefix in ["/elevenlabs", ""] {
        let mut client = Peer::dial(it.relay.address);
        let target = format!("{prefix}{PATH}?a=b");
        client.write(&it.relay.authorized(&target).encode());
        let mut conn = it.upstream.next();
        conn.accept();
        assert_eq!(conn.target(), format!("{PATH}?a=b"));
        client.expect_upgraded();
    }
    let other = it.relay.authorized(&format!("/other{PATH}"));
    it.check("another prefix", &other, &[404]);
    it.done();
}
