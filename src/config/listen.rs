//! Where the relay listens: the parts of `[server]` and `[operator]` that concern its sockets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use crate::http::TlsMode;

/// The clients' side, as far as its listener goes; `http` and `session` read the rest of
/// `[server]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Where clients connect.
    pub bind: Bind,
    /// How clients are spoken to.
    pub tls: TlsMode,
    /// How long live sessions may go on after SIGTERM.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            bind: Bind::loopback(8080),
            tls: TlsMode::Off,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// The `[operator]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Operator {
    /// Where `/metrics`, `/healthz`, `/readyz`, `/sessions` and `/usage` are served, to anybody
    /// who can connect.
    pub bind: Bind,
}

impl Default for Operator {
    fn default() -> Self {
        Self {
            bind: Bind::loopback(8081),
        }
    }
}

/// The addresses that a running relay listens on: those of its start, whatever the settings have
/// come to say since.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// Where clients connect.
    pub server: Bind,
    /// Where the operator connects.
    pub operator: Bind,
}

/// An IP address and a port; port 0 takes a free one. `localhost` stands for 127.0.0.1.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Bind(pub SocketAddr);

impl Bind {
    fn loopback(port: u16) -> Self {
        Self(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
    }

    /// Whether only this machine can connect.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }

    /// The address at which this machine itself reaches the listener.
    #[must_use]
    pub fn from_here(self) -> SocketAddr {
        let ip = match self.0.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.0.port())
    }
}

impl FromStr for Bind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let numeric = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        numeric
            .parse()
            .map(Self)
            .map_err(|_| "give an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080")
    }
}

impl TryFrom<String> for Bind {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
