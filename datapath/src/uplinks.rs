//! The devices of a host, and which of them lead out of it.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// The tunnel's device.
pub const MESH_DEVICE: &str = "mesh0";

/// A device of this host's network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// What it is, as far as it matters here.
    pub kind: LinkKind,
    /// Administratively up.
    pub up: bool,
    /// Largest packet it takes.
    pub mtu_bytes: u32,
    /// Of its link layer, when that is Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Of a pair: the namespace of its other end, by this namespace's numbers, and its index there. None if that is here.
    pub peer: Option<(i32, u32)>,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Its addresses, link-local ones included.
    pub addresses: BTreeSet<IpAddr>,
    /// A default route of the main table leaves by it.
    pub has_default_route: bool,
}

/// What a device is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LinkKind {
    /// The host itself.
    Loopback,
    /// A bridge.
    Bridge,
    /// One end of a pair: a pod's device, or, in a container, the way out.
    Veth,
    /// A TUN or TAP device, or a WireGuard one.
    Tunnel,
    /// Anything else: a physical device, a bond, a VLAN.
    #[default]
    Other,
}

/// Where the guard and the source check belong: devices by which this host is reached, and what such a device is a port
/// of or has ports in; and the bridges that pods live behind, because no source of the encrypted scope is legitimate
/// there either.
///
/// A device counts as an uplink when a default route leaves by it or when it carries an address at which this node is
/// dialled. The loopback, `mesh0` and the devices of pods are never one.
#[must_use]
pub fn uplinks(links: &[Link], endpoints: &BTreeSet<IpAddr>, pod_devices: &BTreeSet<u32>) -> BTreeSet<u32> {
    let by_index: BTreeMap<u32, &Link> = links.iter().map(|link| (link.ifindex, link)).collect();
    let eligible = |link: &Link| {
        link.kind != LinkKind::Loopback && link.name != MESH_DEVICE && !pod_devices.contains(&link.ifindex)
    };
    let leads_out = |link: &&Link| link.has_default_route || !link.addresses.is_disjoint(endpoints);

    let mut found: BTreeSet<u32> =
        links.iter().filter(leads_out).filter(|l| eligible(l)).map(|l| l.ifindex).collect();
    // An uplink that is a bridge or a bond sends by its ports; one that is a port is ruled by its master.
    let ports = links.iter().filter(|link| link.master.is_some_and(|master| found.contains(&master)));
    let masters =
        found.iter().filter_map(|index| by_index[index].master).filter_map(|m| by_index.get(&m).copied());
    let related: Vec<u32> = ports.chain(masters).filter(|link| eligible(link)).map(|l| l.ifindex).collect();
    found.extend(related);
    found.extend(links.iter().filter(|l| l.kind == LinkKind::Bridge && eligible(l)).map(|l| l.ifindex));
    found
}
