//! What passes through a session, counted and logged: one line a message, one at the end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Live;
use crate::frame::Close;
use crate::ids::{SessionId, Side};
use crate::log::{MESSAGE, MessageLine, Seen};
use crate::protocol::{
    ClientKind, ClientMessage, OutputFormat, Secrets, ServerKind, ServerMessage, look,
};

/// How many contexts are told apart at once; upstream allows five.
const MAX_CONTEXTS: usize = 16;
/// How much of a peer's own words stands in a log line.
const MAX_LOGGED_BYTES: usize = 256;

/// The counts and the log of one session.
pub(crate) struct Tap {
    line: MessageLine,
    started: Instant,
    format: Option<OutputFormat>,
    logs_text: bool,
    counts: Counts,
    contexts: Vec<Context>,
    kinds: KindCounts,
    /// Whether the counts have changed since they were last published.
    has_news: bool,
}

/// What a session has come to; the ledger's row and the metrics are made of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(super) messages_up: u64,
    pub(super) messages_down: u64,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    /// Characters that the client asked for.
    pub(super) asked: u64,
    pub(super) forwarded: u64,
    pub(super) refused: u64,
    pub(super) audio_bytes: u64,
    pub(super) audio_ms: u64,
    /// From the session's start to the first text that went up.
    pub(super) first_text: Option<Duration>,
    /// From the session's start to the first audio.
    pub(super) first_audio: Option<Duration>,
    /// Finals that came without audio though text had gone up: upstream's account may be spent.
    pub(super) silent_finals: u64,
}

