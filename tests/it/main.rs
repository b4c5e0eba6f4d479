//! Behavior through real sockets: the relay's binary between a client and an upstream that can
//! misbehave at will. One test binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

mod bytes;
mod client_faults;
mod credentials;
mod endings;
mod flood;
mod launch;
mod logging;
mod lookups;
mod multi;
mod operator;
mod pages;
mod profile;
mod proxy;
mod quota;
mod reload;
mod replay;
mod revoke;
mod secrets;
mod shutdown;
mod sockets;
mod synthesis;
mod tidy;
mod upgrade;
mod upstream_faults;
