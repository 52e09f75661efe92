//! What a write has to satisfy before it changes anything, and how it then changes the store: one change set.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::kv::{KeyRange, KeyValue};
use crate::range::{self, Readable};
use crate::request::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, Op, OpResponse,
    PutRequest, PutResponse, TxnRequest,
};
use crate::row::State;
use crate::state::ChangeSet;
use crate::{Error, RECORD_BYTES_MAX, REQUEST_BYTES_MAX, TXN_OPS_MAX};

/// What can be said of a put without looking at the store.
pub(crate) fn check_put(put: &PutRequest) -> Result<(), Error> {
    if put.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    if put.key.len() + put.value.len() > RECORD_BYTES_MAX {
        return Err(Error::RequestTooLarge);
    }
    Ok(())
}

/// What can be said of a txn without looking at the store.
pub(crate) fn check_txn(txn: &TxnRequest) -> Result<(), Error> {
    if txn.compare.len() > TXN_OPS_MAX || txn.success.len() > TXN_OPS_MAX || txn.failure.len() > TXN_OPS_MAX {
        return Err(Error::TooManyOps);
    }
    for compare in &txn.compare {
        KeyRange::parse(&compare.key, &compare.range_end)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => KeyRange::parse(&range.key, &range.range_end).map(|_| ())?,
            Op::Put(put) => check_put(put)?,
            Op::DeleteRange(delete) => KeyRange::parse(&delete.key, &delete.range_end).map(|_| ())?,
        }
    }
    check_duplicates(&txn.success)?;
    check_duplicates(&txn.failure)?;
    if txn.bytes() > REQUEST_BYTES_MAX {
        return Err(Error::RequestTooLarge);
    }
    Ok(())
}

/// A key is put at most once, and not put and deleted: else one revision would change it twice. (etcd `checkIntervals`)
fn check_duplicates(ops: &[Op]) -> Result<(), Error> {
    let mut puts = BTreeSet::new();
    let mut deletes = Vec::new();
    for op in ops {
        match op {
            Op::Range(_) => {}
            Op::Put(put) => {
                if !puts.insert(&put.key) {
                    return Err(Error::DuplicateKey);
                }
            }
            Op::DeleteRange(delete) => deletes.push(KeyRange::parse(&delete.key, &delete.range_end)?),
        }
    }
    if puts.iter().any(|key| deletes.iter().any(|range| range.contains(key))) {
        return Err(Error::DuplicateKey);
    }
    Ok(())
}

impl TxnRequest {
    /// The bytes of its keys and values, as [`REQUEST_BYTES_MAX`] bounds them.
    pub fn bytes(&self) -> usize {
        let compares = self.compare.iter().map(|compare| {
            let value = if let CompareTarget::Value(value) = &compare.target { value.len() } else { 0 };
            compare.key.len() + compare.range_end.len() + value
        });
        let ops = self.success.iter().chain(&self.failure).map(|op| match op {
            Op::Range(range) => range.key.len() + range.range_end.len(),
            Op::Put(put) => put.key.len() + put.value.len(),
            Op::DeleteRange(delete) => delete.key.len() + delete.range_end.len(),
        });
        compares.chain(ops).sum()
    }
}

/// What the operations of the chosen branch ask of the store as it is before any of them ran.
///
/// Puts first, then ranges, whatever their order in the request: as etcd, so that the same one of two errors is told.
pub(crate) fn check_against(set: &ChangeSet<'_>, ops: &[Op]) -> Result<(), Error> {
    for op in ops {
        match op {
            Op::Put(put) => check_put_against(set, put)?,
            Op::Range(_) | Op::DeleteRange(_) => {}
        }
    }
    for op in ops {
        match op {
            Op::Range(range) => set.readable().resolve(range.revision).map(|_| ())?,
            Op::Put(_) | Op::DeleteRange(_) => {}
        }
    }
    Ok(())
}

/// What a put asks of the store as it is.
pub(crate) fn check_put_against(set: &ChangeSet<'_>, put: &PutRequest) -> Result<(), Error> {
    if (put.ignore_value || put.ignore_lease) && set.get(&put.key).is_none() {
        return Err(Error::KeyNotFound);
    }
    if put.lease != 0 {
        return Err(Error::LeaseNotFound);
    }
    set.check_space()
}

/// Whether a compare holds for every key of its range. (etcd `applyCompare`)
pub(crate) fn holds(set: &ChangeSet<'_>, compare: &Compare) -> Result<bool, Error> {
    let range = KeyRange::parse(&compare.key, &compare.range_end)?;
    let mut found = set.range(&range).peekable();
    if found.peek().is_none() {
        return Ok(match compare.target {
            // A value that is not there stands in no relation to any.
            CompareTarget::Value(_) => false,
            CompareTarget::Version(_)
            | CompareTarget::CreateRevision(_)
            | CompareTarget::ModRevision(_)
            | CompareTarget::Lease(_) => holds_for(&KeyValue::default(), compare),
        });
    }
    Ok(found.all(|kv| holds_for(&kv, compare)))
}

fn holds_for(kv: &KeyValue, compare: &Compare) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::CreateRevision(revision) => kv.create_revision.cmp(revision),
        CompareTarget::ModRevision(revision) => kv.mod_revision.cmp(revision),
        CompareTarget::Value(value) => kv.value.cmp(value),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    }
}

/// Runs one checked operation.
pub(crate) fn run(set: &mut ChangeSet<'_>, op: &Op) -> Result<OpResponse, Error> {
    Ok(match op {
        Op::Range(request) => {
            let readable: Readable = set.readable();
            let mut answer = range::read(set.index(), readable, request)?;
            answer.revision = set.revision();
            OpResponse::Range(answer)
        }
        Op::Put(request) => OpResponse::Put(put(set, request)),
        Op::DeleteRange(request) => OpResponse::DeleteRange(delete_range(set, request)?),
    })
}

/// Puts a checked key.
pub(crate) fn put(set: &mut ChangeSet<'_>, request: &PutRequest) -> PutResponse {
    let before = set.get(&request.key);
    let value = match &before {
        Some(kv) if request.ignore_value => kv.value.clone(),
        _ => request.value.clone(),
    };
    let lease = match &before {
        Some(kv) if request.ignore_lease => kv.lease,
        _ => request.lease,
    };
    let (create_revision, version) = match &before {
        Some(kv) => (kv.create_revision, kv.version + 1),
        None => (set.next_revision(), 1),
    };
    set.push(request.key.clone(), State::Live { create_revision, version, lease, value });
    PutResponse { revision: set.revision(), prev_kv: before.filter(|_| request.prev_kv) }
}

/// Deletes what exists of a range.
pub(crate) fn delete_range(
    set: &mut ChangeSet<'_>,
    request: &DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Error> {
    let range = KeyRange::parse(&request.key, &request.range_end)?;
    let before: Vec<KeyValue> = set.range(&range).collect();
    for kv in &before {
        set.push(Bytes::clone(&kv.key), State::Gone);
    }
    Ok(DeleteRangeResponse {
        revision: set.revision(),
        deleted: before.len() as i64,
        prev_kvs: if request.prev_kv { before } else { Vec::new() },
    })
}
