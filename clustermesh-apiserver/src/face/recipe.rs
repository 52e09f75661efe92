//! What locks and elections ask of the store, in etcd's recipe. Pure.
//!
//! Whoever waits under a name puts a key `name/<lease>` that hangs on its lease; the key that was created first has the turn.

use crate::authz::waiting;
use bytes::Bytes;
use rpc::v3electionpb::LeaderKey;
use store::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyValue, Op, OpResponse, PutRequest,
    RangeRequest, SortOrder, SortTarget, TxnRequest, TxnResponse, WatchRequest,
};

/// A place among those that wait under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The revision that created its key.
    pub created: i64,
    /// The value that its key has.
    pub said: Bytes,
}

/// The key by which a lease waits under a name.
#[must_use]
pub fn key(name: &[u8], lease: i64) -> Bytes {
    Bytes::from([waiting(name).key(), format!("{lease:x}").as_bytes()].concat())
}

/// Takes a place with a value, or finds the one that this lease has already.
#[must_use]
pub fn join(key: &Bytes, lease: i64, value: &Bytes) -> TxnRequest {
    let put = PutRequest { key: key.clone(), value: value.clone(), lease, ..PutRequest::default() };
    TxnRequest {
        compare: vec![created(key, 0)],
        success: vec![Op::Put(put)],
        failure: vec![Op::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() })],
    }
}

/// The place that the answer to [`join`] tells of.
#[must_use]
pub fn place(answer: TxnResponse, value: Bytes) -> Place {
    let had = match answer.responses.into_iter().next() {
        Some(OpResponse::Range(range)) => range.kvs.into_iter().next(),
        Some(OpResponse::Put(_) | OpResponse::DeleteRange(_) | OpResponse::Txn(_)) | None => None,
    };
    let (created, said) = had.map_or((answer.revision, value), |kv: KeyValue| (kv.create_revision, kv.value));
    Place { created, said }
}

/// Whoever has the turn under a name.
#[must_use]
pub fn first(name: &[u8]) -> RangeRequest {
    RangeRequest { sort_order: SortOrder::Ascend, ..one_of(name) }
}

/// The last of those who came before a place.
#[must_use]
pub fn before(name: &[u8], place: i64) -> RangeRequest {
    RangeRequest {
        sort_order: SortOrder::Descend,
        max_create_revision: place - 1,
        keys_only: true,
        ..one_of(name)
    }
}

fn one_of(name: &[u8]) -> RangeRequest {
    let all = waiting(name);
    RangeRequest {
        key: all.key().clone(),
        range_end: all.range_end(),
        limit: 1,
        sort_target: SortTarget::Create,
        ..RangeRequest::default()
    }
}

/// Deletes a key if it is still the one that was created then.
#[must_use]
pub fn give_up(key: Bytes, place: i64) -> TxnRequest {
    TxnRequest {
        compare: vec![created(&key, place)],
        success: vec![Op::DeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() })],
        failure: Vec::new(),
    }
}

/// A leader changes what it says, if it still leads.
#[must_use]
pub fn proclaim(leader: &LeaderKey, value: Bytes) -> TxnRequest {
    let LeaderKey { key, rev, lease, .. } = leader.clone();
    TxnRequest {
        compare: vec![created(&key, rev)],
        success: vec![Op::Put(PutRequest { key, value, lease, ..PutRequest::default() })],
        failure: Vec::new(),
    }
}

/// Tells of a key's end, from a revision on.
#[must_use]
pub fn end(key: Bytes, from: i64) -> WatchRequest {
    WatchRequest { key, start_revision: from, no_put: true, ..WatchRequest::default() }
}

/// Holds when the key was created in that revision; in 0, when it is not there.
fn created(key: &Bytes, at: i64) -> Compare {
    Compare {
        key: key.clone(),
        range_end: Bytes::new(),
        result: CompareResult::Equal,
        target: CompareTarget::CreateRevision(at),
    }
}
