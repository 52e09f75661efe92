//! Following a store of the etcd v3 kind, as a state machine.
//!
//! ```text
//!            ┌────────────── failed: wait, then again ◀──────────────┐
//!            ▼                                                       │
//!  Waiting ─▶ Connecting ─▶ Reading lineage ─┬─ may resume ──────────────────────▶ Watching
//!                                            ├─ may, but history forgot ─▶ Resyncing ──┤
//!                                            │                                │ misfit │
//!                                            └─ may not ─────────────────▶ Listing ────┘
//! ```
//!
//! A session is one connection: its first request reads the store's lineage, and only a lineage that lists the boot
//! we followed, with our revision in that boot's range and not above the head, lets us go on from there. Otherwise
//! all prefixes are listed, pinned at the revision of that first answer, and watched from the next one on. So a list
//! and the watch after it have neither gap nor overlap, whatever is written meanwhile. A list that a broken session
//! interrupts goes on in the next one where it was, by the same rule.
//!
//! A watch that is told that its revision was compacted ends the session, and the next one asks for what changed since, and
//! what vanished, instead of everything (`resync.rs`). For that the follower remembers every key it has told and its
//! revision: by estimate 150 bytes a record, 15 MB of 100,000.

mod backoff;
mod event;
mod history;
mod listing;
mod pace;
mod resync;
mod watching;
mod wire;

pub use event::Event;
pub use wire::{Answer, Change, KeyRange, Request, SessionId, Value};

use crate::Now;
use api::{
    digest::{Bucket, Entry},
    key::MeshKey,
    name::ClusterName,
    record::Lineage,
};
use history::continues;
use listing::Listing;
use pace::Pace;
use resync::{Outcome, Resync};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::Duration,
};
use watching::Watching;

/// Keys that a page has at most; over a slow link it has fewer (`pace.rs`). At [`api::RECORD_MAX_BYTES`] and [`api::KEY_MAX_BYTES`] each, the largest page is 32.5 MB
/// ([`ANSWER_MAX_BYTES`]); at the usual 300 bytes it is 150 KB, and 30,000 records are 60 round trips.
pub const PAGE_KEYS: usize = 500;

/// The largest answer the wire may take: a page of [`PAGE_KEYS`] of the largest records, and a little for framing.
pub const ANSWER_MAX_BYTES: usize = PAGE_KEYS * (api::RECORD_MAX_BYTES + api::KEY_MAX_BYTES + 128);

/// Events the follower holds for its owner before it asks for no further page, and above which a session that keeps
/// talking is ended: a page's worth twice for the first, and one revision that deletes 100,000 keys for the second.
const EVENTS_BEFORE_PAUSE: usize = 2 * PAGE_KEYS;
const EVENTS_MAX: usize = 131_072;

/// A connection or an answer that takes longer is given up: a page of 32 MB at 10 Mbit/s takes 26 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A resync begins anew in each session, and a list goes on where it was: so many that broke, and a list is read, which comes to
/// an end over a link that never holds for long.
const BROKEN_RESYNCS_MAX: u32 = 3;

/// What to follow, and whose lineage tells whether we may resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// The cluster whose store this is: `mesh/v1/<cluster>/lineage` is read first.
    pub cluster: ClusterName,
    /// All keys that begin with one of these; none may be a prefix of another.
    pub prefixes: Vec<String>,
}

/// Where we are in a store's history.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    /// Of the store, as it was checked last; a store that has none is listed each time.
    lineage: Option<Lineage>,
    /// Up to here everything was delivered, a revision for each prefix.
    revisions: Vec<u64>,
    /// What was told and not deleted since.
    held: Held,
    /// History does not reach back to here any more.
    forgotten: bool,
}

/// Keys and the revisions in which they were last written.
type Held = BTreeMap<Vec<u8>, u64>;

/// What a list or a resync has to ask next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ask {
    Page { range: KeyRange, revision: u64, since: Option<u64> },
    Buckets { range: KeyRange, revision: u64, bits: u32 },
    Entries { range: KeyRange, revision: u64, bits: u32, buckets: Vec<u32> },
}

impl Ask {
    fn request(self, session: SessionId, pace: Pace) -> Request {
        match self {
            Self::Page { range, revision, since } => {
                Request::Page { session, range, revision: Some(revision), since, limit: pace.keys() }
            }
            Self::Buckets { range, revision, bits } => Request::Buckets { session, range, revision, bits },
            Self::Entries { range, revision, bits, buckets } => {
                Request::Entries { session, range, revision, bits, buckets }
            }
        }
    }
}

