//! The scripted ElevenLabs: a listener whose connections are handed to the test, head already
//! read. What it answers, and whether, is up to the test.

use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::peer::Peer;
use super::wire::PATIENCE;

pub struct Upstream {
    pub address: SocketAddr,
    /// Connections that have sent a request head. One that was only opened does not count: the
    /// relay may keep some ready.
    requests: Mutex<Receiver<Peer>>,
}

impl Upstream {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                thread::spawn(move || {
                    if let Some(peer) = Peer::serve(stream) {
                        // The test may have ended meanwhile.
                        let _ = sender.send(peer);
                    }
                });
            }
        });
        Self {
            address,
            requests: Mutex::new(requests),
        }
    }

    /// An upstream that does the same for every connection, in a thread each.
    pub fn scripted(script: impl Fn(Peer) + Clone + Send + 'static) -> SocketAddr {
        let upstream = Self::start();
        let address = upstream.address;
        thread::spawn(move || {
            let requests = upstream.requests.into_inner().unwrap();
            for peer in requests {
                let script = script.clone();
                thread::spawn(move || script(peer));
            }
        });
        address
    }

    /// The next connection with a request on it.
    #[track_caller]
    pub fn next(&self) -> Peer {
        let next = self.requests.lock().unwrap().recv_timeout(PATIENCE);
        next.expect("the relay asks upstream")
    }

    /// The relay asks for nothing for this long.
    #[track_caller]
    pub fn expect_none(&self, duration: Duration) {
        match self.requests.lock().unwrap().recv_timeout(duration) {
            Ok(peer) => panic!("upstream was asked: {:?}", peer.head),
            Err(e) => assert_eq!(e, RecvTimeoutError::Timeout),
        }
    }
}
