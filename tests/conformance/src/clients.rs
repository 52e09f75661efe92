//! Many clients at once, each on a connection of its own, and watchers beside them.

use crate::{
    history::{Call, History, Leg, Operation, Watched, revision},
    server::Server,
};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use rpc::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
    WatchProgressRequest, WatchRequest, WatchResponse,
    compare::{CompareTarget, TargetUnion},
    kv_client::KvClient,
    request_op::Request,
    watch_client::WatchClient,
    watch_request::RequestUnion,
};
use sim::chance::Chance;
use std::time::{Duration, Instant};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

/// Few keys, so that clients meet.
const KEYS: u64 = 8;

/// The last write of a run, which every watcher waits for.
const END: &str = "k/end";

/// A run takes a few seconds; one that hangs fails its test.
const RUN_MAX: Duration = Duration::from_secs(40);

/// A watcher that resumes does so after so many messages.
const MESSAGES_PER_LEG: usize = 20;

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many ask at once.
    pub clients: u64,
    /// How much each asks.
    pub operations: usize,
    /// What is asked depends on it; what comes before what does not.
    pub seed: u64,
    /// Where bookmarks come from.
    pub bookmarks: Bookmarks,
}

/// Etcd before 3.5.8 says on request that all was sent when it was not (etcd issue 15220): of its bookmarks only those
/// that it sends by itself count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bookmarks {
    /// Watchers ask for them.
    OnRequest,
    /// They come when nothing else does.
    ByThemselves,
}

/// Runs clients and watchers on an empty server, and writes down all of it.
///
/// # Errors
/// When a connection fails, or the run does not end.
pub async fn record(server: &Server, plan: Plan) -> Result<History> {
    timeout(RUN_MAX, run(server, plan)).await.context("the run does not end")?
}

async fn run(server: &Server, plan: Plan) -> Result<History> {
    let mut watchers = JoinSet::new();
    for (key, range_end, resumes) in [
        ("k/", "k0", false),
        ("\0", "\0", true),
        ("k/2", "k0", true),
        // Little happens there: bookmarks have room.
        ("k/7", "\0", false),
        ("k/7", "k0", true),
    ] {
        let watched = Watched { key: key.into(), range_end: range_end.into(), legs: Vec::new() };
        watchers.spawn(watch(server.connect().await?, watched, resumes, plan.bookmarks));
    }
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..plan.clients {
        let kv = KvClient::new(server.connect().await?);
        let chance = Chance::new(plan.seed ^ (client << 32));
        clients.spawn(work(Client { kv, chance, start, seen: 1, done: Vec::new() }, plan.operations));
    }
    let mut history = History::default();
    while let Some(done) = clients.join_next().await {
        history.operations.extend(done??);
    }
    let kv = KvClient::new(server.connect().await?);
    let mut last = Client { kv, chance: Chance::new(plan.seed), start, seen: 1, done: Vec::new() };
    last.ask(Request::RequestPut(put(END.into(), "".into()))).await?;
    history.operations.append(&mut last.done);
    while let Some(watched) = watchers.join_next().await {
        history.watches.push(watched??);
    }
    Ok(history)
}

struct Client {
    kv: KvClient<Channel>,
    chance: Chance,
    start: Instant,
    /// The newest revision it knows: it compares with it, and reads before it.
    seen: i64,
    done: Vec<Operation>,
}

async fn work(mut client: Client, operations: usize) -> Result<Vec<Operation>> {
    for n in 0..operations {
        let request = client.choose(n);
        client.ask(request).await?;
    }
    Ok(client.done)
}

impl Client {
    fn choose(&mut self, n: usize) -> Request {
        let value = Bytes::from(n.to_string());
        match self.chance.below(10) {
            0..=2 => Request::RequestPut(put(self.key(), value)),
            3 => Request::RequestDeleteRange(DeleteRangeRequest {
                key: self.key(),
                range_end: if self.chance.one_in(4) { "k/3".into() } else { Bytes::new() },
                prev_kv: true,
            }),
            4..=6 => Request::RequestRange(self.read()),
            _ => Request::RequestTxn(self.txn(value)),
        }
    }

    /// Seldom a late one.
    fn key(&mut self) -> Bytes {
        let bound = if self.chance.one_in(20) { KEYS } else { KEYS - 1 };
        format!("k/{}", self.chance.below(bound)).into()
    }

