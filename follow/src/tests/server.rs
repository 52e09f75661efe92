//! The smallest etcd there is: ranges and watches of a [`Store`], over plain HTTP/2 on loopback.

use api::digest::{Entries, Entry};
use rpc::{
    etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
        PutResponse, RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse, WatchRequest,
        WatchResponse,
        kv_server::{Kv, KvServer},
        watch_request::RequestUnion,
        watch_server::{Watch, WatchServer},
    },
    mesh::sync::v1::{
        BucketsRequest, BucketsResponse, EntriesRequest, EntriesResponse,
        sync_server::{Sync, SyncServer},
    },
    mvccpb,
};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};
use store::{EventKind, Polled, Store, Watcher};
use tokio::sync::{mpsc, watch};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Shared by the test and the server.
#[derive(Clone)]
pub(super) struct Etcd {
    store: Arc<Mutex<Store>>,
    /// Rises with each change, and with each order to hang up.
    changed: Arc<watch::Sender<u64>>,
    hang_ups: Arc<watch::Sender<u64>>,
    /// Says no to everybody.
    closed: Arc<Mutex<bool>>,
    /// Serves `mesh.sync.v1`, as our apiserver does and etcd does not.
    serves_buckets: bool,
    /// Delivers one event a message, the last of a revision without the mark.
    pub(super) in_fragments: bool,
}

impl Etcd {
    pub(super) fn new(in_fragments: bool) -> Self {
        Self {
            store: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
            hang_ups: Arc::new(watch::Sender::new(0)),
            closed: Arc::default(),
            serves_buckets: false,
            in_fragments,
        }
    }

