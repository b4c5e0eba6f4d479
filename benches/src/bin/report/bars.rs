//! The bars: ratios of medians of one run, what they must be and what is aimed at.

use std::fmt::Write as _;

use crate::figures::Figures;
use crate::table::number;

/// The round-trip time that `run.sh` imitates.
const RTT_US: f64 = 80_000.0;

/// One bar. Lower is better in all of them.
struct Bar {
    says: &'static str,
    value: Option<f64>,
    must: Option<f64>,
    aim: Option<f64>,
    unit: &'static str,
}

/// A bar with both limits.
fn bar(says: &'static str, value: Option<f64>, must: f64, aim: f64, unit: &'static str) -> Bar {
    Bar {
        says,
        value,
        must: Some(must),
        aim: Some(aim),
        unit,
    }
}

/// A bar that is only aimed at.
fn aim(says: &'static str, value: Option<f64>, aim: f64, unit: &'static str) -> Bar {
    Bar {
        says,
        value,
        must: None,
        aim: Some(aim),
        unit,
    }
}

/// A bar without a further aim.
fn must(says: &'static str, value: Option<f64>, must: f64, unit: &'static str) -> Bar {
    Bar {
        says,
        value,
        must: Some(must),
        aim: None,
        unit,
    }
}

fn bars(figures: &Figures) -> Vec<Bar> {
    let ours = |scenario, name| figures.median(scenario, "xi-relay", name);
    let over = |scenario, name, other| {
        Some(ours(scenario, name)? / figures.median(scenario, other, name)?)
    };
    let best_paced = ["nginx", "haproxy", "caddy"]
        .iter()
        .filter_map(|other| figures.median("paced", other, "cpu_us"))
        .min_by(f64::total_cmp);
    let paced = ours("paced", "cpu_us")
        .zip(best_paced)
        .map(|(ours, best)| ours / best);
    let above_direct = ours("first_audio", "p50_us")
        .zip(figures.median("first_audio", "direct", "p50_us"))
        .map(|(ours, direct)| (ours - direct) / 1000.0);
    let growth = ours("scale_5000", "cpu_us")
        .zip(ours("scale_10", "cpu_us"))
        .map(|(many, few)| many / few);
    let after = |scenario| Some(ours(scenario, "after_frame_kb")? / ours(scenario, "idle_kb")?);
    let flat = ours("crowd", "most_mb")
        .zip(ours("crowd", "first_mb"))
        .map(|(most, first)| most / first);
    let missing = ours("crowd", "failed")
        .zip(ours("crowd", "lost"))
        .map(|(failed, lost)| failed + lost);
    vec![
        must(
            "round trip p50, 200 B",
            over("round_trip_200", "p50_us", "nginx"),
            1.15,
            "× nginx",
        ),
        aim(
            "",
            over("round_trip_200", "p50_us", "tunnel"),
            1.0,
            "× TCP tunnel",
        ),
        must(
            "round trip p50, 8 KB",
            over("round_trip_8k", "p50_us", "nginx"),
            1.15,
            "× nginx",
        ),
        aim(
            "",
            over("round_trip_8k", "p50_us", "tunnel"),
            1.0,
            "× TCP tunnel",
        ),
        bar(
            "CPU per round trip, 200 B",
            over("round_trip_200", "cpu_us", "nginx"),
            1.15,
            1.0,
            "× nginx",
        ),
        bar(
            "CPU per round trip, 8 KB",
            over("round_trip_8k", "cpu_us", "nginx"),
            1.15,
            1.0,
            "× nginx",
        ),
        bar("CPU per paced 16 KB frame", paced, 0.95, 0.80, "× the best"),
        bar(
            "CPU per MB, 64 KB frames",
            over("bulk", "cpu_us_per_mb", "haproxy"),
            0.65,
            0.56,
            "× HAProxy",
        ),
        aim("", over("bulk", "cpu_us_per_mb", "caddy"), 1.0, "× Caddy"),
        bar(
            "the same, TLS upstream",
            over("bulk_tls", "cpu_us_per_mb", "haproxy"),
            0.60,
            0.45,
            "× HAProxy",
        ),
        bar(
            "CPU per session",
            over("sessions", "cpu_us", "haproxy"),
            1.10,
            0.95,
            "× HAProxy",
        ),
        bar(
            "the same, TLS upstream",
            over("sessions_tls", "cpu_us", "haproxy"),
            0.40,
            0.27,
            "× HAProxy",
        ),
        bar(
            "time to first audio p50",
            over("first_audio", "p50_us", "direct"),
            1.25,
            1.10,
            "× direct",
        ),
        must("", above_direct, 2.0, "ms above direct"),
        bar(
            "first audio, upstream 80 ms away, warm",
            ours("far", "p50_us").map(|us| us / RTT_US),
            2.2,
            2.1,
            "RTT",
        ),
        must(
            "memory per idle session",
            ours("memory_plain", "idle_kb"),
            8.0,
            "kB",
        ),
        aim(
            "",
            over("memory_plain", "idle_kb", "haproxy"),
            1.0,
            "× HAProxy",
        ),
        must(
            "after one 64 KB frame",
            after("memory_plain"),
            1.2,
            "× before",
        ),
        must(
            "memory per idle session, TLS upstream",
            ours("memory_tls", "idle_kb"),
            18.0,
            "kB",
        ),
        aim(
            "",
            over("memory_tls", "idle_kb", "haproxy"),
            1.0,
            "× HAProxy",
        ),
        must(
            "after one 64 KB frame",
            after("memory_tls"),
            1.2,
            "× before",
        ),
        bar(
            "memory at rest",
            ours("memory_plain", "rest_pss_mb"),
            10.0,
            6.0,
            "MB",
        ),
        must(
            "sessions at once: not opened or lost",
            missing,
            0.0,
            "of those in the table",
        ),
        must(
            "their memory under paced traffic",
            flat,
            1.05,
            "× at the start",
        ),
        bar(
            "cost per message, 10 → 5,000 sessions",
            growth,
            1.3,
            1.1,
            "×",
        ),
    ]
}

