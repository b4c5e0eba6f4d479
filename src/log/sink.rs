//! Where lines go: a bounded buffer that a writer thread empties. A caller never waits for the
//! output; when the buffer is full its line is dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Bytes of lines that may wait. A second buffer of the same size is with the writer, so that a
/// stalled output holds twice this and no more. A power of two, as `Vec` grows by doubling.
const CAPACITY_BYTES: usize = 1 << 20;

/// The writer keeps buffers of this size while there is little to write.
const REST_BYTES: usize = 1 << 16;

/// How long the writer lets lines gather, so that one wake-up and one write serve many of them.
const GATHER: Duration = Duration::from_millis(25);

/// How long the writer waits for an output that is full and set to non-blocking.
const RETRY: Duration = Duration::from_millis(10);

/// The sending end of a bounded, lossy line writer.
pub(super) struct Sink {
    state: Mutex<State>,
    /// Wakes the writer.
    wake: Condvar,
    /// Wakes whoever waits for the last line to be written.
    finished: Condvar,
    dropped: AtomicU64,
}

/// What the callers and the writer share.
struct State {
    /// Whole lines, each with its newline.
    lines: Vec<u8>,
    /// The writer waits without a time limit and has to be woken.
    asleep: bool,
    /// No line is taken any more.
    closed: bool,
    /// The writer has written everything and ended.
    done: bool,
}

