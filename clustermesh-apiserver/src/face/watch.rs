//! etcd's Watch service: many watches over one stream.
//!
//! Each watch is a task that pulls from the engine only when the stream has room, so a slow client holds one batch a
//! watch and not a queue. The control loop reads requests, and its answers go the same way as the events: what was
//! sent before stays before.

use super::{Doors, convert, sender};
use crate::{
    authz,
    backend::{WatchResponse, WatchStream},
};
use daemon::{spiffe::Role, tls::PeerInfo};
use prost::Message;
use rpc::{
    etcdserverpb::{self as pb, watch_request::RequestUnion, watch_server::Watch},
    mvccpb,
};
use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

const METHOD: &str = "/etcdserverpb.Watch/Watch";

/// Watches of one stream: a follower has one a prefix; etcd's tools put all of theirs into one stream.
pub(super) const WATCHES_PER_STREAM_MAX: usize = 64;

/// Answers that wait for the network; each is one poll of at most 1 MiB, or one larger revision.
const ANSWERS_MAX: usize = 4;

/// A message when the client asked for fragments, in bytes: etcd's limit of a request, and 512 KiB for what gRPC adds.
const FRAGMENT_BYTES_MAX: usize = store::REQUEST_BYTES_MAX + 512 * 1024;

/// The number of `WatchResponse.events`.
const EVENTS_TAG: u32 = 11;

/// Stands for "no watch" in an answer to a request that made none, and for "all" in a progress answer (etcd).
const NO_WATCH: i64 = -1;

type Answers = mpsc::Sender<Result<pb::WatchResponse, Status>>;

