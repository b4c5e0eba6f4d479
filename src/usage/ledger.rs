//! The ledger: one row per session and HTTP request, and its sums per client, day, model, voice.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Characters;
use crate::ids::{ClientId, SessionId};

/// One session or HTTP request as it stands in the ledger. Never holds text.
#[derive(Clone, Debug)]
pub struct LedgerRow {
    /// The session's id.
    pub session: SessionId,
    /// Who spent.
    pub client: ClientId,
    /// The plan's name.
    pub plan: Arc<str>,
    /// The endpoint: `stream-input`, `multi-stream-input`, `convert`, …
    pub endpoint: &'static str,
    /// The voice, empty when none was named.
    pub voice: Arc<str>,
    /// The model, empty when none was named.
    pub model: Arc<str>,
    /// The output format, empty when none was named.
    pub format: Arc<str>,
    /// Unix time in milliseconds.
    pub started_ms: i64,
    /// Unix time in milliseconds.
    pub ended_ms: i64,
    /// Characters of every text the client sent.
    pub characters_asked: Characters,
    /// Characters that went up.
    pub characters_forwarded: Characters,
    /// Characters that were refused.
    pub characters_refused: Characters,
    /// Thousandths of a credit: characters times the model's rate.
    pub milli_credits: u64,
    /// Audio that came down, in milliseconds.
    pub audio_ms: u64,
    /// Messages from the client.
    pub messages_up: u64,
    /// Messages from upstream.
    pub messages_down: u64,
    /// Payload bytes from the client.
    pub bytes_up: u64,
    /// Payload bytes from upstream.
    pub bytes_down: u64,
    /// From the session's start to its first audio.
    pub first_audio_ms: Option<u64>,
    /// Why it ended, a fixed name such as `completed` or `quota_exceeded`.
    pub ending: Cow<'static, str>,
    /// The close code the client saw, or the HTTP status.
    pub close_code: u16,
    /// Upstream's `x-trace-id`.
    pub trace_id: Option<String>,
}

/// What is known of a session when it starts; enough to enter it as lost if its process dies.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The session's id.
    pub session: SessionId,
    /// Who spends.
    pub client: ClientId,
    /// The plan's name.
    pub plan: Arc<str>,
    /// The endpoint, as in [`LedgerRow::endpoint`].
    pub endpoint: &'static str,
    /// The voice, empty when none was named.
    pub voice: Arc<str>,
    /// The model, empty when none was named.
    pub model: Arc<str>,
    /// The output format, empty when none was named.
    pub format: Arc<str>,
    /// Unix time in milliseconds.
    pub started_ms: i64,
    /// Thousandths of a credit that one character costs.
    pub milli_rate: u64,
}

/// How a ledger row came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The session was admitted, and ended.
    Ended,
    /// It was never admitted.
    Refused,
    /// Its process died; what it had reserved stands as forwarded.
    Lost,
}

/// A ledger row as stores keep it and give it back.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[allow(missing_docs, reason = "as in LedgerRow")]
pub struct Record {
    /// 16 hex digits.
    pub session: String,
    pub client: Arc<str>,
    pub plan: Arc<str>,
    pub endpoint: Cow<'static, str>,
    pub voice: Arc<str>,
    pub model: Arc<str>,
    pub format: Arc<str>,
    pub started_ms: i64,
    pub ended_ms: i64,
    #[serde(default)]
    pub characters_asked: Characters,
    #[serde(default)]
    pub characters_forwarded: Characters,
    #[serde(default)]
    pub characters_refused: Characters,
    #[serde(default)]
    pub milli_credits: u64,
    #[serde(default)]
    pub audio_ms: u64,
    #[serde(default)]
    pub messages_up: u64,
    #[serde(default)]
    pub messages_down: u64,
    #[serde(default)]
    pub bytes_up: u64,
    #[serde(default)]
    pub bytes_down: u64,
    #[serde(default)]
    pub first_audio_ms: Option<u64>,
    pub ending: Cow<'static, str>,
    #[serde(default)]
    pub close_code: u16,
    #[serde(default)]
    pub trace_id: Option<String>,
    /// How the row came about.
    pub outcome: Outcome,
}

