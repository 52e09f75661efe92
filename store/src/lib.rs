//! The etcd v3 engine as a value: MVCC, range, txn, watch and compaction, without IO, clock, threads or protobuf.
//!
//! ```text
//!              put · delete_range · txn · compact                    range · watch · poll
//!                        │  speculative                                  ▲  durable only
//!                        ▼                                               │
//!   ┌─ Store ───────────────────────────────────────────────────────────────────────────┐
//!   │  index    key → its versions        (store::mvcc)                                 │
//!   │  history  revision → keys changed   (store::history)        durable ≤ revision    │
//!   └────────────────────────────────────────────────────────────────────────────────────┘
//!                        │ take_batch()                ▲ commit(&batch)
//!                        ▼                             │
//!                  rows for the disk ── append, sync ──┘          (the shell's part)
//! ```
//!
//! A write changes the value at once and puts its rows into the *pending batch*; its answer belongs to whoever
//! asked only after [`Store::commit`]. So many writes share one sync, and nobody sees what a crash could take back.
//!
//! Invariants:
//! - a read or a watcher sees revisions up to [`Store::revision`] (durable), never above;
//! - a revision is one change set: a watcher receives it whole or not at all;
//! - a key changes at most once in a revision, so (key, revision) names one version;
//! - history at and above [`Store::compacted`] is complete: a watcher that can be served misses nothing;
//! - writers never wait for watchers: a watcher is a position in the history ([`Watcher`]), not a queue;
//! - the rows of all committed batches, given to [`Store::restore`], make the same store again.
//!
//! Texts and codes of errors, and every answer, are etcd's: `model` beside it is a plain list of versions, and
//! property tests compare the two.

mod error;
mod history;
mod kv;
mod lineage;
#[cfg(test)]
mod model;
mod mvcc;
mod range;
mod request;
mod row;
mod state;
#[cfg(test)]
mod tests;
mod txn;
mod watch;

pub use error::{Code, Error};
pub use kv::{Event, EventKind, KeyRange, KeyValue};
pub use lineage::{Boot, BootId, Lineage};
pub use request::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, Op, OpResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, SortOrder, SortTarget, TxnRequest, TxnResponse,
    WatchRequest,
};
pub use row::{RowError, RowId};
pub use state::{Batch, Sizes, Store};
pub use watch::{Polled, Watcher};

/// The most operations, and the most compares, of one txn: etcd's `--max-txn-ops` default.
pub const TXN_OPS_MAX: usize = 128;

/// The most bytes of key and value together: one record is one small fact (design, Numbers).
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// The most bytes of keys and values of one request: etcd's `--max-request-bytes` default.
pub const REQUEST_BYTES_MAX: usize = 3 * 1024 * 1024 / 2;

/// The most bytes the whole store keeps in memory, versions of the history included; above it a put is refused
/// with etcd's NOSPACE and deletes go on. 100,000 endpoints of 300 bytes are 30 MiB, the history is bounded by
/// 256 MiB: this is three times both.
pub const STORE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// History above this is compacted, oldest first (design, decision 6).
pub const HISTORY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// History older than this is compacted (design, decision 6).
pub const HISTORY_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(3600);
