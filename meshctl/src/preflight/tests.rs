use super::*;
use api::peer::{API_VERSION, Contract, KIND, Limits, MeshPeerSpec, Metadata, Stale};
use expect_test::{Expect, expect};

fn cluster(name: &str, id: u8, pods: &str, services: &str, mesh: &str) -> ClusterFacts {
    let range = |range, cidr: &str| (range, cidr.parse().unwrap());
    ClusterFacts {
        name: name.parse().unwrap(),
        uuid: ClusterUuid([id; 16]),
        ranges: vec![range(Range::Pods, pods), range(Range::Services, services), range(Range::Mesh, mesh)],
        node_addresses: vec![IpAddr::from([192, 0, 2, id])],
        endpoints: vec![format!("192.0.2.{id}:2379")],
        trust_bundle: String::new(),
        peers: vec![],
        counts: Default::default(),
    }
}

fn east() -> ClusterFacts {
    cluster("east", 1, "10.1.0.0/16", "10.101.0.0/16", "100.64.1.0/24")
}

fn west() -> ClusterFacts {
    cluster("west", 2, "10.2.0.0/16", "10.102.0.0/16", "100.64.2.0/24")
}

fn peer(name: &str, id: u8, cidr: &str) -> MeshPeer {
    MeshPeer {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        metadata: Metadata { name: name.parse().unwrap() },
        spec: MeshPeerSpec {
            uuid: ClusterUuid([id; 16]),
            endpoints: vec![],
            through: None,
            trust_bundle: String::new(),
            contract: Contract {
                cidrs: vec![cidr.parse().unwrap()],
                namespaces: vec![],
                limits: Limits::default(),
                relay: vec![],
            },
            stale: Stale::default(),
            connect: None,
        },
    }
}

fn check(a: &ClusterFacts, b: &ClusterFacts, expected: Expect) {
    assert_eq!(conflicts(a, b, None), conflicts(b, a, None), "the order of the two does not matter");
    let found: Vec<String> = conflicts(a, b, None).iter().map(ToString::to_string).collect();
    expected.assert_eq(&found.join("\n"));
}

#[test]
fn clusters_apart_can_be_connected_also_again_and_with_the_same_service_range() {
    check(&east(), &west(), expect![""]);
    let mut connected = east();
    connected.peers = vec![peer("west", 2, "10.2.0.0/16"), peer("north", 3, "10.3.0.0/16")];
    check(&connected, &west(), expect![""]);
    check(&east(), &cluster("west", 2, "10.2.0.0/16", "10.101.0.0/16", "100.64.2.0/24"), expect![""]);
}

#[test]
fn equal_names_or_the_same_cluster_twice_are_refused() {
    let mut other = west();
    other.name = "east".parse().unwrap();
    let found = |other: &ClusterFacts| {
        let all = conflicts(&east(), other, None);
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    expect!["MESH202: two clusters have the name east: 01010101-0101-0101-0101-010101010101 and 02020202-0202-0202-0202-020202020202"]
        .assert_eq(&found(&other));
    let mut alias = east();
    alias.name = "alias".parse().unwrap();
    expect!["MESH201: east and alias are the same cluster (01010101-0101-0101-0101-010101010101)"]
        .assert_eq(&found(&alias));
}

#[test]
fn every_overlap_is_named_with_both_sides() {
    check(
        &east(),
        &cluster("west", 2, "10.1.128.0/17", "10.102.0.0/16", "100.64.0.0/16"),
        expect![[r#"
            MESH203: east mesh 100.64.1.0/24 overlaps west mesh 100.64.0.0/16
            MESH203: east pods 10.1.0.0/16 overlaps west pods 10.1.128.0/17"#]],
    );
    check(
        &east(),
        &cluster("west", 2, "10.101.4.0/24", "10.102.0.0/16", "100.64.2.0/24"),
        expect!["MESH203: east services 10.101.0.0/16 overlaps west pods 10.101.4.0/24"],
    );
    check(
        &east(),
        &cluster("west", 2, "192.0.0.0/16", "10.102.0.0/16", "100.64.2.0/24"),
        expect!["MESH204: west pods 192.0.0.0/16 covers east's node address 192.0.2.1"],
    );
}

#[test]
fn any_other_peer_counts_too() {
    let mut east = east();
    east.peers = vec![peer("north", 3, "10.2.0.0/24")];
    check(
        &east,
        &west(),
        expect!["MESH207: west pods 10.2.0.0/16 overlaps 10.2.0.0/24 of north, a peer of east"],
    );
    east.peers = vec![peer("west", 9, "10.9.0.0/16")];
    check(
        &east,
        &west(),
        expect![
            "MESH205: east already has a peer named west, with another UUID (09090909-0909-0909-0909-090909090909)"
        ],
    );
}

#[test]
fn one_of_the_two_has_to_be_dialled_or_both_have_a_peer_in_common() {
    let silent = |mut of: ClusterFacts| {
        of.endpoints.clear();
        of
    };
    let (mut a, mut b) = (silent(east()), silent(west()));
    check(&a, &west(), expect![""]);
    check(
        &a,
        &b,
        expect![
            "MESH103: neither east nor west advertises an address of its apiserver: connect both with a cluster that does, and these two with --through it"
        ],
    );
    let core: ClusterName = "core".parse().unwrap();
    a.peers = vec![peer("core", 7, "10.7.0.0/16")];
    let found: Vec<String> = conflicts(&a, &b, Some(&core)).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["MESH103: west is not connected with core, through which it is to be reached"]);
    b.peers = a.peers.clone();
    assert_eq!(conflicts(&a, &b, Some(&core)), []);
}
