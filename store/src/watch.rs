//! A watch is a place in the history. There is no queue to overflow: a slow watcher reads later, and writers do not
//! know that it exists. What etcd calls *synced* is a watcher whose place is the store's revision.

use crate::kv::{Event, EventKind, KeyRange, KeyValue};
use crate::request::WatchRequest;
use crate::state::Store;

/// A poll stops after the revision that brings it to this many events: an answer of 1,000 events of 300 bytes is
/// 300 KB. One revision is never cut, so an answer is larger when one revision is (a delete of a whole prefix).
const EVENTS_PER_POLL_MAX: usize = 1_000;

/// … or to this many bytes of keys and values, so that an answer of 64 KiB records stays a few MiB.
const BYTES_PER_POLL_MAX: usize = 1024 * 1024;

/// A poll looks at no more than this many changes, about a millisecond, so that a watcher far behind does not hold
/// the store.
const CHANGES_PER_POLL_MAX: usize = 10_000;

/// Below the compacted revision of any store: a watch from further below is told the same.
const BEFORE_EVERYTHING: i64 = -2;

/// What a watcher watches and how far it is. Made by [`Store::watch`], moved by [`Store::poll`].
#[derive(Clone, Debug)]
pub struct Watcher {
    range: KeyRange,
    next: i64,
    prev_kv: bool,
    no_put: bool,
    no_delete: bool,
}

/// What a poll found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Polled {
    /// Changes, whole revisions, in order. There may be more: poll again.
    Events(Vec<Event>),
    /// Nothing for this watcher so far, and more history to look at: poll again.
    Behind,
    /// Everything durable was delivered; there will be more when the store's revision has moved.
    Synced,
    /// What comes next was compacted; the watch has ended. Restart at or above `compact_revision`, after a list.
    Compacted {
        /// The oldest revision that can be watched.
        compact_revision: i64,
    },
}

impl Watcher {
    /// The revision up to which everything was delivered. Below the first revision asked for when that lies ahead.
    pub fn delivered(&self) -> i64 {
        self.next - 1
    }

    fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

impl Store {
    /// Begins a watch. A start that was compacted is told by the first poll, as etcd does.
    pub fn watch(&self, request: &WatchRequest) -> Watcher {
        let range = match KeyRange::parse(&request.key, &request.range_end) {
            Ok(range) => range,
            // etcd: a watch without a key begins at the first key that there can be.
            Err(_) => KeyRange::parse(&bytes::Bytes::from_static(b"\0"), &request.range_end)
                .expect("a key of one byte is a key"),
        };
        let next = match request.start_revision {
            0 => self.durable + 1,
            revision => revision.max(BEFORE_EVERYTHING),
        };
        Watcher {
            range,
            next,
            prev_kv: request.prev_kv,
            no_put: request.no_put,
            no_delete: request.no_delete,
        }
    }

    /// Gives a watcher what comes next and is durable.
    pub fn poll(&self, watcher: &mut Watcher) -> Polled {
        if watcher.next < self.compacted {
            return Polled::Compacted { compact_revision: self.compacted };
        }
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut looked_at = 0;
        for (revision, keys) in self.history.between(watcher.next, self.durable) {
            for key in keys.iter().filter(|key| watcher.range.contains(key)) {
                let event = self.index.event(key, revision, watcher.prev_kv);
                if watcher.wants(event.kind) {
                    bytes += event_bytes(&event);
                    events.push(event);
                }
            }
            looked_at += keys.len();
            watcher.next = revision + 1;
            if events.len() >= EVENTS_PER_POLL_MAX || bytes >= BYTES_PER_POLL_MAX {
                return Polled::Events(events);
            }
            if looked_at >= CHANGES_PER_POLL_MAX {
                return if events.is_empty() { Polled::Behind } else { Polled::Events(events) };
            }
        }
        watcher.next = watcher.next.max(self.durable + 1);
        if events.is_empty() { Polled::Synced } else { Polled::Events(events) }
    }
}

fn event_bytes(event: &Event) -> usize {
    let kv_bytes = |kv: &KeyValue| kv.key.len() + kv.value.len();
    kv_bytes(&event.kv) + event.prev_kv.as_ref().map_or(0, kv_bytes)
}
