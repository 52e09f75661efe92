//! Reading a range, with etcd's rules for revisions, bounds, order, limit and count.

use bytes::Bytes;

use crate::mvcc::Index;
use crate::request::{RangeRequest, RangeResponse, SortOrder, SortTarget};
use crate::{Error, KeyRange, KeyValue};

/// From where to where one can read.
#[derive(Clone, Copy)]
pub(crate) struct Readable {
    /// The oldest revision.
    pub(crate) compacted: i64,
    /// The newest revision a request may name.
    pub(crate) current: i64,
    /// The revision that a request without one reads: `current`, or one's own writes within a txn.
    pub(crate) now: i64,
}

impl Readable {
    /// The revision a request reads as of.
    pub(crate) fn resolve(self, revision: i64) -> Result<i64, Error> {
        if revision <= 0 {
            return Ok(self.now);
        }
        self.check(revision).map(|()| revision)
    }

    /// Whether a revision can be read; 0 is now. One below it, which a request of its own reads as now, is compacted to a
    /// txn (etcd `checkRange`).
    pub(crate) fn check(self, revision: i64) -> Result<(), Error> {
        if revision > self.current {
            return Err(Error::FutureRevision);
        }
        if revision != 0 && revision < self.compacted {
            return Err(Error::Compacted { compact_revision: self.compacted });
        }
        Ok(())
    }
}

/// Answers a range; the answer's `revision` is the caller's to set.
pub(crate) fn read(
    index: &Index,
    readable: Readable,
    request: &RangeRequest,
) -> Result<RangeResponse, Error> {
    let range = KeyRange::parse(&request.key, &request.range_end)?;
    let at = readable.resolve(request.revision)?;
    let count = index.count(&range, at);
    let mut answer = RangeResponse { count: count as i64, ..RangeResponse::default() };
    if request.count_only {
        return Ok(answer);
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    // Nothing beyond the limit is looked at, but one key that says there is more.
    let looked_at = if limit_comes_first(request) { limit.saturating_add(1) } else { usize::MAX };
    let found = index.range(&range, at).take(looked_at);
    answer.kvs = found.filter(|kv| within_bounds(request, kv)).collect();
    if !is_stored_order(request) {
        sort(request, &mut answer.kvs);
    }
    answer.more = answer.kvs.len() > limit;
    answer.kvs.truncate(limit);
    if request.keys_only {
        for kv in &mut answer.kvs {
            kv.value = Bytes::new();
        }
    }
    Ok(answer)
}

/// In stored order the limit may cut before the sort. etcd does so whenever no order is asked for, another target than
/// the key included: what it sorts then is the first keys, not all.
fn limit_comes_first(request: &RangeRequest) -> bool {
    !has_bounds(request) && (request.sort_order == SortOrder::None || is_stored_order(request))
}

fn is_stored_order(request: &RangeRequest) -> bool {
    request.sort_target == SortTarget::Key && request.sort_order != SortOrder::Descend
}

fn has_bounds(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn within_bounds(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

/// Equal ones stay in the order of their keys, whatever the direction (etcd sorts by insertion, if there are few).
fn sort(request: &RangeRequest, kvs: &mut [KeyValue]) {
    let by = |a: &KeyValue, b: &KeyValue| match request.sort_target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    match request.sort_order {
        SortOrder::None | SortOrder::Ascend => kvs.sort_by(by),
        SortOrder::Descend => kvs.sort_by(|a, b| by(b, a)),
    }
}
