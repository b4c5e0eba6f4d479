//! The threads that serve clients, one for each processor. A connection belongs to one of them from
//! its accept to its last byte, with all that is done for it and the connection upstream: so nothing
//! of a session is handed from one thread to another, and none is woken for it but its own.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::gateway::Gateway;
use super::listener::{Listener, accept, serve_clients};
use super::load::{Load, Loads};
use super::tls::ServerTls;

/// How many connections may wait for a worker that is to have them. One that finds no room is
/// served where it was accepted.
const HANDED_OVER: usize = 1024;

/// The threads; they end when this is dropped, with all that they still do.
#[derive(Default)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    dismissed: CancellationToken,
    failed: CancellationToken,
}

/// One worker's part in accepting.
pub(super) struct Worker {
    pub(super) index: usize,
    listener: Option<Listener>,
    handed: mpsc::Receiver<Accepted<StdStream>>,
    others: Arc<[mpsc::Sender<Accepted<StdStream>>]>,
    loads: Arc<Loads>,
}

/// A connection that is counted with the worker that is to serve it.
pub(super) struct Accepted<S> {
    pub(super) stream: S,
    pub(super) remote: SocketAddr,
    pub(super) load: Load,
}

impl Workers {
    /// Starts `n_workers` that accept from `listeners`, one each as far as there are, until
    /// `stopped`; what is live then goes on.
    ///
    /// # Errors
    /// No more threads or file descriptors.
    pub fn start(
        n_workers: NonZeroUsize,
        listeners: Vec<StdListener>,
        tls: Option<&Arc<ServerTls>>,
        gateway: &Arc<Gateway>,
        stopped: &CancellationToken,
    ) -> io::Result<Self> {
        let n_workers = n_workers.get();
        let loads = Loads::new(n_workers);
        let (others, handed): (Vec<_>, Vec<_>) =
            (0..n_workers).map(|_| mpsc::channel(HANDED_OVER)).unzip();
        let others: Arc<[_]> = others.into();
        let mut listeners = listeners.into_iter();
        // What is started before one that cannot be started is ended by being dropped.
        let mut workers = Self::default();
        for (index, handed) in handed.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let listener = {
                let _entered = runtime.enter();
                let listener = listeners.next().map(TcpListener::from_std).transpose()?;
                listener.map(Listener::new).transpose()?
            };
            let worker = Worker {
                index,
                listener,
                handed,
                others: Arc::clone(&others),
                loads: Arc::clone(&loads),
            };
            let serving = serve_clients(
                worker,
                tls.cloned(),
                Arc::clone(gateway),
                stopped.child_token(),
            );
            workers.spawn(index, runtime, serving)?;
        }
        Ok(workers)
    }

    fn spawn(
        &mut self,
        index: usize,
        runtime: Runtime,
        serving: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let (dismissed, failed) = (self.dismissed.clone(), self.failed.clone());
        let work = move || {
            // A worker ends only when it is dismissed; whatever else ends it is a failure.
            let _failed = failed.drop_guard();
            let runtime = runtime;
            runtime.block_on(async {
                tokio::select! {
                    () = dismissed.cancelled() => {}
                    // What it has accepted goes on when it accepts no more.
                    () = serving.then(|()| std::future::pending()) => {}
                }
            });
        };
        let thread = thread::Builder::new().name(format!("worker-{index}"));
        self.threads.push(thread.spawn(work)?);
        Ok(())
    }

    /// Returns when a worker has ended by itself, which is a bug: its sessions are gone, and the
    /// process should not go on as if nothing were.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.dismissed.cancel();
        for thread in self.threads.drain(..) {
            // One that has panicked has said so in the log.
            let _ = thread.join();
        }
    }
}

impl Worker {
    /// The next connection that this worker is to serve: one of its own listener, or one that
    /// another has handed over. The others', it hands over.
    pub(super) async fn next(&mut self) -> Accepted<TcpStream> {
        loop {
            let Self {
                listener, handed, ..
            } = self;
            let accepted = async {
                match listener {
                    Some(listener) => accept(listener).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                (stream, remote) = accepted => {
                    if let Some(accepted) = self.assign(stream, remote) {
                        return accepted;
                    }
                }
                // Never none: a sender is among the others.
                Some(accepted) = handed.recv() => {
                    if let Some(accepted) = accepted.registered() {
                        return accepted;
                    }
                }
            }
        }
    }

    /// The connection, if it is for this worker.
    fn assign(&self, stream: TcpStream, remote: SocketAddr) -> Option<Accepted<TcpStream>> {
        let load = self.loads.assign(self.index);
        if load.worker() == self.index {
            return Some(Accepted {
                stream,
                remote,
                load,
            });
        }
        let other = &self.others[load.worker()];
        let handed = Accepted {
            // One that the kernel does not let go of is closed; there is nothing to say to it.
            stream: stream.into_std().ok()?,
            remote,
            load,
        };
        let refused = match other.try_send(handed) {
            Ok(()) => return None,
            Err(mpsc::error::TrySendError::Full(handed)) => handed,
            Err(mpsc::error::TrySendError::Closed(handed)) => handed,
        };
        let load = self.loads.count(self.index);
        Accepted { load, ..refused }.registered()
    }
}

impl Accepted<StdStream> {
    /// Registered with the runtime of this thread.
    fn registered(self) -> Option<Accepted<TcpStream>> {
        Some(Accepted {
            stream: TcpStream::from_std(self.stream).ok()?,
            remote: self.remote,
            load: self.load,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use super::*;

    fn runtime() -> Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    }

    #[tokio::test]
    async fn a_worker_that_panics_does_not_go_unnoticed() {
        let mut workers = Workers::default();
        workers
            .spawn(0, runtime(), async { std::future::pending().await })
            .unwrap();
        let short = Duration::from_millis(20);
        let unnoticed = tokio::time::timeout(short, workers.failed()).await;
        assert!(unnoticed.is_err(), "nothing has failed yet");
        let bug = async move { assert_eq!(short, Duration::ZERO, "the bug of this test") };
        workers.spawn(1, runtime(), bug).unwrap();
        let noticed = tokio::time::timeout(Duration::from_secs(10), workers.failed()).await;
        assert!(noticed.is_ok());
    }

    #[test]
    fn workers_end_with_what_they_do_when_they_are_dismissed() {
        let mut workers = Workers::default();
        let (left, ended) = std::sync::mpsc::channel::<()>();
        let serving = async move {
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(left);
            });
        };
        workers.spawn(0, runtime(), serving).unwrap();
        drop(workers);
        assert_eq!(
            ended.try_recv(),
            Err(std::sync::mpsc::TryRecvError::Disconnected)
        );
    }
}
