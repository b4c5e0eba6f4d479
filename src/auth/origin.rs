//! A web page's origin, read once so that comparing is exact.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// A page's origin as in RFC 6454: scheme, host and port, or the opaque `null`. Held in lower
/// case without the scheme's default port, so that equal origins are equal texts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(Arc<str>);

/// Not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an origin is a scheme, a host and maybe a port, such as https://app.example.com, or the word null"
)]
pub struct InvalidOrigin;

impl Origin {
    /// Reads an origin as it stands in an `Origin` header or in the configuration: no user, no
    /// path beyond `/`, no query, no pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidOrigin> {
        if text == "null" {
            return Ok(Self(text.into()));
        }
        let printable = text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"*\\@?#".contains(&b));
        let (_, rest) = text.split_once("://").ok_or(InvalidOrigin)?;
        let no_path = rest.strip_suffix('/').unwrap_or(rest);
        if !printable || no_path.is_empty() || no_path.contains('/') {
            return Err(InvalidOrigin);
        }
        let url = Url::parse(text).map_err(|_| InvalidOrigin)?;
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or(InvalidOrigin)?;
        // `Url` lowers the host only of schemes it knows; a browser extension's has to do too.
        let mut origin = format!("{}://{}", url.scheme(), host.to_ascii_lowercase());
        if let Some(port) = url.port() {
            origin.push_str(&format!(":{port}"));
        }
        Ok(Self(origin.into()))
    }

    /// The origin in lower case without a default port.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the page comes from this machine: `localhost`, `*.localhost`, `127.0.0.1` or
    /// `[::1]`, over http or https, any port. Browsers resolve these names to loopback themselves
    /// (RFC 6761 section 6.3), so no name server can point them elsewhere.
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        let Ok(url) = Url::parse(&self.0) else {
            return false;
        };
        matches!(url.scheme(), "http" | "https")
            && match url.host() {
                Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
                Some(Host::Ipv4(address)) => address == std::net::Ipv4Addr::LOCALHOST,
                Some(Host::Ipv6(address)) => address == std::net::Ipv6Addr::LOCALHOST,
                None => false,
            }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[track_caller]
    fn same(text: &str, expected: &str) {
        assert_eq!(Origin::parse(text).unwrap().as_str(), expected);
    }

    #[test]
    fn equal_origins_are_equal_texts() {
        same("https://App.Example.com", "https://app.example.com");
        same("HTTPS://app.example.com:443", "https://app.example.com");
        same("http://app.example.com:80/", "http://app.example.com");
        same("http://app.example.com:8443", "http://app.example.com:8443");
        same("http://[::1]:3000", "http://[::1]:3000");
        same("chrome-extension://ABCdef", "chrome-extension://abcdef");
        same("null", "null");
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "*",
            "app.example.com",
            "https://",
            "https://*.example.com",
            "https://app.example.com/path",
            "https://app.example.com?x",
            "https://app.example.com#x",
            "https://user@app.example.com",
            "https://a.example https://b.example",
            "https://a.example,https://b.example",
            "https://app.example.com\\@evil.example",
            "https:///app.example.com",
            "file:///",
            "NULL",
            "https://app.example.com:99999",
        ] {
            assert_eq!(Origin::parse(text), Err(InvalidOrigin), "{text}");
        }
    }

    #[test]
    fn only_names_that_browsers_keep_on_the_machine_are_local() {
        let local = |text| Origin::parse(text).unwrap().is_localhost();
        assert!(local("http://localhost:5173"));
        assert!(local("https://app.localhost"));
        assert!(local("http://127.0.0.1:8000"));
        assert!(local("http://[::1]"));
        for text in [
            "http://localhost.example.com",
            "http://notlocalhost",
            "http://127.0.0.1.example.com",
            "http://192.168.0.1",
            "ftp://localhost",
            "null",
        ] {
            assert!(!local(text), "{text}");
        }
    }
}
