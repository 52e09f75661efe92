//! Where the records live, and who may say that they are there.
//!
//! ```text
//!   range, watch ──────────────▶ Store (in memory, durable revisions only)
//!   put, delete, txn, compact ─▶ queue ─▶ writer thread: apply* ─▶ append + sync ─▶ commit ─▶ replies, watchers
//!                                                                  └─ Backend: sled
//! ```
//!
//! [`Engine`] is the handle that the gRPC face and the publisher share. Its writer is the only one that writes: what
//! arrives while a sync runs shares the next one. An answer is given after the sync, and a sync that fails ends the
//! process, because after it nobody can say what the disk holds.
//!
//! The directory:
//!
//! | name | what |
//! |---|---|
//! | `lock` | held while the store is open; one process at a time |
//! | `lineage` | every boot and its first revision; cannot be rebuilt, so it is not in the store |
//! | `store/` | sled's files, and `head`: up to which revision they were durable |
//! | `store.damaged-<n>/` | a store that could not be read, set aside for a person |
//! | `restore.dump` | what the next start makes the store of |
//! | `store.replaced-<n>/` | the store that was there before a dump was restored |

use bytes::Bytes;

mod chunks;
mod dir;
mod engine;
mod head;
pub mod lineage_file;
mod restore;
mod sled_disk;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

pub use dir::OpenError;
pub use engine::{Engine, Stats};
pub use restore::restore;
pub use watch::{WatchResponse, WatchStream};

/// What a backend kept.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The compacted revision; 0 when nothing was compacted.
    pub compacted: i64,
    /// Every row, in any order.
    pub rows: Vec<(store::RowId, Bytes)>,
    /// Every lease, by id.
    pub leases: Vec<(i64, Bytes)>,
}

/// A disk for the store's batches.
pub trait Backend: Send + 'static {
    /// Everything that was ever appended and not deleted.
    ///
    /// # Errors
    /// When it cannot be read, or what is read cannot be what was written.
    fn load(&mut self) -> Result<Loaded, BackendError>;

    /// Writes a batch, all or nothing; when it returns, a power cut cannot take it back.
    ///
    /// # Errors
    /// Nothing is known about the batch then, and the process has to end.
    fn append(&mut self, batch: &store::Batch) -> Result<(), BackendError>;
}

/// Why a backend does not do its work.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The files are there and are not what we wrote: they are set aside.
    #[error("the store in {dir} is damaged: {what}", dir = dir.display())]
    Damaged {
        /// Where.
        dir: std::path::PathBuf,
        /// What was found.
        what: String,
    },
    /// The system refused: disk full, permissions, hardware. The files may be well.
    #[error("cannot {doing} the store in {dir}", dir = dir.display())]
    Io {
        /// `open`, `read`, `write` or `sync`.
        doing: &'static str,
        /// Where.
        dir: std::path::PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}
