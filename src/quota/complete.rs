//! Futures that are carried to their end even when nobody waits for it any more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Runs a future in place, without the cost of a task; dropped before its end, it goes on as a task
/// of its own, whose result is dropped.
pub(super) struct Complete<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    runtime: Handle,
}

impl<T: Send + 'static> Complete<T> {
    pub(super) fn new(future: impl Future<Output = T> + Send + 'static, runtime: &Handle) -> Self {
        Self {
            future: Some(Box::pin(future)),
            runtime: runtime.clone(),
        }
    }
}

impl<T: Send + 'static> Future for Complete<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken out meanwhile: one that panics is not run again.
        let mut future = self.future.take().expect("polled after its end");
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            self.future = Some(future);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Complete<T> {
    fn drop(&mut self) {
        // One that has never been polled has done nothing that must be brought to an end, but its
        // caller may have counted on it.
        if let Some(future) = self.future.take() {
            self.runtime.spawn(future);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn goes_on_when_it_is_dropped() {
        let (start, started) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let work = async move {
            started.await.unwrap();
            end.send(7).unwrap();
        };
        let mut complete = Box::pin(Complete::new(work, &Handle::current()));
        assert!(futures_util::poll!(complete.as_mut()).is_pending());
        drop(complete);
        start.send(()).unwrap();
        assert_eq!(ended.await, Ok(7));
    }

    #[tokio::test]
    async fn gives_its_result_to_who_waits() {
        assert_eq!(Complete::new(async { 7 }, &Handle::current()).await, 7);
    }
}
