//! What a watch stream says, message by message.

use super::home::{Cluster, EAST};
use daemon::spiffe::Role;
use rpc::etcdserverpb::{
    self as pb, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchResponse,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

#[tokio::test]
async fn one_stream_carries_many_watches_and_each_ends_alone() {
    let west = Cluster::start().await;
    let mut stream = Stream::open(west.channel(Role::Operator, "kim").await).await;
    let a = stream.create(prefix("a/")).await;
    let b = stream.create(prefix("b/")).await;
    assert_eq!([(a.watch_id, a.created), (b.watch_id, b.created)], [(0, true), (1, true)]);
    put(&west, "b/1", "x").await;
    assert_eq!(stream.next().await.events.len(), 1);
    stream.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 1 })).await;
    let ended = stream.next().await;
    assert_eq!((ended.watch_id, ended.canceled), (1, true));
    put(&west, "b/2", "x").await;
    put(&west, "a/1", "x").await;
    let event = stream.next().await;
    assert_eq!((event.watch_id, event.events.len()), (0, 1));
}

#[tokio::test]
async fn history_comes_first_and_then_what_happens() {
    let west = Cluster::start().await;
    put(&west, "k", "1").await;
    put(&west, "k", "2").await;
    let mut stream = Stream::open(west.channel(Role::Operator, "kim").await).await;
    let create = WatchCreateRequest { start_revision: 2, prev_kv: true, ..one("k") };
    stream.create(create).await;
    put(&west, "k", "3").await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for event in stream.next().await.events {
            let value = |kv: Option<rpc::mvccpb::KeyValue>| kv.map(|kv| kv.value).unwrap_or_default();
            seen.push((value(event.prev_kv), value(event.kv)));
        }
    }
    assert_eq!(seen, [("".into(), "1".into()), ("1".into(), "2".into()), ("2".into(), "3".into())]);
}

#[tokio::test]
async fn a_compacted_watch_names_its_restart_point() {
    let west = Cluster::start().await;
    for value in ["1", "2", "3"] {
        put(&west, "k", value).await;
    }
    west.engine.compact(3).await.expect("compacted");
    let mut stream = Stream::open(west.channel(Role::Operator, "kim").await).await;
    let created = stream.create(WatchCreateRequest { start_revision: 2, ..one("k") }).await;
    assert!(created.created && !created.canceled);
    let ended = stream.next().await;
    assert_eq!((ended.canceled, ended.compact_revision), (true, 3));
}

#[tokio::test]
async fn progress_is_told_when_all_before_it_was() {
    let west = Cluster::start().await;
    let mut stream = Stream::open(west.channel(Role::Operator, "kim").await).await;
    stream.create(prefix("a/")).await;
    put(&west, "a/1", "x").await;
    put(&west, "elsewhere", "x").await;
    assert_eq!(stream.next().await.events.len(), 1);
    stream.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    let told = progress.header.expect("a header").revision;
    assert!(told >= 2 && told <= west.engine.revision(), "{told}");
}

#[tokio::test]
async fn a_large_revision_comes_in_fragments_when_asked_and_whole_otherwise() {
    let west = Cluster::start().await;
    let value = "v".repeat(60 * 1024);
    for n in 0..40 {
        put(&west, &format!("k/{n:02}"), &value).await;
    }
    west.engine
        .delete_range(store::DeleteRangeRequest { key: "k/".into(), range_end: "k0".into(), prev_kv: false })
        .await
        .expect("deleted");
    let deleted_at = west.engine.revision();
    for (fragment, parts) in [(true, 2), (false, 1)] {
        let mut stream = Stream::open(west.channel(Role::Operator, &format!("kim{parts}")).await).await;
        let create =
            WatchCreateRequest { start_revision: deleted_at, prev_kv: true, fragment, ..prefix("k/") };
        stream.create(create).await;
        let mut events = 0;
        for part in 1..=parts {
            let response = stream.next().await;
            assert_eq!(response.fragment, part < parts, "part {part} of {parts}");
            events += response.events.len();
        }
        assert_eq!(events, 40);
    }
}

