//! CPU time and memory of another process and everything below it.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// A process and its descendants, as they were when this was made.
#[derive(Debug)]
pub struct Tree {
    pids: Vec<i32>,
}

/// Memory of a process tree in bytes, from `/proc/PID/smaps_rollup`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident pages; what the processes share is counted once for each.
    pub rss: u64,
    /// Resident pages; what is shared is split among those who share it. The fair figure.
    pub pss: u64,
}

impl Tree {
    /// The tree below `root`.
    ///
    /// # Errors
    /// When `root` does not exist.
    pub fn of(root: i32) -> Result<Self> {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            // A process may end between the listing and this.
            let Ok(stat) = Stat::read(pid) else { continue };
            children.entry(stat.parent).or_default().push(pid);
        }
        Stat::read(root)?;
        let mut pids = vec![root];
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            pids.extend(children.get(pid).into_iter().flatten());
            next += 1;
        }
        Ok(Self { pids })
    }

    /// User and system time used so far.
    ///
    /// This is the sum that `/proc/PID/stat` shows as `utime + stime` in steps of 10 ms, read from
    /// the kernel's CPU clock of each process, which has it in nanoseconds.
    ///
    /// # Errors
    /// When a process of the tree is gone, or the two readings do not agree.
    pub fn cpu(&self) -> Result<Duration> {
        let mut fine = Duration::ZERO;
        let mut coarse = Duration::ZERO;
        for &pid in &self.pids {
            let clock: ClockId = clock_getcpuclockid(Pid::from_raw(pid))
                .with_context(|| format!("process {pid} is gone"))?;
            fine += Duration::from(clock_gettime(clock)?);
            coarse += Stat::read(pid)?.cpu;
        }
        let slack = Duration::from_millis(40 * self.pids.len() as u64) + coarse / 50;
        ensure!(
            fine.abs_diff(coarse) < slack,
            "CPU clock says {fine:?}, /proc/PID/stat {coarse:?}"
        );
        Ok(fine)
    }

    /// Memory held now.
    ///
    /// # Errors
    /// When a process of the tree is gone.
    pub fn memory(&self) -> Result<Memory> {
        self.pids.iter().try_fold(Memory::default(), |sum, pid| {
            let path = format!("/proc/{pid}/smaps_rollup");
            let rollup = fs::read_to_string(&path).with_context(|| path.clone())?;
            let field = |name: &str| -> Result<u64> {
                let line = rollup
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .with_context(|| format!("no {name} in {path}"))?;
                let kb = line.trim().trim_end_matches("kB").trim();
                Ok(kb.parse::<u64>()? * 1024)
            };
            Ok(Memory {
                rss: sum.rss + field("Rss:")?,
                pss: sum.pss + field("Pss:")?,
            })
        })
    }
}

/// The fields of `/proc/PID/stat` that are needed here.
struct Stat {
    parent: i32,
    cpu: Duration,
}

impl Stat {
    fn read(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("process {pid} is gone"))?;
        // The name, in parentheses, may hold anything; fields are counted from behind it.
        let (_, fields) = stat.rsplit_once(") ").with_context(|| path.clone())?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let field = |number: usize| {
            fields
                .get(number - 3)
                .with_context(|| format!("{path}: no field {number}"))
        };
        let ticks = field(14)?.parse::<u64>()? + field(15)?.parse::<u64>()?;
        // Linux shows times to user space in hundredths of a second on every platform it is built for today.
        Ok(Self {
            parent: field(4)?.parse()?,
            cpu: Duration::from_millis(ticks * 10),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn this_process_has_used_time_and_memory() {
        let tree = Tree::of(std::process::id() as i32).unwrap();
        assert!(tree.cpu().unwrap() > Duration::ZERO);
        let memory = tree.memory().unwrap();
        assert!(memory.pss > 0 && memory.rss >= memory.pss);
    }
}
