//! The `tracing` subscriber that turns events into lines, in a buffer of the thread's own.

use std::cell::RefCell;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, NoSubscriber};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;

use super::clock::Clock;
use super::line::{Style, Templates};
use super::sink::Sink;

/// Writes every event of the relay as one line; of its dependencies only what they say at `info`
/// and above, since below that HTTP and TLS libraries print the heads they read, tokens and all.
///
/// There are no spans: an event carries its own `session` and `client`.
pub(super) struct Lines {
    pub(super) sink: Arc<Sink>,
    pub(super) style: Style,
    pub(super) filter: Targets,
}

/// What a thread reuses from line to line.
struct Scratch {
    line: Vec<u8>,
    clock: Clock,
    templates: Templates,
}

impl Scratch {
    const fn new() -> Self {
        Self {
            line: Vec::new(),
            clock: Clock::new(),
            templates: Templates::new(),
        }
    }
}

/// A line longer than this gives its memory back.
const KEEP_BYTES: usize = 4096;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

impl Lines {
    fn takes(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && is_safe(metadata)
            && self
                .filter
                .would_enable(metadata.target(), metadata.level())
    }

    fn write(&self, event: &Event<'_>, scratch: &mut Scratch) {
        let Scratch {
            line,
            clock,
            templates,
        } = scratch;
        line.clear();
        self.style.write(line, clock.now(), event, templates);
        self.sink.push(line);
        line.shrink_to(KEEP_BYTES);
    }
}

/// Whether an event may be written, whatever the filter says.
fn is_safe(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let ours = target.strip_prefix("xi_relay").is_some_and(|rest| {
        // Not `xi_relay_something`, which would be another crate.
        rest.is_empty() || rest.starts_with("::")
    });
    ours || *metadata.level() <= Level::INFO
}

impl Subscriber for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.takes(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.takes(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<NoSubscriber>::max_level_hint(&self.filter)
    }

    fn event(&self, event: &Event<'_>) {
        SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => self.write(event, &mut scratch),
            // The `Debug` of a field logs, or panicked into our hook.
            Err(_) => self.write(event, &mut Scratch::new()),
        });
    }

    // None is ever enabled.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
