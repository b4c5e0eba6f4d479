//! Messages and their bytes by side and kind: a fixed table, so that counting takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Metric;
use super::encode::{Kind, Samples};
use super::family::OTHER;
use crate::ids::Side;

/// Every kind of message, both sides together. The last takes what is not in the list.
const KINDS: [&str; 14] = [
    "audio",
    "text",
    "final",
    "turn_final",
    "alignment",
    "initialize",
    "flush",
    "keepalive",
    "close",
    "close_context",
    "close_frame",
    "binary",
    "error",
    OTHER,
];

/// A count for each side and kind.
#[derive(Debug, Default)]
pub struct ByKind([[AtomicU64; KINDS.len()]; 2]);

impl ByKind {
    /// Adds `n`; a kind that is not in the list counts as `other`.
    pub fn add(&self, side: Side, kind: &str, n: u64) {
        let index = KINDS
            .iter()
            .position(|known| *known == kind)
            .unwrap_or(KINDS.len() - 1);
        self.0[row(side)][index].fetch_add(n, Ordering::Relaxed);
    }
}

fn row(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Upstream => 1,
    }
}

impl Metric for ByKind {
    const KIND: Kind = Kind::Counter;

    fn sample(&self, _: &[(&str, &str)], samples: &mut Samples<'_>) {
        for side in [Side::Client, Side::Upstream] {
            for (kind, count) in KINDS.iter().zip(&self.0[row(side)]) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    samples.value(&[("side", side.as_str()), ("kind", kind)], count);
                }
            }
        }
    }
}
