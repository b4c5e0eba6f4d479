//! Reading usage and rows, on a connection of its own: a long report holds up no session.

use rusqlite::types::Type;
use rusqlite::{Connection, Result, Row};

use crate::usage::ledger::{SUM_NAMES, Sums, Tally};
use crate::usage::{Day, Outcome, Query, Record, UsageRow};

pub(super) fn usage(db: &Connection, query: &Query) -> Result<Vec<UsageRow>> {
    let mut sums = Sums::default();
    let since = query.since.map_or(i64::MIN, Day::number);
    let until = query.until.map_or(i64::MAX, Day::number);
    let columns = SUM_NAMES
        .map(|name| if name == "live" { "0" } else { name })
        .join(", ");
    let mut daily = db.prepare(&format!(
        "SELECT day, client, model, voice, {columns} FROM daily WHERE day >= ?1 AND day < ?2"
    ))?;
    let mut rows = daily.query([since, until])?;
    while let Some(row) = rows.next()? {
        let mut tally = Tally::default();
        for (index, sum) in tally.0.iter_mut().enumerate() {
            *sum = row.get(4 + index)?;
        }
        let day = Day::from_number(row.get(0)?);
        let text = |index: usize| row.get_ref(index)?.as_str().map_err(Into::into);
        let (client, model, voice): (Result<&str>, Result<&str>, Result<&str>) =
            (text(1), text(2), text(3));
        sums.add(query, (client?, day, model?, voice?), &tally);
    }
    let mut live = db.prepare("SELECT record FROM live WHERE NOT vacant")?;
    let mut rows = live.query([])?;
    while let Some(row) = rows.next()? {
        if let Ok(record) = serde_json::from_str::<Record>(row.get_ref(0)?.as_str()?) {
            let group = (
                &*record.client,
                record.day(),
                &*record.model,
                &*record.voice,
            );
            sums.add(query, group, &Tally::of_live());
        }
    }
    Ok(sums.into_rows())
}

pub(super) fn recent(db: &Connection, limit: usize) -> Result<Vec<Record>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    db.prepare("SELECT * FROM ledger ORDER BY id DESC LIMIT ?1")?
        .query_map([limit], record)?
        .collect()
}

fn record(row: &Row<'_>) -> Result<Record> {
    let outcome: String = row.get("outcome")?;
    let outcome = match outcome.as_str() {
        "ended" => Outcome::Ended,
        "refused" => Outcome::Refused,
        "lost" => Outcome::Lost,
        _ => {
            return Err(rusqlite::Error::InvalidColumnType(
                0,
                "outcome".to_owned(),
                Type::Text,
            ));
        }
    };
    Ok(Record {
        session: row.get("session")?,
        client: row.get("client")?,
        plan: row.get("plan")?,
        endpoint: row.get("endpoint")?,
        voice: row.get("voice")?,
        model: row.get("model")?,
        format: row.get("format")?,
        started_ms: row.get("started_ms")?,
        ended_ms: row.get("ended_ms")?,
        characters_asked: row.get("characters_asked")?,
        characters_forwarded: row.get("characters_forwarded")?,
        characters_refused: row.get("characters_refused")?,
        milli_credits: row.get("milli_credits")?,
        audio_ms: row.get("audio_ms")?,
        messages_up: row.get("messages_up")?,
        messages_down: row.get("messages_down")?,
        bytes_up: row.get("bytes_up")?,
        bytes_down: row.get("bytes_down")?,
        first_audio_ms: row.get("first_audio_ms")?,
        ending: row.get("ending")?,
        close_code: row.get("close_code")?,
        trace_id: row.get("trace_id")?,
        outcome,
    })
}
