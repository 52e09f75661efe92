//! The order in which keys changed: what watchers read, and what age and size bound.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// What a change costs beside its key and value: map entries, version, allocation. Rounded up.
const CHANGE_OVERHEAD_BYTES: u64 = 128;

/// After a compaction for size this share of the bound (in eighths) is kept, so that not every write compacts.
const KEEP_EIGHTHS: u64 = 7;

/// One revision.
#[derive(Debug)]
struct Change {
    at: Instant,
    bytes: u64,
    keys: Vec<Bytes>,
}

/// Revision → keys changed, in the order of the change set.
#[derive(Debug, Default)]
pub(crate) struct History {
    changes: BTreeMap<i64, Change>,
    bytes: u64,
}

impl History {
    /// Notes that `key` changed in `revision`, by `len` bytes of key and value.
    pub(crate) fn push(&mut self, revision: i64, key: Bytes, len: usize, now: Instant) {
        let change =
            self.changes.entry(revision).or_insert_with(|| Change { at: now, bytes: 0, keys: Vec::new() });
        let bytes = len as u64 + CHANGE_OVERHEAD_BYTES;
        change.bytes += bytes;
        change.keys.push(key);
        self.bytes += bytes;
    }

    /// The change sets from one revision to another, both included.
    pub(crate) fn between(&self, from: i64, to: i64) -> impl Iterator<Item = (i64, &[Bytes])> {
        // A map panics on an end before the start; a watcher that waits for the future has one.
        let to = to.max(from - 1);
        self.changes.range(from..to + 1).map(|(revision, change)| (*revision, change.keys.as_slice()))
    }

    /// Forgets what is below `revision`; returns every key that changed at or below it, each as often as it changed.
    pub(crate) fn compact(&mut self, revision: i64) -> Vec<Bytes> {
        let kept = self.changes.split_off(&revision);
        let dropped = std::mem::replace(&mut self.changes, kept);
        let mut touched = Vec::new();
        for change in dropped.into_values() {
            self.bytes -= change.bytes;
            touched.extend(change.keys);
        }
        if let Some(at_edge) = self.changes.get(&revision) {
            touched.extend(at_edge.keys.iter().cloned());
        }
        touched
    }

    /// The revision to compact at for history to keep within `age` and `bytes`, if it does not; not above `durable`.
    pub(crate) fn due(&self, now: Instant, age: Duration, bytes: u64, durable: i64) -> Option<i64> {
        let mut left = self.bytes;
        let keep = if self.bytes > bytes { bytes / 8 * KEEP_EIGHTHS } else { self.bytes };
        let mut due = None;
        for (revision, change) in self.changes.range(..=durable) {
            let old = now.saturating_duration_since(change.at) > age;
            if !old && left <= keep {
                break;
            }
            left -= change.bytes;
            due = Some(*revision);
        }
        // Compacting at a revision keeps that revision, so the first one alone can never go.
        due.filter(|revision| self.changes.range(..revision).next().is_some())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}
