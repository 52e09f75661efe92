//! The store: what is applied, what of it is durable, and the batch between the two.

mod changes;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use crate::history::History;
use crate::lease::Leases;
use crate::mvcc::Index;
use crate::range::{self, Readable};
use crate::request::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    TxnRequest, TxnResponse,
};
use crate::row::{Row, RowError, RowId, State};
pub(crate) use changes::ChangeSet;

use crate::{Error, HISTORY_AGE_MAX, HISTORY_BYTES_MAX, REQUEST_BYTES_MAX, txn};

/// The revision of a store in which nothing was ever written, as in etcd.
const FIRST_REVISION: i64 = 1;

/// The compacted revision of a store in which nothing was compacted, as in etcd. A disk, which cannot say so, says 0.
const NOTHING_COMPACTED: i64 = -1;

/// How many rows a batch may remove after a compaction, beside [`GARBAGE_PER_PUT`] for each row it writes: so the
/// removal of a whole history is spread over the writes that follow, and no sync waits for it.
const GARBAGE_PER_BATCH: usize = 512;

/// Two for one: what waits for its removal shrinks under any load, because a row becomes garbage once.
const GARBAGE_PER_PUT: usize = 2;

/// What one sync has to make durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Rows to write.
    pub puts: Vec<(RowId, Bytes)>,
    /// Rows nobody can read any more; that they go is of no consequence to anybody.
    pub deletes: Vec<RowId>,
    /// The compacted revision, when it moved. It must become durable together with or after what is in `puts`.
    pub compacted: Option<i64>,
    /// Leases by id: to write, or to forget. They must become durable together with what is in `puts`.
    pub leases: BTreeMap<i64, Option<Bytes>>,
    revision: i64,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty() && self.compacted.is_none() && self.leases.is_empty()
    }

    /// The newest revision in it: durable once the batch is.
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

/// Sizes, read from the state when metrics are scraped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The durable revision.
    pub revision: i64,
    /// The oldest readable revision.
    pub compacted: i64,
    /// Keys with at least one version, deleted ones included until they are compacted.
    pub keys: usize,
    /// Versions of all keys.
    pub versions: usize,
    /// Bytes of all versions, as [`crate::STORE_BYTES_MAX`] counts them.
    pub bytes: u64,
    /// Bytes of the history, as [`HISTORY_BYTES_MAX`] counts them.
    pub history_bytes: u64,
    /// Rows on disk that wait for their removal.
    pub garbage_rows: usize,
    /// Leases that were granted and have not ended.
    pub leases: usize,
}

/// The etcd v3 engine. See the head of the crate.
#[derive(Debug)]
pub struct Store {
    pub(crate) index: Index,
    pub(crate) history: History,
    /// The newest revision applied.
    applied: i64,
    /// The newest revision that a crash cannot take back.
    pub(crate) durable: i64,
    /// The oldest readable revision.
    pub(crate) compacted: i64,
    /// A compaction that was asked for; in force when its batch is durable.
    compacting: Option<i64>,
    pub(crate) leases: Leases,
    pub(crate) pending: Batch,
    garbage: VecDeque<RowId>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            index: Index::default(),
            history: History::default(),
            applied: FIRST_REVISION,
            durable: FIRST_REVISION,
            compacted: NOTHING_COMPACTED,
            compacting: None,
            leases: Leases::default(),
            pending: Batch::default(),
            garbage: VecDeque::new(),
        }
    }
}

impl Store {
    /// The store whose committed batches left these rows and leases, in any order, and this compacted revision (0
    /// without one). Each lease begins a whole time to live at `now`.
    ///
    /// All of it counts as durable: the shell syncs before it shows anything.
    ///
    /// # Errors
    /// [`RowError`] when the rows are not what a store wrote.
    pub fn restore(
        compacted: i64,
        rows: impl IntoIterator<Item = (RowId, Bytes)>,
        leases: impl IntoIterator<Item = (i64, Bytes)>,
        now: Instant,
    ) -> Result<Self, RowError> {
        let mut rows: Vec<(RowId, Bytes)> = rows.into_iter().collect();
        rows.sort_by_key(|(id, _)| *id);
        let mut store = Self { leases: Leases::restore(leases, now)?, ..Self::default() };
        check_complete(compacted, rows.iter().map(|(id, _)| *id))?;
        for (id, bytes) in rows {
            let Row { key, state } = Row::decode(id, bytes)?;
            if store.index.last_change(&key).is_some_and(|last| last >= id.revision) {
                return Err(RowError::Contradiction { id, why: "its key changed twice in one revision" });
            }
            store.note(id, key, state, now);
        }
        if compacted > store.applied {
            let id = RowId { revision: compacted, sub: 0 };
            return Err(RowError::Contradiction { id, why: "the compacted revision is above all rows" });
        }
        if let Some((id, _)) = store.index.leased().find(|(_, lease)| !store.leases.contains(*lease)) {
            return Err(RowError::Contradiction { id, why: "the lease it hangs on is not there" });
        }
        store.durable = store.applied;
        // Rows that a compaction left for later are garbage again.
        store.compact_memory(if compacted == 0 { NOTHING_COMPACTED } else { compacted });
        Ok(store)
    }

    /// The newest durable revision.
    pub fn revision(&self) -> i64 {
        self.durable
    }

    /// The newest revision applied: durable after the next commit.
    pub fn applied(&self) -> i64 {
        self.applied
    }

