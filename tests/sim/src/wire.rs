//! One connection of a follower to a store: in order, late, and mortal.

use crate::{
    bug::{Bug, Planted},
    chance::Chance,
    disk::Durable,
    hostile,
};
use api::digest::{Entries, Entry};
use bytes::Bytes;
use replica::{
    Now,
    follower::{Answer, Change, Follower, KeyRange, Request, SessionId, Value},
};
use std::{collections::VecDeque, time::Duration};
use store::{EventKind, Polled, RangeRequest, WatchRequest, Watcher};

/// An HTTP/2 ping is answered within this, or the connection counts as dead.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Latency of a message, in milliseconds.
const LATENCY_MS: std::ops::Range<u64> = 2..60;
/// The same of a slow line: below what a follower waits for an answer, above what it waits between two.
const SLOW_LATENCY_MS: std::ops::Range<u64> = 1_000..4_000;

/// Why the other end cannot be spoken to at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Packets vanish.
    Cut,
    /// The other side does not let us in.
    Refused(&'static str),
    /// Nobody listens: the machine says so at once.
    Down,
}

/// How a store answers: as this version does, or as another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Manner {
    /// As this version.
    #[default]
    Same,
    /// As an older version, which does not know how to resync; or as etcd.
    Older,
    /// As a newer version: every record has a field that we do not know.
    Newer,
    /// It sends anything that its certificate allows.
    Hostile,
}

/// The other end, and the line to it.
#[derive(Debug)]
pub struct Line<'a> {
    /// The store that answers.
    pub durable: &'a mut Durable,
    /// Which run of it this is.
    pub run: u8,
    /// How it answers.
    pub manner: Manner,
    /// Requests arrive.
    pub up: bool,
    /// Answers arrive.
    pub down: bool,
    /// All messages take long.
    pub slow: bool,
    /// What is wrong with it on purpose.
    pub planted: Planted,
}

/// A wire, with at most one connection.
#[derive(Debug, Default)]
pub struct Wire {
    session: Option<SessionId>,
    up: VecDeque<(Now, Request)>,
    down: VecDeque<(Now, Answer)>,
    watchers: Vec<(usize, KeyRange, Watcher)>,
    stalled_since: Option<Now>,
    /// Which run of the server this is a connection to.
    run: Option<u8>,
}

