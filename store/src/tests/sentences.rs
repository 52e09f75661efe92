//! What the model cannot say: bounds, texts, age, durability, rows.

use std::time::{Duration, Instant};

use expect_test::expect;

use super::{Disk, bytes, commit, put, watch_all};
use crate::row::{Row, State};
use crate::{
    Boot, Code, DeleteRangeRequest, Error, HISTORY_AGE_MAX, KeyRange, Lineage, Op, Polled, PutRequest,
    RECORD_BYTES_MAX, RangeRequest, RowError, RowId, SortOrder, SortTarget, Store, TXN_OPS_MAX, TxnRequest,
};

#[test]
fn what_is_not_durable_is_not_seen() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    let mut watcher = store.watch(&watch_all(0));
    store.put(&put("a", "x"), now).expect("a put");
    let read = RangeRequest { key: bytes("a"), ..RangeRequest::default() };
    assert_eq!(store.range(&read).expect("a read").count, 0);
    assert_eq!(store.poll(&mut watcher), Polled::Synced);
    assert_eq!(store.range(&RangeRequest { revision: 2, ..read.clone() }), Err(Error::FutureRevision));

    commit(&mut store, &mut disk);
    assert_eq!(store.range(&read).expect("a read").count, 1);
    assert!(matches!(store.poll(&mut watcher), Polled::Events(events) if events.len() == 1));
}

#[test]
fn a_write_made_while_a_batch_is_under_way_waits_for_the_next() {
    let (mut store, now) = (Store::default(), Instant::now());
    store.put(&put("a", "x"), now).expect("a put");
    let first = store.take_batch();
    store.put(&put("b", "x"), now).expect("a put");
    store.commit(&first);
    assert_eq!((store.revision(), store.applied()), (2, 3));
    let second = store.take_batch();
    assert_eq!(second.puts.len(), 1);
    store.commit(&second);
    assert_eq!(store.revision(), 3);
}

#[test]
fn a_revision_is_delivered_whole_however_large() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    for n in 0..5_000 {
        store.put(&put(&format!("key/{n}"), "x"), now).expect("a put");
    }
    let everything = DeleteRangeRequest { key: bytes("key/"), range_end: bytes("key0"), prev_kv: false };
    let deleted = store.delete_range(&everything, now).expect("a delete");
    commit(&mut store, &mut disk);
    let mut watcher = store.watch(&watch_all(deleted.revision));
    let Polled::Events(events) = store.poll(&mut watcher) else { panic!("the delete has events") };
    assert_eq!(events.len(), 5_000);
    assert!(events.iter().all(|event| event.kv.mod_revision == deleted.revision));
}

#[test]
fn a_slow_watcher_loses_nothing_and_is_told_when_history_is_gone() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    let mut slow = store.watch(&watch_all(0));
    let mut slower = slow.clone();
    for n in 0..2_500 {
        store.put(&put("a", &n.to_string()), now).expect("a put");
        commit(&mut store, &mut disk);
    }
    let mut got = Vec::new();
    while let Polled::Events(events) = store.poll(&mut slow) {
        got.extend(events.into_iter().map(|event| event.kv.mod_revision));
    }
    assert_eq!(got, (2..=2_501).collect::<Vec<_>>());

    store.compact(2_000).expect("a compaction");
    commit(&mut store, &mut disk);
    assert_eq!(store.poll(&mut slower), Polled::Compacted { compact_revision: 2_000 });
}

#[test]
fn a_watcher_far_behind_with_nothing_to_see_lets_go_of_the_store() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    for n in 0..25_000 {
        store.put(&put("noise", &n.to_string()), now).expect("a put");
    }
    commit(&mut store, &mut disk);
    let request =
        crate::WatchRequest { key: bytes("quiet"), start_revision: 2, ..crate::WatchRequest::default() };
    let mut watcher = store.watch(&request);
    let mut polls = 0;
    while store.poll(&mut watcher) == Polled::Behind {
        polls += 1;
    }
    assert_eq!((polls, watcher.delivered()), (2, 25_001));
}

