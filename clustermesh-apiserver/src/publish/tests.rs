use super::*;
use api::key::{Key, MeshKey};
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};

fn key(text: &str) -> Key {
    Key::parse(text.as_bytes()).expect("a key")
}

fn identity(n: u8) -> Key {
    key(&format!("mesh/v1/east/identities/shop/{}", hex::encode([n; 16])))
}

fn apply(held: &mut BTreeMap<Key, Vec<u8>>, ops: Vec<Op>) {
    for op in ops {
        match op {
            Op::Put { key, value } => drop(held.insert(key, value)),
            Op::Delete { key } => drop(held.remove(&key)),
        }
    }
}

fn records() -> impl Strategy<Value = BTreeMap<Key, Vec<u8>>> {
    let key = prop_oneof![
        (0..20u8).prop_map(identity),
        (0..20u8).prop_map(|n| key(&format!("mesh/v1/east/endpoints/shop/10.1.0.{n}"))),
        (0..20u8).prop_map(|n| key(&format!("mesh-local/v1/services/shop/s{n}"))),
        (0..20u8).prop_map(|n| key(&format!("mesh/v1/east/backends/shop/cart/10.1.0.{n}"))),
    ];
    proptest::collection::btree_map(key, proptest::collection::vec(0..4u8, 0..3), 0..40)
}

proptest! {
    #[test]
    fn a_diff_makes_the_store_say_what_it_should_and_then_has_nothing_to_do(desired in records(), mut held in records()) {
        let ops: Vec<Op> = txns(diff(&desired, &held)).concat();
        apply(&mut held, ops);
        prop_assert_eq!(&desired, &held);
        prop_assert_eq!(diff(&desired, &held), vec![]);
    }

    #[test]
    fn an_endpoint_is_never_there_without_its_identity(desired in records(), held in records()) {
        let ops = diff(&desired, &held);
        let at = |wanted: &dyn Fn(&Op) -> bool| ops.iter().position(wanted);
        let last = |wanted: &dyn Fn(&Op) -> bool| ops.iter().rposition(wanted);
        let is_identity = |key: &Key| matches!(key, Key::Mesh(_, MeshKey::Identity(..)));
        let is_endpoint = |key: &Key| matches!(key, Key::Mesh(_, MeshKey::Endpoint(..)));
        let defined = last(&|op| matches!(op, Op::Put { key, .. } if is_identity(key)));
        let used = at(&|op| matches!(op, Op::Put { key, .. } if is_endpoint(key)));
        prop_assert!(defined.is_none() || used.is_none() || defined < used);
        let unused = last(&|op| matches!(op, Op::Delete { key } if is_endpoint(key)));
        let undefined = at(&|op| matches!(op, Op::Delete { key } if is_identity(key)));
        prop_assert!(unused.is_none() || undefined.is_none() || unused < undefined);
    }
}

#[test]
fn a_txn_is_never_larger_than_the_store_takes() {
    let put = |n: usize, bytes: usize| Op::Put {
        key: key(&format!("mesh-local/v1/services/shop/s{n}")),
        value: vec![0; bytes],
    };
    let many = txns((0..300).map(|n| put(n, 10)).collect());
    assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [127, 127, 46]);
    let large = txns((0..40).map(|n| put(n, 60_000)).collect());
    assert_eq!(large.iter().map(Vec::len).collect::<Vec<_>>(), [17, 17, 6]);
    assert_eq!(txns(vec![]), Vec::<Vec<Op>>::new());
}

#[test]
fn an_identity_goes_ten_minutes_after_its_last_use_and_not_when_it_is_used_again() {
    let held = BTreeMap::from([(identity(1), vec![1])]);
    let at = Duration::from_secs;
    let mut linger = Linger::default();
    let mut kept = |used: bool, now_s: u64| {
        let mut desired = if used { held.clone() } else { BTreeMap::new() };
        linger.keep(&mut desired, &held, at(now_s));
        (desired.contains_key(&identity(1)), linger.next().map(|t| t.as_secs()))
    };
    assert_eq!(kept(true, 0), (true, None));
    assert_eq!(kept(false, 10), (true, Some(610)));
    assert_eq!(kept(true, 300), (true, None));
    assert_eq!(kept(false, 400), (true, Some(1000)));
    assert_eq!(kept(false, 999), (true, Some(1000)));
    assert!(!kept(false, 1000).0);
}

#[test]
fn a_key_has_one_author() {
    let own = "east".parse().expect("a name");
    for (text, expected) in [
        ("mesh/v1/east/cluster", Author::Store),
        ("mesh/v1/east/synced/nodes", Author::Store),
        ("mesh/v1/east/nodes/n1", Author::Source),
        ("mesh/v1/east/keys/n1", Author::Node),
        ("mesh/v1/east/peerings/west", Author::Peers),
        ("mesh/v1/west/nodes/n1", Author::Peers),
        ("mesh-local/v1/services/shop/cart", Author::Source),
        ("mesh-local/v1/applied/n1", Author::Node),
        ("mesh-local/v1/peers/west", Author::Peers),
    ] {
        assert_eq!(author(&key(text), &own), expected, "{text}");
    }
}
