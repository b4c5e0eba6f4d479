//! What one line a message costs, from the event to the buffer of the writer: the fields of a
//! session's message.

use std::fs::OpenOptions;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use xi_relay::ids::SessionId;
use xi_relay::log;

/// The log takes over stdout as it is at its start; the report of this program comes after.
fn log_to_nowhere() -> anyhow::Result<log::Guard> {
    let stdout = nix::unistd::dup(std::io::stdout())?;
    nix::unistd::dup2_stdout(OpenOptions::new().write(true).open("/dev/null")?)?;
    let guard = log::init(&log::Config {
        format: log::Format::Json,
        ..log::Config::default()
    })?;
    nix::unistd::dup2_stdout(stdout)?;
    Ok(guard)
}

fn line(criterion: &mut Criterion) {
    let _guard = log_to_nowhere().expect("the log can be started");
    let mut line = log::MessageLine::new(SessionId::random(), "a-usual-client");
    criterion.bench_function("log line", |bencher| {
        let mut seq = 0_u64;
        bencher.iter(|| {
            seq += 1;
            let seen = log::Seen {
                from: "upstream",
                kind: "audio",
                seq,
                bytes: 16_384,
                chars: None,
                audio_bytes: Some(12_288),
                audio_ms: Some(768),
                since_start_ms: 1234,
            };
            line.log(black_box(seen), None, None, None);
        });
    });
    let dropped = log::dropped_lines();
    // Lines that are dropped are cheaper than those that are written: the figure would flatter.
    eprintln!("log line: {dropped} lines were dropped");
}

criterion_group!(benches, line);
criterion_main!(benches);
