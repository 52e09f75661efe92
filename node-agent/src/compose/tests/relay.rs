//! Which relay tunnels go through, and who may talk through ours.

use super::*;

impl Mesh {
    /// Changes what a cluster's apiserver says of a node.
    pub(super) fn change_node(&mut self, cluster: &str, name: &str, change: impl FnOnce(&mut Node)) {
        let (cluster, name): (ClusterName, NodeName) = (cluster.parse().unwrap(), name.parse().unwrap());
        let mut node = self.view.cluster(&cluster).unwrap().nodes[&name].clone();
        change(&mut node);
        self.put(MeshKey::Node(name).of(&cluster), node);
    }

    fn change_peer(&mut self, name: &str, change: impl FnOnce(&mut PeerState)) {
        let name: ClusterName = name.parse().unwrap();
        let mut peer = self.view.tables().local.peers[&name].clone();
        change(&mut peer);
        self.put(LocalKey::Peer(name), peer);
    }

    /// A node whose apiserver offers its relay, and which runs one.
    pub(super) fn relay(&mut self, cluster: &str, name: &str, at: &[&str], key: u8) {
        self.change_node(cluster, name, |node| {
            node.relay = at.iter().map(|at| at.parse().unwrap()).collect();
        });
        let (cluster, name): (ClusterName, NodeName) = (cluster.parse().unwrap(), name.parse().unwrap());
        let mut record = self.view.cluster(&cluster).unwrap().keys[&name].clone();
        record.relay_key = Some(PublicKey([key; 32]));
        self.put(MeshKey::Key(name).of(&cluster), record);
    }

    /// Where each peer of the device is dialled, by the first byte of its key, and how much it owns.
    fn dialled(&self) -> String {
        let composed = self.composed();
        let peers = composed.image.tunnel.peers.iter().map(|(key, peer)| {
            let at = peer.endpoint.map_or("nowhere".to_owned(), |at| at.to_string());
            format!("{} at {at}, owns {}\n", key.0[0], peer.allowed.len())
        });
        let relays = composed.tunnels.iter().filter_map(|((cluster, node), to)| {
            Some(format!("{cluster}/{node} through {}\n", to.way.relays().first()?))
        });
        peers.chain(relays).collect()
    }
}

/// And a third cluster, with two nodes that offer a relay.
fn mesh_of_three() -> Mesh {
    let mut mesh = mesh();
    mesh.change_node("east", "e1", |node| node.endpoints.truncate(1));
    mesh.peer("hub", Phase::Active, &["10.3.0.0/16", "100.64.3.0/24"]);
    for number in [1, 2] {
        mesh.node("hub", &format!("h{number}"), 3, number);
    }
    mesh.relay("hub", "h2", &["192.0.2.39:51872"], 202);
    mesh.relay("hub", "h1", &["[2001:db8::9]:51872", "192.0.2.9:51872"], 201);
    mesh
}

#[test]
fn a_peer_is_reached_through_the_relay_of_the_cluster_that_its_object_names() {
    let mut mesh = mesh_of_three();
    let straight = mesh.dialled();
    mesh.change_peer("west", |west| west.through = "hub".parse().ok());
    expect![[r#"
        18 at 192.0.2.12:51871, owns 1
        33 at 192.0.2.9:51872, owns 2
        49 at 192.0.2.31:51871, owns 2
        50 at 192.0.2.32:51871, owns 2
        201 at 192.0.2.9:51872, owns 0
        west/w1 through hub/h1
    "#]]
    .assert_eq(&mesh.dialled());

    // Both sides take the same node, or none: the one that comes first is of a family that e1 cannot send.
    mesh.change_node("hub", "h1", |node| node.relay.truncate(1));
    assert_eq!(mesh.dialled(), straight);
    // A relay that nobody runs is passed over by both.
    mesh.change_node("hub", "h1", |node| node.relay.clear());
    assert!(mesh.dialled().contains("west/w1 through hub/h2"), "{}", mesh.dialled());
    // A third cluster that is no active peer offers nothing.
    mesh.peer("hub", Phase::Prepared, &[]);
    assert!(!mesh.dialled().contains("through"), "{}", mesh.dialled());
}

#[test]
fn two_nodes_that_nobody_can_dial_meet_at_a_relay_and_others_do_not() {
    let mut mesh = mesh_of_three();
    mesh.change_node("west", "w1", |node| node.endpoints.clear());
    assert!(mesh.dialled().contains("33 at nowhere, owns 2"), "it dials us: {}", mesh.dialled());
    mesh.change_node("east", "e1", |node| node.endpoints.clear());
    assert!(mesh.dialled().contains("33 at 192.0.2.9:51872, owns 2"), "{}", mesh.dialled());
    assert!(mesh.dialled().contains("18 at 192.0.2.12:51871"), "our own e2 is dialled: {}", mesh.dialled());
}

#[test]
fn a_relay_that_is_announced_under_the_key_of_a_node_takes_nothing_from_it() {
    let mut mesh = mesh_of_three();
    mesh.change_peer("west", |west| west.through = "hub".parse().ok());
    for (key, name) in [(33, "itself"), (18, "our own e2, which came before")] {
        mesh.relay("hub", "h1", &["192.0.2.9:51872"], key);
        let dialled = mesh.dialled();
        assert!(dialled.contains("18 at 192.0.2.12:51871, owns 1"), "{name}: {dialled}");
        assert!(dialled.contains("33 at 192.0.2.9:51872, owns 2"), "{name}: {dialled}");
    }
}

#[test]
fn nodes_of_peers_whose_contracts_name_each_other_may_talk_through_our_relay() {
    let mut mesh = mesh_of_three();
    mesh.relay("east", "e1", &["192.0.2.11:51872"], 203);
    let pairs = |mesh: &Mesh| {
        let pairs = mesh.composed().image.relay;
        pairs.into_iter().map(|pair| (pair.0.0[0], pair.1.0[0])).collect::<Vec<_>>()
    };
    assert_eq!(pairs(&mesh), []);
    mesh.change_peer("west", |west| west.relay = vec!["hub".parse().unwrap()]);
    assert_eq!(pairs(&mesh), [], "the other contract does not allow it");
    mesh.change_peer("hub", |hub| hub.relay = vec!["west".parse().unwrap()]);
    assert_eq!(pairs(&mesh), [(33, 49), (33, 50)]);
    mesh.change_node("east", "e1", |node| node.relay.clear());
    assert_eq!(pairs(&mesh), [], "this node offers no relay");
}
