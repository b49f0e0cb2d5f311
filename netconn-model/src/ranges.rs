//! Sets of values as ranges: a search by halves tells whether one of thousands of ranges has a value.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of values: ranges, both ends included, in their order and without overlap.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ranges<T>(Vec<(T, T)>);

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy + Ord> Ranges<T> {
    /// Adds the values from `low` to `high`.
    pub(crate) fn insert(&mut self, low: T, high: T) {
        // The ranges between these two indexes overlap with the new one, which takes their place.
        let from = self.0.partition_point(|(_, end)| *end < low);
        let to = self.0.partition_point(|(start, _)| *start <= high);
        let overlapping = self.0.get(from..to).unwrap_or_default();
        let low = overlapping.first().map_or(low, |(start, _)| low.min(*start));
        let high = overlapping.last().map_or(high, |(_, end)| high.max(*end));
        self.0.splice(from..to, [(low, high)]);
    }

    /// Returns whether the set has the value.
    pub(crate) fn contains(&self, value: T) -> bool {
        // Only the last range that begins at the value or before it can have it, because ranges do not overlap.
        let after = self.0.partition_point(|(low, _)| *low <= value);
        after.checked_sub(1).and_then(|index| self.0.get(index)).is_some_and(|(_, high)| value <= *high)
    }

    /// Returns whether the set has no value.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A set of networks. Both versions of IP are apart, because numbers are compared faster than addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Networks {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Networks {
    /// Adds a network.
    pub(crate) fn insert(&mut self, network: IpNet) {
        match network {
            IpNet::V4(network) => self.v4.insert(network.network().into(), network.broadcast().into()),
            IpNet::V6(network) => self.v6.insert(network.network().into(), network.broadcast().into()),
        }
    }

    /// Returns whether one of the networks has the address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(address.into()),
            IpAddr::V6(address) => self.v6.contains(address.into()),
        }
    }

    /// Returns whether there is no network.
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_has_what_one_of_those_added_has(added in prop::collection::vec((0_u8..60, 0_u8..9), 0..30)) {
            let mut ranges = Ranges::default();
            for (low, length) in &added {
                ranges.insert(*low, low + length);
            }
            for value in 0..=u8::MAX {
                let expected = added.iter().any(|(low, length)| (*low..=low + length).contains(&value));
                prop_assert_eq!(ranges.contains(value), expected, "{} in {:?}", value, ranges);
            }
            prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", ranges);
            prop_assert_eq!(ranges.is_empty(), added.is_empty());
        }

        #[test]
        fn a_network_has_the_addresses_that_ipnet_says(
            added in prop::collection::vec((any::<bool>(), 0_u32..64, 0_u8..=8), 1..20),
            asked in 0_u32..64,
        ) {
            // Few different addresses, so that networks overlap: only the last bits differ.
            let address = |is_v4, bits: u32| -> IpAddr {
                if is_v4 { Ipv4Addr::from(0x0a00_0000 | bits).into() } else { Ipv6Addr::from(u128::from(bits)).into() }
            };
            let networks: Vec<IpNet> = added
                .iter()
                .map(|(is_v4, bits, host)| {
                    IpNet::new(address(*is_v4, *bits), (if *is_v4 { 32 } else { 128 }) - host).unwrap()
                })
                .collect();
            let mut set = Networks::default();
            networks.iter().for_each(|network| set.insert(*network));
            for address in [address(true, asked), address(false, asked)] {
                prop_assert_eq!(set.contains(address), networks.iter().any(|network| network.contains(&address)));
            }
        }
    }

    #[test]
    fn the_whole_address_space_is_one_range() {
        let mut set = Networks::default();
        assert!(set.is_empty() && !set.contains(Ipv4Addr::LOCALHOST.into()));
        for network in ["10.0.0.0/8", "0.0.0.0/0", "255.255.255.255/32", "::/0", "ffff::/16"] {
            set.insert(network.parse().unwrap());
        }
        assert_eq!((set.v4.0.len(), set.v6.0.len()), (1, 1));
        assert!(set.contains(Ipv4Addr::BROADCAST.into()) && set.contains(Ipv6Addr::LOCALHOST.into()));
    }
}
