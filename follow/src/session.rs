//! One connection: its requests go out one after another, its answers come back as they arrive.

use crate::{Connect, answer};
use replica::follower::{ANSWER_MAX_BYTES, Answer, KeyRange, Request, SessionId};
use rpc::{
    etcdserverpb::{
        RangeRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
        kv_client::KvClient, watch_client::WatchClient, watch_request::RequestUnion,
    },
    mesh::sync::v1::{BucketsRequest, EntriesRequest, sync_client::SyncClient},
};
use std::{error::Error as _, sync::Arc};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Response, Status, Streaming, transport::Channel};
use tracing::debug;

/// What etcd says when history was compacted. (etcd: `rpctypes.ErrGRPCCompacted`)
const COMPACTED: &str = "required revision has been compacted";

/// How a server says that it does not let us in: etcd's `rpctypes.ErrGRPCPermissionDenied`, which our apiserver says
/// too, and `daemon::tls` of a server that does not know our trust domain. A server that was not verified says neither:
/// the alert comes under the keys of its handshake, and the status after it. Texts, because neither hyper nor h2 let a
/// cause through.
const REFUSALS: [&str; 2] =
    ["etcdserver: permission denied", "no CA of its trust domain in the server's trust store has signed it"];

/// Whether a text that ended a session says that the server does not let us in.
#[must_use]
pub fn is_refusal(error: &str) -> bool {
    REFUSALS.iter().any(|refusal| error.contains(refusal))
}

/// Requests that wait for the watch's stream: a watch a prefix, of which nobody has more than five, and a question.
const WATCH_REQUESTS_MAX: usize = 16;

/// A connection at work; dropping it closes it.
#[derive(Debug)]
pub(crate) struct Session {
    /// Unbounded, and never long: a follower has one page under way, and one watch a prefix.
    requests: UnboundedSender<Request>,
    _task: AbortOnDropHandle<()>,
}

