//! One version as one row of the disk: (revision, sub) → kind, key, value. The layout is a promise to old stores.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The first byte of every row.
const LAYOUT: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Names a row: rows sort by the order in which they happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowId {
    /// The revision of the change set.
    pub revision: i64,
    /// The place within it.
    pub sub: u32,
}

/// One version of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The key.
    pub(crate) key: Bytes,
    /// What became of it.
    pub(crate) state: State,
}

/// What a version says of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It exists.
    Live {
        /// The revision in which it came to be.
        create_revision: i64,
        /// Puts since then.
        version: i64,
        /// The lease it hangs on; 0 is none.
        lease: i64,
        /// The value.
        value: Bytes,
    },
    /// It was deleted.
    Gone,
}

/// Bytes that are no row: the store they come from is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// It ends before its time.
    #[error("row {id:?} is cut off after {len} bytes")]
    Truncated {
        /// The row.
        id: RowId,
        /// What there is of it.
        len: usize,
    },
    /// Its layout or kind is not one of ours.
    #[error("row {id:?} has the unknown {what} {byte}")]
    Unknown {
        /// The row.
        id: RowId,
        /// `layout` or `kind`.
        what: &'static str,
        /// What was found.
        byte: u8,
    },
    /// A lease that cannot be read.
    #[error("the lease {id:x} cannot be read: {what}")]
    Lease {
        /// The lease.
        id: i64,
        /// What is wrong.
        what: &'static str,
    },
    /// Rows that contradict each other.
    #[error("row {id:?} contradicts the rows before it: {why}")]
    Contradiction {
        /// The row.
        id: RowId,
        /// What is wrong.
        why: &'static str,
    },
}

impl Row {
    /// How many bytes [`Row::encode`] makes.
    pub(crate) fn encoded_len(&self) -> usize {
        let state = match &self.state {
            State::Live { value, .. } => 3 * 8 + value.len(),
            State::Gone => 0,
        };
        1 + 1 + 4 + self.key.len() + state
    }

    /// The row's bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.key.len() + 64);
        out.put_u8(LAYOUT);
        match &self.state {
            State::Live { create_revision, version, lease, value } => {
                out.reserve(value.len());
                out.put_u8(PUT);
                out.put_u32(u32::try_from(self.key.len()).expect("RECORD_BYTES_MAX fits in u32"));
                out.put_slice(&self.key);
                out.put_i64(*create_revision);
                out.put_i64(*version);
                out.put_i64(*lease);
                out.put_slice(value);
            }
            State::Gone => {
                out.put_u8(DELETE);
                out.put_u32(u32::try_from(self.key.len()).expect("RECORD_BYTES_MAX fits in u32"));
                out.put_slice(&self.key);
            }
        }
        out.freeze()
    }

    /// Reads what [`Row::encode`] wrote; `id` is for the error alone.
    ///
    /// # Errors
    /// [`RowError`] when it did not.
    pub(crate) fn decode(id: RowId, mut bytes: Bytes) -> Result<Self, RowError> {
        let len = bytes.len();
        let truncated = RowError::Truncated { id, len };
        let layout = bytes.try_get_u8().map_err(|_| truncated.clone())?;
        if layout != LAYOUT {
            return Err(RowError::Unknown { id, what: "layout", byte: layout });
        }
        let kind = bytes.try_get_u8().map_err(|_| truncated.clone())?;
        let key_len = bytes.try_get_u32().map_err(|_| truncated.clone())? as usize;
        if bytes.len() < key_len {
            return Err(truncated);
        }
        let key = bytes.split_to(key_len);
        let state = match kind {
            PUT => State::Live {
                create_revision: bytes.try_get_i64().map_err(|_| truncated.clone())?,
                version: bytes.try_get_i64().map_err(|_| truncated.clone())?,
                lease: bytes.try_get_i64().map_err(|_| truncated.clone())?,
                value: bytes,
            },
            DELETE => State::Gone,
            byte => return Err(RowError::Unknown { id, what: "kind", byte }),
        };
        Ok(Self { key, state })
    }
}
