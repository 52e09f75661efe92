use super::*;
use api::{
    bytes::{IdentityId, Uid},
    key::LocalKey,
    record::{Applied, Backend, Boot, Endpoint, Heartbeat, Lineage, Node, Synced, TunnelKey},
};
use std::collections::BTreeMap;

const FIRST: BootId = BootId([1; 16]);
const SECOND: BootId = BootId([2; 16]);

#[test]
fn what_a_complete_list_lacks_is_gone_and_not_before() {
    let mut view = following(FIRST, &["east/nodes/n1", "east/nodes/n2"]);
    view.apply(Event::Init);
    view.apply(Event::InitApply(value("east/nodes/n2", 5)));
    assert_eq!(nodes(&view), "n1 n2", "the list is not complete");
    view.apply(Event::Init);
    list(&mut view, FIRST, &["nodes"], &["east/nodes/n2"]);
    assert_eq!(nodes(&view), "n2");
}

#[test]
fn a_store_that_is_filling_again_takes_nothing_away_until_it_is_synced() {
    let mut view = following(FIRST, &["east/nodes/n1", "east/nodes/n2", "west/nodes/w1", "peers/west"]);
    let Effect::Relisted(relisted) = list(&mut view, SECOND, &[], &["east/nodes/n2"]) else { panic!() };
    assert_eq!(relisted.unconfirmed, 3);
    assert_eq!(nodes(&view), "n1 n2 w1");

    apply(&mut view, "east/nodes/n3", 20);
    assert_eq!(synced(&mut view, "east", "nodes", FIRST), Effect::Changed, "an older boot's word");
    assert_eq!(nodes(&view), "n1 n2 n3 w1", "says nothing about this one");
    synced(&mut view, "east", "nodes", SECOND);
    assert_eq!(nodes(&view), "n2 n3 w1", "what was not confirmed goes; the peer's wait for their own import");
    synced(&mut view, "east", "peerings", SECOND);
    assert!(view.tables().local.peers.is_empty());
    synced(&mut view, "west", "nodes", SECOND);
    assert_eq!(nodes(&view), "n2 n3");
}

#[test]
fn records_of_a_cluster_that_is_no_peer_any_more_do_not_wait_for_its_word() {
    let mut view = following(FIRST, &["west/nodes/w1", "north/nodes/n1", "peers/west", "peers/north"]);
    list(&mut view, SECOND, &[], &["peers/north"]);
    assert_eq!(nodes(&view), "n1 w1");
    synced(&mut view, "east", "peerings", SECOND);
    assert_eq!(nodes(&view), "n1", "found by the simulation, seed 11");
}

#[test]
fn a_record_of_the_new_history_replaces_an_unconfirmed_one_whatever_their_revisions() {
    let mut view = following(FIRST, &["east/nodes/n1"]);
    apply(&mut view, "east/nodes/n1", 1_000);
    list(&mut view, SECOND, &[], &[]);
    assert_eq!(apply(&mut view, "east/nodes/n1", 7), Effect::Nothing, "the same record: nothing to see");
    assert_eq!(delete(&mut view, "east/nodes/n1", 8), Effect::Changed);
    assert_eq!(nodes(&view), "");
}

#[test]
fn a_nodes_key_outlives_a_lost_store_and_goes_with_its_node() {
    let mut view = following(FIRST, &["east/nodes/n1", "east/keys/n1", "east/nodes/n2", "east/keys/n2"]);
    list(&mut view, SECOND, &["nodes", "keys"], &["east/nodes/n1"]);
    let own = view.cluster(view.own()).expect("the own cluster");
    assert_eq!(own.keys.keys().map(ToString::to_string).collect::<Vec<_>>(), ["n1"]);
    delete(&mut view, "east/nodes/n1", 9);
    assert!(view.cluster(view.own()).expect("the own cluster").keys.is_empty());
}

