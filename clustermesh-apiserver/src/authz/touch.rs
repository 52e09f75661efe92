//! What a request would read and write: every range of it, wherever it is written.

use bytes::Bytes;
use rpc::etcdserverpb as pb;
use store::{Error, KeyRange};

/// Reading shows values or that keys exist; writing changes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Values, counts, comparisons, events.
    Read,
    /// Puts and deletes.
    Write,
}

/// One range that a request touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// How.
    pub access: Access,
    /// Which keys.
    pub range: KeyRange,
    /// What would be put there.
    pub value: Option<Bytes>,
}

fn touch(access: Access, key: &Bytes, range_end: &Bytes) -> Result<Touch, Error> {
    Ok(Touch { access, range: KeyRange::parse(key, range_end)?, value: None })
}

/// Of a `Range`.
///
/// # Errors
/// [`Error::EmptyKey`], as etcd says.
pub fn range(request: &pb::RangeRequest) -> Result<Vec<Touch>, Error> {
    Ok(vec![touch(Access::Read, &request.key, &request.range_end)?])
}

/// Of a `Put`: `prev_kv` reads, too.
///
/// # Errors
/// [`Error::EmptyKey`], as etcd says.
pub fn put(request: &pb::PutRequest) -> Result<Vec<Touch>, Error> {
    let mut write = touch(Access::Write, &request.key, &Bytes::new())?;
    // With `ignore_value` the value stays what it was, and that was valid.
    write.value = (!request.ignore_value).then(|| request.value.clone());
    let mut touches = vec![write];
    if request.prev_kv {
        touches.push(touch(Access::Read, &request.key, &Bytes::new())?);
    }
    Ok(touches)
}

/// Of a `DeleteRange`: `prev_kv` reads, too.
///
/// # Errors
/// [`Error::EmptyKey`], as etcd says.
pub fn delete_range(request: &pb::DeleteRangeRequest) -> Result<Vec<Touch>, Error> {
    let mut touches = vec![touch(Access::Write, &request.key, &request.range_end)?];
    if request.prev_kv {
        touches.push(touch(Access::Read, &request.key, &request.range_end)?);
    }
    Ok(touches)
}

/// Of a `Txn`: its compares (their outcome is what a value is), both branches, and what is nested in them.
///
/// # Errors
/// [`Error::EmptyKey`], as etcd says.
pub fn txn(request: &pb::TxnRequest) -> Result<Vec<Touch>, Error> {
    let mut touches = Vec::new();
    for compare in &request.compare {
        touches.push(touch(Access::Read, &compare.key, &compare.range_end)?);
    }
    for op in request.success.iter().chain(&request.failure) {
        touches.extend(match &op.request {
            None => Vec::new(),
            Some(pb::request_op::Request::RequestRange(op)) => range(op)?,
            Some(pb::request_op::Request::RequestPut(op)) => put(op)?,
            Some(pb::request_op::Request::RequestDeleteRange(op)) => delete_range(op)?,
            // prost decodes at most 100 levels.
            Some(pb::request_op::Request::RequestTxn(op)) => txn(op)?,
        });
    }
    Ok(touches)
}

/// Of a watch: an empty key begins at the first of all keys.
///
/// # Errors
/// None: every pair is a range.
pub fn watch(request: &pb::WatchCreateRequest) -> Result<Vec<Touch>, Error> {
    let first = Bytes::from_static(b"\0");
    let key = if request.key.is_empty() { &first } else { &request.key };
    Ok(vec![touch(Access::Read, key, &request.range_end)?])
}
