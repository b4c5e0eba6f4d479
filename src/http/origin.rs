//! Which pages may call, and under which names the relay may be called: the `Origin` and `Host`
//! checks that stand before everything else. They keep a page in somebody's browser from using a
//! relay on that person's machine, whatever name its address was given (DNS rebinding).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};

use crate::auth::Origin;
use crate::protocol::Problem;

/// What `server.allowed_origins`, `server.allowed_hosts` and `server.bind` say.
#[derive(Clone, Debug)]
pub struct CallerRules {
    /// The pages that may call.
    pub origins: AllowedOrigins,
    /// The names the relay may be called by, when any are given.
    pub hosts: Vec<HostName>,
    /// The address that the relay listens on.
    pub bind: IpAddr,
}

impl CallerRules {
    /// Checks a request by its headers; returns the page it comes from, or `None` when it does not
    /// come from a browser. `open` is whether anybody may connect without a token.
    pub fn check(&self, headers: &HeaderMap, open: bool) -> Result<Option<Origin>, CallerError> {
        let host = single(headers, &header::HOST)?.ok_or(CallerError::Malformed)?;
        let host = host
            .to_str()
            .ok()
            .and_then(|host| HostName::parse(host).ok());
        if !self.allows_host(&host.ok_or(CallerError::Malformed)?, open) {
            return Err(CallerError::Host);
        }
        let Some(origin) = single(headers, &header::ORIGIN)? else {
            return Ok(None);
        };
        let origin = origin
            .to_str()
            .ok()
            .and_then(|origin| Origin::parse(origin).ok());
        match origin {
            Some(origin) if self.allows_origin(&origin, open) => Ok(Some(origin)),
            _ => Err(CallerError::Origin),
        }
    }

    /// Whether a page may call. While access is open these are the pages of this machine and
    /// those that are listed by name; otherwise those that are listed.
    #[must_use]
    pub fn allows_origin(&self, origin: &Origin, open: bool) -> bool {
        if open {
            return origin.is_localhost() || self.origins.lists(origin);
        }
        self.origins.any(origin) || self.origins.lists(origin)
    }

    /// Whether the relay may be called by a name. While access is open these are the names of
    /// this machine, the address it listens on and those that are listed; otherwise those that
    /// are listed, or any when none are.
    #[must_use]
    pub fn allows_host(&self, host: &HostName, open: bool) -> bool {
        if open {
            let bound = *host == HostName::Address(self.bind.to_canonical());
            return host.is_localhost() || bound || self.hosts.contains(host);
        }
        self.hosts.is_empty() || self.hosts.contains(host)
    }
}

/// The pages that may call: origins by name, or `*` for any but `null`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct AllowedOrigins {
    listed: Vec<Origin>,
    any: bool,
}

impl AllowedOrigins {
    /// Whether `*` stands in the list, which must not be while access is open.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.any
    }

    /// A page without an origin of its own, such as a file or a sandboxed frame, is meant by its
    /// name only.
    fn any(&self, origin: &Origin) -> bool {
        self.any && origin.as_str() != "null"
    }

    fn lists(&self, origin: &Origin) -> bool {
        self.listed.contains(origin)
    }
}

impl TryFrom<Vec<String>> for AllowedOrigins {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        let any = texts.iter().any(|text| text == "*");
        let listed = texts.iter().filter(|text| *text != "*");
        let listed = listed
            .map(|text| Origin::parse(text).map_err(|error| format!("{text:?}: {error}")))
            .collect::<Result<_, _>>()?;
        Ok(Self { listed, any })
    }
}

impl From<AllowedOrigins> for Vec<String> {
    fn from(origins: AllowedOrigins) -> Self {
        let listed = origins
            .listed
            .iter()
            .map(|origin| origin.as_str().to_owned());
        listed.chain(origins.any.then(|| "*".to_owned())).collect()
    }
}

/// A name or address that the relay is called by: a `Host` header (RFC 9110 section 7.2) without
/// the port, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostName {
    /// An address, an IPv4 one never mapped into IPv6.
    Address(IpAddr),
    /// A name, without the dot that may end it.
    Name(Arc<str>),
}

/// Not a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a host is a name or an address, with or without a port, such as relay.example.com")]
pub struct InvalidHost;

