//! The writes of one revision, while they are made.

use std::time::Instant;

use bytes::Bytes;

use super::Store;
use crate::kv::{KeyRange, KeyValue};
use crate::mvcc::Index;
use crate::range::Readable;
use crate::row::{Row, RowId, State};
use crate::{Error, STORE_BYTES_MAX};

/// A change set: all of it gets one revision, the next one; without a write it gets none.
pub(crate) struct ChangeSet<'a> {
    store: &'a mut Store,
    before: i64,
    subs: u32,
    now: Instant,
}

impl<'a> ChangeSet<'a> {
    pub(crate) fn begin(store: &'a mut Store, now: Instant) -> Self {
        let before = store.applied;
        Self { store, before, subs: 0, now }
    }

    /// The revision of the store if it ended now.
    pub(crate) fn end(self) -> i64 {
        self.revision()
    }

    pub(crate) fn index(&self) -> &Index {
        &self.store.index
    }

    /// The revision that the writes get.
    pub(crate) fn next_revision(&self) -> i64 {
        self.before + 1
    }

    /// The revision so far: the next one as soon as something is written.
    pub(crate) fn revision(&self) -> i64 {
        if self.subs == 0 { self.before } else { self.next_revision() }
    }

    pub(crate) fn readable(&self) -> Readable {
        let compacted = self.store.compacting.unwrap_or(self.store.compacted);
        Readable { compacted, current: self.before, now: self.next_revision() }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.store.index.get(key, self.next_revision())
    }

    pub(crate) fn range(&self, range: &KeyRange) -> impl Iterator<Item = KeyValue> {
        self.store.index.range(range, self.next_revision())
    }

    pub(crate) fn check_space(&self) -> Result<(), Error> {
        if self.store.index.bytes() >= STORE_BYTES_MAX { Err(Error::NoSpace) } else { Ok(()) }
    }

    pub(crate) fn has_lease(&self, id: i64) -> bool {
        self.store.leases.contains(id)
    }

    pub(crate) fn delete(&mut self, key: Bytes) {
        self.push(key, State::Gone);
    }

    pub(crate) fn push(&mut self, key: Bytes, state: State) {
        let id = RowId { revision: self.next_revision(), sub: self.subs };
        self.subs += 1;
        let row = Row { key, state };
        self.store.pending.puts.push((id, row.encode()));
        self.store.note(id, row.key, row.state, self.now);
    }
}
