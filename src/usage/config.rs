//! The `[usage]` table: where the books are kept and what happens when they cannot be reached.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The `[usage]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the books are kept.
    pub store: StoreUrl,
    /// What new spending meets while the store cannot be reached.
    pub on_store_failure: OnStoreFailure,
    /// A process silent for so long has lost its session slots; 100 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How long ledger rows are kept; at least 62 days, so that no running window loses its counter,
    /// at most 36,500.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// The most characters that a session reserves ahead of need; 0 to 1,000,000. What a process
    /// that dies holds counts as spent, so this bounds the loss per live session. A session gets so
    /// many only when it has spent about as many: what it reserves begins small and doubles.
    pub reserve_ahead: u64,
    /// When SQLite's commits reach the disk.
    pub sqlite_synchronous: Synchronous,
    /// The first part of every Redis key, so that several relays can share one database.
    pub redis_prefix: String,
    /// The Redis password, where it should not stand in the URL.
    #[serde(serialize_with = "hidden", deserialize_with = "secret")]
    pub redis_password: Option<SecretString>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            store: StoreUrl::Sqlite("xi-relay.db".into()),
            on_store_failure: OnStoreFailure::Refuse,
            lease: Duration::from_secs(60),
            retention: Duration::from_secs(400 * 86_400),
            reserve_ahead: 262_144,
            sqlite_synchronous: Synchronous::Normal,
            redis_prefix: "xi-relay".to_owned(),
            redis_password: None,
        }
    }
}

impl Config {
    /// Checks every value; the error names the key, relative to `[usage]`.
    ///
    /// # Errors
    /// One sentence naming the first key that is out of its range, and the range.
    pub fn validate(&self) -> Result<(), String> {
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.lease) {
            return Err("lease must be between 100ms and 1h".to_owned());
        }
        let days = |n_days: u64| Duration::from_secs(n_days * 86_400);
        if !(days(62)..=days(36_500)).contains(&self.retention) {
            return Err("retention must be between 62days and 36500days".to_owned());
        }
        if self.reserve_ahead > 1_000_000 {
            return Err("reserve_ahead must be at most 1000000".to_owned());
        }
        let prefix_ok = (1..=64).contains(&self.redis_prefix.len())
            && self.redis_prefix.bytes().all(|b| b.is_ascii_graphic());
        if !prefix_ok {
            return Err("redis_prefix must be 1 to 64 printable ASCII characters".to_owned());
        }
        Ok(())
    }
}

/// When SQLite's commits reach the disk (SQLite documentation, `PRAGMA synchronous`, in WAL mode).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// With the next checkpoint: no crash of the relay loses a commit, a power failure may lose
    /// those of the last moments.
    #[default]
    Normal,
    /// With each commit: a power failure loses nothing either.
    Full,
}

impl Synchronous {
    /// The value of the pragma.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Full => "full",
        }
    }
}

/// What new spending meets while the store cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStoreFailure {
    /// It is refused with `system_busy`; live sessions spend what they already hold.
    #[default]
    Refuse,
    /// It is let through, and entered with the session's next request that the store answers.
    Allow,
}

/// Where the books are kept: `memory`, `sqlite:PATH` or `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// In this process, gone with it.
    Memory,
    /// An SQLite file, made with its directory when missing.
    Sqlite(PathBuf),
    /// A Redis 7 server, shared by several processes.
    Redis(RedisUrl),
}

/// A Redis server's address. `Debug`, `Display` and `Serialize` leave the password out.
#[derive(Clone)]
pub struct RedisUrl {
    /// Name or address.
    pub host: String,
    /// TCP port, 6379 when not given.
    pub port: u16,
    /// Database number, 0 when not given.
    pub database: u16,
    /// ACL user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<SecretString>,
}

impl PartialEq for RedisUrl {
    fn eq(&self, other: &Self) -> bool {
        let exposed = |url: &Self| {
            let password = url.password.as_ref();
            password.map(|secret| secret.expose_secret().to_owned())
        };
        (&self.host, self.port, self.database, &self.user)
            == (&other.host, other.port, other.database, &other.user)
            && exposed(self) == exposed(other)
    }
}

