//! What is true of a cluster now, from what its importer and its nodes measured. Pure.
//!
//! Green means: the peer's data are fresh, every node's maps hold them, and a probe went from every node to every node
//! of the peer and back. Anything else is a problem with a name. What was written a moment ago is on its way, and no
//! problem yet: who looks again sees whether it arrives.

use crate::facts::Facts;
use api::{
    name::{ClusterName, NodeName},
    record::{Freshness, Phase, Tunnel, Way},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A node that has not reported for this long is called silent: six of its reports are missing.
pub const NODE_SILENT_MS: u64 = 30_000;
/// A round trip older than this proves nothing about now: four of an agent's probes are missing.
pub const PROBE_OLD_MS: u64 = 15_000;
/// The same of a tunnel on demand, which is probed every ten minutes: two of these are missing, and a minute.
pub const RARE_PROBE_OLD_MS: u64 = 21 * 60_000;
/// What is on its way has this long. An agent programs and tells within a fraction of a second, and probes a new tunnel
/// at once; a busy machine may need some of them.
pub const SETTLES: Duration = Duration::from_secs(5);

/// One cluster as seen from its own store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Whose.
    pub cluster: ClusterName,
    /// The store's revision.
    pub revision: i64,
    /// Nodes the cluster announces.
    pub nodes: usize,
    /// Each peering.
    pub peers: Vec<PeerStatus>,
    /// What does not hold in this cluster, whatever the peer.
    pub problems: Vec<String>,
}

/// One peering as seen from one side.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// The other side.
    pub peer: ClusterName,
    /// How far our side is.
    pub phase: Phase,
    /// Whether somebody confirms its records.
    pub freshness: Freshness,
    /// How it is reached.
    pub way: Way,
    /// Nodes of ours whose maps hold the newest of its records.
    pub nodes_programmed: usize,
    /// Nodes of ours.
    pub nodes: usize,
    /// Pairs of nodes with a recent round trip.
    pub tunnels_up: usize,
    /// Pairs of nodes.
    pub tunnels: usize,
    /// Of those with a recent round trip, the ones whose datagrams a relay passes on.
    pub tunnels_relayed: usize,
    /// Of those with a recent round trip, the ones that are silent while they are not used, and probed every ten minutes.
    pub tunnels_on_demand: usize,
    /// The slowest of the last round trips, in microseconds.
    pub rtt_max_us: Option<u64>,
    /// The smallest path MTU, in bytes.
    pub mtu_bytes: Option<u32>,
    /// The peer's revision that we hold.
    pub revision: u64,
    /// Services it shares.
    pub services: u64,
    /// Backends it shares.
    pub backends: u64,
    /// Records we refused.
    pub refused: u64,
    /// What does not hold.
    pub problems: Vec<String>,
    /// How many of these may be gone at the next look: agents that report have a newer record, or a new tunnel, to do.
    #[serde(skip)]
    pub settling: usize,
}

/// Which revision of each peer the nodes have to hold for somebody who looks more than once: the newest that his first
/// look found, once all of the peer's list was imported. What came after it is new work: of a peer that changes something every
/// second, no look would ever find the newest in all maps.
#[derive(Debug, Default)]
pub struct Due(BTreeMap<ClusterName, i64>);

impl Due {
    /// Of a peer, now.
    fn revision(&mut self, facts: &Facts, peer: &ClusterName) -> u64 {
        let newest = facts.newest_revision_of(peer);
        let due = match self.0.get(peer) {
            // Of a store that was restored from an older copy, nobody holds more than it has.
            Some(due) => newest.min(*due),
            None => newest,
        };
        if facts.is_imported(peer) {
            self.0.insert(peer.clone(), due);
        }
        u64::try_from(due).unwrap_or_default()
    }
}

impl ClusterStatus {
    /// Every problem there is.
    pub fn all_problems(&self) -> impl Iterator<Item = &String> {
        self.problems.iter().chain(self.peers.iter().flat_map(|p| &p.problems))
    }

