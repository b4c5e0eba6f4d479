//! How fast a client may send.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket that holds one second's worth. Empty messages, pings and fragments cost as much
/// as any other frame.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: u32,
    /// When the bucket would be full again (the generic cell rate algorithm's arrival time).
    full_at: Instant,
}

impl Bucket {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            per_second,
            full_at: now,
        }
    }

    /// Takes one token; says whether there was one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let cost = Duration::from_secs(1) / self.per_second.max(1);
        let full_at = self.full_at.max(now) + cost;
        if full_at > now + Duration::from_secs(1) {
            return false;
        }
        self.full_at = full_at;
        true
    }

    pub(super) fn set_rate(&mut self, per_second: u32) {
        self.per_second = per_second;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_a_second_worth_at_once_and_then_its_rate() {
        let mut bucket = Bucket::new(5, Instant::now());
        for _ in 0..5 {
            assert!(bucket.take(Instant::now()));
        }
        assert!(!bucket.take(Instant::now()));
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(bucket.take(Instant::now()));
        assert!(!bucket.take(Instant::now()));
        tokio::time::advance(Duration::from_secs(60)).await;
        for _ in 0..5 {
            assert!(bucket.take(Instant::now()));
        }
        assert!(!bucket.take(Instant::now()));
    }
}
