//! Leases as sentences; that they are right in any order, the model says.

use std::time::{Duration, Instant};

use super::{Bytes, Disk, bytes, commit, put, watch_all};
use crate::{
    Compare, CompareResult, CompareTarget, Error, EventKind, LEASE_TTL_MAX_S, LEASES_MAX,
    LEASES_PER_OWNER_MAX, LeaseGrant, Op, Polled, PutRequest, RowError, Store, TXN_OPS_MAX,
    TXN_OPS_NESTED_MAX, TxnRequest,
};

#[test]
fn a_lease_that_expires_takes_its_keys_in_one_revision() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    store.lease_grant(&grant(7, 10), now).expect("granted");
    for key in ["b", "a", "c"] {
        store.put(&on(7, key), now).expect("a put");
    }
    store.put(&put("c", "no longer on it"), now).expect("a put");
    store.put(&put("other", ""), now).expect("a put");
    commit(&mut store, &mut disk);
    let ten = now + Duration::from_secs(10);
    assert_eq!(store.lease_expiry(), Some(ten));
    assert_eq!(store.expire_leases(ten - Duration::from_millis(1)), []);
    assert_eq!(store.lease(7, now).expect("it lives").keys, [bytes("a"), bytes("b")]);

    let mut watcher = store.watch(&watch_all(0));
    let before = store.revision();
    assert_eq!(store.expire_leases(ten), [7]);
    commit(&mut store, &mut disk);
    let Polled::Events(events) = store.poll(&mut watcher) else { panic!("the keys go") };
    let gone: Vec<_> =
        events.iter().map(|event| (event.kind, &event.kv.key[..], event.kv.mod_revision)).collect();
    assert_eq!(gone, [(EventKind::Delete, &b"a"[..], before + 1), (EventKind::Delete, b"b", before + 1)]);
    assert_eq!((disk.leases.len(), store.lease_expiry()), (0, None));
}

#[test]
fn leases_are_listed_as_they_will_expire() {
    let (mut store, now) = (Store::default(), Instant::now());
    for (id, ttl_s) in [(1, 30), (2, 10), (3, 20)] {
        store.lease_grant(&grant(id, ttl_s), now).expect("granted");
    }
    assert_eq!(store.leases(), [2, 3, 1]);
    store.lease_keep_alive(2, now + Duration::from_secs(9)).expect("it lives");
    store.lease_keep_alive(3, now + Duration::from_secs(15)).expect("it lives");
    assert_eq!(store.leases(), [2, 1, 3]);
}

#[test]
fn a_restart_gives_a_lease_its_whole_time_again_and_keeps_its_keys_and_owner() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    store.lease_grant(&LeaseGrant { owner: bytes("w1"), ..grant(7, 10) }, now).expect("granted");
    store.put(&on(7, "a"), now).expect("a put");
    commit(&mut store, &mut disk);
    let later = now + Duration::from_secs(9);
    let mut store = disk.restore(later);
    let lease = store.lease(7, later).expect("it lives");
    assert_eq!((lease.remaining_s, lease.granted_s, &lease.owner[..]), (10, 10, &b"w1"[..]));
    assert_eq!(lease.keys, [bytes("a")]);
    assert_eq!(store.expire_leases(now + Duration::from_secs(10)), []);
}

#[test]
fn a_lease_that_is_kept_alive_lives_and_writes_nothing() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    store.lease_grant(&grant(7, 10), now).expect("granted");
    commit(&mut store, &mut disk);
    let later = now + Duration::from_secs(9);
    assert_eq!(store.lease_keep_alive(7, later), Ok(10));
    assert!(store.take_batch().is_empty());
    assert_eq!(store.expire_leases(later + Duration::from_secs(9)), []);
    assert_eq!(store.lease_keep_alive(8, now), Err(Error::LeaseNotFound));
}

#[test]
fn leases_have_etcds_bounds_of_time_and_ours_of_number() {
    let (mut store, now) = (Store::default(), Instant::now());
    assert_eq!(store.lease_grant(&grant(1, 0), now), Ok(2));
    assert_eq!(store.lease_grant(&grant(2, LEASE_TTL_MAX_S), now), Ok(LEASE_TTL_MAX_S));
    assert_eq!(store.lease_grant(&grant(3, LEASE_TTL_MAX_S + 1), now), Err(Error::LeaseTtlTooLarge));
    assert_eq!(store.lease_grant(&grant(1, 10), now), Err(Error::LeaseExists));
    assert_eq!(store.lease_grant(&grant(0, 10), now), Err(Error::LeaseNotFound));
    for id in 3..=LEASES_PER_OWNER_MAX as i64 {
        store.lease_grant(&grant(id, 10), now).expect("granted");
    }
    assert_eq!(store.lease_grant(&grant(99_999, 10), now), Err(Error::TooManyRequests));
    store.lease_revoke(1, now).expect("revoked");
    store.lease_grant(&grant(99_999, 10), now).expect("one that ended makes room");
    for id in 0..(LEASES_MAX - LEASES_PER_OWNER_MAX) as i64 {
        let owner = Bytes::from(format!("owner {}", id % 100));
        store.lease_grant(&LeaseGrant { owner, ..grant(100_000 + id, 10) }, now).expect("granted");
    }
    let another = LeaseGrant { owner: bytes("another"), ..grant(5_000, 10) };
    assert_eq!(store.lease_grant(&another, now), Err(Error::TooManyRequests));
}

