//! Calendar windows in UTC, and how much of them a session may be granted.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Characters;

/// What a window counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Unicode scalar values of forwarded text.
    Characters,
    /// Characters times the model's rate; stores count thousandths.
    Credits,
    /// Session starts.
    Sessions,
}

impl Unit {
    /// The name as it stands in configuration, messages and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Characters => "characters",
            Self::Credits => "credits",
            Self::Sessions => "sessions",
        }
    }
}

/// How long a window lasts: one UTC calendar minute, hour, day or month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Per {
    Minute,
    Hour,
    Day,
    Month,
}

impl Per {
    /// The name as it stands in configuration, messages and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// Start (inclusive) and end (exclusive) of the window around `now_ms`, in Unix seconds.
    #[must_use]
    pub fn span(self, now_ms: i64) -> (i64, i64) {
        let now = now_ms.div_euclid(1000);
        let fixed = |length: i64| {
            let start = now.div_euclid(length) * length;
            (start, start + length)
        };
        match self {
            Self::Minute => fixed(60),
            Self::Hour => fixed(3600),
            Self::Day => fixed(86_400),
            Self::Month => month(now).unwrap_or_else(|| fixed(30 * 86_400)),
        }
    }
}

/// The month around `now`; `None` beyond the years that the calendar covers.
fn month(now: i64) -> Option<(i64, i64)> {
    let first = OffsetDateTime::from_unix_timestamp(now)
        .ok()?
        .date()
        .replace_day(1)
        .ok()?;
    let (year, next) = match first.month() {
        time::Month::December => (first.year() + 1, time::Month::January),
        month => (first.year(), month.next()),
    };
    let end = time::Date::from_calendar_date(year, next, 1).ok()?;
    let unix = |date: time::Date| date.midnight().assume_utc().unix_timestamp();
    Some((unix(first), unix(end)))
}

/// A time for people: `2026-11-22T08:00:00Z`.
pub(crate) fn utc_time(unix_s: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_s)
        .ok()
        .and_then(|time| {
            time.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_else(|| unix_s.to_string())
}

/// One counter: what is counted, over which span, from when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowKey {
    /// What is counted.
    pub unit: Unit,
    /// Over which span.
    pub per: Per,
    /// The window's first second, Unix time.
    pub start: i64,
}

impl WindowKey {
    /// The window of this kind around `now_ms`.
    #[must_use]
    pub fn at(unit: Unit, per: Per, now_ms: i64) -> Self {
        Self {
            unit,
            per,
            start: per.span(now_ms).0,
        }
    }

    /// The first second after the window, Unix time.
    #[must_use]
    pub fn end(self) -> i64 {
        self.per.span(self.start.saturating_mul(1000)).1
    }

    /// Unit and span in one word, as stores name the counter.
    pub(crate) fn name(self) -> String {
        format!("{}:{}", self.unit.as_str(), self.per.as_str())
    }
}

/// A window that a spending is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The counter.
    pub key: WindowKey,
    /// The most that it may show: characters, thousandths of a credit, or starts.
    pub limit: u64,
    /// What one character (or start) adds to it.
    pub each: u64,
}

impl Charge {
    /// How many characters fit into what is left.
    #[must_use]
    pub fn room(&self, used: u64) -> Characters {
        match self.each {
            0 => Characters::MAX,
            each => self.limit.saturating_sub(used) / each,
        }
    }
}

/// A session reserves ahead at most this part of its share of what is left. All sessions of a
/// client together then hold about a thirty-second of it unspent, and near the limit nothing.
pub(crate) const AHEAD_SHARE: u64 = 32;

/// The first block of a session is smaller by this factor: of those that start one after another,
/// the first would share with nobody yet.
pub(crate) const FIRST_SHARE: u64 = 8;

/// The most that any block may hold, so that no counter can overflow.
const MOST: u64 = 1 << 40;

