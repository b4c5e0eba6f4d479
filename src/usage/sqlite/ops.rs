//! What the store does, as SQL inside the writer's transaction. Everything is checked before
//! anything is written, so that an error here means that the file failed.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::batch::Batch;
use crate::ids::{ClientId, SessionId};
use crate::usage::ledger::Opened;
use crate::usage::store::TokenKey;
use crate::usage::window::{FIRST_SHARE, WINDOWS_KEPT, grant};
use crate::usage::{
    Adjust, Admit, Admitted, Characters, Charge, Heartbeat, Opening, Readopt, Record, Reserve,
    Reserved, Settle, WindowKey,
};

/// How many rows one call of [`sweep`] or [`prune`] touches at most, so that nobody waits long.
const BATCH: usize = 200;

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The start of the window that is charged when the clock says `key.start`.
fn effective(db: &Connection, client: &ClientId, key: WindowKey) -> Result<i64> {
    let mut oldest = db.prepare_cached(
        "SELECT start FROM windows WHERE client = ?1 AND kind = ?2 \
         ORDER BY start DESC LIMIT 1 OFFSET ?3",
    )?;
    let oldest: Option<i64> = oldest
        .query_row(
            params![client.as_str(), key.name(), WINDOWS_KEPT - 1],
            |row| row.get(0),
        )
        .optional()?;
    Ok(oldest.map_or(key.start, |oldest| key.start.max(oldest)))
}

fn counter(db: &Connection, client: &ClientId, key: WindowKey) -> Result<Option<u64>> {
    db.prepare_cached("SELECT used FROM windows WHERE client = ?1 AND kind = ?2 AND start = ?3")?
        .query_row(params![client.as_str(), key.name(), key.start], |row| {
            row.get(0)
        })
        .optional()
}

pub(super) fn used(db: &Connection, client: &ClientId, key: WindowKey) -> Result<u64> {
    if let Some(used) = counter(db, client, key)? {
        return Ok(used);
    }
    let key = WindowKey {
        start: effective(db, client, key)?,
        ..key
    };
    Ok(counter(db, client, key)?.unwrap_or(0))
}

fn used_by(db: &Connection, client: &ClientId, charges: &[Charge]) -> Result<Vec<u64>> {
    charges
        .iter()
        .map(|charge| used(db, client, charge.key))
        .collect()
}

/// Adds to a counter. Only spending opens a counter; giving back to one that is gone is void.
fn add(db: &Connection, client: &ClientId, key: WindowKey, amount: i64) -> Result<()> {
    let change = |start: i64| {
        db.prepare_cached(
            "UPDATE windows SET used = max(0, used + ?4) \
             WHERE client = ?1 AND kind = ?2 AND start = ?3",
        )?
        .execute(params![client.as_str(), key.name(), start, amount])
    };
    if amount == 0 || change(key.start)? == 1 {
        return Ok(());
    }
    let start = effective(db, client, key)?;
    if change(start)? == 0 && amount > 0 {
        db.prepare_cached("INSERT INTO windows VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![client.as_str(), key.name(), start, amount])?;
        db.prepare_cached(
            "DELETE FROM windows WHERE client = ?1 AND kind = ?2 AND start IN (\
             SELECT start FROM windows WHERE client = ?1 AND kind = ?2 \
             ORDER BY start DESC LIMIT -1 OFFSET ?3)",
        )?
        .execute(params![client.as_str(), key.name(), WINDOWS_KEPT])?;
    }
    Ok(())
}

fn spend(db: &Connection, client: &ClientId, charges: &[Charge], count: u64) -> Result<()> {
    charges.iter().try_for_each(|charge| {
        add(
            db,
            client,
            charge.key,
            int(count.saturating_mul(charge.each)),
        )
    })
}

pub(super) fn give_back(db: &Connection, client: &ClientId, adjust: &[Adjust]) -> Result<()> {
    for adjust in adjust {
        add_all(db, client, adjust)?;
        hold(db, adjust.seat, adjust.characters)?;
    }
    Ok(())
}

/// Corrects the counters.
fn add_all(db: &Connection, client: &ClientId, adjust: &Adjust) -> Result<()> {
    adjust
        .amounts
        .iter()
        .try_for_each(|(key, amount)| add(db, client, *key, *amount))
}

/// Adds to what is reserved in a seat.
fn hold(db: &Connection, seat: SessionId, characters: i64) -> Result<()> {
    db.prepare_cached("UPDATE live SET reserved = max(0, reserved + ?2) WHERE session = ?1")?
        .execute(params![seat.to_string(), characters])?;
    Ok(())
}

/// Live sessions of a client, those of dead processes left out.
fn n_live(db: &Connection, client: &ClientId, owner: &str, now_ms: i64) -> Result<u64> {
    db.prepare_cached(
        "SELECT coalesce(sum(live), 0) FROM slots WHERE client = ?1 AND (owner = ?2 OR owner IN \
         (SELECT id FROM owners WHERE expires_ms > ?3))",
    )?
    .query_row(params![client.as_str(), owner, now_ms], |row| row.get(0))
}

fn opened(opening: &Opening) -> Result<String> {
    serde_json::to_string(&Opened::new(opening))
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn enter(
    db: &Connection,
    owner: &str,
    seat: SessionId,
    opening: &Opening,
    reserved: Characters,
) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO live (session, client, owner, reserved, record, vacant) \
         VALUES (?1, ?2, ?3, ?4, ?5, 0) \
         ON CONFLICT DO UPDATE SET record = excluded.record, vacant = 0",
    )?
    .execute(params![
        seat.to_string(),
        opening.client.as_str(),
        owner,
        int(reserved),
        opened(opening)?
    ])?;
    Ok(())
}

