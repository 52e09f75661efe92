//! Which tunnels are kept on demand, and where they go.

use super::{super::gateways::GATEWAYS_MAX, *};
use crate::demand::LOOK_EVERY;
use datapath::host::TunnelState;
use std::time::{Duration, Instant};

impl Mesh {
    fn agent_keeps_on_demand(&mut self, cluster: &str, name: &str, on_demand: bool) {
        let (cluster, name): (ClusterName, NodeName) = (cluster.parse().unwrap(), name.parse().unwrap());
        let key = self.view.cluster(&cluster).unwrap().keys[&name].clone();
        self.put(MeshKey::Key(name).of(&cluster), TunnelKey { on_demand, ..key });
    }

    /// Where each node is dialled, its upkeep, and what becomes of a session at another place, unless it stays there.
    fn kept(&self) -> String {
        let composed = self.composed();
        let line = |((cluster, node), to): (&(ClusterName, NodeName), &TunnelTo)| {
            let peer = &composed.image.tunnel.peers[&to.key.public_key];
            let at = peer.endpoint.map_or("where it was heard".to_owned(), |at| at.to_string());
            let upkeep = match peer.upkeep {
                Upkeep::Steady => "always kept",
                Upkeep::OnDemand { keepalive: true, .. } => "kept",
                Upkeep::OnDemand { keepalive: false, .. } => "not kept",
            };
            let session = match peer.upkeep {
                Upkeep::Steady | Upkeep::OnDemand { elsewhere: Elsewhere::Stays, .. } => "",
                Upkeep::OnDemand { elsewhere: Elsewhere::GoesAlong, .. } => ", with its session",
                Upkeep::OnDemand { elsewhere: Elsewhere::BeginsAnew, .. } => ", by a new session",
            };
            format!("{cluster}/{node} at {at}, {upkeep}{session}\n")
        };
        composed.tunnels.iter().map(line).collect()
    }

    fn pairs(&self) -> Vec<(u8, u8)> {
        self.composed().image.relay.into_iter().map(|pair| (pair.0.0[0], pair.1.0[0])).collect()
    }

    /// What the device counted, as its agent reads it.
    fn count(&mut self, at: Instant, device: &[(PublicKey, TunnelState)]) {
        let composed = self.composed();
        let device = device.iter().cloned().collect();
        composed.count(at, &device, &mut self.paths, &mut Probes::default());
        self.paths.demand.see(&device);
    }

    fn key_of(&self, cluster: &str, node: &str) -> PublicKey {
        self.composed().tunnels[&(cluster.parse().unwrap(), node.parse().unwrap())].key.public_key
    }
}

/// `east` has e1 (us) and e2; `west` has w1, w2, w3, of which the first two offer relays. Everybody's agent keeps tunnels on
/// demand.
fn two_with_gateways() -> Mesh {
    let mut mesh = mesh();
    mesh.change_node("east", "e1", |node| node.endpoints.truncate(1));
    for number in [2, 3] {
        mesh.node("west", &format!("w{number}"), 2, number);
    }
    for (cluster, node) in [("east", "e1"), ("east", "e2"), ("west", "w1"), ("west", "w2"), ("west", "w3")] {
        mesh.agent_keeps_on_demand(cluster, node, true);
    }
    mesh.relay("west", "w1", &["192.0.2.21:51872"], 201);
    mesh.relay("west", "w2", &["192.0.2.22:51872"], 202);
    mesh
}

fn behind_nat() -> Mesh {
    let mut mesh = two_with_gateways();
    mesh.change_node("east", "e1", |node| node.endpoints.clear());
    mesh
}

fn counted(bytes: u64) -> TunnelState {
    TunnelState { rx_bytes: bytes, ..TunnelState::default() }
}

