//! The devices of this host, as [`crate::uplinks`] and [`crate::bindings`] want them.

use super::{
    Error, Netlink,
    observe::{destination, table},
};
use crate::uplinks::{Link, LinkKind};
use futures::TryStreamExt;
use rtnetlink::packet_route::{
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

impl Netlink {
    /// All devices, by index.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn links(&self) -> Result<Vec<Link>, Error> {
        let mut links = self.devices()?;
        let defaults: BTreeSet<u32> =
            self.routes()?.iter().filter(|r| is_default(r)).flat_map(devices).collect();
        for link in &mut links {
            link.has_default_route = defaults.contains(&link.ifindex);
        }
        Ok(links)
    }

    /// The same, without a look at the routes.
    pub(super) fn devices(&self) -> Result<Vec<Link>, Error> {
        let messages: Vec<LinkMessage> =
            self.ask("list devices", self.handle.link().get().execute().try_collect())?;
        let addresses: Vec<AddressMessage> =
            self.ask("list addresses", self.handle.address().get().execute().try_collect())?;
        let mut links: BTreeMap<u32, Link> = messages.iter().map(|m| (m.header.index, link(m))).collect();
        for message in &addresses {
            if let (Some(link), Some(address)) = (links.get_mut(&message.header.index), address(message)) {
                link.addresses.insert(address);
            }
        }
        Ok(links.into_values().collect())
    }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        ifindex: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    if message.header.flags.contains(LinkFlags::Loopback) {
        link.kind = LinkKind::Loopback;
    }
    let (mut peer, mut namespace) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(ifindex) => peer = Some(*ifindex),
            LinkAttribute::LinkNetNsId(id) => namespace = Some(*id),
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu_bytes = *mtu,
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(kind).unwrap_or(link.kind);
            }
            // A device has some seventy of them.
            _ => {}
        }
    }
    link.peer = namespace.zip(peer);
    link
}

fn kind(info: &LinkInfo) -> Option<LinkKind> {
    match info {
        LinkInfo::Kind(InfoKind::Bridge) => Some(LinkKind::Bridge),
        LinkInfo::Kind(InfoKind::Veth) => Some(LinkKind::Veth),
        LinkInfo::Kind(InfoKind::Tun | InfoKind::Wireguard) => Some(LinkKind::Tunnel),
        _ => None,
    }
}

fn address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    // On a point-to-point device `Address` is the other end.
    find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Unicast
        && table(route) == u32::from(RouteHeader::RT_TABLE_MAIN)
        && destination(route).is_some_and(|prefix| prefix.prefix_len() == 0)
}

/// One, or several for a multipath route.
fn devices(route: &RouteMessage) -> Vec<u32> {
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(ifindex) => vec![*ifindex],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    };
    route.attributes.iter().flat_map(of).collect()
}