/// Messages and bytes by kind, not yet handed to the metrics.
pub(super) type KindCounts = Vec<(Side, &'static str, u64, u64)>;

/// One stream of text and audio: the whole session, or one context of it.
struct Context {
    name: Option<Box<str>>,
    characters: u64,
    has_audio: bool,
}

impl Tap {
    pub(crate) fn new(
        session: SessionId,
        client: &str,
        started: Instant,
        format: Option<OutputFormat>,
        logs_text: bool,
    ) -> Self {
        Self {
            line: MessageLine::new(session, client),
            started,
            format,
            logs_text,
            counts: Counts::default(),
            contexts: Vec::new(),
            kinds: Vec::new(),
            has_news: false,
        }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn take_kinds(&mut self) -> KindCounts {
        std::mem::take(&mut self.kinds)
    }

    /// Shows the counts to `/sessions`, if there is anything new to show.
    pub(crate) fn publish(&mut self, live: &Live) {
        if !std::mem::take(&mut self.has_news) {
            return;
        }
        let counts = &self.counts;
        live.characters.store(counts.forwarded, Ordering::Relaxed);
        live.messages_up
            .store(counts.messages_up, Ordering::Relaxed);
        live.messages_down
            .store(counts.messages_down, Ordering::Relaxed);
        live.bytes_down.store(counts.bytes_down, Ordering::Relaxed);
    }

    pub(crate) fn on_client_message(
        &mut self,
        message: &ClientMessage<'_>,
        kind: ClientKind,
        bytes: usize,
        now: Instant,
    ) {
        let since_start = now - self.started;
        self.has_news = true;
        self.counts.messages_up += 1;
        self.counts.bytes_up += bytes as u64;
        self.counts.asked += message.characters;
        self.count_kind(Side::Client, kind.as_str(), bytes);
        if message.characters > 0 {
            self.context(message.context.as_deref()).characters += message.characters;
            self.counts.first_text.get_or_insert(since_start);
        }
        let seen = Seen {
            from: Side::Client.as_str(),
            kind: kind.as_str(),
            seq: self.counts.messages_up,
            bytes: bytes as u64,
            chars: Some(message.characters),
            since_start_ms: millis(since_start),
            ..Seen::default()
        };
        let context = message.context.as_deref().map(cut);
        let text = self.logs_text.then(|| message.text());
        self.line.log(seen, context, None, text.as_deref());
    }

    /// Characters that went up.
    pub(crate) fn forwarded(&mut self, characters: u64) {
        self.has_news = true;
        self.counts.forwarded += characters;
    }

    /// Characters that did not.
    pub(crate) fn refused(&mut self, characters: u64) {
        self.counts.refused += characters;
    }

    /// Counts and logs a message from upstream that went on in pieces, of which only the head is
    /// known. Its length stands for that of the audio in it. The client has it as it came, the log
    /// none of `secrets`.
    pub(super) fn on_large_message(
        &mut self,
        head: &[u8],
        bytes: u64,
        secrets: &Secrets,
        now: Instant,
    ) {
        let head = secrets.scrub(head);
        let mut message = look(&head);
        message.scrub_unescaped(secrets);
        if memchr::memmem::find(&head, b"\"audio\"").is_some() {
            message.audio_bytes = bytes / 4 * 3;
        }
        self.on_upstream_message(&message, bytes, now);
    }

    /// Counts a piece of an HTTP answer, of which `audio_bytes` are audio. Its line in the log is
    /// that of the whole answer.
    pub(crate) fn on_answer_piece(&mut self, bytes: u64, audio_bytes: u64, now: Instant) {
        self.has_news = true;
        self.counts.messages_down = 1;
        self.counts.bytes_down += bytes;
        if audio_bytes > 0 {
            self.counts.audio_bytes += audio_bytes;
            self.counts.first_audio.get_or_insert(now - self.started);
            self.counts.audio_ms = self
                .format
                .map_or(0, |format| format.audio_ms(self.counts.audio_bytes));
        }
    }

    /// Logs an HTTP answer, as far as it has come.
    pub(crate) fn on_answer_end(&mut self, status: u16, now: Instant) {
        let Counts {
            bytes_down,
            audio_bytes,
            audio_ms,
            ..
        } = self.counts;
        let kind = if (200..300).contains(&status) {
            ServerKind::Audio
        } else {
            ServerKind::Error
        };
        self.counts.messages_down = 1;
        self.count_kind(
            Side::Upstream,
            kind.as_str(),
            usize::try_from(bytes_down).unwrap_or(usize::MAX),
        );
        tracing::info!(
            target: MESSAGE,
            session = self.line.session(),
            client = self.line.client(),
            from = Side::Upstream.as_str(),
            kind = kind.as_str(),
            seq = self.counts.messages_down,
            bytes = bytes_down,
            audio_bytes = (audio_bytes > 0).then_some(audio_bytes),
            audio_ms = (audio_bytes > 0).then_some(audio_ms),
            status,
            since_start_ms = millis(now - self.started),
        );
    }

    /// Counts and logs one message from upstream, as the client gets it.
    pub(super) fn on_upstream_message(
        &mut self,
        message: &ServerMessage<'_>,
        bytes: u64,
        now: Instant,
    ) {
        let since_start = now - self.started;
        let kind = message.kind();
        self.has_news = true;
        self.counts.messages_down += 1;
        self.counts.bytes_down += bytes;
        self.count_kind(
            Side::Upstream,
            kind.as_str(),
            usize::try_from(bytes).unwrap_or(usize::MAX),
        );
        let mut audio_ms = None;
        if message.audio_bytes > 0 {
            self.counts.audio_bytes += message.audio_bytes;
            self.counts.first_audio.get_or_insert(since_start);
            audio_ms = self
                .format
                .map(|format| format.audio_ms(message.audio_bytes));
            self.counts.audio_ms = self
                .format
                .map_or(0, |format| format.audio_ms(self.counts.audio_bytes));
        }
        self.follow_context(message);
        let seen = Seen {
            from: Side::Upstream.as_str(),
            kind: kind.as_str(),
            seq: self.counts.messages_down,
            bytes,
            chars: None,
            audio_bytes: (message.audio_bytes > 0).then_some(message.audio_bytes),
            audio_ms,
            since_start_ms: millis(since_start),
        };
        let context = message.context.as_deref().map(cut);
        let error = message.error.as_ref().map(|error| cut(&error.error));
        self.line.log(seen, context, error, None);
    }

    pub(super) fn on_client_close(&mut self, close: &Close, now: Instant) {
        self.on_close(Side::Client, close, now);
    }

    pub(super) fn on_upstream_close(&mut self, close: &Close, now: Instant) {
        self.on_close(Side::Upstream, close, now);
    }

    fn on_close(&self, from: Side, close: &Close, now: Instant) {
        tracing::info!(
            target: MESSAGE,
            session = self.line.session(),
            client = self.line.client(),
            from = from.as_str(),
            kind = "close_frame",
            code = close.code,
            since_start_ms = millis(now - self.started),
        );
    }

    /// Follows which contexts have had audio, to notice an end that had none.
    fn follow_context(&mut self, message: &ServerMessage<'_>) {
        let name = message.context.as_deref();
        if message.audio_bytes > 0 {
            self.context(name).has_audio = true;
        }
        if message.is_final {
            self.end_context(name);
        }
    }

    #[cold]
    fn end_context(&mut self, name: Option<&str>) {
        let Some(index) = self
            .contexts
            .iter()
            .position(|context| context.name.as_deref() == name)
        else {
            return;
        };
        let context = self.contexts.swap_remove(index);
        if context.characters > 0 && !context.has_audio {
            self.counts.silent_finals += 1;
            tracing::warn!(
                session = self.line.session(),
                client = self.line.client(),
                context = name.map(cut),
                chars = context.characters,
                "upstream ended without audio; is its account out of credits?",
            );
        }
    }

    fn context(&mut self, name: Option<&str>) -> &mut Context {
        let found = self
            .contexts
            .iter()
            .position(|context| context.name.as_deref() == name);
        let index = found.unwrap_or_else(|| {
            if self.contexts.len() == MAX_CONTEXTS {
                self.contexts.remove(0);
            }
            let name = name.map(Box::from);
            // Most sessions have one.
            self.contexts.reserve_exact(1);
            self.contexts.push(Context {
                name,
                characters: 0,
                has_audio: false,
            });
            self.contexts.len() - 1
        });
        &mut self.contexts[index]
    }

    fn count_kind(&mut self, side: Side, kind: &'static str, bytes: usize) {
        let found = self
            .kinds
            .iter_mut()
            .find(|row| row.0 == side && std::ptr::eq(row.1, kind));
        match found {
            Some(row) => {
                row.2 += 1;
                row.3 += bytes as u64;
            }
            None => self.kinds.push((side, kind, 1, bytes as u64)),
        }
    }
}

/// A peer's own words, cut for the log.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_LOGGED_BYTES)]
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
