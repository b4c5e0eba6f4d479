//! The threads that serve clients, one for each processor. A connection belongs to one of them from
//! its accept to its last byte, with all that is done for it and the connection upstream: so nothing
//! of a session is handed from one thread to another, and none is woken for it but its own. Only its
//! deadlines are kept elsewhere (`timer`).

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::gateway::Gateway;
use super::listener::{Listener, accept, serve_clients};
use super::load::{Gauge, Load, Loads};
use super::tls::ServerTls;
use crate::timer;

/// How many connections may wait for a worker that is to have them. One that finds no room is
/// served by the first.
const HANDED_OVER: usize = 1024;

/// The threads; they end when this is dropped, with all that they still do.
#[derive(Default)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    dismissed: CancellationToken,
    failed: CancellationToken,
}

/// Where one worker's connections come from.
pub(super) struct Worker {
    pub(super) index: usize,
    /// Only the first one has it.
    door: Option<Door>,
    handed: mpsc::Receiver<Accepted<StdStream>>,
}

/// Where connections are accepted, for all workers.
struct Door {
    listener: Listener,
    loads: Arc<Loads>,
    /// In the order of the workers, as those below.
    gauges: Vec<Gauge>,
    workers: Vec<mpsc::Sender<Accepted<StdStream>>>,
}

/// A connection that is counted with the worker that is to serve it.
pub(super) struct Accepted<S> {
    pub(super) stream: S,
    pub(super) remote: SocketAddr,
    pub(super) load: Load,
}

impl Workers {
    /// Starts `n_workers` that serve what `listener` accepts until `stopped`; what is live then goes
    /// on. The runtime that this is called in keeps their distant timers, and has to outlive them.
    ///
    /// # Errors
    /// No more threads or file descriptors.
    pub fn start(
        n_workers: NonZeroUsize,
        listener: StdListener,
        tls: Option<&Arc<ServerTls>>,
        gateway: &Arc<Gateway>,
        stopped: &CancellationToken,
    ) -> io::Result<Self> {
        let runtimes = (0..n_workers.get()).map(|_| runtime());
        let runtimes = runtimes.collect::<io::Result<Vec<_>>>()?;
        let (workers, handed): (Vec<_>, Vec<_>) =
            runtimes.iter().map(|_| mpsc::channel(HANDED_OVER)).unzip();
        let listener = {
            let _entered = runtimes[0].enter();
            Listener::new(TcpListener::from_std(listener)?)?
        };
        let mut door = Some(Door {
            listener,
            loads: Loads::new(n_workers.get()),
            gauges: runtimes
                .iter()
                .map(|runtime| Gauge::new(runtime.metrics()))
                .collect(),
            workers,
        });
        // What is started before one that cannot be started is ended by being dropped.
        let mut started = Self::default();
        for (index, (runtime, handed)) in runtimes.into_iter().zip(handed).enumerate() {
            let worker = Worker {
                index,
                door: door.take(),
                handed,
            };
            let serving = serve_clients(
                worker,
                tls.cloned(),
                Arc::clone(gateway),
                stopped.child_token(),
            );
            started.spawn(index, runtime, serving)?;
        }
        Ok(started)
    }

