//! What an address is: whose, since when, and what the nodes make of it.

use super::endpoints;
use crate::facts::Facts;
use api::{
    key::{Key, LocalKey, MeshKey},
    name::ClusterName,
    record::{Backend, Freshness, Phase, Record},
};
use ipnet::IpNet;
use std::{fmt::Write as _, net::IpAddr};

/// All that the cluster's records say of an address.
pub fn why(facts: &Facts, address: IpAddr) -> String {
    let mut text = format!("{address} as {} sees it\n", facts.cluster);
    let mut known = false;
    for line in workloads(facts, address).into_iter().chain(services(facts, address)) {
        known = true;
        let _ = writeln!(text, "  {line}");
    }
    if !known {
        text.push_str("  no record names it\n");
    }
    // A ClusterIP never is on the wire: it is replaced at the socket.
    if !is_frontend(facts, address) {
        let _ = writeln!(text, "  {}", path(facts, address));
    }
    text
}

fn is_frontend(facts: &Facts, address: IpAddr) -> bool {
    let has =
        |record: &Record| matches!(record, Record::Service(service) if service.frontends.contains(&address));
    facts.records.values().any(|(record, _)| has(record))
}

/// Whose address it is.
fn workloads(facts: &Facts, address: IpAddr) -> Vec<String> {
    let mut lines = Vec::new();
    for (cluster, namespace, _, endpoint, revision) in endpoints(facts).filter(|found| found.2 == address) {
        let going = if endpoint.terminating { ", terminating" } else { "" };
        lines.push(format!(
            "pod {namespace}/{} of {cluster}, on {}, identity {}{going} (revision {revision})",
            endpoint.name, endpoint.node, endpoint.identity
        ));
    }
    for (key, (record, revision)) in &facts.records {
        if let (Key::Mesh(cluster, MeshKey::Node(node)), Record::Node(record)) = (key, record) {
            if record.mesh_addresses.contains(&address) {
                lines.push(format!("mesh address of the node {node} of {cluster} (revision {revision})"));
            }
            if record.endpoints.contains(&address) {
                lines.push(format!(
                    "the node {node} of {cluster} itself, where its tunnel is dialled: never a destination of the mesh"
                ));
            }
        }
    }
    lines
}

/// What it serves, and which Service has it for a frontend.
fn services(facts: &Facts, address: IpAddr) -> Vec<String> {
    let mut lines = Vec::new();
    let own = &facts.cluster;
    for (key, (record, revision)) in &facts.records {
        let (of, namespace, name, at) = match key {
            Key::Mesh(of, MeshKey::Backend(namespace, name, at)) => (of, namespace, name, Some(at)),
            Key::Local(LocalKey::Backend(namespace, name, at)) => (own, namespace, name, Some(at)),
            Key::Mesh(of, MeshKey::Service(namespace, name)) => (of, namespace, name, None),
            Key::Local(LocalKey::Service(namespace, name)) => (own, namespace, name, None),
            Key::Mesh(..) | Key::Local(_) => continue,
        };
        match record {
            Record::Backend(backend) if at == Some(&address) => lines.push(format!(
                "backend of {namespace}/{name}, announced by {of}: {} (revision {revision})",
                health(backend)
            )),
            Record::Service(service) if service.frontends.contains(&address) => {
                lines.push(format!(
                    "ClusterIP of {namespace}/{name} in {of}: ask `meshctl why {namespace}/{name}`"
                ));
            }
            _ => {}
        }
    }
    lines
}

fn health(backend: &Backend) -> &'static str {
    match (backend.ready, backend.serving, backend.terminating) {
        (_, true, true) => "terminating, still serving",
        (_, false, true) => "terminating",
        (true, _, false) => "ready",
        (false, _, false) => "not ready",
    }
}

/// Whose range it lies in, and so what the data path does with it.
pub fn path(facts: &Facts, address: IpAddr) -> String {
    for (key, (record, _)) in &facts.records {
        if let (Key::Local(LocalKey::Closed(peer)), Record::Closed(closed)) = (key, record)
            && let Some(prefix) = closed.prefixes.iter().find(|prefix| prefix.contains(&address))
        {
            return format!(
                "closed: {prefix} was {peer}'s, and what goes there is dropped until `meshctl forget {peer}`"
            );
        }
    }
    for (peer, state) in facts.peers() {
        let Some(prefix) = state.prefixes.iter().find(|prefix| prefix.contains(&address)) else { continue };
        if state.phase == Phase::Prepared {
            return format!("in {prefix}, which {peer} would announce: the connect is not complete");
        }
        let fresh = match state.freshness {
            Freshness::Fresh => "",
            Freshness::Stale => "; the peer is stale, its records are the last known ones",
        };
        return match carrier(facts, peer, address) {
            Some((node, carried)) => {
                format!("encrypted: {peer} carries {carried} on {node}{fresh}")
            }
            None => format!("dropped: in {prefix} of {peer}, and none of its nodes carries it{fresh}"),
        };
    }
    match carrier(facts, &facts.cluster, address) {
        Some((node, carried)) if facts.encrypts_inside() => {
            format!("inside the cluster: {node} carries {carried}, encrypted from other nodes (scope all)")
        }
        Some((node, carried)) => {
            format!("inside the cluster: {node} carries {carried}, by the CNI's own way")
        }
        None => "not of the mesh: it goes where it went before".to_owned(),
    }
}

/// The node of a cluster that carries an address, by its longest prefix.
pub fn carrier(facts: &Facts, cluster: &ClusterName, address: IpAddr) -> Option<(String, IpNet)> {
    let carried = facts.nodes_and_vms(cluster).flat_map(|(name, node)| {
        let own = node.mesh_addresses.iter().map(|at| IpNet::from(*at));
        node.prefixes.iter().copied().chain(own).map(move |prefix| (name, prefix))
    });
    carried
        .filter(|(_, prefix)| prefix.contains(&address))
        .max_by_key(|(_, prefix)| prefix.prefix_len())
        .map(|(name, prefix)| (name.to_string(), prefix))
}
