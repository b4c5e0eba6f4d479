//! Reading usage and rows out of Redis, and revoking tokens there, beside the relays that use it.

use std::time::Duration;

use ::redis::{FromRedisValue, cmd};

use super::connection::Link;
use crate::usage::config::{Config, OpenError, RedisUrl};
use crate::usage::ledger::{SUM_NAMES, Sums, Tally};
use crate::usage::{Day, Query, Record, StoreError, TokenKey, UsageRow};

/// Looks into books that relays are writing; takes no part in leases.
pub(crate) struct RedisReader {
    link: Link,
    prefix: String,
}

impl RedisReader {
    pub(crate) async fn open(url: &RedisUrl, config: &Config) -> Result<Self, OpenError> {
        let link = Link::new(url, config)?;
        link.try_out().await?;
        link.current().map_err(|error| OpenError {
            store: url.to_string(),
            cause: error.to_string(),
            cure: "start the server, or correct the address",
        })?;
        Ok(Self {
            link,
            prefix: format!("{}:", config.redis_prefix),
        })
    }

    pub(crate) async fn usage(&self, query: &Query) -> Result<Vec<UsageRow>, StoreError> {
        usage(&self.link, &self.prefix, query).await
    }

    pub(crate) async fn recent(&self, limit: usize) -> Result<Vec<Record>, StoreError> {
        recent(&self.link, &self.prefix, limit).await
    }

    /// Revokes a token as the relays do, by the server's clock. Tells whether it waited there.
    pub(crate) async fn revoke(&self, key: TokenKey, ttl: Duration) -> Result<bool, StoreError> {
        let (seconds, _): (u64, u64) = get(&self.link, &cmd("TIME")).await?;
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let expires_ms = seconds.saturating_mul(1000).saturating_add(ttl_ms);
        let (key, prefix) = (key.to_hex(), &self.prefix);
        let mut pipe = ::redis::pipe();
        pipe.atomic().del(format!("{prefix}token:{key}"));
        let revoked = format!("{prefix}revoked");
        pipe.cmd("ZADD")
            .arg(revoked)
            .arg("GT")
            .arg(expires_ms)
            .arg(key)
            .ignore();
        let mut connection = self.link.current()?;
        let answer: Result<(u64,), _> = pipe.query_async(&mut connection).await;
        answer
            .map(|(n_deleted,)| n_deleted > 0)
            .map_err(|error| self.link.failed(&error))
    }
}

async fn get<T: FromRedisValue>(link: &Link, command: &::redis::Cmd) -> Result<T, StoreError> {
    let mut connection = link.current()?;
    command
        .query_async(&mut connection)
        .await
        .map_err(|error| link.failed(&error))
}

pub(super) async fn usage(
    link: &Link,
    prefix: &str,
    query: &Query,
) -> Result<Vec<UsageRow>, StoreError> {
    let mut sums = Sums::default();
    let days: Vec<i64> = get(
        link,
        cmd("ZRANGE").arg(format!("{prefix}days")).arg(0).arg(-1),
    )
    .await?;
    for number in days {
        let day = Day::from_number(number);
        if !query.covers(day) {
            continue;
        }
        let fields: Vec<(String, i64)> =
            get(link, cmd("HGETALL").arg(format!("{prefix}day:{number}"))).await?;
        for (field, value) in fields {
            let Some((name, group)) = field.find('[').map(|at| field.split_at(at)) else {
                continue;
            };
            let Some(index) = SUM_NAMES.iter().position(|known| *known == name) else {
                continue;
            };
            let Ok((client, model, voice)) =
                serde_json::from_str::<(String, String, String)>(group)
            else {
                continue;
            };
            let mut tally = Tally::default();
            tally.0[index] = value;
            sums.add(query, (&client, day, &model, &voice), &tally);
        }
    }
    let owners: Vec<String> = get(
        link,
        cmd("ZRANGE").arg(format!("{prefix}owners")).arg(0).arg(-1),
    )
    .await?;
    for owner in owners {
        let live: Vec<String> =
            get(link, cmd("HVALS").arg(format!("{prefix}owned:{owner}"))).await?;
        for record in live
            .iter()
            .filter_map(|text| serde_json::from_str::<Record>(text).ok())
        {
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

pub(super) async fn recent(
    link: &Link,
    prefix: &str,
    limit: usize,
) -> Result<Vec<Record>, StoreError> {
    let entries: Vec<(String, Vec<(String, String)>)> = get(
        link,
        cmd("XREVRANGE")
            .arg(format!("{prefix}ledger"))
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(limit),
    )
    .await?;
    let rows = entries
        .into_iter()
        .flat_map(|(_, fields)| fields)
        .filter(|(name, _)| name == "row");
    rows.map(|(_, row)| {
        serde_json::from_str(&row).map_err(|e| StoreError::Unavailable(e.to_string()))
    })
    .collect()
}
