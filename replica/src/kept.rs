//! A view as it lies on an agent's disk: what a host that starts without any apiserver programs its maps from.
//!
//! ```text
//!  magic, version │ cluster's UUID, its name, the node │ when, revision │ records: key, value, revision │ SHA-256 of all before
//! ```
//!
//! Numbers are little-endian, texts and values carry their length. The sum is against a disk's mistakes, not against
//! somebody who can write the file: it is as private as the key beside it.
//!
//! Invariants
//! - what was damaged, cut, or written for another cluster or node is never read, not even in part;
//! - a record that this version does not know or cannot read spoils only itself;
//! - the same view at the same time gives the same bytes.

use crate::view::View;
use api::{
    bytes::ClusterUuid,
    key::{Key, LocalKey, MeshKey},
    name::{ClusterName, NodeName},
    record::Record,
};
use sha2::{Digest, Sha256};

/// Largest file. A mesh of 5,000 nodes, 10,000 services and 500,000 pods is a million and a half records of 120 bytes:
/// 180 MB; next power of two.
pub const KEPT_MAX_BYTES: usize = 256 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"MESHVIEW";
/// Of the layout above. Another one is another version's, and is not guessed at.
const VERSION: u16 = 1;
const SUM_BYTES: usize = 32;

/// Whose view it is: it is of no use to anybody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The trust domain of the node's certificate.
    pub uuid: ClusterUuid,
    /// The node.
    pub node: NodeName,
}

/// A view that was read back.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Not complete: nothing but a list can be. See [`View::restored`].
    pub view: View,
    /// When it was the live view, by the clock of its writer, in milliseconds of Unix time.
    pub at_ms: u64,
    /// The store's revision then.
    pub revision: u64,
    /// Records that this version does not know or cannot read; they were left out.
    pub skipped: usize,
}

/// A view does not fit; what was kept before stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the view is larger than {KEPT_MAX_BYTES} bytes")]
pub struct TooLarge;

/// Why what lies on the disk is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeptError {
    /// Cut short, or its sum is another.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Another layout.
    #[error("it was written by another version (layout {0})")]
    Version(u16),
    /// Another cluster's.
    #[error("it is of the cluster {found}, and this node's certificate is of {expected}")]
    ForeignCluster {
        /// In the file.
        found: ClusterUuid,
        /// In the certificate.
        expected: ClusterUuid,
    },
    /// Another node's.
    #[error("it is of the node {found}, and this is {expected}")]
    ForeignNode {
        /// In the file.
        found: String,
        /// In the certificate.
        expected: NodeName,
    },
}

/// The bytes of a view that is complete now.
///
/// # Errors
/// [`TooLarge`]: more than [`KEPT_MAX_BYTES`].
pub fn encode(view: &View, owner: &Owner, at_ms: u64) -> Result<Vec<u8>, TooLarge> {
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(owner.uuid.0);
    put(&mut out, view.own().as_str().as_bytes());
    put(&mut out, owner.node.as_str().as_bytes());
    out.extend(at_ms.to_le_bytes());
    out.extend(view.revision().to_le_bytes());
    for (key, revision) in view.tables().keys().filter(|(key, _)| is_kept(key)) {
        let (record, _) = view.tables().get(key).expect("a key with a revision has a record");
        put(&mut out, key.to_string().as_bytes());
        put(&mut out, &record.encode());
        out.extend(revision.to_le_bytes());
        if out.len() + SUM_BYTES > KEPT_MAX_BYTES {
            return Err(TooLarge);
        }
    }
    let sum = Sha256::digest(&out);
    out.extend(sum);
    Ok(out)
}

/// Reads back what [`encode`] wrote for this owner.
///
/// # Errors
/// [`KeptError`]: nothing of it is to be used.
pub fn decode(bytes: &[u8], owner: &Owner) -> Result<Kept, KeptError> {
    let (body, sum) = bytes.split_last_chunk::<SUM_BYTES>().ok_or(KeptError::Damaged("it is too short"))?;
    let mut body = Reader(body);
    if body.array()? != *MAGIC {
        return Err(KeptError::Damaged("it does not begin as a kept view does"));
    }
    let version = u16::from_le_bytes(body.array()?);
    if version != VERSION {
        return Err(KeptError::Version(version));
    }
    if Sha256::digest(&bytes[..bytes.len() - SUM_BYTES]).as_slice() != sum {
        return Err(KeptError::Damaged("its sum is another"));
    }
    let uuid = ClusterUuid(body.array()?);
    if uuid != owner.uuid {
        return Err(KeptError::ForeignCluster { found: uuid, expected: owner.uuid });
    }
    let cluster: ClusterName =
        body.text()?.parse().map_err(|_| KeptError::Damaged("its cluster has no name"))?;
    let node = body.text()?;
    if node != owner.node.as_str() {
        return Err(KeptError::ForeignNode { found: node.to_owned(), expected: owner.node.clone() });
    }
    let at_ms = u64::from_le_bytes(body.array()?);
    let revision = u64::from_le_bytes(body.array()?);
    let mut skipped = 0;
    let mut records = Vec::new();
    while !body.0.is_empty() {
        let (key, value) = (body.piece()?, body.piece()?);
        let mod_revision = u64::from_le_bytes(body.array()?);
        let read = Key::parse(key).ok().and_then(|key| Some((Record::decode(&key, value).ok()?, key)));
        match read {
            Some((record, key)) => records.push((key, record, mod_revision)),
            None => skipped += 1,
        }
    }
    Ok(Kept { view: View::restored(cluster, records), at_ms, revision, skipped })
}

/// What describes only a moment is of no use later.
fn is_kept(key: &Key) -> bool {
    !matches!(
        key,
        Key::Mesh(_, MeshKey::Heartbeat)
            | Key::Local(LocalKey::Applied(_) | LocalKey::Import(_) | LocalKey::Presence(_))
    )
}

fn put(out: &mut Vec<u8>, piece: &[u8]) {
    let length = u32::try_from(piece.len()).expect("keys and records are at most 64 KiB");
    out.extend(length.to_le_bytes());
    out.extend(piece);
}

/// Takes pieces off the front; the sum was right, so only a bug of ours makes one of these fail.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], KeptError> {
        let (front, rest) = self.0.split_first_chunk().ok_or(KeptError::Damaged("it is too short"))?;
        self.0 = rest;
        Ok(*front)
    }

    fn piece(&mut self) -> Result<&'a [u8], KeptError> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        let (front, rest) = self.0.split_at_checked(length).ok_or(KeptError::Damaged("it is too short"))?;
        self.0 = rest;
        Ok(front)
    }

    fn text(&mut self) -> Result<&'a str, KeptError> {
        std::str::from_utf8(self.piece()?).map_err(|_| KeptError::Damaged("a name is no text"))
    }
}

#[cfg(test)]
mod tests;
