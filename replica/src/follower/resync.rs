//! From a known revision, which history has forgotten, to a newer one: only what changed is moved.
//!
//! For each prefix, all at one revision:
//!
//! ```text
//!  Buckets ─▶ Changes (Range with `min_mod_revision`, page after page) ─▶ the same buckets? ─▶ next prefix
//!     theirs      what was written since                                      └─ no ─▶ Entries of those that differ
//!                                                                                      └─▶ what we hold and they lack vanished
//! ```
//!
//! Buckets are as many, and entries come in portions as large, as the pace of the connection says when it begins.
//!
//! Nothing is told before all of it is known and fits: after it, our entries are theirs, every one. As an entry is a key with
//! the revision of its last change, and our history is theirs, that is what a list would have told. Whatever does
//! not fit is a reason to list.

use super::{
    Ask, Held,
    history::{Testimony, testimony},
    pace::Pace,
    wire::{KeyRange, Value},
};
use crate::Now;
use api::{
    digest::{Bucket, ENTRIES_MAX, Entries, Entry, bits_for},
    name::ClusterName,
    record::Lineage,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

/// What waits here until all is known: as many bytes as one page may have.
const CHANGED_MAX_BYTES: usize = super::ANSWER_MAX_BYTES;

/// What a changed record costs beside its key and value.
const CHANGED_OVERHEAD_BYTES: usize = 128;

/// Why a list is better.
pub(super) type Misfit = &'static str;

#[derive(Debug)]
pub(super) struct Resync {
    lineage: Lineage,
    cluster: ClusterName,
    revision: u64,
    /// Each prefix, and the revision up to which it was told.
    prefixes: Vec<(KeyRange, u64)>,
    /// Which of them is being asked about, and how far.
    at: usize,
    step: Step,
    changed: BTreeMap<Vec<u8>, Value>,
    changed_bytes: usize,
    vanished: Vec<Vec<u8>>,
    pace: Pace,
    asked_at: Now,
}

#[derive(Debug)]
enum Step {
    Buckets { bits: u32 },
    Changes { bits: u32, theirs: Vec<Bucket>, left: KeyRange },
    Entries { bits: u32, left: Vec<(u32, Bucket)> },
}

/// What happened between the two revisions.
#[derive(Debug)]
pub(super) struct Outcome {
    /// In the order of keys.
    pub(super) vanished: Vec<Vec<u8>>,
    /// In the order of revisions.
    pub(super) changed: Vec<Value>,
}

impl Resync {
    /// From where each prefix is to what the store holds at `revision`.
    pub(super) fn new(
        cluster: ClusterName,
        prefixes: Vec<(KeyRange, u64)>,
        lineage: Lineage,
        revision: u64,
        held: &Held,
        pace: Pace,
        now: Now,
    ) -> Self {
        let mut resync = Self {
            lineage,
            cluster,
            revision,
            prefixes,
            at: 0,
            step: Step::Buckets { bits: 0 },
            changed: BTreeMap::new(),
            changed_bytes: 0,
            vanished: Vec::new(),
            pace,
            asked_at: now,
        };
        resync.begin_prefix(held);
        resync
    }

    pub(super) fn asked_at(&self) -> Now {
        self.asked_at
    }

    /// What it wants leaves only now.
    pub(super) fn asks(&mut self, now: Now) {
        self.asked_at = now;
    }

    /// What everything is pinned at.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// What is to be asked next; none when all is known.
    pub(super) fn wants(&self) -> Option<Ask> {
        let (range, complete_to) = self.prefixes.get(self.at)?.clone();
        let revision = self.revision;
        Some(match &self.step {
            Step::Buckets { bits } => Ask::Buckets { range, revision, bits: *bits },
            Step::Changes { left, .. } => {
                Ask::Page { range: left.clone(), revision, since: Some(complete_to + 1) }
            }
            Step::Entries { bits, left } => {
                let buckets = self.portion(left).iter().map(|(number, _)| *number).collect();
                Ask::Entries { range, revision, bits: *bits, buckets }
            }
        })
    }

    pub(super) fn take_buckets(&mut self, theirs: Vec<Bucket>, now: Now) -> Result<(), Misfit> {
        let Step::Buckets { bits } = self.step else { return Err("the store answered what was not asked") };
        if theirs.len() != 1 << bits {
            return Err("the store sent another number of buckets than was asked for");
        }
        self.asked_at = now;
        self.step = Step::Changes { bits, theirs, left: self.range().clone() };
        Ok(())
    }

    pub(super) fn take_page(
        &mut self,
        values: Vec<Value>,
        more: bool,
        held: &Held,
        now: Now,
    ) -> Result<(), Misfit> {
        let complete_to = self.prefixes.get(self.at).map_or(0, |(_, complete_to)| *complete_to);
        let Step::Changes { left, .. } = &mut self.step else {
            return Err("the store answered what was not asked");
        };
        left.pass(&values, more)?;
        if !values.iter().all(|v| (complete_to + 1..=self.revision).contains(&v.mod_revision)) {
            return Err("the store sent a record that was not written between the two revisions");
        }
        if !values.iter().all(|value| self.is_of_our_history(value)) {
            return Err("another run of the store answers than the one that was checked");
        }
        self.asked_at = now;
        for value in values {
            self.changed_bytes += value.key.len() + value.value.len() + CHANGED_OVERHEAD_BYTES;
            self.changed.insert(value.key.clone(), value);
        }
        if self.changed_bytes > CHANGED_MAX_BYTES {
            return Err("so much has changed that a list is as short");
        }
        if more { Ok(()) } else { self.compare(held) }
    }

    pub(super) fn take_entries(&mut self, sent: Vec<Entry>, held: &Held, now: Now) -> Result<(), Misfit> {
        let Step::Entries { bits, left } = &self.step else {
            return Err("the store answered what was not asked");
        };
        let theirs = self.portion(left);
        let sent: Entries = sent.into_iter().collect();
        if theirs.iter().any(|(number, bucket)| Bucket::of(sent.bucket(*bits, *number)) != *bucket) {
            return Err("the store sent other entries than its buckets have");
        }
        let wanted: BTreeSet<u32> = theirs.iter().map(|(number, _)| *number).collect();
        let expected: u64 = theirs.iter().map(|(_, bucket)| bucket.count).sum();
        let (mut common, mut vanished) = (0, Vec::new());
        for (key, mod_revision) in self.ours(held) {
            let entry = Entry::of(key, mod_revision);
            let number = entry.bucket(*bits);
            if !wanted.contains(&number) {
                continue;
            }
            if sent.bucket(*bits, number).binary_search(&entry).is_ok() {
                common += 1;
            } else if self.changed.contains_key(key) {
                return Err("the store sent a record that its buckets lack");
            } else {
                vanished.push(key.to_vec());
            }
        }
        // Each of ours is one of theirs; as many of both, and none of theirs is missing here.
        if common != expected {
            return Err("the store has a record that it neither sent nor had before");
        }
        let (bits, left) = (*bits, left[theirs.len()..].to_vec());
        self.vanished.append(&mut vanished);
        self.asked_at = now;
        if left.is_empty() {
            self.next_prefix(held);
        } else {
            self.step = Step::Entries { bits, left };
        }
        Ok(())
    }

    /// As many of these buckets as are asked for at once.
    fn portion<'a>(&self, left: &'a [(u32, Bucket)]) -> &'a [(u32, Bucket)] {
        let mut entries = 0;
        let fits = |(_, bucket): &&(u32, Bucket)| {
            entries += bucket.count;
            entries <= self.pace.entries()
        };
        &left[..left.iter().take_while(fits).count().max(1)]
    }

    /// All that happened. What was told already, as a part of a revision, is not told again.
    pub(super) fn finish(&mut self, held: &Held) -> Outcome {
        let news = |value: &Value| held.get(&value.key) != Some(&value.mod_revision);
        let changed = std::mem::take(&mut self.changed);
        let mut changed: Vec<Value> = changed.into_values().filter(news).collect();
        changed.sort_by_key(|value| value.mod_revision);
        Outcome { vanished: std::mem::take(&mut self.vanished), changed }
    }

    /// With what changed we should hold what the store does, but for what vanished.
    fn compare(&mut self, held: &Held) -> Result<(), Misfit> {
        let Step::Changes { bits, theirs, .. } = &self.step else { return Ok(()) };
        let bits = *bits;
        let ours: Entries = self.ours(held).map(|(key, revision)| Entry::of(key, revision)).collect();
        let differs = |(_, (ours, theirs)): &(usize, (Bucket, &Bucket))| ours != *theirs;
        let differing: Vec<(u32, Bucket)> = (ours.buckets(bits).into_iter().zip(theirs).enumerate())
            .filter(differs)
            .map(|(number, (_, theirs))| (u32::try_from(number).expect("at most 4,096"), *theirs))
            .collect();
        if differing.is_empty() {
            self.next_prefix(held);
            return Ok(());
        }
        let entries = differing.iter().try_fold(0u64, |sum, (_, bucket)| sum.checked_add(bucket.count));
        if entries.is_none_or(|entries| entries > ENTRIES_MAX as u64) {
            return Err("so much vanished that a list is as short");
        }
        self.step = Step::Entries { bits, left: differing };
        Ok(())
    }

    /// What we would hold of this prefix with what changed.
    fn ours<'a>(&'a self, held: &'a Held) -> impl Iterator<Item = (&'a [u8], u64)> {
        let bounds = bounds(self.range());
        let unchanged = held.range::<[u8], _>(bounds).filter(|(key, _)| !self.changed.contains_key(*key));
        let changed = self.changed.range::<[u8], _>(bounds);
        unchanged
            .map(|(key, revision)| (key.as_slice(), *revision))
            .chain(changed.map(|(key, value)| (key.as_slice(), value.mod_revision)))
    }

    fn range(&self) -> &KeyRange {
        &self.prefixes[self.at].0
    }

    fn next_prefix(&mut self, held: &Held) {
        self.at += 1;
        self.begin_prefix(held);
    }

    fn begin_prefix(&mut self, held: &Held) {
        if let Some((range, _)) = self.prefixes.get(self.at) {
            let bits = bits(held.range::<[u8], _>(bounds(range)).count(), self.pace);
            self.step = Step::Buckets { bits };
        }
    }

    /// A connection could be replaced under us after the check of the lineage: heartbeat and lineage name the boot they
    /// were written in, and that is one of those that were checked, at that time.
    fn is_of_our_history(&self, value: &Value) -> bool {
        match testimony(&self.cluster, value) {
            Some(Ok(Testimony::Lineage(lineage))) => lineage == self.lineage,
            Some(Ok(Testimony::Heartbeat(beat))) => self.lineage.allows_resume(beat.boot, value.mod_revision),
            Some(Err(_)) => false,
            None => true,
        }
    }
}

/// How many bits number the buckets of so many entries: fewer where the pace is slow, and not so few that the entries of one
/// bucket, which is the least that can be asked for, are more than all buckets.
pub(super) fn bits(entries: usize, pace: Pace) -> u32 {
    let even = (usize::BITS - entries.leading_zeros()).div_ceil(2);
    pace.bits().max(even).min(bits_for(entries))
}

/// The bounds of a prefix, for a map.
fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(&range.key), Bound::Excluded(&range.end))
}
