use super::*;
use api::{
    bytes::{BootId, ClusterUuid, PublicKey},
    key::{Key, LocalKey, MeshKey},
    record::{
        Applied, AppliedCluster, Heartbeat, ImportState, Node, PeerState, Record, Refusal, StalePolicy,
        Synced, TunnelKey,
    },
};
use expect_test::{Expect, expect};
use replica::import::VOUCHED;
use std::collections::BTreeMap;

const NOW_MS: u64 = 1_000_000;

/// Cluster `east` with the nodes e1 and e2, connected to `west` with the node w1, all well.
struct East(BTreeMap<Key, (Record, i64)>);

fn east() -> East {
    let mut east = East(BTreeMap::new());
    for (cluster, node) in [("east", "e1"), ("east", "e2"), ("west", "w1")] {
        let record = Node {
            mesh_addresses: vec![],
            prefixes: vec![],
            endpoints: vec!["192.0.2.1".parse().unwrap()],
            zone: String::new(),
            relay: vec![],
        };
        east.put(MeshKey::Node(node.parse().unwrap()).of(&cluster.parse().unwrap()), record, 10);
    }
    let key = TunnelKey {
        public_key: PublicKey([1; 32]),
        port: 51871,
        clock_epoch: 0,
        relay_key: None,
        on_demand: false,
    };
    east.put(MeshKey::Key("w1".parse().unwrap()).of(&"west".parse().unwrap()), key, 12);
    east.put(
        LocalKey::Peer("west".parse().unwrap()).into(),
        PeerState {
            uuid: ClusterUuid([2; 16]),
            phase: Phase::Active,
            freshness: Freshness::Fresh,
            stale_policy: StalePolicy::Demote,
            drop_after_ms: 0,
            prefixes: vec![],
            nonce: None,
            dropped: false,
            through: None,
            relay: vec![],
        },
        11,
    );
    let import = ImportState {
        records: 9,
        services: 1,
        backends: 2,
        peer_revision: 88,
        connected: true,
        synced: true,
        ..Default::default()
    };
    east.put(LocalKey::Import("west".parse().unwrap()).into(), import, 11);
    for node in ["e1", "e2"] {
        let tunnel = Tunnel {
            cluster: "west".parse().unwrap(),
            node: "w1".parse().unwrap(),
            mtu_bytes: 1420,
            handshake_age_ms: Some(9_000),
            rtt_us: Some(900),
            probe_age_ms: Some(500),
            probe_failed: false,
            rx_bytes: 1,
            tx_bytes: 1,
            endpoint: "192.0.2.65:51871".into(),
            relay: String::new(),
            on_demand: false,
        };
        let applied = Applied {
            clusters: vec![AppliedCluster { cluster: "west".parse().unwrap(), revision: 12 }],
            tunnels: vec![tunnel],
            programmed: true,
            written_ms: NOW_MS - 1_000,
            ..Default::default()
        };
        east.put(LocalKey::Applied(node.parse().unwrap()).into(), applied, 20);
    }
    east
}

impl East {
    fn put(&mut self, key: Key, record: impl Into<Record>, revision: i64) {
        self.0.insert(key, (record.into(), revision));
    }

    fn applied(&mut self, node: &str, change: impl FnOnce(&mut Applied)) {
        match self.0.get_mut(&LocalKey::Applied(node.parse().unwrap()).into()) {
            Some((Record::Applied(applied), _)) => change(applied),
            other => panic!("{other:?}"),
        }
    }

    fn peer(&mut self, change: impl FnOnce(&mut PeerState)) {
        match self.0.get_mut(&LocalKey::Peer("west".parse().unwrap()).into()) {
            Some((Record::PeerState(state), _)) => change(state),
            other => panic!("{other:?}"),
        }
    }

    /// All of the peer's list is in the store.
    fn imported(&mut self) {
        let boot = BootId([4; 16]);
        let beat = Heartbeat { boot, revision: 4, source_age_ms: 0 };
        self.put(MeshKey::Heartbeat.of(&"east".parse().unwrap()), beat, 5);
        for kind in VOUCHED {
            self.put(MeshKey::Synced(kind).of(&"west".parse().unwrap()), Synced { boot }, 12);
        }
    }

