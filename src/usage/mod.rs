//! What clients have done: the store trait and its `memory`, `sqlite` and `redis` kinds.

/// Unicode scalar values of text.
pub type Characters = u64;

/// One session or HTTP request as it stands in the ledger. Never holds text.
#[derive(Clone, Debug)]
pub struct LedgerRow {
    /// The session's id.
    pub session: crate::ids::SessionId,
    /// Who spent.
    pub client: crate::ids::ClientId,
    /// The plan's name.
    pub plan: std::sync::Arc<str>,
    /// The endpoint: `stream-input`, `multi-stream-input`, `convert`, …
    pub endpoint: &'static str,
    /// The voice, empty when none was named.
    pub voice: String,
    /// The model, empty when none was named.
    pub model: String,
    /// The output format, empty when none was named.
    pub format: String,
    /// Unix time in milliseconds.
    pub started_ms: i64,
    /// Unix time in milliseconds.
    pub ended_ms: i64,
    /// Characters of every text the client sent.
    pub characters_asked: Characters,
    /// Characters that went up.
    pub characters_forwarded: Characters,
    /// Characters that were refused.
    pub characters_refused: Characters,
    /// Thousandths of a credit: characters times the model's rate.
    pub milli_credits: u64,
    /// Audio that came down, in milliseconds.
    pub audio_ms: u64,
    /// Messages from the client.
    pub messages_up: u64,
    /// Messages from upstream.
    pub messages_down: u64,
    /// Payload bytes from the client.
    pub bytes_up: u64,
    /// Payload bytes from upstream.
    pub bytes_down: u64,
    /// From the session's start to its first audio.
    pub first_audio_ms: Option<u64>,
    /// Why it ended, a fixed name such as `completed` or `quota_exceeded`.
    pub ending: String,
    /// The close code the client saw, or the HTTP status.
    pub close_code: u16,
    /// Upstream's `x-trace-id`.
    pub trace_id: Option<String>,
}
