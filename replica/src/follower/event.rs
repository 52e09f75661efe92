//! What a follower tells its owner.

use super::wire::{Change, Value};
use std::time::Duration;

/// A list is one generation: between `Init` and `InitDone` the owner collects, and what the finished list lacks
/// vanishes exactly at `InitDone`. A list goes on behind a `Disconnected` in it; a second `Init` means that the list before it
/// came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A list begins.
    Init,
    /// One of its records.
    InitApply(Value),
    /// The list is complete; it is the store's content at this revision.
    InitDone {
        /// The revision it was pinned at.
        revision: u64,
    },
    /// After a cut the watch goes on; what the owner holds stays. What changed while the history forgot was told just
    /// before, as changes: what vanished first, then what was written, in the order of its revisions.
    Resumed {
        /// Everything up to here was told.
        revision: u64,
    },
    /// A record was written.
    Apply(Value),
    /// A record was deleted.
    Delete {
        /// Which.
        key: Vec<u8>,
        /// The revision of the delete.
        mod_revision: u64,
    },
    /// All changes up to here were told.
    Progress {
        /// Of the store.
        revision: u64,
    },
    /// The session ended; what the owner holds stays as it is, and grows old.
    Disconnected {
        /// Why.
        error: String,
        /// The other side was verified, and does not let us in: it has nothing to do with us, or no longer.
        refused: bool,
        /// The next session begins after this time.
        retry_in: Duration,
    },
}

impl From<Change> for Event {
    fn from(change: Change) -> Self {
        match change {
            Change::Put(value) => Self::Apply(value),
            Change::Delete { key, mod_revision } => Self::Delete { key, mod_revision },
        }
    }
}
