//! What a scenario hands back, and the readings it is made of.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use xi_relay_benches::process::{Memory, Tree};

/// Figures by name; the unit is the end of the name.
pub(crate) type Metrics = BTreeMap<&'static str, f64>;

/// The process tree under measurement; none when clients speak to upstream directly.
#[derive(Clone, Copy)]
pub(crate) struct Subject(pub(crate) Option<i32>);

impl Subject {
    /// CPU time used so far; zero without a process.
    pub(crate) fn cpu(self) -> Result<Duration> {
        self.0
            .map_or(Ok(Duration::ZERO), |pid| Tree::of(pid)?.cpu())
    }

    /// Memory held now; none without a process.
    pub(crate) fn memory(self) -> Result<Memory> {
        self.0
            .map_or(Ok(Memory::default()), |pid| Tree::of(pid)?.memory())
    }

    /// Notes `cpu` under `name`, in µs for each of `n`; nothing without a process.
    pub(crate) fn note_cpu(self, metrics: &mut Metrics, name: &'static str, cpu: Duration, n: f64) {
        if self.0.is_some() && n > 0.0 {
            metrics.insert(name, cpu.as_secs_f64() * 1e6 / n);
        }
    }
}

/// Notes median and 99th percentile of `times`, in µs.
pub(crate) fn note_times(metrics: &mut Metrics, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| {
        times
            .get((times.len() as f64 * share) as usize)
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    };
    metrics.insert("p50_us", at(0.50));
    metrics.insert("p99_us", at(0.99));
    metrics.insert("n", times.len() as f64);
}
