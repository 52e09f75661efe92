//! What a range holds, in few bytes.

use super::{
    home::{Cluster, EAST, WEST},
    watch::put,
};
use crate::{authz::Own, face::Doors, vms::Members};
use api::{
    bytes::BootId,
    digest::{Entries, Entry},
    record::{Boot, Lineage},
};
use daemon::{
    spiffe::Role,
    tls::{Expected, Tls, connect},
};
use follow::Following;
use replica::follower::{Event, Follow};
use rpc::mesh::sync::v1::{BucketsRequest, EntriesRequest, sync_client::SyncClient};
use std::{sync::Arc, time::Duration};
use store::{DeleteRangeRequest, KeyRange, Op, PutRequest, RangeRequest, TxnRequest};
use tonic::{Code, transport::Channel};

/// Far more than anything here takes, and less than a stuck build.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn buckets_and_entries_say_what_a_list_at_that_revision_would() {
    let west = Cluster::start().await;
    for n in 0..50 {
        put(&west, &format!("mesh/v1/west/nodes/n{n}"), "x").await;
    }
    let at = west.engine.revision();
    put(&west, "mesh/v1/west/nodes/later", "x").await;
    let expected: Entries = list(&west, at).await;
    let mut sync = SyncClient::new(west.peer("east").await.channel);
    let (key, range_end) = ours();
    let request = BucketsRequest { key: key.clone(), range_end: range_end.clone(), revision: at, bits: 3 };
    let answer = sync.buckets(request).await.expect("buckets").into_inner();
    let buckets = expected.buckets(3);
    assert_eq!(answer.counts, buckets.iter().map(|bucket| bucket.count).collect::<Vec<_>>());
    assert_eq!(answer.hashes, buckets.iter().flat_map(|bucket| bucket.hash).collect::<Vec<_>>());

    let request = EntriesRequest { key, range_end, revision: at, bits: 3, buckets: vec![1, 6] };
    let answer = sync.entries(request).await.expect("entries").into_inner();
    let wanted = [1, 6].into_iter().flat_map(|number| expected.bucket(3, number));
    assert_eq!(answer.entries, wanted.flat_map(|entry| entry.0).collect::<Vec<_>>());
}

