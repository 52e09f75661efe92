//! One connection of a follower to a store: in order, late, and mortal.

use crate::{chance::Chance, disk::Durable};
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

/// A wire, with at most one connection.
#[derive(Debug, Default)]
pub struct Wire {
    session: Option<SessionId>,
    up: VecDeque<(Now, Request)>,
    down: VecDeque<(Now, Answer)>,
    watchers: Vec<(usize, Watcher)>,
    stalled_since: Option<Now>,
    /// Which run of the server this is a connection to.
    run: Option<u8>,
}

impl Wire {
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
        server: Result<(&mut Durable, u8), Trouble>,
        chance: &mut Chance,
        now: Now,
    ) {
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
            let at = late(self.up.back().map(|(at, _)| *at), chance, now);
            self.up.push_back((at, request));
        }
        match server {
            Err(Trouble::Refused(why)) => self.refuse(follower, why, now),
            Err(Trouble::Down) => self.reset(follower, "connection refused", now),
            Err(Trouble::Cut) => {
                let since = *self.stalled_since.get_or_insert(now);
                if now.since(since) >= KEEPALIVE {
                    self.reset(follower, "no answer to a ping", now);
                }
            }
            Ok((server, run)) if *self.run.get_or_insert(run) == run => {
                self.stalled_since = None;
                self.serve(server, chance, now);
                while self.down.front().is_some_and(|(at, _)| *at <= now) {
                    let (_, answer) = self.down.pop_front().expect("there is one");
                    follower.handle(answer, now);
                }
            }
            Ok(_) => self.reset(follower, "connection reset", now),
        }
    }

    fn serve(&mut self, server: &mut Durable, chance: &mut Chance, now: Now) {
        while self.up.front().is_some_and(|(at, _)| *at <= now) {
            let (_, request) = self.up.pop_front().expect("there is one");
            if let Some(answer) = self.answer(request, server) {
                self.send(answer, chance, now);
            }
        }
        let Some(session) = self.session else { return };
        let mut answers = Vec::new();
        for (number, watcher) in &mut self.watchers {
            match server.store.poll(watcher) {
                Polled::Events(events) => {
                    let changes = events.into_iter().map(change).collect();
                    answers.push(Answer::Changes { session, watch: *number, changes, more: false });
                }
                Polled::Compacted { compact_revision } => {
                    answers.push(Answer::Compacted { session, compact_revision: compact_revision as u64 });
                }
                Polled::Behind | Polled::Synced => {}
            }
        }
        for answer in answers {
            self.send(answer, chance, now);
        }
    }

    fn send(&mut self, answer: Answer, chance: &mut Chance, now: Now) {
        let at = late(self.down.back().map(|(at, _)| *at), chance, now);
        self.down.push_back((at, answer));
    }

    fn answer(&mut self, request: Request, server: &mut Durable) -> Option<Answer> {
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
                let request = WatchRequest {
                    key: range.key.into(),
                    range_end: range.end.into(),
                    start_revision: from as i64,
                    ..WatchRequest::default()
                };
                self.watchers.push((watch, server.store.watch(&request)));
                Answer::Watching { session, watch, revision }
            }
            // All watches have been polled in every tick: what is not on its way does not exist.
            Request::Progress { session } => {
                let behind = self.watchers.iter().map(|(_, watcher)| watcher.delivered() as u64).min();
                Answer::Progress { session, watch: None, revision: behind.unwrap_or(revision) }
            }
            Request::Disconnect { .. } => return None,
        })
    }
}

/// A little later than now, and not before what was sent before.
fn late(last: Option<Now>, chance: &mut Chance, now: Now) -> Now {
    let ms = LATENCY_MS.start + chance.below(LATENCY_MS.end - LATENCY_MS.start);
    last.unwrap_or(Now::START).max(now + Duration::from_millis(ms))
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
