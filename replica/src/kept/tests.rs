use super::*;
use crate::follower::{Event, Value};
use api::{
    bytes::{BootId, PublicKey},
    record::{Boot, Heartbeat, Lineage, Node, Synced, TunnelKey},
};
use proptest::prelude::*;

const BOOT: BootId = BootId([1; 16]);

#[test]
fn a_view_reads_back_as_it_was_and_is_not_complete() {
    let view = listed();
    let kept = decode(&bytes(&view), &owner()).expect("our own");
    assert_eq!((kept.at_ms, kept.revision, kept.skipped), (1_700_000_000_123, 6, 0));
    assert!(!kept.view.is_complete(), "only a list can say that nothing is missing");
    assert_eq!(kept.view.own(), view.own());
    let content = |view: &View| -> Vec<(Key, Record)> {
        let tables = view.tables();
        let keys = tables.keys().map(|(key, _)| key).filter(|key| is_kept(key));
        keys.map(|key| (key.clone(), tables.get(key).expect("held").0)).collect()
    };
    assert_eq!(content(&kept.view), content(&view));
    assert!(kept.view.cluster(view.own()).expect("east").heartbeat.is_none(), "that was then");
}

#[test]
fn a_list_replaces_what_was_kept_and_takes_away_only_what_the_store_vouches_for() {
    let mut view = decode(&bytes(&listed()), &owner()).expect("our own").view;
    assert_eq!(nodes(&view), "n1 n2");
    view.apply(Event::Init);
    view.apply(Event::InitApply(node("n2")));
    let boot = BootId([2; 16]);
    view.apply(Event::InitApply(lineage(boot)));
    view.apply(Event::InitDone { revision: 3 });
    assert!(view.is_complete());
    assert_eq!(nodes(&view), "n1 n2", "the store may still be filling");
    view.apply(Event::Apply(of("mesh/v1/east/synced/nodes", Synced { boot }.into())));
    assert_eq!(nodes(&view), "n2");
}

#[test]
fn another_clusters_or_nodes_view_is_named_and_not_used() {
    let bytes = bytes(&listed());
    let refusal = |owner: &Owner| decode(&bytes, owner).expect_err("foreign").to_string();
    let uuid = ClusterUuid([8; 16]);
    assert_eq!(
        refusal(&Owner { uuid, ..owner() }),
        "it is of the cluster 09090909-0909-0909-0909-090909090909, and this node's certificate is of \
         08080808-0808-0808-0808-080808080808"
    );
    let node = "n7".parse().expect("a name");
    assert_eq!(refusal(&Owner { node, ..owner() }), "it is of the node n1, and this is n7");
}

#[test]
fn a_layout_of_the_future_is_not_guessed_at() {
    let mut bytes = bytes(&listed());
    bytes[8] = 2;
    assert_eq!(decode(&bytes, &owner()).expect_err("another layout"), KeptError::Version(2));
}

#[test]
fn a_record_of_the_future_is_left_out_and_counted() {
    let mut bytes = bytes(&listed());
    bytes.truncate(bytes.len() - SUM_BYTES);
    for (key, value) in [("mesh/v1/east/starships/n1", &b"x"[..]), ("mesh/v1/east/nodes/n3", b"\xff")] {
        put(&mut bytes, key.as_bytes());
        put(&mut bytes, value);
        bytes.extend(7_u64.to_le_bytes());
    }
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum);
    let kept = decode(&bytes, &owner()).expect("our own");
    assert_eq!((kept.skipped, nodes(&kept.view).as_str()), (2, "n1 n2"));
}

proptest! {
    #[test]
    fn no_flipped_bit_and_no_cut_is_ever_taken(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let whole = bytes(&listed());
        let mut flipped = whole.clone();
        flipped[at.index(whole.len())] ^= 1 << bit;
        prop_assert!(decode(&flipped, &owner()).is_err());
        prop_assert!(decode(&whole[..at.index(whole.len())], &owner()).is_err());
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode(&bytes, &owner()).is_err());
    }
}

// ---- helpers ----

fn owner() -> Owner {
    Owner { uuid: ClusterUuid([9; 16]), node: "n1".parse().expect("a name") }
}

fn bytes(view: &View) -> Vec<u8> {
    encode(view, &owner(), 1_700_000_000_123).expect("small")
}

/// Two nodes, one of them with a key.
fn listed() -> View {
    let mut view = View::new("east".parse().expect("a name"));
    view.apply(Event::Init);
    for value in [node("n1"), node("n2"), lineage(BOOT)] {
        view.apply(Event::InitApply(value));
    }
    let key = TunnelKey {
        public_key: PublicKey([7; 32]),
        port: 51_871,
        clock_epoch: 0,
        relay_key: None,
        on_demand: false,
    };
    view.apply(Event::InitApply(of("mesh/v1/east/keys/n1", key.into())));
    let beat = Heartbeat { boot: BOOT, revision: 5, source_age_ms: 0 };
    view.apply(Event::InitApply(of("mesh/v1/east/heartbeat", beat.into())));
    view.apply(Event::InitDone { revision: 6 });
    view
}

fn node(name: &str) -> Value {
    let node = Node {
        mesh_addresses: vec![],
        prefixes: vec![],
        endpoints: vec![],
        zone: "z".to_owned(),
        relay: vec![],
    };
    of(&format!("mesh/v1/east/nodes/{name}"), node.into())
}

fn lineage(id: BootId) -> Value {
    of("mesh/v1/east/lineage", Lineage { boots: vec![Boot { id, first_revision: 1 }] }.into())
}

fn of(key: &str, record: Record) -> Value {
    Value { key: key.into(), value: record.encode(), mod_revision: 4 }
}

fn nodes(view: &View) -> String {
    let names = view.tables().clusters.values().flat_map(|cluster| cluster.nodes.keys());
    names.map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
