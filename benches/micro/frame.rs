//! The frame engine alone: following upstream's frames, and taking a client's apart.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use xi_relay::frame::{Reader, Step, apply_mask, unmask_onto};
use xi_relay::ids::Side;
use xi_relay_benches::speech::{audio_message, text_message};
use xi_relay_benches::ws;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const LIMIT: u64 = 1 << 24;

/// Finds the borders of the frames in one read of 64 KB.
fn follow(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("follow one 64 KB read of frames of");
    for size in [200, 4096, 16_384] {
        let frame = ws::server_frame(ws::TEXT, &audio_message(size));
        let wire = frame.repeat(65_536 / frame.len());
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &wire, |bencher, wire| {
            let mut reader = Reader::new(Side::Upstream, LIMIT, LIMIT);
            bencher.iter(|| {
                let mut rest = wire.as_slice();
                while !rest.is_empty() {
                    let Ok(Step::Frame(frame)) = reader.step(black_box(rest)) else {
                        unreachable!("whole frames only")
                    };
                    // Also checks the UTF-8 of the payload.
                    assert!(matches!(
                        frame.text(&rest[frame.payload.clone()]),
                        Ok(Some(_))
                    ));
                    rest = &rest[frame.len..];
                }
            });
        });
    }
    group.finish();
}

/// Takes the mask off a client's message, in place and onto a copy.
fn unmask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unmask");
    for size in [200, 8192] {
        let mut message = text_message(size);
        let mut scratch = Vec::with_capacity(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("in place", size), |bencher| {
            bencher.iter(|| apply_mask(black_box(&mut message), MASK))
        });
        group.bench_function(BenchmarkId::new("onto a copy", size), |bencher| {
            bencher.iter(|| {
                scratch.clear();
                unmask_onto(&mut scratch, black_box(&message), MASK);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, follow, unmask);
criterion_main!(benches);
