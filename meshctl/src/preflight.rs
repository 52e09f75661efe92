//! What must hold before a connect touches anything. Pure: facts of both clusters in, conflicts out.

use crate::check::{Code, Finding};
use api::{
    bytes::ClusterUuid,
    name::ClusterName,
    peer::{MeshPeer, overlap},
    record::Phase,
};
use ipnet::IpNet;
use std::{fmt, net::IpAddr};

/// What a cluster says of itself, and which peers it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFacts {
    /// Its name.
    pub name: ClusterName,
    /// Its trust domain.
    pub uuid: ClusterUuid,
    /// Its pods', Services' and mesh ranges, with what each is.
    pub ranges: Vec<(Range, IpNet)>,
    /// Where its tunnels are dialled.
    pub node_addresses: Vec<IpAddr>,
    /// `host:port` of its apiserver.
    pub endpoints: Vec<String>,
    /// Its CA certificates, PEM.
    pub trust_bundle: String,
    /// The peers it has.
    pub peers: Vec<MeshPeer>,
    /// Records it exports, by kind.
    pub counts: std::collections::BTreeMap<String, u64>,
}

/// What a range is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Range {
    /// Pods' addresses.
    Pods,
    /// ClusterIPs. They stay inside: two clusters may use the same.
    Services,
    /// Mesh addresses.
    Mesh,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Mesh => "mesh",
        })
    }
}

impl ClusterFacts {
    /// The object of a peer that it has.
    pub fn peer(&self, name: &ClusterName) -> Option<&MeshPeer> {
        self.peers.iter().find(|peer| peer.metadata.name == *name)
    }

    /// What it announces to peers: pods' and mesh ranges. ClusterIPs are never reached from outside.
    pub fn announced(&self) -> impl Iterator<Item = (Range, IpNet)> {
        self.ranges.iter().copied().filter(|(range, _)| matches!(range, Range::Pods | Range::Mesh))
    }
}

/// Why two clusters cannot be connected, through a third one or without any, a sentence each. Empty: they can.
pub fn conflicts(a: &ClusterFacts, b: &ClusterFacts, through: Option<&ClusterName>) -> Vec<Finding> {
    let mut all = Vec::new();
    if a.uuid == b.uuid {
        let text = format!("{} and {} are the same cluster ({})", a.name, b.name, a.uuid);
        return vec![Finding::new(Code::SameCluster, text)];
    }
    if a.name == b.name {
        let text = format!("two clusters have the name {}: {} and {}", a.name, a.uuid, b.uuid);
        return vec![Finding::new(Code::SameName, text)];
    }
    for (ours, theirs) in [(a, b), (b, a)] {
        all.extend(against_own(ours, theirs));
        all.extend(against_peers(ours, theirs));
    }
    all.extend(no_way(a, b, through));
    all.sort();
    all.dedup();
    all
}

/// Nobody could open the connections between the two.
fn no_way(a: &ClusterFacts, b: &ClusterFacts, through: Option<&ClusterName>) -> Vec<Finding> {
    let no_address = |text| Finding::new(Code::NoAddress, text);
    let Some(relay) = through else {
        let mut names = [&a.name, &b.name];
        names.sort();
        let text = format!(
            "neither {} nor {} advertises an address of its apiserver: connect both with a cluster that does, and these \
             two with --through it",
            names[0], names[1]
        );
        let nobody_dials = a.endpoints.is_empty() && b.endpoints.is_empty();
        return if nobody_dials { vec![no_address(text)] } else { vec![] };
    };
    let connected = |of: &&ClusterFacts| of.peer(relay).is_some_and(|peer| peer.phase() == Phase::Active);
    let missing = [a, b].into_iter().filter(|of| !connected(of));
    missing
        .map(|of| {
            no_address(format!(
                "{} is not connected with {relay}, through which it is to be reached",
                of.name
            ))
        })
        .collect()
}

/// What `theirs` announces against every range of `ours`, Services included: an announced pod that has one of our
/// ClusterIPs could not be told from it.
fn against_own(ours: &ClusterFacts, theirs: &ClusterFacts) -> Vec<Finding> {
    let mut all = Vec::new();
    for (what, announced) in theirs.announced() {
        for (own, range) in &ours.ranges {
            if overlap(&announced, range) {
                let mut sides =
                    [format!("{} {what} {announced}", theirs.name), format!("{} {own} {range}", ours.name)];
                sides.sort();
                all.push(Finding::new(Code::Overlap, format!("{} overlaps {}", sides[0], sides[1])));
            }
        }
        for address in &ours.node_addresses {
            if announced.contains(address) {
                let text = format!(
                    "{} {what} {announced} covers {}'s node address {address}",
                    theirs.name, ours.name
                );
                all.push(Finding::new(Code::CoversNode, text));
            }
        }
    }
    all
}

fn against_peers(ours: &ClusterFacts, theirs: &ClusterFacts) -> Vec<Finding> {
    let mut all = Vec::new();
    for peer in &ours.peers {
        let name = &peer.metadata.name;
        if *name == theirs.name && peer.spec.uuid == theirs.uuid {
            continue; // the same peering: connecting again changes nothing
        }
        if *name == theirs.name {
            let text = format!(
                "{} already has a peer named {name}, with another UUID ({})",
                ours.name, peer.spec.uuid
            );
            all.push(Finding::new(Code::OtherPeer, text));
            continue;
        }
        if peer.spec.uuid == theirs.uuid {
            let text = format!("{} already knows {} under the name {name}", ours.name, theirs.name);
            all.push(Finding::new(Code::OtherAlias, text));
        }
        for (what, announced) in theirs.announced() {
            for cidr in peer.spec.contract.cidrs.iter().filter(|cidr| overlap(&announced, cidr)) {
                let text = format!(
                    "{} {what} {announced} overlaps {cidr} of {name}, a peer of {}",
                    theirs.name, ours.name
                );
                all.push(Finding::new(Code::OverlapsPeer, text));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests;