#[tokio::test]
async fn a_watch_that_may_not_be_is_refused_alone_and_its_stream_lives_on() {
    let west = Cluster::start().await;
    let mut stream = Stream::open(west.channel(Role::Node, "w1").await).await;
    let refused = stream.create(prefix("secret/")).await;
    assert_eq!((refused.created, refused.canceled, refused.watch_id), (true, true, -1));
    assert!(refused.cancel_reason.contains("node/w1 may not read `secret/`"), "{}", refused.cancel_reason);
    let open_ended = WatchCreateRequest { range_end: "\0".into(), ..one("mesh/v1/west/nodes/w1") };
    assert!(stream.create(open_ended).await.canceled, "an open end reaches beyond the mesh");
    let twice = |watch_id| WatchCreateRequest { watch_id, ..prefix("mesh/v1/") };
    assert!(!stream.create(twice(7)).await.canceled);
    assert!(stream.create(twice(7)).await.cancel_reason.contains("duplicate watch ID"));
    let empty = WatchCreateRequest { range_end: "mesh/v1/a".into(), ..one("mesh/v1/b") };
    assert_eq!(stream.create(empty).await.cancel_reason, "mvcc: watcher range is empty");
}

#[tokio::test]
async fn a_stream_has_a_bounded_number_of_watches() {
    let west = Cluster::start().await;
    let mut stream = Stream::open(west.channel(Role::Operator, "kim").await).await;
    for _ in 0..super::super::watch::WATCHES_PER_STREAM_MAX {
        assert!(!stream.create(one("k")).await.canceled);
    }
    assert_eq!(stream.create(one("k")).await.cancel_reason, "a stream may have 64 watches");
    stream.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 3 })).await;
    assert!(stream.next().await.canceled);
    assert!(!stream.create(one("k")).await.canceled, "one that ended makes room");
}

#[tokio::test]
async fn a_removed_peer_loses_its_watches_at_once() {
    let west = Cluster::start().await;
    let mut stream = Stream::open(west.peer("east").await.channel).await;
    assert!(!stream.create(prefix("mesh/v1/west/")).await.canceled);
    west.tls.trust().remove_peer(EAST);
    let ended = stream.end().await;
    assert_eq!(
        (ended.code(), ended.message()),
        (Code::PermissionDenied, "etcdserver: permission denied: no longer a peer")
    );
}

#[tokio::test]
async fn the_end_of_the_server_is_told_to_every_watch() {
    let west = Cluster::start().await;
    let mut stream = Stream::open(west.channel(Role::Operator, "kim").await).await;
    stream.create(prefix("a/")).await;
    west.shutdown.cancel();
    assert_eq!(stream.end().await.code(), Code::Unavailable);
}

// ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

pub(super) fn one(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.to_owned().into(), ..Default::default() }
}

pub(super) fn prefix(prefix: &str) -> WatchCreateRequest {
    let end = store::KeyRange::prefix(prefix.to_owned()).range_end();
    WatchCreateRequest { range_end: end, ..one(prefix) }
}

pub(super) async fn put(west: &Cluster, key: &str, value: &str) {
    let put = store::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    };
    west.engine.put(put).await.expect("put");
}

pub(super) struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Stream {
    pub(super) async fn open(channel: Channel) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        // 40 events with previous values of 60 KiB are more than tonic's default of 4 MiB allows.
        let mut client = WatchClient::new(channel).max_decoding_message_size(16 * 1024 * 1024);
        let answers = client.watch(ReceiverStream::new(receiver)).await.expect("a stream").into_inner();
        Self { requests, answers }
    }

    pub(super) async fn ask(&self, request: RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(request) }).await.expect("open");
    }

    pub(super) async fn create(&mut self, create: WatchCreateRequest) -> WatchResponse {
        self.ask(RequestUnion::CreateRequest(create)).await;
        self.next().await
    }

    pub(super) async fn next(&mut self) -> WatchResponse {
        self.answers.message().await.expect("no error").expect("not the end")
    }

    pub(super) async fn end(&mut self) -> Status {
        self.answers.message().await.expect_err("the end")
    }
}
