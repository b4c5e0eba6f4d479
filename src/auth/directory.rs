//! Everybody who may connect, and the question of who is asking.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

use super::single_use::{Minter, Record};
use super::{
    AuthError, ClientConfig, Config, ConfigError, Credential, Identity, MemoryTokens, MintError,
    Minted, Narrowing, NewToken, TokenHash, TokenRef, TokenStore, subnet,
};
use crate::ids::ClientId;

/// The longest token that is looked at, in bytes. JWTs with many claims stay well below.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How long a revoked token is remembered: longer than sessions last, since all it serves is to
/// end them.
const REMEMBER_REVOKED: Duration = Duration::from_secs(48 * 60 * 60);

/// The most revoked tokens that are remembered.
const MAX_REVOKED: usize = 65_536;

/// Everybody who may connect. Shared by all connections; what it knows is replaced as a whole
/// when the configuration is read again.
pub struct Directory {
    rules: ArcSwap<Rules>,
    tokens: Arc<dyn TokenStore>,
    revoked: Mutex<HashMap<TokenHash, SystemTime>>,
    changes: watch::Sender<u64>,
}

impl Directory {
    /// Everybody whom the configuration names; with no client and no JWT issuer access is open.
    /// `plans` are the names that may be given to clients.
    pub fn new(
        config: &Config,
        clients: &[ClientConfig],
        plans: &BTreeSet<Arc<str>>,
        tokens: Arc<dyn TokenStore>,
    ) -> Result<Self, ConfigError> {
        Ok(Self::with_rules(
            Rules::new(config, clients, plans)?,
            tokens,
        ))
    }

    /// Open access: whoever connects is the address it connects from, on the plan `default`.
    #[must_use]
    pub fn open() -> Self {
        let plans = BTreeSet::from([Arc::from("default")]);
        let rules = Rules::new(&Config::default(), &[], &plans)
            .expect("the default configuration needs no more than its default plan");
        Self::with_rules(rules, Arc::new(MemoryTokens::default()))
    }

    fn with_rules(rules: Rules, tokens: Arc<dyn TokenStore>) -> Self {
        Self {
            rules: ArcSwap::from_pointee(rules),
            tokens,
            revoked: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Whether anybody may connect without showing anything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.rules.load().open
    }

    /// Takes over a configuration that was read again, or changes nothing and says why.
    pub fn reload(
        &self,
        config: &Config,
        clients: &[ClientConfig],
        plans: &BTreeSet<Arc<str>>,
    ) -> Result<(), ConfigError> {
        self.rules
            .store(Arc::new(Rules::new(config, clients, plans)?));
        self.changes.send_modify(|n_changes| *n_changes += 1);
        Ok(())
    }

    /// Changes whenever a live session should ask [`recheck`](Self::recheck): after a reload, a
    /// revocation, or a change of the keys that sign JWTs.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Who is asking. Spends a single-use token, which is the only case that waits for a store.
    pub async fn identify(
        &self,
        credential: Option<&Credential>,
        remote: IpAddr,
        now: SystemTime,
    ) -> Result<Identity, AuthError> {
        let key = match credential {
            Some(Credential::SingleUse(token)) => return self.spend(token, now).await,
            Some(Credential::Key(token)) => Some(token),
            None => None,
        };
        let identity = self.rules.load().identify(key, remote, now)?;
        self.check_revoked(&identity.token)?;
        Ok(identity)
    }

    /// Whether a session of this identity may go on.
    #[must_use]
    pub fn still_valid(&self, identity: &Identity, now: SystemTime) -> bool {
        self.recheck(identity, now).is_ok()
    }

    /// The plan that applies to a live session by now, or why it must end.
    pub fn recheck(&self, identity: &Identity, now: SystemTime) -> Result<Arc<str>, AuthError> {
        self.check_revoked(&identity.token)?;
        if identity
            .expires_at
            .is_some_and(|expires_at| expires_at <= now)
        {
            return Err(AuthError::Expired);
        }
        self.rules
            .load()
            .recheck(&identity.client, &identity.plan, &identity.token, now)
    }

    /// Makes a token that opens one session as `identity`, with less allowed if the body of the
    /// request says so.
    pub async fn mint(
        &self,
        identity: &Identity,
        body: &[u8],
        now: SystemTime,
    ) -> Result<Minted, MintError> {
        let minter = Minter::of(&identity.token).ok_or(MintError::SingleUse)?;
        let narrowing = Narrowing::from_body(body)?;
        let lifetime = self.rules.load().single_use_lifetime;
        let new = NewToken::single_use();
        let expires_at = identity
            .expires_at
            .map_or(now + lifetime, |end| end.min(now + lifetime));
        let record = Record {
            client: identity.client.clone(),
            plan: identity.plan.to_string(),
            session_expires_at: identity.expires_at,
            narrowing,
            minter,
        };
        let record = serde_json::to_string(&record).map_err(|_| AuthError::StoreUnavailable)?;
        self.tokens
            .put(new.hash, record, expires_at)
            .await
            .map_err(|_| AuthError::StoreUnavailable)?;
        Ok(Minted {
            token: new.token,
            hash: new.hash,
            expires_at,
        })
    }

    /// Withdraws a token: a single-use token that waits is gone from the store, and sessions of
    /// this process that rest on the token, or on one that it made, are over. Tells whether the
    /// store held it.
    pub async fn revoke(&self, token: TokenHash, now: SystemTime) -> Result<bool, AuthError> {
        self.remember_revoked(token, now);
        self.changes.send_modify(|n_changes| *n_changes += 1);
        self.tokens
            .revoke(token)
            .await
            .map_err(|_| AuthError::StoreUnavailable)
    }

    fn remember_revoked(&self, token: TokenHash, now: SystemTime) {
        let mut revoked = self.revoked.lock();
        if revoked.len() >= MAX_REVOKED {
            revoked.retain(|_, at| *at + REMEMBER_REVOKED > now);
        }
        if revoked.len() >= MAX_REVOKED {
            let oldest = revoked
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(token, _)| *token);
            oldest.and_then(|oldest| revoked.remove(&oldest));
        }
        revoked.insert(token, now);
    }

