//! What the kernel says of this process, under the names that all Prometheus clients use.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::encode::{Encoder, Kind};

/// Remembers when the process began.
#[derive(Debug)]
pub(super) struct Process {
    /// Unix time in seconds.
    started: f64,
}

impl Process {
    pub(super) fn new() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            started: since.as_secs_f64(),
        }
    }

    /// Writes what can be read; a value that the system does not give is left out.
    pub(super) fn encode(&self, page: &mut Encoder) {
        page.common(
            Kind::Gauge,
            "process_start_time_seconds",
            "Start time of the process since the Unix epoch in seconds.",
        )
        .value(&[], format_args!("{:.3}", self.started));
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some(seconds) = cpu_seconds(&stat, ticks_per_second()) {
            page.common(
                Kind::Counter,
                "process_cpu_seconds_total",
                "User and system CPU time spent in seconds.",
            )
            .value(&[], seconds);
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(bytes) = resident_bytes(&status) {
            page.common(
                Kind::Gauge,
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
            )
            .value(&[], bytes);
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // The directory itself is one of them while it is read.
            let open = entries.count().saturating_sub(1);
            page.common(
                Kind::Gauge,
                "process_open_fds",
                "Number of open file descriptors.",
            )
            .value(&[], open);
        }
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        if let Some(max) = max_files(&limits) {
            page.common(
                Kind::Gauge,
                "process_max_fds",
                "Maximum number of open file descriptors.",
            )
            .value(&[], max);
        }
    }
}

/// `utime` and `stime`, fields 14 and 15 of proc_pid_stat(5). The second field is the program's
/// name in parentheses and may hold anything.
fn cpu_seconds(stat: &str, ticks_per_second: f64) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / ticks_per_second)
}

/// `AT_CLKTCK` of getauxval(3), 100 on every Linux there is today.
fn ticks_per_second() -> f64 {
    const AT_CLKTCK: u64 = 17;
    let aux = fs::read("/proc/self/auxv").unwrap_or_default();
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let found = aux
        .chunks_exact(16)
        .find(|pair| word(&pair[..8]) == AT_CLKTCK);
    let ticks = found.and_then(|pair| u32::try_from(word(&pair[8..])).ok());
    ticks.filter(|ticks| *ticks > 0).map_or(100.0, f64::from)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn max_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_does_not_confuse_the_fields() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 100 1 1";
        assert_eq!(cpu_seconds(stat, 100.0), Some(3.0));
        assert_eq!(cpu_seconds("", 100.0), None);
    }

    #[test]
    fn linux_gives_every_value() {
        let mut page = Encoder::default();
        Process::new().encode(&mut page);
        let page = page.finish();
        for name in [
            "start_time_seconds",
            "cpu_seconds_total",
            "resident_memory_bytes",
            "open_fds",
        ] {
            assert!(
                page.contains(&format!("\nprocess_{name} ")),
                "{name} in {page}"
            );
        }
        assert!((99.0..10_000.0).contains(&ticks_per_second()));
    }
}
