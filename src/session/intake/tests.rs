#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// A stream that gives one piece a read, and nothing for now in place of an empty one.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(piece) = self.0.front_mut() else {
            return Poll::Ready(Ok(()));
        };
        if piece.is_empty() {
            self.0.pop_front();
            return Poll::Pending;
        }
        let n = piece.len().min(room.remaining());
        room.put_slice(&piece[..n]);
        piece.drain(..n);
        if piece.is_empty() {
            self.0.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

/// How many bytes `frame` has with the byte in front that says so; 0 stands for 300, more than the
/// buffer of the test holds.
fn frame_len(frame: &[u8]) -> usize {
    match frame[0] {
        0 => 300,
        n => usize::from(n),
    }
}

/// Takes whole frames to the end of the stream, as a session does: for as long as there is
/// something, and from the start again when it is woken.
fn frames_of(pieces: &[Vec<u8>], buffer_len: usize) -> Vec<u8> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut stream = Pieces(pieces.iter().cloned().collect());
    let mut buffer = vec![0; buffer_len];
    let mut carry = Carry::default();
    let mut seen = Vec::new();
    loop {
        let mut intake = std::mem::take(&mut carry).resume(&mut buffer);
        let is_at_end = loop {
            if !intake.is_ready() {
                match intake.poll_read(&mut cx, &mut stream) {
                    Poll::Pending => break false,
                    Poll::Ready(Ok(0)) => break true,
                    Poll::Ready(read) => {
                        read.unwrap();
                        continue;
                    }
                }
            }
            let bytes = intake.bytes();
            let mut taken = 0;
            let needs = loop {
                let rest = &bytes[taken..];
                if rest.is_empty() {
                    break 1;
                }
                let len = frame_len(rest);
                if rest.len() < len {
                    break len;
                }
                seen.extend_from_slice(&rest[..len]);
                taken += len;
            };
            intake.consume(taken, needs);
        };
        carry = intake.into_carry();
        if is_at_end {
            return seen;
        }
        // Between two turns the buffer serves other sessions.
        buffer.fill(0xee);
    }
}

#[test]
fn who_has_said_that_there_is_no_more_is_not_asked_again_before_the_task_wakes() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut stream = Pieces([b"ab".to_vec(), Vec::new(), b"c".to_vec()].into());
    let mut buffer = [0; 8];
    let mut intake = Carry::default().resume(&mut buffer);
    assert!(matches!(
        intake.poll_read(&mut cx, &mut stream),
        Poll::Ready(Ok(2))
    ));
    intake.consume(2, 1);
    assert!(intake.poll_read(&mut cx, &mut stream).is_pending());
    assert_eq!(stream.0.len(), 1, "it would have given more");

    let mut intake = intake.into_carry().resume(&mut buffer);
    assert!(matches!(
        intake.poll_read(&mut cx, &mut stream),
        Poll::Ready(Ok(1))
    ));
}

proptest! {
    #[test]
    fn frames_come_whole_however_they_are_cut(
        lens in prop::collection::vec(0_u8..=255, 0..24),
        cuts in prop::collection::vec((0_usize..4000, any::<bool>()), 0..12),
        buffer_len in 256_usize..290,
    ) {
        let mut bytes = Vec::new();
        for (i, len) in lens.iter().enumerate() {
            let start = bytes.len();
            bytes.push(*len);
            let end = start + frame_len(&bytes[start..]);
            bytes.resize(end, i as u8);
        }
        let mut borders: Vec<_> = cuts.iter().map(|(at, waits)| (at % (bytes.len() + 1), *waits)).collect();
        borders.sort_unstable();
        let (mut pieces, mut start) = (Vec::new(), 0);
        for (at, waits) in borders {
            if at > start {
                pieces.push(bytes[start..at].to_vec());
                start = at;
            }
            if waits {
                pieces.push(Vec::new());
            }
        }
        if start < bytes.len() {
            pieces.push(bytes[start..].to_vec());
        }
        prop_assert_eq!(frames_of(&pieces, buffer_len), bytes);
    }
}

#[test]
fn an_idle_session_keeps_no_memory() {
    let mut buffer = [0; 64];
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut stream = Pieces([vec![1, 2, 3], Vec::new(), Vec::new()].into());
    let mut intake = Carry::default().resume(&mut buffer);
    assert!(intake.poll_read(&mut cx, &mut stream).is_ready());
    intake.consume(3, 2);
    assert!(intake.poll_read(&mut cx, &mut stream).is_pending());
    assert_eq!(intake.into_carry().bytes.capacity(), 0);
}

#[test]
fn a_turn_without_news_copies_nothing() {
    let mut buffer = [0; 64];
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut stream = Pieces([Vec::new()].into());
    let mut carry = Carry::new(vec![7; 20]);
    carry.needs = 30;
    let before = carry.bytes.as_ptr();
    let mut intake = carry.resume(&mut buffer);
    assert!(intake.poll_read(&mut cx, &mut stream).is_pending());
    assert_eq!(intake.into_carry().bytes.as_ptr(), before);
}
