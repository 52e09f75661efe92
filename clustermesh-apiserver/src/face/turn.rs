//! Waiting for one's turn: the [`recipe`] of locks and elections, run beside the store.
//!
//! Whoever waits does so until every key that was created before its own is gone. Each watches the one before it alone, so
//! a turn that ends wakes one.

use super::{
    Doors, convert,
    recipe::{self, Place},
};
use crate::backend::{Engine, WatchResponse};
use bytes::Bytes;
use store::{Error, EventKind, KeyValue, RangeRequest};
use tonic::Status;

/// What the store refuses to whoever asks for a turn: etcd runs the recipe as a client of its own, and of an error passes
/// on the text alone.
pub(super) fn refused(error: Error) -> Status {
    match error {
        // Whoever can come again is told so.
        Error::Stopped | Error::TooManyRequests => convert::status(error),
        _ => Status::unknown(error.to_string()),
    }
}

/// A key among those that wait under a name. Dropped before its turn came, it is deleted: whoever asked has gone away.
#[derive(Debug)]
pub(super) struct Turn {
    engine: Engine,
    name: Bytes,
    pub(super) key: Bytes,
    pub(super) place: Place,
    /// The store's revision when it took the place, or found that it had it.
    pub(super) joined: i64,
    /// Kept when this is dropped.
    has_come: bool,
}

impl Turn {
    /// Takes a place with a value; the place that this lease has already, if it has.
    pub(super) async fn join(doors: &Doors, name: &Bytes, lease: i64, value: Bytes) -> Result<Self, Status> {
        let engine = doors.engine().clone();
        let key = recipe::key(name, lease);
        let answer = engine.txn(recipe::join(&key, lease, &value)).await.map_err(refused)?;
        let joined = answer.revision;
        let place = recipe::place(answer, value);
        Ok(Self { engine, name: name.clone(), key, place, joined, has_come: false })
    }

    /// Waits until nobody is before us.
    pub(super) async fn come(mut self, doors: &Doors) -> Result<Self, Status> {
        let shutdown = doors.shutdown().clone();
        tokio::select! {
            came = self.all_before_are_gone() => came?,
            () = shutdown.cancelled() => return Err(convert::status(Error::Stopped)),
        }
        // The lease may have ended while we waited.
        if self.engine.range(&key_only(&self.key)).await.map_err(refused)?.kvs.is_empty() {
            return Err(Status::unknown("mutex: session is expired"));
        }
        self.has_come = true;
        Ok(self)
    }

    async fn all_before_are_gone(&self) -> Result<(), Status> {
        loop {
            match one(&self.engine, recipe::before(&self.name, self.place.created)).await? {
                (_, None) => return Ok(()),
                (revision, Some(last)) => gone(&self.engine, last.key, revision + 1).await?,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.has_come {
            let (engine, key, at) = (self.engine.clone(), self.key.clone(), self.place.created);
            tokio::spawn(async move {
                // A store that is too busy, or ends, leaves the key to its lease.
                delete(&engine, key, at).await.ok();
            });
        }
    }
}

/// The value of whoever has the turn under a name.
pub(super) async fn first(engine: &Engine, name: &Bytes) -> Result<(i64, Option<KeyValue>), Status> {
    one(engine, recipe::first(name)).await
}

/// The one key that a request asks for; and as of when.
async fn one(engine: &Engine, request: RangeRequest) -> Result<(i64, Option<KeyValue>), Status> {
    let answer = engine.range(&request).await.map_err(refused)?;
    Ok((answer.revision, answer.kvs.into_iter().next()))
}

/// Deletes the key if it is still the one that was created then; the store's revision, and whether it was.
pub(super) async fn delete(engine: &Engine, key: Bytes, at: i64) -> Result<(i64, bool), Status> {
    let answer = engine.txn(recipe::give_up(key, at)).await.map_err(refused)?;
    Ok((answer.revision, answer.succeeded))
}

fn key_only(key: &Bytes) -> RangeRequest {
    RangeRequest { key: key.clone(), keys_only: true, ..RangeRequest::default() }
}

/// Waits until a key is deleted; what happened is looked at from a revision on.
async fn gone(engine: &Engine, key: Bytes, from: i64) -> Result<(), Status> {
    let mut watch = engine.watch(&recipe::end(key, from)).map_err(refused)?;
    loop {
        match watch.next().await {
            Some(WatchResponse::Events { events, .. }) => {
                if events.iter().any(|event| event.kind == EventKind::Delete) {
                    return Ok(());
                }
            }
            Some(WatchResponse::Progress { .. }) => {}
            // Whoever asks looks again.
            Some(WatchResponse::Canceled { .. }) => return Ok(()),
            None => return Err(convert::status(Error::Stopped)),
        }
    }
}
