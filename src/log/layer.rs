//! The `tracing` layer that turns events into lines, in a buffer of the thread's own.

use std::cell::RefCell;
use std::sync::Arc;

use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::clock::Clock;
use super::line::Style;
use super::sink::Sink;

/// Writes every event of the relay as one line; of its dependencies only what they say at `info`
/// and above, since below that HTTP and TLS libraries print the heads they read, tokens and all.
///
/// Spans are not looked up: an event carries its own `session` and `client`.
pub(super) struct Lines {
    pub(super) sink: Arc<Sink>,
    pub(super) style: Style,
}

/// What a thread reuses from line to line.
struct Scratch {
    line: Vec<u8>,
    clock: Clock,
}

impl Scratch {
    const fn new() -> Self {
        Self {
            line: Vec::new(),
            clock: Clock::new(),
        }
    }
}

/// A line longer than this gives its memory back.
const KEEP_BYTES: usize = 4096;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

impl Lines {
    fn write(&self, event: &Event<'_>, scratch: &mut Scratch) {
        let Scratch { line, clock } = scratch;
        line.clear();
        self.style
            .write(line, clock.now(), event.metadata(), |fields| {
                event.record(fields)
            });
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

impl<S: Subscriber> Layer<S> for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_safe(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        is_safe(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => self.write(event, &mut scratch),
            // The `Debug` of a field logs, or panicked into our hook.
            Err(_) => self.write(event, &mut Scratch::new()),
        });
    }
}
