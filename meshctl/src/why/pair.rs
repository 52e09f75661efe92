//! How packets go from one address to another, and what was measured of that way.

use super::{
    address::{carrier, path},
    endpoints,
};
use crate::{facts::Facts, status, table};
use api::name::ClusterName;
use std::{fmt::Write as _, net::IpAddr};

/// Both ends, and the tunnel between their nodes as this cluster's node measured it.
pub fn why(facts: &Facts, from: IpAddr, to: IpAddr) -> String {
    let mut text = format!("{} → {} as {} sees it\n", named(facts, from), named(facts, to), facts.cluster);
    let ends = [(from, place(facts, from)), (to, place(facts, to))];
    for (address, end) in &ends {
        match end {
            Some((cluster, node)) => drop(writeln!(text, "  {address} is carried by {cluster}/{node}")),
            None => drop(writeln!(text, "  {address}: {}", path(facts, *address))),
        }
    }
    let [(_, Some(a)), (_, Some(b))] = ends else { return text };
    if a == b {
        text.push_str("  on one node: it never leaves it\n");
    } else if a.0 == b.0 && !(a.0 == facts.cluster && facts.encrypts_inside()) {
        text.push_str("  inside one cluster: by the CNI's own way, as private as that is\n");
    } else {
        let (ours, theirs) = if a.0 == facts.cluster { (&a, &b) } else { (&b, &a) };
        let _ = writeln!(text, "  {}", tunnel(facts, ours, theirs));
    }
    text.push_str("  no policy: mesh traffic is not subject to NetworkPolicy\n");
    text
}

fn named(facts: &Facts, address: IpAddr) -> String {
    match endpoints(facts).find(|found| found.2 == address) {
        Some((cluster, namespace, _, endpoint, _)) => format!("{namespace}/{} of {cluster}", endpoint.name),
        None => address.to_string(),
    }
}

/// The cluster and node that carry an address.
fn place(facts: &Facts, address: IpAddr) -> Option<(ClusterName, String)> {
    let clusters = std::iter::once(&facts.cluster).chain(facts.peers().map(|(peer, _)| peer));
    let mut places =
        clusters.filter_map(|cluster| Some((cluster.clone(), carrier(facts, cluster, address)?.0)));
    places.next()
}

fn tunnel(facts: &Facts, ours: &(ClusterName, String), theirs: &(ClusterName, String)) -> String {
    if ours.0 != facts.cluster {
        return format!("between two other clusters: ask one of them (--cluster {})", ours.0);
    }
    let node = ours.1.parse().ok();
    let Some(applied) = node.and_then(|node| facts.applied(&node)) else {
        return format!("encrypted, and the agent of {} has reported nothing about it", ours.1);
    };
    let found = applied.tunnels.iter().find(|t| t.cluster == theirs.0 && t.node.as_str() == theirs.1);
    let Some(tunnel) = found else {
        return format!("encrypted, and {} has no tunnel to {}/{} yet: dropped", ours.1, theirs.0, theirs.1);
    };
    let age_s = facts.now_ms.saturating_sub(applied.written_ms) / 1_000;
    let works = if status::round_trip_works(tunnel) { "✓" } else { "✗" };
    let rtt = match (tunnel.rtt_us, tunnel.probe_age_ms) {
        (None, _) => "no answer yet".to_owned(),
        // Its round trip has a handshake in it.
        (Some(_), Some(ms)) if tunnel.on_demand => {
            format!("on demand: its last probe was answered {} s before", ms / 1_000)
        }
        (Some(us), _) => format!("rtt {}", table::duration(us)),
    };
    let handshake = match tunnel.handshake_age_ms {
        Some(ms) => format!("handshake {} s ago", ms / 1_000),
        None => "no handshake yet".to_owned(),
    };
    format!(
        "{works} encrypted: {} → {} at {}, {rtt}, {handshake}, MTU {}, tunnel device: {}, packet programs at: {}, balancer: {} (measured {age_s} s ago)",
        ours.1,
        theirs.1,
        status::endpoint(tunnel),
        tunnel.mtu_bytes,
        device(&applied.datapath),
        said(&applied.packet_hook),
        said(&applied.balancer)
    )
}

/// Whose WireGuard the node has; a word that a later agent says is shown as it is.
fn device(datapath: &str) -> &str {
    match datapath {
        "wireguard-kernel" => "kernel",
        "wireguard-user" => "userspace",
        other => said(other),
    }
}

/// What an agent told; earlier ones did not tell everything.
fn said(word: &str) -> &str {
    if word.is_empty() { "not said" } else { word }
}
