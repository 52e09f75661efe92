//! How much is asked for at once: what the link carries in a second or two, whatever link it is.
//!
//! An answer that a store has begun to send stands in the way of all that follows it on the connection. Over 64 kbit/s a page
//! of 150 KB takes twenty seconds, and the connection's pings, which wait for five, end it before that.

use super::PAGE_KEYS;
use api::digest::{BITS_MAX, HASH_BYTES};
use std::time::Duration;

/// What a key with its record usually takes.
const RECORD_BYTES: usize = 300;
/// What a bucket takes: its hash, and its count as a varint.
const BUCKET_BYTES: usize = HASH_BYTES + 2;

/// Asked for first: two seconds of 64 kbit/s.
const FIRST_BYTES: usize = 16_384;
/// One key: it may have 64 KB.
const LEAST_BYTES: usize = RECORD_BYTES;
/// A full page.
const MOST_BYTES: usize = PAGE_KEYS * RECORD_BYTES;

/// An answer that came within the first is followed by one twice as large, one that took longer than the second by one half as
/// large. Twice as much takes at most twice as long, so a size is found and kept.
const FAST: Duration = Duration::from_millis(1_500);
const SLOW: Duration = Duration::from_secs(3);

/// The size of the next answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    bytes: usize,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { bytes: FIRST_BYTES }
    }

    /// An answer took this long. One that had less to say than was asked for does not show what the link carries.
    pub(super) fn note(&mut self, took: Duration, is_full: bool) {
        if took > SLOW {
            self.slow_down();
        } else if took < FAST && is_full {
            self.bytes = (self.bytes * 2).min(MOST_BYTES);
        }
    }

    /// An answer did not come at all.
    pub(super) fn slow_down(&mut self) {
        self.bytes = (self.bytes / 2).max(LEAST_BYTES);
    }

    /// Keys of a page.
    pub(super) fn keys(self) -> usize {
        (self.bytes / RECORD_BYTES).clamp(1, PAGE_KEYS)
    }

    /// Entries of buckets.
    pub(super) fn entries(self) -> u64 {
        (self.bytes / HASH_BYTES) as u64
    }

    /// The most bits that number buckets.
    pub(super) fn bits(self) -> u32 {
        (self.bytes / BUCKET_BYTES).ilog2().min(BITS_MAX)
    }
}