#[test]
fn a_node_that_nobody_dials_keeps_its_tunnels_to_the_gateways_and_parks_the_others_by_one_of_them() {
    let straight = two_with_gateways();
    assert!(!straight.kept().contains("not kept"), "{}", straight.kept());
    let mesh = behind_nat();
    expect![[r#"
        east/e2 at 192.0.2.12:51871, always kept
        west/w1 at 192.0.2.21:51871, always kept
        west/w2 at 192.0.2.22:51871, always kept
        west/w3 at 192.0.2.21:51872, not kept
    "#]]
    .assert_eq(&mesh.kept());
    let proofs = mesh.composed().image.tunnel.peers;
    for relay in [201, 202] {
        let proof = &proofs[&PublicKey([relay; 32])];
        assert!(proof.allowed.is_empty() && proof.upkeep == Upkeep::Steady, "it shows {relay} where it is");
    }
    let paces: Vec<_> =
        mesh.composed().probe_targets().map(|(to, pace)| (to.node.to_string(), pace)).collect();
    let steady = ["e2", "w1", "w2"].map(|name| (name.to_owned(), Pace::Steady));
    assert_eq!(paces, [&steady[..], &[("w3".to_owned(), Pace::Rare)]].concat());
    assert!(mesh.composed().path_targets(&mesh.paths.demand).all(|(to, _)| to.node.as_str() != "w3"));
}

#[test]
fn a_tunnel_that_is_used_is_dialled_straight_and_one_that_is_busy_has_its_path_measured() {
    let mut mesh = behind_nat();
    let (w3, at) = (mesh.key_of("west", "w3"), Instant::now());
    let in_session = |bytes| TunnelState { handshake_age: Some(Duration::from_secs(5)), ..counted(bytes) };
    let is_measured = |mesh: &Mesh| {
        mesh.composed().path_targets(&mesh.paths.demand).any(|(to, _)| to.node.as_str() == "w3")
    };
    mesh.count(at, &[(w3, in_session(0))]);
    mesh.count(at + LOOK_EVERY, &[(w3, in_session(5_000))]);
    let straight = "west/w3 at 192.0.2.23:51871, kept, with its session";
    assert!(mesh.kept().contains(straight), "{}", mesh.kept());
    assert!(!is_measured(&mesh), "used, and no work");
    mesh.count(at + LOOK_EVERY * 2, &[(w3, in_session(50_000))]);
    assert!(is_measured(&mesh));
}

#[test]
fn who_is_dialled_answers_where_it_was_spoken_to_while_there_is_a_session_and_else_through_a_gateway() {
    let mut mesh = two_with_gateways();
    mesh.relay("east", "e2", &["192.0.2.12:51872"], 204);
    mesh.change_node("west", "w3", |node| node.endpoints.clear());
    assert!(mesh.kept().contains("west/w3 at 192.0.2.12:51872, not kept"), "{}", mesh.kept());
    let (w3, at) = (mesh.key_of("west", "w3"), Instant::now());
    let aged = |seconds| TunnelState { handshake_age: Some(Duration::from_secs(seconds)), ..counted(0) };
    mesh.count(at, &[(w3, counted(0))]);
    mesh.count(at + LOOK_EVERY, &[(w3, aged(1))]);
    assert!(mesh.kept().contains("west/w3 at where it was heard, not kept"), "{}", mesh.kept());
    mesh.count(at + LOOK_EVERY * 2, &[(w3, aged(300))]);
    assert!(mesh.kept().contains("west/w3 at 192.0.2.12:51872, not kept\n"), "{}", mesh.kept());
    let mut sent = aged(1);
    for looks in 3..12 {
        sent.tx_bytes += 500;
        mesh.count(at + LOOK_EVERY * looks, &[(w3, sent.clone())]);
    }
    let elsewhere = "west/w3 at 192.0.2.12:51872, not kept, with its session\n";
    assert!(mesh.kept().contains(elsewhere), "nothing is answered: {}", mesh.kept());
}

#[test]
fn who_leaves_begins_a_new_session_by_a_gateway() {
    let mut mesh = behind_nat();
    let (w3, at) = (mesh.key_of("west", "w3"), Instant::now());
    let relay = TunnelState { handshake_age: Some(Duration::from_secs(5)), ..TunnelState::default() };
    let straight = TunnelState { endpoint: Some("192.0.2.23:51871".parse().unwrap()), ..relay };
    let device = [(w3, straight), (PublicKey([201; 32]), relay)];
    mesh.count(at, &device);
    let after = at + Duration::from_secs(200);
    mesh.count(after, &device);
    let leaving = "west/w3 at 192.0.2.21:51872, kept, by a new session\n";
    assert!(mesh.kept().contains(leaving), "{}", mesh.kept());
    mesh.count(after + Duration::from_secs(10), &device);
    let parked = "west/w3 at 192.0.2.21:51872, not kept\n";
    assert!(mesh.kept().contains(parked), "a session that is elsewhere stays there: {}", mesh.kept());
}

#[test]
fn who_waits_for_his_own_record_parks_his_tunnels_from_the_beginning() {
    let mut mesh = behind_nat();
    let own: Key = MeshKey::Key("e1".parse().unwrap()).of(&"east".parse().unwrap());
    mesh.view.apply(Event::Delete { key: own.to_string().into_bytes(), mod_revision: mesh.revision + 1 });
    assert!(mesh.kept().contains("west/w3 at 192.0.2.21:51872, not kept"), "{}", mesh.kept());
}

#[test]
fn a_gateway_that_is_down_or_silent_is_passed_over() {
    let mut mesh = behind_nat();
    let session = TunnelState { handshake_age: Some(Duration::from_secs(5)), ..TunnelState::default() };
    let (first, second) = (PublicKey([201; 32]), PublicKey([202; 32]));
    mesh.count(Instant::now(), &[(second, session.clone())]);
    assert!(mesh.kept().contains("west/w3 at 192.0.2.22:51872"), "{}", mesh.kept());
    let both = [(first, session.clone()), (second, session.clone())];
    mesh.count(Instant::now(), &both);
    assert!(mesh.kept().contains("west/w3 at 192.0.2.21:51872"), "{}", mesh.kept());
    mesh.paths.silent = [("west".parse().unwrap(), "w1".parse().unwrap())].into();
    mesh.count(Instant::now(), &both);
    assert!(mesh.kept().contains("west/w3 at 192.0.2.22:51872"), "{}", mesh.kept());
    // With a session by the second it stays there when the first speaks again.
    let w3 = mesh.key_of("west", "w3");
    let there = TunnelState { endpoint: Some("192.0.2.22:51872".parse().unwrap()), ..session };
    mesh.paths.silent.clear();
    mesh.count(Instant::now(), &[&both[..], &[(w3, there)]].concat());
    assert!(mesh.kept().contains("west/w3 at 192.0.2.22:51872"), "{}", mesh.kept());
}

#[test]
fn gateways_are_few_and_the_others_that_offer_a_relay_are_nodes_like_any() {
    let mut mesh = behind_nat();
    mesh.relay("west", "w3", &["192.0.2.23:51872"], 203);
    assert_eq!(GATEWAYS_MAX, 2);
    assert!(mesh.kept().contains("west/w3 at 192.0.2.21:51872, not kept"), "{}", mesh.kept());
}

#[test]
fn where_one_end_does_not_know_of_it_every_tunnel_is_kept() {
    for (cluster, node) in [("east", "e1"), ("west", "w3")] {
        let mut mesh = behind_nat();
        mesh.agent_keeps_on_demand(cluster, node, false);
        assert!(mesh.kept().contains("west/w3 at 192.0.2.23:51871, always kept"), "{node}: {}", mesh.kept());
    }
}

#[test]
fn a_gateway_passes_datagrams_on_between_its_own_nodes_and_those_of_peers_that_nobody_dials() {
    let mut mesh = two_with_gateways();
    mesh.relay("east", "e1", &["192.0.2.11:51872"], 203);
    assert_eq!(mesh.pairs(), [], "everybody is dialled");
    mesh.change_node("west", "w3", |node| node.endpoints.clear());
    let (e2, w3) = (mesh.key_of("east", "e2").0[0], mesh.key_of("west", "w3").0[0]);
    assert_eq!(mesh.pairs(), [(e2.min(w3), e2.max(w3))], "not its own, which is always kept");
    mesh.peer("west", Phase::Prepared, &[]);
    assert_eq!(mesh.pairs(), [], "the connect is not complete");
}

#[test]
fn gateways_are_of_one_family_so_that_both_sides_show_the_same_ones_where_they_are() {
    let mut mesh = behind_nat();
    mesh.change_node("west", "w3", |node| node.endpoints.push("2001:db8::23".parse().unwrap()));
    mesh.relay("west", "w1", &["[2001:db8::21]:51872"], 201);
    assert!(mesh.kept().contains("west/w3 at 192.0.2.22:51872, not kept"), "{}", mesh.kept());
    assert!(
        !mesh.composed().image.tunnel.peers.contains_key(&PublicKey([201; 32])),
        "w1 is no gateway of w3"
    );
}