    /// The oldest revision that can be read; below 0 when nothing was compacted.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Sizes for the metrics.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            revision: self.durable,
            compacted: self.compacted,
            keys: self.index.keys(),
            versions: self.index.versions(),
            bytes: self.index.bytes(),
            history_bytes: self.history.bytes(),
            garbage_rows: self.garbage.len(),
            leases: self.leases.len(),
        }
    }

    /// Reads a range, of what is durable.
    ///
    /// # Errors
    /// [`Error::EmptyKey`], [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let readable = Readable { compacted: self.compacted, current: self.durable, now: self.durable };
        let mut answer = range::read(&self.index, readable, request)?;
        answer.revision = self.durable;
        Ok(answer)
    }

    /// Puts a key. The answer may be given away after the commit.
    ///
    /// # Errors
    /// As etcd; nothing was changed then.
    pub fn put(&mut self, request: &PutRequest, now: Instant) -> Result<PutResponse, Error> {
        txn::check_put(request)?;
        let mut set = ChangeSet::begin(self, now);
        // etcd looks at the lease of a put first, and at that of a put in a txn last.
        txn::check_lease(&set, request)?;
        txn::check_put_against(&set, request)?;
        let answer = txn::put(&mut set, request);
        set.end();
        Ok(answer)
    }

    /// Deletes a range. The answer may be given away after the commit.
    ///
    /// # Errors
    /// [`Error::EmptyKey`]; nothing was changed then.
    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
        now: Instant,
    ) -> Result<DeleteRangeResponse, Error> {
        if request.key.len() + request.range_end.len() > REQUEST_BYTES_MAX {
            return Err(Error::RequestTooLarge);
        }
        let mut set = ChangeSet::begin(self, now);
        let answer = txn::delete_range(&mut set, request)?;
        set.end();
        Ok(answer)
    }

    /// Runs a txn: all its writes are one revision. The answer may be given away after the commit, also when nothing
    /// was written: its compares saw what is applied.
    ///
    /// # Errors
    /// As etcd; nothing was changed then.
    pub fn txn(&mut self, request: &TxnRequest, now: Instant) -> Result<TxnResponse, Error> {
        txn::check_txn(request)?;
        let mut set = ChangeSet::begin(self, now);
        let chosen = txn::choose(&set, request)?;
        txn::check_against(&set, &chosen)?;
        let mut answer = txn::run(&mut set, &chosen).expect("a checked txn is not refused");
        answer.revision = set.end();
        Ok(answer)
    }

    /// Asks for a compaction: from the next commit on, revisions below `revision` cannot be read.
    ///
    /// Returns the store's revision.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn compact(&mut self, revision: i64) -> Result<i64, Error> {
        let compacted = self.compacting.unwrap_or(self.compacted);
        if revision <= compacted {
            return Err(Error::Compacted { compact_revision: compacted });
        }
        if revision > self.applied {
            return Err(Error::FutureRevision);
        }
        self.compacting = Some(revision);
        self.pending.compacted = Some(revision);
        Ok(self.applied)
    }

    /// The revision to [`Store::compact`] at for history to keep its bounds of age and size; `None` while it does.
    pub fn compaction_due(&self, now: Instant) -> Option<i64> {
        self.history
            .due(now, HISTORY_AGE_MAX, HISTORY_BYTES_MAX, self.durable)
            .filter(|revision| *revision > self.compacting.unwrap_or(self.compacted))
    }

    /// Takes what has to reach the disk. One batch at a time: take, write and sync, [`Store::commit`].
    pub fn take_batch(&mut self) -> Batch {
        let mut batch = std::mem::take(&mut self.pending);
        batch.revision = self.applied;
        let garbage = self.garbage.len().min(GARBAGE_PER_BATCH + GARBAGE_PER_PUT * batch.puts.len());
        batch.deletes = self.garbage.drain(..garbage).collect();
        batch
    }

    /// The batch is durable: readers and watchers see it, and its answers may be given away.
    pub fn commit(&mut self, batch: &Batch) {
        self.durable = self.durable.max(batch.revision);
        if let Some(revision) = batch.compacted {
            if self.compacting == Some(revision) {
                self.compacting = None;
            }
            self.compact_memory(revision);
        }
    }

    fn compact_memory(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
        for key in self.history.compact(revision) {
            self.garbage.extend(self.index.compact(&key, revision));
        }
    }

    fn note(&mut self, id: RowId, key: Bytes, state: State, now: Instant) {
        let (value_len, lease) = match &state {
            State::Live { value, lease, .. } => (value.len(), *lease),
            State::Gone => (0, 0),
        };
        self.leases.rehang(&key, self.index.lease(&key), lease);
        self.history.push(id.revision, key.clone(), key.len() + value_len, now);
        self.index.push(id, key, state);
        self.applied = self.applied.max(id.revision);
    }
}

/// Above the compacted revision nothing is ever removed, so a row that is missing there was lost: better no store, and
/// another boot, than one that says that a change never was. (A loss at the very end cannot be seen here; the shell knows
/// how far its disk was.)
fn check_complete(compacted: i64, ids: impl Iterator<Item = RowId>) -> Result<(), RowError> {
    let floor = compacted.max(FIRST_REVISION);
    let mut last = RowId { revision: floor, sub: 0 };
    for id in ids.filter(|id| id.revision <= FIRST_REVISION || id.revision > floor) {
        let follows = id == RowId { revision: last.revision + 1, sub: 0 }
            || (id == RowId { revision: last.revision, sub: last.sub + 1 } && last.revision > floor);
        if !follows {
            return Err(RowError::Contradiction { id, why: "a row before it is missing" });
        }
        last = id;
    }
    Ok(())
}
