//! One end of a TCP connection that remembers every byte it was sent. Each wait has a deadline, so
//! that a test that waits in vain says what for.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::frame::Frame;

/// The longest any single wait of a test may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What came next.
#[derive(Debug)]
pub enum Event {
    Frame(Frame),
    /// The peer closed its direction (FIN).
    Eof,
    /// The peer reset the connection.
    Reset,
}

pub struct Wire {
    stream: TcpStream,
    /// Everything ever received, oldest first.
    received: Arc<Mutex<Vec<u8>>>,
    /// How much of `received` has been taken.
    taken: usize,
    ended: Option<ErrorKind>,
}

impl Wire {
    pub fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).expect("the peer accepts connections"))
    }

    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            received: Arc::default(),
            taken: 0,
            ended: None,
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Everything received so far, head included.
    pub fn received(&self) -> Vec<u8> {
        self.received.lock().unwrap().clone()
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes)
            .expect("the peer takes what is written");
    }

    /// For writes to a peer that may already be gone.
    pub fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Writes byte by byte, each in a packet of its own.
    pub fn dribble(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write(&[*byte]);
            std::thread::yield_now();
        }
    }

    pub fn half_close(&mut self) {
        // The peer may have hung up before.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a RST instead of a FIN.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// Waits for more bytes; false at the end of the stream or when `until` has passed.
    fn fill(&mut self, until: Instant) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        self.stream.set_read_timeout(Some(left)).unwrap();
        let mut chunk = vec![0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.ended = Some(ErrorKind::UnexpectedEof),
            Ok(n) => self.received.lock().unwrap().extend(&chunk[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => self.ended = Some(e.kind()),
        }
        self.ended.is_none()
    }

    /// Takes the bytes up to and including the first `end`; `None` if the stream ended before.
    pub fn take_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = {
                let received = self.received.lock().unwrap();
                let rest = &received[self.taken..];
                rest.windows(end.len())
                    .position(|w| w == end)
                    .map(|at| rest[..at + end.len()].to_vec())
            };
            if let Some(found) = found {
                self.taken += found.len();
                return Some(found);
            }
            if !self.fill(deadline) {
                assert!(
                    self.ended.is_some(),
                    "{end:?} did not come within {PATIENCE:?}"
                );
                return None;
            }
        }
    }

    /// Takes exactly `n` bytes, or what there is before the end of the stream.
    pub fn take(&mut self, n: usize) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        while self.available() < n && self.fill(deadline) {}
        let n = n.min(self.available());
        let bytes = self.received.lock().unwrap()[self.taken..self.taken + n].to_vec();
        self.taken += n;
        bytes
    }

    /// Takes all bytes to the end of the stream.
    pub fn take_rest(&mut self) -> Vec<u8> {
        self.wait_for_end(PATIENCE);
        self.take(self.available())
    }

    /// The next frame or how the stream ended; `None` if nothing whole came within `patience`.
    pub fn event_within(&mut self, patience: Duration) -> Option<Event> {
        let deadline = Instant::now() + patience;
        loop {
            let decoded = Frame::decode(&self.received.lock().unwrap()[self.taken..]);
            if let Some((frame, n)) = decoded {
                self.taken += n;
                return Some(Event::Frame(frame));
            }
            if !self.fill(deadline) {
                return self.ended.map(|kind| match kind {
                    ErrorKind::UnexpectedEof => Event::Eof,
                    _ => Event::Reset,
                });
            }
        }
    }

    /// Whether anything is there to be taken within `patience`, the end of the stream included.
    pub fn hears_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.available() == 0 && self.fill(deadline) {}
        self.available() > 0 || self.ended.is_some()
    }

    /// Reads on until the peer is gone; panics if it still is there after `patience`.
    #[track_caller]
    pub fn wait_for_end(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.fill(deadline) {}
        assert!(
            self.ended.is_some(),
            "the peer is still connected after {patience:?}"
        );
    }

    fn available(&self) -> usize {
        self.received.lock().unwrap().len() - self.taken
    }
}
