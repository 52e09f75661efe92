//! Many clients at once, and histories that cannot be.

use bytes::Bytes;
use conformance::{
    check::{Wrong, check},
    clients::{Bookmarks, Plan, record},
    history::{Call, History, Leg, Operation, Watched},
    model::Model,
    server::Server,
};
use expect_test::expect;
use rpc::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
        WatchResponse, compare::TargetUnion, request_op::Request,
    },
    mvccpb::Event,
};
use std::time::Duration;

const PLAN: Plan = Plan { clients: 6, operations: 250, seed: 0x5eed, bookmarks: Bookmarks::OnRequest };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_clients_saw_of_ours_is_what_one_after_the_other_would_have_seen() {
    let ours = Server::ours().await.expect("ours");
    let history = record(&ours, PLAN).await.expect("a run");
    holds(&history);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_clients_saw_of_etcd_is_judged_alike() {
    let etcd = Server::etcd().await.expect("etcd");
    let history = record(&etcd, Plan { bookmarks: Bookmarks::ByThemselves, ..PLAN }).await.expect("a run");
    holds(&history);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd that is built with Go: ci/etcd.sh 3.6.16"]
async fn a_later_etcd_keeps_its_promises_on_request_too() {
    let etcd = Server::etcd_of("3.6.16").await.expect("etcd");
    holds(&record(&etcd, PLAN).await.expect("a run"));
}

#[test]
fn a_history_that_cannot_be_is_found_out() {
    holds(&good());
    let mut found = String::new();
    let mut plant = |what: &str, plant: fn(&mut History)| {
        let mut bad = good();
        plant(&mut bad);
        let wrong = match check(&bad).expect_err(what) {
            Wrong::Answer { .. } => "no order has this answer".to_owned(),
            Wrong::Stale { .. } => "no order has it at this time".to_owned(),
            Wrong::Watch { broken, .. } => format!("not {:?}", broken.promise),
        };
        found.push_str(&format!("{what}: {wrong}\n"));
    };
    plant("a read that misses what was answered before it", |h| {
        let (early, late) = (h.operations[1].call.clone(), h.operations.len() - 1);
        h.operations[late].call = early;
    });
    plant("a read of what nobody wrote", |h| {
        let Call::Range(_, answer) = &mut h.operations[1].call else { unreachable!("it reads") };
        answer.kvs[0].value = "planted".into();
    });
    plant("two writes of one revision", |h| {
        let Call::Put(_, answer) = &mut h.operations[2].call else { unreachable!("it puts") };
        answer.header = Some(ResponseHeader { revision: 2, ..Default::default() });
    });
    plant("a write that was forgotten", |h| drop(h.operations.remove(2)));
    plant("a txn that runs against its condition", |h| {
        let Call::Txn(request, _) = &mut h.operations[3].call else { unreachable!("it is a txn") };
        request.compare[0].target_union = Some(TargetUnion::Version(7));
    });
    plant("a delete that counts wrong", |h| {
        let Call::Delete(_, answer) = &mut h.operations[4].call else { unreachable!("it deletes") };
        answer.deleted = 1;
    });
    plant("a watch that begins late", |h| drop(messages(h).remove(0)));
    plant("a watch that misses a change", |h| drop(messages(h).remove(1)));
    plant("a watch that shows another value", |h| {
        messages(h)[1].events[0].kv.as_mut().expect("a change").value = "planted".into();
    });
    plant("a watch that shows something else as it was before", |h| messages(h)[3].events[0].prev_kv = None);
    plant("a change that comes twice", |h| {
        let again = messages(h)[0].clone();
        messages(h).insert(1, again);
    });
    plant("two revisions that change places", |h| messages(h).swap(0, 1));
    plant("a header that is before its changes", |h| {
        messages(h)[2].header = Some(ResponseHeader { revision: 1, ..Default::default() });
    });
    plant("a revision in two messages", |h| {
        let mut second = messages(h)[2].clone();
        second.events.remove(0);
        messages(h)[2].events.truncate(1);
        messages(h).insert(3, second);
    });
    plant("half a revision at the end", |h| drop(messages(h).last_mut().expect("one").events.pop()));
    plant("a bookmark before its changes", |h| {
        let bookmark = WatchResponse { events: Vec::new(), ..messages(h)[1].clone() };
        messages(h).insert(1, bookmark);
    });
    plant("a watch that resumes too late", |h| drop(h.watches[1].legs[1].messages.remove(0)));
    expect![[r#"
        a read that misses what was answered before it: no order has it at this time
        a read of what nobody wrote: no order has this answer
        two writes of one revision: no order has this answer
        a write that was forgotten: no order has this answer
        a txn that runs against its condition: no order has this answer
        a delete that counts wrong: no order has this answer
        a watch that begins late: not Resumable
        a watch that misses a change: not Reliable
        a watch that shows another value: not Reliable
        a watch that shows something else as it was before: not Reliable
        a change that comes twice: not Unique
        two revisions that change places: not Ordered
        a header that is before its changes: not Ordered
        a revision in two messages: not Atomic
        half a revision at the end: not Atomic
        a bookmark before its changes: not Bookmarkable
        a watch that resumes too late: not Resumable
    "#]]
    .assert_eq(&found);
}

// ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn holds(history: &History) {
    if let Err(wrong) = check(history) {
        panic!("{wrong}");
    }
}

fn messages(history: &mut History) -> &mut Vec<WatchResponse> {
    &mut history.watches[0].legs[0].messages
}

/// One client after the other, and two watchers: one that listens to the end, and one that resumes.
fn good() -> History {
    let put = |key: &'static str, value: &'static str| PutRequest {
        key: key.into(),
        value: value.into(),
        prev_kv: true,
        ..Default::default()
    };
    let read = || RangeRequest { key: "a".into(), range_end: "z".into(), ..Default::default() };
    let op = |request| RequestOp { request: Some(request) };
    let unwritten =
        Compare { key: "c".into(), target_union: Some(TargetUnion::Version(0)), ..Default::default() };
    let txn = TxnRequest {
        compare: vec![unwritten],
        success: vec![op(Request::RequestPut(put("c", "1"))), op(Request::RequestPut(put("a", "2")))],
        failure: vec![op(Request::RequestRange(read()))],
    };
    let all = || DeleteRangeRequest { key: "a".into(), range_end: "z".into(), prev_kv: true };
    let calls = [
        Call::Put(put("a", "1"), Default::default()),
        Call::Range(read(), Default::default()),
        Call::Put(put("b", "1"), Default::default()),
        Call::Txn(txn, Default::default()),
        Call::Delete(all(), Default::default()),
        Call::Delete(all(), Default::default()),
        Call::Range(read(), Default::default()),
    ];
    let mut model = Model::default();
    let second = |n: usize| Duration::from_secs(n as u64);
    let operations = calls.iter().enumerate().map(|(n, call)| Operation {
        asked: second(n),
        answered: second(n + 1),
        call: model.ask(call),
    });
    let operations = operations.collect();
    let whole = vec![leg(&model, 1, i64::MAX)];
    let resumed = vec![leg(&model, 1, 3), leg(&model, 4, i64::MAX)];
    let watches = [whole, resumed].map(|legs| Watched { key: "a".into(), range_end: Bytes::from("z"), legs });
    History { operations, watches: watches.into() }
}

/// A message for each revision from `start` up to `end`, and a bookmark after it.
fn leg(model: &Model, start: i64, end: i64) -> Leg {
    let mut messages: Vec<WatchResponse> = Vec::new();
    for revision in start..=end.min(model.revision()) {
        let at = |event: &&Event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision == revision);
        let events: Vec<Event> = model.changes(start, b"a", b"z").filter(at).cloned().collect();
        let header = Some(ResponseHeader { revision, ..Default::default() });
        if !events.is_empty() {
            messages.push(WatchResponse { header, events, ..Default::default() });
        }
    }
    Leg { start, messages }
}