impl Position {
    fn complete_to(&self) -> u64 {
        self.revisions.iter().copied().min().unwrap_or(0)
    }

    fn note(&mut self, change: &Change) {
        match change {
            Change::Put(value) => drop(self.held.insert(value.key.clone(), value.mod_revision)),
            Change::Delete { key, .. } => drop(self.held.remove(key)),
        }
    }
}

#[derive(Debug)]
enum State {
    Waiting { until: Now },
    Connecting { since: Now },
    ReadingLineage { since: Now },
    Listing(Listing),
    Resyncing(Resync),
    Watching(Watching),
}

/// Why [`Follower::poll_timeout`] wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The wait after a failure is over.
    Reconnect,
    /// A connection or an answer is overdue.
    Overdue,
    /// The watch has been silent.
    Silence,
    /// Watches are apart, and the slower ones may be asked again.
    Progress,
}

impl fmt::Display for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reconnect => "to connect again",
            Self::Overdue => "an answer is overdue",
            Self::Silence => "the watch is silent",
            Self::Progress => "one watch is behind another",
        })
    }
}

/// Follows one store for ever. See the head of the module.
#[derive(Debug)]
pub struct Follower {
    follow: Follow,
    seed: u64,
    session: SessionId,
    failures: u32,
    state: State,
    /// None until a list is complete, and after a reason to distrust what we have.
    position: Option<Position>,
    /// A list that the end of its session interrupted.
    unfinished: Option<Listing>,
    /// Resyncs that the ends of their sessions interrupted, one after the other.
    broken_resyncs: u32,
    pace: Pace,
    /// As the owner was last told.
    progress: u64,
    requests: VecDeque<Request>,
    events: VecDeque<Event>,
}

impl Follower {
    /// A follower that wants to connect at once. The seed makes its waits differ from other followers'.
    #[must_use]
    pub fn new(follow: Follow, seed: u64) -> Self {
        Self {
            follow,
            seed,
            session: SessionId::default(),
            failures: 0,
            state: State::Waiting { until: Now::START },
            position: None,
            unfinished: None,
            broken_resyncs: 0,
            pace: Pace::new(),
            progress: 0,
            requests: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The next thing the wire should carry.
    pub fn poll_request(&mut self, now: Now) -> Option<Request> {
        self.handle_time(now);
        // A page is asked for only when its events have room.
        if matches!(self.requests.front(), Some(Request::Page { .. }))
            && self.events.len() > EVENTS_BEFORE_PAUSE
        {
            return None;
        }
        let request = self.requests.pop_front()?;
        // The owner may have been slow to take what came before, which says nothing of the link.
        match &mut self.state {
            State::Listing(listing) => listing.asks(now),
            State::Resyncing(resync) => resync.asks(now),
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::ReadingLineage { .. }
            | State::Watching(_) => {}
        }
        Some(request)
    }

    /// The next thing the owner should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to poll for requests again, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Now, Wake)> {
        Some(match &self.state {
            State::Waiting { until } => (*until, Wake::Reconnect),
            State::Connecting { since } | State::ReadingLineage { since } => {
                (*since + ANSWER_WITHIN, Wake::Overdue)
            }
            State::Listing(listing) => (listing.asked_at() + ANSWER_WITHIN, Wake::Overdue),
            State::Resyncing(resync) => (resync.asked_at() + ANSWER_WITHIN, Wake::Overdue),
            State::Watching(watching) => self.watch_timeout(watching),
        })
    }

    /// Whether the watches stand: what the owner holds is current but for the time a change travels.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        matches!(self.state, State::Watching(_))
    }

    /// Lists everything again, in a new session, because the owner no longer trusts what it holds.
    pub fn relist(&mut self, now: Now) {
        self.distrust(now);
        self.end_session();
        self.state = State::Waiting { until: now };
    }

    /// Takes an answer from the wire. One of another session than the running one changes nothing.
    pub fn handle(&mut self, answer: Answer, now: Now) {
        if answer.session() != self.session {
            return;
        }
        match answer {
            Answer::Connected { .. } => self.handle_connected(now),
            Answer::Page { revision, values, more, .. } => self.handle_page(revision, values, more, now),
            Answer::Buckets { buckets, .. } => self.handle_buckets(buckets, now),
            Answer::Entries { entries, .. } => self.handle_entries(entries, now),
            Answer::Unserved { .. } => self.handle_unserved(now),
            Answer::Watching { watch, revision, .. } => self.handle_watching(watch, revision, now),
            Answer::Changes { watch, changes, more, .. } => self.handle_changes(watch, changes, more, now),
            Answer::Progress { watch, revision, .. } => self.handle_progress(watch, revision, now),
            Answer::Compacted { compact_revision, .. } => self.handle_compacted(compact_revision, now),
            Answer::Failed { error, .. } => self.fail(error, now),
            Answer::Refused { error, .. } => self.end(error, true, now),
        }
        if self.events.len() > EVENTS_MAX {
            self.distrust(now);
            self.events.clear();
            self.fail(format!("more than {EVENTS_MAX} changes at once"), now);
        }
    }