    /// Nothing is wrong.
    pub fn is_healthy(&self) -> bool {
        self.all_problems().next().is_none()
    }

    /// Another look may find nothing wrong.
    pub fn settles(&self) -> bool {
        self.all_problems().count() == self.peers.iter().map(|peer| peer.settling).sum::<usize>()
    }
}

/// What the facts of a cluster amount to, at a first look.
pub fn cluster(facts: &Facts) -> ClusterStatus {
    cluster_again(facts, &mut Due::default())
}

/// The same for somebody who has looked before.
pub fn cluster_again(facts: &Facts, due: &mut Due) -> ClusterStatus {
    let nodes: Vec<&NodeName> = facts.nodes(&facts.cluster).map(|(name, _)| name).collect();
    let mut problems = Vec::new();
    for node in &nodes {
        problems.extend(node_problems(facts, node));
    }
    let peers = facts.peers().map(|(peer, _)| peer_status(facts, due, peer, &nodes)).collect();
    ClusterStatus {
        cluster: facts.cluster.clone(),
        revision: facts.head,
        nodes: nodes.len(),
        peers,
        problems,
    }
}

fn node_problems(facts: &Facts, node: &NodeName) -> Vec<String> {
    let cluster = &facts.cluster;
    let Some(applied) = facts.applied(node) else {
        return vec![format!("{cluster}/{node}: no agent has reported yet")];
    };
    let age_ms = facts.now_ms.saturating_sub(applied.written_ms);
    if age_ms > NODE_SILENT_MS {
        return vec![format!(
            "{cluster}/{node}: its agent last reported {} s ago; the data path goes on without it",
            age_ms / 1_000
        )];
    }
    let mut problems: Vec<String> =
        applied.problems.iter().map(|p| format!("{cluster}/{node}: {p}")).collect();
    if !applied.programmed {
        problems.push(format!("{cluster}/{node}: the first complete view is not in its maps yet"));
    }
    problems
}

