//! The table of everything measured: one row a figure, one column a target.

use std::fmt::Write as _;

use crate::figures::{Figures, Spread};

/// Column heads, and the names used by `run.sh`.
const TARGETS: [(&str, &str); 6] = [
    ("direct", "direct"),
    ("TCP tunnel", "tunnel"),
    ("nginx", "nginx"),
    ("HAProxy", "haproxy"),
    ("Caddy", "caddy"),
    ("**xi-relay**", "xi-relay"),
];

/// What a row says, its scenario, its figure, and what the figure is divided by to be shown.
const ROWS: [(&str, &str, &str, f64); 30] = [
    (
        "round trip, 200 B, p50, µs",
        "round_trip_200",
        "p50_us",
        1.0,
    ),
    (
        "round trip, 200 B, p99, µs",
        "round_trip_200",
        "p99_us",
        1.0,
    ),
    ("round trip, 8 KB, p50, µs", "round_trip_8k", "p50_us", 1.0),
    ("round trip, 8 KB, p99, µs", "round_trip_8k", "p99_us", 1.0),
    (
        "CPU per round trip, 200 B, µs",
        "round_trip_200",
        "cpu_us",
        1.0,
    ),
    (
        "CPU per round trip, 8 KB, µs",
        "round_trip_8k",
        "cpu_us",
        1.0,
    ),
    (
        "CPU per 16 KB audio frame, 40 paced sessions, µs",
        "paced",
        "cpu_us",
        1.0,
    ),
    ("the same, TLS upstream", "paced_tls", "cpu_us", 1.0),
    (
        "CPU per MB, 64 KB frames flat out, µs",
        "bulk",
        "cpu_us_per_mb",
        1.0,
    ),
    ("the same, TLS upstream", "bulk_tls", "cpu_us_per_mb", 1.0),
    ("throughput of those, MB/s", "bulk", "mb_per_s", 1.0),
    ("the same, TLS upstream", "bulk_tls", "mb_per_s", 1.0),
    ("CPU per whole session, µs", "sessions", "cpu_us", 1.0),
    ("the same, TLS upstream", "sessions_tls", "cpu_us", 1.0),
    ("time to first audio, p50, µs", "first_audio", "p50_us", 1.0),
    ("time to first audio, p99, µs", "first_audio", "p99_us", 1.0),
    (
        "first audio, TLS upstream 80 ms away, p50, ms",
        "far",
        "p50_us",
        1000.0,
    ),
    (
        "the same, warm connections turned off",
        "far_cold",
        "p50_us",
        1000.0,
    ),
    (
        "memory per idle session, kB",
        "memory_plain",
        "idle_kb",
        1.0,
    ),
    (
        "the same after one 64 KB frame",
        "memory_plain",
        "after_frame_kb",
        1.0,
    ),
    (
        "memory per idle session, TLS upstream, kB",
        "memory_tls",
        "idle_kb",
        1.0,
    ),
    (
        "the same after one 64 KB frame",
        "memory_tls",
        "after_frame_kb",
        1.0,
    ),
    ("memory at rest, MB", "memory_plain", "rest_pss_mb", 1.0),
    (
        "CPU per message, 10 sessions, µs",
        "scale_10",
        "cpu_us",
        1.0,
    ),
    (
        "CPU per message, 5,000 sessions, µs",
        "scale_5000",
        "cpu_us",
        1.0,
    ),
    ("sessions held at once", "crowd", "open", 1.0),
    ("of these lost while watched", "crowd", "lost", 1.0),
    ("watched for, s", "crowd", "seconds", 1.0),
    ("memory when the watch began, MB", "crowd", "first_mb", 1.0),
    ("the most seen, MB", "crowd", "most_mb", 1.0),
];

/// Everything measured, as a Markdown table of medians, with least and most where there were
/// several rounds.
pub(crate) fn measured(figures: &Figures) -> String {
    let mut table = String::from("| |");
    for (head, _) in TARGETS {
        // Writing to a string cannot fail.
        let _ = write!(table, " {head} |");
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(TARGETS.len()));
    table.push('\n');
    for (says, scenario, name, divisor) in ROWS {
        let cells = TARGETS.map(|(_, target)| {
            figures
                .get(scenario, target, name)
                .map_or_else(|| "–".to_owned(), |spread| cell(spread, divisor))
        });
        if cells.iter().any(|cell| cell != "–") {
            let _ = writeln!(table, "| {says} | {} |", cells.join(" | "));
        }
    }
    table
}

fn cell(spread: &Spread, divisor: f64) -> String {
    let median = number(spread.median() / divisor);
    match spread.range() {
        Some((least, most)) => format!(
            "{median} ({}–{})",
            number(least / divisor),
            number(most / divisor)
        ),
        None => median,
    }
}

/// Three digits that say something, thousands parted.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 | 100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    if value.abs() < 1000.0 {
        return text;
    }
    let mut parted = String::new();
    for (at, digit) in text.chars().enumerate() {
        if at > 0 && (text.len() - at) % 3 == 0 {
            parted.push(',');
        }
        parted.push(digit);
    }
    parted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_parted() {
        for (value, shown) in [
            (0.0, "0"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1234.5, "1,234"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(number(value), shown);
        }
    }
}