impl HostName {
    /// Reads a host with or without a port; an IPv6 address that has a port stands in brackets.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let (host, rest) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or(InvalidHost)?;
                let address: Ipv6Addr = address.parse().map_err(|_| InvalidHost)?;
                (Self::Address(IpAddr::V6(address).to_canonical()), rest)
            }
            None => {
                let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
                (Self::parse_name(name)?, rest)
            }
        };
        // RFC 3986 section 3.2.3 allows a colon with no digits after it.
        let is_port = |port: &str| {
            port.bytes().all(|b| b.is_ascii_digit())
                && (port.is_empty() || port.parse::<u16>().is_ok())
        };
        let ends_well = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        ends_well.then_some(host).ok_or(InvalidHost)
    }

    fn parse_name(name: &str) -> Result<Self, InvalidHost> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Self::Address(address));
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_name = (1..=253).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        is_name
            .then(|| Self::Name(name.to_ascii_lowercase().into()))
            .ok_or(InvalidHost)
    }

    /// Whether this is a name of this machine that no name server can point elsewhere:
    /// `localhost`, `*.localhost` (RFC 6761 section 6.3), `127.0.0.1` or `::1`.
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        match self {
            Self::Address(IpAddr::V4(address)) => *address == Ipv4Addr::LOCALHOST,
            Self::Address(IpAddr::V6(address)) => *address == Ipv6Addr::LOCALHOST,
            Self::Name(name) => &**name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

impl TryFrom<String> for HostName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|error| format!("{text:?}: {error}"))
    }
}