#[test]
fn history_is_bounded_by_age() {
    let (mut store, mut disk, start) = (Store::default(), Disk::default(), Instant::now());
    store.put(&put("a", "old"), start).expect("a put");
    store.put(&put("a", "older than an hour, too"), start).expect("a put");
    let later = start + HISTORY_AGE_MAX + Duration::from_secs(1);
    store.put(&put("a", "new"), later).expect("a put");
    assert_eq!(store.compaction_due(later), None, "nothing of it is durable");
    commit(&mut store, &mut disk);
    assert_eq!(store.compaction_due(start), None);
    assert_eq!(store.compaction_due(later), Some(3));
    store.compact(3).expect("a compaction");
    assert_eq!(store.compaction_due(later), None);
    commit(&mut store, &mut disk);
    assert_eq!(store.compaction_due(later), None);
}

#[test]
fn history_is_bounded_by_size() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    let value = bytes(&"x".repeat(RECORD_BYTES_MAX - 1));
    let request = PutRequest { key: bytes("a"), value, ..PutRequest::default() };
    for _ in 0..5_000 {
        store.put(&request, now).expect("a put");
        store.take_batch();
    }
    commit(&mut store, &mut disk);
    let due = store.compaction_due(now).expect("5,000 records of 64 KiB are more than 256 MiB");
    store.compact(due).expect("a compaction");
    commit(&mut store, &mut disk);
    let left = store.sizes().history_bytes;
    assert!((200 << 20..256 << 20).contains(&left), "{left} bytes are left");
    assert_eq!(store.compaction_due(now), None);
}

#[test]
fn what_compaction_leaves_on_disk_goes_in_pieces_and_a_restart_in_between_does_no_harm() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    for n in 0..1_200 {
        store.put(&put("a", &n.to_string()), now).expect("a put");
    }
    commit(&mut store, &mut disk);
    store.compact(1_201).expect("a compaction");
    commit(&mut store, &mut disk);
    assert_eq!(disk.rows.len(), 1_200, "the rows go after the compaction is durable");
    commit(&mut store, &mut disk);
    assert_eq!(disk.rows.len(), 1_200 - 512);
    let mut store = disk.restore(now);
    commit(&mut store, &mut disk);
    commit(&mut store, &mut disk);
    assert_eq!(disk.rows.len(), 1);
    assert_eq!(disk.restore(now).revision(), 1_201);
}

