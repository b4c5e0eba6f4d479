//! What the configuration says about clients, made ready for look-ups. Replaced as a whole.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Notify;

use super::jwt::{self, Issuer};
use super::remote::RemoteKeys;
use super::{
    AuthError, ClientConfig, Config, ConfigError, Identity, JwtConfig, TokenHash, TokenRef, subnet,
};
use crate::ids::ClientId;

/// The longest token that is looked at, in bytes. JWTs with many claims stay well below.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// What the configuration says, made ready for look-ups.
pub(super) struct Rules {
    pub open: bool,
    default_plan: Arc<str>,
    plans: BTreeSet<Arc<str>>,
    clients: HashMap<TokenHash, Client>,
    issuers: Vec<Issuer>,
    revoked_clients: BTreeSet<ClientId>,
    pub single_use_lifetime: Duration,
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
    /// `old` is what stood before a reload; keys that it has fetched from a URL stay.
    pub fn new(
        config: &Config,
        rows: &[ClientConfig],
        plans: &BTreeSet<Arc<str>>,
        fetch: &Arc<Notify>,
        old: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        let lifetime = config.single_use_lifetime;
        if lifetime < Duration::from_secs(1) || lifetime > Duration::from_secs(24 * 60 * 60) {
            return Err(ConfigError::new(
                "auth.single_use_lifetime",
                "must be 1s to 24h",
            ));
        }
        // A relay of configured clients alone has no use for a default plan.
        let default_plan = if rows.is_empty() || !config.jwt.is_empty() {
            plan(plans, "auth.default_plan", &config.default_plan)?
        } else {
            config.default_plan.as_str().into()
        };
        let remote = |jwt: &JwtConfig| {
            let url = jwt.jwks_url.as_ref()?;
            let same = |remote: &&Arc<RemoteKeys>| {
                remote.url == *url && remote.refresh == jwt.jwks_refresh
            };
            let kept = old.and_then(|old| old.remotes().find(same).cloned());
            Some(kept.unwrap_or_else(|| {
                Arc::new(RemoteKeys::new(
                    url.clone(),
                    jwt.jwks_refresh,
                    Arc::clone(fetch),
                ))
            }))
        };
        let issuers = config
            .jwt
            .iter()
            .map(|(name, jwt)| Issuer::new(name, jwt, remote))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            issuers,
            open: config.is_open(rows),
            default_plan,
            plans: plans.clone(),
            clients: by_token(rows, plans)?,
            revoked_clients: config.revoked_clients.clone(),
            single_use_lifetime: lifetime,
        })
    }

    pub fn identify(
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
            match self.identify_configured(TokenHash::of(key)) {
                Some(identity) => identity,
                None => self.identify_jwt(key, now)?,
            }
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

    fn identify_jwt(&self, key: &SecretString, now: SystemTime) -> Result<Identity, AuthError> {
        if self.issuers.is_empty() || !jwt::looks_like_jwt(key) {
            return Err(AuthError::Unknown);
        }
        let verified = jwt::verify(&self.issuers, key, now)?;
        let plan = match &verified.plan {
            None => Arc::clone(&self.default_plan),
            Some(name) => self.plan(name)?,
        };
        Ok(Identity {
            client: verified.client,
            plan,
            expires_at: Some(verified.expires_at),
            narrowing: None,
            token: TokenRef::Jwt {
                token: verified.token,
                key: verified.key,
            },
        })
    }

    fn plan(&self, name: &str) -> Result<Arc<str>, AuthError> {
        self.plans.get(name).cloned().ok_or(AuthError::PlanUnknown)
    }

    /// The key sets that are fetched from URLs.
    pub fn remotes(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.issuers.iter().filter_map(Issuer::remote)
    }

    /// The map's own probing may tell hashes apart by time, which helps nobody to a token; that
    /// the one it found is the right one is told in constant time.
    fn find(&self, token: TokenHash) -> Option<&Client> {
        self.clients
            .get(&token)
            .filter(|client| client.token == token)
    }

    pub fn recheck(
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
            TokenRef::Open => Err(AuthError::Revoked),
            TokenRef::Jwt { key, .. } => {
                if !self.issuers.iter().any(|issuer| issuer.has_key(*key)) {
                    return Err(AuthError::Revoked);
                }
                self.plan(plan)
            }
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

/// The configured clients under each of their tokens.
fn by_token(
    rows: &[ClientConfig],
    plans: &BTreeSet<Arc<str>>,
) -> Result<HashMap<TokenHash, Client>, ConfigError> {
    let mut clients = HashMap::new();
    let mut ids = BTreeSet::new();
    for row in rows {
        let error = |field: &str, problem: &str| {
            Err(ConfigError::new(
                format!("clients.{}.{field}", row.id),
                problem,
            ))
        };
        if !ids.insert(&row.id) {
            return error(
                "id",
                "another row has the same id: give one row several hashes",
            );
        }
        let plan = plan(plans, &format!("clients.{}.plan", row.id), &row.plan)?;
        if row.token_sha256.as_slice().is_empty() {
            return error(
                "token_sha256",
                "lists no hash: `xi-relay token new` makes one",
            );
        }
        for &token in row.token_sha256.as_slice() {
            if token == TokenHash::of_bytes(b"") {
                return error(
                    "token_sha256",
                    "is the hash of nothing: use `xi-relay token new`",
                );
            }
            let client = Client {
                token,
                id: row.id.clone(),
                plan: Arc::clone(&plan),
                expires_at: row.expires_at,
            };
            if clients.insert(token, client).is_some() {
                let problem = "the same hash stands twice: each client needs a token of its own";
                return error("token_sha256", problem);
            }
        }
    }
    Ok(clients)
}

fn plan(plans: &BTreeSet<Arc<str>>, key: &str, name: &str) -> Result<Arc<str>, ConfigError> {
    plans.get(name).cloned().ok_or_else(|| {
        ConfigError::new(
            key,
            format!("there is no plan {name:?}: add [plans.{name}]"),
        )
    })
}

/// Refuses what cannot be a token before it is hashed.
pub(super) fn check_size(token: &SecretString) -> Result<(), AuthError> {
    match token.expose_secret().len() {
        0 => Err(AuthError::Missing),
        1..=MAX_TOKEN_BYTES => Ok(()),
        _ => Err(AuthError::Unknown),
    }
}
