//! What a store holds, in few bytes: how a follower that was away for longer than the history finds what vanished.
//!
//! ```text
//!  key, mod_revision ──SHA-256──▶ Entry (16 bytes) ──sorted──▶ Entries ──by their first bits──▶ Buckets (count, hash)
//! ```
//!
//! Within one history a key and the revision of its last change name one value. So two sides whose entries are the same
//! hold the same records, and a bucket that differs says where to look, without a key or a value that travels.

use sha2::{Digest as _, Sha256};

/// Bytes of an entry, and of a bucket's hash: the first half of a SHA-256. Nobody gains from a collision: whoever serves
/// the entries serves the records, too.
pub const HASH_BYTES: usize = 16;

/// The most bits that number a bucket: 4,096 buckets are an answer of 75 KB.
pub const BITS_MAX: u32 = 12;

/// The most entries of one answer: 2 MiB. More keys in buckets that differ, and a list of everything is as good.
pub const ENTRIES_MAX: usize = 131_072;

/// Entries that a bucket has on average: one vanished key costs so many entries of [`HASH_BYTES`] each.
const ENTRIES_PER_BUCKET: usize = 32;

/// How many bits number the buckets of so many entries.
#[must_use]
pub fn bits_for(entries: usize) -> u32 {
    (entries / ENTRIES_PER_BUCKET).checked_ilog2().unwrap_or(0).min(BITS_MAX)
}

/// One key as of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry(pub [u8; HASH_BYTES]);

impl Entry {
    /// Of a key that was last written in this revision.
    #[must_use]
    pub fn of(key: &[u8], mod_revision: u64) -> Self {
        Self(first_half(Sha256::new().chain_update(mod_revision.to_be_bytes()).chain_update(key)))
    }

    /// The bucket it is in, of two to the power of `bits` (at most [`BITS_MAX`]).
    #[must_use]
    pub fn bucket(self, bits: u32) -> u32 {
        let [a, b, ..] = self.0;
        u32::from(u16::from_be_bytes([a, b])) >> (u16::BITS - bits.min(BITS_MAX))
    }
}

/// The entries whose first bits are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// How many.
    pub count: u64,
    /// All of them in one.
    pub hash: [u8; HASH_BYTES],
}

impl Bucket {
    /// Of entries in their order.
    #[must_use]
    pub fn of(entries: &[Entry]) -> Self {
        let hash = entries.iter().fold(Sha256::new(), |hash, entry| hash.chain_update(entry.0));
        Self { count: entries.len() as u64, hash: first_half(hash) }
    }
}

/// The entries of a range of keys, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries(Vec<Entry>);

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        entries.sort_unstable();
        Self(entries)
    }
}

impl Entries {
    /// All buckets, empty ones included: two to the power of `bits`.
    #[must_use]
    pub fn buckets(&self, bits: u32) -> Vec<Bucket> {
        (0..1 << bits.min(BITS_MAX)).map(|number| Bucket::of(self.bucket(bits, number))).collect()
    }

    /// What is in one bucket.
    #[must_use]
    pub fn bucket(&self, bits: u32, number: u32) -> &[Entry] {
        let from = self.0.partition_point(|entry| entry.bucket(bits) < number);
        let to = self.0.partition_point(|entry| entry.bucket(bits) <= number);
        &self.0[from..to]
    }
}

fn first_half(hash: Sha256) -> [u8; HASH_BYTES] {
    *hash.finalize().first_chunk().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn entries(keys: std::ops::Range<u64>) -> Entries {
        keys.map(|n| Entry::of(format!("mesh/v1/east/nodes/n{n}").as_bytes(), n)).collect()
    }

    #[test]
    fn the_wire_is_a_promise() {
        let entry = Entry::of(b"mesh/v1/east/nodes/e1", 7);
        assert_eq!(hex::encode(entry.0), "d87c8c0dc0370550bfb45ce8d86d221b");
        assert_eq!(entry.bucket(12), u32::from(entry.0[0]) << 4 | u32::from(entry.0[1]) >> 4);
        assert_eq!(hex::encode(Bucket::of(&[entry]).hash), "d9ef04ee4dd25116578a433717ac7535");
        assert_eq!(hex::encode(Bucket::of(&[]).hash), "e3b0c44298fc1c149afbf4c8996fb924");
    }

    #[test]
    fn every_entry_is_in_exactly_one_bucket_whatever_their_number() {
        let all = entries(0..1_000);
        for bits in 0..=BITS_MAX {
            let buckets: Vec<&[Entry]> = (0..1 << bits).map(|number| all.bucket(bits, number)).collect();
            assert_eq!(buckets.concat(), all.0, "{bits} bits");
            assert_eq!(all.buckets(bits).iter().map(|bucket| bucket.count).sum::<u64>(), 1_000);
        }
    }

    #[test]
    fn what_differs_shows_in_its_bucket_and_in_no_other() {
        let bits = bits_for(10_000);
        assert_eq!((bits, bits_for(0), bits_for(63), bits_for(64), bits_for(usize::MAX)), (8, 0, 0, 1, 12));
        let (ours, theirs) = (entries(0..10_000), entries(3..10_000));
        let (a, b) = (ours.buckets(bits), theirs.buckets(bits));
        let differing: BTreeSet<usize> = (0..a.len()).filter(|n| a[*n] != b[*n]).collect();
        let expected = entries(0..3).0.iter().map(|entry| entry.bucket(bits) as usize).collect();
        assert_eq!(differing, expected);
        assert_ne!(Entry::of(b"a", 1), Entry::of(b"a", 2), "a key that changed is another entry");
    }
}
