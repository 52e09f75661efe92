//! The choice itself, and the reason for each backend.

use super::{Silent, Situation};
use api::{
    name::{ClusterName, NodeName},
    record::{Affinity, Backend, NamedPort, Protocol},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

/// What a client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    /// A ClusterIP.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol)
    }
}

/// As its text, so that it can be a key.
impl serde::Serialize for Frontend {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How good a backend is; the least is the best. The order of the fields is the order of choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Rank {
    /// Its node's tunnel is silent under traffic.
    pub silent: bool,
    /// It is not ready any more, but serves until it ends.
    pub terminating: bool,
    /// It is a stale peer's.
    pub stale: bool,
    /// It is on the side that the affinity does not prefer.
    pub not_preferred: bool,
}

/// Why a backend is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// There is no active peering with its cluster.
    NoPeering,
    /// The own Service is not annotated global.
    OwnNotGlobal,
    /// Its cluster announces backends, and no Service of this name.
    PeerWithoutService,
    /// Its cluster's Service is not global, or not shared.
    NotShared,
    /// Its cluster has been stale for longer than `drop-after` allows.
    Dropped,
    /// It is neither ready, nor does it still serve.
    NotReady,
    /// It has no port of the frontend's name and protocol.
    NoSuchPort,
    /// The Service has no frontend of its address family.
    OtherFamily,
    /// Others are reachable; its node's tunnel is silent.
    SilentTunnel,
    /// Others are ready; it is terminating.
    Terminating,
    /// Others are fresh; its cluster is stale.
    Stale,
    /// The affinity prefers others.
    Affinity,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPeering => "no active peering with its cluster",
            Self::OwnNotGlobal => "the own service is not annotated global",
            Self::PeerWithoutService => "its cluster announces no such service",
            Self::NotShared => "its cluster does not share the service",
            Self::Dropped => "its cluster was stale for too long (drop-after)",
            Self::NotReady => "not ready",
            Self::NoSuchPort => "has no port of this name and protocol",
            Self::OtherFamily => "the service has no address of its family",
            Self::SilentTunnel => "the tunnel to its node is silent",
            Self::Terminating => "terminating, and others are ready",
            Self::Stale => "its cluster is stale, and others are fresh",
            Self::Affinity => "the affinity prefers others",
        })
    }
}

/// Whether a backend is used for a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// New connections go to it.
    Used,
    /// None do.
    NotUsed(Reason),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Used => f.write_str("used"),
            Self::NotUsed(reason) => write!(f, "not used: {reason}"),
        }
    }
}

/// One backend, as one port of the Service sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Candidate<'a> {
    /// The Service's port.
    pub service_port: &'a NamedPort,
    /// Its cluster.
    pub cluster: &'a ClusterName,
    /// Its address.
    pub address: IpAddr,
    /// Its port; none when it has none that fits.
    pub port: Option<u16>,
    /// Its node, if it is told.
    pub node: Option<&'a NodeName>,
    /// Its rank; none when it may not be used at all.
    pub rank: Option<Rank>,
    /// What came of it.
    pub verdict: Verdict,
}

/// The backends of one Service, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Choice<'a> {
    /// What to program; a frontend without backends refuses connections at once.
    pub frontends: BTreeMap<Frontend, BTreeSet<SocketAddr>>,
    /// Seconds for which a client keeps its backend after it last connected; 0 is none.
    pub session_affinity_s: u32,
    /// Every backend anybody announced, with its verdict, in order.
    pub candidates: Vec<Candidate<'a>>,
}

/// Decides which backends of a Service are used. See the head of the module.
#[must_use]
pub fn choose<'a>(situation: &Situation<'a>, silent: &Silent) -> Choice<'a> {
    let announced = announced(situation, silent);
    let session_affinity_s = situation.service.session_affinity_s;
    let mut choice = Choice { session_affinity_s, ..Choice::default() };
    for service_port in &situation.service.ports {
        let mut candidates: Vec<Candidate<'a>> =
            announced.iter().flat_map(|one| one.for_port(service_port)).collect();
        for v4 in [true, false] {
            let frontends = situation.service.frontends.iter().filter(|address| address.is_ipv4() == v4);
            let of_family =
                candidates.iter_mut().filter(|candidate| candidate.address.is_ipv4() == v4).collect();
            let addresses = settle(of_family, frontends.clone().next().is_some());
            for address in frontends {
                let frontend =
                    Frontend { address: *address, port: service_port.port, protocol: service_port.protocol };
                choice.frontends.insert(frontend, addresses.clone());
            }
        }
        choice.candidates.append(&mut candidates);
    }
    choice.candidates.sort();
    choice
}

