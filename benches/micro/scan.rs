//! Looking at messages: what upstream's audio says, and what a client's text costs; beside what
//! parsing the same into a JSON value would take.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use xi_relay::protocol::{Dialect, look, scan};
use xi_relay_benches::speech::{audio_message, text_message};

fn upstream(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("audio message");
    for size in [4096, 16_384, 65_536] {
        let message = audio_message(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(
            BenchmarkId::new("look", size),
            &message,
            |bencher, message| bencher.iter(|| look(black_box(message)).kind()),
        );
        group.bench_with_input(
            BenchmarkId::new("serde_json::Value", size),
            &message,
            |bencher, message| {
                bencher.iter(|| {
                    serde_json::from_slice::<serde_json::Value>(black_box(message)).is_ok()
                });
            },
        );
    }
    group.finish();
}

fn client(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("text message");
    for size in [60, 200, 8192] {
        let message = text_message(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(
            BenchmarkId::new("scan", size),
            &message,
            |bencher, message| {
                bencher.iter(|| {
                    scan(Dialect::Single, black_box(message))
                        .map(|message| message.characters)
                        .ok()
                });
            },
        );
        group.bench_with_input(
            BenchmarkId::new("serde_json::Value", size),
            &message,
            |bencher, message| {
                bencher.iter(|| {
                    serde_json::from_slice::<serde_json::Value>(black_box(message)).is_ok()
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, upstream, client);
criterion_main!(benches);
