//! A store as a plain list of changes: slow, obvious, and what the follower is compared with.

use super::{Answer, Change, KeyRange, Request, SessionId, Value};
use api::{
    bytes::BootId,
    digest::{Entries, Entry},
    record::{Boot, Heartbeat, Lineage},
};
use std::collections::BTreeMap;

pub(super) const LINEAGE: &str = "mesh/v1/east/lineage";

#[derive(Debug, Clone)]
pub(super) struct Model {
    /// Revision, key, value or deleted.
    log: Vec<(u64, Vec<u8>, Option<Vec<u8>>)>,
    revision: u64,
    compacted: u64,
    lineage: Lineage,
    /// It does not serve buckets, as etcd does not.
    pub(super) is_stock: bool,
}

/// A watch that stands: its number, what it watches, and what comes next.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    session: SessionId,
    number: usize,
    range: KeyRange,
    next: u64,
}

impl Model {
    pub(super) fn new(boot: u8) -> Self {
        let boots = vec![Boot { id: BootId([boot; 16]), first_revision: 2 }];
        let lineage = Lineage { boots };
        let mut model = Self { log: Vec::new(), revision: 1, compacted: 0, lineage, is_stock: false };
        let lineage = model.lineage.encode();
        model.put(LINEAGE, &lineage);
        model
    }

    /// Starts again with what it has; the first thing it writes is its lineage.
    pub(super) fn restart(&mut self, boot: u8) {
        self.lineage.boots.push(Boot { id: BootId([boot; 16]), first_revision: self.revision + 1 });
        let lineage = self.lineage.encode();
        self.put(LINEAGE, &lineage);
    }

    pub(super) fn put(&mut self, key: &str, value: &[u8]) {
        self.revision += 1;
        self.log.push((self.revision, key.into(), Some(value.into())));
    }

    pub(super) fn heartbeat(&mut self) {
        let boot = self.lineage.current().id;
        let beat = Heartbeat { boot, revision: self.revision, source_age_ms: 0 };
        self.put("mesh/v1/east/heartbeat", &beat.encode());
    }

    pub(super) fn delete(&mut self, key: &str) {
        if self.at(self.revision).contains_key(key.as_bytes()) {
            self.revision += 1;
            self.log.push((self.revision, key.into(), None));
        }
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
    }

    fn at(&self, revision: u64) -> BTreeMap<Vec<u8>, Value> {
        let mut content = BTreeMap::new();
        for (mod_revision, key, value) in self.log.iter().filter(|(at, _, _)| *at <= revision) {
            match value {
                Some(value) => {
                    let value = Value { key: key.clone(), value: value.clone(), mod_revision: *mod_revision };
                    content.insert(key.clone(), value);
                }
                None => drop(content.remove(key)),
            }
        }
        content
    }

    fn entries(&self, range: &KeyRange, revision: u64) -> Entries {
        let content = self.at(revision).into_values().filter(|value| range.contains(&value.key));
        content.map(|value| Entry::of(&value.key, value.mod_revision)).collect()
    }

    /// What a follower of these prefixes should hold.
    pub(super) fn content(&self, prefixes: &[String]) -> BTreeMap<Vec<u8>, Value> {
        let ranges: Vec<KeyRange> = prefixes.iter().map(|prefix| KeyRange::prefix(prefix)).collect();
        self.at(self.revision)
            .into_iter()
            .filter(|(key, _)| ranges.iter().any(|range| range.contains(key)))
            .collect()
    }

    pub(super) fn answer(&self, request: Request, watches: &mut Vec<Watch>) -> Vec<Answer> {
        match request {
            Request::Connect { session } => vec![Answer::Connected { session }],
            Request::Page { session, revision: Some(at), .. }
            | Request::Buckets { session, revision: at, .. }
            | Request::Entries { session, revision: at, .. }
                if at < self.compacted =>
            {
                vec![Answer::Compacted { session, compact_revision: self.compacted }]
            }
            Request::Page { session, range, revision, since, limit } => {
                let content = self.at(revision.unwrap_or(self.revision)).into_values();
                let wanted =
                    |v: &Value| range.contains(&v.key) && since.is_none_or(|since| v.mod_revision >= since);
                let mut values: Vec<Value> = content.filter(wanted).collect();
                let more = values.len() > limit;
                values.truncate(limit);
                vec![Answer::Page { session, revision: self.revision, values, more }]
            }
            Request::Buckets { session, .. } | Request::Entries { session, .. } if self.is_stock => {
                vec![Answer::Unserved { session }]
            }
            Request::Buckets { session, range, revision, bits } => {
                vec![Answer::Buckets { session, buckets: self.entries(&range, revision).buckets(bits) }]
            }
            Request::Entries { session, range, revision, bits, buckets } => {
                let all = self.entries(&range, revision);
                let entries = buckets.iter().flat_map(|number| all.bucket(bits, *number).to_vec()).collect();
                vec![Answer::Entries { session, entries }]
            }
            Request::Watch { session, watch, range, from } => {
                watches.push(Watch { session, number: watch, range, next: from });
                vec![Answer::Watching { session, watch, revision: self.revision }]
            }
            Request::Progress { session } => {
                let mut answers = self.deliver(watches);
                answers.push(Answer::Progress { session, watch: None, revision: self.revision });
                answers
            }
            Request::Disconnect { session } => {
                watches.retain(|watch| watch.session != session);
                vec![]
            }
        }
    }

    /// What every watch is owed.
    pub(super) fn deliver(&self, watches: &mut [Watch]) -> Vec<Answer> {
        watches.iter_mut().filter_map(|watch| self.deliver_one(watch)).collect()
    }

    fn deliver_one(&self, watch: &mut Watch) -> Option<Answer> {
        let (session, number) = (watch.session, watch.number);
        if watch.next < self.compacted {
            return Some(Answer::Compacted { session, compact_revision: self.compacted });
        }
        let wanted = self.log.iter().filter(|(at, key, _)| *at >= watch.next && watch.range.contains(key));
        let change = |(mod_revision, key, value): &(u64, Vec<u8>, Option<Vec<u8>>)| match value.clone() {
            Some(value) => Change::Put(Value { key: key.clone(), value, mod_revision: *mod_revision }),
            None => Change::Delete { key: key.clone(), mod_revision: *mod_revision },
        };
        let changes: Vec<Change> = wanted.map(change).collect();
        watch.next = self.revision.max(watch.next - 1) + 1;
        (!changes.is_empty()).then_some(Answer::Changes { session, watch: number, changes, more: false })
    }
}