#[test]
fn losing_most_backends_at_once_is_told() {
    let backends: Vec<String> = (1..=6).map(|n| format!("west/backends/shop/cart/10.2.0.{n}")).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    let mut view = following(FIRST, &backends);
    synced(&mut view, "west", "backends", FIRST);
    let Effect::Relisted(relisted) = list_of(&mut view, FIRST, "west", &["backends"], &backends[..3]) else {
        panic!()
    };
    assert_eq!(relisted.mass_removals, BTreeMap::new(), "half is not more than half");
    let Effect::Relisted(relisted) = list_of(&mut view, FIRST, "west", &["backends"], &[]) else { panic!() };
    assert_eq!(relisted.mass_removals, BTreeMap::new(), "three are a handful");
    for backend in &backends {
        apply(&mut view, backend, 10);
    }
    let Effect::Relisted(relisted) = list_of(&mut view, FIRST, "west", &["backends"], &backends[..2]) else {
        panic!()
    };
    assert_eq!(relisted.mass_removals, BTreeMap::from([("west".parse().expect("a name"), (6, 4))]));
}

#[test]
fn a_record_that_cannot_be_read_spoils_only_itself() {
    let mut view = following(FIRST, &["east/nodes/n1", "east/nodes/n2"]);
    let garbage = |key: &str| Value { key: key.into(), value: vec![0xff], mod_revision: 9 };
    assert_eq!(view.apply(Event::Apply(garbage("mesh/v1/east/nodes/n1"))), Effect::Nothing);
    assert_eq!(nodes(&view), "n1 n2", "what was known stays");
    assert_eq!((view.refused().count, view.refused().example.as_str()), (1, "mesh/v1/east/nodes/n1"));
    view.apply(Event::Apply(garbage("mesh/v1/east/starships/n1")));
    assert_eq!(view.refused().count, 1, "a kind of the future is not an error");

    view.apply(Event::Init);
    view.apply(Event::InitApply(garbage("mesh/v1/east/nodes/n1")));
    finish(&mut view, FIRST, "east", &["nodes"]);
    assert_eq!(nodes(&view), "n1", "in a list, too, a broken record is not a missing one");
}

#[test]
fn an_old_delete_is_not_about_a_newer_record() {
    let mut view = following(FIRST, &[]);
    apply(&mut view, "east/nodes/n1", 9);
    assert_eq!(delete(&mut view, "east/nodes/n1", 8), Effect::Nothing);
    assert_eq!(nodes(&view), "n1");
}

#[test]
fn a_heartbeat_moves_nobodys_revision() {
    let mut view = following(FIRST, &[]);
    apply(&mut view, "west/nodes/w1", 9);
    let heartbeat = Heartbeat { boot: FIRST, revision: 9, source_age_ms: 0 };
    view.apply(Event::Apply(of("mesh/v1/west/heartbeat", heartbeat.into(), 12)));
    view.apply(Event::Progress { revision: 12 });
    assert_eq!(view.cluster(&"west".parse().expect("a name")).expect("west").revision, 9);
    assert_eq!(view.revision(), 12);
}

#[test]
fn the_newest_claim_has_an_address_then_the_greater_uid() {
    for (blue, green, winner) in [
        ((1, 1), (2, 1), "green"),
        ((2, 1), (1, 9), "blue"),
        ((1, 1), (1, 2), "green"),
        ((1, 2), (1, 1), "blue"),
    ] {
        let mut view = following(FIRST, &[]);
        for (namespace, (created_s, uid)) in [("blue", blue), ("green", green)] {
            let endpoint = Endpoint { uid: Uid([uid; 16]), created_s, ..endpoint() };
            view.apply(Event::Apply(of(
                &format!("mesh/v1/east/endpoints/{namespace}/10.1.0.1"),
                endpoint.into(),
                3,
            )));
        }
        let own = view.cluster(view.own()).expect("the own cluster");
        let (owners, conflicts) = own.owners();
        let owner = owners[&"10.1.0.1".parse().expect("an address")].0;
        assert_eq!((owner.as_str(), conflicts.len()), (winner, 1), "{blue:?} {green:?}");
    }
}

// ---- helpers ----

/// A view that has listed these keys (after `mesh/v1/`, or `mesh-local/v1/`) from a store that is synced.
fn following(boot: BootId, keys: &[&str]) -> View {
    let mut view = View::new("east".parse().expect("a name"));
    list(&mut view, boot, &["nodes", "keys", "peerings", "services", "backends"], keys);
    view
}

