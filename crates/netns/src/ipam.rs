//! Addresses: which subnet, and which of its addresses is next. Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

/// An IPv4 subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    base: Ipv4Addr,
    prefix_len: u8,
}

/// Prefix of the subnets that Gantry picks by itself: some 4,000 pods.
const OWN_PREFIX: u8 = 20;

/// First subnet of the pool that Gantry picks from, 10.88.0.0/13.
const POOL: u32 = (10 << 24) | (88 << 16);

/// Number of subnets in the pool.
const POOL_SIZE: u32 = 1 << (OWN_PREFIX - 13);

impl Subnet {
    /// The subnet of `address`; `None` unless the prefix leaves room for a gateway and pods (1 to 29).
    pub fn new(address: Ipv4Addr, prefix_len: u8) -> Option<Self> {
        let valid = (1..=29).contains(&prefix_len);
        valid.then(|| Self { base: Ipv4Addr::from(u32::from(address) & mask(prefix_len)), prefix_len })
    }

    /// Length of the prefix.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// First usable address, that of the bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1)
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, address: Ipv4Addr, prefix_len: u8) -> bool {
        let shorter = mask(self.prefix_len.min(prefix_len));
        u32::from(self.base) & shorter == u32::from(address) & shorter
    }

    /// The next free address after `last`, in a circle: one that was given back is not used again soon.
    pub(crate) fn next(&self, last: Option<Ipv4Addr>, used: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        // Without the subnet's own address, the gateway and the broadcast address.
        let (first, count) = (u32::from(self.base) + 2, (1u32 << (32 - self.prefix_len)) - 3);
        let start = match last.map(u32::from) {
            Some(last) if (first..first + count).contains(&last) => last - first + 1,
            _ => 0,
        };
        (0..count).map(|i| Ipv4Addr::from(first + (start + i) % count)).find(|ip| !used.contains(ip))
    }

    /// The first subnet of the pool, beginning with the `number`-th, that overlaps nothing in `taken`.
    pub(crate) fn pick(number: u32, taken: &[(Ipv4Addr, u8)]) -> Option<Self> {
        let candidate = |i: u32| Self {
            base: Ipv4Addr::from(POOL + (((number + i) % POOL_SIZE) << (32 - OWN_PREFIX))),
            prefix_len: OWN_PREFIX,
        };
        (0..POOL_SIZE).map(candidate).find(|s| !taken.iter().any(|(ip, len)| s.overlaps(*ip, *len)))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_len)
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_go_round_and_run_out() {
        let subnet = Subnet::new(ip("10.1.2.3"), 29).unwrap();
        assert_eq!((subnet.to_string().as_str(), subnet.gateway()), ("10.1.2.0/29", ip("10.1.2.1")));
        let mut used = BTreeSet::new();
        assert_eq!(subnet.next(None, &used), Some(ip("10.1.2.2")));
        assert_eq!(subnet.next(Some(ip("10.1.2.2")), &used), Some(ip("10.1.2.3")), "not the same again");
        assert_eq!(subnet.next(Some(ip("10.1.2.6")), &used), Some(ip("10.1.2.2")), "round");
        used.extend((2..=6).map(|n| Ipv4Addr::new(10, 1, 2, n)));
        assert_eq!(subnet.next(Some(ip("10.1.2.4")), &used), None);
        used.remove(&ip("10.1.2.4"));
        assert_eq!(subnet.next(Some(ip("10.1.2.4")), &used), Some(ip("10.1.2.4")));
        assert!(Subnet::new(ip("10.0.0.0"), 30).is_none() && Subnet::new(ip("10.0.0.0"), 0).is_none());
    }

    #[test]
    fn subnets_avoid_what_is_there() {
        let first = Subnet::pick(0, &[]).unwrap();
        assert_eq!(first.to_string(), "10.88.0.0/20");
        assert_eq!(Subnet::pick(1, &[]).unwrap().to_string(), "10.88.16.0/20");
        let taken = [(ip("10.88.3.0"), 24), (ip("10.88.16.0"), 20)];
        assert_eq!(Subnet::pick(0, &taken).unwrap().to_string(), "10.88.32.0/20");
        assert_eq!(Subnet::pick(0, &[(ip("10.0.0.0"), 8)]), None);
        assert_eq!(Subnet::pick(127, &[(ip("10.95.240.0"), 20)]).unwrap(), first, "in a circle");
    }
}