/// Backends that names of a headless Service stand for: the ready ones of the best rank, each family for itself, as
/// [`choose`] would pick them for a frontend. Of a headless Service no port is asked for. (Kubernetes' DNS
/// specification, section 2.4: ready endpoints only)
#[must_use]
pub fn ready<'a>(situation: &Situation<'a>, silent: &Silent) -> Vec<(&'a ClusterName, IpAddr, &'a Backend)> {
    let mut all: Vec<_> = announced(situation, silent)
        .into_iter()
        .filter_map(|one| Some((one.rank.ok().filter(|rank| !rank.terminating)?, one)))
        .collect();
    let best =
        |v4: bool| all.iter().filter(|(_, one)| one.address.is_ipv4() == v4).map(|(rank, _)| *rank).min();
    let (best_v4, best_v6) = (best(true), best(false));
    all.retain(|(rank, one)| Some(*rank) == if one.address.is_ipv4() { best_v4 } else { best_v6 });
    all.into_iter().map(|(_, one)| (one.cluster, one.address, one.backend)).collect()
}

/// Gives every candidate of a family its verdict; returns the addresses that are used.
fn settle(candidates: Vec<&mut Candidate<'_>>, has_frontend: bool) -> BTreeSet<SocketAddr> {
    let best = candidates.iter().filter_map(|candidate| candidate.rank).min();
    let mut used = BTreeSet::new();
    for candidate in candidates {
        let (Some(best), Some(rank), Some(port)) = (best, candidate.rank, candidate.port) else { continue };
        candidate.verdict = if !has_frontend {
            Verdict::NotUsed(Reason::OtherFamily)
        } else if let Some(reason) = rank.worse_than(best) {
            Verdict::NotUsed(reason)
        } else {
            used.insert(SocketAddr::new(candidate.address, port));
            Verdict::Used
        };
    }
    used
}

impl Rank {
    /// The first point in which this rank falls behind the best.
    fn worse_than(self, best: Self) -> Option<Reason> {
        if self.silent != best.silent {
            Some(Reason::SilentTunnel)
        } else if self.terminating != best.terminating {
            Some(Reason::Terminating)
        } else if self.stale != best.stale {
            Some(Reason::Stale)
        } else if self.not_preferred != best.not_preferred {
            Some(Reason::Affinity)
        } else {
            None
        }
    }
}

/// A backend somebody announced: its rank, or why it has none.
struct Announced<'a> {
    cluster: &'a ClusterName,
    address: IpAddr,
    backend: &'a Backend,
    rank: Result<Rank, Reason>,
}

fn announced<'a>(situation: &Situation<'a>, silent: &Silent) -> Vec<Announced<'a>> {
    let own = situation.own;
    let mut all = Vec::new();
    let affinity = situation.service.affinity;
    for (address, backend) in &situation.backends {
        let rank = rank(backend, is_silent(silent, own, backend), false, affinity == Affinity::Remote);
        all.push(Announced { cluster: own, address: *address, backend, rank });
    }
    for peer in &situation.peers {
        let excluded = peer.excluded(situation.service);
        for (address, backend) in &peer.backends {
            let is_silent = is_silent(silent, peer.cluster, backend);
            let rank = match excluded {
                Some(reason) => Err(reason),
                None => rank(backend, is_silent, peer.is_demoted(), affinity == Affinity::Local),
            };
            all.push(Announced { cluster: peer.cluster, address: *address, backend, rank });
        }
    }
    all
}

fn is_silent(silent: &Silent, cluster: &ClusterName, backend: &Backend) -> bool {
    backend.node.as_ref().is_some_and(|node| silent.contains(&(cluster.clone(), node.clone())))
}

/// `ready` counts as the source says it (`publishNotReadyAddresses` sets it); what is neither ready nor serving gets
/// nothing, as in Kubernetes. (EndpointSlice conditions; KEP-1669 for terminating endpoints)
fn rank(backend: &Backend, silent: bool, stale: bool, not_preferred: bool) -> Result<Rank, Reason> {
    let terminating = match (backend.ready, backend.serving && backend.terminating) {
        (true, _) => false,
        (false, true) => true,
        (false, false) => return Err(Reason::NotReady),
    };
    Ok(Rank { silent, terminating, stale, not_preferred })
}

impl<'a> Announced<'a> {
    /// Once for each of its ports that fits, or once to say that none does. Ports match by name and protocol; an
    /// unnamed port matches an unnamed one.
    fn for_port(&self, service_port: &'a NamedPort) -> Vec<Candidate<'a>> {
        let candidate = |port: Option<u16>, rank: Result<Rank, Reason>| Candidate {
            service_port,
            cluster: self.cluster,
            address: self.address,
            port,
            node: self.backend.node.as_ref(),
            rank: rank.ok(),
            verdict: Verdict::NotUsed(rank.err().unwrap_or(Reason::OtherFamily)),
        };
        let fits =
            |port: &&NamedPort| port.name == service_port.name && port.protocol == service_port.protocol;
        let mut fitting: Vec<_> = self
            .backend
            .ports
            .iter()
            .filter(fits)
            .map(|port| candidate(Some(port.port), self.rank))
            .collect();
        if fitting.is_empty() {
            let why = self.rank.err().unwrap_or(Reason::NoSuchPort);
            fitting.push(candidate(None, Err(why)));
        }
        fitting
    }
}
