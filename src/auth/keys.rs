//! Keys that JWTs are verified with. The key's type fixes the algorithm; a token's header never
//! chooses it.

use std::collections::BTreeSet;

use jsonwebtoken::crypto::aws_lc;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::TokenHash;

/// The least a HS256 secret may have, in bytes (RFC 7518 section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// What an RSA modulus may have, in bytes: 2048 bits are the least of RFC 7518 section 3.3.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The most keys of one set. Each may have to be tried for a token that names none.
const MAX_KEYS: usize = 64;

/// Why a text is no key, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct KeyError(String);

fn bad(problem: impl Into<String>) -> KeyError {
    KeyError(problem.into())
}

/// One key with the one algorithm it is for.
pub(super) struct VerifyingKey {
    /// The name that a token's header may pick it by.
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    /// Tells this key from any other, for finding out later that it was withdrawn.
    pub id: TokenHash,
    key: DecodingKey,
}

impl VerifyingKey {
    /// HS256.
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.starts_with(b"-----BEGIN") {
            return Err(bad(
                "is a PEM file, which is no secret: use public_key_file",
            ));
        }
        if secret.len() < MIN_SECRET_BYTES {
            return Err(bad(
                "is shorter than 32 bytes: make one with `openssl rand -hex 32`",
            ));
        }
        Ok(Self::new(
            None,
            Algorithm::HS256,
            DecodingKey::from_secret(secret),
            &[secret],
        ))
    }

    /// RS256, ES256 or EdDSA, by the type of the one public key in a PEM file.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(pem).map_err(|_| bad("is no PEM file"))?;
        let mut labels = text.lines().filter_map(|line| {
            line.trim()
                .strip_prefix("-----BEGIN ")?
                .strip_suffix("-----")
        });
        match (labels.next(), labels.next()) {
            (Some("PUBLIC KEY" | "RSA PUBLIC KEY"), None) => {}
            (Some(label), None) if label.contains("PRIVATE") => {
                return Err(bad("is a private key: give the relay only its public half"));
            }
            (Some(label), None) => {
                return Err(bad(format!("holds a {label}, not a PUBLIC KEY")));
            }
            (Some(_), Some(_)) => return Err(bad("holds several keys: use jwks_file for a set")),
            (None, _) => return Err(bad("is no PEM file")),
        }
        if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            return Self::raw(None, Algorithm::EdDSA, key, 32);
        }
        if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            return Self::raw(None, Algorithm::ES256, key, 65);
        }
        let key = DecodingKey::from_rsa_pem(pem)
            .map_err(|_| bad("is not an RSA, P-256 or Ed25519 public key"))?;
        let der = key
            .try_get_as_bytes()
            .map_err(|error| bad(error.to_string()))?;
        let (n, e) = (aws_lc::DEFAULT_PROVIDER
            .key_utils
            .rsa_pub_components_from_public_key)(der)
        .map_err(|_| bad("is not an RSA, P-256 or Ed25519 public key"))?;
        Self::rsa(None, &n, &e)
    }

    fn rsa(kid: Option<String>, n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        // Some issuers write a modulus with the sign byte of DER before it.
        let n = &n[n.iter().take_while(|byte| **byte == 0).count()..];
        if !RSA_MODULUS_BYTES.contains(&n.len()) {
            return Err(bad(
                "is an RSA key of less than 2048 or more than 8192 bits",
            ));
        }
        let key = DecodingKey::from_rsa_raw_components(n, e);
        Ok(Self::new(kid, Algorithm::RS256, key, &[n, e]))
    }

    /// A key whose bytes stand for themselves: an uncompressed point, or an Ed25519 key.
    fn raw(
        kid: Option<String>,
        algorithm: Algorithm,
        key: DecodingKey,
        size: usize,
    ) -> Result<Self, KeyError> {
        let bytes = key
            .try_get_as_bytes()
            .map_err(|error| bad(error.to_string()))?
            .to_vec();
        if bytes.len() != size {
            return Err(bad("is of another curve than P-256 or Ed25519"));
        }
        Ok(Self::new(kid, algorithm, key, &[&bytes]))
    }

    fn new(kid: Option<String>, algorithm: Algorithm, key: DecodingKey, parts: &[&[u8]]) -> Self {
        let mut material = format!("{algorithm:?}").into_bytes();
        for part in parts {
            material.extend_from_slice(&part.len().to_be_bytes());
            material.extend_from_slice(part);
        }
        Self {
            kid,
            algorithm,
            id: TokenHash::of_bytes(&material),
            key,
        }
    }

    /// Whether a token with this header could have been signed by this key. A key without a name
    /// may have signed under any.
    pub fn may_have_signed(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        let named = match (&self.kid, kid) {
            (Some(own), Some(kid)) => own == kid,
            (None, _) | (_, None) => true,
        };
        named && self.algorithm == algorithm
    }

    /// Whether the signature is this key's over the message.
    pub fn verifies(&self, message: &str, signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, self.algorithm)
            .unwrap_or(false)
    }
}

/// Reads a JSON Web Key Set (RFC 7517 section 5). Keys for other uses, of other types or with
/// parts that do not decode are left out, as that section asks; a set without any left is an
/// error. Shared secrets are left out too: a set is for publishing.
pub(super) fn read_key_set(json: &[u8]) -> Result<Vec<VerifyingKey>, KeyError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(json)
        .map_err(|_| bad("is no JSON Web Key Set: an object with a list `keys`"))?;
    if set.keys.len() > MAX_KEYS {
        return Err(bad("holds more than 64 keys"));
    }
    let mut known = BTreeSet::new();
    let keys: Vec<_> = set
        .keys
        .into_iter()
        .filter_map(|key| serde_json::from_value::<Jwk>(key).ok()?.into_key())
        .filter(|key| known.insert((key.id.to_string(), key.kid.clone())))
        .collect();
    if keys.is_empty() {
        return Err(bad(
            "holds no RSA, P-256 or Ed25519 public key for signatures",
        ));
    }
    Ok(keys)
}

/// The members of a JSON Web Key that count here (RFC 7517 section 4, RFC 7518 section 6).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

impl Jwk {
    fn into_key(self) -> Option<VerifyingKey> {
        let for_signatures = self.usage.is_none_or(|usage| usage == "sig")
            && self
                .key_ops
                .is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !for_signatures {
            return None;
        }
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => VerifyingKey::rsa(self.kid, &decode(&self.n)?, &decode(&self.e)?),
            ("EC", Some("P-256")) => {
                let key = DecodingKey::from_ec_components(&self.x, &self.y).ok()?;
                VerifyingKey::raw(self.kid, Algorithm::ES256, key, 65)
            }
            ("OKP", Some("Ed25519")) => {
                let key = DecodingKey::from_ed_components(&self.x).ok()?;
                VerifyingKey::raw(self.kid, Algorithm::EdDSA, key, 32)
            }
            _ => return None,
        };
        let key = key.ok()?;
        let name = format!("{:?}", key.algorithm);
        // RFC 9864 renames EdDSA with this curve to Ed25519.
        let agrees = |alg: String| alg == name || (name == "EdDSA" && alg == "Ed25519");
        self.alg.is_none_or(agrees).then_some(key)
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .filter(|b| !b.is_empty())
}
