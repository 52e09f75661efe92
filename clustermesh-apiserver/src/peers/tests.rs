//! Checks and rosters as tables; clusters over real TLS (`cluster.rs`) that dial each other in `two.rs`, and do not in
//! `piped.rs`.

mod cluster;
mod piped;
mod two;

use super::{
    check::{Surroundings, check},
    closed::ClosedPrefixes,
    home::{self, Home},
    roster::{InForce, roster},
};
use crate::{
    init,
    publish::Own,
    source::{driver::PeerObject, snapshot::Place},
};
use api::{
    bytes::{ClusterUuid, Nonce},
    name::ClusterName,
    peer::{API_VERSION, Connect, Contract, KIND, Limits, MeshPeer, MeshPeerSpec, Metadata, Stale},
    record::StalePolicy,
};
use expect_test::expect;
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr, sync::LazyLock, time::SystemTime};

/// Any CA: that it is one is all that is checked before a connection.
static BUNDLE: LazyLock<String> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    let config = init::ClusterConfig {
        name: name("west"),
        uuid: ClusterUuid([2; 16]),
        pod_cidrs: vec![cidr("10.2.0.0/16")],
        service_cidrs: vec![cidr("10.97.0.0/16")],
        mesh_cidrs: vec![cidr("100.65.0.0/24")],
        encryption_scope: Default::default(),
        advertise: vec!["localhost:2379".to_owned()],
        dial_out: false,
    };
    init::init(directory.path(), &config, SystemTime::now()).expect("a cluster");
    std::fs::read_to_string(directory.path().join("ca/cert.pem")).expect("its CA")
});

fn name(text: &str) -> ClusterName {
    text.parse().expect("a name")
}