impl Wire {
    /// Messages under way, in both directions.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.up.len() + self.down.len()
    }

    /// Drops the connection; the client hears of it.
    pub fn reset(&mut self, follower: &mut Follower, why: &str, now: Now) {
        if let Some(session) = self.session.take() {
            *self = Self::default();
            follower.handle(Answer::Failed { session, error: why.to_owned() }, now);
        }
    }

    fn refuse(&mut self, follower: &mut Follower, why: &str, now: Now) {
        if let Some(session) = self.session.take() {
            *self = Self::default();
            follower.handle(Answer::Refused { session, error: why.to_owned() }, now);
        }
    }

    /// Moves what can be moved between a follower and a store.
    pub fn step(
        &mut self,
        follower: &mut Follower,
        server: Result<Line<'_>, Trouble>,
        chance: &mut Chance,
        now: Now,
    ) {
        let slow = server.as_ref().is_ok_and(|line| line.slow);
        while let Some(request) = follower.poll_request(now) {
            match request {
                Request::Connect { session } => *self = Self { session: Some(session), ..Self::default() },
                Request::Disconnect { .. } => {
                    *self = Self::default();
                    continue;
                }
                Request::Page { .. }
                | Request::Buckets { .. }
                | Request::Entries { .. }
                | Request::Watch { .. }
                | Request::Progress { .. } => {}
            }
            let at = late(self.up.back().map(|(at, _)| *at), slow, chance, now);
            self.up.push_back((at, request));
        }
        match server {
            Err(Trouble::Refused(why)) => self.refuse(follower, why, now),
            Err(Trouble::Down) => self.reset(follower, "connection refused", now),
            Err(Trouble::Cut) => self.stall(follower, now),
            Ok(line) if *self.run.get_or_insert(line.run) == line.run => {
                let (up, down) = (line.up, line.down);
                if up {
                    self.serve(line, chance, now);
                }
                while down && self.down.front().is_some_and(|(at, _)| *at <= now) {
                    let (_, answer) = self.down.pop_front().expect("there is one");
                    follower.handle(answer, now);
                }
                match up && down {
                    true => self.stalled_since = None,
                    false => self.stall(follower, now),
                }
            }
            Ok(_) => self.reset(follower, "connection reset", now),
        }
    }

    /// A ping and its answer need both directions.
    fn stall(&mut self, follower: &mut Follower, now: Now) {
        let since = *self.stalled_since.get_or_insert(now);
        if now.since(since) >= KEEPALIVE {
            self.reset(follower, "no answer to a ping", now);
        }
    }

    fn serve(&mut self, mut line: Line<'_>, chance: &mut Chance, now: Now) {
        while self.up.front().is_some_and(|(at, _)| *at <= now) {
            let (_, request) = self.up.pop_front().expect("there is one");
            if let Some(answer) = self.answer(request, &mut line) {
                self.send(answer, &line, chance, now);
            }
        }
        let Some(session) = self.session else { return };
        let mut answers = Vec::new();
        for (number, range, watcher) in &mut self.watchers {
            match line.durable.store.poll(watcher) {
                Polled::Events(events) => {
                    let mut changes: Vec<Change> = events.into_iter().map(change).collect();
                    if line.planted.is(Bug::LosesDeletes) && chance.one_in(4) {
                        changes.retain(|change| matches!(change, Change::Put(_)));
                    }
                    answers.push(Answer::Changes { session, watch: *number, changes, more: false });
                }
                Polled::Compacted { compact_revision } if line.planted.is(Bug::ResumesAfterCompaction) => {
                    let again = watch_of(range.clone(), compact_revision);
                    *watcher = line.durable.store.watch(&again);
                }
                Polled::Compacted { compact_revision } => {
                    answers.push(Answer::Compacted { session, compact_revision: compact_revision as u64 });
                }
                Polled::Behind | Polled::Synced => {}
            }
        }
        for answer in answers {
            self.send(answer, &line, chance, now);
        }
    }

    fn send(&mut self, answer: Answer, line: &Line<'_>, chance: &mut Chance, now: Now) {
        let answer = match line.manner {
            Manner::Same | Manner::Older => answer,
            Manner::Newer => newer(answer),
            Manner::Hostile => hostile::spoil(answer, chance),
        };
        let at = late(self.down.back().map(|(at, _)| *at), line.slow, chance, now);
        self.down.push_back((at, answer));
    }

    fn answer(&mut self, request: Request, line: &mut Line<'_>) -> Option<Answer> {
        let (older, server) = (line.manner == Manner::Older, &mut *line.durable);
        let revision = server.store.revision() as u64;
        Some(match request {
            Request::Connect { session } => Answer::Connected { session },
            Request::Page { session, range, revision: at, since, limit } => {
                let request = RangeRequest {
                    limit: limit as i64,
                    revision: at.unwrap_or(0) as i64,
                    min_mod_revision: since.unwrap_or(0) as i64,
                    ..of(range)
                };
                page(server, session, &request)
            }
            Request::Buckets { session, .. } | Request::Entries { session, .. } if older => {
                Answer::Unserved { session }
            }
            Request::Buckets { session, range, revision: at, bits } => {
                entries(server, session, range, at, |all| Answer::Buckets {
                    session,
                    buckets: all.buckets(bits),
                })
            }
            Request::Entries { session, range, revision: at, bits, buckets } => {
                entries(server, session, range, at, |all| {
                    let entries = buckets.iter().flat_map(|number| all.bucket(bits, *number)).copied();
                    Answer::Entries { session, entries: entries.collect() }
                })
            }
            Request::Watch { session, watch, range, from } => {
                let from = from + u64::from(line.planted.is(Bug::WatchesTooLate));
                let watcher = server.store.watch(&watch_of(range.clone(), from as i64));
                self.watchers.push((watch, range, watcher));
                Answer::Watching { session, watch, revision }
            }
            // All watches have been polled in every tick: what is not on its way does not exist.
            Request::Progress { session } => {
                let behind = self.watchers.iter().map(|(_, _, watcher)| watcher.delivered() as u64).min();
                Answer::Progress { session, watch: None, revision: behind.unwrap_or(revision) }
            }
            Request::Disconnect { .. } => return None,
        })
    }
}

