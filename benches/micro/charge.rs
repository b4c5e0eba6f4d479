//! What charging a message costs on its path, refills of the block included: each store that needs
//! no server.

use std::sync::Arc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use xi_relay::ids::{ClientId, SessionId};
use xi_relay::quota::{
    Admission, AdmissionRequest, Limits, PlanConfig, Quota, Rates, RatesConfig, WindowConfig,
};
use xi_relay::usage::{self, Per, StoreUrl, Unit, WallClock};

async fn admission(store: &str) -> anyhow::Result<Admission> {
    let config = usage::Config {
        store: store
            .parse::<StoreUrl>()
            .map_err(|error| anyhow::anyhow!("{error}"))?,
        ..usage::Config::default()
    };
    let books = usage::open(&config, WallClock::system(), Arc::default())
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let quota = Quota::new(books, Rates::new(&RatesConfig::default())?);
    let window = |unit, per| WindowConfig {
        unit,
        limit: 1_000_000_000_000,
        per,
    };
    let plan = PlanConfig {
        windows: vec![
            window(Unit::Characters, Per::Day),
            window(Unit::Credits, Per::Month),
        ],
        ..PlanConfig::default()
    };
    let request = AdmissionRequest {
        client: ClientId::parse("bench")?,
        limits: Arc::new(Limits::new("bench", &plan)?),
        session: SessionId::random(),
        voice: None,
        model: "eleven_flash_v2_5".into(),
        format: "mp3_44100_128".into(),
        endpoint: "stream-input",
        cap: None,
        streaming: true,
    };
    quota
        .admit(request)
        .await
        .map_err(|refusal| anyhow::anyhow!("{}", refusal.error()))
}

fn charge(criterion: &mut Criterion) {
    let file = std::env::temp_dir().join(format!("xi-relay-bench-{}.db", std::process::id()));
    let sqlite = format!("sqlite:{}", file.display());
    let mut group = criterion.benchmark_group("charge");
    for (name, store) in [("memory", "memory"), ("sqlite", sqlite.as_str())] {
        let runtime = Runtime::new().expect("a runtime can be started");
        let mut admission = runtime
            .block_on(admission(store))
            .expect("a session with nothing spent is let in");
        for characters in [7, 200] {
            group.bench_function(BenchmarkId::new(name, characters), |bencher| {
                bencher.iter_custom(|n| {
                    runtime.block_on(async {
                        let begun = Instant::now();
                        for _ in 0..n {
                            admission.charge(characters).await.expect("there is plenty");
                        }
                        begun.elapsed()
                    })
                });
            });
        }
        drop(runtime);
    }
    group.finish();
    for suffix in ["", "-wal", "-shm", "-owner"] {
        // What is not there need not go.
        let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
    }
}

criterion_group!(benches, charge);
criterion_main!(benches);
