//! The books in Redis 7, shared by several processes: every request is one atomic script.
//!
//! Leases and everything about who is alive follow Redis's own clock; windows follow the relay's.
//! A marker in the database (the epoch) tells a Redis that came back empty from the one that held
//! the counters; the server's run id tells one that was restarted, maybe with older data. In both
//! cases this process first puts back what it knows, and only then goes on.

mod connection;
mod reader;

use std::collections::HashMap;
use std::time::Duration;

use ::redis::{FromRedisValue, Script, cmd};
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::connection::Link;
pub(crate) use self::reader::RedisReader;
use super::config::{Config, OpenError, RedisUrl};
use super::store::{Boxed, Store, TokenKey};
use super::window::{AHEAD_SHARE, FIRST_SHARE, WINDOWS_KEPT};
use super::{
    Adjust, Admit, Admitted, Charge, Heartbeat, Query, Readopt, Record, Reserve, Reserved, Settle,
    StoreError, UsageRow, WallClock, WindowKey,
};
use crate::ids::{ClientId, SessionId};

/// How many sessions or rows one call of the sweeper or of retention touches.
const BATCH: usize = 100;

/// How many counters are put back in one call.
const RESTORE_BATCH: usize = 200;

struct Scripts {
    admit: Script,
    reserve: Script,
    give_back: Script,
    settle: Script,
    used: Script,
    heartbeat: Script,
    restore: Script,
    readopt: Script,
    sweep: Script,
    prune: Script,
    revoke: Script,
    revoked: Script,
    called_in: Script,
    close: Script,
}

impl Scripts {
    fn new() -> Self {
        let script = |body: &str| Script::new(&format!("{}{body}", include_str!("prelude.lua")));
        Self {
            admit: script(include_str!("admit.lua")),
            reserve: script(include_str!("reserve.lua")),
            give_back: script(include_str!("give_back.lua")),
            settle: script(include_str!("settle.lua")),
            used: script(include_str!("used.lua")),
            heartbeat: script(include_str!("heartbeat.lua")),
            restore: script(include_str!("restore.lua")),
            readopt: script(include_str!("readopt.lua")),
            sweep: script(include_str!("sweep.lua")),
            prune: script(include_str!("prune.lua")),
            revoke: script(include_str!("revoke.lua")),
            revoked: script(include_str!("revoked.lua")),
            called_in: script(include_str!("called_in.lua")),
            close: script(include_str!("close.lua")),
        }
    }
}

pub(crate) struct Redis {
    link: Link,
    scripts: Scripts,
    prefix: String,
    owner: String,
    lease_ms: i64,
    keep_s: i64,
    clock: WallClock,
    /// The marker of the database that this process has spent from; empty before the first.
    epoch: Mutex<String>,
    /// What counters of running windows showed when they were last seen.
    known: Mutex<HashMap<ClientId, HashMap<WindowKey, u64>>>,
}

impl Redis {
    /// Connects, if the server is there; one that refuses this relay is an error, one that is
    /// away is not.
    pub(crate) async fn open(
        url: &RedisUrl,
        config: &Config,
        clock: WallClock,
    ) -> Result<Self, OpenError> {
        let link = Link::new(url, config)?;
        link.try_out().await?;
        Ok(Self {
            link,
            scripts: Scripts::new(),
            prefix: format!("{}:", config.redis_prefix),
            owner: SessionId::random().to_string(),
            lease_ms: i64::try_from(config.lease.as_millis()).unwrap_or(i64::MAX),
            keep_s: i64::try_from(config.retention.as_secs()).unwrap_or(i64::MAX),
            clock,
            epoch: Mutex::default(),
            known: Mutex::default(),
        })
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        mut request: Value,
    ) -> Result<T, StoreError> {
        request["kept"] = WINDOWS_KEPT.into();
        request["keep"] = self.keep_s.into();
        request["share"] = AHEAD_SHARE.into();
        request["first_share"] = FIRST_SHARE.into();
        let epoch = self.epoch.lock().clone();
        let mut connection = self.link.current()?;
        let answer = script
            .prepare_invoke()
            .arg(&self.prefix)
            .arg(epoch)
            .arg(&self.owner)
            .arg(request.to_string())
            .invoke_async(&mut connection)
            .await;
        answer.map_err(|error| self.link.failed(&error))
    }

