#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;

use super::*;
use crate::frame::{apply_mask, write_frame};

/// What a peer said, with the borders of reads and frames gone.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Message { text: bool, payload: Vec<u8> },
    Control(Opcode, Vec<u8>),
    Failed(Fault),
}

/// Follows `input` as a session does, reading pieces that end at `cuts`.
fn hear(mut reader: Reader, input: &[u8], cuts: &[usize]) -> Vec<Heard> {
    let mut heard = Vec::new();
    let mut buffer = Vec::new();
    let mut message = Vec::new();
    let mut large_left = 0;
    let mut large_fin = false;
    let mut start = 0;
    for end in cuts.iter().copied().chain([input.len()]) {
        buffer.extend_from_slice(&input[start..end]);
        start = end;
        loop {
            if large_left > 0 {
                let piece_len = large_left.min(buffer.len());
                if piece_len == 0 {
                    break;
                }
                let piece: Vec<u8> = buffer.drain(..piece_len).collect();
                large_left -= piece_len;
                let ends = large_left == 0 && large_fin;
                message.extend_from_slice(&piece);
                match reader.payload(&piece, ends) {
                    Ok(text) if ends => {
                        heard.push(Heard::Message {
                            text,
                            payload: std::mem::take(&mut message),
                        });
                    }
                    Ok(_) => {}
                    Err(fault) => {
                        heard.push(Heard::Failed(fault));
                        return heard;
                    }
                }
                continue;
            }
            match reader.step(&buffer) {
                Ok(Step::Need(needed)) => {
                    assert!(needed > buffer.len());
                    break;
                }
                Ok(Step::Large(header)) => {
                    buffer.drain(..header.len);
                    large_left = usize::try_from(header.payload_len).unwrap();
                    large_fin = header.fin;
                }
                Ok(Step::Frame(frame)) => {
                    let mut payload = buffer[frame.payload.clone()].to_vec();
                    if let Some(mask) = frame.mask {
                        apply_mask(&mut payload, mask);
                    }
                    buffer.drain(..frame.len);
                    if frame.opcode.is_control() {
                        heard.push(Heard::Control(frame.opcode, payload));
                        continue;
                    }
                    match reader.payload_of(&frame, &payload) {
                        Ok(text) => {
                            message.extend_from_slice(&payload);
                            if frame.fin {
                                let payload = std::mem::take(&mut message);
                                heard.push(Heard::Message { text, payload });
                            }
                        }
                        Err(fault) => {
                            heard.push(Heard::Failed(fault));
                            return heard;
                        }
                    }
                }
                Err(fault) => {
                    heard.push(Heard::Failed(fault));
                    return heard;
                }
            }
        }
    }
    heard
}

fn hear_at_once(from: Side, input: &[u8]) -> Vec<Heard> {
    hear(Reader::whole(from, 1 << 20), input, &[])
}

#[track_caller]
fn check_fault(from: Side, input: &[u8], code: u16) {
    match hear_at_once(from, input).last() {
        Some(Heard::Failed(fault)) => assert_eq!(fault.close_code(), code, "{fault}"),
        other => panic!("{input:02x?} was taken as {other:?}"),
    }
}