impl From<HostName> for String {
    fn from(host: HostName) -> Self {
        host.to_string()
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Why a request may not be made from there or by that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// No `Host`, or a `Host` or `Origin` that stands twice or cannot be read.
    #[error("the Host or Origin header is missing, doubled or malformed")]
    Malformed,
    /// A page that may not call.
    #[error("the page's origin is not allowed")]
    Origin,
    /// A name that the relay may not be called by.
    #[error("the host name is not allowed")]
    Host,
}

impl From<CallerError> for Problem {
    fn from(error: CallerError) -> Self {
        match error {
            CallerError::Malformed => Self::invalid_request(
                "There must be one well-formed Host header and at most one Origin header.",
            ),
            CallerError::Origin => Self::origin_not_allowed(),
            CallerError::Host => Self::host_not_allowed(),
        }
    }
}

/// A header that may stand once. Two of them could be read differently by who checks and by who
/// acts.
fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, CallerError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(CallerError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const OPEN: bool = true;
    const CLOSED: bool = false;

    fn rules(origins: &[&str], hosts: &[&str]) -> CallerRules {
        let origins: Vec<_> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        CallerRules {
            origins: origins.try_into().unwrap(),
            hosts: hosts
                .iter()
                .map(|host| HostName::parse(host).unwrap())
                .collect(),
            bind: "127.0.0.7".parse().unwrap(),
        }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[track_caller]
    fn origin(rules: &CallerRules, open: bool, origin: &str, allowed: bool) {
        let headers = headers(&[("host", "localhost"), ("origin", origin)]);
        let expected = if allowed {
            Ok(())
        } else {
            Err(CallerError::Origin)
        };
        assert_eq!(rules.check(&headers, open).map(drop), expected, "{origin}");
    }

    #[track_caller]
    fn host(rules: &CallerRules, open: bool, host: &str, expected: Result<(), CallerError>) {
        let checked = rules.check(&headers(&[("host", host)]), open);
        assert_eq!(checked.map(drop), expected, "{host}");
    }

    #[test]
    fn only_listed_pages_may_call_a_relay_that_asks_for_tokens() {
        let rules = rules(&["https://app.example.com", "http://localhost:3000"], &[]);
        origin(&rules, CLOSED, "https://app.example.com", true);
        origin(&rules, CLOSED, "https://APP.example.com:443", true);
        origin(&rules, CLOSED, "http://localhost:3000", true);
        for other in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.example",
            "https://evil.example",
            "http://localhost",
            "null",
            "",
            "https://app.example.com, https://evil.example",
            "https://app.example.com/evil",
            "\u{00e9}",
        ] {
            origin(&rules, CLOSED, other, false);
        }
    }

    #[test]
    fn null_must_be_listed_by_name() {
        origin(&rules(&["null"], &[]), CLOSED, "null", true);
        origin(&rules(&["*"], &[]), CLOSED, "null", false);
        origin(&rules(&["*"], &[]), CLOSED, "https://any.example", true);
        origin(&rules(&[], &[]), OPEN, "null", false);
    }

    #[test]
    fn while_access_is_open_pages_of_this_machine_and_listed_ones_may_call() {
        let rules = rules(&["https://listed.example", "*"], &[]);
        assert!(rules.origins.has_wildcard());
        origin(&rules, OPEN, "http://localhost:5173", true);
        origin(&rules, OPEN, "https://app.localhost", true);
        origin(&rules, OPEN, "http://127.0.0.1:8000", true);
        origin(&rules, OPEN, "http://[::1]:8000", true);
        origin(&rules, OPEN, "https://listed.example", true);
        origin(&rules, OPEN, "https://evil.example", false);
        origin(&rules, OPEN, "http://192.168.1.2", false);
    }

    #[test]
    fn a_request_without_origin_is_no_browser() {
        let checked = rules(&[], &[]).check(&headers(&[("host", "relay")]), CLOSED);
        assert_eq!(checked, Ok(None));
    }

    #[test]
    fn while_access_is_open_only_names_of_this_machine_are_answered() {
        let rules = rules(&[], &["Dev.example.com:1"]);
        for name in [
            "localhost",
            "LocalHost:8080",
            "localhost.",
            "a.b.localhost:1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::ffff:127.0.0.1]",
            "127.0.0.7:9",
            "dev.example.com:8080",
        ] {
            host(&rules, OPEN, name, Ok(()));
        }
        for name in [
            "evil.example:8080",
            "127.0.0.2",
            "localhost.evil.example",
            "0.0.0.0",
            "[::]",
        ] {
            host(&rules, OPEN, name, Err(CallerError::Host));
        }
    }

    #[test]
    fn a_relay_that_asks_for_tokens_answers_to_any_name_unless_some_are_listed() {
        host(&rules(&[], &[]), CLOSED, "relay.internal:8080", Ok(()));
        let listed = rules(&[], &["relay.example.com", "fd00::7"]);
        host(&listed, CLOSED, "RELAY.example.com:443", Ok(()));
        host(&listed, CLOSED, "[fd00:0::7]:443", Ok(()));
        host(&listed, CLOSED, "localhost", Err(CallerError::Host));
    }

    #[test]
    fn malformed_and_doubled_headers_are_refused() {
        let rules = rules(&[], &[]);
        for name in [
            "",
            ":80",
            "a b",
            "a@b",
            "a/b",
            "a,b",
            "a:b",
            "a:99999",
            "a:1:2",
            "[::1",
            "[::1]x",
            "[::1]80",
            "[a]",
            "é",
            &"a".repeat(254),
        ] {
            host(&rules, CLOSED, name, Err(CallerError::Malformed));
        }
        let check = |lines: &[(&'static str, &str)]| rules.check(&headers(lines), OPEN);
        assert_eq!(check(&[]), Err(CallerError::Malformed));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(check(&twice), Err(CallerError::Malformed));
        let origin = ("origin", "http://localhost");
        let twice = [("host", "localhost"), origin, origin];
        assert_eq!(check(&twice), Err(CallerError::Malformed));
    }

    #[test]
    fn the_lists_read_back_and_refuse_patterns() {
        #[derive(Debug, Deserialize, Serialize)]
        struct Server {
            origins: AllowedOrigins,
            hosts: Vec<HostName>,
        }
        let text = "origins = ['HTTPS://a.example', '*']\nhosts = ['A.example:80', '[::1]']";
        let server: Server = toml::from_str(text).unwrap();
        let again: Server = toml::from_str(&toml::to_string(&server).unwrap()).unwrap();
        assert_eq!(again.origins, server.origins);
        assert_eq!(again.hosts, server.hosts);
        let bad = toml::from_str::<Server>("origins = ['https://*.example']\nhosts = []");
        assert!(bad.unwrap_err().to_string().contains("https://*.example"));
        let bad = toml::from_str::<Server>("origins = []\nhosts = ['*.example']");
        assert!(bad.unwrap_err().to_string().contains("*.example"));
    }
}