impl Record {
    /// The row of a session that was admitted and has ended, or was refused.
    #[must_use]
    pub fn new(row: LedgerRow, outcome: Outcome) -> Self {
        Self {
            session: row.session.to_string(),
            client: row.client.into(),
            plan: row.plan,
            endpoint: row.endpoint.into(),
            voice: row.voice,
            model: row.model,
            format: row.format,
            started_ms: row.started_ms,
            ended_ms: row.ended_ms,
            characters_asked: row.characters_asked,
            characters_forwarded: row.characters_forwarded,
            characters_refused: row.characters_refused,
            milli_credits: row.milli_credits,
            audio_ms: row.audio_ms,
            messages_up: row.messages_up,
            messages_down: row.messages_down,
            bytes_up: row.bytes_up,
            bytes_down: row.bytes_down,
            first_audio_ms: row.first_audio_ms,
            ending: row.ending,
            close_code: row.close_code,
            trace_id: row.trace_id,
            outcome,
        }
    }

    /// The row kept for a live session, in case that nobody sees its end: `milli_credits` hold the
    /// rate until [`lose`](Self::lose) multiplies it.
    pub(crate) fn opened(opening: &Opening) -> Self {
        let opened = Opened::new(opening);
        Self {
            session: opened.session,
            client: opening.client.clone().into(),
            plan: opening.plan.clone(),
            endpoint: opening.endpoint.into(),
            voice: opening.voice.clone(),
            model: opening.model.clone(),
            format: opening.format.clone(),
            started_ms: opened.started_ms,
            ended_ms: opened.ended_ms,
            characters_asked: 0,
            characters_forwarded: 0,
            characters_refused: 0,
            milli_credits: opened.milli_credits,
            audio_ms: 0,
            messages_up: 0,
            messages_down: 0,
            bytes_up: 0,
            bytes_down: 0,
            first_audio_ms: None,
            ending: opened.ending.into(),
            close_code: 0,
            trace_id: None,
            outcome: opened.outcome,
        }
    }

    /// Turns the row kept for a live session into a lost one: what it held counts as forwarded.
    pub(crate) fn lose(&mut self, reserved: Characters, ended_ms: i64) {
        self.characters_asked = reserved;
        self.characters_forwarded = reserved;
        self.milli_credits = reserved.saturating_mul(self.milli_credits);
        self.ended_ms = ended_ms.max(self.started_ms);
    }

    /// The UTC day on which the session started.
    #[must_use]
    pub fn day(&self) -> Day {
        Day::of_ms(self.started_ms)
    }
}

/// [`Record::opened`] as SQLite keeps it: read as a [`Record`], it is the same. What is nothing yet is
/// left out, since it is written for every session and hardly ever read. Redis' scripts calculate with
/// what they find, so they are given all of it.
#[derive(Serialize)]
pub(crate) struct Opened<'a> {
    session: String,
    client: &'a ClientId,
    plan: &'a str,
    endpoint: &'a str,
    voice: &'a str,
    model: &'a str,
    format: &'a str,
    started_ms: i64,
    ended_ms: i64,
    milli_credits: u64,
    ending: &'static str,
    outcome: Outcome,
}

impl<'a> Opened<'a> {
    pub(crate) fn new(opening: &'a Opening) -> Self {
        Self {
            session: opening.session.to_string(),
            client: &opening.client,
            plan: &opening.plan,
            endpoint: opening.endpoint,
            voice: &opening.voice,
            model: &opening.model,
            format: &opening.format,
            started_ms: opening.started_ms,
            ended_ms: opening.started_ms,
            milli_credits: opening.milli_rate,
            ending: "lost",
            outcome: Outcome::Lost,
        }
    }
}

/// A UTC day, written `2026-11-22`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(i64);

/// A day that is not written `YYYY-MM-DD` or not in the calendar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a day must be written YYYY-MM-DD, as in 2026-11-22")]
pub struct InvalidDay;

impl Day {
    /// The day around a Unix time in milliseconds.
    #[must_use]
    pub fn of_ms(unix_ms: i64) -> Self {
        Self(unix_ms.div_euclid(86_400_000))
    }

    /// Days since 1970-01-01.
    #[must_use]
    pub fn number(self) -> i64 {
        self.0
    }