    /// Runs a script that may answer that it does not know this process.
    async fn ask(&self, script: &Script, request: Value) -> Result<Vec<i64>, StoreError> {
        let answer: Vec<i64> = self.run(script, request).await?;
        match answer.first() {
            Some(-1) | None => Err(StoreError::Estranged),
            Some(_) => Ok(answer),
        }
    }

    /// Remembers what counters show.
    fn learn<'a>(
        &self,
        client: &ClientId,
        keys: impl Iterator<Item = WindowKey>,
        shown: impl Iterator<Item = &'a i64>,
    ) {
        let mut known = self.known.lock();
        let windows = known.entry(client.clone()).or_default();
        windows.extend(keys.zip(shown.map(|shown| u64::try_from(*shown).unwrap_or(0))));
    }

    /// Remembers that counters were corrected.
    fn learn_adjust(&self, client: &ClientId, adjust: &[Adjust]) {
        let mut known = self.known.lock();
        let Some(windows) = known.get_mut(client) else {
            return;
        };
        for (key, amount) in adjust.iter().flat_map(|adjust| &adjust.amounts) {
            if let Some(shown) = windows.get_mut(key) {
                *shown = shown.saturating_add_signed(*amount);
            }
        }
    }

    /// Forgets windows that have ended.
    fn forget_ended(&self) {
        let now = self.clock.now_ms().div_euclid(1000);
        self.known.lock().retain(|_, windows| {
            windows.retain(|key, _| now < key.end());
            !windows.is_empty()
        });
    }

    /// Puts back every counter that shows less than this process knows. Returns how many did.
    async fn restore(&self) -> Result<i64, StoreError> {
        let known: Vec<Value> = {
            let known = self.known.lock();
            let windows = known.iter().flat_map(|(client, windows)| {
                windows.iter().map(move |(key, used)| {
                    let start = key.start.to_string();
                    json!({ "client": client, "kind": key.name(), "start": start, "used": used })
                })
            });
            windows.collect()
        };
        let mut raised = 0;
        for windows in known.chunks(RESTORE_BATCH) {
            let request = json!({ "windows": windows });
            raised += self
                .ask(&self.scripts.restore, request)
                .await?
                .get(1)
                .copied()
                .unwrap_or(0);
        }
        Ok(raised)
    }

    async fn beat(&self) -> Result<Heartbeat, StoreError> {
        let restarted = self.link.connect().await?;
        let mut heartbeat = Heartbeat::default();
        if restarted && self.restore().await? > 0 {
            heartbeat.emptied = true;
        }
        let request = json!({ "lease": self.lease_ms });
        let mut answer: Vec<i64> = self.run(&self.scripts.heartbeat, request.clone()).await?;
        if answer.first() == Some(&0) {
            heartbeat.emptied |= !self.epoch.lock().is_empty();
            // Counters first, marker last: another process must not spend from empty counters.
            self.restore().await?;
            let epoch = self.adopt_epoch().await?;
            *self.epoch.lock() = epoch;
            answer = self.run(&self.scripts.heartbeat, request).await?;
        }
        self.forget_ended();
        match answer[..] {
            [1, expired] => Ok(Heartbeat {
                expired: expired != 0,
                ..heartbeat
            }),
            _ => Err(StoreError::Unavailable(
                "the database changes under the relay".to_owned(),
            )),
        }
    }

    /// The database's marker, set now if there is none.
    async fn adopt_epoch(&self) -> Result<String, StoreError> {
        let key = format!("{}epoch", self.prefix);
        let fresh = SessionId::random().to_string();
        let mut connection = self.link.current()?;
        let set = cmd("SET").arg(&key).arg(fresh).arg("NX").to_owned();
        let _: Option<String> = set
            .query_async(&mut connection)
            .await
            .map_err(|error| self.link.failed(&error))?;
        cmd("GET")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .map_err(|e| self.link.failed(&e))
    }

    async fn command<T: FromRedisValue>(&self, command: &::redis::Cmd) -> Result<T, StoreError> {
        let mut connection = self.link.current()?;
        command
            .query_async(&mut connection)
            .await
            .map_err(|error| self.link.failed(&error))
    }
}

fn windows(charges: &[Charge]) -> Value {
    let window = |charge: &Charge| {
        let start = charge.key.start.to_string();
        let (kind, end) = (charge.key.name(), charge.key.end());
        json!({ "kind": kind, "start": start, "end": end, "limit": charge.limit, "each": charge.each })
    };
    charges.iter().map(window).collect()
}

