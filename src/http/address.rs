//! Where a request comes from, and how many requests may come from there.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use http::HeaderMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::auth::subnet;

/// The most entries of `X-Forwarded-For` that are looked at.
const MAX_HOPS: usize = 32;

/// The address that a request comes from: the peer's, unless the peer is one of our own proxies.
/// Then it is the rightmost address of `X-Forwarded-For` that is not. What stands further left
/// was written by whoever is there.
#[must_use]
pub fn remote_address(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> IpAddr {
    let is_proxy = |address| proxies.iter().any(|network| network.contains(address));
    let mut remote = peer.to_canonical();
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    let mut hops = lines
        .flat_map(|line| line.as_bytes().rsplit(|b| *b == b','))
        .take(MAX_HOPS);
    while is_proxy(remote) {
        match hops.next().map(parse_hop) {
            Some(Some(address)) => remote = address,
            // The proxy does not know or does not say in a way that can be read: it is the last
            // one that is known.
            Some(None) | None => break,
        }
    }
    remote
}

/// An address with or without a port, as proxies write it.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = || {
        text.strip_prefix('[')?
            .strip_suffix(']')?
            .parse::<std::net::Ipv6Addr>()
            .ok()
    };
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| {
            text.parse::<std::net::SocketAddr>()
                .ok()
                .map(|address| address.ip())
        })
        .or_else(|| bare().map(IpAddr::V6))?;
    Some(address.to_canonical())
}

/// A range of addresses such as `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether an address is in the range. An IPv4 address mapped into IPv6 is the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits())
                .checked_shr(32 - u32::from(self.prefix))
                .is_none_or(|difference| difference == 0),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits())
                .checked_shr(128 - u32::from(self.prefix))
                .is_none_or(|difference| difference == 0),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let error = || format!("{text:?} is not a range of addresses such as 10.0.0.0/8");
        let (address, prefix) = text
            .split_once('/')
            .map_or((&*text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(prefix) => prefix.parse().map_err(|_| error())?,
        };
        if prefix > longest {
            return Err(error());
        }
        Ok(Self { address, prefix })
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The sets of the table, a power of two.
const SETS: usize = 2048;

/// The addresses that one set remembers.
const WAYS: usize = 8;

/// How many requests each address may make: a token bucket each, in a table of fixed size. An
/// IPv6 address counts by its /64.
///
/// The table never grows and a check allocates nothing. When too many addresses come at once, the
/// bucket that is closest to full is forgotten, which gives away the least.
pub struct ConnectionBuckets {
    sets: Box<[Mutex<[Bucket; WAYS]>]>,
    hasher: RandomState,
    start: Instant,
    /// Nanoseconds in which one token comes back.
    interval: u64,
    /// How far ahead of now a bucket's `full_at` may lie while it still holds a token.
    tolerance: u64,
}

/// One address's bucket, as the generic cell rate algorithm keeps it (ITU-T I.371): by the time
/// at which it will be full again.
#[derive(Clone, Copy)]
struct Bucket {
    address: Option<IpAddr>,
    /// Nanoseconds after the table's start.
    full_at: u64,
}

impl ConnectionBuckets {
    /// Buckets that hold `burst` requests and get `per_second` back.
    #[must_use]
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32, start: Instant) -> Self {
        let interval = 1_000_000_000 / u64::from(per_second.get());
        let empty = [Bucket {
            address: None,
            full_at: 0,
        }; WAYS];
        Self {
            sets: (0..SETS).map(|_| Mutex::new(empty)).collect(),
            hasher: RandomState::new(),
            start,
            // Above a billion a second the interval is no longer a nanosecond.
            interval: interval.max(1),
            tolerance: interval.max(1) * u64::from(burst.get() - 1),
        }
    }

    /// Takes one token of the address's bucket, or says how long until there is one.
    pub fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let address = subnet(address);
        let since_start = now.saturating_duration_since(self.start).as_nanos();
        let now = u64::try_from(since_start).unwrap_or(u64::MAX);
        let mut set = self.set(address).lock();
        let bucket = find(&mut set, address);
        let full_at = bucket.full_at.max(now);
        let ahead = full_at - now;
        if ahead > self.tolerance {
            return Err(Duration::from_nanos(ahead - self.tolerance));
        }
        bucket.full_at = full_at.saturating_add(self.interval);
        Ok(())
    }

    fn set(&self, address: IpAddr) -> &Mutex<[Bucket; WAYS]> {
        let hash = self.hasher.hash_one(address) % SETS as u64;
        let index = usize::try_from(hash).expect("it is below the number of sets");
        &self.sets[index]
    }
}

