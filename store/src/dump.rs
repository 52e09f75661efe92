//! The whole store as one file, for an operator's backup: what `etcdctl snapshot save` writes.
//!
//! ```text
//!  magic 16 │ origin 16 │ compacted, revision, rows, leases: i64 each │ rows │ leases │ zeros │ SHA-256 of all before
//!  row: revision i64, sub u32, length u32, bytes          lease: id i64, length u32, bytes          (big endian)
//! ```
//!
//! The zeros fill up to a multiple of 512 bytes, because etcdctl knows a snapshot that came whole by 32 bytes above one.
//! It is not etcd's format: no etcd reads it, and [`Dump::read`] reads nothing else.

use std::io::{self, Write};
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::row::{Row, RowError, RowId};
use crate::state::{Batch, Store};

const MAGIC: &[u8; 16] = b"mesh-store-dump\x01";
const HEAD_BYTES: usize = 16 + 16 + 4 * 8;
const ROW_HEAD_BYTES: usize = 8 + 4 + 4;
const LEASE_HEAD_BYTES: usize = 8 + 4;
const ALIGN_BYTES: usize = 512;
const DIGEST_BYTES: usize = 32;

/// Rows of a restore that share a sync.
const ROWS_PER_BATCH: usize = 1_024;

/// Everything a store holds: all readable revisions, and the leases.
#[derive(Debug, PartialEq, Eq)]
pub struct Dump {
    /// Whose it is: 16 bytes that mean something to the shell alone.
    pub origin: [u8; 16],
    /// The oldest readable revision; 0 when nothing was compacted.
    pub compacted: i64,
    /// The newest revision.
    pub revision: i64,
    rows: Vec<(RowId, Row)>,
    leases: Vec<(i64, Bytes)>,
}

/// Why bytes are no dump.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    /// Something else.
    #[error("this is not a dump of our store (etcd's own snapshots are not read here)")]
    NotOurs,
    /// It ends before its time.
    #[error("it is cut off: {len} bytes")]
    Truncated {
        /// What there is.
        len: usize,
    },
    /// Bits changed on the way.
    #[error("its SHA-256 does not match: it is damaged, use another copy")]
    Checksum,
    /// A row of it is none.
    #[error("it is whole and makes no store")]
    Row(#[from] RowError),
}

impl Store {
    /// The whole store; the answer may be given away after the commit.
    pub fn dump(&self, origin: [u8; 16]) -> Dump {
        Dump {
            origin,
            compacted: self.compacted,
            revision: self.applied(),
            rows: self.index.rows().collect(),
            leases: self.leases.encoded().collect(),
        }
    }
}

