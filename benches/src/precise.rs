//! Sleeping with more than the runtime's millisecond: what is measured here is often shorter.

use std::time::{Duration, Instant};

/// What the runtime's timer may be late by: it counts whole milliseconds and rounds up.
const COARSE: Duration = Duration::from_micros(2200);

/// The steps in which the remainder is slept away.
const STEP: Duration = Duration::from_micros(50);

/// Sleeps until `deadline`, some 50 µs late at most while the machine is not overloaded.
///
/// The last two milliseconds are slept by a thread of the blocking pool, which the kernel wakes
/// on time; nothing spins, since that would take a core from what is measured.
pub async fn sleep_until(deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    if left > COARSE {
        tokio::time::sleep(left - COARSE).await;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if left > STEP {
        // A failed join means the runtime is going down, and with it whoever waits here.
        let _ = tokio::task::spawn_blocking(move || {
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()))
        })
        .await;
    }
}
