//! One connection of a client, as its requests know it.

use std::time::Duration;

use tokio::sync::Notify;

use super::load::Load;
use crate::ids::SessionId;

/// How long a client may take over the rest of an answer that upstream has finished. At four
/// kilobytes a second, the pace of the leanest speech, all that buffers on the way may hold takes
/// some minutes.
pub(super) const TAKING_TIMEOUT: Duration = Duration::from_secs(300);

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

    /// Returns once it is to be closed.
    pub(super) async fn is_cut(&self) {
        self.cut.notified().await;
    }

    /// Closes it, whatever is still to be written on it, unless the client has `taken` what it is sent
    /// within `patience`. Any client makes some progress, if it likes to: what is held for it has to
    /// end all the same.
    pub(super) async fn cut_unless(
        &self,
        taken: impl Future<Output = ()>,
        patience: Duration,
        session: SessionId,
    ) {
        if tokio::time::timeout(patience, taken).await.is_err() {
            tracing::info!(%session, "the client has not taken its answer and is cut off");
            self.cut.notify_one();
        }
    }
}