    fn read(&mut self) -> RangeRequest {
        let range_end = if self.chance.one_in(3) { "k0".into() } else { Bytes::new() };
        let revision = if self.chance.one_in(4) { self.seen } else { 0 };
        RangeRequest { key: self.key(), range_end, revision, ..Default::default() }
    }

    /// Changes two keys when the first is as it was seen, or not there; else looks at it.
    fn txn(&mut self, value: Bytes) -> TxnRequest {
        let (key, other) = (self.key(), "k/0".into());
        let (target, union) = if self.chance.one_in(2) {
            (CompareTarget::Mod, TargetUnion::ModRevision(self.seen))
        } else {
            (CompareTarget::Version, TargetUnion::Version(0))
        };
        let compare = Compare {
            key: key.clone(),
            target: target.into(),
            target_union: Some(union),
            ..Default::default()
        };
        let read = RangeRequest { key: key.clone(), ..Default::default() };
        let mut success = vec![op(Request::RequestPut(put(key.clone(), value.clone())))];
        if key != other {
            success.push(op(Request::RequestPut(put(other, value))));
        }
        success.push(op(Request::RequestRange(read.clone())));
        let mut failure = vec![op(Request::RequestRange(read))];
        if self.chance.one_in(3) {
            failure.push(op(Request::RequestDeleteRange(DeleteRangeRequest { key, ..Default::default() })));
        }
        TxnRequest { compare: vec![compare], success, failure }
    }

    async fn ask(&mut self, request: Request) -> Result<()> {
        let asked = self.start.elapsed();
        let call = match request {
            Request::RequestRange(r) => Call::Range(r.clone(), self.kv.range(r).await?.into_inner()),
            Request::RequestPut(r) => Call::Put(r.clone(), self.kv.put(r).await?.into_inner()),
            Request::RequestDeleteRange(r) => {
                Call::Delete(r.clone(), self.kv.delete_range(r).await?.into_inner())
            }
            Request::RequestTxn(r) => Call::Txn(r.clone(), self.kv.txn(r).await?.into_inner()),
        };
        let answered = self.start.elapsed();
        self.seen = call.revision();
        self.done.push(Operation { asked, answered, call });
        Ok(())
    }
}

fn put(key: Bytes, value: Bytes) -> PutRequest {
    PutRequest { key, value, prev_kv: true, ..Default::default() }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// Watches until the end; one that resumes gives its stream up again and again, and begins after what it has seen.
async fn watch(
    channel: Channel,
    mut watched: Watched,
    resumes: bool,
    bookmarks: Bookmarks,
) -> Result<Watched> {
    let mut next = 1;
    loop {
        let mut leg = Leg { start: next, messages: Vec::new() };
        let (requests, mut stream) = open(&channel, &watched, next, bookmarks).await?;
        while !resumes || leg.messages.len() < MESSAGES_PER_LEG {
            let message = stream.message().await?.context("the stream ended")?;
            if message.canceled {
                bail!("the watch was cancelled: {message:?}");
            }
            if message.created {
                continue;
            }
            next = covered(&message) + 1;
            let ends = message.events.iter().any(|event| event.kv.as_ref().is_some_and(|kv| kv.key == END));
            leg.messages.push(message);
            if ends {
                watched.legs.push(leg);
                return Ok(watched);
            }
            if bookmarks == Bookmarks::OnRequest && leg.messages.len() % 2 == 1 {
                let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
                requests.send(WatchRequest { request_union: Some(request) }).await?;
            }
        }
        watched.legs.push(leg);
    }
}

/// What a message says about how far its watch is.
fn covered(message: &WatchResponse) -> i64 {
    let changed = message.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
    changed.max().unwrap_or_else(|| revision(message.header.as_ref()))
}

async fn open(
    channel: &Channel,
    watched: &Watched,
    start_revision: i64,
    bookmarks: Bookmarks,
) -> Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)> {
    let (requests, receiver) = mpsc::channel(8);
    let create = WatchCreateRequest {
        key: watched.key.clone(),
        range_end: watched.range_end.clone(),
        start_revision,
        prev_kv: true,
        progress_notify: bookmarks == Bookmarks::ByThemselves,
        ..Default::default()
    };
    requests.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await?;
    let stream = WatchClient::new(channel.clone()).watch(ReceiverStream::new(receiver)).await?;
    Ok((requests, stream.into_inner()))
}
