//! A timer that is always a little ahead while clients come.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// Shorter than the deadlines that a session sets while it is set up, none of which comes to pass
/// as a rule.
const PERIOD: Duration = Duration::from_millis(100);

/// tokio wakes the thread that waits for I/O whenever a timer is set that comes before all others,
/// which costs more than the timer itself. Every session sets several. As long as clients come, a
/// timer that comes before them keeps that thread asleep; when none do, nothing ticks.
#[derive(Default)]
pub(super) struct Pulse {
    beats: AtomicU64,
    is_idle: AtomicBool,
    wake: Notify,
}

impl Pulse {
    /// A client has come.
    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
        if self.is_idle.load(Ordering::Relaxed) && self.is_idle.swap(false, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Ticks while clients come; never returns.
    pub(super) async fn keep(&self) {
        loop {
            self.is_idle.store(true, Ordering::Relaxed);
            self.wake.notified().await;
            let mut seen = None;
            while seen != Some(self.beats.load(Ordering::Relaxed)) {
                seen = Some(self.beats.load(Ordering::Relaxed));
                tokio::time::sleep(PERIOD).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ticks_only_while_clients_come() {
        let pulse = Arc::new(Pulse::default());
        let kept = Arc::clone(&pulse);
        let task = tokio::spawn(async move { kept.keep().await });
        let is_idle = || pulse.is_idle.load(Ordering::Relaxed);
        tokio::task::yield_now().await;
        for _ in 0..3 {
            assert!(is_idle());
            pulse.beat();
            tokio::time::sleep(PERIOD / 2).await;
            pulse.beat();
            tokio::time::sleep(PERIOD).await;
            assert!(!is_idle(), "a client came since the last tick");
            tokio::time::sleep(PERIOD).await;
        }
        assert!(is_idle());
        task.abort();
    }
}