    fn check_revoked(&self, token: &TokenRef) -> Result<(), AuthError> {
        let Some(hash) = token.hash() else {
            return Ok(());
        };
        if self.revoked.lock().contains_key(&hash) {
            return Err(AuthError::Revoked);
        }
        match token {
            TokenRef::SingleUse { minter, .. } => self.check_revoked(minter),
            TokenRef::Open | TokenRef::Configured(_) | TokenRef::Jwt { .. } => Ok(()),
        }
    }

    async fn spend(&self, token: &SecretString, now: SystemTime) -> Result<Identity, AuthError> {
        check_size(token)?;
        let hash = TokenHash::of(token);
        if self.revoked.lock().contains_key(&hash) {
            return Err(AuthError::Revoked);
        }
        let record = self
            .tokens
            .take(hash, now)
            .await
            .map_err(|_| AuthError::StoreUnavailable)?;
        // A record that does not read back is of a version that this one does not know.
        let record: Record = serde_json::from_str(&record.ok_or(AuthError::Unknown)?)
            .map_err(|_| AuthError::Unknown)?;
        let mut identity = Identity {
            client: record.client,
            plan: record.plan.into(),
            expires_at: record.session_expires_at,
            narrowing: Some(record.narrowing),
            token: TokenRef::SingleUse {
                token: hash,
                minter: Box::new(record.minter.into()),
            },
        };
        identity.plan = self.recheck(&identity, now)?;
        Ok(identity)
    }
}

/// What the configuration says, made ready for look-ups.
struct Rules {
    open: bool,
    default_plan: Arc<str>,
    plans: BTreeSet<Arc<str>>,
    clients: HashMap<TokenHash, Client>,
    revoked_clients: BTreeSet<ClientId>,
    single_use_lifetime: Duration,
}

/// A configured client, under each of its tokens.
#[derive(Clone)]
struct Client {
    token: TokenHash,
    id: ClientId,
    plan: Arc<str>,
    expires_at: Option<SystemTime>,
}

