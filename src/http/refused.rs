//! What is written down of a request that is refused: a line, a number, and, when its client is
//! known, a row in the ledger.

use std::sync::Arc;
use std::time::SystemTime;

use super::gateway::{Ask, Gateway};
use crate::auth::Identity;
use crate::protocol::{DEFAULT_OUTPUT_FORMAT, InvalidMessage, Problem, Query};
use crate::quota::Refusal;
use crate::usage::{LedgerRow, unix_ms};

/// What a request asked for, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// The voice after aliases.
    pub(super) voice: Arc<str>,
    /// The model in effect.
    pub(super) model: Arc<str>,
    /// The output format in effect.
    pub(super) format: Arc<str>,
    /// Characters of its text.
    pub(super) characters: u64,
    /// Bytes of its body.
    pub(super) bytes: u64,
}

impl Wish {
    /// The output format that `query` asks for.
    pub(super) fn format_of(query: &Query) -> Arc<str> {
        let asked = query.get("output_format");
        asked.as_deref().unwrap_or(DEFAULT_OUTPUT_FORMAT).into()
    }
}

/// Why a request of a known client is refused.
pub(super) enum Refused {
    /// By a rule of the relay.
    Rule(Problem),
    /// By a limit of the plan.
    Limit(Refusal),
    /// The body cannot be counted.
    Body(InvalidMessage),
}

impl Refused {
    /// What the client is told.
    pub(super) fn problem(&self) -> Problem {
        match self {
            Self::Rule(problem) => problem.clone(),
            Self::Limit(refusal) => Problem::from(refusal),
            Self::Body(invalid) => Problem::from(*invalid),
        }
    }

    /// The limit, where it was one.
    pub(super) fn limit(&self) -> Option<&Refusal> {
        match self {
            Self::Limit(refusal) => Some(refusal),
            Self::Rule(_) | Self::Body(_) => None,
        }
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Rule(problem)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Limit(refusal)
    }
}

/// Writes a refusal down. `ending` is the problem's name, `code` what the client sees: an HTTP
/// status or a close code. It counts for `limit`, or else for the rule of the problem's name.
pub(super) fn note(
    gateway: &Gateway,
    ask: &Ask,
    identity: Option<&Identity>,
    wish: Wish,
    ending: &str,
    code: u16,
    limit: Option<&Refusal>,
) {
    tracing::info!(
        session = %ask.id,
        client = identity.map(|identity| identity.client.as_str()),
        endpoint = ask.endpoint.as_str(),
        ending,
        code,
        "refused",
    );
    match limit {
        Some(refusal) => gateway.parts.quota.note_refusal(refusal),
        None => gateway.parts.metrics.refusals.with([ending]).inc(),
    }
    let Some(identity) = identity else {
        return;
    };
    let now = unix_ms(SystemTime::now());
    gateway.parts.quota.record_refused(LedgerRow {
        session: ask.id,
        client: identity.client.clone(),
        plan: Arc::clone(&identity.plan),
        endpoint: ask.endpoint.as_str(),
        voice: wish.voice,
        model: wish.model,
        format: wish.format,
        started_ms: now - i64::try_from(ask.started.elapsed().as_millis()).unwrap_or(0),
        ended_ms: now,
        characters_asked: wish.characters,
        characters_forwarded: 0,
        characters_refused: wish.characters,
        milli_credits: 0,
        audio_ms: 0,
        messages_up: u64::from(wish.bytes > 0),
        messages_down: 0,
        bytes_up: wish.bytes,
        bytes_down: 0,
        first_audio_ms: None,
        ending: ending.to_owned().into(),
        close_code: code,
        trace_id: None,
    });
}
