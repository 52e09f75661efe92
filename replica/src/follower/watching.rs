//! From a known revision on: what the watches tell, whether they still do, and whether it is of the history that was checked.

use super::{
    Change, Event, Follower, KeyRange, Request, State, Wake,
    history::{Testimony, continues, testimony},
};
use crate::Now;
use std::time::Duration;

/// A session counts as good, and the next failure waits briefly again, when it has watched this long.
const GOOD_AFTER: Duration = Duration::from_secs(30);

/// Without a word for this long we ask for the revision (a cluster's heartbeat alone is one every 2 s), and without
/// an answer to that for [`PROGRESS_WITHIN`] we connect again.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(15);
const PROGRESS_WITHIN: Duration = Duration::from_secs(10);

/// When one of several watches is ahead we ask for the others' revision, at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// What a follower that watches knows of its session.
#[derive(Debug)]
pub(super) struct Watching {
    since: Now,
    last_word: Now,
    /// When we asked for progress, and whether the answer is still out.
    asked: Option<Now>,
    unanswered: bool,
}

impl Follower {
    pub(super) fn watch(&mut self, now: Now) {
        let position = self.position.as_ref().expect("a watch begins at a position");
        for (watch, (prefix, revision)) in self.follow.prefixes.iter().zip(&position.revisions).enumerate() {
            let range = KeyRange::prefix(prefix);
            self.requests.push_back(Request::Watch {
                session: self.session,
                watch,
                range,
                from: revision + 1,
            });
        }
        self.state = State::Watching(Watching { since: now, last_word: now, asked: None, unanswered: false });
    }

    /// When to ask, or to give up, and why.
    pub(super) fn watch_timeout(&self, watching: &Watching) -> (Now, Wake) {
        match (watching.asked, watching.unanswered) {
            (Some(asked), true) => (asked + PROGRESS_WITHIN, Wake::Overdue),
            (asked, _) if self.watches_are_apart() => {
                (asked.map_or(watching.last_word, |at| at + PROGRESS_EVERY), Wake::Progress)
            }
            (_, _) => (watching.last_word + SILENCE_MAX, Wake::Silence),
        }
    }

    pub(super) fn ask_progress(&mut self, now: Now) {
        if let State::Watching(watching) = &mut self.state {
            watching.asked = Some(now);
            watching.unanswered = true;
            self.requests.push_back(Request::Progress { session: self.session });
        }
    }

    /// The watch was created in a store at `revision`.
    pub(super) fn handle_watching(&mut self, watch: usize, revision: u64, now: Now) {
        if let Some(at) = self.hear(watch, now)
            && revision < at
        {
            self.distrust(now);
            self.fail(format!("the store is at revision {revision}, below {at} that it gave us"), now);
        }
    }

    pub(super) fn handle_changes(&mut self, watch: usize, changes: Vec<Change>, more: bool, now: Now) {
        let Some(at) = self.hear(watch, now) else { return };
        let range = KeyRange::prefix(&self.follow.prefixes[watch]);
        let mut newest = at;
        for change in changes {
            // At or below what we were told was complete: either it was not, or time goes backwards there.
            if !range.contains(change.key()) || change.revision() < newest || change.revision() <= at {
                self.distrust(now);
                return self
                    .fail("the store sent a change that was not asked for, or out of order".to_owned(), now);
            }
            newest = change.revision();
            if !self.same_history(&change, newest) {
                self.distrust(now);
                return self
                    .fail("another run of the store answers than the one that was checked".to_owned(), now);
            }
            if let Some(position) = &mut self.position {
                position.note(&change);
            }
            self.events.push_back(change.into());
        }
        // A fragment leaves the rest of its revision for the next answer.
        if !more {
            self.advance(watch, newest);
        }
    }

    /// A connection could be replaced under us between the check of the lineage and the watch. Heartbeat and lineage
    /// name the boot they were written in: one that the checked lineage does not have there is another history, unless
    /// the new lineage says that it continues ours (a publisher's new term in the same store).
    fn same_history(&mut self, change: &Change, revision: u64) -> bool {
        let Change::Put(value) = change else { return true };
        let Some(position) = &mut self.position else { return false };
        match testimony(&self.follow.cluster, value) {
            Some(Ok(Testimony::Lineage(lineage))) => {
                let known = position.lineage.as_ref();
                let goes_on = known.is_none_or(|known| continues(known, &lineage, revision - 1));
                position.lineage = Some(lineage);
                goes_on
            }
            Some(Ok(Testimony::Heartbeat(heartbeat))) => {
                let known = position.lineage.as_ref();
                known.is_none_or(|known| known.allows_resume(heartbeat.boot, revision))
            }
            Some(Err(_)) | None => true,
        }
    }

    /// All watches (`None`) or one have delivered everything up to `revision`.
    pub(super) fn handle_progress(&mut self, watch: Option<usize>, revision: u64, now: Now) {
        let watches = watch.map_or(0..self.follow.prefixes.len(), |watch| watch..watch + 1);
        for watch in watches {
            if self.hear(watch, now).is_none() {
                return;
            }
            self.advance(watch, revision);
        }
    }

    /// Where the watch is, if there is such a watch: it is alive.
    fn hear(&mut self, watch: usize, now: Now) -> Option<u64> {
        let at = self.position.as_ref().and_then(|position| position.revisions.get(watch).copied());
        let (State::Watching(watching), Some(at)) = (&mut self.state, at) else {
            self.fail("the store answered what was not asked".to_owned(), now);
            return None;
        };
        watching.last_word = now;
        watching.unanswered = false;
        if now.since(watching.since) >= GOOD_AFTER {
            self.failures = 0;
        }
        Some(at)
    }

    fn advance(&mut self, watch: usize, revision: u64) {
        let Some(position) = &mut self.position else { return };
        let at = &mut position.revisions[watch];
        *at = revision.max(*at);
        let complete_to = position.complete_to();
        if complete_to > self.progress {
            self.progress = complete_to;
            self.events.push_back(Event::Progress { revision: complete_to });
        }
    }

    fn watches_are_apart(&self) -> bool {
        self.position
            .as_ref()
            .is_some_and(|p| p.revisions.iter().any(|&revision| revision != p.complete_to()))
    }
}