#[test]
fn refusals_speak_as_etcd_does() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    for _ in 0..3 {
        store.put(&put("a", "x"), now).expect("a put");
    }
    store.compact(3).expect("a compaction");
    commit(&mut store, &mut disk);
    let read = |revision| RangeRequest { key: bytes("a"), revision, ..RangeRequest::default() };
    let twice = vec![Op::Put(put("a", "x")), Op::Put(put("a", "y"))];
    let many = vec![Op::Range(read(0)); TXN_OPS_MAX + 1];
    let large = PutRequest { value: bytes(&"x".repeat(RECORD_BYTES_MAX)), ..put("a", "") };
    let txn = |success| TxnRequest { success, ..TxnRequest::default() };
    let refused = [
        store.range(&RangeRequest::default()).expect_err("no key"),
        store.range(&read(2)).expect_err("compacted"),
        store.range(&read(5)).expect_err("future"),
        store.txn(&txn(twice), now).expect_err("twice"),
        store.txn(&txn(many), now).expect_err("many"),
        store.put(&large, now).expect_err("large"),
        store.put(&PutRequest { lease: 7, ..put("a", "x") }, now).expect_err("no such lease"),
        store.put(&PutRequest { ignore_value: true, ..put("b", "") }, now).expect_err("nothing to keep"),
        store.compact(3).expect_err("compacted"),
        store.compact(5).expect_err("future"),
    ];
    let lines: String = refused.map(|error| format!("{:?}: {error}\n", error.code())).concat();
    expect![[r#"
        InvalidArgument: etcdserver: key is not provided
        OutOfRange: etcdserver: mvcc: required revision has been compacted
        OutOfRange: etcdserver: mvcc: required revision is a future revision
        InvalidArgument: etcdserver: duplicate key given in txn request
        InvalidArgument: etcdserver: too many operations in txn request
        InvalidArgument: etcdserver: request is too large
        NotFound: etcdserver: requested lease not found
        InvalidArgument: etcdserver: key not found
        OutOfRange: etcdserver: mvcc: required revision has been compacted
        OutOfRange: etcdserver: mvcc: required revision is a future revision
    "#]]
    .assert_eq(&lines);
    assert_eq!(Error::NoSpace.code(), Code::ResourceExhausted);
    assert_eq!(store.applied(), 4, "what is refused changes nothing");
}

#[test]
fn a_limit_without_an_order_cuts_before_the_sort_and_with_one_after_it() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    for (key, value) in [("a", "1"), ("b", "3"), ("c", "4"), ("d", "2")] {
        store.put(&put(key, value), now).expect("a put");
    }
    commit(&mut store, &mut disk);
    let all = KeyRange::prefix("");
    let by_value = RangeRequest {
        key: all.key().clone(),
        range_end: all.range_end(),
        limit: 2,
        sort_target: SortTarget::Value,
        ..RangeRequest::default()
    };
    let values = |request: &RangeRequest| {
        let answer = store.range(request).expect("a read");
        assert_eq!((answer.count, answer.more), (4, true));
        answer.kvs.into_iter().map(|kv| kv.value).collect::<Vec<_>>()
    };
    assert_eq!(values(&by_value), [bytes("1"), bytes("3")], "of a, b and c");
    assert_eq!(values(&RangeRequest { min_mod_revision: 1, ..by_value.clone() }), [bytes("1"), bytes("2")]);
    let ascending = RangeRequest { sort_order: SortOrder::Ascend, ..by_value };
    assert_eq!(values(&ascending), [bytes("1"), bytes("2")]);
    let never = RangeRequest { max_mod_revision: -1, limit: 0, ..ascending };
    assert_eq!(store.range(&never).expect("a read").kvs, [], "a bound below 0 is one");
}

#[test]
fn what_begins_below_everything_was_compacted_but_to_a_plain_read() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    store.put(&put("a", "1"), now).expect("a put");
    store.compact(0).expect("nothing is compacted, once");
    assert_eq!(store.compact(0), Err(Error::Compacted { compact_revision: 0 }));
    commit(&mut store, &mut disk);
    let read = RangeRequest { key: bytes("a"), revision: -1, ..RangeRequest::default() };
    assert_eq!(store.range(&read).expect("now").count, 1);
    let txn = TxnRequest { success: vec![Op::Range(read)], ..TxnRequest::default() };
    assert_eq!(store.txn(&txn, now), Err(Error::Compacted { compact_revision: 0 }));
    for start in [-1, i64::MIN] {
        let mut watcher = store.watch(&watch_all(start));
        assert_eq!(store.poll(&mut watcher), Polled::Compacted { compact_revision: 0 });
    }
}

#[test]
fn a_range_knows_whether_it_stays_within_a_prefix() {
    let range = |key: &str, end: &str| KeyRange::parse(&bytes(key), &bytes(end)).expect("a range");
    for (key, end, within) in [
        ("p/a", "", true),
        ("p/", "p0", true),
        ("p/a", "p/b", true),
        ("p", "", false),
        ("p/", "p1", false),
        ("p/a", "\0", false),
        ("a", "p/b", false),
        ("q", "", false),
    ] {
        assert_eq!(range(key, end).is_within(b"p/"), within, "{key:?}..{end:?}");
    }
    assert!(range("x", "\0").is_within(b""));
    assert_eq!(KeyRange::prefix("p/"), range("p/", "p0"));
    assert_eq!(KeyRange::prefix(""), range("\0", "\0"));
}

