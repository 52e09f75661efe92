//! Conversations with a peer: an honest one, and what a liar makes of it.

use super::{Seed, lineage, node, seed, tunnel_key};
use crate::targets::{Frame, PEER, Side};
use api::{
    bytes::{BootId, ClusterUuid},
    digest::{Entries, Entry},
    key::cluster_prefix,
    record::{Cluster, Heartbeat, Record, Synced},
};
use bytes::Bytes;
use clustermesh_apiserver::face::convert;
use prost::Message as _;
use replica::follower::{KeyRange, Request};
use rpc::{etcdserverpb as pb, mesh::sync::v1 as sync_pb};
use std::time::Instant;
use store::{PutRequest, RangeRequest, Store};

/// Rounds of asking and answering: connect, lineage, list, watch, and two changes.
const ROUNDS: usize = 12;

pub(super) fn conversations() -> Vec<Seed> {
    let mut peer = Peer::new();
    let honest = peer.talk();
    let listed = || honest.iter().take(4).cloned().collect::<Vec<_>>();
    let with = |more: Vec<Vec<u8>>| [listed(), more].concat().concat();
    let watch = |response: pb::WatchResponse| Frame::Watch.write(&response.encode_to_vec());
    let header = |revision| Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() });
    let compacted = pb::WatchResponse {
        header: header(9),
        watch_id: 1,
        canceled: true,
        compact_revision: 9,
        ..pb::WatchResponse::default()
    };
    let foreign =
        pb::WatchResponse { header: header(9), watch_id: 77, created: true, ..pb::WatchResponse::default() };
    let least = pb::WatchResponse { watch_id: i64::MIN, created: true, ..pb::WatchResponse::default() };
    let progress =
        pb::WatchResponse { header: header(i64::MAX), watch_id: -1, ..pb::WatchResponse::default() };
    let of = |why: &str, input: Vec<u8>| seed("peer", why, input);
    let mut reversed = honest.clone();
    reversed.reverse();
    let endless = pb::RangeResponse { header: header(5), more: true, ..pb::RangeResponse::default() };
    vec![
        of("an-honest-list-and-its-changes", honest.concat()),
        of(
            "an-honest-one-that-breaks-and-comes-again",
            [honest.concat(), Frame::Failed.write(&[]), honest.concat()].concat(),
        ),
        of("the-answers-in-reverse", reversed.concat()),
        of("history-was-compacted", with(vec![watch(compacted), Frame::Connected.write(&[])])),
        of("a-watch-that-nobody-asked-for", with(vec![watch(foreign)])),
        of("a-watch-of-the-least-number", with(vec![watch(least)])),
        of("a-revision-beyond-all", with(vec![watch(progress)])),
        of(
            "more-and-nothing",
            [Frame::Connected.write(&[]), Frame::Page.write(&endless.encode_to_vec())].concat(),
        ),
        of("no-messages", [Frame::Connected.write(&[]), Frame::Page.write(&[0xff; 8])].concat()),
        of("buckets-before-they-are-asked-for", with(vec![peer.buckets(), Frame::Unserved.write(&[])])),
    ]
}

/// The peer's store, and what it answers.
struct Peer {
    store: Store,
}

impl Peer {
    fn new() -> Self {
        let mut peer = Self { store: Store::default() };
        let boot = BootId([2; 16]);
        let cluster = Cluster {
            uuid: ClusterUuid([2; 16]),
            version: String::from("0.1.0"),
            capabilities: Vec::new(),
            pod_cidrs: vec!["10.2.0.0/16".parse().expect("a range")],
            service_cidrs: Vec::new(),
            mesh_cidrs: vec!["100.64.2.0/24".parse().expect("a range")],
            encrypts_inside: false,
        };
        peer.put("lineage", lineage(2));
        peer.put("cluster", cluster);
        peer.put("nodes/w1", node("100.64.2.1", "10.2.1.0/24"));
        peer.put("keys/w1", tunnel_key());
        // Outside of the contract, by one bit.
        peer.put("nodes/w2", node("100.64.3.2", "10.2.2.0/24"));
        peer.put("nodes/w3", node("100.64.2.3", "10.0.0.0/8"));
        peer.put("synced/nodes", Synced { boot });
        peer.put("heartbeat", Heartbeat { boot, revision: 7, source_age_ms: 0 });
        peer
    }

