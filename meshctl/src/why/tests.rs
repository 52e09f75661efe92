use super::*;
use api::{
    bytes::{ClusterUuid, Uid},
    key::LocalKey,
    record::{
        Affinity, Applied, Backend, Closed, Freshness, Identity, Node, PeerState, Phase, Service,
        StalePolicy, Tunnel,
    },
};
use expect_test::{Expect, expect};
use std::collections::BTreeMap;

const IDENTITY: IdentityId = IdentityId([0xab; 16]);

/// `east` with the node e1 and a pod, connected to `west` with the node w1 and a pod that serves shop/cart.
fn east() -> Facts {
    let mut facts = Facts { cluster: name("east"), head: 100, now_ms: 1_000_000, records: BTreeMap::new() };
    for (cluster, node, mesh, pods, underlay, pod, revision) in [
        ("east", "e1", "100.64.1.1", "10.1.1.0/24", "192.0.2.1", "client", 10),
        ("west", "w1", "100.64.2.1", "10.2.1.0/24", "192.0.2.2", "cart-1", 20),
    ] {
        let record = Node {
            mesh_addresses: vec![ip(mesh)],
            prefixes: vec![pods.parse().unwrap()],
            endpoints: vec![ip(underlay)],
            zone: String::new(),
            relay: vec![],
        };
        put(&mut facts, MeshKey::Node(node.parse().unwrap()).of(&name(cluster)), record, revision);
        let endpoint = Endpoint {
            uid: Uid([1; 16]),
            identity: IDENTITY,
            node: node.parse().unwrap(),
            name: pod.parse().unwrap(),
            ports: vec![],
            terminating: false,
            created_s: 1,
        };
        let at = ip(&pods.replace(".0/24", ".10"));
        put(
            &mut facts,
            MeshKey::Endpoint("shop".parse().unwrap(), at).of(&name(cluster)),
            endpoint,
            revision + 1,
        );
    }
    let labels = [("app".to_owned(), "cart".to_owned())].into();
    let identity = Identity { service_account: "default".to_owned(), labels };
    put(&mut facts, MeshKey::Identity("shop".parse().unwrap(), IDENTITY).of(&name("west")), identity, 22);
    let service = Service {
        uid: Uid([2; 16]),
        frontends: vec![ip("10.101.0.10")],
        ports: vec![],
        global: true,
        shared: true,
        affinity: Affinity::None,
        headless: false,
        created_s: 1,
        session_affinity_s: 0,
    };
    let (shop, cart) = ("shop".parse().unwrap(), "cart".parse().unwrap());
    put(&mut facts, MeshKey::Service(shop, cart).of(&name("east")), service, 12);
    let backend = Backend {
        uid: Uid([3; 16]),
        ports: vec![],
        ready: true,
        serving: true,
        terminating: false,
        weight: 1,
        zone: String::new(),
        node: Some("w1".parse().unwrap()),
        hostname: String::new(),
        created_s: 1,
    };
    let key = MeshKey::Backend("shop".parse().unwrap(), "cart".parse().unwrap(), ip("10.2.1.10"));
    put(&mut facts, key.of(&name("west")), backend, 23);
    let peer = PeerState {
        uuid: ClusterUuid([2; 16]),
        phase: Phase::Active,
        freshness: Freshness::Fresh,
        stale_policy: StalePolicy::Demote,
        drop_after_ms: 0,
        prefixes: vec!["10.2.0.0/16".parse().unwrap(), "100.64.2.0/24".parse().unwrap()],
        nonce: None,
        dropped: false,
        through: None,
        relay: vec![],
    };
    put(&mut facts, LocalKey::Peer(name("west")), peer, 11);
    let closed = Closed { prefixes: vec!["10.9.0.0/16".parse().unwrap()] };
    put(&mut facts, LocalKey::Closed(name("north")), closed, 9);
    let tunnel = Tunnel {
        cluster: name("west"),
        node: "w1".parse().unwrap(),
        mtu_bytes: 1420,
        handshake_age_ms: Some(9_000),
        rtt_us: Some(900),
        probe_age_ms: Some(500),
        probe_failed: false,
        rx_bytes: 1,
        tx_bytes: 1,
        endpoint: "192.0.2.2:51871".into(),
        relay: String::new(),
        on_demand: false,
    };
    let applied = Applied {
        tunnels: vec![tunnel],
        programmed: true,
        written_ms: 998_000,
        datapath: "wireguard-kernel".into(),
        packet_hook: "tcx".into(),
        balancer: "socket".into(),
        ..Default::default()
    };
    put(&mut facts, LocalKey::Applied("e1".parse().unwrap()), applied, 30);
    facts
}

