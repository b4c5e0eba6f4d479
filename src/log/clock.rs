//! The time of a line in UTC, as RFC 3339 with milliseconds. The date is worked out once a second.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// `2026-01-02T03:04:05.678Z`
pub(super) const LENGTH: usize = 24;

/// The text of the present second.
pub(super) struct Clock {
    second: u64,
    text: [u8; LENGTH],
}

impl Clock {
    pub(super) const fn new() -> Self {
        Self {
            second: u64::MAX,
            text: *b"0000-00-00T00:00:00.000Z",
        }
    }

    /// The wall-clock time now.
    pub(super) fn now(&mut self) -> &[u8; LENGTH] {
        // A clock before 1970 is read as 1970.
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.at(since.as_secs(), since.subsec_millis())
    }

    fn at(&mut self, second: u64, millis: u32) -> &[u8; LENGTH] {
        if self.second != second {
            self.second = second;
            let date = i64::try_from(second)
                .ok()
                .and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok())
                .unwrap_or(OffsetDateTime::UNIX_EPOCH);
            self.digits(0, 4, date.year().unsigned_abs());
            self.digits(5, 2, u32::from(u8::from(date.month())));
            self.digits(8, 2, u32::from(date.day()));
            self.digits(11, 2, u32::from(date.hour()));
            self.digits(14, 2, u32::from(date.minute()));
            self.digits(17, 2, u32::from(date.second()));
        }
        self.digits(20, 3, millis);
        &self.text
    }

    /// Writes `number` in decimal, with leading zeros, into `width` places from `start` on.
    fn digits(&mut self, start: usize, width: usize, mut number: u32) {
        for place in self.text[start..start + width].iter_mut().rev() {
            *place = b'0' + u8::try_from(number % 10).expect("a digit fits a byte");
            number /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(clock: &mut Clock, second: u64, millis: u32, expected: &str) {
        assert_eq!(clock.at(second, millis).as_slice(), expected.as_bytes());
    }

    #[test]
    fn times_read_as_rfc_3339() {
        let mut clock = Clock::new();
        check(&mut clock, 0, 0, "1970-01-01T00:00:00.000Z");
        check(&mut clock, 951_782_400, 7, "2000-02-29T00:00:00.007Z");
        check(&mut clock, 951_782_400, 999, "2000-02-29T00:00:00.999Z");
        check(&mut clock, 4_102_444_799, 42, "2099-12-31T23:59:59.042Z");
    }
}