    fn peer_state(&self) -> PeerState {
        match &self.0[&LocalKey::Peer("west".parse().unwrap()).into()] {
            (Record::PeerState(state), _) => state.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn import(&mut self, change: impl FnOnce(&mut ImportState)) {
        match self.0.get_mut(&LocalKey::Import("west".parse().unwrap()).into()) {
            Some((Record::ImportState(state), _)) => change(state),
            other => panic!("{other:?}"),
        }
    }

    fn facts(&self) -> Facts {
        let records = self.0.clone();
        Facts { cluster: "east".parse().unwrap(), head: 20, now_ms: NOW_MS, records }
    }

    fn check(self, expected: Expect) {
        let status = cluster(&self.facts());
        let west = &status.peers[0];
        let mut text = format!(
            "{:?} {:?} nodes {}/{} tunnels {}/{}\n",
            west.phase, west.freshness, west.nodes_programmed, west.nodes, west.tunnels_up, west.tunnels
        );
        for problem in status.all_problems() {
            text += &format!("{problem}\n");
        }
        assert_eq!(status.is_healthy(), status.all_problems().count() == 0);
        expected.assert_eq(&text);
    }
}

#[test]
fn a_vm_that_is_off_makes_no_mesh_unhealthy() {
    let mut east = east();
    let vm = Node {
        mesh_addresses: vec![],
        prefixes: vec![],
        endpoints: vec![],
        zone: String::new(),
        relay: vec![],
    };
    for cluster in ["east", "west"] {
        let key = MeshKey::Node("laptop".parse().unwrap()).of(&cluster.parse().unwrap());
        east.put(key, vm.clone(), 10);
    }
    east.check(expect![[r#"
        Active Fresh nodes 2/2 tunnels 2/2
    "#]]);
}

#[test]
fn a_mesh_that_works_has_no_problem() {
    east().check(expect![[r#"
        Active Fresh nodes 2/2 tunnels 2/2
    "#]]);
}

#[test]
fn a_silent_pair_is_named_though_the_control_ports_work() {
    let mut east = east();
    east.applied("e2", |a| {
        a.tunnels[0].probe_failed = true;
        a.tunnels[0].handshake_age_ms = Some(140_000);
    });
    east.check(expect![[r#"
        Active Fresh nodes 2/2 tunnels 1/2
        east/e2 → west/w1: the tunnel is silent (last handshake 140 s ago, 192.0.2.65:51871): does UDP pass between these machines?
    "#]]);
}

#[test]
fn an_old_round_trip_proves_nothing() {
    let mut east = east();
    east.applied("e1", |a| a.tunnels[0].probe_age_ms = Some(PROBE_OLD_MS + 1));
    east.check(expect![[r#"
        Active Fresh nodes 2/2 tunnels 1/2
        east/e1 → west/w1: the tunnel is silent (last handshake 9 s ago, 192.0.2.65:51871): does UDP pass between these machines?
    "#]]);
}

#[test]
fn a_node_whose_maps_lag_is_named_with_the_revision_it_lacks() {
    let mut east = east();
    east.applied("e1", |a| a.clusters[0].revision = 11);
    east.check(expect![[r#"
        Active Fresh nodes 1/2 tunnels 2/2
        west: the maps of e1 do not hold revision 12 yet
    "#]]);
}

#[test]
fn a_record_of_a_moment_ago_settles_and_newer_ones_keep_nobody_waiting() {
    let mut east = east();
    east.imported();
    let mut due = Due::default();
    east.applied("e1", |a| a.clusters[0].revision = 11);
    let first = cluster_again(&east.facts(), &mut due);
    assert!(!first.is_healthy() && first.settles(), "{first:?}");

    // Another record comes, and with it the report on the one before.
    east.put(LocalKey::Peer("west".parse().unwrap()).into(), east.peer_state(), 21);
    east.applied("e1", |a| a.clusters[0].revision = 12);
    let second = cluster_again(&east.facts(), &mut due);
    assert!(second.is_healthy(), "{second:?}");
    assert!(!cluster(&east.facts()).is_healthy(), "for somebody else, the newest one is due");
}

#[test]
fn what_is_due_is_all_of_a_first_list_and_never_more_than_a_restored_store_has() {
    let mut east = east();
    let mut due = Due::default();
    assert_eq!(cluster_again(&east.facts(), &mut due).peers[0].nodes_programmed, 2);
    east.put(LocalKey::Peer("west".parse().unwrap()).into(), east.peer_state(), 15);
    assert_eq!(cluster_again(&east.facts(), &mut due).peers[0].nodes_programmed, 0);
    east.imported();
    assert_eq!(cluster_again(&east.facts(), &mut due).peers[0].nodes_programmed, 0);
    east.put(LocalKey::Peer("west".parse().unwrap()).into(), east.peer_state(), 11);
    assert_eq!(cluster_again(&east.facts(), &mut due).peers[0].nodes_programmed, 2);
}

#[test]
fn a_tunnel_that_is_new_settles_and_one_that_is_silent_or_whose_agent_is_dead_does_not() {
    let mut new = east();
    new.applied("e1", |a| a.tunnels[0].probe_age_ms = None);
    assert!(cluster(&new.facts()).settles());
    new.applied("e1", |a| a.tunnels.clear());
    assert!(cluster(&new.facts()).settles());
    new.applied("e1", |a| a.written_ms = NOW_MS - 45_000);
    assert!(!cluster(&new.facts()).settles());

    let mut silent = east();
    silent.applied("e1", |a| a.tunnels[0].probe_failed = true);
    assert!(!cluster(&silent.facts()).settles());
    silent.applied("e2", |a| a.tunnels.clear());
    assert!(!cluster(&silent.facts()).settles(), "another look will not be green either");
}

#[test]
fn a_dead_agent_is_said_and_its_tunnels_are_not_called_silent() {
    let mut east = east();
    east.applied("e1", |a| a.written_ms = NOW_MS - 45_000);
    east.check(expect![[r#"
        Active Fresh nodes 2/2 tunnels 1/2
        east/e1: its agent last reported 45 s ago; the data path goes on without it
    "#]]);
}

#[test]
fn a_stale_peer_says_why() {
    let mut east = east();
    east.peer(|p| p.freshness = Freshness::Stale);
    east.import(|i| {
        i.connected = false;
        i.last_error = "cannot connect to 192.0.2.73:2379: connection refused".into();
    });
    east.check(expect![[r#"
        Active Stale nodes 2/2 tunnels 2/2
        west: stale, its records are the last known ones: cannot connect to 192.0.2.73:2379: connection refused
    "#]]);
}

#[test]
fn refused_records_are_a_problem_with_a_reason_and_an_example() {
    let mut east = east();
    east.import(|i| {
        i.refusals = vec![Refusal {
            reason: "outside-contract".into(),
            count: 3,
            example: "mesh/v1/west/nodes/w9".into(),
        }];
    });
    east.check(expect![[r#"
        Active Fresh nodes 2/2 tunnels 2/2
        west: 3 records refused (outside-contract), newest mesh/v1/west/nodes/w9
    "#]]);
}

#[test]
fn a_connect_that_is_not_complete_says_so() {
    let mut east = east();
    east.peer(|p| p.phase = Phase::Prepared);
    east.check(expect![[r#"
        Prepared Fresh nodes 2/2 tunnels 2/2
        west: the connect is not complete; it expires by itself
    "#]]);
}

#[test]
fn a_tunnel_through_a_relay_is_said_to_be_one_while_it_works_and_when_it_is_silent() {
    let relayed = |failed| {
        let mut east = east();
        east.applied("e1", |a| {
            a.tunnels[0].endpoint = "192.0.2.9:51872".into();
            a.tunnels[0].relay = "hub/h1".into();
            a.tunnels[0].probe_failed = failed;
        });
        east
    };
    let status = cluster(&relayed(false).facts());
    assert_eq!((status.peers[0].tunnels_up, status.peers[0].tunnels_relayed), (2, 1));
    let table = crate::table::status(&[status]);
    assert!(table.contains("  2/2 (1 relay)  "), "{table}");
    relayed(true).check(expect![[r#"
        Active Fresh nodes 2/2 tunnels 1/2
        east/e1 → west/w1: the tunnel is silent (last handshake 9 s ago, 192.0.2.9:51872, the relay hub/h1): does UDP pass from both to this port of hub/h1, and do the contracts there allow it?
    "#]]);
}

#[test]
fn a_tunnel_on_demand_is_up_for_as_long_as_two_rare_probes_take_and_says_what_it_is() {
    let on_demand = |probe_age_ms| {
        let mut east = east();
        east.applied("e1", |a| {
            (a.tunnels[0].on_demand, a.tunnels[0].probe_age_ms) = (true, Some(probe_age_ms));
            (a.tunnels[0].endpoint, a.tunnels[0].relay) = ("192.0.2.9:51872".into(), "west/w2".into());
        });
        east
    };
    let facts = Facts {
        cluster: "east".parse().unwrap(),
        head: 20,
        now_ms: NOW_MS,
        records: on_demand(20 * 60_000).0,
    };
    let table = crate::table::status(&[cluster(&facts)]);
    assert!(table.contains("  2/2 (1 on demand)  "), "{table}");
    on_demand(22 * 60_000).check(expect![[r#"
        Active Fresh nodes 2/2 tunnels 1/2
        east/e1 → west/w1: the tunnel is silent (last handshake 9 s ago, 192.0.2.9:51872, the relay west/w2): does UDP pass from both to this port of west/w2, and do the contracts there allow it?
    "#]]);
}
