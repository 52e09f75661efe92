//! What a range holds, in few bytes.

use super::{home::Cluster, watch::put};
use api::digest::{Entries, Entry};
use daemon::spiffe::Role;
use rpc::mesh::sync::v1::{BucketsRequest, EntriesRequest, sync_client::SyncClient};
use store::{KeyRange, RangeRequest};
use tonic::Code;

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

// ---- helpers ----

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