    fn put(&mut self, key: &str, record: impl Into<Record>) {
        let key = Bytes::from(format!("mesh/v1/{PEER}/{key}"));
        let value = record.into().encode().into();
        self.store.put(&PutRequest { key, value, ..PutRequest::default() }, Instant::now()).expect("a put");
        let batch = self.store.take_batch();
        self.store.commit(&batch);
    }

    /// Answers as an apiserver does, one frame after the other.
    fn talk(&mut self) -> Vec<Vec<u8>> {
        let mut side = Side::new();
        let mut frames = Vec::new();
        for round in 0..ROUNDS {
            let asked = side.requests();
            let mut answers: Vec<(Frame, Vec<u8>)> =
                asked.iter().filter_map(|request| self.answer(request)).collect();
            if answers.is_empty() && round > ROUNDS / 2 {
                answers.push((Frame::Watch, self.change(round)));
            }
            for (frame, body) in answers {
                side.hear(frame, &body);
                frames.push(frame.write(&body));
            }
        }
        frames
    }

    fn header(&self) -> pb::ResponseHeader {
        pb::ResponseHeader { revision: self.store.revision(), ..pb::ResponseHeader::default() }
    }

    fn answer(&self, request: &Request) -> Option<(Frame, Vec<u8>)> {
        Some(match request {
            Request::Connect { .. } => (Frame::Connected, Vec::new()),
            Request::Page { range, revision, limit, .. } => {
                let revision = revision.map_or(0, |revision| i64::try_from(revision).expect("ours"));
                let limit = i64::try_from(*limit).expect("a page");
                let read = RangeRequest { revision, limit, ..whole(range) };
                let page = self.store.range(&read).expect("a read");
                (Frame::Page, convert::range_response(page, self.header()).encode_to_vec())
            }
            Request::Watch { watch, .. } => {
                let watch_id = i64::try_from(*watch).expect("few") + 1;
                let created = pb::WatchResponse {
                    header: Some(self.header()),
                    watch_id,
                    created: true,
                    ..pb::WatchResponse::default()
                };
                (Frame::Watch, created.encode_to_vec())
            }
            Request::Progress { .. } => {
                let header = Some(self.header());
                let progress = pb::WatchResponse { header, watch_id: -1, ..pb::WatchResponse::default() };
                (Frame::Watch, progress.encode_to_vec())
            }
            Request::Buckets { .. } | Request::Entries { .. } | Request::Disconnect { .. } => return None,
        })
    }

    /// A change, as the watch tells it.
    fn change(&mut self, round: usize) -> Vec<u8> {
        let boot = BootId([2; 16]);
        let from = self.store.revision() + 1;
        self.put("heartbeat", Heartbeat { boot, revision: round as u64, source_age_ms: 0 });
        let range = whole(&KeyRange::prefix(&cluster_prefix(&PEER.parse().expect("a name"))));
        let (key, range_end) = (range.key, range.range_end);
        let request =
            store::WatchRequest { key, range_end, start_revision: from, ..store::WatchRequest::default() };
        let mut watcher = self.store.watch(&request);
        let store::Polled::Events(events) = self.store.poll(&mut watcher) else { panic!("it changed") };
        let events = events.into_iter().map(convert::event).collect();
        let header = Some(self.header());
        pb::WatchResponse { header, watch_id: 1, events, ..pb::WatchResponse::default() }.encode_to_vec()
    }

    /// The peer's keys in one bucket.
    fn buckets(&self) -> Vec<u8> {
        let range = whole(&KeyRange::prefix(&cluster_prefix(&PEER.parse().expect("a name"))));
        let kvs = self.store.range(&range).expect("a read").kvs;
        let all: Entries = kvs.iter().map(|kv| Entry::of(&kv.key, kv.mod_revision.unsigned_abs())).collect();
        let buckets = all.buckets(0);
        let counts = buckets.iter().map(|bucket| bucket.count).collect();
        let hashes = buckets.iter().flat_map(|bucket| bucket.hash).collect::<Vec<u8>>().into();
        Frame::Buckets.write(&sync_pb::BucketsResponse { counts, hashes }.encode_to_vec())
    }
}

fn whole(range: &KeyRange) -> RangeRequest {
    let (key, range_end) = (range.key.clone().into(), range.end.clone().into());
    RangeRequest { key, range_end, ..RangeRequest::default() }
}
