//! The `[[clients]]` rows and the `[auth]` table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use url::{Host, Url};

use super::TokenHash;
use crate::ids::ClientId;

/// One `[[clients]]` row.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Who spends, in logs and in the ledger.
    pub id: ClientId,
    /// SHA-256 of the client's token; several while a token is being replaced.
    pub token_sha256: TokenHashes,
    /// The plan whose limits apply.
    #[serde(default = "default_plan")]
    pub plan: String,
    /// When the tokens stop working and their sessions end, in RFC 3339.
    #[serde(
        default,
        with = "humantime_serde",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<SystemTime>,
}

/// One hash or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "a token's SHA-256 must be 64 hex digits, or a list of such"
)]
pub enum TokenHashes {
    /// The usual case.
    One(TokenHash),
    /// While a token is being replaced.
    Several(Vec<TokenHash>),
}

impl TokenHashes {
    /// The hashes, one or more.
    #[must_use]
    pub fn as_slice(&self) -> &[TokenHash] {
        match self {
            Self::One(hash) => std::slice::from_ref(hash),
            Self::Several(hashes) => hashes,
        }
    }
}

/// The `[auth]` table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The plan of open access and of JWTs that name none.
    pub default_plan: String,
    /// How long a single-use token may wait to be used, 1 s to 24 h.
    #[serde(with = "humantime_serde")]
    pub single_use_lifetime: Duration,
    /// Clients that are refused whatever they show, such as a JWT's `sub`.
    pub revoked_clients: BTreeSet<ClientId>,
    /// Who may sign JWTs, each under a name of the operator's choice.
    pub jwt: BTreeMap<String, JwtConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default_plan: default_plan(),
            single_use_lifetime: Duration::from_secs(15 * 60),
            revoked_clients: BTreeSet::new(),
            jwt: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Whether nobody is named who may connect, so that access is open.
    #[must_use]
    pub fn is_open(&self, clients: &[ClientConfig]) -> bool {
        clients.is_empty() && self.jwt.is_empty()
    }
}

/// One `[auth.jwt.NAME]` table: where the keys come from and what the claims must say. Exactly
/// one of the first five is given; its type fixes the algorithm.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct JwtConfig {
    /// The shared secret of HS256, 32 bytes or more.
    #[serde(deserialize_with = "secret", serialize_with = "hidden")]
    pub secret: Option<SecretString>,
    /// A file with that secret; a line end after it does not count.
    pub secret_file: Option<PathBuf>,
    /// A PEM file with an RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA) public key.
    pub public_key_file: Option<PathBuf>,
    /// A file with a JSON Web Key Set (RFC 7517) of such public keys.
    pub jwks_file: Option<PathBuf>,
    /// The https URL of such a set (http only on loopback), fetched in the background.
    pub jwks_url: Option<KeySetUrl>,
    /// How often the URL is fetched anew, 1 min to 24 h.
    #[serde(with = "humantime_serde")]
    pub jwks_refresh: Duration,
    /// What the `iss` claim must be; any when absent.
    pub issuer: Option<String>,
    /// What the `aud` claim must hold; when absent a token that has one is refused.
    pub audience: Option<String>,
    /// The claim that names the plan.
    pub plan_claim: String,
    /// Put before `sub` to make the client's id, so that two issuers cannot name the same client.
    pub client_prefix: String,
    /// How far the clocks may differ, at most 30 s.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            secret: None,
            secret_file: None,
            public_key_file: None,
            jwks_file: None,
            jwks_url: None,
            jwks_refresh: Duration::from_secs(10 * 60),
            issuer: None,
            audience: None,
            plan_claim: "plan".to_owned(),
            client_prefix: String::new(),
            leeway: Duration::from_secs(10),
        }
    }
}

/// Where a key set is fetched from: https, or http from this machine, where nobody can stand in
/// between.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeySetUrl(Url);

impl KeySetUrl {
    pub(super) fn as_url(&self) -> &Url {
        &self.0
    }

    pub(super) fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }
}

impl TryFrom<String> for KeySetUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let url = Self(Url::parse(&text).map_err(|_| "jwks_url is not a URL")?);
        if !url.0.username().is_empty() || url.0.password().is_some() {
            return Err("jwks_url must not hold a user or a password");
        }
        match url.0.scheme() {
            "https" => Ok(url),
            "http" if url.is_loopback() => Ok(url),
            _ => Err("jwks_url must be https, or http on loopback"),
        }
    }
}

impl From<KeySetUrl> for String {
    fn from(url: KeySetUrl) -> Self {
        url.0.into()
    }
}

fn default_plan() -> String {
    "default".to_owned()
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

fn hidden<S: serde::Serializer>(
    secret: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| "[hidden]").serialize(serializer)
}

/// What is wrong with the clients or the `[auth]` table: the key, and the cure.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    key: String,
    problem: String,
}

impl ConfigError {
    pub(super) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_key_set_comes_over_https_or_from_this_machine() {
        let url = |text: &str| KeySetUrl::try_from(text.to_owned());
        for text in [
            "https://id.example.com/.well-known/jwks.json",
            "http://localhost:8000/jwks",
            "http://127.0.0.1/jwks",
            "http://[::1]:1/jwks",
        ] {
            assert!(url(text).is_ok(), "{text}");
        }
        for text in [
            "http://id.example.com/jwks",
            "http://localhost.example.com/jwks",
            "http://127.0.0.1@id.example.com/jwks",
            "https://user:word@id.example.com/jwks",
            "file:///etc/passwd",
            "id.example.com/jwks",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = toml::from_str::<Config>("defualt_plan = 'x'")
            .unwrap_err()
            .to_string();
        assert!(error.contains("defualt_plan"), "{error}");
        let error = toml::from_str::<Config>("[jwt.main]\nalgorithm = 'none'").unwrap_err();
        assert!(error.to_string().contains("algorithm"), "{error}");
        let error = toml::from_str::<ClientConfig>("id = 'a'\ntoken = 'x'").unwrap_err();
        assert!(error.to_string().contains("token"), "{error}");
    }

    #[test]
    fn neither_debug_nor_serialize_shows_the_secret() {
        let config: Config =
            toml::from_str("[jwt.main]\nsecret = 'correct horse battery staple'").unwrap();
        let shown = format!("{config:?}{}", toml::to_string(&config).unwrap());
        assert!(!shown.contains("horse"), "{shown}");
        assert!(shown.contains("[hidden]"), "{shown}");
    }
}