fn adjustments(adjust: &[Adjust]) -> Value {
    let amount = |(key, amount): &(WindowKey, i64)| json!({ "kind": key.name(), "start": key.start.to_string(), "amount": amount });
    let adjustment = |adjust: &Adjust| {
        let amounts: Vec<Value> = adjust.amounts.iter().map(amount).collect();
        let session = adjust.seat.to_string();
        json!({ "session": session, "characters": adjust.characters, "amounts": amounts })
    };
    adjust.iter().map(adjustment).collect()
}

fn keys(charges: &[Charge]) -> impl Iterator<Item = WindowKey> + '_ {
    charges.iter().map(|charge| charge.key)
}

fn index(number: i64, len: usize) -> usize {
    usize::try_from(number)
        .unwrap_or(0)
        .min(len.saturating_sub(1))
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn text<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Unavailable(error.to_string()))
}

fn misunderstood() -> StoreError {
    StoreError::Unavailable("the database answered something else".to_owned())
}

impl Redis {
    async fn admitted(&self, admit: &Admit) -> Result<Admitted, StoreError> {
        let opening = &admit.opening;
        let request = json!({
            "client": opening.client,
            "session": opening.session.to_string(),
            "record": text(&Record::opened(opening))?,
            "max": admit.max_concurrent,
            "starts": windows(&admit.starts),
            "spending": windows(&admit.spending),
            "even_if_spent": admit.even_if_spent,
            "ahead": admit.ahead,
        });
        let answer = self.ask(&self.scripts.admit, request).await?;
        match answer[..] {
            [1, ahead, ..] => {
                let charged = keys(&admit.spending).chain(keys(&admit.starts));
                self.learn(&opening.client, charged, answer[2..].iter());
                Ok(Admitted::Granted {
                    ahead: count(ahead),
                })
            }
            [2, live] => Ok(Admitted::Busy { live: count(live) }),
            [kind @ (3 | 4), window, used] => {
                let charges = if kind == 3 {
                    &admit.starts
                } else {
                    &admit.spending
                };
                let window = charges
                    .get(index(window, charges.len()))
                    .ok_or_else(misunderstood)?;
                Ok(Admitted::Spent {
                    window: window.key,
                    used: count(used),
                })
            }
            _ => Err(misunderstood()),
        }
    }

    async fn reserved(&self, reserve: &Reserve) -> Result<Reserved, StoreError> {
        let request = json!({
            "client": reserve.client,
            "session": reserve.seat.to_string(),
            "charges": windows(&reserve.charges),
            "need": reserve.need,
            "ahead": reserve.ahead,
            "adjust": adjustments(&reserve.adjust),
            "call_in": reserve.call_in,
        });
        let answer = self.ask(&self.scripts.reserve, request).await?;
        let [granted, value, shown @ ..] = &answer[..] else {
            return Err(misunderstood());
        };
        self.learn_adjust(&reserve.client, &reserve.adjust);
        self.learn(&reserve.client, keys(&reserve.charges), shown.iter());
        if *granted == 1 {
            return Ok(Reserved::Granted(count(*value)));
        }
        let window = index(*value, reserve.charges.len());
        Ok(Reserved::Short {
            window,
            used: shown.iter().map(|shown| count(*shown)).collect(),
        })
    }

    async fn settled(&self, settle: &Settle) -> Result<(), StoreError> {
        let Some(record) = &settle.record else {
            // Only a seat that was kept is given up without a row, and none is kept here.
            return Ok(());
        };
        let request = json!({
            "client": settle.client,
            "session": settle.seat.to_string(),
            "record": text(record)?,
            "adjust": adjustments(&settle.adjust),
        });
        let answer = self.ask(&self.scripts.settle, request).await?;
        if answer.first() == Some(&1) {
            self.learn_adjust(&settle.client, &settle.adjust);
        }
        Ok(())
    }
}

impl Store for Redis {
    fn admit<'a>(&'a self, admit: &'a Admit) -> Boxed<'a, Admitted> {
        Box::pin(self.admitted(admit))
    }

    fn reserve<'a>(&'a self, reserve: &'a Reserve) -> Boxed<'a, Reserved> {
        Box::pin(self.reserved(reserve))
    }

