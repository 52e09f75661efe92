//! Waiting for one's turn: etcd's recipe for locks and elections, run beside the store.
//!
//! Whoever waits under a name puts a key `name/<lease>` that hangs on its lease, and waits until every key that was created
//! before it is gone. Each watches the one before it alone, so a turn that ends wakes one.

use super::{Doors, convert};
use crate::{
    authz::waiting,
    backend::{Engine, WatchResponse},
};
use bytes::Bytes;
use store::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, Error, EventKind, KeyValue, Op, OpResponse,
    PutRequest, RangeRequest, SortOrder, SortTarget, TxnRequest, WatchRequest,
};
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
    /// The revision that created the key: its place.
    pub(super) created: i64,
    /// The store's revision when it took the place, or found that it had it.
    pub(super) joined: i64,
    /// The value it has.
    pub(super) said: Bytes,
    /// Kept when this is dropped.
    has_come: bool,
}

impl Turn {
    /// Takes a place with a value; the place that this lease has already, if it has.
    pub(super) async fn join(doors: &Doors, name: &Bytes, lease: i64, value: Bytes) -> Result<Self, Status> {
        let engine = doors.engine().clone();
        let key = Bytes::from([waiting(name).key(), format!("{lease:x}").as_bytes()].concat());
        let request = TxnRequest {
            compare: vec![created(&key, 0)],
            success: vec![Op::Put(PutRequest {
                key: key.clone(),
                value: value.clone(),
                lease,
                ..PutRequest::default()
            })],
            failure: vec![Op::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() })],
        };
        let answer = engine.txn(request).await.map_err(refused)?;
        let had = match answer.responses.into_iter().next() {
            Some(OpResponse::Range(range)) => range.kvs.into_iter().next(),
            Some(OpResponse::Put(_) | OpResponse::DeleteRange(_) | OpResponse::Txn(_)) | None => None,
        };
        let (created, said) = had.map_or((answer.revision, value), |kv| (kv.create_revision, kv.value));
        Ok(Self { engine, name: name.clone(), key, created, joined: answer.revision, said, has_come: false })
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
            let before = RangeRequest {
                sort_order: SortOrder::Descend,
                max_create_revision: self.created - 1,
                keys_only: true,
                ..RangeRequest::default()
            };
            match one_of(&self.engine, &self.name, before).await? {
                (_, None) => return Ok(()),
                (revision, Some(last)) => gone(&self.engine, last.key, revision + 1).await?,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.has_come {
            let (engine, key, at) = (self.engine.clone(), self.key.clone(), self.created);
            tokio::spawn(async move {
                // A store that is too busy, or ends, leaves the key to its lease.
                delete(&engine, key, at).await.ok();
            });
        }
    }
}

/// The value of whoever has the turn under a name: the key that was created first.
pub(super) async fn first(engine: &Engine, name: &Bytes) -> Result<(i64, Option<KeyValue>), Status> {
    let oldest = RangeRequest { sort_order: SortOrder::Ascend, ..RangeRequest::default() };
    one_of(engine, name, oldest).await
}

/// The first or last, as `which` says, of those that wait under a name, in the order they came; and as of when.
async fn one_of(
    engine: &Engine,
    name: &Bytes,
    which: RangeRequest,
) -> Result<(i64, Option<KeyValue>), Status> {
    let all = waiting(name);
    let request = RangeRequest {
        key: all.key().clone(),
        range_end: all.range_end(),
        limit: 1,
        sort_target: SortTarget::Create,
        ..which
    };
    let answer = engine.range(&request).await.map_err(refused)?;
    Ok((answer.revision, answer.kvs.into_iter().next()))
}

/// Deletes the key if it is still the one that was created then; the store's revision, and whether it was.
pub(super) async fn delete(engine: &Engine, key: Bytes, at: i64) -> Result<(i64, bool), Status> {
    let request = TxnRequest {
        compare: vec![created(&key, at)],
        success: vec![Op::DeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() })],
        failure: Vec::new(),
    };
    let answer = engine.txn(request).await.map_err(refused)?;
    Ok((answer.revision, answer.succeeded))
}

/// Holds when the key was created in that revision; in 0, when it is not there.
pub(super) fn created(key: &Bytes, at: i64) -> Compare {
    Compare {
        key: key.clone(),
        range_end: Bytes::new(),
        result: CompareResult::Equal,
        target: CompareTarget::CreateRevision(at),
    }
}

fn key_only(key: &Bytes) -> RangeRequest {
    RangeRequest { key: key.clone(), keys_only: true, ..RangeRequest::default() }
}

/// Waits until a key is deleted; what happened is looked at from a revision on.
async fn gone(engine: &Engine, key: Bytes, from: i64) -> Result<(), Status> {
    let request = WatchRequest { key, start_revision: from, no_put: true, ..WatchRequest::default() };
    let mut watch = engine.watch(&request).map_err(refused)?;
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
