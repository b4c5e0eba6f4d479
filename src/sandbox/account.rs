//! The one account of the sandbox: its keys, its single-use tokens, what it has spent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};

use super::config::Config;
use super::refusal::Refusal;

/// How long a single-use token is good.
const TOKEN_LIFE: Duration = Duration::from_secs(15 * 60);
/// More tokens than this are not kept; the oldest go first.
const MAX_TOKENS: usize = 10_000;

/// What a client shows. It has no `Debug`, so that it cannot be logged by accident.
pub(super) enum Credential {
    /// An API key, or a bearer token, which the sandbox judges alike.
    Key(String),
    SingleUse(String),
}

/// Who may speak and what was spent, shared by all connections.
pub(super) struct Account {
    keys: Vec<SecretString>,
    tokens: Mutex<HashMap<String, Instant>>,
    limit: Option<u64>,
    /// Credits, in halves: the cheapest models cost half a credit a character.
    spent_halves: AtomicU64,
    n_running: AtomicUsize,
}

impl Account {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            keys: config.api_keys.clone(),
            tokens: Mutex::default(),
            limit: config.character_limit,
            spent_halves: AtomicU64::new(0),
            n_running: AtomicUsize::new(0),
        }
    }

    /// Whether a credential is good. A single-use token is spent by asking.
    pub(super) fn judge(&self, credential: Option<&Credential>) -> Result<(), Refusal> {
        let is_good = match credential {
            None => return Err(Refusal::NEEDS_AUTHORIZATION),
            Some(Credential::SingleUse(token)) => {
                let expires = self.tokens.lock().remove(token);
                expires.is_some_and(|expires| Instant::now() < expires)
            }
            Some(Credential::Key(key)) if self.keys.is_empty() => {
                !key.is_empty() && !key.starts_with("invalid")
            }
            Some(Credential::Key(key)) => self.keys.iter().any(|good| good.expose_secret() == key),
        };
        if is_good {
            Ok(())
        } else {
            Err(Refusal::INVALID_API_KEY)
        }
    }

    /// A new single-use token.
    pub(super) fn mint(&self) -> String {
        let token = format!("sutkn_{}{}", random_hex(), random_hex());
        let mut tokens = self.tokens.lock();
        let now = Instant::now();
        tokens.retain(|_, expires| now < *expires);
        if tokens.len() >= MAX_TOKENS {
            let oldest = tokens.iter().min_by_key(|(_, expires)| **expires);
            if let Some(oldest) = oldest.map(|(token, _)| token.clone()) {
                tokens.remove(&oldest);
            }
        }
        tokens.insert(token.clone(), now + TOKEN_LIFE);
        token
    }

    /// Spends credits for generating `text`, if there are enough left.
    pub(super) fn spend(&self, text: &str, halves_per_character: u64) -> Result<u64, Refusal> {
        let halves = text.chars().count() as u64 * halves_per_character;
        self.spent_halves
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spent| {
                let after = spent.checked_add(halves)?;
                self.limit
                    .is_none_or(|limit| after <= limit.saturating_mul(2))
                    .then_some(after)
            })
            .map(|_| halves.div_ceil(2))
            .map_err(|_| Refusal::QUOTA_EXCEEDED)
    }

    /// Credits spent so far.
    pub(super) fn spent(&self) -> u64 {
        self.spent_halves.load(Ordering::Relaxed).div_ceil(2)
    }

    /// Credits of the plan.
    pub(super) fn limit(&self) -> u64 {
        self.limit.unwrap_or(10_000_000)
    }

    /// Counts a request as running until the guard is dropped. The number includes it.
    pub(super) fn start(self: std::sync::Arc<Self>) -> (Running, usize) {
        let n_running = self.n_running.fetch_add(1, Ordering::Relaxed) + 1;
        (Running(self), n_running)
    }
}

/// A request being answered.
pub(super) struct Running(std::sync::Arc<Account>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.n_running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// 16 hex digits from the operating system.
pub(super) fn random_hex() -> String {
    crate::ids::SessionId::random().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<Credential> {
        Some(Credential::Key(text.to_owned()))
    }

    #[test]
    fn without_keys_all_but_empty_and_invalid_ones_are_good() {
        let account = Account::new(&Config::immediate());
        assert!(account.judge(key("anything").as_ref()).is_ok());
        assert_eq!(
            account.judge(key("").as_ref()),
            Err(Refusal::INVALID_API_KEY)
        );
        assert_eq!(
            account.judge(key("invalid-x").as_ref()),
            Err(Refusal::INVALID_API_KEY)
        );
        assert_eq!(account.judge(None), Err(Refusal::NEEDS_AUTHORIZATION));
    }

    #[test]
    fn with_keys_only_those_are_good() {
        let config = Config {
            api_keys: vec!["right".into()],
            ..Config::immediate()
        };
        let account = Account::new(&config);
        assert!(account.judge(key("right").as_ref()).is_ok());
        assert!(account.judge(key("wrong").as_ref()).is_err());
    }

    #[test]
    fn a_token_is_good_once() {
        let account = Account::new(&Config::immediate());
        let token = Some(Credential::SingleUse(account.mint()));
        assert!(account.judge(token.as_ref()).is_ok());
        assert_eq!(account.judge(token.as_ref()), Err(Refusal::INVALID_API_KEY));
    }

    #[test]
    fn spending_stops_at_the_limit_and_a_refused_text_costs_nothing() {
        let config = Config {
            character_limit: Some(5),
            ..Config::immediate()
        };
        let account = Account::new(&config);
        assert_eq!(account.spend("abc", 1), Ok(2));
        assert_eq!(account.spend("abcd", 2), Err(Refusal::QUOTA_EXCEEDED));
        assert_eq!(account.spend("abcdefg", 1), Ok(4));
        assert_eq!(account.spent(), 5);
        assert!(account.spend("a", 1).is_err());
    }
}
