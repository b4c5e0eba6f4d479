//! Numbers that other parts keep, put on the page of metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::metrics::{Kind, Metrics};
use crate::quota::Quota;
use crate::upstream::Upstream;

/// Shows the upstream connections kept warm.
pub(super) fn register_upstream(metrics: &Metrics, upstream: Arc<Upstream>) {
    metrics.register(move |page| {
        let counts = upstream.pool_counts();
        page.family(
            Kind::Gauge,
            "upstream_connections_warm",
            "Upstream connections that are ready for a session.",
        )
        .value(&[], counts.ready);
        let mut taken = page.family(
            Kind::Counter,
            "upstream_connections_taken_total",
            "Sessions that looked for a warm connection: hit found one, miss had to dial, stale \
             counts those that upstream had closed.",
        );
        taken.value(&[("result", "hit")], counts.hits);
        taken.value(&[("result", "miss")], counts.misses);
        taken.value(&[("result", "stale")], counts.stale);
    });
}

/// Shows refusals by limits, reservations and the store's health.
pub(super) fn register_quota(metrics: &Metrics, quota: Quota) {
    for (limit, count) in quota.refusals() {
        metrics.refusals.put([limit], Arc::clone(count));
    }
    metrics.register(move |page| {
        page.family(
            Kind::Gauge,
            "reserved_ahead_characters",
            "Characters that live sessions have reserved and not spent.",
        )
        .value(&[], quota.reserved_ahead());
        let counters = quota.books().counters();
        page.family(
            Kind::Gauge,
            "store_up",
            "Whether the usage store answered when it was last asked.",
        )
        .value(&[], u8::from(counters.up.load(Ordering::Relaxed)));
        page.family(
            Kind::Histogram,
            "store_latency_seconds",
            "How long the usage store took to answer.",
        )
        .histogram(
            &[],
            counters.latency.cumulative(),
            counters.latency.sum_seconds(),
        );
        let mut failures = page.family(
            Kind::Counter,
            "store_failures_total",
            "Operations of the usage store that failed.",
        );
        for (operation, count) in counters.failures() {
            failures.value(&[("operation", operation)], count);
        }
        for (name, help, value) in [
            (
                "store_rejected_total",
                "Operations not tried because the usage store was known to be down.",
                &counters.rejected,
            ),
            (
                "store_emptied_total",
                "How often the usage store came back without the counters it had.",
                &counters.emptied,
            ),
            (
                "lost_sessions_total",
                "Sessions of dead processes that were entered as lost.",
                &counters.lost_sessions,
            ),
            (
                "ledger_rows_dropped_total",
                "Ledger rows given up because too many waited for the store.",
                &counters.rows_dropped,
            ),
        ] {
            page.family(Kind::Counter, name, help)
                .value(&[], value.load(Ordering::Relaxed));
        }
        page.family(
            Kind::Gauge,
            "ledger_rows_waiting",
            "Ledger rows that wait for the usage store to come back.",
        )
        .value(&[], counters.rows_waiting.load(Ordering::Relaxed));
    });
}
