//! The signals a relay listens to.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals from the operator.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// What the operator wants.
pub(super) enum Wish {
    /// SIGTERM or SIGINT: stop, live sessions first finish.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

impl Signals {
    /// Catches them from here on.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hang_up.recv() => Wish::Reload,
        }
    }

    /// Returns when the operator asks a second time to stop.
    pub(super) async fn stop(&mut self) {
        while !matches!(self.next().await, Wish::Stop) {}
    }
}
