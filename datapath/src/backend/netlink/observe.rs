//! What the kernel says of `mesh0`, our table and our rules.

use super::{Error, METRIC_FENCE, METRIC_MESH, Netlink, RULE_PRIORITY, TABLE};
use crate::{
    observe::{Device, Family, MeshRoute},
    plan::FWMARK,
    uplinks::MESH_DEVICE,
};
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType},
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The part of [`crate::observe::Observed`] that netlink tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetlinkObserved {
    /// `mesh0`.
    pub device: Option<Device>,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Our rules.
    pub rules: BTreeSet<Family>,
    /// Our routes over `mesh0`.
    pub routes: BTreeMap<IpNet, MeshRoute>,
    /// The ends of our table.
    pub unreachable: BTreeSet<IpNet>,
}

impl Netlink {
    /// Reads everything of ours.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn observe(&self) -> Result<NetlinkObserved, Error> {
        let mut observed = NetlinkObserved::default();
        if let Some(link) = self.devices()?.into_iter().find(|link| link.name == MESH_DEVICE) {
            let mtu_bytes = u16::try_from(link.mtu_bytes).unwrap_or(u16::MAX);
            observed.device = Some(Device { ifindex: link.ifindex, up: link.up, mtu_bytes });
            observed.addresses = link.addresses;
        }
        for (family, version) in [(Family::V4, IpVersion::V4), (Family::V6, IpVersion::V6)] {
            let rules: Vec<RuleMessage> =
                self.ask("list rules", self.handle.rule().get(version).execute().try_collect())?;
            if rules.iter().any(is_ours) {
                observed.rules.insert(family);
            }
        }
        for message in self.routes()?.iter().filter(|message| table(message) == TABLE) {
            observed.take_route(message);
        }
        Ok(observed)
    }

    /// All routes of both families.
    pub(super) fn routes(&self) -> Result<Vec<RouteMessage>, Error> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut all: Vec<RouteMessage> =
            self.ask("list routes", self.handle.route().get(v4).execute().try_collect())?;
        all.append(&mut self.ask("list routes", self.handle.route().get(v6).execute().try_collect())?);
        Ok(all)
    }
}

impl NetlinkObserved {
    fn take_route(&mut self, message: &RouteMessage) {
        let Some(prefix) = destination(message) else { return };
        let mut metric = 0;
        let mut route = MeshRoute { ifindex: 0, source: None, mtu_bytes: 0 };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::Oif(ifindex) => route.ifindex = *ifindex,
                RouteAttribute::PrefSource(RouteAddress::Inet(source)) => {
                    route.source = Some((*source).into());
                }
                RouteAttribute::PrefSource(RouteAddress::Inet6(source)) => {
                    route.source = Some((*source).into());
                }
                RouteAttribute::Metrics(metrics) => route.mtu_bytes = mtu(metrics),
                // Nothing that we write, or that a route of ours differs by.
                _ => {}
            }
        }
        match (metric, message.header.kind) {
            (METRIC_FENCE, RouteType::Unreachable) => drop(self.unreachable.insert(prefix)),
            (METRIC_MESH, RouteType::Unicast) => drop(self.routes.insert(prefix, route)),
            // Somebody else's in our table; a fence of ours still ends every prefix of ours.
            (_, kind) => tracing::debug!(%prefix, metric, ?kind, "Foreign route in the mesh table"),
        }
    }
}

/// Where a route goes; the absence of a destination is the default route.
pub(super) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    let address = match (address, message.header.address_family) {
        (Some(address), _) => address,
        (None, AddressFamily::Inet) => Ipv4Addr::UNSPECIFIED.into(),
        (None, AddressFamily::Inet6) => Ipv6Addr::UNSPECIFIED.into(),
        (None, _) => return None,
    };
    IpNet::new(address, message.header.destination_prefix_length).ok()
}

pub(super) fn table(message: &RouteMessage) -> u32 {
    let long = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    long.unwrap_or(u32::from(message.header.table))
}

fn mtu(metrics: &[RouteMetric]) -> u16 {
    let mtu = metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(0)
}

fn is_ours(rule: &RuleMessage) -> bool {
    let has = |wanted: RuleAttribute| rule.attributes.contains(&wanted);
    rule.header.action == RuleAction::ToTable
        && rule.header.flags.contains(RuleFlags::Invert)
        && has(RuleAttribute::Priority(RULE_PRIORITY))
        && has(RuleAttribute::FwMark(FWMARK))
        && has(RuleAttribute::Table(TABLE))
}