/// The address's bucket, a full one in the place of the fullest if there is none.
fn find(set: &mut [Bucket; WAYS], address: IpAddr) -> &mut Bucket {
    let known = set
        .iter()
        .position(|bucket| bucket.address == Some(address));
    let index = known.unwrap_or_else(|| {
        let fullest = set
            .iter()
            .enumerate()
            .min_by_key(|(_, bucket)| bucket.full_at);
        let index = fullest.map_or(0, |(index, _)| index);
        set[index] = Bucket {
            address: Some(address),
            full_at: 0,
        };
        index
    });
    &mut set[index]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::net::Ipv4Addr;

    use super::*;

    fn network(text: &str) -> Network {
        text.to_owned().try_into().unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(peer: &str, forwarded: &[&str], expected: &str) {
        let proxies = [
            network("10.0.0.0/8"),
            network("192.0.2.1"),
            network("fd00::/8"),
        ];
        let mut headers = HeaderMap::new();
        for line in forwarded {
            let line = http::HeaderValue::from_bytes(line.as_bytes()).unwrap();
            headers.append("x-forwarded-for", line);
        }
        assert_eq!(
            remote_address(address(peer), &headers, &proxies),
            address(expected)
        );
    }

    #[test]
    fn a_peer_that_is_no_proxy_is_believed_nothing() {
        check("203.0.113.9", &[], "203.0.113.9");
        check("203.0.113.9", &["198.51.100.1"], "203.0.113.9");
        check("::ffff:203.0.113.9", &["198.51.100.1"], "203.0.113.9");
    }

    #[test]
    fn behind_proxies_the_rightmost_address_that_is_none_counts() {
        check("10.1.1.1", &["198.51.100.1"], "198.51.100.1");
        check("::ffff:10.1.1.1", &["198.51.100.1"], "198.51.100.1");
        check(
            "10.1.1.1",
            &["1.1.1.1, 198.51.100.1,10.2.2.2"],
            "198.51.100.1",
        );
        check(
            "10.1.1.1",
            &["1.1.1.1", "198.51.100.1", "192.0.2.1"],
            "198.51.100.1",
        );
        check("fd00::1", &["2001:db8::5"], "2001:db8::5");
        check("10.1.1.1", &["198.51.100.1:4711"], "198.51.100.1");
        check("10.1.1.1", &["[2001:db8::5]:4711"], "2001:db8::5");
        check("10.1.1.1", &["[2001:db8::5]"], "2001:db8::5");
        check("10.1.1.1", &["::ffff:198.51.100.1"], "198.51.100.1");
    }

    #[test]
    fn what_cannot_be_read_ends_the_chain_at_the_last_known_hop() {
        check("10.1.1.1", &[], "10.1.1.1");
        check("10.1.1.1", &[""], "10.1.1.1");
        check("10.1.1.1", &["198.51.100.1, unknown"], "10.1.1.1");
        check("10.1.1.1", &["198.51.100.1, unknown, 10.2.2.2"], "10.2.2.2");
        check("10.1.1.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3");
        check("10.1.1.1", &[&"10.2.2.2,".repeat(1000)], "10.1.1.1");
        let endless = vec!["10.2.2.2"; 1000].join(",");
        check(
            "10.1.1.1",
            &[&format!("198.51.100.1,{endless}")],
            "10.2.2.2",
        );
    }

    #[test]
    fn networks_hold_their_addresses() {
        let holds = |range: &str, text: &str| network(range).contains(address(text));
        assert!(holds("10.0.0.0/8", "10.255.255.255"));
        assert!(!holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.9.9.9/8", "10.0.0.1"));
        assert!(holds("0.0.0.0/0", "203.0.113.9"));
        assert!(!holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("::/0", "2001:db8::1"));
        assert!(holds("192.0.2.1", "192.0.2.1"));
        assert!(!holds("192.0.2.1", "192.0.2.2"));
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!holds("2001:db8::/32", "2001:db9::"));
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "a/8",
        ] {
            assert!(Network::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert_eq!(network("10.0.0.0/8").to_string(), "10.0.0.0/8");
    }

    fn buckets(per_second: u32, burst: u32, start: Instant) -> ConnectionBuckets {
        let number = |n| NonZeroU32::new(n).unwrap();
        ConnectionBuckets::new(number(per_second), number(burst), start)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let buckets = buckets(50, 200, start);
        let from = address("203.0.113.9");
        for _ in 0..200 {
            assert_eq!(buckets.take(from, start), Ok(()));
        }
        assert_eq!(buckets.take(from, start), Err(Duration::from_millis(20)));
        assert_eq!(buckets.take(address("203.0.113.10"), start), Ok(()));
        let later = start + Duration::from_secs(1);
        let n_passed = (0..100)
            .filter(|_| buckets.take(from, later).is_ok())
            .count();
        assert_eq!(n_passed, 50);
        let much_later = start + Duration::from_secs(3600);
        let n_passed = (0..300)
            .filter(|_| buckets.take(from, much_later).is_ok())
            .count();
        assert_eq!(n_passed, 200);
    }

    #[test]
    fn a_refused_connection_costs_nothing() {
        let start = Instant::now();
        let buckets = buckets(1, 1, start);
        let from = address("203.0.113.9");
        assert!(buckets.take(from, start).is_ok());
        for _ in 0..1000 {
            assert_eq!(buckets.take(from, start), Err(Duration::from_secs(1)));
        }
        assert!(buckets.take(from, start + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn an_ipv6_network_shares_one_bucket() {
        let start = Instant::now();
        let buckets = buckets(1, 2, start);
        assert!(buckets.take(address("2001:db8:0:1::1"), start).is_ok());
        assert!(buckets.take(address("2001:db8:0:1:ffff::2"), start).is_ok());
        assert!(buckets.take(address("2001:db8:0:1::3"), start).is_err());
        assert!(buckets.take(address("2001:db8:0:2::3"), start).is_ok());
    }

    #[test]
    fn a_flood_of_addresses_does_not_free_the_one_that_is_blocked() {
        let start = Instant::now();
        let buckets = buckets(1, 3, start);
        let blocked = address("203.0.113.9");
        while buckets.take(blocked, start).is_ok() {}
        // Each comes once, so that its bucket is fuller than the blocked one.
        for bits in 0..200_000 {
            assert!(
                buckets
                    .take(IpAddr::V4(Ipv4Addr::from_bits(bits)), start)
                    .is_ok()
            );
        }
        assert!(buckets.take(blocked, start).is_err());
    }

    #[test]
    fn a_clock_that_stands_before_the_start_is_the_start() {
        let start = Instant::now();
        let buckets = buckets(1, 1, start + Duration::from_secs(10));
        assert!(buckets.take(address("::1"), start).is_ok());
        assert!(buckets.take(address("::1"), start).is_err());
    }
}