fn put(facts: &mut Facts, key: impl Into<Key>, record: impl Into<Record>, revision: i64) {
    facts.records.insert(key.into(), (record.into(), revision));
}

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn says(asked: &str, expected: &Expect) {
    expected.assert_eq(&why(&east(), &asked.parse().unwrap()).unwrap());
}

fn says_of_pair(from: &str, to: &str, expected: &Expect) {
    expected.assert_eq(&why_pair(&east(), &from.parse().unwrap(), &to.parse().unwrap()).unwrap());
}

#[test]
fn an_address_is_whose_it_is_what_it_serves_and_how_it_is_reached() {
    says(
        "10.2.1.10",
        &expect![[r#"
        10.2.1.10 as east sees it
          pod shop/cart-1 of west, on w1, identity abababababababababababababababab (revision 21)
          backend of shop/cart, announced by west: ready (revision 23)
          encrypted: west carries 10.2.1.0/24 on w1
    "#]],
    );
    says(
        "shop/cart-1",
        &expect![[r#"
        10.2.1.10 as east sees it
          pod shop/cart-1 of west, on w1, identity abababababababababababababababab (revision 21)
          backend of shop/cart, announced by west: ready (revision 23)
          encrypted: west carries 10.2.1.0/24 on w1
    "#]],
    );
    says(
        "10.1.1.10",
        &expect![[r#"
        10.1.1.10 as east sees it
          pod shop/client of east, on e1, identity abababababababababababababababab (revision 11)
          inside the cluster: e1 carries 10.1.1.0/24, by the CNI's own way
    "#]],
    );
    says(
        "100.64.2.1",
        &expect![[r#"
        100.64.2.1 as east sees it
          mesh address of the node w1 of west (revision 20)
          encrypted: west carries 100.64.2.1/32 on w1
    "#]],
    );
    says(
        "192.0.2.2",
        &expect![[r#"
        192.0.2.2 as east sees it
          the node w1 of west itself, where its tunnel is dialled: never a destination of the mesh
          not of the mesh: it goes where it went before
    "#]],
    );
    says(
        "10.101.0.10",
        &expect![[r#"
            10.101.0.10 as east sees it
              ClusterIP of shop/cart in east: ask `meshctl why shop/cart`
        "#]],
    );
}

#[test]
fn an_address_that_nobody_announced_is_dropped_closed_or_not_ours() {
    says(
        "10.2.7.7",
        &expect![[r#"
        10.2.7.7 as east sees it
          no record names it
          dropped: in 10.2.0.0/16 of west, and none of its nodes carries it
    "#]],
    );
    says(
        "10.9.1.1",
        &expect![[r#"
        10.9.1.1 as east sees it
          no record names it
          closed: 10.9.0.0/16 was north's, and what goes there is dropped until `meshctl forget north`
    "#]],
    );
    says(
        "8.8.8.8",
        &expect![[r#"
        8.8.8.8 as east sees it
          no record names it
          not of the mesh: it goes where it went before
    "#]],
    );
}

#[test]
fn an_identity_is_what_it_was_made_from_and_who_has_it() {
    says(
        &IDENTITY.to_string(),
        &expect![[r#"
        abababababababababababababababab in west (revision 22)
          namespace       shop
          service account default
          label           app=cart
          2 addresses
            10.1.1.10 shop/client on e1 of east
            10.2.1.10 shop/cart-1 on w1 of west
    "#]],
    );
    let error = why(&east(), &"cd".repeat(16).parse().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("no cluster that east knows announces the identity {}", "cd".repeat(16))
    );
}

#[test]
fn a_pair_is_the_way_between_two_and_what_was_measured_of_it() {
    says_of_pair(
        "shop/client",
        "shop/cart-1",
        &expect![[r#"
        shop/client of east → shop/cart-1 of west as east sees it
          10.1.1.10 is carried by east/e1
          10.2.1.10 is carried by west/w1
          ✓ encrypted: e1 → w1 at 192.0.2.2:51871, rtt 900 µs, handshake 9 s ago, MTU 1420, tunnel device: kernel, packet programs at: tcx, balancer: socket (measured 2 s ago)
          no policy: mesh traffic is not subject to NetworkPolicy
    "#]],
    );
    says_of_pair(
        "10.2.1.10",
        "10.1.1.10",
        &expect![[r#"
        shop/cart-1 of west → shop/client of east as east sees it
          10.2.1.10 is carried by west/w1
          10.1.1.10 is carried by east/e1
          ✓ encrypted: e1 → w1 at 192.0.2.2:51871, rtt 900 µs, handshake 9 s ago, MTU 1420, tunnel device: kernel, packet programs at: tcx, balancer: socket (measured 2 s ago)
          no policy: mesh traffic is not subject to NetworkPolicy
    "#]],
    );
    says_of_pair(
        "10.1.1.10",
        "10.1.1.11",
        &expect![[r#"
        shop/client of east → 10.1.1.11 as east sees it
          10.1.1.10 is carried by east/e1
          10.1.1.11 is carried by east/e1
          on one node: it never leaves it
          no policy: mesh traffic is not subject to NetworkPolicy
    "#]],
    );
    says_of_pair(
        "10.1.1.10",
        "10.9.1.1",
        &expect![[r#"
        shop/client of east → 10.9.1.1 as east sees it
          10.1.1.10 is carried by east/e1
          10.9.1.1: closed: 10.9.0.0/16 was north's, and what goes there is dropped until `meshctl forget north`
    "#]],
    );
}

#[test]
fn a_tunnel_that_does_not_answer_or_is_not_there_says_so() {
    let mut facts = east();
    let key = LocalKey::Applied("e1".parse().unwrap()).into();
    let Some((Record::Applied(applied), _)) = facts.records.get_mut(&key) else { panic!("it is there") };
    (applied.tunnels[0].probe_failed, applied.tunnels[0].relay) = (true, "hub/h1".into());
    let pair = |facts: &Facts| pair::why(facts, ip("10.1.1.10"), ip("10.2.1.10"));
    let silent = "✗ encrypted: e1 → w1 at 192.0.2.2:51871, the relay hub/h1, rtt";
    assert!(pair(&facts).contains(silent), "{}", pair(&facts));
    let Some((Record::Applied(applied), _)) = facts.records.get_mut(&key) else { panic!("it is there") };
    applied.tunnels.clear();
    assert!(pair(&facts).contains("e1 has no tunnel to west/w1 yet: dropped"), "{}", pair(&facts));
    facts.records.remove(&key);
    assert!(pair(&facts).contains("the agent of e1 has reported nothing about it"), "{}", pair(&facts));
}

#[test]
fn what_nobody_knows_is_an_error_that_says_where_was_looked() {
    let error = why(&east(), &"shop/nothing".parse().unwrap()).unwrap_err().to_string();
    assert!(
        error.starts_with("east has no Service shop/nothing, and no cluster that it knows has a pod"),
        "{error}"
    );
    let error = why_pair(&east(), &"shop/nothing".parse().unwrap(), &"10.1.1.10".parse().unwrap());
    assert_eq!(error.unwrap_err().to_string(), "no cluster that east knows has a pod shop/nothing");
}
