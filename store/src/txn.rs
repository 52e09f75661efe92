//! What a write has to satisfy before it changes anything, and how it then changes the store: one change set.

mod disjoint;

use bytes::Bytes;

use crate::kv::{KeyRange, KeyValue};
use crate::range::{self, Readable};
use crate::request::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, Op, OpResponse,
    PutRequest, PutResponse, RangeRequest, TxnRequest, TxnResponse,
};
use crate::row::State;
use crate::state::ChangeSet;
use crate::{Error, RECORD_BYTES_MAX, REQUEST_BYTES_MAX, TXN_OPS_MAX, TXN_OPS_NESTED_MAX};

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

/// What can be said of a txn without looking at the store. (etcd `checkTxnRequest`)
pub(crate) fn check_txn(txn: &TxnRequest) -> Result<(), Error> {
    check_ops(txn, TXN_OPS_MAX)?;
    if txn.ops() > TXN_OPS_NESTED_MAX {
        return Err(Error::TooManyOps);
    }
    disjoint::check(&txn.success)?;
    disjoint::check(&txn.failure)?;
    if txn.bytes() > REQUEST_BYTES_MAX {
        return Err(Error::RequestTooLarge);
    }
    Ok(())
}

/// A level has what the levels above it left of the operations: so the depth is bounded, too.
fn check_ops(txn: &TxnRequest, left: usize) -> Result<(), Error> {
    let used = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let left = left.checked_sub(used).ok_or(Error::TooManyOps)?;
    for compare in &txn.compare {
        KeyRange::parse(&compare.key, &compare.range_end)?;
    }
    for op in txn.all_ops() {
        match op {
            Op::Range(range) => KeyRange::parse(&range.key, &range.range_end).map(|_| ())?,
            Op::Put(put) => check_put(put)?,
            Op::DeleteRange(delete) => KeyRange::parse(&delete.key, &delete.range_end).map(|_| ())?,
            Op::Txn(nested) => check_ops(nested, left)?,
        }
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
        let ops = self.all_ops().map(|op| match op {
            Op::Range(range) => range.key.len() + range.range_end.len(),
            Op::Put(put) => put.key.len() + put.value.len(),
            Op::DeleteRange(delete) => delete.key.len() + delete.range_end.len(),
            Op::Txn(nested) => nested.bytes(),
        });
        compares.chain(ops).sum()
    }

    /// How many operations it has with all that is nested in it, compares included.
    fn ops(&self) -> usize {
        let nested = |op: &Op| match op {
            Op::Range(_) | Op::Put(_) | Op::DeleteRange(_) => 1,
            Op::Txn(nested) => 1 + nested.ops(),
        };
        self.compare.len() + self.all_ops().map(nested).sum::<usize>()
    }

    /// The operations of both branches.
    fn all_ops(&self) -> impl Iterator<Item = &Op> {
        self.success.iter().chain(&self.failure)
    }
}

/// A txn after its compares were decided: what runs of it.
pub(crate) struct Chosen<'a> {
    succeeded: bool,
    ops: Vec<ChosenOp<'a>>,
}

enum ChosenOp<'a> {
    Range(&'a RangeRequest),
    Put(&'a PutRequest),
    DeleteRange(&'a DeleteRangeRequest),
    Txn(Chosen<'a>),
}

/// Decides every compare that matters, nested ones included, before anything is written. (etcd `compareToPath`)
pub(crate) fn choose<'a>(set: &ChangeSet<'_>, txn: &'a TxnRequest) -> Result<Chosen<'a>, Error> {
    let mut succeeded = true;
    for compare in &txn.compare {
        succeeded = succeeded && holds(set, compare)?;
    }
    let ops = if succeeded { &txn.success } else { &txn.failure };
    let choose_op = |op: &'a Op| {
        Ok(match op {
            Op::Range(range) => ChosenOp::Range(range),
            Op::Put(put) => ChosenOp::Put(put),
            Op::DeleteRange(delete) => ChosenOp::DeleteRange(delete),
            Op::Txn(nested) => ChosenOp::Txn(choose(set, nested)?),
        })
    };
    Ok(Chosen { succeeded, ops: ops.iter().map(choose_op).collect::<Result<_, _>>()? })
}

/// What the operations that run ask of the store as it is before any of them ran.
///
/// Puts first, then ranges, whatever their order in the request: as etcd, so that the same one of two errors is told.
pub(crate) fn check_against(set: &ChangeSet<'_>, txn: &Chosen<'_>) -> Result<(), Error> {
    check_puts(set, txn)?;
    check_ranges(set, txn)
}

fn check_puts(set: &ChangeSet<'_>, txn: &Chosen<'_>) -> Result<(), Error> {
    txn.ops.iter().try_for_each(|op| match op {
        ChosenOp::Put(put) => check_put_against(set, put).and_then(|()| check_lease(set, put)),
        ChosenOp::Range(_) | ChosenOp::DeleteRange(_) => Ok(()),
        ChosenOp::Txn(nested) => check_puts(set, nested),
    })
}

fn check_ranges(set: &ChangeSet<'_>, txn: &Chosen<'_>) -> Result<(), Error> {
    txn.ops.iter().try_for_each(|op| match op {
        ChosenOp::Range(range) => set.readable().check(range.revision),
        ChosenOp::Put(_) | ChosenOp::DeleteRange(_) => Ok(()),
        ChosenOp::Txn(nested) => check_ranges(set, nested),
    })
}

/// What a put asks of the store as it is, but for its lease.
pub(crate) fn check_put_against(set: &ChangeSet<'_>, put: &PutRequest) -> Result<(), Error> {
    if (put.ignore_value || put.ignore_lease) && set.get(&put.key).is_none() {
        return Err(Error::KeyNotFound);
    }
    set.check_space()
}

/// A put hangs its key on a lease that is there.
pub(crate) fn check_lease(set: &ChangeSet<'_>, put: &PutRequest) -> Result<(), Error> {
    if put.lease == 0 || set.has_lease(put.lease) { Ok(()) } else { Err(Error::LeaseNotFound) }
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

/// Runs what was chosen and checked. The answer's `revision` is the caller's to set.
pub(crate) fn run(set: &mut ChangeSet<'_>, txn: &Chosen<'_>) -> Result<TxnResponse, Error> {
    let responses = txn.ops.iter().map(|op| run_op(set, op)).collect::<Result<_, _>>()?;
    Ok(TxnResponse { revision: 0, succeeded: txn.succeeded, responses })
}

fn run_op(set: &mut ChangeSet<'_>, op: &ChosenOp<'_>) -> Result<OpResponse, Error> {
    Ok(match op {
        ChosenOp::Range(request) => {
            let readable: Readable = set.readable();
            let mut answer = range::read(set.index(), readable, request)?;
            answer.revision = set.revision();
            OpResponse::Range(answer)
        }
        ChosenOp::Put(request) => OpResponse::Put(put(set, request)),
        ChosenOp::DeleteRange(request) => OpResponse::DeleteRange(delete_range(set, request)?),
        ChosenOp::Txn(nested) => OpResponse::Txn(run(set, nested)?),
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
        set.delete(Bytes::clone(&kv.key));
    }
    Ok(DeleteRangeResponse {
        revision: set.revision(),
        deleted: before.len() as i64,
        prev_kvs: if request.prev_kv { before } else { Vec::new() },
    })
}
