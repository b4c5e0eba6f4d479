//! JWTs (RFC 7519) by the rules of RFC 8725: the configured key fixes the algorithm, the header
//! brings no key of its own, and what the claims must say is checked after the signature.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::Algorithm;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{KeyError, VerifyingKey, read_key_set};
use super::remote::RemoteKeys;
use super::{AuthError, ConfigError, JwtConfig, TokenHash};
use crate::ids::ClientId;

/// The longest `kid` that is looked at, in bytes.
const MAX_KID_BYTES: usize = 256;

/// The largest key file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// One `[auth.jwt.NAME]` table, ready to verify.
pub(super) struct Issuer {
    keys: Keys,
    issuer: Option<String>,
    audience: Option<String>,
    plan_claim: String,
    client_prefix: String,
    leeway: Duration,
}

enum Keys {
    Fixed(Vec<VerifyingKey>),
    Remote(Arc<RemoteKeys>),
}

/// What a JWT said that holds.
#[derive(Debug)]
pub(super) struct Verified {
    pub client: ClientId,
    /// The plan it names, if it names one.
    pub plan: Option<String>,
    /// Its `exp` and the leeway.
    pub expires_at: SystemTime,
    pub token: TokenHash,
    pub key: TokenHash,
}

impl Issuer {
    /// Reads the keys. `remote` gives the keys of a URL, those already fetched if there are any.
    pub fn new(
        name: &str,
        config: &JwtConfig,
        remote: impl FnOnce(&JwtConfig) -> Option<Arc<RemoteKeys>>,
    ) -> Result<Self, ConfigError> {
        let error = |field: &str, problem: String| {
            ConfigError::new(format!("auth.jwt.{name}.{field}"), problem)
        };
        let n_sources = [
            config.secret.is_some(),
            config.secret_file.is_some(),
            config.public_key_file.is_some(),
            config.jwks_file.is_some(),
            config.jwks_url.is_some(),
        ];
        if n_sources.into_iter().filter(|given| *given).count() != 1 {
            return Err(ConfigError::new(
                format!("auth.jwt.{name}"),
                "needs exactly one of secret, secret_file, public_key_file, jwks_file, jwks_url",
            ));
        }
        if config.leeway > Duration::from_secs(30) {
            return Err(error("leeway", "must be 30s at most".into()));
        }
        let minute = Duration::from_secs(60);
        if config.jwks_refresh < minute || config.jwks_refresh > 24 * 60 * minute {
            return Err(error("jwks_refresh", "must be 1m to 24h".into()));
        }
        if !config.client_prefix.is_empty() && ClientId::parse(&config.client_prefix).is_err() {
            return Err(error(
                "client_prefix",
                "must be text that a client id may hold".into(),
            ));
        }
        let key = |field: &str, key: Result<Vec<VerifyingKey>, KeyError>| {
            key.map(Keys::Fixed)
                .map_err(|problem| error(field, problem.to_string()))
        };
        let file = |field: &str, path: &Path| {
            read_file(path)
                .map_err(|problem| error(field, format!("{}: {problem}", path.display())))
        };
        let keys = if let Some(secret) = &config.secret {
            let secret = VerifyingKey::from_secret(secret.expose_secret().as_bytes());
            key("secret", secret.map(|key| vec![key]))?
        } else if let Some(path) = &config.secret_file {
            let secret = file("secret_file", path)?;
            let end = secret
                .iter()
                .rposition(|b| !b"\r\n".contains(b))
                .map_or(0, |last| last + 1);
            key(
                "secret_file",
                VerifyingKey::from_secret(&secret[..end]).map(|key| vec![key]),
            )?
        } else if let Some(path) = &config.public_key_file {
            let pem = file("public_key_file", path)?;
            key(
                "public_key_file",
                VerifyingKey::from_pem(&pem).map(|key| vec![key]),
            )?
        } else if let Some(path) = &config.jwks_file {
            key("jwks_file", read_key_set(&file("jwks_file", path)?))?
        } else {
            let remote = remote(config).ok_or_else(|| error("jwks_url", "is missing".into()))?;
            Keys::Remote(remote)
        };
        Ok(Self {
            keys,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            plan_claim: config.plan_claim.clone(),
            client_prefix: config.client_prefix.clone(),
            leeway: config.leeway,
        })
    }