/// Enters who sits in a seat that was kept.
pub(super) fn seat(batch: &mut Batch<'_>, seat: SessionId, opening: &Opening) -> Result<()> {
    let change = batch.take_change(seat);
    batch
        .rest()
        .prepare_cached(
            "UPDATE live SET record = ?2, vacant = 0, reserved = max(0, reserved + ?3) \
             WHERE session = ?1",
        )?
        .execute(params![seat.to_string(), opened(opening)?, change])?;
    Ok(())
}

pub(super) fn admit(db: &Connection, owner: &str, now_ms: i64, admit: &Admit) -> Result<Admitted> {
    let client = &admit.opening.client;
    let live = n_live(db, client, owner, now_ms)?;
    if live >= admit.max_concurrent {
        return Ok(Admitted::Busy { live });
    }
    let starts = used_by(db, client, &admit.starts)?;
    if let Err(index) = grant(&admit.starts, &starts, live, 1, 0) {
        return Ok(Admitted::Spent {
            window: admit.starts[index].key,
            used: starts[index],
        });
    }
    let spent = used_by(db, client, &admit.spending)?;
    if let (Err(index), false) = (
        grant(&admit.spending, &spent, live, 1, 0),
        admit.even_if_spent,
    ) {
        return Ok(Admitted::Spent {
            window: admit.spending[index].key,
            used: spent[index],
        });
    }
    let sharers = (live + 1) * FIRST_SHARE;
    let ahead = grant(&admit.spending, &spent, sharers, 0, admit.ahead).unwrap_or(0);
    spend(db, client, &admit.starts, 1)?;
    spend(db, client, &admit.spending, ahead)?;
    enter(db, owner, admit.opening.session, &admit.opening, ahead)?;
    Ok(Admitted::Granted { ahead })
}

pub(super) fn reserve(
    db: &Connection,
    owner: &str,
    now_ms: i64,
    reserve: &Reserve,
) -> Result<Reserved> {
    let client = &reserve.client;
    give_back(db, client, &reserve.adjust)?;
    let used = used_by(db, client, &reserve.charges)?;
    let live = n_live(db, client, owner, now_ms)?;
    match grant(&reserve.charges, &used, live, reserve.need, reserve.ahead) {
        Ok(granted) => {
            spend(db, client, &reserve.charges, granted)?;
            hold(db, reserve.seat, int(granted))?;
            Ok(Reserved::Granted(granted))
        }
        Err(window) => Ok(Reserved::Short { window, used }),
    }
}

/// Undoes a reservation whose answer nobody waited for.
pub(super) fn unreserve(db: &Connection, reserve: &Reserve, granted: Characters) -> Result<()> {
    let amounts = reserve.charges.iter();
    let amounts = amounts.map(|charge| (charge.key, -int(granted.saturating_mul(charge.each))));
    let adjust = Adjust {
        seat: reserve.seat,
        characters: -int(granted),
        amounts: amounts.collect(),
    };
    give_back(db, &reserve.client, &[adjust])
}

/// Undoes an admission whose answer nobody waited for. The start stays counted.
pub(super) fn unadmit(db: &Connection, admit: &Admit, ahead: Characters) -> Result<()> {
    let client = &admit.opening.client;
    for charge in &admit.spending {
        add(
            db,
            client,
            charge.key,
            -int(ahead.saturating_mul(charge.each)),
        )?;
    }
    db.execute(
        "DELETE FROM live WHERE session = ?1",
        [admit.opening.session.to_string()],
    )?;
    Ok(())
}

/// All columns of the ledger but `id`, in the order in which [`write`] has them.
const WRITE: &str = "INSERT OR IGNORE INTO ledger (session, client, plan, endpoint, voice, model, \
     format, started_ms, ended_ms, characters_asked, characters_forwarded, characters_refused, \
     milli_credits, audio_ms, messages_up, messages_down, bytes_up, bytes_down, first_audio_ms, \
     ending, close_code, trace_id, outcome) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
     ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)";

