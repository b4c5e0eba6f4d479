//! How fast a client may send.

use std::time::Duration;

use tokio::time::Instant;

/// The most that a full bucket holds, in seconds of its rate.
const LONGEST_BURST: u32 = 5;

/// The rate at which a bucket holds one second's worth; one of twice the rate holds two, and so on.
const STRICT_RATE: u32 = 10;

/// A token bucket. Empty messages, pings and fragments cost as much as any other frame.
///
/// Client libraries send a sentence word by word as fast as they can, and messages pile up while the
/// relay waits for upstream; neither is a flood, so a usual rate of messages has a burst of several
/// seconds. A rate that was set low is meant strictly, and so is that of frames.
#[derive(Debug)]
pub(super) struct Bucket {
    /// How long a token takes to come.
    cost: Duration,
    /// How long the whole bucket takes.
    depth: Duration,
    has_burst: bool,
    /// When the bucket would be full again (the generic cell rate algorithm's arrival time).
    full_at: Instant,
}

impl Bucket {
    /// For messages.
    pub(super) fn of_messages(per_second: u32, now: Instant) -> Self {
        Self::new(per_second, true, now)
    }

    /// For frames of any kind; holds one second's worth.
    pub(super) fn of_frames(per_second: u32, now: Instant) -> Self {
        Self::new(per_second, false, now)
    }

    fn new(per_second: u32, has_burst: bool, now: Instant) -> Self {
        let mut bucket = Self {
            cost: Duration::ZERO,
            depth: Duration::ZERO,
            has_burst,
            full_at: now,
        };
        bucket.set_rate(per_second);
        bucket
    }

    /// Takes one token; says whether there was one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + self.cost;
        if full_at > now + self.depth {
            return false;
        }
        self.full_at = full_at;
        true
    }

    pub(super) fn set_rate(&mut self, per_second: u32) {
        self.cost = Duration::from_secs(1) / per_second.max(1);
        let seconds = match self.has_burst {
            true => (per_second / STRICT_RATE).clamp(1, LONGEST_BURST),
            false => 1,
        };
        self.depth = Duration::from_secs(seconds.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let mut bucket = Bucket::of_messages(5, Instant::now());
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

    #[tokio::test(start_paused = true)]
    async fn a_usual_rate_lets_a_paragraph_through_at_once() {
        let mut bucket = Bucket::of_messages(50, Instant::now());
        for _ in 0..250 {
            assert!(bucket.take(Instant::now()));
        }
        assert!(!bucket.take(Instant::now()));
    }
}