    fn give_back<'a>(&'a self, client: &'a ClientId, adjust: &'a [Adjust]) -> Boxed<'a, ()> {
        Box::pin(async move {
            let request = json!({ "client": client, "adjust": adjustments(adjust) });
            self.ask(&self.scripts.give_back, request).await?;
            self.learn_adjust(client, adjust);
            Ok(())
        })
    }

    fn settle<'a>(&'a self, settle: &'a Settle) -> Boxed<'a, ()> {
        Box::pin(self.settled(settle))
    }

    fn used<'a>(&'a self, client: &'a ClientId, keys: &'a [WindowKey]) -> Boxed<'a, Vec<u64>> {
        Box::pin(async move {
            let named: Vec<Value> = keys
                .iter()
                .map(|key| json!({ "kind": key.name(), "start": key.start.to_string() }))
                .collect();
            let request = json!({ "client": client, "keys": named });
            let answer = self.ask(&self.scripts.used, request).await?;
            self.learn(client, keys.iter().copied(), answer[1..].iter());
            Ok(answer[1..].iter().map(|shown| count(*shown)).collect())
        })
    }

    fn heartbeat(&self) -> Boxed<'_, Heartbeat> {
        Box::pin(self.beat())
    }

    fn readopt<'a>(&'a self, sessions: &'a [Readopt]) -> Boxed<'a, ()> {
        Box::pin(async move {
            let mut entries = Vec::with_capacity(sessions.len());
            for session in sessions {
                entries.push(json!({
                    "client": session.opening.client,
                    "session": session.seat.to_string(),
                    "record": text(&Record::opened(&session.opening))?,
                    "reserved": session.reserved,
                }));
            }
            self.ask(&self.scripts.readopt, json!({ "sessions": entries }))
                .await
                .map(|_| ())
        })
    }

    fn sweep(&self) -> Boxed<'_, u64> {
        Box::pin(async move {
            let answer = self
                .ask(&self.scripts.sweep, json!({ "batch": BATCH }))
                .await?;
            Ok(answer.get(1).copied().map_or(0, count))
        })
    }

    fn prune(&self, before_ms: i64) -> Boxed<'_, u64> {
        Box::pin(async move {
            let before_ms = before_ms.max(0);
            let day = before_ms / 86_400_000;
            let request =
                json!({ "before": before_ms.to_string(), "day": day.to_string(), "batch": BATCH });
            let answer = self.ask(&self.scripts.prune, request).await?;
            Ok(answer.get(1).copied().map_or(0, count))
        })
    }

    fn usage<'a>(&'a self, query: &'a Query) -> Boxed<'a, Vec<UsageRow>> {
        Box::pin(reader::usage(&self.link, &self.prefix, query))
    }

    fn recent(&self, limit: usize) -> Boxed<'_, Vec<Record>> {
        Box::pin(reader::recent(&self.link, &self.prefix, limit))
    }

    fn put_token<'a>(&'a self, key: TokenKey, record: &'a str, ttl: Duration) -> Boxed<'a, ()> {
        Box::pin(async move {
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
            let name = format!("{}token:{}", self.prefix, key.to_hex());
            self.command(cmd("SET").arg(name).arg(record).arg("PX").arg(ttl_ms))
                .await
        })
    }

    fn take_token(&self, key: TokenKey) -> Boxed<'_, Option<String>> {
        Box::pin(async move {
            let name = format!("{}token:{}", self.prefix, key.to_hex());
            self.command(cmd("GETDEL").arg(name)).await
        })
    }

    fn revoke(&self, key: TokenKey, ttl: Duration) -> Boxed<'_, ()> {
        Box::pin(async move {
            let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            let request = json!({ "key": key.to_hex(), "ttl": ttl });
            self.ask(&self.scripts.revoke, request).await.map(|_| ())
        })
    }

    fn revoked(&self) -> Boxed<'_, Vec<TokenKey>> {
        Box::pin(async move {
            let keys: Vec<String> = self.run(&self.scripts.revoked, json!({})).await?;
            Ok(keys
                .iter()
                .filter_map(|hex| TokenKey::from_hex(hex))
                .collect())
        })
    }

    fn called_in(&self) -> Boxed<'_, Vec<ClientId>> {
        Box::pin(async move {
            let clients: Vec<String> = self.run(&self.scripts.called_in, json!({})).await?;
            Ok(clients
                .iter()
                .filter_map(|client| ClientId::parse(client).ok())
                .collect())
        })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async move { self.ask(&self.scripts.close, json!({})).await.map(|_| ()) })
    }
}
