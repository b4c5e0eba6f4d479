//! The clients' side and the operator's: who may come in, what their requests ask for, and what they
//! are answered. Leaves the frames to `session`.

mod account;
mod address;
mod answer;
mod body;
mod client_stream;
mod cors;
mod dispatch;
mod exchange;
mod gateway;
mod identify;
mod listener;
mod lookup;
mod operator;
mod origin;
mod refusal;
mod socket;
mod synthesis;
mod tls;
mod tokens;
mod upgrade;

use std::time::Duration;

use serde::Deserialize;

pub use client_stream::ClientStream;
pub use gateway::{Gateway, Parts, Plans};
pub use listener::{serve_clients, serve_operator};

/// How the clients' side behaves: the `[server]` table but for its addresses and its TLS.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Paths are served under this prefix too.
    pub path_prefix: String,
    /// How long a connection may take to send a whole request head.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// The largest message of a client that has not shown a credential, in bytes.
    pub max_unauthenticated_message_bytes: u64,
    /// How many sockets may wait for a credential at once.
    pub max_unauthenticated_sockets: usize,
    /// The longest body of an HTTP request, in bytes.
    pub max_body_bytes: usize,
    /// How long a client may take to send one.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path_prefix: String::new(),
            header_timeout: Duration::from_secs(5),
            max_unauthenticated_message_bytes: 16 * 1024,
            max_unauthenticated_sockets: 1000,
            max_body_bytes: 1024 * 1024,
            body_timeout: Duration::from_secs(30),
        }
    }
}
