//! What the requests of one transaction add to the same rows, gathered and written once. A busy
//! client's sessions end by the hundred in a transaction; each has a row of its own in the ledger, but
//! all are added to the same sum and take from the same few seats.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use rusqlite::{Connection, Result, ToSql, params};

use crate::ids::SessionId;
use crate::usage::ledger::{SUM_NAMES, Tally};
use crate::usage::{Day, Record};

/// The database inside a transaction that is to end with [`write`](Self::write).
pub(super) struct Batch<'db> {
    db: &'db Connection,
    sums: Vec<(Group, Tally)>,
    /// Seats that were left, with what that changes in what is reserved there.
    left: HashMap<SessionId, i64>,
}

/// What the ledger is summed up by.
struct Group {
    day: Day,
    client: Arc<str>,
    model: Arc<str>,
    voice: Arc<str>,
}

impl Group {
    fn of(record: &Record) -> Self {
        Self {
            day: record.day(),
            client: record.client.clone(),
            model: record.model.clone(),
            voice: record.voice.clone(),
        }
    }

    fn holds(&self, record: &Record) -> bool {
        self.day == record.day()
            && self.client == record.client
            && self.model == record.model
            && self.voice == record.voice
    }
}

/// Whether `daily` has this one of the [`SUM_NAMES`]: sessions that are live have no row yet.
fn is_kept(name: &str) -> bool {
    name != "live"
}

/// Adds to the sums of a day.
static ADD: LazyLock<String> = LazyLock::new(|| {
    let names = SUM_NAMES.into_iter().filter(|name| is_kept(name));
    let columns: Vec<_> = ["day", "client", "model", "voice"]
        .into_iter()
        .chain(names.clone())
        .collect();
    let places = vec!["?"; columns.len()].join(", ");
    let more: Vec<_> = names
        .map(|name| format!("{name} = {name} + excluded.{name}"))
        .collect();
    format!(
        "INSERT INTO daily ({}) VALUES ({places}) ON CONFLICT DO UPDATE SET {}",
        columns.join(", "),
        more.join(", ")
    )
});

impl<'db> Batch<'db> {
    pub(super) fn new(db: &'db Connection) -> Self {
        Self {
            db,
            sums: Vec::new(),
            left: HashMap::new(),
        }
    }

    /// The database, as far as it is not about `daily`, or `reserved` and `vacant` in `live`.
    pub(super) fn rest(&self) -> &'db Connection {
        self.db
    }

    /// The database with all that was gathered in it.
    pub(super) fn all(&mut self) -> Result<&'db Connection> {
        self.write()?;
        Ok(self.db)
    }

    /// Adds a row of the ledger, which was just entered, to the sum of its day.
    pub(super) fn sum(&mut self, record: &Record) {
        let tally = Tally::of(record);
        match self.sums.iter_mut().find(|(group, _)| group.holds(record)) {
            Some((_, sum)) => sum.add(&tally),
            None => self.sums.push((Group::of(record), tally)),
        }
    }

    /// Nobody sits in a seat any more, and so much changes in what is reserved there.
    pub(super) fn leave(&mut self, seat: SessionId, characters: i64) {
        *self.left.entry(seat).or_default() += characters;
    }

    /// Somebody sits down in a seat, or it goes: what was to change in what is reserved there.
    pub(super) fn take_change(&mut self, seat: SessionId) -> i64 {
        self.left.remove(&seat).unwrap_or(0)
    }

    /// Writes what was gathered.
    pub(super) fn write(&mut self) -> Result<()> {
        for (seat, characters) in self.left.drain() {
            self.db
                .prepare_cached(
                    "UPDATE live SET reserved = max(0, reserved + ?2), vacant = 1 \
                     WHERE session = ?1",
                )?
                .execute(params![seat.to_string(), characters])?;
        }
        for (group, sum) in self.sums.drain(..) {
            let day = group.day.number();
            let mut values: Vec<&dyn ToSql> = vec![&day, &group.client, &group.model, &group.voice];
            let sums = SUM_NAMES.iter().zip(&sum.0);
            values
                .extend(sums.filter_map(|(name, sum)| is_kept(name).then_some(sum as &dyn ToSql)));
            self.db.prepare_cached(&ADD)?.execute(&*values)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use super::super::{ops, schema};
    use super::*;
    use crate::usage::suite::{NOW, client, row};
    use crate::usage::{Admit, Opening, Outcome, Settle};

    fn database() -> Connection {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        db
    }

    fn ints<const N: usize>(db: &Connection, sql: &str) -> [i64; N] {
        db.query_row(sql, [], |found| {
            Ok(std::array::from_fn(|column| found.get(column).unwrap()))
        })
        .unwrap()
    }

    fn opening() -> Arc<Opening> {
        Arc::new(Opening {
            session: SessionId::random(),
            client: client("anna"),
            plan: "default".into(),
            endpoint: "stream-input",
            voice: "".into(),
            model: "".into(),
            format: "".into(),
            started_ms: NOW,
            milli_rate: 1000,
        })
    }

    fn ended(session: SessionId) -> Record {
        let mut record = Record::new(row(&client("anna"), session, NOW), Outcome::Ended);
        record.characters_forwarded = 30;
        record
    }

    #[test]
    fn who_sits_down_at_once_is_not_taken_for_gone() {
        let db = database();
        let mut batch = Batch::new(&db);
        let (first, next) = (opening(), opening());
        let admit = Admit {
            opening: Arc::clone(&first),
            max_concurrent: 1,
            starts: Vec::new(),
            spending: Vec::new(),
            even_if_spent: false,
            ahead: 100,
        };
        ops::admit(batch.all().unwrap(), "us", NOW, &admit).unwrap();
        let left = Settle {
            keeps_seat: true,
            ..Settle::new(client("anna"), first.session, ended(first.session))
        };
        ops::settle(&mut batch, &left).unwrap();
        ops::seat(&mut batch, first.session, &next).unwrap();
        batch.write().unwrap();
        let live = ints(&db, "SELECT reserved, vacant FROM live");
        assert_eq!(live, [70, 0]);
    }

    /// The writer's own connection does not check.
    #[test]
    fn every_outcome_is_one_that_the_ledger_knows() {
        let db = database();
        let mut batch = Batch::new(&db);
        for outcome in [Outcome::Ended, Outcome::Refused, Outcome::Lost] {
            let session = SessionId::random();
            let mut record = ended(session);
            record.outcome = outcome;
            ops::settle(&mut batch, &Settle::new(client("anna"), session, record)).unwrap();
        }
        batch.write().unwrap();
        assert_eq!(ints(&db, "SELECT count(*) FROM ledger"), [3]);
    }

    #[test]
    fn a_row_that_is_corrected_at_once_is_summed_up_once() {
        let db = database();
        let mut batch = Batch::new(&db);
        let session = SessionId::random();
        let mut lost = ended(session);
        lost.outcome = Outcome::Lost;
        lost.characters_forwarded = 500;
        let settle = |record| Settle::new(client("anna"), session, record);
        ops::settle(&mut batch, &settle(lost)).unwrap();
        ops::settle(&mut batch, &settle(ended(session))).unwrap();
        batch.write().unwrap();
        let sums = ints(&db, "SELECT sessions, lost, characters FROM daily");
        assert_eq!(sums, [1, 0, 30]);
    }
}