/// The bars as a Markdown table; rows without figures are left out.
pub(crate) fn table(figures: &Figures) -> String {
    let mut table = String::from("| bar | measured | must | aim | |\n|---|---|---|---|---|\n");
    for bar in bars(figures) {
        let Some(value) = bar.value else { continue };
        let limit = |limit: Option<f64>| {
            limit.map_or_else(String::new, |limit| format!("≤ {}", number(limit)))
        };
        let met = |limit: Option<f64>| limit.is_none_or(|limit| value <= limit);
        let verdict = match (met(bar.must), met(bar.aim)) {
            (true, true) => "met",
            (true, false) if bar.must.is_some() => "met, aim missed",
            (true, false) => "aim missed",
            (false, _) => "**missed**",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {} | {} {} | {} | {} | {verdict} |",
            bar.says,
            number(value),
            bar.unit,
            limit(bar.must),
            limit(bar.aim)
        );
    }
    table
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_bar_says_whether_it_is_met() {
        let line = |target: &str, cpu: f64| {
            format!(r#"{{"scenario":"sessions","target":"{target}","metrics":{{"cpu_us":{cpu}}}}}"#)
        };
        let of = |ours: f64| {
            table(
                &Figures::parse(&[line("haproxy", 100.0), line("xi-relay", ours)].join("\n"))
                    .unwrap(),
            )
        };
        assert!(
            of(90.0).ends_with("| CPU per session | 0.90 × HAProxy | ≤ 1.10 | ≤ 0.95 | met |\n")
        );
        assert!(of(100.0).contains("met, aim missed"));
        assert!(of(120.0).contains("**missed**"));
    }
}