    /// The keys that are fetched from a URL, if they are.
    pub fn remote(&self) -> Option<&Arc<RemoteKeys>> {
        match &self.keys {
            Keys::Fixed(_) => None,
            Keys::Remote(remote) => Some(remote),
        }
    }

    /// Whether the key still counts.
    pub fn has_key(&self, id: TokenHash) -> bool {
        self.with_keys(|keys| keys.iter().any(|key| key.id == id))
    }

    fn with_keys<T>(&self, look: impl FnOnce(&[VerifyingKey]) -> T) -> T {
        match &self.keys {
            Keys::Fixed(keys) => look(keys),
            Keys::Remote(remote) => look(remote.keys().as_deref().map_or(&[], Vec::as_slice)),
        }
    }

    fn verify(&self, jwt: &Jwt<'_>, now: SystemTime) -> Result<Verified, AuthError> {
        let kid = jwt.header.kid.as_deref();
        let key = self.with_keys(|keys| {
            keys.iter()
                .filter(|key| key.may_have_signed(jwt.algorithm, kid))
                .find(|key| key.verifies(jwt.message, jwt.signature))
                .map(|key| key.id)
        });
        let key = key.ok_or_else(|| self.no_key(kid))?;
        // The claims are looked at only now that somebody trusted has signed them.
        let claims: Map<String, Value> = decode_part(jwt.claims).ok_or(AuthError::Unknown)?;
        let expires_at = self.check_times(&claims, now)?;
        self.check_names(&claims)?;
        let sub = claims
            .get("sub")
            .and_then(Value::as_str)
            .ok_or(AuthError::NoSubject)?;
        if sub.is_empty() {
            return Err(AuthError::NoSubject);
        }
        let client = ClientId::parse(&format!("{}{sub}", self.client_prefix))
            .map_err(|_| AuthError::NoSubject)?;
        let plan = match claims.get(&self.plan_claim) {
            None | Some(Value::Null) => None,
            Some(Value::String(plan)) => Some(plan.clone()),
            Some(_) => return Err(AuthError::PlanUnknown),
        };
        Ok(Verified {
            client,
            plan,
            expires_at,
            token: jwt.hash,
            key,
        })
    }

    /// Why no key fits; asks for the set to be fetched anew when the token names a key that is
    /// not in it.
    fn no_key(&self, kid: Option<&str>) -> AuthError {
        let Keys::Remote(remote) = &self.keys else {
            return AuthError::Unknown;
        };
        let Some(keys) = remote.keys() else {
            return AuthError::KeysMissing;
        };
        if kid.is_some_and(|kid| !keys.iter().any(|key| key.kid.as_deref() == Some(kid))) {
            remote.want();
        }
        AuthError::Unknown
    }

    fn check_times(
        &self,
        claims: &Map<String, Value>,
        now: SystemTime,
    ) -> Result<SystemTime, AuthError> {
        let exp = claims
            .get("exp")
            .and_then(numeric_date)
            .ok_or(AuthError::NoTime)?;
        let expires_at = exp.checked_add(self.leeway).ok_or(AuthError::NoTime)?;
        if expires_at <= now {
            return Err(AuthError::Expired);
        }
        if let Some(nbf) = claims.get("nbf") {
            let nbf = numeric_date(nbf).ok_or(AuthError::NoTime)?;
            if nbf > now + self.leeway {
                return Err(AuthError::NotYetValid);
            }
        }
        Ok(expires_at)
    }

