//! What a script shows: facts, one a line, in order.

use crate::{
    node::{Agent, Node},
    site::Site,
};
use api::{
    key::{Key, LocalKey, MeshKey, cluster_prefix},
    record::{Closed, Freshness, PeerState, Phase},
};
use replica::{
    service::{Silent, choose},
    view::ServiceKey,
};
use std::fmt::Write;

/// An apiserver's side: objects, verdicts, what is held of each peer, what was refused.
pub(super) fn site(site: &mut Site) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "  {text}").expect("a string");
    let objects = site.peers().clone();
    if objects.is_empty() {
        line("no objects".to_owned());
    }
    for (peer, object) in &objects {
        line(format!("object {peer}: {}", if object.deadline_s.is_some() { "prepared" } else { "active" }));
    }
    let Some(running) = &site.running else {
        line("not running".to_owned());
        return out;
    };
    for (key, value) in running.durable.list("mesh-local/v1/") {
        match Key::parse(key.as_bytes()) {
            Ok(Key::Local(LocalKey::Peer(peer))) => {
                let state = PeerState::decode(&value).expect("our own record");
                line(format!("verdict {peer}: {}", verdict(&state)));
            }
            Ok(Key::Local(LocalKey::Closed(peer))) => {
                let closed = Closed::decode(&value).expect("our own record");
                line(format!("closed {peer}: {:?}", closed.prefixes));
            }
            Ok(_) | Err(_) => {}
        }
    }
    for peer in site.announcers() {
        for key in running.durable.list(&cluster_prefix(&peer)).into_keys() {
            let synced = matches!(Key::parse(key.as_bytes()), Ok(Key::Mesh(_, MeshKey::Synced(_))));
            if !synced {
                line(key);
            }
        }
    }
    for (peer, session) in &running.sessions {
        let state = session.import.state();
        if !state.connected {
            line(format!("no session to {peer}: {}", state.last_error));
        }
        for refusal in state.refusals {
            line(format!("refused {} × {} ({})", refusal.reason, refusal.count, refusal.example));
        }
    }
    out
}

/// What an agent knows of each cluster's backends and peers.
pub(super) fn agent(agent: &Agent) -> String {
    let mut out = String::new();
    for (cluster, tables) in &agent.view.tables().clusters {
        for (service, backends) in &tables.backends {
            let addresses: Vec<String> = backends.keys().map(ToString::to_string).collect();
            writeln!(out, "  {cluster}/{service}: {}", addresses.join(" ")).expect("a string");
        }
        for node in tables.nodes.keys() {
            let key = if tables.keys.contains_key(node) { "" } else { ", without a key" };
            writeln!(out, "  node {cluster}/{node}{key}").expect("a string");
        }
    }
    for (peer, state) in &agent.view.tables().local.peers {
        writeln!(out, "  peer {peer}: {}", verdict(state)).expect("a string");
    }
    if agent.mass_removals > 0 {
        writeln!(out, "  lost most backends of a cluster at once × {}", agent.mass_removals)
            .expect("a string");
    }
    out
}

/// Who owns which prefixes on a node, by the first bytes of his key.
pub(super) fn tunnels(node: &Node) -> String {
    let mut out = String::new();
    for (key, peer) in node.kernel.tunnel.iter().flat_map(|tunnel| &tunnel.peers) {
        let owned: Vec<String> = peer.allowed.iter().map(ToString::to_string).collect();
        writeln!(out, "  {}… {}", &key.to_string()[..4], owned.join(" ")).expect("a string");
    }
    out
}

/// Which backends an agent uses for a Service, and why not the others.
pub(super) fn choice(agent: &Agent, key: &ServiceKey) -> String {
    let Some(situation) = agent.view.situation(key) else { return format!("  no service {key}\n") };
    let mut out = String::new();
    for candidate in choose(&situation, &Silent::new()).candidates {
        writeln!(out, "  {} ({}) {}", candidate.address, candidate.cluster, candidate.verdict)
            .expect("a string");
    }
    if out.is_empty() {
        out.push_str("  no backends\n");
    }
    out
}

fn verdict(state: &PeerState) -> String {
    let phase = match state.phase {
        Phase::Prepared => "prepared",
        Phase::Active => "active",
    };
    let freshness = match state.freshness {
        Freshness::Fresh => "fresh",
        Freshness::Stale => "stale",
    };
    format!("{phase}, {freshness}{}", if state.dropped { ", dropped" } else { "" })
}
