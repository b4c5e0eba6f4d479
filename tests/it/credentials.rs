//! No client token goes up and no upstream key comes down, however the client shows its token.

use std::time::Duration;

use serde_json::json;

use crate::support::http::Request;
use crate::support::relay::{OTHER_TOKEN, TOKEN, UPSTREAM_KEY};
use crate::support::{PATH, Peer, TestRelay, Upstream};

const FIRST: &str = r#"{"text":"hello "}"#;

/// One way to show a token.
struct Shown {
    what: &'static str,
    request: Request,
    first: String,
    /// The first message as upstream has to get it.
    goes_up: &'static str,
    /// The query as upstream has to get it.
    query: &'static str,
}

impl Shown {
    fn by(what: &'static str, request: Request) -> Self {
        Self {
            what,
            request,
            first: FIRST.to_owned(),
            goes_up: FIRST,
            query: "",
        }
    }

    fn in_query(what: &'static str, query: &str, goes_up: &'static str) -> Self {
        let request = Request::upgrade(&format!("{PATH}?{query}"));
        Self {
            query: goes_up,
            ..Self::by(what, request)
        }
    }

    fn in_message(what: &'static str, first: String, goes_up: &'static str) -> Self {
        Self {
            first,
            goes_up,
            ..Self::by(what, Request::upgrade(PATH))
        }
    }
}

fn header(name: &str, value: &str) -> Request {
    Request::upgrade(PATH).with(name, value)
}

