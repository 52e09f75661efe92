//! What etcd promises to whoever watches, judged against everything that was written.
//!
//! (etcd's API guarantees: ordered, unique, reliable, atomic, resumable, bookmarkable.)

use crate::{
    history::{Leg, Watched, revision},
    model::Model,
};
use rpc::{
    etcdserverpb::WatchResponse,
    mvccpb::{Event, KeyValue},
};
use std::fmt;

/// A promise that was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Changes come in the order of their revisions, and no header is before them.
    Ordered,
    /// No change comes twice.
    Unique,
    /// The changes of a revision come in one message.
    Atomic,
    /// Whoever begins at a revision sees all from there on.
    Resumable,
    /// Nothing between two changes is missing, and each is as it was written.
    Reliable,
    /// What a progress notification covers has come before it.
    Bookmarkable,
}

/// Which promise, and by what.
#[derive(Debug, Clone, PartialEq)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// What came, or had to.
    pub by: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {:?}: {}", self.promise, self.by)
    }
}

/// Judges what a watcher saw.
pub(crate) fn check(model: &Model, watched: &Watched) -> Result<(), Broken> {
    watched.legs.iter().try_for_each(|leg| {
        let expected: Vec<&Event> = model.changes(leg.start, &watched.key, &watched.range_end).collect();
        check_leg(&expected, leg)
    })
}

fn check_leg(expected: &[&Event], leg: &Leg) -> Result<(), Broken> {
    let mut last = leg.start - 1;
    let mut seen: Vec<&Event> = Vec::new();
    for message in &leg.messages {
        let told = revision(message.header.as_ref());
        if message.events.is_empty() {
            check_bookmark(expected, &seen, message)?;
            continue;
        }
        for event in &message.events {
            let at = place(event).1;
            if seen.iter().any(|before| place(before) == place(event)) {
                return broken(Promise::Unique, event);
            }
            if at < last || at > told {
                return broken(Promise::Ordered, event);
            }
            last = at;
        }
        if let Some(before) = seen.last()
            && place(before).1 == place(&message.events[0]).1
        {
            return broken(Promise::Atomic, before);
        }
        seen.extend(&message.events);
    }
    complete(expected, &seen)
}

/// What was seen is the beginning of what was written.
fn complete(expected: &[&Event], seen: &[&Event]) -> Result<(), Broken> {
    for (at, event) in seen.iter().enumerate() {
        if expected.get(at) != Some(event) {
            let promise = if at == 0 { Promise::Resumable } else { Promise::Reliable };
            return broken(promise, event);
        }
    }
    // A revision is whole or not there.
    match (seen.last(), expected.get(seen.len())) {
        (Some(last), Some(next)) if place(last).1 == place(next).1 => broken(Promise::Atomic, next),
        _ => Ok(()),
    }
}

/// Everything up to a bookmark was seen.
fn check_bookmark(expected: &[&Event], seen: &[&Event], bookmark: &WatchResponse) -> Result<(), Broken> {
    let told = revision(bookmark.header.as_ref());
    match expected.get(seen.len()) {
        Some(missing) if place(missing).1 <= told => broken(Promise::Bookmarkable, missing),
        _ => Ok(()),
    }
}

fn broken<T>(promise: Promise, event: &Event) -> Result<T, Broken> {
    Err(Broken { promise, by: format!("{event:?}") })
}

/// A key changes once in a revision.
fn place(event: &Event) -> (&[u8], i64) {
    event.kv.as_ref().map_or((b"", 0), |KeyValue { key, mod_revision, .. }| (key, *mod_revision))
}