    fn check_names(&self, claims: &Map<String, Value>) -> Result<(), AuthError> {
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(AuthError::WrongIssuer);
        }
        match (&self.audience, claims.get("aud")) {
            (None, None) => Ok(()),
            (Some(audience), Some(Value::String(aud))) if aud == audience => Ok(()),
            (Some(audience), Some(Value::Array(auds)))
                if auds.iter().any(|aud| aud.as_str() == Some(audience)) =>
            {
                Ok(())
            }
            // A token with an audience that is not us must be refused (RFC 7519 section 4.1.3).
            (Some(_), _) | (None, Some(_)) => Err(AuthError::WrongAudience),
        }
    }
}

/// Whether a token has the three parts of a JWT.
pub(super) fn looks_like_jwt(token: &SecretString) -> bool {
    token.expose_secret().split('.').count() == 3
}

/// Verifies a token against every issuer. With several, the error that got furthest is told.
pub(super) fn verify(
    issuers: &[Issuer],
    token: &SecretString,
    now: SystemTime,
) -> Result<Verified, AuthError> {
    let jwt = Jwt::read(token).ok_or(AuthError::Unknown)?;
    let mut furthest = AuthError::Unknown;
    for issuer in issuers {
        match issuer.verify(&jwt, now) {
            Ok(verified) => return Ok(verified),
            Err(AuthError::Unknown) => {}
            Err(AuthError::KeysMissing) if furthest != AuthError::Unknown => {}
            Err(error) => furthest = error,
        }
    }
    Err(furthest)
}

/// A JWT taken apart, nothing of it trusted.
struct Jwt<'a> {
    header: Header,
    algorithm: Algorithm,
    message: &'a str,
    claims: &'a str,
    signature: &'a str,
    hash: TokenHash,
}

impl<'a> Jwt<'a> {
    fn read(token: &'a SecretString) -> Option<Self> {
        let text = token.expose_secret();
        let (message, signature) = text.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: Header = decode_part(header)?;
        let algorithm = header.algorithm()?;
        let hash = TokenHash::to_revoke(token);
        Some(Self {
            header,
            algorithm,
            message,
            claims,
            signature,
            hash,
        })
    }
}

/// The members of a JOSE header that count here (RFC 7515 section 4.1).
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    #[serde(default, deserialize_with = "present")]
    jku: bool,
    #[serde(default, deserialize_with = "present")]
    jwk: bool,
    #[serde(default, deserialize_with = "present")]
    x5u: bool,
    #[serde(default, deserialize_with = "present")]
    x5c: bool,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    #[serde(default, deserialize_with = "present")]
    b64: bool,
    #[serde(default, deserialize_with = "present")]
    enc: bool,
    #[serde(default, deserialize_with = "present")]
    zip: bool,
}

impl Header {
    /// The algorithm, of a header that asks for nothing but a look at the signature: one that
    /// brings or points to a key, or demands an extension, is refused.
    fn algorithm(&self) -> Option<Algorithm> {
        let brings_key = self.jku || self.jwk || self.x5u || self.x5c;
        let demands = self.crit || self.b64 || self.enc || self.zip;
        let long_kid = self
            .kid
            .as_ref()
            .is_some_and(|kid| kid.len() > MAX_KID_BYTES);
        let typ = self.typ.as_ref().map(|typ| typ.to_ascii_lowercase());
        let of_another_kind = !matches!(
            typ.as_deref(),
            None | Some("jwt" | "at+jwt" | "application/jwt" | "application/at+jwt")
        );
        if brings_key || demands || long_kid || of_another_kind {
            return None;
        }
        match self.alg.as_str() {
            "HS256" => Some(Algorithm::HS256),
            "RS256" => Some(Algorithm::RS256),
            "ES256" => Some(Algorithm::ES256),
            "EdDSA" | "Ed25519" => Some(Algorithm::EdDSA),
            _ => None,
        }
    }
}

/// True for a member that is there, whatever its value.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

fn decode_part<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    use base64::Engine as _;
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(part)
        .ok()?;
    serde_json::from_slice(&json).ok()
}

/// Seconds since 1970, with or without a fraction (RFC 7519 section 2).
fn numeric_date(value: &Value) -> Option<SystemTime> {
    let since = Duration::try_from_secs_f64(value.as_f64()?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
