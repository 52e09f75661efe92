//! Relays: which one our tunnels to a peer go through, and who may talk through ours.
//!
//! Both sides of a tunnel have to choose the same one, without asking each other: the first by name of the nodes that
//! the third cluster offers.

use super::Families;
use api::{
    bytes::PublicKey,
    name::{ClusterName, NodeName},
    record::{Node, Phase},
};
use datapath::image::{RELAY_PAIRS_MAX, RelayPair};
use replica::view::{ClusterTables, View};
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

/// A relay that tunnels go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Whose node it runs on.
    pub cluster: ClusterName,
    /// That node.
    pub node: NodeName,
    /// Of its own device: what we prove to it where we are.
    pub key: PublicKey,
    /// Where it is dialled.
    pub at: SocketAddr,
    /// Of its node.
    pub mesh_address: Option<IpAddr>,
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.node)
    }
}

/// The relay between us and a node of a peer: of the cluster that our MeshPeer names, or, when neither of both nodes can
/// be dialled, of the first peer that offers one. None: the tunnel is dialled, or the other side dials it.
pub(super) fn between(
    view: &View,
    families: Families,
    me: Option<&Node>,
    (cluster, other): (&ClusterName, &Node),
) -> Option<Relay> {
    let peers = &view.tables().local.peers;
    let active = |name: &ClusterName| peers.get(name).is_some_and(|peer| peer.phase == Phase::Active);
    let theirs = peers.get(cluster)?;
    let undialled = me.is_some_and(|me| me.endpoints.is_empty()) && other.endpoints.is_empty();
    match &theirs.through {
        Some(third) => active(third).then(|| offered(view, third, families))?,
        None if undialled => peers
            .keys()
            .filter(|third| *third != cluster && active(third))
            .find_map(|third| offered(view, third, families)),
        None => None,
    }
}

/// The relay of a cluster. Of another family than we can send it is none of ours, and we take no other in its place: the
/// other side would not.
fn offered(view: &View, cluster: &ClusterName, families: Families) -> Option<Relay> {
    let tables = view.cluster(cluster)?;
    let key = |name: &NodeName| tables.keys.get(name)?.relay_key;
    let mut offering = tables.nodes.iter().filter(|(_, node)| !node.relay.is_empty());
    let (name, node, key) = offering.find_map(|(name, node)| Some((name, node, key(name)?)))?;
    let at = node.relay.iter().copied().find(|at| families.sends_to(at.ip()))?;
    let mesh_address = node.mesh_addresses.first().copied();
    Some(Relay { cluster: cluster.clone(), node: name.clone(), key, at, mesh_address })
}

/// Who may talk through our relay: those whom it serves as a gateway, and the nodes of two peers whose contracts name each
/// other.
pub(super) fn pairs(
    view: &View,
    me: Option<&Node>,
    as_gateway: BTreeSet<RelayPair>,
    problems: &mut Vec<String>,
) -> BTreeSet<RelayPair> {
    if me.is_none_or(|me| me.relay.is_empty()) {
        return BTreeSet::new();
    }
    let peers: Vec<_> =
        view.tables().local.peers.iter().filter(|(_, peer)| peer.phase == Phase::Active).collect();
    let keys = |name| view.cluster(name).into_iter().flat_map(node_keys);
    let agreed = peers.iter().enumerate().flat_map(|(index, (name, peer))| {
        let others = peers[index + 1..].iter();
        let agrees = others.filter(|(other, it)| peer.relay.contains(*other) && it.relay.contains(*name));
        agrees.map(|(other, _)| (*name, *other))
    });
    let by_contract = agreed.flat_map(|(name, other)| {
        keys(name).flat_map(move |one| keys(other).filter_map(move |other| RelayPair::new(one, other)))
    });
    let pairs: BTreeSet<_> = as_gateway.into_iter().chain(by_contract).take(RELAY_PAIRS_MAX + 1).collect();
    if pairs.len() > RELAY_PAIRS_MAX {
        problems.push(format!(
            "more than {RELAY_PAIRS_MAX} pairs of nodes may talk through this node's relay, as a gateway or by contracts: it \
             takes no more, and the rest cannot"
        ));
    }
    pairs.into_iter().take(RELAY_PAIRS_MAX).collect()
}

fn node_keys(tables: &ClusterTables) -> impl Iterator<Item = PublicKey> {
    tables.nodes.keys().filter_map(|node| Some(tables.keys.get(node)?.public_key))
}

impl Families {
    pub(super) fn sends_to(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}