#[tonic::async_trait]
impl Watch for Doors {
    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>>, Status> {
        let who = sender(request.extensions())?.clone();
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let control = Control { doors: self.clone(), who, answers, watches: BTreeMap::new(), next_id: 0 };
        tokio::spawn(control.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// One stream's watches.
struct Control {
    doors: Doors,
    who: PeerInfo,
    answers: Answers,
    watches: BTreeMap<i64, Running>,
    next_id: i64,
}

/// A watch's task, which ends with this, and the way to ask it how far it is.
struct Running {
    ask: mpsc::Sender<oneshot::Sender<i64>>,
    _task: AbortOnDropHandle<()>,
}

/// The client went away: nothing is left to do for it.
struct Gone;

impl From<mpsc::error::SendError<Result<pb::WatchResponse, Status>>> for Gone {
    fn from(_: mpsc::error::SendError<Result<pb::WatchResponse, Status>>) -> Self {
        Self
    }
}

impl Control {
    async fn run(mut self, mut requests: Streaming<pb::WatchRequest>) {
        let (doors, who) = (self.doors.clone(), self.who.clone());
        let mut farewell = pin!(doors.farewell(&who));
        loop {
            let request = tokio::select! {
                request = requests.message() => request,
                why = &mut farewell => return self.end(why).await,
                () = self.answers.closed() => return,
            };
            let served = match request {
                Ok(Some(request)) => self.serve(request).await,
                // The client has nothing more to ask and may go on listening.
                Ok(None) => return self.answers.closed().await,
                Err(_) => return,
            };
            if let Err(Gone) = served {
                return;
            }
        }
    }

    async fn end(self, why: Status) {
        let Self { answers, watches, .. } = self;
        drop(watches);
        // Nobody listens: as good as told.
        answers.send(Err(why)).await.ok();
    }

    async fn serve(&mut self, request: pb::WatchRequest) -> Result<(), Gone> {
        match request.request_union {
            None => Ok(()),
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => self.progress().await,
        }
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> Result<(), Gone> {
        let judged = authz::watch(&create).map_err(|error| error.to_string()).and_then(|touches| {
            self.doors.judge(&self.who, METHOD, &touches).map_err(|denied| denied.to_string())?;
            Ok(touches)
        });
        let touches = match judged {
            Ok(touches) => touches,
            Err(reason) => {
                warn!(who = %self.who.id, reason, "Refused a watch");
                return self.refuse(reason).await;
            }
        };
        if touches.iter().any(|touch| touch.range.is_empty()) {
            return self.refuse("mvcc: watcher range is empty".to_owned()).await;
        }
        let Some(id) = self.free_id(create.watch_id) else {
            return self.refuse("mvcc: duplicate watch ID provided on the WatchStream".to_owned()).await;
        };
        if self.watches.len() >= WATCHES_PER_STREAM_MAX {
            return self.refuse(format!("a stream may have {WATCHES_PER_STREAM_MAX} watches")).await;
        }
        let stream = match self.doors.engine().watch(&convert::watch(&create)) {
            Ok(stream) => stream,
            Err(error) => return self.refuse(error.to_string()).await,
        };
        let header = Some(self.doors.header(self.doors.engine().revision()));
        self.answers
            .send(Ok(pb::WatchResponse { header, watch_id: id, created: true, ..Default::default() }))
            .await?;
        let (ask, asked) = mpsc::channel(1);
        let pump = Pump {
            doors: self.doors.clone(),
            who: self.who.clone(),
            id,
            fragment: create.fragment,
            answers: self.answers.clone(),
            asked,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(pump.run(stream)));
        self.watches.insert(id, Running { ask, _task: task });
        Ok(())
    }

    /// The client's choice, or the next one that is free; none when its choice is taken.
    fn free_id(&mut self, chosen: i64) -> Option<i64> {
        self.watches.retain(|_, running| !running.ask.is_closed());
        if chosen != 0 {
            return (!self.watches.contains_key(&chosen)).then_some(chosen);
        }
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }

    /// As etcd refuses: created and cancelled in one answer.
    async fn refuse(&self, reason: String) -> Result<(), Gone> {
        Ok(self
            .answers
            .send(Ok(pb::WatchResponse {
                header: Some(self.doors.header(self.doors.engine().revision())),
                watch_id: NO_WATCH,
                created: true,
                canceled: true,
                cancel_reason: reason,
                ..Default::default()
            }))
            .await?)
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Gone> {
        if self.watches.remove(&id).is_none() {
            return Ok(());
        }
        let header = Some(self.doors.header(self.doors.engine().revision()));
        let cancelled = pb::WatchResponse { header, watch_id: id, canceled: true, ..Default::default() };
        Ok(self.answers.send(Ok(cancelled)).await?)
    }

    /// Everything up to the answer's revision was sent on this stream: the least that any of its watches is at.
    async fn progress(&mut self) -> Result<(), Gone> {
        let mut revision = self.doors.engine().revision();
        for running in self.watches.values() {
            let (tell, told) = oneshot::channel();
            // A watch that has ended holds nothing back.
            if running.ask.send(tell).await.is_ok() {
                revision = revision.min(told.await.unwrap_or(revision));
            }
        }
        let header = Some(self.doors.header(revision));
        Ok(self
            .answers
            .send(Ok(pb::WatchResponse { header, watch_id: NO_WATCH, ..Default::default() }))
            .await?)
    }
}

/// Carries one watch's answers to its stream.
struct Pump {
    doors: Doors,
    who: PeerInfo,
    id: i64,
    fragment: bool,
    answers: Answers,
    asked: mpsc::Receiver<oneshot::Sender<i64>>,
}

impl Pump {
    async fn run(mut self, mut stream: WatchStream) {
        loop {
            let answer = tokio::select! {
                answer = stream.next() => answer,
                Some(tell) = self.asked.recv() => {
                    // Asked by a control loop that is gone by now: nobody to tell.
                    tell.send(stream.delivered()).ok();
                    continue;
                }
            };
            let last = !matches!(answer, Some(WatchResponse::Events { .. } | WatchResponse::Progress { .. }));
            if self.carry(answer).await.is_err() || last {
                return;
            }
        }
    }

    async fn carry(&self, answer: Option<WatchResponse>) -> Result<(), Gone> {
        let of = |revision| pb::WatchResponse {
            header: Some(self.doors.header(revision)),
            watch_id: self.id,
            ..Default::default()
        };
        match answer {
            None => Ok(self.answers.send(Err(convert::status(store::Error::Stopped))).await?),
            Some(WatchResponse::Progress { revision }) => Ok(self.answers.send(Ok(of(revision))).await?),
            // As etcd: where to begin again is all it says, neither a reason nor a revision of the store.
            Some(WatchResponse::Canceled { compact_revision }) => {
                let cancelled = pb::WatchResponse { canceled: true, compact_revision, ..of(0) };
                Ok(self.answers.send(Ok(cancelled)).await?)
            }
            Some(WatchResponse::Events { revision, mut events }) => {
                if self.who.id.role() == Role::Vm {
                    match self.doors.sight(&self.who) {
                        Some(sight) => sight.events(&mut events),
                        // The stream is about to end.
                        None => events.clear(),
                    }
                    if events.is_empty() {
                        return Ok(());
                    }
                }
                let events = events.into_iter().map(convert::event);
                let part = pb::WatchResponse { fragment: true, ..of(revision) };
                let mut parts = if self.fragment {
                    fragments(events, part.encoded_len())
                } else {
                    vec![events.collect()]
                }
                .into_iter();
                while let Some(events) = parts.next() {
                    let fragment = parts.len() > 0;
                    self.answers.send(Ok(pb::WatchResponse { events, fragment, ..of(revision) })).await?;
                }
                Ok(())
            }
        }
    }
}

/// Cuts events into messages below the bound, each with `beside` bytes of its own; an event is never cut.
fn fragments(events: impl Iterator<Item = mvccpb::Event>, beside: usize) -> Vec<Vec<mvccpb::Event>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = beside;
    for event in events {
        let size = prost::encoding::message::encoded_len(EVENTS_TAG, &event);
        let part = parts.last_mut().expect("there is always one");
        if bytes + size >= FRAGMENT_BYTES_MAX && !part.is_empty() {
            parts.push(vec![event]);
            bytes = beside + size;
        } else {
            part.push(event);
            bytes += size;
        }
    }
    parts
}