#[test]
fn each_framing_fault_has_its_code() {
    check_fault(Side::Upstream, &[0xC1, 0x00], 1002); // RSV1: no extension was agreed on
    check_fault(Side::Upstream, &[0xA1, 0x00], 1002);
    check_fault(Side::Upstream, &[0x91, 0x00], 1002);
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        check_fault(Side::Upstream, &[0x80 | opcode, 0x00], 1002);
    }
    check_fault(Side::Upstream, &[0x81, 0x80, 0, 0, 0, 0], 1002);
    check_fault(Side::Client, &[0x81, 0x00], 1002);
    check_fault(Side::Upstream, &[0x09, 0x00], 1002);
    check_fault(Side::Upstream, &[0x89, 126, 0, 126], 1002);
    check_fault(Side::Upstream, &[0x80, 0x00], 1002);
    check_fault(Side::Upstream, &[0x01, 0x01, b'a', 0x81, 0x01, b'b'], 1002);
    check_fault(Side::Upstream, &[0x81, 126, 0, 125], 1002);
    check_fault(
        Side::Upstream,
        &[0x81, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
        1002,
    );
    check_fault(
        Side::Upstream,
        &[0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
        1002,
    );
    check_fault(
        Side::Upstream,
        &[0x81, 127, 0, 0, 0, 0, 0, 0x10, 0, 1],
        1009,
    );
    check_fault(Side::Upstream, &[0x81, 0x02, 0xC3, 0x28], 1007);
    check_fault(Side::Upstream, &[0x81, 0x01, 0xC3], 1007);
}

#[test]
fn a_fault_is_found_before_the_rest_of_its_frame_has_come() {
    let mut reader = Reader::whole(Side::Client, 10);
    assert_eq!(
        reader.step(&[0x81, 0x80 | 11, 0, 0, 0, 0]),
        Err(Fault::TooBig { limit: 10 })
    );
    assert!(reader.step(&[0xF1, 0x80]).is_err());
}

#[test]
fn fragments_count_together_against_the_limit() {
    let mut input = vec![0x01, 6];
    input.extend_from_slice(b"sixsix");
    input.extend_from_slice(&[0x80, 6]);
    input.extend_from_slice(b"sixsix");
    let heard = hear(Reader::whole(Side::Upstream, 10), &input, &[]);
    assert_eq!(heard, [Heard::Failed(Fault::TooBig { limit: 10 })]);
}

#[test]
fn a_control_frame_between_fragments_does_not_end_the_message() {
    let input = [0x01, 0x01, b'a', 0x89, 0x01, b'p', 0x80, 0x01, b'b'];
    assert_eq!(
        hear_at_once(Side::Upstream, &input),
        [
            Heard::Control(Opcode::Ping, b"p".to_vec()),
            Heard::Message {
                text: true,
                payload: b"ab".to_vec()
            }
        ]
    );
}

/// Messages and control frames as a lawful peer would send them, in fragments of its liking.
fn lawful() -> impl Strategy<Value = (Vec<u8>, Vec<Heard>)> {
    let message = (
        ".{0,300}",
        prop::collection::vec(0usize..400, 0..4),
        any::<bool>(),
    );
    let ping = prop::collection::vec(any::<u8>(), 0..125);
    prop::collection::vec((message, prop::option::of(ping), any::<[u8; 4]>()), 0..6).prop_map(
        |parts| {
            let mut wire = Vec::new();
            let mut heard = Vec::new();
            for ((text, mut cuts, is_text), ping, mask) in parts {
                let payload = text.into_bytes();
                cuts.iter_mut()
                    .for_each(|cut| *cut = (*cut).min(payload.len()));
                cuts.sort_unstable();
                let mut start = 0;
                let n_cuts = cuts.len();
                for (index, end) in cuts.into_iter().chain([payload.len()]).enumerate() {
                    let opcode = match (index, is_text) {
                        (0, true) => Opcode::Text,
                        (0, false) => Opcode::Binary,
                        _ => Opcode::Continuation,
                    };
                    let first = wire.len();
                    write_frame(&mut wire, opcode, &payload[start..end], Some(mask));
                    if index < n_cuts {
                        wire[first] &= 0x7F;
                    }
                    start = end;
                    if index == 0
                        && let Some(ping) = &ping
                    {
                        write_frame(&mut wire, Opcode::Ping, ping, Some(mask));
                    }
                }
                if n_cuts > 0
                    && let Some(ping) = &ping
                {
                    heard.push(Heard::Control(Opcode::Ping, ping.clone()));
                }
                heard.push(Heard::Message {
                    text: is_text,
                    payload,
                });
                if n_cuts == 0
                    && let Some(ping) = ping
                {
                    heard.push(Heard::Control(Opcode::Ping, ping));
                }
            }
            (wire, heard)
        },
    )
}

fn cuts_of(len: usize, marks: &[prop::sample::Index]) -> Vec<usize> {
    let mut cuts: Vec<usize> = marks.iter().map(|mark| mark.index(len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

proptest! {
    #[test]
    fn lawful_frames_are_heard_as_said(
        (wire, said) in lawful(),
        marks in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let cuts = cuts_of(wire.len(), &marks);
        prop_assert_eq!(hear(Reader::whole(Side::Client, 1 << 20), &wire, &cuts), said);
    }

    #[test]
    fn any_split_of_any_bytes_gives_the_same_result(
        noise in prop::collection::vec(any::<u8>(), 0..200),
        marks in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        start in prop::sample::select(vec![vec![], vec![0x81, 0x05], vec![0x01, 0x03], vec![0x88, 0x02]]),
    ) {
        let wire = [start, noise].concat();
        let cuts = cuts_of(wire.len(), &marks);
        for held in [u64::MAX, 8, 0] {
            let reader = || Reader::new(Side::Upstream, 100, held);
            prop_assert_eq!(hear(reader(), &wire, &cuts), hear(reader(), &wire, &[]));
        }
    }
}
