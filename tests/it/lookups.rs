//! What clients can look up: upstream's lists, cut down to their plan, and their own account.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::{Request, Response};
use crate::support::relay::{TOKEN, UPSTREAM_KEY};
use crate::support::{Peer, TestRelay, Upstream};

const RESTRICTED: &str = r#"
    [plans.default]
    voices = ["VoiceAlpha0000000001"]
    voice_aliases = { assistant = "RealVoice00000000002" }
    models = ["eleven_flash_v2_5"]
"#;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

fn get(target: &str) -> Request {
    Request::plain("GET", target).with("xi-api-key", TOKEN)
}

/// Looks something up; upstream answers with `body`, and is asked for `asked`.
fn look_up(
    relay: &TestRelay,
    upstream: &Upstream,
    request: &Request,
    asked: &str,
    body: &str,
) -> Response {
    let mut client = Peer::dial(relay.address);
    client.write(&request.encode());
    let mut conn = upstream.next();
    let head = conn.head.as_ref().unwrap();
    assert_eq!(head.line, format!("GET {asked} HTTP/1.1"));
    assert_eq!(head.all("xi-api-key"), [UPSTREAM_KEY]);
    let n = body.len();
    conn.write(
        format!(
            "{OK}content-length: {n}\r\n\
             x-trace-id: t\r\netag: \"e\"\r\nconnection: close\r\n\r\n{body}"
        )
        .as_bytes(),
    );
    client.expect_response()
}

#[test]
fn lists_that_nobody_takes_do_not_pile_up() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let ask = || {
        let mut client = Peer::dial(relay.address);
        client.write(&get("/v1/voices").encode());
        client
    };
    // More than the buffers on the way can hold.
    let list = format!(r#"{{"voices":[],"x":"{}"}}"#, "x".repeat(8 << 20));
    let holding: Vec<Peer> = (0..2)
        .map(|_| {
            let client = ask();
            let (mut conn, n) = (upstream.next(), list.len());
            let head = format!("{OK}content-length: {n}\r\nconnection: close\r\n\r\n");
            conn.write(head.as_bytes());
            conn.write(list.as_bytes());
            client
        })
        .collect();
    let mut waiting = ask();
    upstream.expect_none(Duration::from_millis(200));
    drop(holding);
    let mut conn = upstream.next();
    conn.write(format!("{OK}content-length: 13\r\n\r\n{{\"voices\":[]}}").as_bytes());
    assert_eq!(waiting.expect_response().body, br#"{"voices":[]}"#);
}

#[test]
fn lists_show_what_the_plan_allows() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, RESTRICTED);
    let voices = r#"{"voices":[ {"voice_id":"VoiceAlpha0000000001","name":"A","x":1.50},
        {"voice_id":"RealVoice00000000002","name":"R"},{"voice_id":"other","name":"O"}],"total_count":3,"has_more":false}"#;
    let shown = r#"{"voices":[{"voice_id":"VoiceAlpha0000000001","name":"A","x":1.50},{"voice_id":"assistant","name":"R"}],"total_count":2,"has_more":false}"#;
    for path in ["/v1/voices", "/v2/voices"] {
        let asked = format!("{path}?page_size=10&next_page_token=a%3D");
        let target = format!("{asked}&authorization={TOKEN}");
        let request = Request::plain("GET", &target);
        let answer = look_up(&relay, &upstream, &request, &asked, voices);
        assert_eq!((answer.status, answer.text().as_str()), (200, shown));
        assert_eq!(answer.head.get("x-trace-id"), Some("t"));
        assert_eq!(answer.head.get("etag"), None, "it was another list's");
    }
    let models = r#"[{"model_id":"eleven_v3"},{"model_id":"eleven_flash_v2_5","name":"F"}]"#;
    let answer = look_up(&relay, &upstream, &get("/v1/models"), "/v1/models", models);
    assert_eq!(
        answer.text(),
        r#"[{"model_id":"eleven_flash_v2_5","name":"F"}]"#
    );
}

#[test]
fn a_list_that_cannot_be_cut_down_is_not_shown() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, RESTRICTED);
    for body in ["", "[]", r#"{"detail":"?"}"#, r#"{"voices":[}"#] {
        let answer = look_up(&relay, &upstream, &get("/v1/voices"), "/v1/voices", body);
        assert_eq!(answer.status, 502, "{body}");
        assert!(!answer.text().contains("detail\":\"?"));
    }
}

#[test]
fn without_restrictions_a_list_is_shown_as_it_is() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let body = r#" {"voices" : [ {"name":"no id"} ] } "#;
    let answer = look_up(&relay, &upstream, &get("/v1/voices"), "/v1/voices", body);
    assert_eq!(answer.text(), body);
    assert_eq!(answer.head.get("etag"), Some("\"e\""));
}

#[test]
fn an_account_is_the_clients_own() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        "[plans.default]\nwindows = [{ unit = \"characters\", limit = 1000, per = \"day\" }]\n",
    );
    let subscription = get("/v1/user/subscription").send(relay.address).json();
    assert_eq!(subscription["tier"], "default");
    assert_eq!(subscription["character_count"], 0);
    assert_eq!(subscription["character_limit"], 1000);
    assert!(
        subscription["next_character_count_reset_unix"]
            .as_i64()
            .unwrap()
            > 1_700_000_000
    );
    let user = get("/v1/user").send(relay.address).json();
    assert_eq!(
        (&user["user_id"], &user["subscription"]),
        (&json!("web"), &subscription)
    );
    upstream.expect_none(Duration::from_millis(50));
}

#[test]
fn nothing_else_can_be_looked_up() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for (method, target, status) in [
        ("GET", "/v1/voices/VoiceAlpha0000000001", 404),
        ("DELETE", "/v1/voices", 405),
        ("GET", "/v1/history", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/usage/character-stats", 404),
        ("GET", "/v1/workspace", 404),
    ] {
        let request = Request::plain(method, target).with("xi-api-key", TOKEN);
        assert_eq!(
            request.send(relay.address).status,
            status,
            "{method} {target}"
        );
    }
    for path in [
        "/v1/voices",
        "/v1/models",
        "/v1/user",
        "/v1/user/subscription",
    ] {
        let request = Request::plain("GET", path);
        let code = |answer: Response| -> Value { answer.json()["detail"]["code"].clone() };
        assert_eq!(code(request.send(relay.address)), "needs_authorization");
        let wrong = request.with("xi-api-key", "wrong").send(relay.address);
        assert_eq!(code(wrong), "invalid_api_key");
    }
    upstream.expect_none(Duration::from_millis(50));
}