fn list(view: &mut View, boot: BootId, synced: &[&str], keys: &[&str]) -> Effect {
    list_of(view, boot, "east", synced, keys)
}

fn list_of(view: &mut View, boot: BootId, cluster: &str, synced: &[&str], keys: &[&str]) -> Effect {
    view.apply(Event::Init);
    for key in keys {
        view.apply(Event::InitApply(value(key, 1)));
    }
    finish(view, boot, cluster, synced)
}

fn finish(view: &mut View, boot: BootId, cluster: &str, synced: &[&str]) -> Effect {
    let lineage = Lineage { boots: vec![Boot { id: boot, first_revision: 1 }] };
    view.apply(Event::InitApply(of("mesh/v1/east/lineage", lineage.into(), 1)));
    for kind in synced {
        let key = format!("mesh/v1/{cluster}/synced/{kind}");
        view.apply(Event::InitApply(of(&key, Synced { boot }.into(), 1)));
    }
    view.apply(Event::InitDone { revision: 6 })
}

fn synced(view: &mut View, cluster: &str, kind: &str, boot: BootId) -> Effect {
    view.apply(Event::Apply(of(&format!("mesh/v1/{cluster}/synced/{kind}"), Synced { boot }.into(), 30)))
}

fn apply(view: &mut View, key: &str, revision: u64) -> Effect {
    view.apply(Event::Apply(value(key, revision)))
}

fn delete(view: &mut View, key: &str, mod_revision: u64) -> Effect {
    view.apply(Event::Delete { key: format!("mesh/v1/{key}").into_bytes(), mod_revision })
}

fn nodes(view: &View) -> String {
    let names = view.tables().clusters.values().flat_map(|cluster| cluster.nodes.keys());
    names.map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn of(key: &str, record: Record, mod_revision: u64) -> Value {
    Value { key: key.into(), value: record.encode(), mod_revision }
}

/// Some record of the kind that the key says.
fn value(key: &str, revision: u64) -> Value {
    let full =
        if key.starts_with("peers/") { format!("mesh-local/v1/{key}") } else { format!("mesh/v1/{key}") };
    let record: Record = match Key::parse(full.as_bytes()).expect("a key") {
        Key::Mesh(_, MeshKey::Node(_)) => {
            let node = Node {
                mesh_addresses: vec![],
                prefixes: vec![],
                endpoints: vec![],
                zone: String::new(),
                relay: vec![],
            };
            node.into()
        }
        Key::Mesh(_, MeshKey::Key(_)) => TunnelKey {
            public_key: api::bytes::PublicKey([7; 32]),
            port: 51_871,
            clock_epoch: 0,
            relay_key: None,
            on_demand: false,
        }
        .into(),
        Key::Mesh(_, MeshKey::Backend(..)) => backend().into(),
        Key::Local(LocalKey::Peer(_)) => peer_state().into(),
        Key::Local(LocalKey::Applied(_)) => Applied::default().into(),
        other => panic!("no helper makes {other}"),
    };
    of(&full, record, revision)
}

fn peer_state() -> api::record::PeerState {
    api::record::PeerState {
        uuid: api::bytes::ClusterUuid([9; 16]),
        phase: api::record::Phase::Active,
        freshness: api::record::Freshness::Fresh,
        stale_policy: api::record::StalePolicy::Demote,
        drop_after_ms: 0,
        prefixes: vec![],
        nonce: None,
        dropped: false,
        through: None,
        relay: vec![],
    }
}

fn backend() -> Backend {
    Backend {
        uid: Uid([3; 16]),
        ports: vec![],
        ready: true,
        serving: true,
        terminating: false,
        weight: 1,
        zone: String::new(),
        node: None,
        hostname: String::new(),
        created_s: 1,
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        uid: Uid([0; 16]),
        identity: IdentityId([0; 16]),
        node: "n1".parse().expect("a name"),
        name: "cart-7f".parse().expect("a name"),
        ports: vec![],
        terminating: false,
        created_s: 0,
    }
}