    /// The day with this number since 1970-01-01.
    #[must_use]
    pub fn from_number(number: i64) -> Self {
        Self(number)
    }
}

impl FromStr for Day {
    type Err = InvalidDay;

    fn from_str(text: &str) -> Result<Self, InvalidDay> {
        let format = time::macros::format_description!("[year]-[month]-[day]");
        let date = time::Date::parse(text, format).map_err(|_| InvalidDay)?;
        Ok(Self(
            date.midnight()
                .assume_utc()
                .unix_timestamp()
                .div_euclid(86_400),
        ))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match time::OffsetDateTime::from_unix_timestamp(self.0.saturating_mul(86_400)) {
            Ok(at) => write!(
                f,
                "{:04}-{:02}-{:02}",
                at.year(),
                u8::from(at.month()),
                at.day()
            ),
            Err(_) => write!(f, "day {}", self.0),
        }
    }
}

impl Serialize for Day {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What usage rows are kept apart by; the client always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct GroupBy {
    pub day: bool,
    pub model: bool,
    pub voice: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self {
            day: true,
            model: true,
            voice: true,
        }
    }
}

/// A text that does not say what to keep apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give client, day, model and voice, or some of them, separated by commas")]
pub struct InvalidGroupBy;

impl FromStr for GroupBy {
    type Err = InvalidGroupBy;

    fn from_str(text: &str) -> Result<Self, InvalidGroupBy> {
        let mut by = Self {
            day: false,
            model: false,
            voice: false,
        };
        for name in text.split(',').map(str::trim) {
            match name {
                "client" => {}
                "day" => by.day = true,
                "model" => by.model = true,
                "voice" => by.voice = true,
                _ => return Err(InvalidGroupBy),
            }
        }
        Ok(by)
    }
}

impl<'de> Deserialize<'de> for GroupBy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Which usage to show.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// The first day; sessions count for the UTC day they started on.
    pub since: Option<Day>,
    /// The first day that is no longer shown.
    pub until: Option<Day>,
    /// Only this client.
    pub client: Option<ClientId>,
    /// What rows are kept apart by.
    pub by: GroupBy,
}

impl Query {
    pub(crate) fn covers(&self, day: Day) -> bool {
        self.since.is_none_or(|since| since <= day) && self.until.is_none_or(|until| day < until)
    }
}

/// What was used by one client, on one day, with one model and voice where rows are kept apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UsageRow {
    /// Who spent.
    pub client: String,
    /// The UTC day, where rows are kept apart by day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<Day>,
    /// The model, where rows are kept apart by model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The voice, where rows are kept apart by voice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voice: Option<String>,
    /// Sessions and requests that were admitted, the lost and the still live ones included.
    pub sessions: u64,
    /// Of these, how many are live now; their characters count once they have ended.
    pub live: u64,
    /// Of these, how many were lost to a crash: their characters are what they had reserved.
    pub lost: u64,
    /// Sessions and requests that were refused.
    pub refused: u64,
    /// Characters that went up.
    pub characters: Characters,
    /// Characters of every text that clients sent.
    pub characters_asked: Characters,
    /// Characters that were refused.
    pub characters_refused: Characters,
    /// Characters times the model's rate.
    pub credits: f64,
    /// Audio that came down.
    pub audio_seconds: f64,
    /// Messages from the client.
    pub messages_up: u64,
    /// Messages from upstream.
    pub messages_down: u64,
    /// Payload bytes from the client.
    pub bytes_up: u64,
    /// Payload bytes from upstream.
    pub bytes_down: u64,
}

/// How many sums a [`Tally`] holds.
pub(crate) const SUMS: usize = 13;

/// Their names, as columns and fields of the stores.
pub(crate) const SUM_NAMES: [&str; SUMS] = [
    "sessions",
    "live",
    "lost",
    "refused",
    "characters",
    "characters_asked",
    "characters_refused",
    "milli_credits",
    "audio_ms",
    "messages_up",
    "messages_down",
    "bytes_up",
    "bytes_down",
];

/// The sums of some ledger rows, in the order of [`SUM_NAMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally(pub(crate) [i64; SUMS]);

