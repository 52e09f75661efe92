//! A dump is the store again, or it is refused.

use std::time::Instant;

use super::{Bytes, Disk, bytes, commit, put, watch_all};
use crate::{DeleteRangeRequest, Dump, DumpError, LeaseGrant, Polled, PutRequest, RangeRequest, Store};

const ORIGIN: [u8; 16] = [7; 16];

#[test]
fn a_dump_makes_the_same_store_again_with_its_history_and_leases() {
    let now = Instant::now();
    let (store, _) = a_store(now);
    let file = written(&store.dump(ORIGIN));
    assert_eq!(file.len() % 512, 32, "as etcdctl knows that a snapshot came whole");
    let dump = Dump::read(&file).expect("what we wrote");
    assert_eq!((dump.origin, dump.compacted, dump.revision), (ORIGIN, 20, store.revision()));

    let mut disk = Disk::default();
    dump.batches().for_each(|batch| disk.write(&batch));
    let again = disk.restore(now);
    let all = |revision| RangeRequest {
        key: bytes("\0"),
        range_end: bytes("\0"),
        revision,
        ..RangeRequest::default()
    };
    for revision in 20..=store.revision() {
        assert_eq!(again.range(&all(revision)), store.range(&all(revision)), "as of {revision}");
    }
    let events = |store: &Store| match store.poll(&mut store.watch(&watch_all(21))) {
        Polled::Events(events) => events,
        other => panic!("{other:?}"),
    };
    assert_eq!(events(&again), events(&store));
    assert_eq!(again.lease(7, now), store.lease(7, now));
    assert_eq!(again.dump(ORIGIN), dump);
}

#[test]
fn an_empty_store_has_a_dump_too() {
    let file = written(&Store::default().dump(ORIGIN));
    assert_eq!(Dump::read(&file).expect("what we wrote").rows(), 0);
}

#[test]
fn a_dump_that_lost_bytes_or_has_others_is_refused_whatever_they_are() {
    let (store, _) = a_store(Instant::now());
    let file = written(&store.dump(ORIGIN));
    for len in 0..file.len() {
        let error = Dump::read(&file.slice(..len)).expect_err("cut off");
        assert!(
            matches!(error, DumpError::Truncated { .. } | DumpError::NotOurs | DumpError::Checksum),
            "{error}"
        );
    }
    for at in 0..file.len() {
        let mut flipped = file.to_vec();
        flipped[at] ^= 1 << (at % 8);
        let error = Dump::read(&Bytes::from(flipped)).expect_err("a bit flipped");
        assert!(matches!(error, DumpError::Checksum | DumpError::NotOurs), "{at}: {error}");
    }
    assert_eq!(Dump::read(&Bytes::from_static(b"\0\0etcd's own")), Err(DumpError::NotOurs));
}

/// Changes, deletes, a compaction in the middle, and a key on a lease.
fn a_store(now: Instant) -> (Store, Disk) {
    let (mut store, mut disk) = (Store::default(), Disk::default());
    store.lease_grant(&LeaseGrant { id: 7, ttl_s: 60, owner: bytes("kim") }, now).expect("granted");
    for n in 0..30 {
        store.put(&put(&format!("k/{}", n % 10), &format!("v{n}")), now).expect("a put");
        if n % 7 == 6 {
            let delete = DeleteRangeRequest { key: bytes(&format!("k/{}", n % 10)), ..Default::default() };
            store.delete_range(&delete, now).expect("a delete");
        }
        commit(&mut store, &mut disk);
    }
    store.put(&PutRequest { lease: 7, ..put("presence", "here") }, now).expect("a put");
    store.compact(20).expect("a compaction");
    commit(&mut store, &mut disk);
    (store, disk)
}

fn written(dump: &Dump) -> Bytes {
    let mut out = Vec::new();
    dump.write(&mut out).expect("a vector takes everything");
    assert_eq!(out.len() as u64, dump.size());
    Bytes::from(out)
}