impl Eq for RedisUrl {}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "memory" {
            return Ok(Self::Memory);
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            return if path.is_empty() || path.contains('\0') {
                Err("the store \"sqlite:\" needs a path, as in sqlite:xi-relay.db".to_owned())
            } else {
                Ok(Self::Sqlite(path.into()))
            };
        }
        if text.starts_with("rediss://") {
            return Err(
                "the store speaks Redis without TLS; use redis:// and a TLS tunnel beside the relay"
                    .to_owned(),
            );
        }
        if text.starts_with("redis://") {
            return parse_redis(text).map(Self::Redis);
        }
        // The text may hold a password, so it is not repeated.
        Err("the store must be \"memory\", \"sqlite:PATH\" or \"redis://HOST:PORT/DB\"".to_owned())
    }
}

fn parse_redis(text: &str) -> Result<RedisUrl, String> {
    let wrong = || "the store must look like redis://HOST:PORT/DB".to_owned();
    let url = url::Url::parse(text).map_err(|_| wrong())?;
    let host = url
        .host_str()
        .filter(|host| !host.is_empty())
        .ok_or_else(wrong)?;
    let database = match url.path().trim_start_matches('/') {
        "" => 0,
        digits => digits.parse().map_err(|_| wrong())?,
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong());
    }
    let decoded = |part: &str| {
        percent_encoding::percent_decode_str(part)
            .decode_utf8()
            .map(String::from)
            .map_err(|_| wrong())
    };
    let user = Some(decoded(url.username())?).filter(|user| !user.is_empty());
    let password = url
        .password()
        .map(decoded)
        .transpose()?
        .map(SecretString::from);
    Ok(RedisUrl {
        host: host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
        port: url.port().unwrap_or(6379),
        database,
        user,
        password,
    })
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Redis(url) => fmt::Display::fmt(url, f),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brackets = self.host.contains(':');
        let (open, close) = if brackets { ("[", "]") } else { ("", "") };
        write!(
            f,
            "redis://{open}{}{close}:{}/{}",
            self.host, self.port, self.database
        )
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for StoreUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl Serialize for StoreUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn hidden<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(_) => serializer.serialize_some("[hidden]"),
        None => serializer.serialize_none(),
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

/// Why the store could not be opened: one line naming cause and cure.
#[derive(Debug, thiserror::Error)]
#[error("usage.store {store}: {cause}; {cure}")]
pub struct OpenError {
    /// The store's address without its password.
    pub store: String,
    /// What went wrong.
    pub cause: String,
    /// What to do about it.
    pub cure: &'static str,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn store_urls_parse_and_print_without_their_password() {
        let check = |text: &str, printed: &str| {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), printed);
            assert_eq!(format!("{url:?}"), printed);
        };
        check("memory", "memory");
        check("sqlite:a/b.db", "sqlite:a/b.db");
        check("redis://localhost", "redis://localhost:6379/0");
        check("redis://u:p%40ss@cache:7000/3", "redis://cache:7000/3");
        check("redis://[::1]:7000/", "redis://[::1]:7000/0");
        for wrong in [
            "",
            "sqlite:",
            "redis://",
            "rediss://x",
            "redis://h/x",
            "file:x",
            "Memory",
        ] {
            assert!(wrong.parse::<StoreUrl>().is_err(), "{wrong}");
        }
        let StoreUrl::Redis(url) = "redis://u:p%40ss@cache/3".parse().unwrap() else {
            panic!()
        };
        assert_eq!(url.password.unwrap().expose_secret(), "p@ss");
    }

    #[test]
    fn a_configuration_prints_without_its_password() {
        let text = "store = \"redis://u:hunter@h/0\"\nredis_password = \"hunter\"\nlease = \"2s\"";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.validate(), Ok(()));
        assert!(!format!("{config:?}").contains("hunter"));
        assert!(!toml::to_string(&config).unwrap().contains("hunter"));
        assert!(toml::from_str::<Config>("stor = 1").is_err());
    }

    #[test]
    fn values_out_of_range_are_named() {
        let check = |text: &str, key: &str| {
            let config: Config = toml::from_str(text).unwrap();
            assert!(config.validate().unwrap_err().starts_with(key), "{key}");
        };
        check("lease = \"1ms\"", "lease");
        check("retention = \"1day\"", "retention");
        check("retention = \"500000000000y\"", "retention");
        check("reserve_ahead = 2000000", "reserve_ahead");
        check("redis_prefix = \"a b\"", "redis_prefix");
    }
}
