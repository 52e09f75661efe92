//! Carries a follower's requests over the etcd v3 API, and our `mesh.sync.v1` beside it. It decides nothing: see [`replica::follower`].
//!
//! ```text
//!  Follower ──requests──▶ session task (one a connection) ──▶ gRPC ──▶ store
//!     │     ◀─answers───                                  ◀── pages, watch
//!     └──events──▶ bounded channel ──▶ owner
//! ```
//!
//! A slow owner slows the follower, which slows the store's watch; nothing is queued without bound.

pub mod answer;
mod session;

use replica::{
    Now,
    follower::{Answer, Event, Follow, Follower, Request},
};
use session::Session;
pub use session::is_refusal;
use std::{future::Future, sync::Arc, time::Instant};
use tokio::{
    sync::{
        Notify,
        mpsc::{Receiver, Sender, channel},
    },
    time::sleep_until,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

/// Events that wait for their owner. A page and what a busy second brings; beyond that the store waits.
pub const EVENTS_MAX: usize = 1_024;

/// Answers that wait for the follower, which takes each within microseconds unless its owner is slow. The largest is
/// [`replica::follower::ANSWER_MAX_BYTES`]: a hostile store can hold this many of them here, 130 MB, and no more.
const ANSWERS_MAX: usize = 4;

/// Makes a fresh connection to the store, to a server that was verified.
pub trait Connect: Send + Sync + 'static {
    /// Dials; the error says why there is no connection, in words for a status.
    fn connect(&self) -> impl Future<Output = Result<tonic::transport::Channel, String>> + Send;
}

/// A follower at work. Dropping it ends it.
#[derive(Debug)]
pub struct Following {
    /// What the owner should know, in order.
    pub events: Receiver<Event>,
    relist: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Following {
    /// Lists everything again, because the owner no longer trusts what it holds.
    pub fn relist(&self) {
        self.relist.notify_one();
    }
}

/// Follows a store for ever, or until the handle is dropped. The seed spreads the waits of many followers.
pub fn spawn(follow: Follow, seed: u64, connect: impl Connect) -> Following {
    let (events, receiver) = channel(EVENTS_MAX);
    let relist = Arc::new(Notify::new());
    let run = run(Follower::new(follow, seed), connect, events, Arc::clone(&relist));
    Following { events: receiver, relist, _task: AbortOnDropHandle::new(tokio::spawn(run)) }
}

async fn run(mut follower: Follower, connect: impl Connect, events: Sender<Event>, relist: Arc<Notify>) {
    let connect = Arc::new(connect);
    let started = Instant::now();
    let now = || Now::at(started.elapsed());
    let (answers, mut answered) = channel::<Answer>(ANSWERS_MAX);
    let mut session: Option<Session> = None;
    loop {
        while let Some(event) = follower.poll_event() {
            if events.send(event).await.is_err() {
                return;
            }
        }
        // The owner may have kept us from what was here in time: it is heard before anything counts as overdue.
        if let Ok(answer) = answered.try_recv() {
            follower.handle(answer, now());
            continue;
        }
        while let Some(request) = follower.poll_request(now()) {
            match &request {
                Request::Connect { session: id } => {
                    session = Some(Session::start(*id, Arc::clone(&connect), answers.clone()));
                }
                Request::Disconnect { .. } => session = None,
                Request::Page { .. }
                | Request::Buckets { .. }
                | Request::Entries { .. }
                | Request::Watch { .. }
                | Request::Progress { .. } => {
                    if let Some(session) = &session {
                        session.carry(request);
                    }
                }
            }
        }
        // A request may have ended the session, and that is news for the owner first.
        if let Some(event) = follower.poll_event() {
            if events.send(event).await.is_err() {
                return;
            }
            continue;
        }
        let wake = follower.poll_timeout();
        let until = wake.map(|(at, _)| started + at.elapsed());
        tokio::select! {
            answer = answered.recv() => follower.handle(answer.expect("we hold a sender"), now()),
            () = relist.notified() => follower.relist(now()),
            () = sleep_until(until.unwrap_or_else(Instant::now).into()), if until.is_some() => {
                debug!(why = ?wake.map(|(_, why)| why), "The follower wakes");
            }
            () = events.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests;
