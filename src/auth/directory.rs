//! Everybody who may connect, and the question of who is asking.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::rules::{Rules, check_size};
use super::single_use::{Minter, Record};
use super::{
    AuthError, ClientConfig, Config, ConfigError, Credential, Identity, MemoryTokens, MintError,
    Minted, Narrowing, NewToken, TokenHash, TokenRef, TokenStore,
};

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
    fetch: Arc<Notify>,
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
        let fetch = Arc::new(Notify::new());
        let rules = Rules::new(config, clients, plans, &fetch, None)?;
        Ok(Self {
            rules: ArcSwap::from_pointee(rules),
            tokens,
            revoked: Mutex::default(),
            changes: watch::Sender::new(0),
            fetch,
        })
    }

    /// Open access: whoever connects is the address it connects from, on the plan `default`.
    #[must_use]
    pub fn open() -> Self {
        let plans = BTreeSet::from([Arc::from("default")]);
        Self::new(
            &Config::default(),
            &[],
            &plans,
            Arc::new(MemoryTokens::default()),
        )
        .expect("the default configuration needs no more than its default plan")
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
        let old = self.rules.load();
        let rules = Rules::new(config, clients, plans, &self.fetch, Some(&old))?;
        self.rules.store(Arc::new(rules));
        self.fetch.notify_one();
        self.changes.send_modify(|n_changes| *n_changes += 1);
        Ok(())
    }

    /// Changes whenever a live session should ask [`recheck`](Self::recheck): after a reload, a
    /// revocation, or a change of the keys that sign JWTs.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether every key set that comes from a URL has been fetched at least once.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.rules
            .load()
            .remotes()
            .all(|remote| remote.keys().is_some())
    }

    /// Fetches key sets from their URLs, at once and then as they come due, until dropped. Does
    /// nothing while none is configured.
    pub async fn keep_keys_fresh(&self) {
        loop {
            let remotes: Vec<_> = self.rules.load().remotes().cloned().collect();
            let now = Instant::now();
            let due = remotes
                .iter()
                .filter(|remote| remote.due().is_none_or(|due| due <= now));
            let fetched = futures_util::future::join_all(due.map(|remote| remote.fetch())).await;
            if fetched.contains(&true) {
                self.changes.send_modify(|n_changes| *n_changes += 1);
            }
            let next = remotes.iter().filter_map(|remote| remote.due()).min();
            tokio::select! {
                () = self.fetch.notified() => {}
                () = sleep_until_some(next) => {}
            }
        }
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

    /// Withdraws the token that [`TokenHash::to_revoke`] gave this hash of: a single-use token that
    /// waits is gone from the store, and sessions of this process that rest on the token, or on one
    /// that it made, are over. Tells whether the store held it.
    ///
    /// # Errors
    /// When the store does not answer: then nobody but this process knows.
    pub async fn revoke(&self, token: TokenHash, now: SystemTime) -> Result<bool, AuthError> {
        self.remember_revoked(token, now);
        self.changes.send_modify(|n_changes| *n_changes += 1);
        self.tokens
            .revoke(token)
            .await
            .map_err(|_| AuthError::StoreUnavailable)
    }

    /// Takes note of tokens that were withdrawn elsewhere.
    pub fn learn_revoked(&self, tokens: impl IntoIterator<Item = TokenHash>, now: SystemTime) {
        let mut revoked = self.revoked.lock();
        let n_before = revoked.len();
        for token in tokens {
            if revoked.len() >= MAX_REVOKED && !revoked.contains_key(&token) {
                tracing::error!(
                    max = MAX_REVOKED,
                    "more tokens are revoked than can be remembered; take clients out of the \
                     configuration instead"
                );
                break;
            }
            revoked.entry(token).or_insert(now);
        }
        let has_new = n_before < revoked.len();
        drop(revoked);
        if has_new {
            self.changes.send_modify(|n_changes| *n_changes += 1);
        }
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

/// Sleeps until then, or for ever.
async fn sleep_until_some(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod jwt_tests;
