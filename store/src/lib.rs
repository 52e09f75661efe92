//! The etcd v3 engine as a value: MVCC, range, txn, watch, leases and compaction, without IO, clock, threads or protobuf.
//!
//! ```text
//!       put · delete_range · txn · compact · lease_*                 range · watch · poll
//!                        │  speculative                                  ▲  durable only
//!                        ▼                                               │
//!   ┌─ Store ───────────────────────────────────────────────────────────────────────────┐
//!   │  index    key → its versions        (store::mvcc)                                 │
//!   │  history  revision → keys changed   (store::history)        durable ≤ revision    │
//!   │  leases   id → expiry, keys         (store::lease)                                │
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
//! - a key that hangs on a lease goes with it: every key's lease exists;
//! - writers never wait for watchers: a watcher is a position in the history ([`Watcher`]), not a queue;
//! - the rows of all committed batches, given to [`Store::restore`], make the same store again.
//!
//! Texts and codes of errors, and every answer, are etcd's: `model` beside it is a plain list of versions, and
//! property tests compare the two.

mod dump;
mod error;
mod history;
mod kv;
mod lease;
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

pub use dump::{Dump, DumpError};
pub use error::{Code, Error};
pub use kv::{Event, EventKind, KeyRange, KeyValue};
pub use lease::{LeaseGrant, LeaseStatus};
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

/// The most operations of one txn with all that is nested in it, branches that do not run included. etcd has no such
/// bound; four full branches keep what one request can make the store look at within four times a flat txn's.
pub const TXN_OPS_NESTED_MAX: usize = 4 * TXN_OPS_MAX;

/// The shortest time to live of a lease, in seconds; shorter ones are raised to it. etcd's, with its default election
/// timeout: one and a half of it, rounded up.
pub const LEASE_TTL_MIN_S: i64 = 2;

/// The longest time to live of a lease, in seconds: etcd's.
pub const LEASE_TTL_MAX_S: i64 = 9_000_000_000;

/// The most leases: 5,000 nodes and as many VMs with one each, and room for people; next power of two.
pub const LEASES_MAX: usize = 16_384;

/// The most leases of one owner, so that a client which forgets its own takes only a sixteenth of all.
pub const LEASES_PER_OWNER_MAX: usize = 1_024;

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
