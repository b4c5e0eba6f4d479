//! How fast a session may send: an even pace with a burst of one second's worth.

use std::time::{Duration, Instant};

/// A generic cell rate algorithm: one timestamp, no timer.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the messages so far would have ended at an even pace.
    even: Option<Instant>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { even: None }
    }

    /// Counts one message; false when it comes too fast. What is refused is not counted.
    pub(super) fn allows(&mut self, per_second: u32, now: Instant) -> bool {
        let each = Duration::from_secs(1) / per_second.max(1);
        let even = self.even.map_or(now, |even| even.max(now)) + each;
        if even > now + Duration::from_secs(1) {
            return false;
        }
        self.even = Some(even);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_an_even_pace() {
        let (mut pace, start) = (Pace::new(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!((0..10).all(|_| pace.allows(10, start)));
        assert!(!pace.allows(10, at(99)));
        assert!(pace.allows(10, at(100)));
        assert!(!pace.allows(10, at(101)));
        assert_eq!((0..100).filter(|_| pace.allows(10, at(5000))).count(), 10);
    }
}