#[test]
fn rows_keep_their_layout() {
    let id = RowId { revision: 5, sub: 0 };
    let state = State::Live { create_revision: 3, version: 2, lease: 0, value: bytes("v") };
    let live = Row { key: bytes("key"), state };
    let gone = Row { key: bytes("key"), state: State::Gone };
    expect![[r#"b"\x01\x01\0\0\0\x03key\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0v""#]]
        .assert_eq(&format!("{:?}", live.encode()));
    expect![[r#"b"\x01\x02\0\0\0\x03key""#]].assert_eq(&format!("{:?}", gone.encode()));
    for row in [live, gone] {
        assert_eq!(Row::decode(id, row.encode()), Ok(row));
    }
}

#[test]
fn bytes_that_are_no_row_are_refused() {
    let id = RowId { revision: 5, sub: 0 };
    let state = State::Live { create_revision: 3, version: 2, lease: 0, value: bytes("") };
    let whole = Row { key: bytes("key"), state }.encode();
    for len in 0..whole.len() {
        assert_eq!(Row::decode(id, whole.slice(..len)), Err(RowError::Truncated { id, len }));
    }
    let unknown = Row::decode(id, bytes("\u{1}\u{9}\0\0\0\u{1}k"));
    assert_eq!(unknown, Err(RowError::Unknown { id, what: "kind", byte: 9 }));
    let rows = vec![(id, whole.clone()), (RowId { revision: 5, sub: 1 }, whole)];
    assert!(matches!(Store::restore(0, rows, [], Instant::now()), Err(RowError::Contradiction { .. })));
    assert!(matches!(Store::restore(9, [], [], Instant::now()), Err(RowError::Contradiction { .. })));
}

#[test]
fn a_store_with_a_hole_in_its_history_is_refused() {
    let (mut store, mut disk, now) = (Store::default(), Disk::default(), Instant::now());
    for n in 0..10 {
        store.put(&put("a", &n.to_string()), now).expect("a put");
    }
    store
        .txn(
            &TxnRequest { success: vec![Op::Put(put("b", "")), Op::Put(put("c", ""))], ..Default::default() },
            now,
        )
        .expect("a txn");
    store.put(&put("d", ""), now).expect("a put");
    commit(&mut store, &mut disk);
    store.compact(5).expect("a compaction");
    commit(&mut store, &mut disk);
    commit(&mut store, &mut disk);
    for id in disk.rows.keys().filter(|id| id.revision > 5 && id.revision < 13) {
        let mut damaged = disk.clone();
        damaged.rows.remove(id);
        let restored = Store::restore(damaged.compacted, damaged.rows, [], now);
        let seen = matches!(restored, Err(RowError::Contradiction { .. }));
        let last_of_its_revision = *id == RowId { revision: 12, sub: 1 };
        assert!(seen || last_of_its_revision, "{id:?} is missing");
    }
    assert_eq!(disk.restore(now).revision(), 13);
}

#[test]
fn a_follower_resumes_only_in_the_range_of_a_listed_boot() {
    let mut lineage = Lineage::default();
    let (first, second, restored, unknown) = ([1; 16], [2; 16], [3; 16], [4; 16]);
    lineage.begin(first, 1);
    lineage.begin(second, 100);
    assert!(lineage.admits(&first, 1, 150), "whoever listed before the first write is where the boot began");
    assert!(lineage.admits(&first, 100, 150));
    assert!(!lineage.admits(&first, 101, 150), "101 was written by the second boot");
    assert!(lineage.admits(&second, 150, 150));
    assert!(!lineage.admits(&second, 151, 150), "nobody is ahead of the head");
    assert!(!lineage.admits(&unknown, 1, 150));

    // The store comes back from a copy taken at 50, and grows beyond what was lost.
    lineage.begin(restored, 50);
    assert!(lineage.admits(&first, 50, 200));
    assert!(!lineage.admits(&first, 80, 200), "51 to 100 is another history now");
    assert!(!lineage.admits(&second, 120, 200));
    assert!(lineage.admits(&restored, 60, 200));
}

#[test]
fn a_lineage_of_impossible_revisions_admits_nobody_above_the_head() {
    let (below, above) = ([1; 16], [2; 16]);
    let boot = |id, first_revision| Boot { id, first_revision };
    let lineage = Lineage::new(vec![boot(below, i64::MIN), boot(above, i64::MAX)]);
    assert!(lineage.admits(&below, i64::MIN, 150));
    assert!(!lineage.admits(&below, 151, 150));
    assert!(!lineage.admits(&above, i64::MAX, 150));
}