fn peer_status(facts: &Facts, due: &mut Due, peer: &ClusterName, nodes: &[&NodeName]) -> PeerStatus {
    let (_, state) =
        facts.peers().find(|(name, _)| *name == peer).expect("the caller iterates over the peers");
    let import = facts.import(peer).cloned().unwrap_or_default();
    let theirs: BTreeSet<&NodeName> = facts.nodes(peer).map(|(name, _)| name).collect();
    let mut problems = Vec::new();

    match (state.phase, state.freshness) {
        (Phase::Prepared, _) => {
            problems.push(format!("{peer}: the connect is not complete; it expires by itself"));
        }
        (Phase::Active, Freshness::Fresh) => {}
        (Phase::Active, Freshness::Stale) => {
            let why = match import.last_error.as_str() {
                "" => "its heartbeat does not change",
                error => error,
            };
            problems.push(format!("{peer}: stale, its records are the last known ones: {why}"));
        }
    }
    if state.phase == Phase::Active && import.connected && !import.synced {
        problems.push(format!("{peer}: its first list is not complete"));
    }
    for refusal in &import.refusals {
        problems.push(format!(
            "{peer}: {} records refused ({}), newest {}",
            refusal.count, refusal.reason, refusal.example
        ));
    }

    let active = state.phase == Phase::Active;
    let due = due.revision(facts, peer);
    let is_silent = |node: &NodeName| {
        facts.applied(node).is_none_or(|a| facts.now_ms.saturating_sub(a.written_ms) > NODE_SILENT_MS)
    };
    let is_programmed = |node: &NodeName| {
        facts.applied(node).is_some_and(|a| {
            a.programmed && a.clusters.iter().any(|c| c.cluster == *peer && c.revision >= due)
        })
    };
    let behind: Vec<&NodeName> = nodes.iter().copied().filter(|node| !is_programmed(node)).collect();
    let mut settling = 0;
    if active && !behind.is_empty() {
        settling += usize::from(!behind.iter().any(|node| is_silent(node)));
        let names: Vec<&str> = behind.iter().map(|node| node.as_str()).collect();
        problems.push(format!("{peer}: the maps of {} do not hold revision {due} yet", names.join(", ")));
    }

    let (mut up, mut relayed, mut on_demand, mut rtt_max_us, mut mtu_bytes) = (0, 0, 0, None, None);
    for node in nodes {
        let silent = is_silent(node);
        for other in &theirs {
            let tunnel = facts
                .applied(node)
                .and_then(|a| a.tunnels.iter().find(|t| t.cluster == *peer && t.node == **other));
            match tunnel {
                Some(tunnel) if round_trip_works(tunnel) && !silent && tunnel.on_demand => {
                    // Its round trips have handshakes in them.
                    (up, on_demand) = (up + 1, on_demand + 1);
                }
                Some(tunnel) if round_trip_works(tunnel) && !silent => {
                    up += 1;
                    relayed += usize::from(!tunnel.relay.is_empty());
                    rtt_max_us = rtt_max_us.max(tunnel.rtt_us);
                }
                _ if silent || !active => {}
                Some(tunnel) => {
                    settling += usize::from(tunnel.probe_age_ms.is_none() && !tunnel.probe_failed);
                    problems.push(silent_pair(facts, node, peer, tunnel));
                }
                None => {
                    settling += 1;
                    problems.push(format!("{}/{node} → {peer}/{other}: no tunnel yet", facts.cluster));
                }
            }
            if let Some(mtu) = tunnel.map(|t| t.mtu_bytes) {
                mtu_bytes = Some(mtu_bytes.map_or(mtu, |least: u32| least.min(mtu)));
            }
        }
    }

    PeerStatus {
        peer: peer.clone(),
        phase: state.phase,
        freshness: state.freshness,
        way: import.way,
        nodes_programmed: nodes.len() - behind.len(),
        nodes: nodes.len(),
        tunnels_up: up,
        tunnels: nodes.len() * theirs.len(),
        tunnels_relayed: relayed,
        tunnels_on_demand: on_demand,
        rtt_max_us,
        mtu_bytes,
        revision: import.peer_revision,
        services: import.services,
        backends: import.backends,
        refused: import.refusals.iter().map(|r| r.count).sum(),
        problems,
        settling,
    }
}

/// The newest probe came back, and not long ago.
pub fn round_trip_works(tunnel: &Tunnel) -> bool {
    let old_ms = if tunnel.on_demand { RARE_PROBE_OLD_MS } else { PROBE_OLD_MS };
    !tunnel.probe_failed && tunnel.probe_age_ms.is_some_and(|age| age <= old_ms)
}

/// That a tunnel answers no probe, and what is known of it.
pub fn silent_pair(facts: &Facts, node: &NodeName, peer: &ClusterName, tunnel: &Tunnel) -> String {
    let handshake = match tunnel.handshake_age_ms {
        None => "no handshake yet".to_owned(),
        Some(age) => format!("last handshake {} s ago", age / 1_000),
    };
    let does_udp_pass = match tunnel.relay.as_str() {
        "" => "does UDP pass between these machines?".to_owned(),
        relay => {
            format!("does UDP pass from both to this port of {relay}, and do the contracts there allow it?")
        }
    };
    format!(
        "{}/{node} → {peer}/{}: the tunnel is silent ({handshake}, {}): {does_udp_pass}",
        facts.cluster,
        tunnel.node,
        endpoint(tunnel)
    )
}

/// Where a tunnel's datagrams go.
pub fn endpoint(tunnel: &Tunnel) -> String {
    match (tunnel.endpoint.as_str(), tunnel.relay.as_str()) {
        ("", _) => "no endpoint".to_owned(),
        (endpoint, "") => endpoint.to_owned(),
        (endpoint, relay) => format!("{endpoint}, the relay {relay}"),
    }
}

#[cfg(test)]
mod tests;
