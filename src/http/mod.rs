//! The clients' side and the operator's: who may come in, what their requests ask for, and what they
//! are answered. Leaves the frames to `session`.

mod account;
mod address;
mod answer;
mod body;
mod client_stream;
mod connection;
mod cors;
mod dispatch;
mod exchange;
mod gateway;
mod identify;
mod listener;
mod load;
mod lookup;
mod open;
mod operator;
mod origin;
mod pulse;
mod refusal;
mod refused;
mod socket;
mod synthesis;
mod tls;
mod tokens;
mod upgrade;
mod workers;

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;

pub use address::Network;
pub use client_stream::ClientStream;
pub use gateway::{Gateway, Parts, Plans};
pub use listener::serve_operator;
pub use origin::{AllowedOrigins, CallerRules, HostName};
pub use tls::{ServerTls, TlsError, TlsMode, how_to_trust};
pub use workers::Workers;

/// How the clients' side behaves: the `[server]` table but for its addresses and its TLS.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Paths are served under this prefix too.
    pub path_prefix: String,
    /// Origins of the pages that may connect, exact; while access is open, localhost names besides.
    pub allowed_origins: AllowedOrigins,
    /// Names the relay answers to, without port; any when empty, unless access is open.
    pub allowed_hosts: Vec<HostName>,
    /// Proxies whose `X-Forwarded-For` is believed, as addresses or networks. All that comes through
    /// another proxy counts as one address.
    pub trusted_proxies: Vec<Network>,
    /// Requests of any kind that one address may make in a second, 1 to 1,000,000; they are counted
    /// before any credential is looked at, those on one connection too.
    pub connections_per_second: NonZeroU32,
    /// How many it may make at once, 1 to 1,000,000.
    pub connection_burst: NonZeroU32,
    /// How long a connection may take to send a whole request head.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// The largest message of a client that has not shown a credential, in bytes; 64 to 16 MiB.
    pub max_unauthenticated_message_bytes: u64,
    /// How many sockets may wait for a credential at once; 0 to 1,000,000.
    pub max_unauthenticated_sockets: usize,
    /// The longest body of an HTTP request, in bytes; 64 to 256 MiB.
    pub max_body_bytes: usize,
    /// How long a client may take to send one.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path_prefix: String::new(),
            allowed_origins: AllowedOrigins::default(),
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            connections_per_second: NonZeroU32::new(50).expect("50 is not 0"),
            connection_burst: NonZeroU32::new(200).expect("200 is not 0"),
            header_timeout: Duration::from_secs(5),
            max_unauthenticated_message_bytes: 16 * 1024,
            max_unauthenticated_sockets: 1000,
            max_body_bytes: 1024 * 1024,
            body_timeout: Duration::from_secs(30),
        }
    }
}