    fn handle_time(&mut self, now: Now) {
        let Some((at, why)) = self.poll_timeout() else { return };
        if now < at {
            return;
        }
        match why {
            Wake::Reconnect => {
                self.session = self.session.next();
                self.state = State::Connecting { since: now };
                self.requests.push_back(Request::Connect { session: self.session });
            }
            Wake::Overdue => self.fail("the store does not answer".to_owned(), now),
            Wake::Silence | Wake::Progress => self.ask_progress(now),
        }
    }

    fn handle_connected(&mut self, now: Now) {
        if let State::Connecting { .. } = self.state {
            self.state = State::ReadingLineage { since: now };
            let key = MeshKey::Lineage.of(&self.follow.cluster).to_string();
            let (session, range) = (self.session, KeyRange::single(&key));
            self.requests.push_back(Request::Page { session, range, revision: None, since: None, limit: 1 });
        }
    }

    fn handle_page(&mut self, revision: u64, values: Vec<Value>, more: bool, now: Now) {
        match &mut self.state {
            State::ReadingLineage { .. } => self.handle_lineage(revision, values.first(), now),
            State::Listing(listing) => {
                self.pace.note(now.since(listing.asked_at()), more);
                match listing.take(values, more, now) {
                    Ok(taken) => {
                        self.events.extend(taken);
                        self.continue_listing();
                    }
                    Err(error) => {
                        self.distrust(now);
                        self.fail(error.to_owned(), now);
                    }
                }
            }
            State::Resyncing(resync) => {
                self.pace.note(now.since(resync.asked_at()), more);
                self.resync(now, |resync, held| resync.take_page(values, more, held, now));
            }
            State::Waiting { .. } | State::Connecting { .. } | State::Watching(_) => {
                self.fail("the store answered what was not asked".to_owned(), now);
            }
        }
    }

    fn handle_buckets(&mut self, buckets: Vec<Bucket>, now: Now) {
        self.note_hashes(now);
        self.resync(now, |resync, _| resync.take_buckets(buckets, now));
    }

    fn handle_entries(&mut self, entries: Vec<Entry>, now: Now) {
        self.note_hashes(now);
        self.resync(now, |resync, held| resync.take_entries(entries, held, now));
    }

    /// How much of them was asked for is not the pace's to say alone, so they only slow it down.
    fn note_hashes(&mut self, now: Now) {
        if let State::Resyncing(resync) = &self.state {
            self.pace.note(now.since(resync.asked_at()), false);
        }
    }

    fn handle_unserved(&mut self, now: Now) {
        self.resync(now, |_, _| Err("the store does not serve buckets"));
    }

    /// A watch below the compacted revision would skip deletes if it went on at the compacted one (etcd API guarantees:
    /// Resumable). What we hold is still true of our revision, so the next session finds out what changed since. A
    /// list, or a resync, that history overtakes is begun again as a list.
    fn handle_compacted(&mut self, compact_revision: u64, now: Now) {
        match (&self.state, &mut self.position) {
            (State::Watching(_), Some(position)) => position.forgotten = true,
            (_, _) => self.distrust(now),
        }
        self.fail(format!("history up to revision {compact_revision} was compacted"), now);
    }

    fn handle_lineage(&mut self, head: u64, value: Option<&Value>, now: Now) {
        // A lineage that cannot be read is none: then there is no resuming, and a list is always right.
        let lineage = value.and_then(|value| Lineage::decode(&value.value).ok());
        if self.may_resume(lineage.as_ref(), head)
            && let Some(position) = &mut self.position
            && let Some(lineage) = lineage
        {
            position.lineage = Some(lineage.clone());
            if position.forgotten {
                let prefixes = self.follow.prefixes.iter().map(|prefix| KeyRange::prefix(prefix));
                let prefixes = prefixes.zip(position.revisions.iter().copied()).collect();
                let cluster = self.follow.cluster.clone();
                let resync = Resync::new(cluster, prefixes, lineage, head, &position.held, self.pace, now);
                self.state = State::Resyncing(resync);
                self.continue_resync(now);
            } else {
                self.events.push_back(Event::Resumed { revision: position.complete_to() });
                self.watch(now);
            }
            return;
        }
        let unfinished = self.unfinished.take();
        if let Some(lineage) = &lineage
            && let Some(listing) = unfinished.and_then(|listing| listing.resume(lineage, head, now))
        {
            self.state = State::Listing(listing);
            self.continue_listing();
            return;
        }
        self.list(lineage, head, now);
    }

