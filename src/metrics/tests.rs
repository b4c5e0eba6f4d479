//! The page as a whole.

#![allow(clippy::unwrap_used, reason = "a failed test is the point")]

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

fn metrics() -> Metrics {
    Metrics::new(
        &Config {
            max_client_labels: 2,
        },
        ["eleven_flash_v2_5".to_owned()],
    )
}

/// The rules of `promtool check metrics` that concern names, and those of the text format.
#[track_caller]
fn check_page(page: &str) {
    let mut families = BTreeSet::new();
    let mut samples = BTreeSet::new();
    let (mut family, mut kind) = ("", "");
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(families.insert(name), "{name} twice");
            assert!(!help.is_empty(), "{line}");
            family = name;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, found) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            kind = found;
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            let unit = ["_milliseconds", "_ms", "_kb", "_minutes", "_percent"];
            assert!(!unit.iter().any(|unit| name.contains(unit)), "{line}");
            if kind == "histogram" {
                assert!(
                    name.ends_with("_seconds") || name.ends_with("_bytes"),
                    "{line}"
                );
            }
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(samples.insert(series), "{series} twice");
            value.parse::<f64>().unwrap();
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(family).unwrap();
            match kind {
                "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                _ => assert_eq!(suffix, "", "{line}"),
            }
        }
    }
}

#[test]
fn the_page_is_clean_empty_and_full() {
    let metrics = metrics();
    check_page(&metrics.render());

    metrics.sessions_started.with(["stream-input"]).inc();
    metrics.sessions_ended.with(["completed"]).inc();
    metrics.add_messages(Side::Client, "text", 3, 300);
    metrics.add_messages(Side::Upstream, "audio", 2, 20_000);
    metrics.add_messages(Side::Upstream, "never heard of", 1, 1);
    metrics.refusals.with(["quota_exceeded"]).inc();
    metrics.first_audio.observe(Duration::from_millis(120));
    metrics.http_requests.with(["convert", "200"]).inc();
    metrics.silent_finals.inc();
    metrics.register(|page| {
        page.family(Kind::Counter, "log_lines_dropped_total", "Dropped.")
            .value(&[], 4u64);
    });
    let page = metrics.render();
    check_page(&page);
    for line in [
        "xi_relay_sessions_started_total{endpoint=\"stream-input\"} 1",
        "xi_relay_messages_total{side=\"client\",kind=\"text\"} 3",
        "xi_relay_message_bytes_total{side=\"upstream\",kind=\"audio\"} 20000",
        "xi_relay_messages_total{side=\"upstream\",kind=\"other\"} 1",
        "xi_relay_first_audio_seconds_bucket{le=\"0.1\"} 0",
        "xi_relay_first_audio_seconds_bucket{le=\"0.15\"} 1",
        "xi_relay_http_requests_total{endpoint=\"convert\",status=\"200\"} 1",
        "xi_relay_log_lines_dropped_total 4",
        "# HELP xi_relay_sessions_live Sessions that are open now.",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
}

#[test]
fn clients_and_models_cannot_make_the_page_grow() {
    let metrics = metrics();
    for n in 0..1000 {
        metrics
            .characters_of(&format!("client-{n}"), &format!("model-{n}"))
            .add(1);
    }
    metrics
        .characters_of("client-0", "eleven_flash_v2_5")
        .add(7);
    let page = metrics.render();
    let lines: Vec<_> = page
        .lines()
        .filter(|line| line.contains("characters_total{"))
        .collect();
    assert_eq!(
        lines,
        [
            "xi_relay_characters_total{client=\"client-0\",model=\"eleven_flash_v2_5\"} 7",
            "xi_relay_characters_total{client=\"client-0\",model=\"other\"} 1",
            "xi_relay_characters_total{client=\"client-1\",model=\"other\"} 1",
            "xi_relay_characters_total{client=\"other\",model=\"other\"} 998",
        ]
    );
}

#[test]
fn gauges_fall_with_their_guards() {
    let metrics = metrics();
    let guards = metrics.enter_session("a");
    let more = metrics.enter_session("b");
    assert_eq!(metrics.sessions_live.get(), 2);
    drop(guards);
    assert_eq!(metrics.sessions_live.get(), 1);
    let page = metrics.render();
    assert!(page.contains("xi_relay_client_sessions_live{client=\"a\"} 0\n"));
    assert!(page.contains("xi_relay_client_sessions_live{client=\"b\"} 1\n"));
    drop(more);
    assert_eq!(metrics.sessions_live.get(), 0);
}