impl Dump {
    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        (self.unpadded().next_multiple_of(ALIGN_BYTES) + DIGEST_BYTES) as u64
    }

    /// How many versions of keys it has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    fn unpadded(&self) -> usize {
        let rows: usize = self.rows.iter().map(|(_, row)| ROW_HEAD_BYTES + row.encoded_len()).sum();
        let leases: usize = self.leases.iter().map(|(_, lease)| LEASE_HEAD_BYTES + lease.len()).sum();
        HEAD_BYTES + rows + leases
    }

    /// Writes it, a row at a time.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut out = Hashing { out, hash: Sha256::new() };
        let mut head = BytesMut::with_capacity(HEAD_BYTES);
        head.put_slice(MAGIC);
        head.put_slice(&self.origin);
        head.put_i64(self.compacted);
        head.put_i64(self.revision);
        head.put_u64(self.rows.len() as u64);
        head.put_u64(self.leases.len() as u64);
        out.write_all(&head)?;
        for (id, row) in &self.rows {
            let row = row.encode();
            head.clear();
            head.put_i64(id.revision);
            head.put_u32(id.sub);
            head.put_u32(u32::try_from(row.len()).expect("RECORD_BYTES_MAX fits in u32"));
            out.write_all(&head)?;
            out.write_all(&row)?;
        }
        for (id, lease) in &self.leases {
            head.clear();
            head.put_i64(*id);
            head.put_u32(u32::try_from(lease.len()).expect("an owner's name is bounded"));
            out.write_all(&head)?;
            out.write_all(lease)?;
        }
        let unpadded = self.unpadded();
        out.write_all(&vec![0; unpadded.next_multiple_of(ALIGN_BYTES) - unpadded])?;
        let Hashing { out, hash } = out;
        out.write_all(&hash.finalize())?;
        out.flush()
    }

    /// Reads what [`Dump::write`] wrote, and checks that it makes a store.
    ///
    /// # Errors
    /// [`DumpError`]
    pub fn read(bytes: &Bytes) -> Result<Self, DumpError> {
        let truncated = DumpError::Truncated { len: bytes.len() };
        if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) || bytes.is_empty() {
            return Err(DumpError::NotOurs);
        }
        if bytes.len() < HEAD_BYTES + DIGEST_BYTES || bytes.len() % ALIGN_BYTES != DIGEST_BYTES {
            return Err(truncated);
        }
        let (body, digest) = bytes.split_at(bytes.len() - DIGEST_BYTES);
        if Sha256::digest(body)[..] != *digest {
            return Err(DumpError::Checksum);
        }
        // Whole, so what does not fit below was written wrong: the same answer, as nobody can do more about it.
        Self::parse(bytes.slice(MAGIC.len()..body.len())).ok_or(truncated).and_then(|dump| {
            Store::restore(dump.compacted, dump.encoded_rows(), dump.leases.iter().cloned(), Instant::now())?;
            Ok(dump)
        })
    }

    fn parse(mut bytes: Bytes) -> Option<Self> {
        let mut origin = [0; 16];
        bytes.try_copy_to_slice(&mut origin).ok()?;
        let compacted = bytes.try_get_i64().ok()?;
        let revision = bytes.try_get_i64().ok()?;
        let (rows, leases) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
        let mut dump = Self { origin, compacted, revision, rows: Vec::new(), leases: Vec::new() };
        for _ in 0..rows {
            let id = RowId { revision: bytes.try_get_i64().ok()?, sub: bytes.try_get_u32().ok()? };
            let len = bytes.try_get_u32().ok()? as usize;
            let row = (bytes.len() >= len).then(|| bytes.split_to(len))?;
            dump.rows.push((id, Row::decode(id, row).ok()?));
        }
        for _ in 0..leases {
            let id = bytes.try_get_i64().ok()?;
            let len = bytes.try_get_u32().ok()? as usize;
            dump.leases.push((id, (bytes.len() >= len).then(|| bytes.split_to(len))?));
        }
        (bytes.len() < ALIGN_BYTES && bytes.iter().all(|byte| *byte == 0)).then_some(dump)
    }

    fn encoded_rows(&self) -> impl Iterator<Item = (RowId, Bytes)> {
        self.rows.iter().map(|(id, row)| (*id, row.encode()))
    }

    /// The batches that make an empty disk hold it.
    #[allow(clippy::field_reassign_with_default, reason = "the revision is the store's alone, and 0 here")]
    pub fn batches(&self) -> impl Iterator<Item = Batch> {
        let mut first = Batch::default();
        first.compacted = (self.compacted > 0).then_some(self.compacted);
        first.leases = self.leases.iter().map(|(id, lease)| (*id, Some(lease.clone()))).collect();
        let rows = self.rows.chunks(ROWS_PER_BATCH).map(|rows| {
            let mut batch = Batch::default();
            batch.puts = rows.iter().map(|(id, row)| (*id, row.encode())).collect();
            batch
        });
        std::iter::once(first).chain(rows)
    }
}

/// Writes, and hashes what it wrote.
struct Hashing<'a, W> {
    out: &'a mut W,
    hash: Sha256,
}

impl<W: Write> Hashing<'_, W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }
}
