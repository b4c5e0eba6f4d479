//! A session's last entries: the ledger's row, the log's summary, the metrics.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::tap::{Counts, Tap, millis};
use super::{Facts, Live, SessionEnd};
use crate::metrics::Metrics;
use crate::quota::Admission;
use crate::usage::{LedgerRow, unix_ms};

/// How long the end of a session may wait for the store.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);

/// Writes the session's row, gives back what was reserved and not spent, and frees its slot.
pub(crate) async fn settle(
    live: &Arc<Live>,
    admission: Admission,
    counts: &Counts,
    facts: &Facts,
    end: &SessionEnd,
) {
    let row = LedgerRow {
        session: live.id,
        client: live.identity.client.clone(),
        plan: Arc::clone(&live.identity.plan),
        endpoint: live.endpoint.as_str(),
        voice: live.voice.clone(),
        model: facts.model.clone(),
        format: facts.format.clone(),
        started_ms: unix_ms(live.started),
        ended_ms: unix_ms(SystemTime::now()),
        characters_asked: counts.asked,
        characters_forwarded: counts.forwarded,
        characters_refused: counts.refused,
        milli_credits: 0,
        audio_ms: counts.audio_ms,
        messages_up: counts.messages_up,
        messages_down: counts.messages_down,
        bytes_up: counts.bytes_up,
        bytes_down: counts.bytes_down,
        first_audio_ms: counts.first_audio.map(millis),
        ending: end.label(),
        close_code: facts.status.unwrap_or_else(|| end.client_code()),
        trace_id: facts.trace_id.clone(),
    };
    // What takes longer is settled all the same; the client need not wait for it.
    let _ = tokio::time::timeout(SETTLE_PATIENCE, admission.settle(row)).await;
}

/// The one line that tells what a session came to.
pub(crate) fn summarize(
    live: &Live,
    counts: &Counts,
    facts: &Facts,
    end: &SessionEnd,
    started: Instant,
) {
    let relay_ms = millis(facts.admit_time);
    let connect_ms = millis(facts.connect_time);
    let generation = match (counts.first_text, counts.first_audio) {
        (Some(text), Some(audio)) => Some(millis(audio.saturating_sub(text))),
        _ => None,
    };
    tracing::info!(
        session = %live.id,
        client = %live.identity.client,
        plan = %live.identity.plan,
        endpoint = live.endpoint.as_str(),
        voice = &*live.voice,
        model = &*facts.model,
        format = &*facts.format,
        duration_ms = millis(started.elapsed()),
        messages_up = counts.messages_up,
        messages_down = counts.messages_down,
        bytes_up = counts.bytes_up,
        bytes_down = counts.bytes_down,
        chars = counts.forwarded,
        chars_refused = counts.refused,
        audio_ms = counts.audio_ms,
        first_audio_ms = counts.first_audio.map(millis),
        relay_ms,
        upstream_connect_ms = connect_ms,
        upstream_generation_ms = generation,
        ending = &*end.label(),
        close_code = facts.status.unwrap_or_else(|| end.client_code()),
        trace_id = facts.trace_id,
        "session ended",
    );
}

/// Hands the session's counts to the metrics.
pub(crate) fn report(
    metrics: &Metrics,
    live: &Live,
    tap: &mut Tap,
    facts: &Facts,
    end: &SessionEnd,
) {
    for (side, kind, messages, bytes) in tap.take_kinds() {
        metrics.add_messages(side, kind, messages, bytes);
    }
    let counts = tap.counts();
    metrics
        .characters_of(live.identity.client.as_str(), &facts.model)
        .add(counts.forwarded);
    if let Some(first_audio) = counts.first_audio {
        metrics.first_audio.observe(first_audio);
    }
    metrics.silent_finals.add(counts.silent_finals);
    metrics.sessions_ended.with([&*end.label()]).inc();
}