fn cidr(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn own() -> Own {
    Own {
        name: name("east"),
        uuid: ClusterUuid([1; 16]),
        pod_cidrs: vec![cidr("10.1.0.0/16"), cidr("fd01::/48")],
        service_cidrs: vec![cidr("10.96.0.0/16")],
        mesh_cidrs: vec![cidr("100.64.0.0/24")],
        encryption_scope: Default::default(),
    }
}

fn peer(of: &str, uuid: u8, cidrs: &[&str]) -> MeshPeer {
    MeshPeer {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        metadata: Metadata { name: name(of) },
        spec: MeshPeerSpec {
            uuid: ClusterUuid([uuid; 16]),
            endpoints: vec!["192.0.2.100:2379".to_owned()],
            through: None,
            trust_bundle: BUNDLE.clone(),
            contract: Contract {
                cidrs: cidrs.iter().map(|c| cidr(c)).collect(),
                namespaces: vec![],
                limits: Limits::default(),
                relay: vec![],
            },
            stale: Stale::default(),
            connect: None,
        },
    }
}

#[test]
fn what_conflicts_is_refused_by_field_and_by_what_it_conflicts_with() {
    let good = || peer("west", 2, &["10.2.0.0/16", "100.65.0.0/24"]);
    let with = |change: &dyn Fn(&mut MeshPeer)| {
        let mut peer = good();
        change(&mut peer);
        peer
    };
    let contract = |c: &'static str| peer("west", 2, &[c]);
    let others = BTreeMap::from([(name("north"), peer("north", 3, &["10.3.0.0/16"]))]);
    let nodes: Vec<IpAddr> = vec!["192.0.2.1".parse().expect("an address")];
    let mut shown = String::new();
    for peer in [
        good(),
        contract("10.1.128.0/17"),
        contract("10.0.0.0/8"),
        contract("10.96.7.0/24"),
        contract("100.64.0.0/10"),
        contract("10.3.7.0/24"),
        contract("192.0.2.0/24"),
        contract("0.0.0.0/0"),
        contract("::/0"),
        contract("127.0.0.0/8"),
        contract("169.254.1.0/24"),
        contract("224.0.0.0/4"),
        contract("::1/128"),
        contract("fe80::/64"),
        contract("ff00::/8"),
        contract("10.2.0.1/16"),
        contract("192.0.2.64/26"),
        with(&|p| p.metadata.name = name("east")),
        with(&|p| p.spec.uuid = ClusterUuid([1; 16])),
        with(&|p| p.spec.uuid = ClusterUuid([3; 16])),
        with(&|p| p.spec.endpoints.clear()),
        with(&|p| p.spec.endpoints = vec!["192.0.2.100:2379".to_owned(); 17]),
        with(&|p| p.spec.endpoints = vec!["west.example".to_owned()]),
        with(&|p| p.spec.trust_bundle = "no PEM".to_owned()),
        with(&|p| p.spec.contract.cidrs.clear()),
        with(&|p| p.spec.stale = Stale { policy: StalePolicy::Demote, drop_after_s: Some(5) }),
        with(&|p| p.spec.stale = Stale { policy: StalePolicy::DropAfter, drop_after_s: Some(0) }),
        with(&|p| p.spec.through = Some(name("west"))),
        with(&|p| p.spec.contract.relay = vec![name("north"), name("east")]),
        with(&|p| p.spec.contract.relay = vec![name("north"); 65]),
        with(&|p| p.api_version = "clustermesh.io/v2".to_owned()),
    ] {
        let own = own();
        let around = Surroundings { own: &own, node_addresses: &nodes, others: &others };
        shown += &match check(&peer, around) {
            Ok(()) => "fine\n".to_owned(),
            Err(conflict) => format!("{conflict}\n"),
        };
    }
    expect![[r#"
        fine
        spec.contract.cidrs: 10.1.128.0/17 overlaps 10.1.0.0/16, a pod range of our own cluster `east`
        spec.contract.cidrs: 10.0.0.0/8 overlaps 10.1.0.0/16, a pod range of our own cluster `east`
        spec.contract.cidrs: 10.96.7.0/24 overlaps 10.96.0.0/16, a service range of our own cluster `east`
        spec.contract.cidrs: 100.64.0.0/10 overlaps 100.64.0.0/24, a mesh range of our own cluster `east`
        spec.contract.cidrs: 10.3.7.0/24 overlaps 10.3.0.0/16, which the contract with peer `north` contains
        spec.contract.cidrs: 192.0.2.0/24 covers 192.0.2.1, a node of our own cluster `east`
        spec.contract.cidrs: 0.0.0.0/0 is every address there is
        spec.contract.cidrs: ::/0 is every address there is
        spec.contract.cidrs: 127.0.0.0/8 overlaps 127.0.0.0/8: loopback addresses
        spec.contract.cidrs: 169.254.1.0/24 overlaps 169.254.0.0/16: link-local addresses
        spec.contract.cidrs: 224.0.0.0/4 overlaps 224.0.0.0/3: multicast or reserved addresses
        spec.contract.cidrs: ::1/128 overlaps ::/96: loopback and unspecified addresses
        spec.contract.cidrs: fe80::/64 overlaps fe80::/10: link-local addresses
        spec.contract.cidrs: ff00::/8 overlaps ff00::/8: multicast addresses
        spec.contract.cidrs: 10.2.0.1/16 has bits set outside its length; meant 10.2.0.0/16?
        spec.endpoints: 192.0.2.100:2379 lies in the contract: what is encrypted cannot be dialled in plain
        metadata.name: `east` is our own name: one of the two clusters needs another
        spec.uuid: 01010101-0101-0101-0101-010101010101 is our own: a cluster is no peer of itself
        spec.uuid: 03030303-0303-0303-0303-030303030303 is already our peer, under the name `north`
        fine
        spec.endpoints: may hold 16 of the form host:port
        spec.endpoints: `west.example` is not host:port (IPv6 in brackets)
        spec.trustBundle: there is no CA certificate in it
        spec.contract.cidrs: must hold 1 to 64 prefixes
        spec.stale.dropAfterS: means something only with policy drop-after
        spec.stale.dropAfterS: must be at least 1
        spec.through: `west` is one of the two clusters, not a third one
        spec.contract.relay: `east` is one of the two clusters, not a third one
        spec.contract.relay: may hold 64 peers
        apiVersion: must be clustermesh.io/v1alpha1
    "#]]
    .assert_eq(&shown);
}

#[test]
fn who_was_first_stays_and_the_conflict_is_shown() {
    let objects = |all: Vec<MeshPeer>| {
        all.into_iter().map(|p| (p.metadata.name.clone(), p)).collect::<BTreeMap<_, _>>()
    };
    let shown = |objects: &BTreeMap<ClusterName, MeshPeer>, in_force: &InForce| {
        let roster = roster(objects, in_force, &own(), &[]);
        let peers = roster.peers.iter().map(|(n, p)| format!("{n}: {:?}\n", p.spec.contract.cidrs));
        let conflicts = roster.conflicts.iter().map(|(n, c)| format!("! {n}: {c}\n"));
        peers.chain(conflicts).collect::<String>()
    };
    let a = peer("a", 2, &["10.2.0.0/16"]);
    let b = peer("b", 3, &["10.2.0.0/17"]);
    let both = objects(vec![a, b.clone()]);
    let mut out = String::new();
    out += &format!("new ones by name\n{}", shown(&both, &InForce::new()));
    out += &format!("b was there\n{}", shown(&both, &InForce::from([(name("b"), Some(b.clone()))])));
    out += &format!("b was there before we started\n{}", shown(&both, &InForce::from([(name("b"), None)])));
    let grabs = objects(vec![peer("a", 2, &["10.1.0.0/16"]), b]);
    let in_force = InForce::from([(name("a"), Some(peer("a", 2, &["10.9.0.0/16"])))]);
    out += &format!("a changed to what it may not have\n{}", shown(&grabs, &in_force));
    expect![[r#"
        new ones by name
        a: [10.2.0.0/16]
        ! b: spec.contract.cidrs: 10.2.0.0/17 overlaps 10.2.0.0/16, which the contract with peer `a` contains
        b was there
        b: [10.2.0.0/17]
        ! a: spec.contract.cidrs: 10.2.0.0/16 overlaps 10.2.0.0/17, which the contract with peer `b` contains
        b was there before we started
        b: [10.2.0.0/17]
        ! a: spec.contract.cidrs: 10.2.0.0/16 overlaps 10.2.0.0/17, which the contract with peer `b` contains
        a changed to what it may not have
        a: [10.9.0.0/16]
        b: [10.2.0.0/17]
        ! a: spec.contract.cidrs: 10.1.0.0/16 overlaps 10.1.0.0/16, a pod range of our own cluster `east`
    "#]]
    .assert_eq(&out);
}

#[test]
fn the_phase_of_a_connect_is_no_change_of_terms() {
    let mut prepared = peer("a", 2, &["10.2.0.0/16"]);
    prepared.spec.connect = Some(Connect { nonce: Nonce([1; 16]), deadline_s: Some(5) });
    let active = home::active(&prepared);
    assert_eq!(active.spec.connect, Some(Connect { nonce: Nonce([1; 16]), deadline_s: None }));
    // Now one of our nodes has an address in it: what is in force stays, the import refuses record by record.
    let nodes = ["10.2.0.1".parse().expect("an address")];
    let objects = BTreeMap::from([(name("a"), active)]);
    let in_force = InForce::from([(name("a"), Some(prepared))]);
    assert_eq!(roster(&objects, &in_force, &own(), &nodes).peers, objects);
}

#[test]
fn closed_prefixes_stay_until_they_are_forgotten_or_claimed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("closed.json");
    let mut closed = ClosedPrefixes::load(&path).expect("none is empty");
    closed.keep(&name("a"), &[cidr("10.2.0.0/16"), cidr("100.65.0.0/24")]);
    closed.keep(&name("b"), &[cidr("10.3.0.0/16")]);
    std::fs::write(&path, closed.to_bytes()).expect("written");
    let mut closed = ClosedPrefixes::load(&path).expect("read");
    let shown = |closed: &ClosedPrefixes, claimed: &[IpNet]| {
        let closed = closed.beside(claimed);
        closed.iter().map(|(peer, prefixes)| format!("{peer} {prefixes:?}")).collect::<Vec<_>>()
    };
    assert_eq!(shown(&closed, &[]), ["a [10.2.0.0/16, 100.65.0.0/24]", "b [10.3.0.0/16]"]);
    let new = [cidr("10.2.0.0/15")];
    assert!(!closed.keeps(&name("new"), &new));
    closed.activate(&name("new"), &new);
    assert!(closed.keeps(&name("new"), &new));
    assert_eq!(shown(&closed, &new), ["a [100.65.0.0/24]"], "what it claims is its own");
    assert_eq!(closed.forget(&name("a"), &new), [cidr("100.65.0.0/24")]);
    assert_eq!(closed.forget(&name("a"), &new), []);
    assert_eq!(shown(&closed, &[]), ["new [10.2.0.0/15]"], "gone while nobody looked");
    std::fs::write(&path, "[").expect("written");
    ClosedPrefixes::load(&path).expect_err("what we cannot read we do not open");
}

#[test]
fn what_a_peers_earlier_terms_contained_stays_closed_until_it_is_forgotten() {
    let mut closed = ClosedPrefixes::default();
    let [earlier, later] = ["10.2.0.0/16", "10.9.0.0/16"].map(|text| [cidr(text)]);
    closed.activate(&name("a"), &earlier);
    closed.activate(&name("a"), &later);
    assert_eq!(closed.beside(&later), BTreeMap::from([(name("a"), earlier.to_vec())]));
    assert_eq!(closed.forget(&name("a"), &later), earlier);
    assert_eq!(closed.beside(&later), BTreeMap::new());
    assert!(closed.keeps(&name("a"), &later), "its present terms are kept");
}

#[tokio::test]
async fn an_object_in_somebody_elses_file_is_not_ours_to_remove() {
    let directory = tempfile::tempdir().expect("a directory");
    let home = Home::Directory(directory.path().to_owned());
    let peer = peer("a", 2, &["10.2.0.0/16"]);
    let stands_in = |file: &str| {
        let place = Place::File { file: file.to_owned(), line: Some(1) };
        PeerObject { peer: peer.clone(), place, version: None }
    };
    home.write(&peer, None).await.expect("written");
    let text = std::fs::read_to_string(directory.path().join("meshpeer-a.yaml")).expect("there");
    assert_eq!(serde_saphyr::from_str::<MeshPeer>(&text).expect("what we write we can read"), peer);
    let error = home.remove(&stands_in("peers.yaml")).await.expect_err("not ours");
    assert!(error.to_string().contains("stands in peers.yaml"), "{error}");
    home.remove(&stands_in("meshpeer-a.yaml")).await.expect("ours");
    assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0);
}
