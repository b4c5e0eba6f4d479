//! Where upstream is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use url::Url;

/// The base that ElevenLabs' paths are appended to: `ws` or `wss`, a host, perhaps a port and a path
/// prefix; or the built-in sandbox.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BaseUrl(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Sandbox,
    Remote(Url),
}

/// Why a text is no base URL.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidBaseUrl {
    /// Not a URL at all.
    #[error("not a URL; give one like \"wss://api.elevenlabs.io\", or \"sandbox\"")]
    NotAUrl,
    /// Another scheme.
    #[error("its scheme must be ws or wss")]
    Scheme,
    /// User info, query or fragment, which the relay would have to drop.
    #[error(
        "it must hold nothing but scheme, host, port and path (the key goes into ELEVENLABS_API_KEY)"
    )]
    Extra,
}

impl BaseUrl {
    /// ElevenLabs itself.
    #[must_use]
    pub fn elevenlabs() -> Self {
        Self::parse("wss://api.elevenlabs.io").expect("a valid URL")
    }

    /// The built-in sandbox, wherever it will listen.
    #[must_use]
    pub fn sandbox() -> Self {
        Self(Kind::Sandbox)
    }

    /// Reads `ws://…`, `wss://…` or `sandbox`. `http` and `https` are taken for `ws` and `wss`.
    ///
    /// # Errors
    /// See [`InvalidBaseUrl`].
    pub fn parse(text: &str) -> Result<Self, InvalidBaseUrl> {
        if text == "sandbox" {
            return Ok(Self::sandbox());
        }
        let text = match text.split_once("://") {
            Some(("http", rest)) => format!("ws://{rest}"),
            Some(("https", rest)) => format!("wss://{rest}"),
            _ => text.to_owned(),
        };
        let url = Url::parse(&text).map_err(|_| InvalidBaseUrl::NotAUrl)?;
        if !matches!(url.scheme(), "ws" | "wss") {
            return Err(InvalidBaseUrl::Scheme);
        }
        if url.host_str().is_none() {
            return Err(InvalidBaseUrl::NotAUrl);
        }
        let extra = !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some();
        if extra {
            return Err(InvalidBaseUrl::Extra);
        }
        Ok(Self(Kind::Remote(url)))
    }

    /// Whether this stands for the built-in sandbox.
    #[must_use]
    pub fn is_sandbox(&self) -> bool {
        self.0 == Kind::Sandbox
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url().is_some_and(|url| url.scheme() == "wss")
    }

    /// The host as TLS and DNS know it, without brackets.
    pub(super) fn host(&self) -> &str {
        let host = self.url().and_then(Url::host_str).unwrap_or("localhost");
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The address to dial, where the host is one and no name.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host().parse().ok()?;
        let port = self.url()?.port_or_known_default()?;
        Some(SocketAddr::new(ip, port))
    }

    /// The `Host` header: with the port where it is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        match self.url() {
            Some(url) => match (url.host_str(), url.port()) {
                (Some(host), Some(port)) => format!("{host}:{port}"),
                (Some(host), None) => host.to_owned(),
                (None, _) => String::new(),
            },
            None => "localhost".to_owned(),
        }
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let address = self.address();
        self.host() == "localhost" || address.is_some_and(|address| address.ip().is_loopback())
    }

    /// The URL to dial, with the scheme that HTTP libraries and proxy rules know.
    #[must_use]
    pub fn http_origin(&self) -> String {
        let scheme = if self.is_tls() { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// The path prefix, without a slash at its end.
    #[must_use]
    pub fn path_prefix(&self) -> &str {
        self.url()
            .map_or("", |url| url.path().trim_end_matches('/'))
    }

    fn url(&self) -> Option<&Url> {
        match &self.0 {
            Kind::Remote(url) => Some(url),
            Kind::Sandbox => None,
        }
    }
}

impl TryFrom<String> for BaseUrl {
    type Error = InvalidBaseUrl;

    fn try_from(text: String) -> Result<Self, InvalidBaseUrl> {
        Self::parse(&text)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Sandbox => f.write_str("sandbox"),
            Kind::Remote(url) => f.write_str(url.as_str().trim_end_matches('/')),
        }
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_base_url_keeps_its_port_and_prefix() {
        let base = BaseUrl::parse("wss://Example.com:8443/eleven/labs/").unwrap();
        assert_eq!(base.authority(), "example.com:8443");
        assert_eq!(base.path_prefix(), "/eleven/labs");
        assert_eq!(base.http_origin(), "https://example.com:8443");
        assert_eq!(base.to_string(), "wss://example.com:8443/eleven/labs");
        let base = BaseUrl::parse("ws://[::1]:9").unwrap();
        assert_eq!((base.host(), base.authority().as_str()), ("::1", "[::1]:9"));
        assert_eq!(BaseUrl::parse("https://host").unwrap().authority(), "host");
    }

    #[test]
    fn what_would_be_dropped_is_refused() {
        assert_eq!(
            BaseUrl::parse("api.elevenlabs.io"),
            Err(InvalidBaseUrl::NotAUrl)
        );
        assert_eq!(BaseUrl::parse("ftp://host"), Err(InvalidBaseUrl::Scheme));
        assert_eq!(BaseUrl::parse("wss://key@host"), Err(InvalidBaseUrl::Extra));
        assert_eq!(BaseUrl::parse("wss://host?x=1"), Err(InvalidBaseUrl::Extra));
    }
}
