//! Random scripts, and every answer compared.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::{Bytes, Disk, commit};
use crate::model::Model;
use crate::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, Error, Event, LeaseGrant, Op, Polled,
    PutRequest, RangeRequest, SortOrder, SortTarget, Store, TxnRequest, WatchRequest, Watcher,
};

#[derive(Clone, Debug)]
enum Step {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Range(RangeRequest),
    Compact(i64),
    Commit,
    Watch(WatchRequest),
    Poll,
    Crash,
    Grant(LeaseGrant),
    Revoke(i64),
    KeepAlive(i64),
    Pass(Duration),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_as_its_model(script in vec(step(), 1..60)) {
        let mut pair = Pair::new();
        for step in script {
            pair.take(step);
        }
        pair.take(Step::Commit);
        pair.take(Step::Poll);
    }
}

struct Pair {
    store: Store,
    model: Model,
    disk: Disk,
    watches: Vec<Watch>,
    now: Instant,
}

struct Watch {
    request: WatchRequest,
    watcher: Watcher,
    /// The next revision to come, by the model.
    next: i64,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        Self { store: Store::default(), model: Model::new(), disk: Disk::default(), watches: Vec::new(), now }
    }

    fn take(&mut self, step: Step) {
        let Self { store, model, disk, watches, now } = self;
        match step {
            Step::Put(request) => assert_eq!(store.put(&request, *now), model.put(&request)),
            Step::Delete(request) => {
                assert_eq!(store.delete_range(&request, *now), model.delete_range(&request));
            }
            Step::Txn(request) => assert_eq!(store.txn(&request, *now), model.txn(&request)),
            Step::Range(request) => assert_eq!(store.range(&request), model.range(&request)),
            Step::Compact(revision) => assert_eq!(store.compact(revision), model.compact(revision)),
            Step::Commit => {
                commit(store, disk);
                model.commit();
            }
            Step::Watch(request) => {
                let next =
                    if request.start_revision > 0 { request.start_revision } else { model.durable + 1 };
                watches.push(Watch { watcher: store.watch(&request), request, next });
            }
            Step::Poll => watches.retain_mut(|watch| watch.poll(store, model)),
            Step::Crash => {
                *store = disk.restore(*now);
                model.crash(*now);
            }
            Step::Grant(request) => {
                assert_eq!(store.lease_grant(&request, *now), model.lease_grant(&request, *now));
            }
            Step::Revoke(id) => assert_eq!(store.lease_revoke(id, *now), model.lease_revoke(id)),
            Step::KeepAlive(id) => {
                assert_eq!(store.lease_keep_alive(id, *now), model.lease_keep_alive(id, *now));
            }
            Step::Pass(time) => {
                *now += time;
                assert_eq!(store.lease_expiry().is_some_and(|at| at <= *now), {
                    let expired = store.expire_leases(*now);
                    assert_eq!(expired, model.expire_leases(*now));
                    !expired.is_empty()
                });
            }
        }
        assert_eq!(store.revision(), model.durable);
        assert_eq!(store.applied(), model.applied);
        assert_eq!(store.compacted(), model.compacted);
        assert_eq!(store.leases(), model.leases());
        for id in 0..4 {
            assert_eq!(store.lease(id, *now), model.lease(id, *now));
        }
    }
}

impl Watch {
    /// Takes everything there is and compares it; whether the watch goes on.
    fn poll(&mut self, store: &Store, model: &Model) -> bool {
        let expected = model.events(&self.request, self.next);
        let mut got: Vec<Event> = Vec::new();
        let end = loop {
            match store.poll(&mut self.watcher) {
                Polled::Events(events) => got.extend(events),
                Polled::Behind => {}
                Polled::Synced => break Ok(()),
                Polled::Compacted { compact_revision } => break Err(Error::Compacted { compact_revision }),
            }
        };
        assert_eq!(end.map(|()| got), expected);
        if end.is_ok() {
            self.next = self.next.max(model.durable + 1);
            assert_eq!(self.watcher.delivered(), self.next - 1, "a watch that goes on knows how far it is");
        }
        end.is_ok()
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => put().prop_map(Step::Put),
        3 => delete().prop_map(Step::Delete),
        4 => txn().prop_map(Step::Txn),
        4 => range().prop_map(Step::Range),
        2 => revision().prop_map(Step::Compact),
        6 => Just(Step::Commit),
        2 => watch().prop_map(Step::Watch),
        3 => Just(Step::Poll),
        1 => Just(Step::Crash),
        2 => (lease(), -1..6_i64).prop_map(|(id, ttl_s)| Step::Grant(LeaseGrant { id, ttl_s, ..LeaseGrant::default() })),
        1 => lease().prop_map(Step::Revoke),
        1 => lease().prop_map(Step::KeepAlive),
        2 => (0..3_000_u64).prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
    ]
}

