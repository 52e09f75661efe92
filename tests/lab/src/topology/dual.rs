//! Dual stack: everything in a lab has one IPv4 and one IPv6 address, written as a list of two in either order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;

/// One IPv4 and one IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<IpAddr>")]
pub struct DualAddr {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

/// One IPv4 and one IPv6 prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<IpNet>")]
pub struct DualNet {
    /// The IPv4 prefix.
    pub v4: Ipv4Net,
    /// The IPv6 prefix.
    pub v6: Ipv6Net,
}

impl DualAddr {
    /// Both, IPv4 first.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

impl DualNet {
    /// Both, IPv4 first.
    #[must_use]
    pub fn both(self) -> [IpNet; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The first address of each: the gateway, by the custom of host-local and of this lab.
    #[must_use]
    pub fn first(self) -> DualAddr {
        DualAddr {
            v4: Ipv4Addr::from(u32::from(self.v4.network()).saturating_add(1)),
            v6: Ipv6Addr::from(u128::from(self.v6.network()).saturating_add(1)),
        }
    }

    /// Whether both addresses are inside.
    #[must_use]
    pub fn contains(self, addr: DualAddr) -> bool {
        self.v4.contains(&addr.v4) && self.v6.contains(&addr.v6)
    }

    /// Whether both prefixes of `inner` are inside.
    #[must_use]
    pub fn covers(self, inner: Self) -> bool {
        self.v4.contains(&inner.v4) && self.v6.contains(&inner.v6)
    }

    /// Whether they share an address in either family.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let v4 = self.v4.contains(&other.v4) || other.v4.contains(&self.v4);
        let v6 = self.v6.contains(&other.v6) || other.v6.contains(&self.v6);
        v4 || v6
    }
}

impl TryFrom<Vec<IpAddr>> for DualAddr {
    type Error = String;

    fn try_from(list: Vec<IpAddr>) -> Result<Self, String> {
        match list[..] {
            [IpAddr::V4(v4), IpAddr::V6(v6)] | [IpAddr::V6(v6), IpAddr::V4(v4)] => Ok(Self { v4, v6 }),
            _ => Err(format!("{list:?} is not one IPv4 and one IPv6 address")),
        }
    }
}

impl TryFrom<Vec<IpNet>> for DualNet {
    type Error = String;

    fn try_from(list: Vec<IpNet>) -> Result<Self, String> {
        let (v4, v6) = match list[..] {
            [IpNet::V4(v4), IpNet::V6(v6)] | [IpNet::V6(v6), IpNet::V4(v4)] => (v4, v6),
            _ => return Err(format!("{list:?} is not one IPv4 and one IPv6 prefix")),
        };
        if v4.trunc() != v4 || v6.trunc() != v6 {
            return Err(format!("{v4}, {v6}: a prefix has no bits behind its length"));
        }
        Ok(Self { v4, v6 })
    }
}
