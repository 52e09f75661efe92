//! One mesh address of each range for each node, the lowest free one first, kept for as long as possible.

use super::Exhausted;
use api::name::NodeName;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Most nodes that are gone and remembered: about 120 KiB of what is kept.
const GONE_MAX: usize = 1_000;

/// What a node has.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Allocation {
    /// At most one of each range.
    addresses: Vec<IpAddr>,
    /// Since when the node is gone, Unix time in seconds. Its addresses are the last to be given to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone_s: Option<u64>,
}

pub(super) fn allocate(
    held: &mut BTreeMap<NodeName, Allocation>,
    nodes: &[NodeName],
    ranges: &[IpNet],
    now_s: u64,
) -> (BTreeMap<NodeName, Vec<IpAddr>>, Vec<Exhausted>) {
    let present: BTreeSet<&NodeName> = nodes.iter().collect();
    for (name, allocation) in held.iter_mut() {
        if present.contains(name) {
            allocation.gone_s = None;
        } else {
            allocation.gone_s.get_or_insert(now_s);
        }
        // A range that was taken from the configuration takes its addresses along.
        allocation.addresses.retain(|ip| ranges.iter().any(|range| range.contains(ip)));
    }
    forget(held);
    // All that anybody has or had.
    let mut taken: BTreeSet<IpAddr> = held.values().flat_map(|a| a.addresses.iter().copied()).collect();
    let mut exhausted = Vec::new();
    for node in nodes {
        held.entry(node.clone()).or_default();
        for range in ranges {
            if held[node].addresses.iter().any(|ip| range.contains(ip)) {
                continue;
            }
            match free(&taken, range).or_else(|| reclaim(held, range)) {
                Some(ip) => {
                    taken.insert(ip);
                    held.get_mut(node).expect("the entry was just made").addresses.push(ip);
                }
                None => exhausted.push(Exhausted { node: node.clone(), range: *range }),
            }
        }
    }
    let of = |node: &NodeName| (node.clone(), in_order(&held[node].addresses, ranges));
    (nodes.iter().map(of).collect(), exhausted)
}

/// Of nodes that are gone, those that went last keep what they had: a cluster that grows and shrinks makes new names every day.
fn forget(held: &mut BTreeMap<NodeName, Allocation>) {
    let mut gone: Vec<(u64, NodeName)> =
        held.iter().filter_map(|(name, a)| Some((a.gone_s?, name.clone()))).collect();
    gone.sort_by(|a, b| b.cmp(a));
    for (_, name) in gone.drain(GONE_MAX.min(gone.len())..) {
        held.remove(&name);
    }
}

/// The lowest address that nobody has or had.
fn free(taken: &BTreeSet<IpAddr>, range: &IpNet) -> Option<IpAddr> {
    // Only as many candidates as can be taken: a /64 is not walked to its end.
    hosts(range).take(taken.len() + 1).find(|ip| !taken.contains(ip))
}

/// The address of the node that has been gone for longest.
fn reclaim(held: &mut BTreeMap<NodeName, Allocation>, range: &IpNet) -> Option<IpAddr> {
    let has = |a: &Allocation| a.addresses.iter().position(|ip| range.contains(ip));
    let oldest =
        held.iter().filter(|(_, a)| has(a).is_some()).filter_map(|(name, a)| Some((a.gone_s?, name.clone())));
    let (_, name) = oldest.min()?;
    let allocation = held.get_mut(&name)?;
    let ip = has(allocation).map(|at| allocation.addresses.remove(at));
    if allocation.addresses.is_empty() {
        held.remove(&name);
    }
    ip
}

/// Addresses a node may have: not the network's own, nor IPv4's broadcast.
fn hosts(range: &IpNet) -> impl Iterator<Item = IpAddr> {
    let network = range.network();
    let subnet_anycast = move |ip: &IpAddr| matches!(ip, IpAddr::V6(_)) && *ip == network;
    range.hosts().filter(move |ip| !subnet_anycast(ip))
}

/// In the order of the ranges, so that IPv4 comes first where the operator put it first.
fn in_order(addresses: &[IpAddr], ranges: &[IpNet]) -> Vec<IpAddr> {
    ranges.iter().filter_map(|range| addresses.iter().find(|ip| range.contains(*ip)).copied()).collect()
}