fn put() -> impl Strategy<Value = PutRequest> + Clone {
    let flags = (any::<bool>(), proptest::bool::weighted(0.2), proptest::bool::weighted(0.2));
    let lease = option::weighted(0.4, lease()).prop_map(Option::unwrap_or_default);
    (key(), value(), lease, flags).prop_map(|(key, value, lease, (prev_kv, ignore_value, ignore_lease))| {
        let value = if ignore_value { Bytes::new() } else { value };
        let lease = if ignore_lease { 0 } else { lease };
        PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease }
    })
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> + Clone {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let nested = txn_of(flat_op());
    txn_of(prop_oneof![4 => flat_op(), 1 => nested.prop_map(Op::Txn)])
}

fn txn_of(op: impl Strategy<Value = Op> + Clone) -> impl Strategy<Value = TxnRequest> + Clone {
    (vec(compare(), 0..2), vec(op.clone(), 0..4), vec(op, 0..4))
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

fn flat_op() -> impl Strategy<Value = Op> + Clone {
    prop_oneof![put().prop_map(Op::Put), delete().prop_map(Op::DeleteRange), range().prop_map(Op::Range)]
}

fn compare() -> impl Strategy<Value = Compare> + Clone {
    let result = prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::Greater),
        Just(CompareResult::Less),
        Just(CompareResult::NotEqual),
    ];
    let target = prop_oneof![
        (0..4_i64).prop_map(CompareTarget::Version),
        (0..20_i64).prop_map(CompareTarget::CreateRevision),
        (0..20_i64).prop_map(CompareTarget::ModRevision),
        value().prop_map(CompareTarget::Value),
        (0..4_i64).prop_map(CompareTarget::Lease),
    ];
    (key(), range_end(), result, target).prop_map(|(key, range_end, result, target)| Compare {
        key,
        range_end,
        result,
        target,
    })
}

fn range() -> impl Strategy<Value = RangeRequest> + Clone {
    let order = prop_oneof![Just(SortOrder::None), Just(SortOrder::Ascend), Just(SortOrder::Descend)];
    let target = prop_oneof![
        3 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Mod),
        1 => Just(SortTarget::Value),
    ];
    let rarely = || option::weighted(0.1, 1..20_i64).prop_map(|bound| bound.unwrap_or(0));
    let flags = (proptest::bool::weighted(0.2), proptest::bool::weighted(0.2));
    let bounds = (rarely(), rarely(), rarely(), rarely());
    ((key(), range_end()), (0..4_i64, option::of(revision())), (order, target), flags, bounds).prop_map(
        |(
            (key, range_end),
            (limit, revision),
            (sort_order, sort_target),
            (keys_only, count_only),
            bounds,
        )| {
            RangeRequest {
                key,
                range_end,
                limit,
                revision: revision.unwrap_or(0),
                sort_order,
                sort_target,
                keys_only,
                count_only,
                min_mod_revision: bounds.0,
                max_mod_revision: bounds.1,
                min_create_revision: bounds.2,
                max_create_revision: bounds.3,
            }
        },
    )
}

fn watch() -> impl Strategy<Value = WatchRequest> {
    let flags = (any::<bool>(), proptest::bool::weighted(0.2), proptest::bool::weighted(0.2));
    (option::weighted(0.9, key()), range_end(), option::of(revision()), flags).prop_map(
        |(key, range_end, start, (prev_kv, no_put, no_delete))| WatchRequest {
            key: key.unwrap_or_default(),
            range_end,
            start_revision: start.unwrap_or(0),
            prev_kv,
            no_put,
            no_delete,
            progress_notify: false,
        },
    )
}

/// Three leases, and the 0 that is none.
fn lease() -> impl Strategy<Value = i64> + Clone {
    0..4_i64
}

fn revision() -> impl Strategy<Value = i64> + Clone {
    0..30_i64
}

fn key() -> impl Strategy<Value = Bytes> + Clone {
    prop_oneof![Just("a"), Just("aa"), Just("ab"), Just("b"), Just("c")].prop_map(super::bytes)
}

fn range_end() -> impl Strategy<Value = Bytes> + Clone {
    prop_oneof![4 => Just(""), 2 => Just("b"), 1 => Just("ab"), 1 => Just("d"), 2 => Just("\0")]
        .prop_map(super::bytes)
}

fn value() -> impl Strategy<Value = Bytes> + Clone {
    prop_oneof![Just("x"), Just("y"), Just("z")].prop_map(super::bytes)
}
