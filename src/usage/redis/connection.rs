//! One connection to Redis, shared by all requests. A failure drops it; the next heartbeat makes
//! a new one and notices when another server, or the same one restarted, is behind it.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisError,
    ServerErrorKind, cmd, io::tcp::TcpSettings,
};
use parking_lot::Mutex;
use secrecy::ExposeSecret;

use crate::usage::StoreError;
use crate::usage::config::{Config, OpenError, RedisUrl};

/// How long connecting, and each answer, may take: less than a session waits.
const ANSWER: Duration = Duration::from_millis(240);

/// The oldest Redis whose scripts and streams can do what is asked of them.
const OLDEST: u32 = 7;

pub(super) struct Link {
    client: Client,
    /// The address without its password.
    shown: String,
    connection: Mutex<Option<MultiplexedConnection>>,
    /// The run of the server that was last connected to.
    run: Mutex<Option<String>>,
}

impl Link {
    pub(super) fn new(url: &RedisUrl, config: &Config) -> Result<Self, OpenError> {
        let wrong = |error: RedisError| OpenError {
            store: url.to_string(),
            cause: error.to_string(),
            cure: "correct the address",
        };
        let address = ConnectionAddr::Tcp(url.host.clone(), url.port);
        let info = address.into_connection_info().map_err(wrong)?;
        let mut login = info
            .redis_settings()
            .clone()
            .set_db(i64::from(url.database));
        if let Some(user) = &url.user {
            login = login.set_username(user);
        }
        if let Some(password) = url.password.as_ref().or(config.redis_password.as_ref()) {
            login = login.set_password(password.expose_secret());
        }
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = info.set_redis_settings(login).set_tcp_settings(tcp);
        Ok(Self {
            client: Client::open(info).map_err(wrong)?,
            shown: url.to_string(),
            connection: Mutex::default(),
            run: Mutex::default(),
        })
    }

    /// Connects once. A server that is away is no error yet, one that will never serve is.
    pub(super) async fn try_out(&self) -> Result<(), OpenError> {
        let failed = |cause: String, cure| OpenError {
            store: self.shown.clone(),
            cause,
            cure,
        };
        match self.connect_and_look().await {
            Ok(Some(major)) if major < OLDEST => Err(failed(
                format!("the server is Redis {major}"),
                "run Redis 7 or newer",
            )),
            Ok(_) => Ok(()),
            Err(error) if refuses(&error) => {
                let cure = "correct user, password and database number, or the server's ACL";
                Err(failed(error.to_string(), cure))
            }
            Err(error) => {
                tracing::warn!(store = self.shown, %error, "the usage store cannot be reached yet");
                Ok(())
            }
        }
    }

    /// Makes sure that there is a connection. True when there was none and the server behind the
    /// new one is not the run that was connected to before.
    pub(super) async fn connect(&self) -> Result<bool, StoreError> {
        if self.connection.lock().is_some() {
            return Ok(false);
        }
        let before = self.run.lock().clone();
        self.connect_and_look()
            .await
            .map_err(|error| self.failed(&error))?;
        Ok(before.is_some() && before != *self.run.lock())
    }

    /// The connection, if there is one.
    pub(super) fn current(&self) -> Result<MultiplexedConnection, StoreError> {
        let connection = self.connection.lock().clone();
        connection.ok_or_else(|| StoreError::Unavailable("not connected".to_owned()))
    }

    /// Drops the connection: what was asked on it may yet be answered, long after anybody waits.
    pub(super) fn failed(&self, error: &RedisError) -> StoreError {
        *self.connection.lock() = None;
        StoreError::Unavailable(error.to_string())
    }

    /// Connects and returns the server's major version, where it tells.
    async fn connect_and_look(&self) -> Result<Option<u32>, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(ANSWER));
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let info: String = cmd("INFO")
            .arg("server")
            .arg("memory")
            .query_async(&mut connection)
            .await?;
        let line = |name: &str| {
            let found = info
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            found.map(|value| value.trim().to_owned())
        };
        let evicts = line("maxmemory").is_some_and(|bytes| bytes != "0")
            && line("maxmemory_policy").is_some_and(|policy| policy != "noeviction");
        if evicts {
            tracing::warn!(
                store = self.shown,
                "Redis may evict counters when memory runs out; set maxmemory-policy to noeviction"
            );
        }
        *self.run.lock() = line("run_id");
        *self.connection.lock() = Some(connection);
        Ok(line("redis_version").and_then(|version| version.split('.').next()?.parse().ok()))
    }
}

/// Whether a server says no to this relay as such, so that waiting is in vain.
fn refuses(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => true,
        ErrorKind::Server(ServerErrorKind::NoPerm) => true,
        ErrorKind::Server(ServerErrorKind::ResponseError) => true,
        _ => matches!(error.code(), Some("NOAUTH" | "WRONGPASS")),
    }
}
