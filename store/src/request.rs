//! Requests and answers, one to one with `etcdserverpb`; headers are the face's, so an answer carries its revision.
//!
//! Ranges are raw (key, range_end) here because their errors are part of the answers; [`crate::KeyRange`] parses them.

use bytes::Bytes;

use crate::KeyValue;

/// As `etcdserverpb.RangeRequest`. `serializable` has no meaning here: one store, and every read is of what is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest {
    /// The first key.
    pub key: Bytes,
    /// The end: empty for the key alone, `\0` for everything from the key on.
    pub range_end: Bytes,
    /// The most keys in the answer; 0 is all.
    pub limit: i64,
    /// Read as of this revision; 0 or less is now.
    pub revision: i64,
    /// Direction of the sort; without one the limit cuts before the sort, not after it.
    pub sort_order: SortOrder,
    /// What is sorted by.
    pub sort_target: SortTarget,
    /// Leave the values out.
    pub keys_only: bool,
    /// Answer the count alone.
    pub count_only: bool,
    /// Only keys changed at or after this revision; 0 is no bound.
    pub min_mod_revision: i64,
    /// Only keys changed at or before this revision; 0 is no bound.
    pub max_mod_revision: i64,
    /// Only keys created at or after this revision; 0 is no bound.
    pub min_create_revision: i64,
    /// Only keys created at or before this revision; 0 is no bound.
    pub max_create_revision: i64,
}

/// As `RangeRequest.SortOrder`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// By key, as stored; with a target other than the key: ascending.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// As `RangeRequest.SortTarget`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// By key.
    #[default]
    Key,
    /// By version.
    Version,
    /// By the revision of creation.
    Create,
    /// By the revision of the last change.
    Mod,
    /// By value.
    Value,
}

/// As `etcdserverpb.RangeResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    /// The store's revision when it was read: the header's revision.
    pub revision: i64,
    /// The keys.
    pub kvs: Vec<KeyValue>,
    /// There are more than `limit`.
    pub more: bool,
    /// All keys of the range at that revision, whatever the limit and the bounds (as etcd counts).
    pub count: i64,
}

/// As `etcdserverpb.PutRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutRequest {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The lease to hang it on; 0 is none, and takes it off the one it hangs on.
    pub lease: i64,
    /// Answer with the key as it was before.
    pub prev_kv: bool,
    /// Keep the value it has.
    pub ignore_value: bool,
    /// Keep the lease it has.
    pub ignore_lease: bool,
}

/// As `etcdserverpb.PutResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutResponse {
    /// The revision of the put.
    pub revision: i64,
    /// The key as it was before, when asked for.
    pub prev_kv: Option<KeyValue>,
}

/// As `etcdserverpb.DeleteRangeRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRangeRequest {
    /// The first key.
    pub key: Bytes,
    /// The end, as in [`RangeRequest`].
    pub range_end: Bytes,
    /// Answer with the keys as they were before.
    pub prev_kv: bool,
}

/// As `etcdserverpb.DeleteRangeResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRangeResponse {
    /// The revision of the delete; when there was nothing to delete, the one the store had.
    pub revision: i64,
    /// How many keys were deleted.
    pub deleted: i64,
    /// The keys as they were, when asked for.
    pub prev_kvs: Vec<KeyValue>,
}

/// As `etcdserverpb.Compare`: the condition holds for every key of the range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The first key.
    pub key: Bytes,
    /// The end, as in [`RangeRequest`].
    pub range_end: Bytes,
    /// How the key's field has to stand to the target.
    pub result: CompareResult,
    /// The field and what it is compared with.
    pub target: CompareTarget,
}

/// As `Compare.CompareResult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    /// The field equals the target.
    Equal,
    /// The field is greater.
    Greater,
    /// The field is less.
    Less,
    /// The field differs.
    NotEqual,
}

/// As `Compare.target_union`; of a key that does not exist every number is 0, and a value compare is false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// The version.
    Version(i64),
    /// The revision of creation.
    CreateRevision(i64),
    /// The revision of the last change.
    ModRevision(i64),
    /// The value.
    Value(Bytes),
    /// The lease.
    Lease(i64),
}

/// As `etcdserverpb.RequestOp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read.
    Range(RangeRequest),
    /// Write.
    Put(PutRequest),
    /// Delete.
    DeleteRange(DeleteRangeRequest),
    /// A txn of its own compares, of the store as it is before anything of the whole txn is written.
    Txn(TxnRequest),
}

/// As `etcdserverpb.TxnRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnRequest {
    /// All must hold for `success` to run.
    pub compare: Vec<Compare>,
    /// Runs when all compares hold.
    pub success: Vec<Op>,
    /// Runs otherwise.
    pub failure: Vec<Op>,
}

/// As `etcdserverpb.ResponseOp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResponse {
    /// Of a range.
    Range(RangeResponse),
    /// Of a put.
    Put(PutResponse),
    /// Of a delete.
    DeleteRange(DeleteRangeResponse),
    /// Of a nested txn.
    Txn(TxnResponse),
}

/// As `etcdserverpb.TxnResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResponse {
    /// The revision of the txn's writes; without any, the one the store had. 0 in the answer of a nested one.
    pub revision: i64,
    /// Whether all compares held.
    pub succeeded: bool,
    /// One answer for each operation that ran, in order.
    pub responses: Vec<OpResponse>,
}

/// As `etcdserverpb.WatchCreateRequest`; watch ids and fragments are the face's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchRequest {
    /// The first key; empty begins at the first of all.
    pub key: Bytes,
    /// The end, as in [`RangeRequest`].
    pub range_end: Bytes,
    /// The first revision to deliver; 0 is the next one, and one below it was compacted. One that lies ahead is waited for.
    pub start_revision: i64,
    /// Deliver the keys as they were before.
    pub prev_kv: bool,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletes out.
    pub no_delete: bool,
    /// Say from time to time how far the watch is.
    pub progress_notify: bool,
}
