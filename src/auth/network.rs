//! How much of an address stands for one party.

use std::net::{IpAddr, Ipv6Addr};

/// What one party holds of the address space: an IPv4 address, or the /64 that an IPv6 address
/// is in, since a host picks the lower 64 bits as it likes (RFC 4291 section 2.5.1). An IPv4
/// address mapped into IPv6 is the IPv4 address.
#[must_use]
pub fn subnet(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[track_caller]
    fn check(address: &str, expected: &str) {
        assert_eq!(subnet(address.parse().unwrap()).to_string(), expected);
    }

    #[test]
    fn an_ipv6_host_is_its_64_bit_network() {
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
        check("::1", "::1");
        check("192.0.2.7", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7");
    }
}
