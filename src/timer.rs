//! Deadlines that hardly ever come, kept where they are in nobody's way.
//!
//! A thread that waits for I/O no longer than until some time pays for it at each wait: the system sets
//! a timer and removes it again, which was one part in twenty of what a round trip costs. The deadlines
//! of a session are many seconds away. So the threads that serve clients leave them to another one,
//! which wakes them when one has come.

use std::cell::OnceCell;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

thread_local! {
    static KEEPER: OnceCell<Handle> = const { OnceCell::new() };
}

/// Has `keeper` keep the distant timers of this thread from now on. It has to outlive them. The first
/// call decides.
pub fn keep_with(keeper: Handle) {
    KEEPER.with(|kept| {
        // Who came first may have timers there.
        let _ = kept.set(keeper);
    });
}

/// Like [`tokio::time::sleep_until`], for what is seconds away. Setting one that comes before all others
/// of the keeper wakes it; the relay's main thread looks at something every two seconds.
///
/// # Panics
/// Outside of a runtime, on a thread whose timers nobody keeps.
pub fn distant(deadline: Instant) -> Sleep {
    KEEPER.with(|keeper| {
        let _entered = keeper.get().map(Handle::enter);
        tokio::time::sleep_until(deadline)
    })
}

/// What comes of `future`, unless `limit` is over before: [`tokio::time::timeout`] for a limit of many
/// seconds.
///
/// # Panics
/// As [`distant`].
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let limit = distant(Instant::now() + limit);
    tokio::select! {
        biased;
        done = future => Some(done),
        () = limit => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_thread_without_timers_is_woken_by_the_keeper() {
        let keeper = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let handle = keeper.handle().clone();
        let thread = std::thread::spawn(move || {
            keep_with(handle);
            let runtime = Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let started = Instant::now();
                let mut timer = std::pin::pin!(distant(started + Duration::from_secs(3600)));
                // It can be moved from here, too.
                timer.as_mut().reset(started + Duration::from_millis(20));
                timer.await;
                started.elapsed()
            })
        });
        assert!(thread.join().unwrap() >= Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_keeper_it_is_a_timer_like_any_other() {
        let started = Instant::now();
        let limit = Duration::from_secs(20);
        distant(started + limit).await;
        assert_eq!(started.elapsed(), limit);
        assert_eq!(within(limit, std::future::pending::<()>()).await, None);
        assert_eq!(started.elapsed(), 2 * limit);
        assert_eq!(within(Duration::ZERO, async { 7 }).await, Some(7));
    }
}