/// Enters a row, unless the session already has one.
fn write(batch: &mut Batch<'_>, record: &Record) -> Result<bool> {
    let outcome = match record.outcome {
        crate::usage::Outcome::Ended => "ended",
        crate::usage::Outcome::Refused => "refused",
        crate::usage::Outcome::Lost => "lost",
    };
    let written = batch.rest().prepare_cached(WRITE)?.execute(params![
        record.session,
        record.client,
        record.plan,
        record.endpoint,
        record.voice,
        record.model,
        record.format,
        record.started_ms,
        record.ended_ms,
        int(record.characters_asked),
        int(record.characters_forwarded),
        int(record.characters_refused),
        int(record.milli_credits),
        int(record.audio_ms),
        int(record.messages_up),
        int(record.messages_down),
        int(record.bytes_up),
        int(record.bytes_down),
        record.first_audio_ms.map(int),
        record.ending,
        record.close_code,
        record.trace_id,
        outcome,
    ])?;
    if written == 1 {
        batch.sum(record);
    }
    Ok(written == 1)
}

/// Corrects the row of a session that was taken for lost; false when there is none.
fn correct(batch: &mut Batch<'_>, record: &Record) -> Result<bool> {
    // A trigger corrects the sum.
    let corrected = batch
        .all()?
        .prepare_cached(
            "UPDATE ledger SET ended_ms = ?2, characters_asked = ?3, characters_forwarded = ?4, \
             characters_refused = ?5, milli_credits = ?6, audio_ms = ?7, messages_up = ?8, \
             messages_down = ?9, bytes_up = ?10, bytes_down = ?11, first_audio_ms = ?12, \
             ending = ?13, close_code = ?14, trace_id = ?15, outcome = 'ended' \
             WHERE session = ?1 AND outcome = 'lost'",
        )?
        .execute(params![
            record.session,
            record.ended_ms,
            int(record.characters_asked),
            int(record.characters_forwarded),
            int(record.characters_refused),
            int(record.milli_credits),
            int(record.audio_ms),
            int(record.messages_up),
            int(record.messages_down),
            int(record.bytes_up),
            int(record.bytes_down),
            record.first_audio_ms.map(int),
            record.ending,
            record.close_code,
            record.trace_id,
        ])?;
    Ok(corrected == 1)
}

pub(super) fn settle(batch: &mut Batch<'_>, settle: &Settle) -> Result<()> {
    let db = batch.rest();
    let is_freed = !settle.keeps_seat
        && db
            .prepare_cached("DELETE FROM live WHERE session = ?1")?
            .execute([settle.seat.to_string()])?
            == 1;
    let is_first = match &settle.record {
        Some(record) => write(batch, record)? || correct(batch, record)?,
        None => is_freed,
    };
    if !is_first {
        return Ok(());
    }
    let mut change = 0;
    for adjust in &settle.adjust {
        add_all(db, &settle.client, adjust)?;
        if adjust.seat == settle.seat {
            change += adjust.characters;
        } else {
            hold(batch.all()?, adjust.seat, adjust.characters)?;
        }
    }
    if settle.keeps_seat {
        let spent = settle.record.as_ref();
        change -= spent.map_or(0, |record| int(record.characters_forwarded));
        batch.leave(settle.seat, change);
    } else {
        batch.take_change(settle.seat);
    }
    Ok(())
}

/// Renews the lease; `expired` when another process has meanwhile taken this one for dead.
pub(super) fn heartbeat(
    db: &Connection,
    owner: &str,
    now_ms: i64,
    lease_ms: i64,
) -> Result<Heartbeat> {
    let renewed = db
        .prepare_cached("UPDATE owners SET expires_ms = ?2 WHERE id = ?1")?
        .execute(params![owner, now_ms.saturating_add(lease_ms)])?;
    if renewed == 0 {
        db.execute(
            "INSERT INTO owners VALUES (?1, ?2)",
            params![owner, now_ms.saturating_add(lease_ms)],
        )?;
    }
    Ok(Heartbeat {
        emptied: false,
        expired: renewed == 0,
    })
}

pub(super) fn readopt(db: &Connection, owner: &str, sessions: &[Readopt]) -> Result<()> {
    for Readopt {
        seat,
        opening,
        reserved,
    } in sessions
    {
        // One that has ended since it was counted among the live would hold its slot for good.
        let is_settled = db
            .prepare_cached("SELECT 1 FROM ledger WHERE session = ?1 AND outcome <> 'lost'")?
            .exists([opening.session.to_string()])?;
        if !is_settled {
            enter(db, owner, *seat, opening, *reserved)?;
        }
    }
    Ok(())
}

