//! One list of several prefixes, page after page, at one revision.

use super::{
    event::Event,
    wire::{KeyRange, Value},
};
use crate::Now;
use api::bytes::BootId;
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Listing {
    boot: Option<BootId>,
    revision: u64,
    /// What is still to be read; the first one is being asked for.
    left: VecDeque<KeyRange>,
    asked_at: Now,
}

impl Listing {
    pub(super) fn new(prefixes: &[String], boot: Option<BootId>, revision: u64, now: Now) -> Self {
        let left = prefixes.iter().map(|prefix| KeyRange::prefix(prefix)).collect();
        Self { boot, revision, left, asked_at: now }
    }

    /// The boot that answers.
    pub(super) fn boot(&self) -> Option<BootId> {
        self.boot
    }

    /// What all pages are pinned at.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn asked_at(&self) -> Now {
        self.asked_at
    }

    /// The next page, and the revision it is pinned at; none when the list is complete.
    pub(super) fn wants(&self) -> Option<(KeyRange, u64)> {
        self.left.front().map(|range| (range.clone(), self.revision))
    }

    /// Takes the answer to what was wanted.
    ///
    /// # Errors
    /// When it cannot be the answer: a store that lies about its pages could keep us here for ever.
    pub(super) fn take(
        &mut self,
        values: Vec<Value>,
        more: bool,
        now: Now,
    ) -> Result<Vec<Event>, &'static str> {
        let Some(range) = self.left.front_mut() else { return Err("the store answered what was not asked") };
        if !values.iter().all(|v| range.contains(&v.key)) || !values.is_sorted_by(|a, b| a.key < b.key) {
            return Err("the store sent keys that were not asked for, or out of order");
        }
        if values.iter().any(|value| value.mod_revision > self.revision) {
            return Err("the store sent a record from after the revision that was asked for");
        }
        match (values.last(), more) {
            (Some(last), true) => *range = range.after(&last.key),
            (None, true) => return Err("the store has more keys and sent none"),
            (_, false) => {
                self.left.pop_front();
            }
        }
        self.asked_at = now;
        Ok(values.into_iter().map(Event::InitApply).collect())
    }
}