#[tokio::test]
async fn hashes_are_for_those_who_may_read_the_keys_and_bounded() {
    let west = Cluster::start().await;
    put(&west, "mesh-local/v1/applied/w1", "x").await;
    let mut peer = SyncClient::new(west.peer("east").await.channel);
    let mut node = SyncClient::new(west.channel(Role::Node, "w1").await);
    let asked = |key: &str, bits| {
        let range = KeyRange::prefix(key.to_owned());
        BucketsRequest { key: range.key().clone(), range_end: range.range_end(), revision: 0, bits }
    };
    for others in ["mesh-local/v1/", "mesh/v1/", "mesh/v1/east/"] {
        let refused = peer.buckets(asked(others, 1)).await.expect_err("not the peer's");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        let BucketsRequest { key, range_end, bits, .. } = asked(others, 1);
        let request = EntriesRequest { key, range_end, bits, revision: 0, buckets: vec![0] };
        let refused = peer.entries(request).await.expect_err("not the peer's");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    node.buckets(asked("mesh-local/v1/", 1)).await.expect("a node's");
    let refused = node.buckets(asked("mesh/v1/", 13)).await.expect_err("too many");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    for buckets in [vec![0, 0], vec![1, 0], vec![2]] {
        let (key, range_end) = ours();
        let request = EntriesRequest { key, range_end, revision: 0, bits: 1, buckets };
        let refused = node.entries(request).await.expect_err("not in rising order, or not there");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let future = node.buckets(BucketsRequest { revision: 99, ..asked("mesh/v1/", 1) }).await;
    assert_eq!(future.expect_err("a future revision").code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_large_range_is_hashed_once_a_revision_however_many_ask() {
    let west = Cluster::start().await;
    write(&west, (0..1_000).map(node).collect()).await;
    let own = Own { uuid: WEST, name: "west".parse().expect("a name") };
    let doors =
        Doors::new(own, west.tls.clone(), Members::nobody(), west.engine.clone(), west.shutdown.clone());
    let of = |range: KeyRange, revision| {
        let (key, range_end) = (range.key().clone(), range.range_end());
        RangeRequest { key, range_end, revision, ..RangeRequest::default() }
    };
    let at = west.engine.revision();
    let nodes = || of(KeyRange::prefix("mesh/v1/west/"), at);
    let once = doors.entries_of(nodes()).await.expect("hashed");
    for n in 0..9 {
        // Small ones, and what has no revision, take no place.
        doors.entries_of(of(KeyRange::prefix(format!("small/{n}/")), at)).await.expect("hashed");
        doors.entries_of(of(KeyRange::prefix("mesh/v1/west/"), 0)).await.expect("hashed");
    }
    write(&west, vec![node(7)]).await;
    assert!(Arc::ptr_eq(&once, &doors.entries_of(nodes()).await.expect("kept")));
    let newer = of(KeyRange::prefix("mesh/v1/west/"), west.engine.revision());
    assert_ne!(once, doors.entries_of(newer).await.expect("hashed"), "another revision is another answer");
}

#[tokio::test]
async fn a_peer_that_was_cut_off_for_longer_than_the_history_is_told_only_what_changed() {
    const NODES: usize = 1_000;
    let west = Cluster::start().await;
    let boots = vec![Boot { id: BootId(west.engine.boot()), first_revision: 2 }];
    let lineage = op("mesh/v1/west/lineage", &Lineage { boots }.encode());
    write(&west, std::iter::once(lineage).chain((0..NODES).map(node)).collect()).await;
    let tls = west.peer_tls("east");
    let bundle = tls.identity().bundle_pem().to_owned();
    let follow =
        Follow { cluster: "west".parse().expect("a name"), prefixes: vec!["mesh/v1/west/".to_owned()] };
    let mut east = follow::spawn(follow, 1, Dial { tls, at: west.at.clone() });
    let listed = until(&mut east, |event| matches!(event, Event::InitDone { .. })).await;
    assert_eq!(listed.len(), 1 + NODES + 1 + 1, "Init, the records, the lineage, InitDone");

    // As long as it is no peer it hears nothing.
    west.tls.trust().remove_peer(EAST);
    until(&mut east, |event| matches!(event, Event::Disconnected { refused: true, .. })).await;
    let gone = DeleteRangeRequest { key: "mesh/v1/west/nodes/n7".into(), ..DeleteRangeRequest::default() };
    write(&west, vec![Op::DeleteRange(gone), node(8)]).await;
    write(&west, vec![op("mesh/v1/west/nodes/new", b"1")]).await;
    west.engine.compact(west.engine.revision()).await.expect("compacted");
    west.tls.trust().add_peer(EAST, "east".parse().expect("a name"), &bundle).expect("a bundle");

    // It resumes, is told that history is gone, and asks what changed.
    let is_last = |event: &Event| matches!(event, Event::Apply(value) if value.key.ends_with(b"/new"));
    let told: Vec<String> = until(&mut east, is_last).await.iter().filter_map(show).collect();
    assert_eq!(told, ["- mesh/v1/west/nodes/n7", "+ mesh/v1/west/nodes/n8", "+ mesh/v1/west/nodes/new"]);
}

// ---- helpers ----

struct Dial {
    tls: Tls,
    at: String,
}

impl follow::Connect for Dial {
    async fn connect(&self) -> Result<Channel, String> {
        let expected = Expected::cluster(WEST, "west".parse().expect("a name"));
        let connected = connect(&self.tls, &self.at, &expected).await;
        connected.map(|connection| connection.channel).map_err(|error| error.to_string())
    }
}

async fn until(following: &mut Following, last: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, following.events.recv()).await;
        events.push(event.expect("in time").expect("a follower never ends"));
        if events.last().is_some_and(&last) {
            return events;
        }
    }
}

/// What an owner is told of records.
fn show(event: &Event) -> Option<String> {
    let text = String::from_utf8_lossy;
    match event {
        Event::Apply(value) => Some(format!("+ {}", text(&value.key))),
        Event::Delete { key, .. } => Some(format!("- {}", text(key))),
        Event::Init | Event::InitApply(_) | Event::InitDone { .. } => Some(format!("{event:?}")),
        Event::Resumed { .. } | Event::Progress { .. } | Event::Disconnected { .. } => None,
    }
}

fn ours() -> (bytes::Bytes, bytes::Bytes) {
    let range = KeyRange::prefix("mesh/v1/west/");
    (range.key().clone(), range.range_end())
}

async fn list(west: &Cluster, revision: i64) -> Entries {
    let (key, range_end) = ours();
    let request = RangeRequest { key, range_end, revision, ..RangeRequest::default() };
    let answer = west.engine.range(&request).await.expect("a list");
    answer.kvs.iter().map(|kv| Entry::of(&kv.key, kv.mod_revision.unsigned_abs())).collect()
}

fn node(n: usize) -> Op {
    op(&format!("mesh/v1/west/nodes/n{n}"), b"1")
}

fn op(key: &str, value: &[u8]) -> Op {
    let (key, value) = (key.to_owned().into(), value.to_vec().into());
    Op::Put(PutRequest { key, value, ..PutRequest::default() })
}

async fn write(west: &Cluster, ops: Vec<Op>) {
    for success in ops.chunks(store::TXN_OPS_MAX).map(<[Op]>::to_vec) {
        west.engine.txn(TxnRequest { success, ..TxnRequest::default() }).await.expect("written");
    }
}
