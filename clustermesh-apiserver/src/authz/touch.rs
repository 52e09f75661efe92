//! What a request would read and write: every range of it, wherever it is written.

use bytes::Bytes;
use rpc::{etcdserverpb as pb, v3electionpb as election, v3lockpb as lock};
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
    /// It would hang on a lease, and go with it.
    pub leased: bool,
}

fn touch(access: Access, key: &Bytes, range_end: &Bytes) -> Result<Touch, Error> {
    Ok(Touch { access, range: KeyRange::parse(key, range_end)?, value: None, leased: false })
}

/// Of a `Range`.
///
/// # Errors
/// [`Error::EmptyKey`], as etcd says.
pub fn range(request: &pb::RangeRequest) -> Result<Vec<Touch>, Error> {
    Ok(vec![touch(Access::Read, &request.key, &request.range_end)?])
}

/// Of `Buckets` and `Entries`: hashes of keys say which keys there are, and when they changed.
///
/// # Errors
/// [`Error::EmptyKey`], as etcd says.
pub fn hashes(key: &Bytes, range_end: &Bytes) -> Result<Vec<Touch>, Error> {
    Ok(vec![touch(Access::Read, key, range_end)?])
}

/// Of a `Put`: `prev_kv` reads, too.
///
/// # Errors
/// [`Error::EmptyKey`], as etcd says.
pub fn put(request: &pb::PutRequest) -> Result<Vec<Touch>, Error> {
    let mut write = touch(Access::Write, &request.key, &Bytes::new())?;
    // With `ignore_value` the value stays what it was, and that was valid.
    write.value = (!request.ignore_value).then(|| request.value.clone());
    write.leased = request.lease != 0;
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

/// The keys of those who wait under a name, each with its lease: `name/…`, as etcd's recipes write them.
#[must_use]
pub fn waiting(name: &[u8]) -> KeyRange {
    KeyRange::prefix([name, b"/"].concat())
}

/// Of a `Lock`: it reads who waits, and writes a key among them.
#[must_use]
pub fn lock(request: &lock::LockRequest) -> Vec<Touch> {
    join(&request.name)
}

/// Of an `Unlock`.
///
/// # Errors
/// [`Error::EmptyKey`]
pub fn unlock(request: &lock::UnlockRequest) -> Result<Vec<Touch>, Error> {
    Ok(vec![touch(Access::Write, &request.key, &Bytes::new())?])
}

/// Of a `Campaign`, as of a lock.
#[must_use]
pub fn campaign(request: &election::CampaignRequest) -> Vec<Touch> {
    join(&request.name)
}

/// Of a `Proclaim`: its compare reads.
///
/// # Errors
/// [`Error::EmptyKey`]
pub fn proclaim(request: &election::ProclaimRequest) -> Result<Vec<Touch>, Error> {
    let [read, write] = held(request.leader.as_ref())?;
    Ok(vec![read, Touch { value: Some(request.value.clone()), leased: true, ..write }])
}

/// Of a `Resign`: its compare reads.
///
/// # Errors
/// [`Error::EmptyKey`]
pub fn resign(request: &election::ResignRequest) -> Result<Vec<Touch>, Error> {
    held(request.leader.as_ref()).map(Vec::from)
}

/// Of a `Leader` or an `Observe`.
#[must_use]
pub fn leader(request: &election::LeaderRequest) -> Vec<Touch> {
    vec![Touch { access: Access::Read, range: waiting(&request.name), value: None, leased: false }]
}

fn join(name: &[u8]) -> Vec<Touch> {
    let read = Touch { access: Access::Read, range: waiting(name), value: None, leased: false };
    let write = Touch { access: Access::Write, leased: true, ..read.clone() };
    vec![read, write]
}

/// The key that a leader holds.
fn held(leader: Option<&election::LeaderKey>) -> Result<[Touch; 2], Error> {
    let key = leader.map(|leader| leader.key.clone()).unwrap_or_default();
    Ok([touch(Access::Read, &key, &Bytes::new())?, touch(Access::Write, &key, &Bytes::new())?])
}