    pub(super) fn with_buckets() -> Self {
        Self { serves_buckets: true, ..Self::new(false) }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Store, Instant)) {
        let mut store = self.store();
        change(&mut store, Instant::now());
        let batch = store.take_batch();
        store.commit(&batch);
        drop(store);
        self.changed.send_modify(|n| *n += 1);
    }

    pub(super) fn hang_up(&self) {
        self.hang_ups.send_modify(|n| *n += 1);
    }

    pub(super) fn close(&self) {
        *self.closed.lock().expect("no test panics with it") = true;
        self.hang_up();
    }

    pub(super) async fn serve(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = format!("http://{}", listener.local_addr().expect("an address"));
        let sync = self.serves_buckets.then(|| SyncServer::new(self.clone()));
        let server = Server::builder()
            .add_service(KvServer::new(self.clone()))
            .add_service(WatchServer::new(self))
            .add_optional_service(sync);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        at
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no test panics with it")
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.store().revision(), ..ResponseHeader::default() })
    }

    fn let_in(&self) -> Result<(), Status> {
        if *self.closed.lock().expect("no test panics with it") {
            return Err(Status::permission_denied("etcdserver: permission denied: no longer a peer"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Kv for Etcd {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.let_in()?;
        let RangeRequest { key, range_end, limit, revision, min_mod_revision, .. } = request.into_inner();
        let bounds = store::RangeRequest { min_mod_revision, ..store::RangeRequest::default() };
        let request = store::RangeRequest { key, range_end, limit, revision, ..bounds };
        let answer = self.store().range(&request).map_err(|error| Status::out_of_range(error.to_string()))?;
        let kvs = answer.kvs.into_iter().map(key_value).collect();
        Ok(Response::new(RangeResponse {
            header: self.header(),
            kvs,
            more: answer.more,
            count: answer.count,
        }))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Err(Status::unimplemented("followers do not write"))
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("followers do not write"))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Err(Status::unimplemented("followers do not write"))
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        Err(Status::unimplemented("followers do not write"))
    }
}

impl Etcd {
    fn entries(&self, key: bytes::Bytes, range_end: bytes::Bytes, revision: i64) -> Result<Entries, Status> {
        let request = store::RangeRequest { key, range_end, revision, ..store::RangeRequest::default() };
        let answer = self.store().range(&request).map_err(|error| Status::out_of_range(error.to_string()))?;
        Ok(answer.kvs.iter().map(|kv| Entry::of(&kv.key, kv.mod_revision as u64)).collect())
    }
}

#[tonic::async_trait]
impl Sync for Etcd {
    async fn buckets(&self, request: Request<BucketsRequest>) -> Result<Response<BucketsResponse>, Status> {
        let BucketsRequest { key, range_end, revision, bits } = request.into_inner();
        let buckets = self.entries(key, range_end, revision)?.buckets(bits);
        Ok(Response::new(BucketsResponse {
            counts: buckets.iter().map(|bucket| bucket.count).collect(),
            hashes: buckets.iter().flat_map(|bucket| bucket.hash).collect::<Vec<u8>>().into(),
        }))
    }

    async fn entries(&self, request: Request<EntriesRequest>) -> Result<Response<EntriesResponse>, Status> {
        let EntriesRequest { key, range_end, revision, bits, buckets } = request.into_inner();
        let all = Self::entries(self, key, range_end, revision)?;
        let entries = buckets.iter().flat_map(|number| all.bucket(bits, *number)).flat_map(|entry| entry.0);
        Ok(Response::new(EntriesResponse { entries: entries.collect::<Vec<u8>>().into() }))
    }
}

type Answers = mpsc::Sender<Result<WatchResponse, Status>>;

#[tonic::async_trait]
impl Watch for Etcd {
    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>>, Status> {
        self.let_in()?;
        let (answers, stream) = mpsc::channel(16);
        tokio::spawn(self.clone().run(request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl Etcd {
    async fn run(self, mut requests: Streaming<WatchRequest>, answers: Answers) {
        let (mut changed, mut hang_ups) = (self.changed.subscribe(), self.hang_ups.subscribe());
        let mut watchers: Vec<(i64, Watcher)> = Vec::new();
        loop {
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(WatchRequest { request_union: Some(request) })) => self.serve_one(request, &mut watchers, &answers).await,
                    Ok(_) | Err(_) => return,
                },
                _ = changed.changed() => {}
                _ = hang_ups.changed() => {
                    answers.send(Err(Status::unavailable("etcdserver: server stopped"))).await.ok();
                    return;
                }
            }
            for (watch_id, watcher) in &mut watchers {
                self.deliver(*watch_id, watcher, &answers).await;
            }
        }
    }

    async fn serve_one(&self, request: RequestUnion, watchers: &mut Vec<(i64, Watcher)>, answers: &Answers) {
        let header = self.header();
        let answer = match request {
            RequestUnion::CreateRequest(create) => {
                assert!(create.progress_notify && create.fragment, "what a follower asks for");
                let request = store::WatchRequest {
                    key: create.key,
                    range_end: create.range_end,
                    start_revision: create.start_revision,
                    ..store::WatchRequest::default()
                };
                watchers.push((create.watch_id, self.store().watch(&request)));
                WatchResponse { header, watch_id: create.watch_id, created: true, ..WatchResponse::default() }
            }
            RequestUnion::ProgressRequest(_) => {
                WatchResponse { header, watch_id: -1, ..WatchResponse::default() }
            }
            RequestUnion::CancelRequest(_) => return,
        };
        answers.send(Ok(answer)).await.ok();
    }

    async fn deliver(&self, watch_id: i64, watcher: &mut Watcher, answers: &Answers) {
        loop {
            let (header, polled) = (self.header(), self.store().poll(watcher));
            let of = || WatchResponse { header, watch_id, ..WatchResponse::default() };
            match polled {
                Polled::Synced => return,
                Polled::Behind => {}
                Polled::Compacted { compact_revision } => {
                    let canceled = WatchResponse { canceled: true, compact_revision, ..of() };
                    answers.send(Ok(canceled)).await.ok();
                    return;
                }
                Polled::Events(events) => {
                    let events: Vec<mvccpb::Event> = events.into_iter().map(event).collect();
                    let size = if self.in_fragments { 1 } else { events.len() };
                    let parts = events.len().div_ceil(size);
                    for (n, events) in events.chunks(size).enumerate() {
                        let response =
                            WatchResponse { events: events.to_vec(), fragment: n + 1 < parts, ..of() };
                        answers.send(Ok(response)).await.ok();
                    }
                }
            }
        }
    }
}

fn event(event: store::Event) -> mvccpb::Event {
    let r#type = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    mvccpb::Event { r#type: r#type.into(), kv: Some(key_value(event.kv)), prev_kv: None }
}

fn key_value(kv: store::KeyValue) -> mvccpb::KeyValue {
    let store::KeyValue { key, value, create_revision, mod_revision, version, lease } = kv;
    mvccpb::KeyValue { key, value, create_revision, mod_revision, version, lease }
}