fn all_ways() -> Vec<Shown> {
    let bearer = format!("Bearer {TOKEN}");
    let protocols = format!("xi-relay, xi-api-key.{TOKEN}");
    vec![
        Shown::by("xi-api-key header", header("xi-api-key", TOKEN)),
        Shown::by("odd case of the header", header("XI-Api-KEY", TOKEN)),
        Shown::by("Authorization header", header("Authorization", &bearer)),
        Shown::by(
            "lower-case bearer",
            header("authorization", &format!("bearer {TOKEN}")),
        ),
        Shown::by(
            "both headers",
            header("xi-api-key", TOKEN).with("Authorization", &bearer),
        ),
        Shown::by("subprotocol", header("Sec-WebSocket-Protocol", &protocols)),
        Shown::by(
            "path segment",
            Request::upgrade(&format!("/t/{TOKEN}{PATH}")),
        ),
        Shown::in_query("authorization query", &format!("authorization={TOKEN}"), ""),
        Shown::in_query(
            "authorization query with Bearer",
            &format!("a=1&authorization=Bearer%20{TOKEN}&b=2"),
            "a=1&b=2",
        ),
        Shown::in_query(
            "authorization query with Bearer and a plus",
            &format!("authorization=Bearer+{TOKEN}"),
            "",
        ),
        Shown::in_query(
            "xi-api-key query",
            &format!("a=1&xi-api-key={TOKEN}"),
            "a=1",
        ),
        Shown::in_query(
            "percent-encoded name",
            &format!("%61uthorizatio%6E={TOKEN}&model_id=m"),
            "model_id=m",
        ),
        Shown::in_query(
            "query, doubled",
            &format!("authorization={TOKEN}&x=1&authorization={TOKEN}"),
            "x=1",
        ),
        Shown::in_query(
            "two names in the query",
            &format!("authorization={TOKEN}&xi-api-key={TOKEN}&xi_api_key={TOKEN}&k=v"),
            "k=v",
        ),
        Shown::in_message(
            "xi_api_key in the first message",
            format!(r#"{{"text":" ","xi_api_key":"{TOKEN}"}}"#),
            r#"{"text":" "}"#,
        ),
        Shown::in_message(
            "xi-api-key in the first message",
            format!(r#"{{"xi-api-key":"{TOKEN}","text":"real text "}}"#),
            r#"{"text":"real text "}"#,
        ),
        Shown::in_message(
            "authorization in the first message",
            format!(r#"{{"text":" ","authorization":"Bearer {TOKEN}","n":1}}"#),
            r#"{"text":" ","n":1}"#,
        ),
        Shown::in_message(
            "two names in the first message",
            format!(r#"{{"xi_api_key":"{TOKEN}","text":" ","xi-api-key":"{TOKEN}"}}"#),
            r#"{"text":" "}"#,
        ),
        Shown::in_message(
            "escaped name in the first message",
            format!(r#"{{"text":" ","\u0078i_api_key":"{TOKEN}"}}"#),
            r#"{"text":" "}"#,
        ),
        Shown {
            first: format!(r#"{{"text":" ","xi_api_key":"{TOKEN}"}}"#),
            goes_up: r#"{"text":" "}"#,
            ..Shown::by("header and first message", header("xi-api-key", TOKEN))
        },
        Shown {
            first: format!(r#"{{"text":" ","xi_api_key":"{OTHER_TOKEN}"}}"#),
            goes_up: r#"{"text":" "}"#,
            ..Shown::by(
                "header, and another's in the message",
                header("xi-api-key", TOKEN),
            )
        },
    ]
}

#[test]
fn every_form_is_accepted_and_none_goes_up() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for shown in all_ways() {
        let what = shown.what;
        let mut client = Peer::dial(relay.address);
        let mut packet = shown.request.encode();
        packet.extend(
            client
                .dress(crate::support::Frame::text(&shown.first))
                .encode(),
        );
        client.write(&packet);

        let mut conn = upstream.next();
        conn.accept();
        client.expect_upgraded();
        let head = conn.head.clone().unwrap();
        assert_eq!(
            head.all("xi-api-key"),
            [UPSTREAM_KEY],
            "{what}: {}",
            head.raw
        );
        assert_eq!(head.all("authorization"), [""; 0], "{what}: {}", head.raw);
        assert_eq!(
            head.all("sec-websocket-protocol"),
            [""; 0],
            "{what}: {}",
            head.raw
        );
        let (path, query) = head.target().split_once('?').unwrap_or((head.target(), ""));
        assert_eq!((path, query), (PATH, shown.query), "{what}");
        assert_eq!(json(&conn.hear()), json(shown.goes_up), "{what}");

        conn.say(r#"{"audio":"AAEC"}"#);
        assert_eq!(client.hear(), r#"{"audio":"AAEC"}"#);
        conn.send(crate::support::Frame::close(1000, ""));
        client.expect_close(1000);
        for secret in [TOKEN, OTHER_TOKEN] {
            assert!(
                !conn.transcript().contains(secret),
                "{what}: {}",
                conn.transcript()
            );
            assert!(
                !client.transcript().contains(secret),
                "{what}: {}",
                client.transcript()
            );
        }
        assert!(
            !client.transcript().contains(UPSTREAM_KEY),
            "{what}: {}",
            client.transcript()
        );
    }
}

#[test]
fn the_subprotocol_answer_names_the_relay_alone() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    let offer = format!("xi-relay, xi-api-key.{TOKEN}");
    client.write(&header("Sec-WebSocket-Protocol", &offer).encode());
    let response = client.expect_response();
    assert_eq!(response.status, 101);
    assert_eq!(response.head.all("sec-websocket-protocol"), ["xi-relay"]);
}

#[test]
fn credentials_are_removed_from_later_messages_too() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = crate::support::session(&relay, &upstream);
    client.say(r#"{"text":"one "}"#);
    assert_eq!(conn.hear(), r#"{"text":"one "}"#);
    client.say(&format!(
        r#"{{"text":"two ","authorization":"{OTHER_TOKEN}","single_use_token":"{TOKEN}"}}"#
    ));
    assert_eq!(json(&conn.hear()), json!({"text": "two "}));
    // Words that only look like a credential are spoken.
    let harmless = r#"{"text":"the xi_api_key is \"xi-api-key\": x ","nested":{"xi_api_key":1}}"#;
    client.say(harmless);
    assert_eq!(conn.hear(), harmless);
    assert!(!conn.transcript().contains(TOKEN) && !conn.transcript().contains(OTHER_TOKEN));
}

#[test]
fn a_doubled_key_is_refused() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let doubled = [
        r#"{"text":"a ","text":"b "}"#.to_owned(),
        r#"{"text":"a ","\u0074ext":"b "}"#.to_owned(),
        format!(r#"{{"text":"a ","xi_api_key":"{TOKEN}","xi_api_key":"{TOKEN}"}}"#),
        format!(r#"{{"text":"a ","xi_api_key":"{TOKEN}","\u0078i_api_key":"{OTHER_TOKEN}"}}"#),
    ];
    for message in doubled {
        let (mut client, mut conn) = crate::support::session(&relay, &upstream);
        client.say(&message);
        client.expect_refusal("invalid_input_message", 1008);
        let (heard, _) = conn.hear_out();
        assert_eq!(heard, [""; 0], "{message}");
    }
}

#[test]
fn other_headers_of_the_client_stay_behind() {
    let upstream = Upstream::start();
    let origins = "[server]\nallowed_origins = [\"http://localhost\"]";
    let relay = TestRelay::start(upstream.address, origins);
    let mut client = Peer::dial(relay.address);
    let request = relay
        .authorized(PATH)
        .with("Cookie", "session=of-the-clients")
        .with("Origin", "http://localhost")
        .with("X-Forwarded-For", "192.0.2.1")
        .with("xi-api-key-2", "of-the-clients")
        .with(
            "Sec-WebSocket-Extensions",
            "permessage-deflate; client_max_window_bits",
        );
    client.write(&request.encode());
    let mut conn = upstream.next();
    conn.accept();
    let head = conn.head.clone().unwrap();
    for name in [
        "cookie",
        "origin",
        "x-forwarded-for",
        "sec-websocket-extensions",
    ] {
        assert_eq!(head.all(name), [""; 0], "{}", head.raw);
    }
    assert!(!head.raw.contains("of-the-clients"), "{}", head.raw);
    assert_eq!(head.all("host"), [upstream.address.to_string()]);
    assert_eq!(head.all("sec-websocket-version"), ["13"]);
    assert_ne!(
        head.get("sec-websocket-key"),
        Some(crate::support::http::KEY),
        "its own key"
    );
}

#[test]
fn a_wrong_token_in_a_header_reads_401() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for request in [
        header("xi-api-key", "no-such-token"),
        header("xi-api-key", UPSTREAM_KEY),
        header("Authorization", "Bearer no-such-token"),
    ] {
        let response = request.send(relay.address);
        assert_eq!(response.status, 401, "{}", response.text());
        let detail = &response.json()["detail"];
        assert_eq!(detail["code"], "invalid_api_key", "{detail}");
        assert_eq!(detail["status"], "invalid_api_key", "{detail}");
        assert!(!response.head.raw.contains("no-such") && !response.text().contains("no-such"));
    }
    upstream.expect_none(Duration::from_millis(100));
}

#[test]
fn a_wrong_token_a_browser_can_send_is_an_error_frame() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for request in [
        header(
            "Sec-WebSocket-Protocol",
            "xi-relay, xi-api-key.no-such-token",
        ),
        Request::upgrade(&format!("{PATH}?authorization=no-such-token")),
        Request::upgrade(&format!("{PATH}?single_use_token=no-such-token")),
        Request::upgrade(&format!("/t/no-such-token{PATH}")),
    ] {
        // The refusal follows the client's first message; without one it comes all the same.
        for says_something in [true, false] {
            let mut client = Peer::dial(relay.address);
            client.write(&request.encode());
            let response = client.expect_response();
            assert_eq!(response.status, 101, "{}", response.text());
            if says_something {
                client.say(FIRST);
            }
            client.expect_refusal("invalid_api_key", 1008);
            assert!(
                !client.transcript().contains("no-such"),
                "{}",
                client.transcript()
            );
        }
    }
    let mut client = Peer::dial(relay.address);
    client.write(&Request::upgrade(PATH).encode());
    client.expect_upgraded();
    client.say(r#"{"text":" ","xi_api_key":"no-such-token"}"#);
    client.expect_refusal("invalid_api_key", 1008);
    assert!(
        !client.transcript().contains("no-such"),
        "{}",
        client.transcript()
    );
    upstream.expect_none(Duration::from_millis(100));
}

#[test]
fn a_first_message_without_a_credential_is_told_so() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&Request::upgrade(PATH).encode());
    client.expect_upgraded();
    client.say(FIRST);
    client.expect_refusal("needs_authorization", 1008);
    upstream.expect_none(Duration::from_millis(100));
}

#[test]
fn an_anonymous_socket_may_send_little() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&Request::upgrade(PATH).encode());
    client.expect_upgraded();
    // Announced, not even sent.
    let announced = crate::support::Frame::text("")
        .with_length(crate::support::frame::Length::Claimed(1 << 40));
    client.send(announced);
    client.expect_close(1009);
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}