#[test]
fn a_disk_that_lost_a_lease_is_refused() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    store.lease_grant(&grant(7, 10), now).expect("granted");
    store.put(&on(7, "a"), now).expect("a put");
    commit(&mut store, &mut disk);
    let restore = |leases: Vec<(i64, Bytes)>| Store::restore(0, disk.rows.clone(), leases, now);
    assert!(matches!(restore(vec![]), Err(RowError::Contradiction { .. })));
    let whole = disk.leases[&7].clone();
    assert_eq!(&whole[..], b"\x01\0\0\0\0\0\0\0\x0a", "its layout is a promise to old stores");
    for len in 0..whole.len() {
        let refused = restore(vec![(7, whole.slice(..len))]);
        assert!(matches!(refused, Err(RowError::Lease { id: 7, .. })), "{len} bytes");
    }
}

#[test]
fn a_nested_txn_compares_what_was_before_all_of_it() {
    let (mut store, now) = (Store::default(), Instant::now());
    let absent = |key| Compare {
        key: bytes(key),
        range_end: Bytes::new(),
        result: CompareResult::Equal,
        target: CompareTarget::Version(0),
    };
    let nested = TxnRequest {
        compare: vec![absent("a")],
        success: vec![Op::Put(put("b", "a was absent"))],
        failure: vec![Op::Put(put("b", "a was there"))],
    };
    let request =
        TxnRequest { success: vec![Op::Put(put("a", "")), Op::Txn(nested)], ..TxnRequest::default() };
    let first = store.txn(&request, now).expect("a txn");
    assert_eq!(first.revision, 2);
    let succeeded = |answer: &crate::TxnResponse| match &answer.responses[1] {
        crate::OpResponse::Txn(nested) => nested.succeeded,
        other => panic!("{other:?}"),
    };
    assert!(succeeded(&first), "its own put of a came after the compare");
    assert!(!succeeded(&store.txn(&request, now).expect("a txn")));
}

#[test]
fn a_key_is_written_once_whichever_branches_run() {
    let (mut store, now) = (Store::default(), Instant::now());
    let nested = |success, failure| Op::Txn(TxnRequest { compare: vec![], success, failure });
    let put = |key| Op::Put(put(key, ""));
    let delete = |key, end| {
        Op::DeleteRange(crate::DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv: false })
    };
    for (ops, allowed) in [
        (vec![nested(vec![put("a")], vec![put("a")])], true),
        (vec![nested(vec![put("a")], vec![delete("a", "")])], true),
        (vec![nested(vec![delete("a", "c")], vec![]), delete("b", "")], true),
        (vec![nested(vec![put("a")], vec![]), put("a")], false),
        (vec![nested(vec![], vec![put("a")]), put("a")], false),
        (vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])], false),
        (vec![nested(vec![put("a")], vec![]), delete("a", "")], false),
        (vec![nested(vec![delete("a", "b")], vec![]), put("a")], false),
        (vec![nested(vec![put("b")], vec![]), nested(vec![delete("a", "\0")], vec![])], false),
        (vec![nested(vec![nested(vec![put("a")], vec![])], vec![]), put("a")], false),
    ] {
        let request = TxnRequest { success: ops, ..TxnRequest::default() };
        let answer = store.txn(&request, now).map(drop);
        let expected = if allowed { Ok(()) } else { Err(Error::DuplicateKey) };
        assert_eq!(answer, expected, "{request:?}");
    }
}

#[test]
fn nesting_is_bounded_in_depth_and_in_all() {
    let (mut store, now) = (Store::default(), Instant::now());
    let read = || Op::Range(crate::RangeRequest { key: bytes("a"), ..Default::default() });
    let of = |success| TxnRequest { success, ..TxnRequest::default() };
    let mut deep = of(vec![]);
    for _ in 0..TXN_OPS_MAX {
        deep = of(vec![Op::Txn(deep)]);
    }
    store.txn(&deep, now).expect("as deep as it may be");
    let deeper = of(vec![Op::Txn(deep)]);
    assert_eq!(store.txn(&deeper, now), Err(Error::TooManyOps));
    let wide = |n: usize| {
        of((0..TXN_OPS_NESTED_MAX / n).map(|_| Op::Txn(of((1..n).map(|_| read()).collect()))).collect())
    };
    store.txn(&wide(8), now).expect("as many as there may be");
    assert_eq!(store.txn(&of(vec![Op::Txn(wide(8))]), now), Err(Error::TooManyOps));
}

fn grant(id: i64, ttl_s: i64) -> LeaseGrant {
    LeaseGrant { id, ttl_s, owner: Bytes::new() }
}

fn on(lease: i64, key: &str) -> PutRequest {
    PutRequest { lease, ..put(key, "") }
}
