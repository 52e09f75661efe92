//! Whether we may peer with a cluster on these terms: before anything is touched, and for objects written by hand.

use crate::{init::host_of, publish::Own};
use api::{
    name::ClusterName,
    peer::{API_VERSION, KIND, MeshPeer, overlap},
    record::StalePolicy,
};
use daemon::tls::TrustStore;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Most endpoints of a peer's apiserver; they are tried one after another.
const ENDPOINTS_MAX: usize = 16;
/// Most prefixes of a contract: pods' and mesh ranges of both families, with room for those who have many.
const CIDRS_MAX: usize = 64;
/// Most peers to which one's bytes are passed on: as many sites as a core of our size has.
const RELAY_MAX: usize = 64;
/// Most namespaces of a contract: beyond that, it should name none and mean all.
const NAMESPACES_MAX: usize = 1_000;

/// Why we do not peer on these terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The field of the MeshPeer.
    pub field: &'static str,
    /// What it conflicts with, or which rule it breaks.
    pub text: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.text)
    }
}

impl std::error::Error for Conflict {}

/// What a peering must not conflict with.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Who we are, and our ranges.
    pub own: &'a Own,
    /// Where our nodes' tunnels are dialled.
    pub node_addresses: &'a [IpAddr],
    /// All other peers.
    pub others: &'a BTreeMap<ClusterName, MeshPeer>,
}

/// Checks a MeshPeer.
///
/// # Errors
/// The first [`Conflict`].
pub fn check(peer: &MeshPeer, around: Surroundings<'_>) -> Result<(), Conflict> {
    form(peer)?;
    who(peer, around)?;
    for cidr in &peer.spec.contract.cidrs {
        prefix(cidr)?;
        ours(cidr, around)?;
        others(cidr, peer, around.others)?;
    }
    for endpoint in &peer.spec.endpoints {
        if let Some(Ok(ip)) = host_of(endpoint).map(str::parse::<IpAddr>)
            && peer.spec.contract.allows_address(ip.to_canonical())
        {
            let text =
                format!("{endpoint} lies in the contract: what is encrypted cannot be dialled in plain");
            return conflict("spec.endpoints", text);
        }
    }
    Ok(())
}

fn conflict<T>(field: &'static str, text: impl Into<String>) -> Result<T, Conflict> {
    Err(Conflict { field, text: text.into() })
}

fn form(peer: &MeshPeer) -> Result<(), Conflict> {
    let spec = &peer.spec;
    if peer.api_version != API_VERSION {
        return conflict("apiVersion", format!("must be {API_VERSION}"));
    }
    if peer.kind != KIND {
        return conflict("kind", format!("must be {KIND}"));
    }
    if spec.endpoints.len() > ENDPOINTS_MAX {
        return conflict("spec.endpoints", format!("may hold {ENDPOINTS_MAX} of the form host:port"));
    }
    if let Some(bad) = spec.endpoints.iter().find(|endpoint| host_of(endpoint).is_none()) {
        return conflict(
            "spec.endpoints",
            format!("`{}` is not host:port (IPv6 in brackets)", bad.escape_debug()),
        );
    }
    if let Err(error) = TrustStore::check_bundle(&spec.trust_bundle) {
        return conflict("spec.trustBundle", error.to_string());
    }
    if spec.contract.cidrs.is_empty() || spec.contract.cidrs.len() > CIDRS_MAX {
        return conflict("spec.contract.cidrs", format!("must hold 1 to {CIDRS_MAX} prefixes"));
    }
    if spec.contract.namespaces.len() > NAMESPACES_MAX {
        return conflict("spec.contract.namespaces", format!("may hold {NAMESPACES_MAX}; none means all"));
    }
    if spec.contract.relay.len() > RELAY_MAX {
        return conflict("spec.contract.relay", format!("may hold {RELAY_MAX} peers"));
    }
    match (spec.stale.policy, spec.stale.drop_after_s) {
        (StalePolicy::DropAfter, Some(0)) => conflict("spec.stale.dropAfterS", "must be at least 1"),
        (StalePolicy::Demote | StalePolicy::Keep, Some(_)) => {
            conflict("spec.stale.dropAfterS", "means something only with policy drop-after")
        }
        (StalePolicy::Demote | StalePolicy::Keep, None) | (StalePolicy::DropAfter, _) => Ok(()),
    }
}