impl Sink {
    /// Starts the writer thread over `output`. `notice` writes the line that tells of dropped ones.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(
        output: impl Write + Send + 'static,
        notice: impl Fn(u64, &mut Vec<u8>) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let sink = Arc::new(Self {
            state: Mutex::new(State {
                lines: Vec::with_capacity(REST_BYTES),
                asleep: false,
                closed: false,
                done: false,
            }),
            wake: Condvar::new(),
            finished: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let writer = Writer {
            sink: Arc::clone(&sink),
            output,
            notice,
            reported: 0,
            torn: false,
        };
        thread::Builder::new()
            .name("log".into())
            .spawn(move || writer.run())?;
        Ok(sink)
    }

    /// Takes one line with its newline, or drops it: never waits for the output.
    pub(super) fn push(&self, line: &[u8]) {
        let wake = {
            let mut state = self.state.lock();
            let before = state.lines.len();
            let after = before + line.len();
            if state.closed || after > CAPACITY_BYTES {
                drop(state);
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            state.lines.extend_from_slice(line);
            // A buffer that is half full does not wait for more lines to gather.
            let half = CAPACITY_BYTES / 2;
            std::mem::take(&mut state.asleep) || (before < half && half <= after)
        };
        if wake {
            self.wake.notify_one();
        }
    }

    /// Lines that were dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes no more lines and waits until those that wait are written, at most for `limit`.
    pub(super) fn close(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        state.closed = true;
        self.wake.notify_one();
        while !state.done {
            if self.finished.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }
}

/// The thread that owns the output.
struct Writer<W, N> {
    sink: Arc<Sink>,
    output: W,
    notice: N,
    /// Dropped lines that a notice has told of.
    reported: u64,
    /// The output ends in the middle of a line that could not be written whole.
    torn: bool,
}

impl<W: Write, N: Fn(u64, &mut Vec<u8>)> Writer<W, N> {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(REST_BYTES);
        while self.next_batch(&mut batch) {
            let dropped = self.sink.dropped();
            let news = dropped - self.reported;
            if news > 0 {
                (self.notice)(news, &mut batch);
            }
            match self.write(&batch) {
                Ok(()) => self.reported += news,
                Err(unwritten) => {
                    // The notice itself is no lost line: it is written again with the next batch.
                    let lost = unwritten.saturating_sub(u64::from(news > 0));
                    self.sink.dropped.fetch_add(lost, Ordering::Relaxed);
                }
            }
            // While there is much to write the buffer stays large; afterwards it shrinks.
            let keep = REST_BYTES.max(2 * batch.len());
            batch.clear();
            batch.shrink_to(keep);
        }
        self.sink.state.lock().done = true;
        self.sink.finished.notify_all();
    }

    /// Waits for lines and swaps them into the empty `batch`; false once closed and empty.
    fn next_batch(&self, batch: &mut Vec<u8>) -> bool {
        let mut state = self.sink.state.lock();
        // While lines keep coming the writer looks again by itself, and no caller pays for a wake.
        if !state.closed {
            self.sink.wake.wait_for(&mut state, GATHER);
        }
        while state.lines.is_empty() {
            if state.closed {
                return false;
            }
            state.asleep = true;
            // What was much for a while is not kept until more comes.
            state.lines.shrink_to(REST_BYTES);
            batch.shrink_to(REST_BYTES);
            self.sink.wake.wait(&mut state);
            if !state.closed && !state.lines.is_empty() {
                self.sink.wake.wait_for(&mut state, GATHER);
            }
        }
        state.asleep = false;
        std::mem::swap(&mut state.lines, batch);
        true
    }

    /// Writes whole lines, or tells how many of them did not get out.
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), u64> {
        if self.torn {
            bytes = match self.output.write(b"\n") {
                Ok(1) => bytes,
                _ => return Err(lines_in(bytes)),
            };
            self.torn = false;
        }
        let mut at_line_start = true;
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(n @ 1..) => {
                    at_line_start = bytes[n - 1] == b'\n';
                    bytes = &bytes[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
                // A full disk or a closed pipe: these lines are lost, the next may have more luck.
                Ok(0) | Err(_) => {
                    self.torn = !at_line_start;
                    return Err(lines_in(bytes));
                }
            }
        }
        Ok(())
    }
}

fn lines_in(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test is the point")]

    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    fn notice(count: u64, line: &mut Vec<u8>) {
        line.extend_from_slice(format!("dropped {count}\n").as_bytes());
    }

    /// An output whose every write is answered by the test.
    struct Scripted {
        asked: Sender<Vec<u8>>,
        answers: Receiver<io::Result<usize>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // The test may have ended: nobody reads what is written then.
            let _ = self.asked.send(bytes.to_vec());
            self.answers.recv().unwrap_or(Ok(bytes.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scripted() -> (Arc<Sink>, Receiver<Vec<u8>>, Sender<io::Result<usize>>) {
        let (asked, asks) = channel();
        let (answer, answers) = channel();
        (
            Sink::start(Scripted { asked, answers }, notice).unwrap(),
            asks,
            answer,
        )
    }

    #[test]
    fn lines_come_out_in_order_and_close_waits_for_the_last() {
        let (sink, asks, answer) = scripted();
        drop(answer);
        let mut expected = Vec::new();
        for n in 0..1000 {
            let line = format!("line {n}\n");
            sink.push(line.as_bytes());
            expected.extend_from_slice(line.as_bytes());
        }
        sink.close(Duration::from_secs(10));
        assert_eq!(asks.try_iter().flatten().collect::<Vec<_>>(), expected);
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn a_stalled_output_costs_lines_but_neither_time_nor_memory() {
        let (sink, asks, answer) = scripted();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        sink.push(&line);
        asks.recv().unwrap(); // The writer is now stuck in its first write.
        for _ in 0..5000 {
            sink.push(&line);
        }
        let kept = (CAPACITY_BYTES / line.len()) as u64;
        assert_eq!(sink.dropped(), 5000 - kept);
        assert!(sink.state.lock().lines.capacity() <= CAPACITY_BYTES);

        drop(answer); // The output moves again.
        sink.close(Duration::from_secs(10));
        let rest: Vec<u8> = asks.iter().flatten().collect();
        assert!(rest.ends_with(format!("dropped {}\n", 5000 - kept).as_bytes()));
        assert_eq!(lines_in(&rest), kept + 1);
    }

    #[test]
    fn close_gives_up_at_its_deadline() {
        let (sink, asks, _answer) = scripted();
        sink.push(b"never written\n");
        asks.recv().unwrap();
        sink.close(Duration::from_millis(20));
        sink.push(b"too late\n");
        assert_eq!(sink.dropped(), 1);
    }

    #[test]
    fn an_output_that_fails_loses_its_lines_and_the_next_line_starts_afresh() {
        let (sink, asks, answer) = scripted();
        sink.push(b"one\ntwo\n");
        asks.recv().unwrap();
        answer.send(Ok(5)).unwrap();
        assert_eq!(asks.recv().unwrap(), b"wo\n");
        answer.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        while sink.dropped() == 0 {
            thread::yield_now();
        }
        assert_eq!(sink.dropped(), 1);

        sink.push(b"three\n");
        drop(answer);
        sink.close(Duration::from_secs(10));
        assert_eq!(
            asks.iter().flatten().collect::<Vec<_>>(),
            b"\nthree\ndropped 1\n"
        );
    }

    #[test]
    fn a_closed_pipe_drops_every_line_and_nothing_else() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::start(Gone, notice).unwrap();
        for _ in 0..100 {
            sink.push(b"lost\n");
        }
        sink.close(Duration::from_secs(10));
        assert_eq!(sink.dropped(), 100);
    }
}
