//! Who is asking: configured tokens, JWTs, single-use tokens and open access. Leaves to `quota`
//! what a client may do, and to `http` where in a request a credential stands.

mod config;
mod directory;
mod error;
mod identity;
mod jwt;
mod keys;
mod network;
mod origin;
mod remote;
mod rules;
mod single_use;
mod token;

pub use config::{ClientConfig, Config, ConfigError, JwtConfig, KeySetUrl, TokenHashes};
pub use directory::Directory;
pub use error::AuthError;
pub use identity::{Credential, Identity, Narrowing, TokenRef};
pub use network::subnet;
pub use origin::{InvalidOrigin, Origin};
pub use single_use::{MemoryTokens, MintError, Minted, TokenStore, TokenStoreError};
pub use token::{InvalidTokenHash, NewToken, TokenHash};