/// A little later than now, and not before what was sent before.
fn late(last: Option<Now>, slow: bool, chance: &mut Chance, now: Now) -> Now {
    let range = if slow { SLOW_LATENCY_MS } else { LATENCY_MS };
    let ms = range.start + chance.below(range.end - range.start);
    last.unwrap_or(Now::START).max(now + Duration::from_millis(ms))
}

fn watch_of(range: KeyRange, start_revision: i64) -> WatchRequest {
    WatchRequest {
        key: range.key.into(),
        range_end: range.end.into(),
        start_revision,
        ..WatchRequest::default()
    }
}

/// Field 1000, a varint of 1, after every record: what a version after us may add. (Protocol Buffers, Encoding)
const UNKNOWN_FIELD: [u8; 3] = [0xc0, 0x3e, 0x01];

fn newer(mut answer: Answer) -> Answer {
    let grow = |value: &mut Value| value.value.extend(UNKNOWN_FIELD);
    match &mut answer {
        Answer::Page { values, .. } => values.iter_mut().for_each(grow),
        Answer::Changes { changes, .. } => {
            for change in changes {
                if let Change::Put(value) = change {
                    grow(value);
                }
            }
        }
        Answer::Connected { .. }
        | Answer::Buckets { .. }
        | Answer::Entries { .. }
        | Answer::Unserved { .. }
        | Answer::Watching { .. }
        | Answer::Progress { .. }
        | Answer::Compacted { .. }
        | Answer::Refused { .. }
        | Answer::Failed { .. } => {}
    }
    answer
}

fn of(range: KeyRange) -> RangeRequest {
    RangeRequest { key: Bytes::from(range.key), range_end: Bytes::from(range.end), ..RangeRequest::default() }
}

fn failed(error: store::Error, session: SessionId) -> Answer {
    match error {
        store::Error::Compacted { compact_revision } => {
            Answer::Compacted { session, compact_revision: compact_revision as u64 }
        }
        error => Answer::Failed { session, error: error.to_string() },
    }
}

fn entries(
    server: &Durable,
    session: SessionId,
    range: KeyRange,
    at: u64,
    answer: impl FnOnce(Entries) -> Answer,
) -> Answer {
    match server.store.range(&RangeRequest { revision: at as i64, ..of(range) }) {
        Ok(found) => {
            let entry = |kv: &store::KeyValue| Entry::of(&kv.key, kv.mod_revision as u64);
            answer(found.kvs.iter().map(entry).collect())
        }
        Err(error) => failed(error, session),
    }
}

fn page(server: &Durable, session: SessionId, request: &RangeRequest) -> Answer {
    match server.store.range(request) {
        Ok(answer) => {
            let value = |kv: store::KeyValue| Value {
                key: kv.key.to_vec(),
                value: kv.value.to_vec(),
                mod_revision: kv.mod_revision as u64,
            };
            let values = answer.kvs.into_iter().map(value).collect();
            Answer::Page { session, revision: answer.revision as u64, values, more: answer.more }
        }
        Err(error) => failed(error, session),
    }
}

fn change(event: store::Event) -> Change {
    let (key, mod_revision) = (event.kv.key.to_vec(), event.kv.mod_revision as u64);
    match event.kind {
        EventKind::Put => Change::Put(Value { key, value: event.kv.value.to_vec(), mod_revision }),
        EventKind::Delete => Change::Delete { key, mod_revision },
    }
}