    fn list(&mut self, lineage: Option<Lineage>, head: u64, now: Now) {
        self.position = None;
        self.events.push_back(Event::Init);
        self.state = State::Listing(Listing::new(&self.follow.prefixes, lineage, head, now));
        self.continue_listing();
    }

    /// Each of our revisions was written by a boot that the lineage still has there.
    fn may_resume(&self, lineage: Option<&Lineage>, head: u64) -> bool {
        let Some(Position { lineage: Some(known), revisions, .. }) = &self.position else { return false };
        let same = |revision: u64| {
            revision <= head && lineage.is_some_and(|lineage| continues(known, lineage, revision))
        };
        revisions.iter().all(|&revision| same(revision))
    }

    fn continue_listing(&mut self) {
        let State::Listing(listing) = &mut self.state else { return };
        if let Some(ask) = listing.wants() {
            self.requests.push_back(ask.request(self.session, self.pace));
            return;
        }
        let (lineage, held) = (listing.take_lineage(), listing.take_held());
        let (revision, asked_at) = (listing.revision(), listing.asked_at());
        let revisions = vec![revision; self.follow.prefixes.len()];
        self.position = Some(Position { lineage, revisions, held, forgotten: false });
        self.progress = revision;
        self.events.push_back(Event::InitDone { revision });
        self.watch(asked_at);
    }

    /// Lets a resync take an answer. One that does not fit is no reason to end the session, but one to list.
    fn resync(&mut self, now: Now, take: impl FnOnce(&mut Resync, &Held) -> Result<(), resync::Misfit>) {
        let (State::Resyncing(resync), Some(position)) = (&mut self.state, &mut self.position) else {
            return self.fail("the store answered what was not asked".to_owned(), now);
        };
        match take(resync, &position.held) {
            Ok(()) => self.continue_resync(now),
            Err(_) => {
                let (lineage, revision) = (position.lineage.take(), resync.revision());
                self.list(lineage, revision, now);
            }
        }
    }

    fn continue_resync(&mut self, now: Now) {
        let (State::Resyncing(resync), Some(position)) = (&mut self.state, &mut self.position) else {
            return;
        };
        if let Some(ask) = resync.wants() {
            self.requests.push_back(ask.request(self.session, self.pace));
            return;
        }
        let revision = resync.revision();
        let Outcome { vanished, changed } = resync.finish(&position.held);
        for key in vanished {
            position.held.remove(&key);
            self.events.push_back(Event::Delete { key, mod_revision: revision });
        }
        for value in changed {
            position.held.insert(value.key.clone(), value.mod_revision);
            self.events.push_back(Event::Apply(value));
        }
        position.revisions.fill(revision);
        position.forgotten = false;
        self.broken_resyncs = 0;
        self.progress = revision;
        self.events.push_back(Event::Resumed { revision });
        self.watch(now);
    }

    fn fail(&mut self, error: String, now: Now) {
        self.end(error, false, now);
    }

    fn end(&mut self, error: String, refused: bool, now: Now) {
        let wait = backoff::wait(self.failures, self.seed);
        self.failures = self.failures.saturating_add(1);
        self.end_session();
        self.events.push_back(Event::Disconnected { error, refused, retry_in: wait });
        match std::mem::replace(&mut self.state, State::Waiting { until: now + wait }) {
            State::Listing(listing) => {
                self.pace.slow_down();
                self.unfinished = Some(listing);
            }
            State::Resyncing(_) => {
                self.pace.slow_down();
                self.broken_resyncs += 1;
                if self.broken_resyncs >= BROKEN_RESYNCS_MAX {
                    self.broken_resyncs = 0;
                    self.position = None;
                }
            }
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::ReadingLineage { .. }
            | State::Watching(_) => {}
        }
    }

    /// What we hold, and what we have read of a list, may be of another history: the next session lists.
    fn distrust(&mut self, now: Now) {
        self.position = None;
        self.unfinished = None;
        self.state = State::Waiting { until: now };
    }

    /// What still arrives from the session is an older session's from here on.
    fn end_session(&mut self) {
        self.requests.clear();
        self.requests.push_back(Request::Disconnect { session: self.session });
        self.session = self.session.next();
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
