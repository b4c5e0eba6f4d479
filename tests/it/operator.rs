//! The operator's listener: health, metrics, live sessions.

use std::collections::{HashMap, HashSet};

use crate::support::frame::Frame;
use crate::support::http::Request;
use crate::support::{PATH, TestRelay, Upstream, eventually, session};

#[test]
fn a_relay_at_rest_is_healthy_and_ready() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(relay.operator("GET", path).status, 200, "{path}");
    }
    assert_eq!(relay.operator("GET", "/nowhere").status, 404);
    assert_eq!(relay.operator("POST", "/metrics").status, 405);
    assert!(relay.sessions().is_empty());
}

#[test]
fn a_page_from_elsewhere_reads_nothing() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let rebound = Request::plain("GET", "/sessions").set("Host", "evil.example");
    assert_eq!(rebound.send(relay.operator).status, 403);
    let foreign = Request::plain("DELETE", "/sessions/0000000000000000")
        .with("Origin", "https://evil.example");
    assert_eq!(foreign.send(relay.operator).status, 403);
}

#[test]
fn live_sessions_are_counted_and_listed() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(r#"{"text":"twelve chars"}"#);
    conn.hear();
    conn.say(r#"{"audio":"AAEC"}"#);
    client.hear();
    let sessions = relay.sessions();
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0]["client"], "web", "{sessions:?}");
    assert_eq!(sessions[0]["voice"], "VoiceAlpha0000000001", "{sessions:?}");
    // Published a moment after the frames went on.
    eventually("the counts of now", || {
        let row = &relay.sessions()[0];
        let counts = ["characters", "messages_up", "messages_down"].map(|name| row[name].as_u64());
        (counts == [Some(12), Some(1), Some(1)]).then_some(())
    });
    conn.send(Frame::close(1000, ""));
    client.expect_close(1000);
    relay.wait_until_idle();
}

/// The rules that a linter of the Prometheus text format holds: help and type before samples, once
/// each, names by the conventions, no sample twice.
#[test]
fn metrics_are_proper_prometheus_text() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(r#"{"text":"words "}"#);
    conn.hear();
    conn.say(r#"{"audio":"AAEC"}"#);
    conn.send(Frame::close(1000, ""));
    client.hear();
    client.expect_close(1000);
    assert_eq!(relay.authorized("/nowhere").send(relay.address).status, 404);
    assert_eq!(
        Request::upgrade(PATH)
            .with("xi-api-key", "no")
            .send(relay.address)
            .status,
        401
    );

    let response = relay.operator("GET", "/metrics");
    let kind = response.head.get("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain"), "{kind}");
    let text = response.text();
    assert!(text.ends_with('\n'));
    let (mut helped, mut typed) = (HashSet::new(), HashMap::new());
    let mut samples = HashSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help
                .split_once(' ')
                .unwrap_or_else(|| panic!("no help: {line}"));
            assert!(helped.insert(name.to_owned()), "help twice: {line}");
            assert!(
                name.starts_with("xi_relay_") || name.starts_with("process_"),
                "{line}"
            );
            assert!(!help.trim().is_empty(), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(helped.contains(name), "type before help: {line}");
            assert!(
                typed.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{line}"
            );
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            if kind == "histogram" {
                let unit = ["_seconds", "_bytes", "_characters"];
                assert!(unit.iter().any(|unit| name.ends_with(unit)), "{line}");
            }
        } else {
            let end = line
                .find(['{', ' '])
                .unwrap_or_else(|| panic!("not a sample: {line}"));
            let name = &line[..end];
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|family| typed.get(*family).is_some_and(|kind| kind == "histogram"))
                .unwrap_or(name);
            assert!(typed.contains_key(family), "a sample without type: {line}");
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(series.to_owned()), "twice: {line}");
        }
    }
    assert!(
        typed.contains_key("xi_relay_log_lines_dropped_total"),
        "{text}"
    );
}