fn who(peer: &MeshPeer, around: Surroundings<'_>) -> Result<(), Conflict> {
    let (name, uuid) = (&peer.metadata.name, peer.spec.uuid);
    if *name == around.own.name {
        return conflict(
            "metadata.name",
            format!("`{name}` is our own name: one of the two clusters needs another"),
        );
    }
    if uuid == around.own.uuid {
        return conflict("spec.uuid", format!("{uuid} is our own: a cluster is no peer of itself"));
    }
    let relayed = peer.spec.through.iter().map(|relay| ("spec.through", relay));
    let relayed = relayed.chain(peer.spec.contract.relay.iter().map(|to| ("spec.contract.relay", to)));
    for (field, third) in relayed {
        if third == name || *third == around.own.name {
            return conflict(field, format!("`{third}` is one of the two clusters, not a third one"));
        }
    }
    match around.others.iter().find(|(other, object)| *other != name && object.spec.uuid == uuid) {
        Some((other, _)) => {
            conflict("spec.uuid", format!("{uuid} is already our peer, under the name `{other}`"))
        }
        None => Ok(()),
    }
}

/// Prefixes that nobody can announce. (RFC 6890)
const SPECIAL: [(IpNet, &str); 8] = [
    (v4([0, 0, 0, 0], 8), "this host's network"),
    (v4([127, 0, 0, 0], 8), "loopback addresses"),
    (v4([169, 254, 0, 0], 16), "link-local addresses"),
    (v4([224, 0, 0, 0], 3), "multicast or reserved addresses"),
    (v6(0, 96), "loopback and unspecified addresses"),
    (v6(0xfe80, 10), "link-local addresses"),
    (v6(0xfec0, 10), "deprecated site-local addresses"),
    (v6(0xff00, 8), "multicast addresses"),
];

const fn v4(octets: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]), length))
}

const fn v6(first: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length))
}

fn prefix(cidr: &IpNet) -> Result<(), Conflict> {
    const FIELD: &str = "spec.contract.cidrs";
    if cidr.prefix_len() == 0 {
        return conflict(FIELD, format!("{cidr} is every address there is"));
    }
    if *cidr != cidr.trunc() {
        return conflict(FIELD, format!("{cidr} has bits set outside its length; meant {}?", cidr.trunc()));
    }
    match SPECIAL.iter().find(|(special, _)| overlap(special, cidr)) {
        Some((special, what)) => conflict(FIELD, format!("{cidr} overlaps {special}: {what}")),
        None => Ok(()),
    }
}

fn ours(cidr: &IpNet, around: Surroundings<'_>) -> Result<(), Conflict> {
    const FIELD: &str = "spec.contract.cidrs";
    let own = around.own;
    let name = &own.name;
    for (what, ranges) in
        [("pod", &own.pod_cidrs), ("service", &own.service_cidrs), ("mesh", &own.mesh_cidrs)]
    {
        if let Some(range) = ranges.iter().find(|range| overlap(range, cidr)) {
            return conflict(
                FIELD,
                format!("{cidr} overlaps {range}, a {what} range of our own cluster `{name}`"),
            );
        }
    }
    match around.node_addresses.iter().find(|address| cidr.contains(*address)) {
        Some(address) => {
            conflict(FIELD, format!("{cidr} covers {address}, a node of our own cluster `{name}`"))
        }
        None => Ok(()),
    }
}

fn others(cidr: &IpNet, peer: &MeshPeer, others: &BTreeMap<ClusterName, MeshPeer>) -> Result<(), Conflict> {
    for (name, other) in others.iter().filter(|(name, _)| **name != peer.metadata.name) {
        if let Some(taken) = other.spec.contract.cidrs.iter().find(|taken| overlap(taken, cidr)) {
            let text = format!("{cidr} overlaps {taken}, which the contract with peer `{name}` contains");
            return conflict("spec.contract.cidrs", text);
        }
    }
    Ok(())
}