impl Session {
    pub(crate) fn start<C: Connect>(id: SessionId, connect: Arc<C>, answers: Sender<Answer>) -> Self {
        let (requests, receiver) = unbounded_channel();
        let task = tokio::spawn(async move {
            let ended = Wire { id, answers: answers.clone() }.run(connect, receiver).await;
            if let Err(error) = ended {
                let answer = if is_refusal(&error) {
                    Answer::Refused { session: id, error }
                } else {
                    Answer::Failed { session: id, error }
                };
                // The follower went away when this fails.
                answers.send(answer).await.ok();
            }
        });
        Self { requests, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn carry(&self, request: Request) {
        // A session that has ended has said so by an answer.
        self.requests.send(request).ok();
    }
}

#[derive(Debug, Clone)]
struct Wire {
    id: SessionId,
    answers: Sender<Answer>,
}

impl Wire {
    async fn run<C: Connect>(
        self,
        connect: Arc<C>,
        mut requests: UnboundedReceiver<Request>,
    ) -> Result<(), String> {
        let channel = connect.connect().await?;
        let mut kv = KvClient::new(channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES);
        let mut sync = SyncClient::new(channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES);
        self.answer(Answer::Connected { session: self.id }).await;

        let mut watching: Option<Watching> = None;
        loop {
            let request = tokio::select! {
                request = requests.recv() => request,
                ended = Watching::ended(&mut watching) => return Err(ended),
            };
            match request {
                None => return Ok(()),
                Some(Request::Page { range, revision, since, limit, .. }) => {
                    let request = RangeRequest {
                        key: range.key.into(),
                        range_end: range.end.into(),
                        limit: signed(limit as u64),
                        revision: revision.map_or(0, signed),
                        min_mod_revision: since.map_or(0, signed),
                        ..RangeRequest::default()
                    };
                    let answer = self.page(&mut kv, request).await?;
                    self.answer(answer).await;
                }
                Some(Request::Buckets { range: KeyRange { key, end }, revision, bits, .. }) => {
                    let (key, range_end) = (key.into(), end.into());
                    let request = BucketsRequest { key, range_end, revision: signed(revision), bits };
                    let answered = sync.buckets(request).await;
                    self.answer(self.hashes(answered, revision, answer::buckets)?).await;
                }
                Some(Request::Entries { range: KeyRange { key, end }, revision, bits, buckets, .. }) => {
                    let (key, range_end) = (key.into(), end.into());
                    let request =
                        EntriesRequest { key, range_end, revision: signed(revision), bits, buckets };
                    let answered = sync.entries(request).await;
                    self.answer(self.hashes(answered, revision, answer::entries)?).await;
                }
                Some(Request::Watch { watch, range, from, .. }) => {
                    let watching = match &mut watching {
                        Some(watching) => watching,
                        None => watching.insert(self.open(channel.clone())),
                    };
                    watching.send(RequestUnion::CreateRequest(create(watch, range, from))).await?;
                }
                Some(Request::Progress { .. }) => {
                    if let Some(watching) = &mut watching {
                        watching.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await?;
                    }
                }
                Some(Request::Connect { .. } | Request::Disconnect { .. }) => {}
            }
        }
    }

    async fn answer(&self, answer: Answer) {
        // When nobody listens any more this task is about to be ended.
        self.answers.send(answer).await.ok();
    }

    async fn page(&self, kv: &mut KvClient<Channel>, request: RangeRequest) -> Result<Answer, String> {
        let pinned = answer::unsigned(request.revision);
        let page = match kv.range(request).await {
            Ok(page) => page.into_inner(),
            Err(status) if status.message().contains(COMPACTED) => {
                return Ok(Answer::Compacted { session: self.id, compact_revision: pinned });
            }
            Err(status) => return Err(text(&status)),
        };
        Ok(answer::page(self.id, page))
    }

    /// An answer of `mesh.sync.v1`. A store that does not serve it, or not as we ask, says so in one of several ways: etcd
    /// does not know the method, and an apiserver that is older than it refuses it to everybody. Whether we are let
    /// in at all, the list that follows will tell.
    fn hashes<R>(
        &self,
        answered: Result<Response<R>, Status>,
        pinned: u64,
        read: impl FnOnce(SessionId, R) -> Answer,
    ) -> Result<Answer, String> {
        let session = self.id;
        let status = match answered {
            Ok(response) => return Ok(read(session, response.into_inner())),
            Err(status) => status,
        };
        if status.message().contains(COMPACTED) {
            return Ok(Answer::Compacted { session, compact_revision: pinned });
        }
        match status.code() {
            Code::Unimplemented
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Internal => {
                debug!(error = text(&status), "The store does not help to resync; it is listed");
                Ok(Answer::Unserved { session })
            }
            _ => Err(text(&status)),
        }
    }

    /// Opens the stream that all watches of this session share.
    fn open(&self, channel_to_store: Channel) -> Watching {
        let (requests, stream) = channel(WATCH_REQUESTS_MAX);
        let (ended, end) = channel(1);
        let wire = self.clone();
        let task = tokio::spawn(async move {
            let mut client = WatchClient::new(channel_to_store).max_decoding_message_size(ANSWER_MAX_BYTES);
            let error = match client.watch(ReceiverStream::new(stream)).await {
                Ok(responses) => wire.read(responses.into_inner()).await,
                Err(status) => text(&status),
            };
            ended.send(error).await.ok();
        });
        Watching { requests, end, _task: AbortOnDropHandle::new(task) }
    }

    /// Reads until the stream ends, and says why it did.
    async fn read(&self, mut responses: Streaming<WatchResponse>) -> String {
        loop {
            match responses.message().await {
                Ok(Some(response)) => match answer::watched(self.id, response) {
                    Ok(answer) => self.answer(answer).await,
                    Err(error) => return error,
                },
                Ok(None) => return "the store ended the watch".to_owned(),
                Err(status) => return text(&status),
            }
        }
    }
}

/// The watch stream of a session.
#[derive(Debug)]
struct Watching {
    requests: Sender<WatchRequest>,
    end: Receiver<String>,
    _task: AbortOnDropHandle<()>,
}

impl Watching {
    async fn send(&mut self, request: RequestUnion) -> Result<(), String> {
        let request = WatchRequest { request_union: Some(request) };
        match self.requests.send(request).await {
            Ok(()) => Ok(()),
            // The stream has ended, and its task says why.
            Err(_) => Err(self.end.recv().await.unwrap_or_else(|| "the watch was dropped".to_owned())),
        }
    }

    /// Why the stream ended; for ever while there is none, or it goes on.
    async fn ended(watching: &mut Option<Self>) -> String {
        match watching {
            Some(watching) => match watching.end.recv().await {
                Some(error) => error,
                None => "the watch was dropped".to_owned(),
            },
            None => std::future::pending().await,
        }
    }
}

/// Progress notifications move the revision of a watch in which nothing happens; fragments let a store send one large
/// revision in several messages.
fn create(number: usize, range: KeyRange, from: u64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: range.key.into(),
        range_end: range.end.into(),
        start_revision: signed(from),
        progress_notify: true,
        watch_id: signed(number as u64 + 1),
        fragment: true,
        ..WatchCreateRequest::default()
    }
}

fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// In the store's words, with the causes that a connection's error has; codes and metadata help nobody.
fn text(status: &Status) -> String {
    let mut text = if status.message().is_empty() { status.to_string() } else { status.message().to_owned() };
    let mut cause = status.source();
    while let Some(error) = cause {
        let error_text = error.to_string();
        if !text.contains(&error_text) {
            text = format!("{text}: {error_text}");
        }
        cause = error.source();
    }
    text
}
