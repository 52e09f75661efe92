//! Rows in pieces, so that sled never makes a blob file.
//!
//! sled writes a message above a quarter of a segment (512 KiB / 4, less 52 bytes of headers: 131,020 bytes) into a
//! file of its own that it does not sync. A message is not a row: it is a whole leaf whenever sled consolidates,
//! splits or merges one, and a leaf holds up to 16 rows before it is split. With rows of 64 KiB a leaf has 1 MiB, so
//! a bound of 64 KiB on records alone does not keep sled from its blobs; pieces of 3 KiB do.

use bytes::{Bytes, BytesMut};
use store::RowId;

/// 32 pieces (twice what a leaf holds, and it may hold a few more between a merge and the next split) of this size,
/// with their keys, are 99 KiB: below sled's 131,020 bytes.
pub(super) const CHUNK_BYTES: usize = 3 * 1024;

/// A row's key: `r`, revision, sub, part; big endian, so that rows sort as they happened.
const KEY_BYTES: usize = 1 + 8 + 4 + 2;
const ROW: u8 = b'r';

/// The first byte of a piece: whether another follows.
const LAST: u8 = 0;
const MORE: u8 = 1;

/// Where the compacted revision is kept; sorts before the rows.
pub(super) const COMPACTED_KEY: &[u8] = b"compacted";

/// The prefix of every lease's key; the id follows, big endian. A lease is one piece: its owner's name has 2 KiB at most.
pub(super) const LEASES: &[u8] = b"l";

/// The key of a lease.
pub(super) fn lease_key(id: i64) -> [u8; 9] {
    let mut key = [LEASES[0]; 9];
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

/// The id of the lease a key names.
pub(super) fn parse_lease(key: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(key.strip_prefix(LEASES)?.try_into().ok()?))
}

/// The prefix of every row's key.
pub(super) const ROWS: &[u8] = &[ROW];

/// The key of one piece of a row.
pub(super) fn key(id: RowId, part: u16) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[0] = ROW;
    key[1..9].copy_from_slice(&id.revision.to_be_bytes());
    key[9..13].copy_from_slice(&id.sub.to_be_bytes());
    key[13..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The pieces of a row, with their keys.
pub(super) fn split(id: RowId, row: &[u8]) -> impl Iterator<Item = ([u8; KEY_BYTES], Vec<u8>)> {
    let parts = row.len().div_ceil(CHUNK_BYTES).max(1);
    (0..parts).map(move |part| {
        let from = part * CHUNK_BYTES;
        let data = &row[from..row.len().min(from + CHUNK_BYTES)];
        let mut piece = Vec::with_capacity(data.len() + 1);
        piece.push(if part + 1 < parts { MORE } else { LAST });
        piece.extend_from_slice(data);
        (key(id, u16::try_from(part).expect("a row of 64 KiB has 22 parts")), piece)
    })
}

/// Puts rows together from pieces in the order of their keys.
#[derive(Debug, Default)]
pub(super) struct Join {
    open: Option<(RowId, u16, BytesMut)>,
}

impl Join {
    /// Takes the next piece; gives a row when it is complete.
    pub(super) fn push(&mut self, key: &[u8], piece: &[u8]) -> Result<Option<(RowId, Bytes)>, String> {
        let (id, part) = parse(key).ok_or_else(|| format!("a key of {} bytes is no row's", key.len()))?;
        let (flag, data) = piece.split_first().ok_or_else(|| format!("{id:?} has an empty piece"))?;
        let mut row = match self.open.take() {
            None if part == 0 => BytesMut::new(),
            Some((open, next, row)) if open == id && next == part => row,
            None | Some(_) => return Err(format!("a piece is missing before part {part} of {id:?}")),
        };
        row.extend_from_slice(data);
        match *flag {
            LAST => Ok(Some((id, row.freeze()))),
            MORE => {
                self.open = Some((id, part + 1, row));
                Ok(None)
            }
            other => Err(format!("part {part} of {id:?} begins with {other}")),
        }
    }

    /// There are no more pieces.
    pub(super) fn end(self) -> Result<(), String> {
        self.open.map_or(Ok(()), |(id, part, _)| Err(format!("part {part} of {id:?} is missing")))
    }
}

fn parse(key: &[u8]) -> Option<(RowId, u16)> {
    let key: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let revision = i64::from_be_bytes(key[1..9].try_into().ok()?);
    let sub = u32::from_be_bytes(key[9..13].try_into().ok()?);
    let part = u16::from_be_bytes(key[13..].try_into().ok()?);
    (key[0] == ROW).then_some((RowId { revision, sub }, part))
}