impl Tally {
    pub(crate) fn of(record: &Record) -> Self {
        let count = |yes: bool| i64::from(yes);
        let sum = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Self([
            count(record.outcome != Outcome::Refused),
            0,
            count(record.outcome == Outcome::Lost),
            count(record.outcome == Outcome::Refused),
            sum(record.characters_forwarded),
            sum(record.characters_asked),
            sum(record.characters_refused),
            sum(record.milli_credits),
            sum(record.audio_ms),
            sum(record.messages_up),
            sum(record.messages_down),
            sum(record.bytes_up),
            sum(record.bytes_down),
        ])
    }

    /// A session that is still live: known to exist, its characters not yet.
    pub(crate) fn of_live() -> Self {
        let mut sums = [0; SUMS];
        sums[0] = 1;
        sums[1] = 1;
        Self(sums)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Client, and day, model and voice where rows are kept apart by them.
type Group = (String, Option<Day>, Option<String>, Option<String>);

/// Sums by client, day, model and voice, on their way to usage rows.
#[derive(Default)]
pub(crate) struct Sums {
    groups: BTreeMap<Group, Tally>,
}

impl Sums {
    /// Adds what one client did on one day with one model and voice, if the query asks for it.
    pub(crate) fn add(
        &mut self,
        query: &Query,
        (client, day, model, voice): (&str, Day, &str, &str),
        tally: &Tally,
    ) {
        let other_client = query
            .client
            .as_ref()
            .is_some_and(|only| only.as_str() != client);
        if other_client || !query.covers(day) {
            return;
        }
        let group = (
            client.to_owned(),
            query.by.day.then_some(day),
            query.by.model.then(|| model.to_owned()),
            query.by.voice.then(|| voice.to_owned()),
        );
        self.groups.entry(group).or_default().add(tally);
    }

    /// The rows, ordered by client, day, model, voice; groups without any session are left out.
    pub(crate) fn into_rows(self) -> Vec<UsageRow> {
        let groups = self
            .groups
            .into_iter()
            .filter(|(_, tally)| *tally != Tally::default());
        groups
            .map(|((client, day, model, voice), tally)| row(client, day, model, voice, &tally))
            .collect()
    }
}

#[allow(clippy::cast_precision_loss, reason = "sums stay far below 2^52")]
fn row(
    client: String,
    day: Option<Day>,
    model: Option<String>,
    voice: Option<String>,
    tally: &Tally,
) -> UsageRow {
    let sum = |index: usize| u64::try_from(tally.0[index]).unwrap_or(0);
    UsageRow {
        client,
        day,
        model,
        voice,
        sessions: sum(0),
        live: sum(1),
        lost: sum(2),
        refused: sum(3),
        characters: sum(4),
        characters_asked: sum(5),
        characters_refused: sum(6),
        credits: sum(7) as f64 / 1000.0,
        audio_seconds: sum(8) as f64 / 1000.0,
        messages_up: sum(9),
        messages_down: sum(10),
        bytes_up: sum(11),
        bytes_down: sum(12),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn what_is_kept_of_a_live_session_reads_as_its_record() {
        let opening = Opening {
            session: SessionId::random(),
            client: ClientId::parse("anna").unwrap(),
            plan: "default".into(),
            endpoint: "stream-input",
            voice: "\"v\"".into(),
            model: "m".into(),
            format: "f".into(),
            started_ms: 7,
            milli_rate: 500,
        };
        let kept = serde_json::to_string(&Opened::new(&opening)).unwrap();
        let record: Record = serde_json::from_str(&kept).unwrap();
        assert_eq!(record, Record::opened(&opening));
    }

    #[test]
    fn days_are_read_as_they_are_written() {
        let day: Day = "2026-11-22".parse().unwrap();
        assert_eq!(day.to_string(), "2026-11-22");
        assert_eq!(Day::of_ms(1_795_334_950_000), day);
        assert_eq!(Day::of_ms(-1).to_string(), "1969-12-31");
        for wrong in [
            "2026-02-30",
            "22.11.2026",
            "2026-1-1",
            "",
            "2026-11-22T00:00",
        ] {
            assert_eq!(wrong.parse::<Day>(), Err(InvalidDay), "{wrong}");
        }
    }
}