impl Rules {
    fn new(
        config: &Config,
        rows: &[ClientConfig],
        plans: &BTreeSet<Arc<str>>,
    ) -> Result<Self, ConfigError> {
        let plan = |key: &str, name: &str| {
            plans.get(name).cloned().ok_or_else(|| {
                ConfigError::new(
                    key,
                    format!("there is no plan {name:?}: add [plans.{name}]"),
                )
            })
        };
        let lifetime = config.single_use_lifetime;
        if lifetime < Duration::from_secs(1) || lifetime > Duration::from_secs(24 * 60 * 60) {
            return Err(ConfigError::new(
                "auth.single_use_lifetime",
                "must be 1s to 24h",
            ));
        }
        // A relay of configured clients alone has no use for a default plan.
        let default_plan = if rows.is_empty() || !config.jwt.is_empty() {
            plan("auth.default_plan", &config.default_plan)?
        } else {
            config.default_plan.as_str().into()
        };
        let mut clients = HashMap::new();
        let mut ids = BTreeSet::new();
        for row in rows {
            let key = |field: &str| format!("clients.{}.{field}", row.id);
            if !ids.insert(&row.id) {
                let problem = "another row has the same id: give one row several hashes instead";
                return Err(ConfigError::new(key("id"), problem));
            }
            let plan = plan(&key("plan"), &row.plan)?;
            let tokens = row.token_sha256.as_slice();
            if tokens.is_empty() {
                let problem = "lists no hash: run `xi-relay token new` for one";
                return Err(ConfigError::new(key("token_sha256"), problem));
            }
            for &token in tokens {
                let client = Client {
                    token,
                    id: row.id.clone(),
                    plan: Arc::clone(&plan),
                    expires_at: row.expires_at,
                };
                if token == TokenHash::of_bytes(b"") {
                    let problem = "is the hash of nothing: run `xi-relay token new`";
                    return Err(ConfigError::new(key("token_sha256"), problem));
                }
                if clients.insert(token, client).is_some() {
                    let problem =
                        "the same hash stands twice: each client needs a token of its own";
                    return Err(ConfigError::new(key("token_sha256"), problem));
                }
            }
        }
        Ok(Self {
            open: config.is_open(rows),
            default_plan,
            plans: plans.clone(),
            clients,
            revoked_clients: config.revoked_clients.clone(),
            single_use_lifetime: lifetime,
        })
    }

    fn identify(
        &self,
        key: Option<&SecretString>,
        remote: IpAddr,
        now: SystemTime,
    ) -> Result<Identity, AuthError> {
        let identity = if self.open {
            // Clients whose library insists on a key may send any.
            self.identify_address(remote)
        } else {
            let key = key.ok_or(AuthError::Missing)?;
            check_size(key)?;
            self.identify_configured(TokenHash::of(key))
                .ok_or(AuthError::Unknown)?
        };
        if self.revoked_clients.contains(&identity.client) {
            return Err(AuthError::Revoked);
        }
        match identity.expires_at {
            Some(expires_at) if expires_at <= now => Err(AuthError::Expired),
            _ => Ok(identity),
        }
    }

    fn identify_address(&self, remote: IpAddr) -> Identity {
        let subnet = subnet(remote);
        let suffix = if subnet.is_ipv6() && !subnet.is_loopback() {
            "/64"
        } else {
            ""
        };
        Identity {
            client: ClientId::parse(&format!("ip:{subnet}{suffix}"))
                .expect("an address is short and has no white space"),
            plan: Arc::clone(&self.default_plan),
            expires_at: None,
            narrowing: None,
            token: TokenRef::Open,
        }
    }

    fn identify_configured(&self, token: TokenHash) -> Option<Identity> {
        let client = self.find(token)?;
        Some(Identity {
            client: client.id.clone(),
            plan: Arc::clone(&client.plan),
            expires_at: client.expires_at,
            narrowing: None,
            token: TokenRef::Configured(token),
        })
    }

    /// The map's own probing may tell hashes apart by time, which helps nobody to a token; that
    /// the one it found is the right one is told in constant time.
    fn find(&self, token: TokenHash) -> Option<&Client> {
        self.clients
            .get(&token)
            .filter(|client| client.token == token)
    }

    fn recheck(
        &self,
        client: &ClientId,
        plan: &str,
        token: &TokenRef,
        now: SystemTime,
    ) -> Result<Arc<str>, AuthError> {
        if self.revoked_clients.contains(client) {
            return Err(AuthError::Revoked);
        }
        match token {
            TokenRef::Open if self.open => Ok(Arc::clone(&self.default_plan)),
            TokenRef::Open | TokenRef::Jwt { .. } => Err(AuthError::Revoked),
            TokenRef::Configured(token) => {
                let known = self.find(*token).filter(|known| known.id == *client);
                let known = known.ok_or(AuthError::Revoked)?;
                match known.expires_at {
                    Some(expires_at) if expires_at <= now => Err(AuthError::Expired),
                    _ => Ok(Arc::clone(&known.plan)),
                }
            }
            TokenRef::SingleUse { minter, .. } => self.recheck(client, plan, minter, now),
        }
    }
}

fn check_size(token: &SecretString) -> Result<(), AuthError> {
    match token.expose_secret().len() {
        0 => Err(AuthError::Missing),
        1..=MAX_TOKEN_BYTES => Ok(()),
        _ => Err(AuthError::Unknown),
    }
}

#[cfg(test)]
mod tests;
