//! What a global Service means: from its own record and what the peers announce to the backends that are used.
//!
//! Order of choice, for each port of each frontend (design, decision 9):
//!
//! 1. *may it be used at all*: the own Service is global, the peer's too and shared, the peering is active and not
//!    dropped, the port exists under the same name and protocol, the backend is ready or still serves;
//! 2. *health*: ready before terminating ones that still serve; both before those behind a silent tunnel;
//! 3. *freshness*: a stale peer's backends come after fresher ones, unless its policy is `keep`;
//! 4. *affinity*: `local` and `remote` prefer, they never exclude.
//!
//! All backends of the best rank are used alike. This is stricter than Cilium, which keeps unhealthy local backends
//! under `affinity: local` while healthy remote ones exist. Weights are not looked at yet: every backend counts once.
//! Annotations and the truth table of `global` and `shared`: <https://docs.cilium.io/en/stable/network/clustermesh/services/>.

mod choice;

pub use choice::{Candidate, Choice, Frontend, Rank, Reason, Verdict, choose, ready};

use crate::view::{ServiceKey, View};
use api::{
    name::{ClusterName, NodeName},
    record::{Backend, Freshness, PeerState, Phase, Service, StalePolicy},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Nodes to which a tunnel under traffic has been silent: their backends are healthy only on paper.
pub type Silent = BTreeSet<(ClusterName, NodeName)>;

/// One Service as its own cluster and the peers tell it.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// The own cluster.
    pub own: &'a ClusterName,
    /// What clients of the own cluster see.
    pub service: &'a Service,
    /// Own backends.
    pub backends: Vec<(IpAddr, &'a Backend)>,
    /// Of each peer that announces a Service of this name.
    pub peers: Vec<PeerService<'a>>,
}

/// The Service of the same name in another cluster.
#[derive(Debug, Clone)]
pub struct PeerService<'a> {
    /// Whose.
    pub cluster: &'a ClusterName,
    /// Its record; none while only its backends have arrived.
    pub service: Option<&'a Service>,
    /// Our verdict about that cluster; without one nothing of it is used.
    pub state: Option<&'a PeerState>,
    /// Its backends.
    pub backends: Vec<(IpAddr, &'a Backend)>,
}

/// Gathers what a view knows of one of the own cluster's Services; none when the own cluster has none of this name,
/// for then it has no frontend either.
#[must_use]
pub fn situation<'a>(view: &'a View, key: &ServiceKey) -> Option<Situation<'a>> {
    let own = view.own();
    let (local, clusters) = (&view.tables().local, &view.tables().clusters);
    let exported = clusters.get(own).and_then(|own| own.services.get(key));
    let service = exported.or_else(|| local.services.get(key))?;
    // While a Service is being exported or withdrawn its backends may lie on both sides; one address counts once.
    let own_backends = clusters.get(own).and_then(|own| own.backends.get(key));
    let mut backends: BTreeMap<IpAddr, &Backend> = BTreeMap::new();
    for (address, backend) in local.backends.get(key).into_iter().chain(own_backends).flatten() {
        backends.insert(*address, backend);
    }
    let peer = |(cluster, tables): (&'a ClusterName, &'a crate::view::ClusterTables)| {
        let backends: Vec<_> =
            tables.backends.get(key).into_iter().flatten().map(|(ip, b)| (*ip, b)).collect();
        let service = tables.services.get(key);
        let present = cluster != own && (service.is_some() || !backends.is_empty());
        present.then(|| PeerService { cluster, service, state: local.peers.get(cluster), backends })
    };
    let peers = clusters.iter().filter_map(peer).collect();
    Some(Situation { own, service, backends: backends.into_iter().collect(), peers })
}

impl PeerService<'_> {
    /// Why none of its backends may be used, if so.
    fn excluded(&self, own: &Service) -> Option<Reason> {
        let Some(state) = self.state else { return Some(Reason::NoPeering) };
        if !own.global {
            return Some(Reason::OwnNotGlobal);
        }
        match self.service {
            None => return Some(Reason::PeerWithoutService),
            Some(service) if !service.global || !service.shared => return Some(Reason::NotShared),
            Some(_) => {}
        }
        match (state.phase, state.dropped) {
            (Phase::Prepared, _) => Some(Reason::NoPeering),
            (Phase::Active, true) => Some(Reason::Dropped),
            (Phase::Active, false) => None,
        }
    }

    /// Whether fresher backends come before this peer's.
    fn is_demoted(&self) -> bool {
        self.state.is_some_and(|state| match (state.freshness, state.stale_policy) {
            (Freshness::Fresh, _) | (Freshness::Stale, StalePolicy::Keep) => false,
            (Freshness::Stale, StalePolicy::Demote | StalePolicy::DropAfter) => true,
        })
    }
}

#[cfg(test)]
mod tests;
