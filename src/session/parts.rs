//! Which parts of a session were woken, so that a turn asks only those.
//!
//! A session is one task, and a task is told that it was woken, not why. To ask everything each
//! time would cost as much as what there is to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

/// The parts of a session that wait for something of their own.
pub(super) struct Parts {
    /// From upstream to the client.
    pub(super) down: Part,
    /// From the client to upstream.
    pub(super) up: Part,
    /// Timer and orders.
    pub(super) rest: Part,
}

/// One of them: what it waits for is given its waker instead of the task's.
pub(super) struct Part {
    bell: Arc<Bell>,
    waker: Waker,
}

struct Bell {
    task: Waker,
    has_rung: AtomicBool,
}

impl Parts {
    /// Parts that have all been woken, of the task that `cx` is of.
    pub(super) fn new(cx: &Context<'_>) -> Self {
        Self {
            down: Part::new(cx.waker()),
            up: Part::new(cx.waker()),
            rest: Part::new(cx.waker()),
        }
    }

    /// Whether they wake the task that `cx` is of.
    pub(super) fn are_of(&self, cx: &Context<'_>) -> bool {
        self.rest.bell.task.will_wake(cx.waker())
    }
}

impl Part {
    fn new(task: &Waker) -> Self {
        let bell = Arc::new(Bell {
            task: task.clone(),
            has_rung: AtomicBool::new(true),
        });
        Self {
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        }
    }

    /// Whether it was woken since it was last asked this.
    pub(super) fn take_woken(&self) -> bool {
        self.bell.has_rung.swap(false, Ordering::Acquire)
    }

    /// What it is polled with.
    pub(super) fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task: its turn may begin at once, on another thread.
        self.has_rung.swap(true, Ordering::AcqRel);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker;

    use super::*;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Task(std::sync::atomic::AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_part_that_is_woken_wakes_the_task_and_is_told_apart() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let parts = Parts::new(&Context::from_waker(&waker));
        let take = || [&parts.down, &parts.up, &parts.rest].map(Part::take_woken);
        // Nothing has been asked yet, so each has to be.
        assert_eq!(take(), [true; 3]);
        assert_eq!(take(), [false; 3]);
        parts.up.context().waker().wake_by_ref();
        parts.rest.context().waker().wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 2);
        assert_eq!(take(), [false, true, true]);
        assert_eq!(take(), [false; 3]);
    }

    #[test]
    fn parts_know_their_task() {
        let waker = Waker::from(Arc::new(Task::default()));
        let parts = Parts::new(&Context::from_waker(&waker));
        assert!(parts.are_of(&Context::from_waker(&waker)));
        assert!(!parts.are_of(&Context::from_waker(&noop_waker())));
    }
}
