use super::*;
use api::{
    bytes::ClusterUuid,
    key::{Key, LocalKey, MeshKey},
    record::{Applied, Freshness, Node, PeerState, Record, StalePolicy},
};
use expect_test::expect;

/// `east` with the node e1, a peer `west` with w1 and w2; what e1 measured of each: how it ended, how long ago.
fn east(phase: Phase, written_ms: u64, measured: &[(&str, bool, u64)]) -> Facts {
    let mut records: BTreeMap<Key, (Record, i64)> = BTreeMap::new();
    for (cluster, node) in [("east", "e1"), ("west", "w1"), ("west", "w2")] {
        let record = Node {
            mesh_addresses: vec![],
            prefixes: vec![],
            endpoints: vec!["192.0.2.1".parse().unwrap()],
            zone: String::new(),
            relay: vec![],
        };
        let key = MeshKey::Node(node.parse().unwrap()).of(&cluster.parse().unwrap());
        records.insert(key, (record.into(), 1));
    }
    let peer = PeerState {
        uuid: ClusterUuid([2; 16]),
        phase,
        freshness: Freshness::Fresh,
        stale_policy: StalePolicy::Demote,
        drop_after_ms: 0,
        prefixes: vec![],
        nonce: None,
        dropped: false,
        through: None,
        relay: vec![],
    };
    records.insert(LocalKey::Peer("west".parse().unwrap()).into(), (peer.into(), 1));
    let tunnels = measured.iter().map(|(node, probe_failed, age_ms)| Tunnel {
        cluster: "west".parse().unwrap(),
        node: node.parse().unwrap(),
        mtu_bytes: 1420,
        handshake_age_ms: Some(9_000),
        rtt_us: Some(900),
        probe_age_ms: Some(*age_ms),
        probe_failed: *probe_failed,
        rx_bytes: 1,
        tx_bytes: 1,
        endpoint: "192.0.2.65:51871".into(),
        relay: String::new(),
        on_demand: false,
    });
    let applied = Applied { tunnels: tunnels.collect(), written_ms, ..Applied::default() };
    records.insert(LocalKey::Applied("e1".parse().unwrap()).into(), (applied.into(), 1));
    // The operator's clock is an hour behind the node's: it says nothing about round trips.
    Facts { cluster: "east".parse().unwrap(), head: 1, now_ms: written_ms.saturating_sub(3_600_000), records }
}

const BEGUN_MS: u64 = 10_000_000;

#[test]
fn only_a_probe_that_was_answered_after_the_test_began_counts() {
    let begun = Begun::new(&east(Phase::Active, BEGUN_MS, &[("w1", false, 500), ("w2", false, 500)]));
    let show = |later_ms: u64, measured: &[(&str, bool, u64)]| {
        text(&cases(&begun, &east(Phase::Active, BEGUN_MS + later_ms, measured)))
    };
    let mut said = show(0, &[("w1", false, 500), ("w2", false, 500)]);
    said += &show(4_000, &[("w1", false, 3_999), ("w2", false, 4_001)]);
    said += &show(4_000, &[("w1", true, 100)]);
    expect![[r#"
         ✗ east → west  e1 → w1  no probe was answered since the test began
         ✗ east → west  e1 → w2  no probe was answered since the test began
        0 of 2 pairs had a round trip since the test began
         ✓ east → west  e1 → w1  900 µs, MTU 1420
         ✗ east → west  e1 → w2  no probe was answered since the test began
        1 of 2 pairs had a round trip since the test began
         ✗ east → west  e1 → w1  east/e1 → west/w1: the tunnel is silent (last handshake 9 s ago, 192.0.2.65:51871): does UDP pass between these machines?
         ✗ east → west  e1 → w2  there is no tunnel yet
        0 of 2 pairs had a round trip since the test began
    "#]]
    .assert_eq(&said);
}

#[test]
fn a_peering_without_pairs_fails_and_is_not_passed_over() {
    let prepared = east(Phase::Prepared, BEGUN_MS, &[]);
    let all = cases(&Begun::new(&prepared), &prepared);
    assert_eq!(text(&all).lines().next(), Some(" ✗ east → west  peering  the connect is not complete"));
    let mut nobody = east(Phase::Active, BEGUN_MS, &[]);
    nobody.records.retain(|key, _| !key.to_string().contains("west/nodes"));
    let all = cases(&Begun::new(&nobody), &nobody);
    assert_eq!(text(&all).lines().next(), Some(" ✗ east → west  peering  one of the two has no node"));
}

#[test]
fn what_collects_tests_reads_it_as_junits_xml() {
    let begun = Begun::new(&east(Phase::Active, BEGUN_MS, &[]));
    let facts = east(Phase::Active, BEGUN_MS + 4_000, &[("w1", false, 100), ("w2", true, 100)]);
    let xml = junit(&cases(&begun, &facts)).expect("XML");
    expect![[r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="meshctl test" tests="2" skipped="0" failures="1" errors="0">
            <testsuite name="east → west" tests="2" skipped="0" errors="0" failures="1">
                <testcase name="e1 → w1" classname="east → west" time="0.001"/>
                <testcase name="e1 → w2" classname="east → west" time="0.000">
                    <failure message="east/e1 → west/w2: the tunnel is silent (last handshake 9 s ago, 192.0.2.65:51871): does UDP pass between these machines?"/>
                </testcase>
            </testsuite>
        </testsuites>
    "#]].assert_eq(&xml);
}

#[test]
fn a_tunnel_on_demand_is_not_woken_by_a_test_and_is_known_by_its_last_probe() {
    let on_demand = |later_ms, age_ms| {
        let mut facts =
            east(Phase::Active, BEGUN_MS + later_ms, &[("w1", false, 100), ("w2", false, age_ms)]);
        let key = LocalKey::Applied("e1".parse().unwrap()).into();
        let (api::record::Record::Applied(applied), _) = facts.records.get_mut(&key).unwrap() else {
            panic!("another record")
        };
        applied.tunnels[1].on_demand = true;
        facts
    };
    let begun = Begun::new(&on_demand(0, 400_000));
    let facts = on_demand(4_000, 404_000);
    let all = cases(&begun, &facts);
    assert!(all.iter().all(Case::passed));
    expect![[r#"
         ✓ east → west  e1 → w1  900 µs, MTU 1420
         - east → west  e1 → w2  on demand: its last probe was answered 404 s ago
        1 of 2 pairs had a round trip since the test began, 1 are on demand
    "#]]
    .assert_eq(&text(&all));
    let xml = junit(&all).expect("XML");
    assert!(xml.contains("skipped=\"1\" failures=\"0\""), "{xml}");
    let old = cases(&begun, &on_demand(4_000, 2_000_000));
    assert!(!old[1].passed(), "nobody knows whether it carries");
}