/// Enters some sessions of processes whose lease has run out as lost. With `alone`, when no other
/// process has the file open, leases of others need not be waited for.
pub(super) fn sweep(batch: &mut Batch<'_>, owner: &str, now_ms: i64, alone: bool) -> Result<u64> {
    let db = batch.all()?;
    let rows: Vec<(String, u64, String, bool)> = db
        .prepare_cached(
            "SELECT session, reserved, record, vacant FROM live WHERE owner <> ?1 AND (?2 OR owner NOT IN \
             (SELECT id FROM owners WHERE expires_ms > ?3)) LIMIT ?4",
        )?
        .query_map(params![owner, alone, now_ms, BATCH], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<Result<_>>()?;
    for (seat, reserved, record, vacant) in &rows {
        // A record this program cannot read must not hold up all others for ever.
        if let Ok(mut record) = serde_json::from_str::<Record>(record) {
            record.lose(*reserved, now_ms);
            // What was reserved in a vacant seat may have been spent by a session that had just sat
            // down and whose name never came here.
            let is_nameless = *vacant || !write(batch, &record)?;
            if is_nameless && *reserved > 0 {
                record.session = SessionId::random().to_string();
                write(batch, &record)?;
            }
        }
        db.prepare_cached("DELETE FROM live WHERE session = ?1")?
            .execute([seat])?;
    }
    if rows.is_empty() {
        db.prepare_cached(
            "DELETE FROM owners WHERE id <> ?1 AND (?2 OR expires_ms <= ?3) \
             AND id NOT IN (SELECT owner FROM live)",
        )?
        .execute(params![owner, alone, now_ms])?;
    }
    Ok(rows.len() as u64)
}

pub(super) fn prune(db: &Connection, now_ms: i64, before_ms: i64) -> Result<u64> {
    // Rows are entered as sessions end, so the lowest ids hold the oldest.
    let rows = db
        .prepare_cached(
            "DELETE FROM ledger WHERE id IN (SELECT id FROM ledger ORDER BY id LIMIT ?2) \
             AND ended_ms < ?1",
        )?
        .execute(params![before_ms, BATCH])?;
    let days = db
        .prepare_cached(
            "DELETE FROM daily WHERE (day, client, model, voice) IN \
             (SELECT day, client, model, voice FROM daily WHERE day < ?1 LIMIT ?2)",
        )?
        .execute(params![before_ms.div_euclid(86_400_000), BATCH])?;
    let windows = db
        .prepare_cached(
            "DELETE FROM windows WHERE (client, kind, start) IN \
             (SELECT client, kind, start FROM windows WHERE start < ?1 LIMIT ?2)",
        )?
        .execute(params![before_ms.div_euclid(1000), BATCH])?;
    let mut expired = 0;
    for table in ["tokens", "revoked"] {
        expired += db
            .prepare_cached(&format!(
                "DELETE FROM {table} WHERE key IN \
                 (SELECT key FROM {table} WHERE expires_ms <= ?1 LIMIT ?2)"
            ))?
            .execute(params![now_ms, BATCH])?;
    }
    Ok((rows + days + windows + expired) as u64)
}

pub(super) fn put_token(
    db: &Connection,
    key: TokenKey,
    record: &str,
    expires_ms: i64,
) -> Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO tokens VALUES (?1, ?2, ?3)")?
        .execute(params![key.0, record, expires_ms])?;
    Ok(())
}

pub(super) fn take_token(db: &Connection, key: TokenKey, now_ms: i64) -> Result<Option<String>> {
    let taken: Option<(String, i64)> = db
        .prepare_cached("DELETE FROM tokens WHERE key = ?1 RETURNING record, expires_ms")?
        .query_row([key.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(taken
        .filter(|(_, expires_ms)| *expires_ms > now_ms)
        .map(|(record, _)| record))
}

/// Tells whether the token was a single-use token that waited.
pub(super) fn revoke(db: &Connection, key: TokenKey, expires_ms: i64) -> Result<bool> {
    let n_deleted = db
        .prepare_cached("DELETE FROM tokens WHERE key = ?1")?
        .execute([key.0])?;
    db.prepare_cached(
        "INSERT INTO revoked VALUES (?1, ?2) \
         ON CONFLICT DO UPDATE SET expires_ms = max(expires_ms, excluded.expires_ms)",
    )?
    .execute(params![key.0, expires_ms])?;
    Ok(n_deleted > 0)
}

pub(super) fn revoked(db: &Connection, now_ms: i64) -> Result<Vec<TokenKey>> {
    db.prepare_cached("SELECT key FROM revoked WHERE expires_ms > ?1")?
        .query_map([now_ms], |row| row.get(0).map(TokenKey))?
        .collect()
}
