//! How old a peer's records are, and the verdict that comes of it.
//!
//! Age = our monotonic time since the peer's heartbeat last changed, plus the age of the peer's source at that beat.
//! No clock of the peer is looked at. Only transitions are published, with hysteresis, so that a peer at the edge
//! does not rewrite every node's maps twice a minute. (Design, decision 9)

use crate::Now;
use api::{
    bytes::BootId,
    peer::Stale,
    record::{Freshness, Heartbeat},
};
use std::time::Duration;

/// A peer whose age exceeds this is stale: five heartbeats.
pub const STALE_AFTER: Duration = Duration::from_secs(10);

/// A stale peer is fresh again with this many changed heartbeats in a row, each young enough.
pub const FRESH_AFTER_BEATS: u32 = 2;

/// The freshness of one peer.
#[derive(Debug, Clone)]
pub struct Age {
    policy: Stale,
    last: Option<Beat>,
    /// When the last beat was heard, and how old the source was at it.
    heard_at: Now,
    source_age: Duration,
    state: State,
}

/// What tells one beat from another: the peer's own writing raises its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Beat {
    boot: BootId,
    revision: u64,
    source_age_ms: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Fresh,
    /// `was_dropped`: an import before this one had dropped it already.
    Stale {
        since: Now,
        young_beats: u32,
        was_dropped: bool,
    },
}

/// What agents are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Fresh or stale.
    pub freshness: Freshness,
    /// Stale for longer than `drop-after` allows.
    pub dropped: bool,
}

impl Age {
    /// Goes on from the verdict that our store holds, so that a restart of ours is no news to any node; without one
    /// the peer is stale until it was heard.
    #[must_use]
    pub fn new(policy: Stale, held: Option<Verdict>, now: Now) -> Self {
        let young_beats = if held.is_none() { FRESH_AFTER_BEATS - 1 } else { 0 };
        let was_dropped = held.is_some_and(|held| held.dropped);
        let state = match held.map(|held| held.freshness) {
            Some(Freshness::Fresh) => State::Fresh,
            Some(Freshness::Stale) | None => State::Stale { since: now, young_beats, was_dropped },
        };
        Self { policy, last: None, heard_at: now, source_age: Duration::ZERO, state }
    }

    /// The policy was changed; what was heard stays heard.
    pub fn set_policy(&mut self, policy: Stale) {
        self.policy = policy;
    }

    /// Takes the peer's heartbeat as it is now, as often as the caller likes: only one that changed is a beat.
    pub fn handle(&mut self, heartbeat: &Heartbeat, now: Now) {
        let Heartbeat { boot, revision, source_age_ms } = *heartbeat;
        let beat = Some(Beat { boot, revision, source_age_ms });
        if self.last == beat {
            return;
        }
        self.tick(now);
        // The first one that is read may have been written long ago; only one that follows it is a sign of life.
        let is_first = std::mem::replace(&mut self.last, beat).is_none();
        if is_first {
            return;
        }
        self.heard_at = now;
        self.source_age = Duration::from_millis(source_age_ms);
        let young = self.source_age <= STALE_AFTER;
        self.state = match self.state {
            State::Fresh => State::Fresh,
            State::Stale { young_beats, .. } if young && young_beats + 1 >= FRESH_AFTER_BEATS => State::Fresh,
            State::Stale { since, young_beats, was_dropped } => {
                State::Stale { since, young_beats: if young { young_beats + 1 } else { 0 }, was_dropped }
            }
        };
        self.tick(now);
    }

    /// How old what we hold of the peer is, at most; before its first beat, since we began to listen.
    #[must_use]
    pub fn age(&self, now: Now) -> Duration {
        now.since(self.heard_at).saturating_add(self.source_age)
    }

    /// The verdict now.
    pub fn verdict(&mut self, now: Now) -> Verdict {
        self.tick(now);
        let was_dropped = matches!(self.state, State::Stale { was_dropped: true, .. });
        let dropped = self.drops_at().is_some_and(|at| was_dropped || now >= at);
        let freshness = match self.state {
            State::Fresh => Freshness::Fresh,
            State::Stale { .. } => Freshness::Stale,
        };
        Verdict { freshness, dropped }
    }

    /// When the verdict changes if nothing is heard until then.
    #[must_use]
    pub fn poll_timeout(&self, now: Now) -> Option<Now> {
        match self.state {
            State::Fresh => Some(self.stale_at()),
            State::Stale { .. } => self.drops_at().filter(|at| now < *at),
        }
    }

    fn tick(&mut self, now: Now) {
        let at = self.stale_at();
        match &mut self.state {
            State::Fresh if now >= at => {
                self.state = State::Stale { since: at, young_beats: 0, was_dropped: false };
            }
            // One beat and then silence is no sign of life.
            State::Stale { young_beats, .. } if now >= at && self.last.is_some() => *young_beats = 0,
            State::Fresh | State::Stale { .. } => {}
        }
    }

    fn stale_at(&self) -> Now {
        self.heard_at + STALE_AFTER.saturating_sub(self.source_age)
    }

    fn drops_at(&self) -> Option<Now> {
        let after = Duration::from_secs(self.policy.drop_after_s()?.into());
        match self.state {
            State::Fresh => None,
            State::Stale { since, .. } => Some(since + after),
        }
    }
}

#[cfg(test)]
mod tests;
