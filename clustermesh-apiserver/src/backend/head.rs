//! The newest revision that is durable, beside sled's files.
//!
//! A log that was damaged near its end looks like one whose last writes were never made: sled cuts it off there and goes
//! on. So how far it reached is written down beside it, after each sync, and not synced itself: what the kernel writes of it
//! later is a revision that was durable before. A power cut may take it back, never forward.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The revision, and its complement: half a write, or a bit that flipped, says nothing.
const BYTES: usize = 16;

/// The file.
#[derive(Debug)]
pub(super) struct Head(File);

impl Head {
    /// Opens it, or makes an empty one.
    pub(super) fn open(store: &Path) -> io::Result<Self> {
        let path = store.join("head");
        File::options().read(true).write(true).create(true).truncate(false).open(path).map(Self)
    }

    /// A revision that was durable; 0 when nothing is known.
    pub(super) fn read(&self) -> i64 {
        let mut bytes = [0; BYTES];
        match self.0.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode(bytes),
            Err(_) => 0,
        }
    }

    /// Everything up to this revision is durable.
    pub(super) fn note(&self, revision: i64) -> io::Result<()> {
        self.0.write_all_at(&encode(revision), 0)
    }
}

fn encode(revision: i64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&revision.to_be_bytes());
    bytes[8..].copy_from_slice(&(!revision).to_be_bytes());
    bytes
}

fn decode(bytes: [u8; BYTES]) -> i64 {
    let revision = i64::from_be_bytes(*bytes.first_chunk().expect("16 bytes"));
    if encode(revision) == bytes { revision } else { 0 }
}
