//! One connection of a client, as its requests know it.

use std::time::Duration;

use tokio::sync::Notify;

use super::load::Load;

/// What the requests on a connection share.
pub(super) struct Connection {
    load: Load,
    cut: Notify,
}

impl Connection {
    pub(super) fn new(load: Load) -> Self {
        Self {
            load,
            cut: Notify::new(),
        }
    }

    /// The worker that serves it.
    pub(super) fn worker(&self) -> usize {
        self.load.worker()
    }

    /// Closes it, whatever is still to be written on it.
    pub(super) fn cut(&self) {
        self.cut.notify_one();
    }

    /// Returns once it is to be closed.
    pub(super) async fn is_cut(&self) {
        self.cut.notified().await;
    }

    /// Closes it unless its client has `taken` what it is sent within `patience`. Any client makes
    /// some progress, if it likes to: what is held for it has to end all the same.
    pub(super) async fn cut_unless(&self, taken: impl Future<Output = ()>, patience: Duration) {
        if tokio::time::timeout(patience, taken).await.is_err() {
            self.cut();
        }
    }
}
