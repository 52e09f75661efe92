//! One list of several prefixes, page after page, at one revision; in several sessions, if one breaks.

use super::{
    Ask, Held,
    event::Event,
    history::continues,
    wire::{KeyRange, Value},
};
use crate::Now;
use api::record::Lineage;
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Listing {
    lineage: Option<Lineage>,
    revision: u64,
    /// What is still to be read; the first one is being asked for.
    left: VecDeque<KeyRange>,
    /// What was read.
    held: Held,
    asked_at: Now,
}

impl Listing {
    pub(super) fn new(prefixes: &[String], lineage: Option<Lineage>, revision: u64, now: Now) -> Self {
        let left = prefixes.iter().map(|prefix| KeyRange::prefix(prefix)).collect();
        Self { lineage, revision, left, held: Held::new(), asked_at: now }
    }

    /// Goes on in another session, if the store that answers there, at revision `head`, is still the one that was read.
    pub(super) fn resume(mut self, lineage: &Lineage, head: u64, now: Now) -> Option<Self> {
        let is_same = self.lineage.as_ref().is_some_and(|known| continues(known, lineage, self.revision));
        (is_same && self.revision <= head).then(|| {
            self.lineage = Some(lineage.clone());
            self.asked_at = now;
            self
        })
    }

    /// Of the store that answers.
    pub(super) fn take_lineage(&mut self) -> Option<Lineage> {
        self.lineage.take()
    }

    /// What all pages are pinned at.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn asked_at(&self) -> Now {
        self.asked_at
    }

    /// What it wants leaves only now.
    pub(super) fn asks(&mut self, now: Now) {
        self.asked_at = now;
    }

    /// What the list had.
    pub(super) fn take_held(&mut self) -> Held {
        std::mem::take(&mut self.held)
    }

    /// The next page; none when the list is complete.
    pub(super) fn wants(&self) -> Option<Ask> {
        let range = self.left.front()?.clone();
        Some(Ask::Page { range, revision: self.revision, since: None })
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
        range.pass(&values, more)?;
        if values.iter().any(|value| value.mod_revision > self.revision) {
            return Err("the store sent a record from after the revision that was asked for");
        }
        if !more {
            self.left.pop_front();
        }
        self.asked_at = now;
        self.held.extend(values.iter().map(|value| (value.key.clone(), value.mod_revision)));
        Ok(values.into_iter().map(Event::InitApply).collect())
    }
}