    fn spawn(
        &mut self,
        index: usize,
        runtime: Runtime,
        serving: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let (dismissed, failed) = (self.dismissed.clone(), self.failed.clone());
        let keeper = Handle::try_current();
        let work = move || {
            if let Ok(keeper) = keeper {
                timer::keep_with(keeper);
            }
            // A worker ends only when it is dismissed; whatever else ends it is a failure.
            let _failed = failed.drop_guard();
            let runtime = runtime;
            let working = async {
                tokio::select! {
                    () = dismissed.cancelled() => {}
                    // What it has accepted goes on when it accepts no more.
                    () = serving.then(|()| std::future::pending()) => {}
                }
            };
            // Boxed, so that it does not lie between the loop of the runtime and what that calls.
            runtime.block_on(Box::pin(working));
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

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

impl Worker {
    /// The next connection that this worker is to serve.
    pub(super) async fn next(&mut self) -> Accepted<TcpStream> {
        let Self { door, handed, .. } = self;
        loop {
            let accepted = async {
                match door {
                    Some(door) => door.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                accepted = accepted => return accepted,
                Some(accepted) = handed.recv() => {
                    if let Some(accepted) = accepted.registered() {
                        return accepted;
                    }
                }
            }
        }
    }
}

impl Door {
    /// The next connection that the first worker is to serve. Those of the others it hands over.
    async fn next(&mut self) -> Accepted<TcpStream> {
        loop {
            let (stream, remote) = accept(&self.listener).await;
            if let Some(accepted) = self.assign(stream, remote) {
                return accepted;
            }
        }
    }

    /// The connection, if it is for the first worker.
    fn assign(&mut self, stream: TcpStream, remote: SocketAddr) -> Option<Accepted<TcpStream>> {
        let now = Instant::now();
        let gauges = &mut self.gauges;
        let load = self.loads.assign(|worker| gauges[worker].is_busy(now));
        if load.worker() == 0 {
            return Some(Accepted {
                stream,
                remote,
                load,
            });
        }
        let worker = &self.workers[load.worker()];
        let handed = Accepted {
            // One that the kernel does not let go of is closed; there is nothing to say to it.
            stream: stream.into_std().ok()?,
            remote,
            load,
        };
        let refused = match worker.try_send(handed) {
            Ok(()) => return None,
            Err(mpsc::error::TrySendError::Full(handed)) => handed,
            Err(mpsc::error::TrySendError::Closed(handed)) => handed,
        };
        let load = self.loads.count(0);
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

    use super::super::load::MANY;
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

    #[tokio::test]
    async fn distant_timers_of_a_worker_are_kept_where_it_was_started() {
        let mut workers = Workers::default();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let without_timers = builder.build().unwrap();
        let (rang, ring) = tokio::sync::oneshot::channel();
        let waiting = async move {
            timer::distant(tokio::time::Instant::now() + Duration::from_millis(20)).await;
            rang.send(()).unwrap();
        };
        workers.spawn(0, without_timers, waiting).unwrap();
        assert_eq!(ring.await, Ok(()));
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

    #[tokio::test]
    async fn what_the_first_worker_has_no_room_for_is_handed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gauge = || Gauge::new(tokio::runtime::Handle::current().metrics());
        let (first, _first_handed) = mpsc::channel(1);
        let (second, mut handed) = mpsc::channel(1);
        let loads = Loads::new(2);
        let mut door = Door {
            listener: Listener::new(listener).unwrap(),
            loads: Arc::clone(&loads),
            gauges: vec![gauge(), gauge()],
            workers: vec![first, second],
        };
        let kept: Vec<Load> = (0..MANY - 1).map(|_| loads.count(0)).collect();
        let mut connect = async || {
            let client = TcpStream::connect(address).await.unwrap();
            let (stream, remote) = accept(&door.listener).await;
            assert_eq!(remote, client.local_addr().unwrap());
            (client, door.assign(stream, remote))
        };
        let (_last, served) = connect().await;
        assert_eq!(served.unwrap().load.worker(), 0, "there was room for one");
        let kept: Vec<Load> = kept.into_iter().chain([loads.count(0)]).collect();
        let (one, served) = connect().await;
        assert!(served.is_none());
        let (_two, served) = connect().await;
        let served = served.expect("no more can wait for the second");
        assert_eq!(served.load.worker(), 0);
        let moved = handed.recv().await.unwrap().registered().unwrap();
        assert_eq!(moved.load.worker(), 1);
        assert_eq!(moved.stream.peer_addr().unwrap(), one.local_addr().unwrap());
        drop(kept);
    }
}
