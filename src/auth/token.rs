//! Tokens of the relay's own making, and the hash that is all the relay keeps of one.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::ids::ClientId;

/// Begins a client's token, so that people and secret scanners know one when they see it.
const CLIENT_PREFIX: &str = "xir_";

/// Begins a single-use token.
const SINGLE_USE_PREFIX: &str = "xit_";

/// SHA-256 of a token. Equality takes the same time wherever the first difference stands.
#[derive(Clone, Copy, Eq)]
pub struct TokenHash([u8; 32]);

/// Not 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token's SHA-256 must be 64 hex digits")]
pub struct InvalidTokenHash;

impl TokenHash {
    /// The hash of a token's text.
    #[must_use]
    pub fn of(token: &SecretString) -> Self {
        Self::of_bytes(token.expose_secret().as_bytes())
    }

    /// The hash that revokes a token: of a JWT only what is signed, since who holds one can write
    /// the same signature in another way; of any other token the whole.
    #[must_use]
    pub fn to_revoke(token: &SecretString) -> Self {
        let text = token.expose_secret();
        let jwt = text
            .rsplit_once('.')
            .filter(|_| text.split('.').count() == 3);
        Self::of_bytes(jwt.map_or(text, |(signed, _)| signed).as_bytes())
    }

    /// Every hash that may revoke what an operator names: a token, or the hash of one. 64 hex digits
    /// can be either, and are taken for both.
    #[must_use]
    pub fn all_to_revoke(named: &SecretString) -> Vec<Self> {
        let mut hashes = vec![Self::of(named)];
        // Both a client's own token and a JWT may have three parts.
        let others = [
            Some(Self::to_revoke(named)),
            named.expose_secret().parse().ok(),
        ];
        for hash in others.into_iter().flatten() {
            if !hashes.contains(&hash) {
                hashes.push(hash);
            }
        }
        hashes
    }

    /// A hash as a store has kept it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash itself, for stores that keep it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl std::hash::Hash for TokenHash {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl FromStr for TokenHash {
    type Err = InvalidTokenHash;

    fn from_str(text: &str) -> Result<Self, InvalidTokenHash> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(InvalidTokenHash);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex(pair[0])? << 4 | hex(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn hex(digit: u8) -> Result<u8, InvalidTokenHash> {
    let value = char::from(digit).to_digit(16).ok_or(InvalidTokenHash)?;
    u8::try_from(value).map_err(|_| InvalidTokenHash)
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    /// The first eight digits tell hashes apart; all of them would let a guessed token be tried
    /// against a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}

impl Serialize for TokenHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A token that has just been made. Its text exists only here.
#[derive(Debug)]
pub struct NewToken {
    /// What the client is given: a prefix and 256 random bits as unpadded base64url, so that it
    /// may stand in a header, a query, a path segment and a WebSocket subprotocol.
    pub token: SecretString,
    /// What is kept of it.
    pub hash: TokenHash,
}

impl NewToken {
    /// A token for a client that stands in the configuration.
    #[must_use]
    pub fn for_client() -> Self {
        Self::with_prefix(CLIENT_PREFIX)
    }

    /// A token that opens one session.
    #[must_use]
    pub fn single_use() -> Self {
        Self::with_prefix(SINGLE_USE_PREFIX)
    }

    fn with_prefix(prefix: &str) -> Self {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits).expect("the operating system's random source works");
        let token = SecretString::from(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bits)));
        Self {
            hash: TokenHash::of(&token),
            token,
        }
    }

    /// The rows for the configuration file that make this token the client's.
    #[must_use]
    pub fn configuration_rows(&self, client: &ClientId, plan: &str) -> String {
        format!(
            "[[clients]]\nid = {}\ntoken_sha256 = \"{}\"\nplan = {}\n",
            toml::Value::from(client.as_str()),
            self.hash,
            toml::Value::from(plan),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::auth::ClientConfig;

    #[test]
    fn a_hash_is_sha_256_in_hex() {
        let hash = TokenHash::of_bytes(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), text);
        assert_eq!(text.parse::<TokenHash>().unwrap(), hash);
        assert_eq!(text.to_uppercase().parse::<TokenHash>().unwrap(), hash);
    }

    #[test]
    fn anything_but_64_hex_digits_is_no_hash() {
        for text in [
            "",
            "ab",
            &"0".repeat(63),
            &"0".repeat(65),
            &"g".repeat(64),
            &"é".repeat(32),
        ] {
            assert_eq!(text.parse::<TokenHash>(), Err(InvalidTokenHash), "{text}");
        }
    }

    #[test]
    fn hashes_differ_wherever_the_difference_stands() {
        let hash = TokenHash([7; 32]);
        for place in 0..32 {
            let mut other = [7; 32];
            other[place] ^= 1;
            assert_ne!(hash, TokenHash(other), "byte {place}");
        }
    }

    #[test]
    fn new_tokens_fit_a_subprotocol_and_never_repeat() {
        let tokens: Vec<_> = (0..100).map(|_| NewToken::single_use()).collect();
        let mut texts: Vec<_> = tokens.iter().map(|new| new.token.expose_secret()).collect();
        for text in &texts {
            assert_eq!(text.len(), "xit_".len() + 43);
            assert!(
                text.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            );
        }
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), 100);
    }

    #[test]
    fn debug_shows_neither_token_nor_whole_hash() {
        let new = NewToken::for_client();
        let debug = format!("{new:?}");
        assert!(!debug.contains(new.token.expose_secret()));
        assert!(!debug.contains(&new.hash.to_string()));
    }

    #[test]
    fn the_configuration_rows_read_back() {
        #[derive(Deserialize)]
        struct File {
            clients: Vec<ClientConfig>,
        }
        let new = NewToken::for_client();
        let client = ClientId::parse("a\"b").unwrap();
        let file: File = toml::from_str(&new.configuration_rows(&client, "default")).unwrap();
        assert_eq!(file.clients[0].id, client);
        assert_eq!(file.clients[0].token_sha256.as_slice(), [new.hash]);
    }
}