/// How many characters to grant: `need`, and up to `ahead` more as long as plenty is left.
///
/// # Errors
/// The index of the window that cannot cover `need`; of several the one that resets last, since
/// waiting for another would be in vain.
pub(crate) fn grant(
    charges: &[Charge],
    used: &[u64],
    live: u64,
    need: Characters,
    ahead: Characters,
) -> Result<Characters, usize> {
    let rooms = || {
        charges
            .iter()
            .zip(used)
            .map(|(charge, used)| charge.room(*used))
    };
    let short = rooms()
        .enumerate()
        .filter(|(_, room)| *room < need)
        .max_by_key(|(index, _)| charges[*index].key.end());
    if let Some((index, _)) = short {
        return Err(index);
    }
    let room = rooms().min().unwrap_or(Characters::MAX);
    let spare = (room - need) / (AHEAD_SHARE * live.max(1));
    Ok(need + ahead.min(spare).min(MOST))
}

/// So many windows of one kind are kept per client. Counters outlive their window because a wall
/// clock may go back; when it goes back behind all that are kept, the oldest one is charged.
pub(crate) const WINDOWS_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-22T08:09:10Z
    const NOW: i64 = 1_795_334_950_000;

    #[test]
    fn windows_follow_the_utc_calendar() {
        let check = |per: Per, start: &str, end: &str| {
            let (from, to) = per.span(NOW);
            assert_eq!(
                (utc_time(from).as_str(), utc_time(to).as_str()),
                (start, end)
            );
        };
        check(Per::Minute, "2026-11-22T08:09:00Z", "2026-11-22T08:10:00Z");
        check(Per::Hour, "2026-11-22T08:00:00Z", "2026-11-22T09:00:00Z");
        check(Per::Day, "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z");
        check(Per::Month, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
        let leap = 1_709_208_000_000; // 2024-02-29T12:00:00Z
        assert_eq!(utc_time(Per::Month.span(leap).1), "2024-03-01T00:00:00Z");
        let december = 1_798_761_599_999; // 2026-12-31T23:59:59.999Z
        assert_eq!(
            utc_time(Per::Month.span(december).1),
            "2027-01-01T00:00:00Z"
        );
    }

    proptest! {
        #[test]
        fn every_moment_lies_in_exactly_one_window(now_ms in -100_000_000_000_000i64..200_000_000_000_000) {
            for per in [Per::Minute, Per::Hour, Per::Day, Per::Month] {
                let (start, end) = per.span(now_ms);
                prop_assert!(start * 1000 <= now_ms && now_ms < end * 1000);
                prop_assert_eq!(per.span(start * 1000), (start, end));
                prop_assert_eq!(per.span(end * 1000 - 1), (start, end));
                prop_assert_eq!(per.span(end * 1000).0, end);
                prop_assert_eq!(WindowKey::at(Unit::Credits, per, now_ms).end(), end);
            }
        }

        #[test]
        fn a_grant_covers_the_need_and_never_passes_a_limit(
            windows in prop::collection::vec((0u64..5000, 0u64..5000, 0u64..1500), 0..4),
            live in 0u64..100, need in 0u64..3000, ahead in 0u64..2000,
        ) {
            let (charges, used): (Vec<_>, Vec<_>) = windows.iter().map(|&(limit, used, each)| {
                let key = WindowKey::at(Unit::Characters, Per::Day, NOW);
                (Charge { key, limit, each }, used)
            }).unzip();
            match grant(&charges, &used, live, need, ahead) {
                Ok(granted) => {
                    prop_assert!(granted >= need && granted <= need + ahead);
                    for (charge, used) in charges.iter().zip(&used) {
                        prop_assert!(granted * charge.each == 0 || used + granted * charge.each <= charge.limit);
                        let left = charge.limit.saturating_sub(*used);
                        let ahead = (granted - need) * charge.each;
                        prop_assert!(ahead * live.max(1) * AHEAD_SHARE <= left || charge.each == 0);
                    }
                }
                Err(index) => prop_assert!(used[index] + need * charges[index].each > charges[index].limit),
            }
        }
    }

    #[test]
    fn of_several_spent_windows_the_one_that_resets_last_is_named() {
        let charge = |per| Charge {
            key: WindowKey::at(Unit::Characters, per, NOW),
            limit: 1,
            each: 1,
        };
        let charges = [charge(Per::Minute), charge(Per::Month), charge(Per::Day)];
        assert_eq!(grant(&charges, &[1, 1, 1], 1, 1, 0), Err(1));
        assert_eq!(grant(&charges, &[1, 0, 0], 1, 1, 0), Err(0));
    }
}
