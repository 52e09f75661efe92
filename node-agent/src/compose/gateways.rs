//! Gateways: nodes of a cluster whose relays speak for its other nodes to those that nobody can dial.
//!
//! A node behind NAT has to keep every tunnel open that somebody else may begin in. With gateways it keeps those to a few
//! nodes, and shows their relays where it is; every other node of that cluster reaches it through one of them, in the same
//! tunnel, unopened, and straight as soon as there is something to say ([`crate::demand`]).
//!
//! Nobody is asked: both sides, and the gateways, find the same in the same records. Which of the gateways a datagram
//! takes is its sender's choice, as both sides have shown all of them where they are; so all are of one family, which is IPv4
//! where there is a choice.

use super::{Families, Way, relay::Relay};
use api::{
    bytes::PublicKey,
    name::{ClusterName, NodeName},
    record::{Node, TunnelKey},
};
use datapath::image::{RELAY_PAIRS_MAX, RelayPair};
use replica::view::View;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// Gateways of a cluster that are used, the first by name: each costs every node behind NAT a tunnel that is kept, some 270
/// bytes a second; one that is down is passed over for the other.
pub const GATEWAYS_MAX: usize = 2;

/// The nodes of each cluster that offer and run a relay, and can be dialled themselves.
pub(super) struct Gateways<'a> {
    view: &'a View,
    by_cluster: BTreeMap<&'a ClusterName, Vec<Gateway<'a>>>,
}

#[derive(Clone, Copy)]
struct Gateway<'a> {
    name: &'a NodeName,
    node: &'a Node,
    relay_key: PublicKey,
}

/// A node, and what it says of its tunnel.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) cluster: &'a ClusterName,
    pub(super) name: &'a NodeName,
    pub(super) node: &'a Node,
    /// None: it is us, and what we say is on its way to the store.
    pub(super) key: Option<&'a TunnelKey>,
}

impl End<'_> {
    fn keeps_on_demand(&self) -> bool {
        self.key.is_none_or(|key| key.on_demand)
    }
}

impl<'a> Gateways<'a> {
    pub(super) fn of(view: &'a View) -> Self {
        let by_cluster = view.tables().clusters.iter().map(|(cluster, tables)| {
            let gateway = |(name, node): (&'a NodeName, &'a Node)| {
                let key = tables.keys.get(name).filter(|key| key.on_demand)?;
                let offers = !node.relay.is_empty() && !node.endpoints.is_empty();
                offers.then_some(Gateway { name, node, relay_key: key.relay_key? })
            };
            (cluster, tables.nodes.iter().filter_map(gateway).collect())
        });
        Self { view, by_cluster: by_cluster.collect() }
    }

    /// How one node reaches another where no third cluster passes datagrams on.
    pub(super) fn between(&self, families: Families, me: Option<End<'_>>, other: End<'_>) -> Way {
        let Some((cluster, gateways)) = me.and_then(|me| self.serving(me, other)) else {
            return Way::Straight;
        };
        let relay = |(gateway, at): (Gateway<'_>, SocketAddr)| Relay {
            cluster: cluster.clone(),
            node: gateway.name.clone(),
            key: gateway.relay_key,
            at,
            mesh_address: gateway.node.mesh_addresses.first().copied(),
        };
        let relays: Vec<_> = gateways.filter(|(_, at)| families.sends_to(at.ip())).map(relay).collect();
        if relays.is_empty() {
            return Way::Straight;
        }
        let dialled = families.endpoint(other.node).zip(other.key);
        let dialled = dialled.map(|(at, key)| SocketAddr::new(at, key.port));
        Way::OnDemand { gateways: relays, dialled }
    }

    /// Who may talk through the relay of the node `me` as it is a gateway: no more than one pair beyond what a relay takes.
    pub(super) fn pairs(&self, me: &NodeName) -> BTreeSet<RelayPair> {
        let own = self.view.own();
        if !self.by_cluster.get(own).is_some_and(|all| all.iter().any(|it| it.name == me)) {
            return BTreeSet::new();
        }
        let others: Vec<_> = super::reachable(self.view)
            .filter(|(cluster, ..)| *cluster != own)
            .flat_map(|(cluster, ..)| self.ends(cluster))
            .filter(|other| other.node.endpoints.is_empty())
            .collect();
        let serves = |(one, other): &(End<'_>, End<'_>)| {
            self.serving(*one, *other).is_some_and(|(_, mut all)| all.any(|(it, _)| it.name == me))
        };
        self.ends(own)
            .flat_map(|one| others.iter().map(move |other| (one, *other)))
            .filter(serves)
            .filter_map(|(one, other)| RelayPair::new(one.key?.public_key, other.key?.public_key))
            .take(RELAY_PAIRS_MAX + 1)
            .collect()
    }

    /// Every node of a cluster whose agent is known.
    fn ends(&self, cluster: &'a ClusterName) -> impl Iterator<Item = End<'a>> {
        let tables = self.view.cluster(cluster);
        tables.into_iter().flat_map(move |tables| {
            tables.nodes.iter().filter_map(move |(name, node)| {
                Some(End { cluster, name, node, key: Some(tables.keys.get(name)?) })
            })
        })
    }

    /// The gateways between two nodes, if they need any: of different clusters, one that nobody dials and one that is
    /// dialled and is no gateway itself.
    fn serving<'b>(
        &'b self,
        one: End<'b>,
        other: End<'b>,
    ) -> Option<(&'b ClusterName, impl Iterator<Item = (Gateway<'a>, SocketAddr)> + 'b)> {
        let dialled = match (one.node.endpoints.is_empty(), other.node.endpoints.is_empty()) {
            (true, false) => other,
            (false, true) => one,
            (true, true) | (false, false) => return None,
        };
        let both_can = one.keeps_on_demand() && other.keeps_on_demand();
        if one.cluster == other.cluster || !both_can {
            return None;
        }
        let all = self.by_cluster.get(dialled.cluster)?;
        let of = |v4: bool| {
            let at = move |it: &Gateway<'a>| it.node.relay.iter().copied().find(|at| at.is_ipv4() == v4);
            let has_family = dialled.node.endpoints.iter().any(|endpoint: &IpAddr| endpoint.is_ipv4() == v4);
            all.iter()
                .filter(move |_| has_family)
                .filter_map(move |it| Some((*it, at(it)?)))
                .take(GATEWAYS_MAX)
        };
        let v4 = of(true).next().is_some();
        let gateways = || of(v4);
        let itself = gateways().any(|(gateway, _)| gateway.name == dialled.name);
        (!itself).then(|| (dialled.cluster, gateways()))
    }
}
