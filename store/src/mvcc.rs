//! Key → its versions, oldest first. Knows nothing of durability: whoever reads says as of when.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::{Event, EventKind, KeyRange, KeyValue};
use crate::row::{Row, RowId, State};

/// What a version costs beside key and value. Rounded up.
const VERSION_OVERHEAD_BYTES: u64 = 96;

#[derive(Debug)]
struct Version {
    id: RowId,
    state: State,
}

impl Version {
    fn bytes(&self, key: &[u8]) -> u64 {
        let value = match &self.state {
            State::Live { value, .. } => value.len(),
            State::Gone => 0,
        };
        (key.len() + value) as u64 + VERSION_OVERHEAD_BYTES
    }

    fn lease(&self) -> i64 {
        match &self.state {
            State::Live { lease, .. } => *lease,
            State::Gone => 0,
        }
    }

    fn live(&self, key: &Bytes) -> Option<KeyValue> {
        match &self.state {
            State::Live { create_revision, version, lease, value } => Some(KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision: *create_revision,
                mod_revision: self.id.revision,
                version: *version,
                lease: *lease,
            }),
            State::Gone => None,
        }
    }
}

/// All versions of all keys that are not compacted.
#[derive(Debug, Default)]
pub(crate) struct Index {
    keys: BTreeMap<Bytes, Vec<Version>>,
    versions: usize,
    bytes: u64,
}

impl Index {
    /// Adds a version, newer than every one the key has.
    pub(crate) fn push(&mut self, id: RowId, key: Bytes, state: State) {
        let version = Version { id, state };
        self.bytes += version.bytes(&key);
        self.versions += 1;
        let versions = self.keys.entry(key).or_default();
        debug_assert!(versions.last().is_none_or(|last| last.id.revision < id.revision));
        versions.push(version);
    }

    /// The newest revision in which the key changed, deleted or not.
    pub(crate) fn last_change(&self, key: &[u8]) -> Option<i64> {
        self.keys.get(key)?.last().map(|version| version.id.revision)
    }

    /// The lease a key hangs on as of its newest version; 0 is none.
    pub(crate) fn lease(&self, key: &[u8]) -> i64 {
        self.keys.get(key).and_then(|versions| versions.last()).map_or(0, Version::lease)
    }

    /// The newest versions that hang on a lease, and that lease.
    pub(crate) fn leased(&self) -> impl Iterator<Item = (RowId, i64)> {
        let newest = self.keys.values().filter_map(|versions| versions.last());
        newest.map(|version| (version.id, version.lease())).filter(|(_, lease)| *lease != 0)
    }

    /// Every version of every key.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (RowId, Row)> {
        self.keys.iter().flat_map(|(key, versions)| {
            versions
                .iter()
                .map(|version| (version.id, Row { key: key.clone(), state: version.state.clone() }))
        })
    }

    /// The key as of a revision.
    pub(crate) fn get(&self, key: &[u8], at: i64) -> Option<KeyValue> {
        let (key, versions) = self.keys.get_key_value(key)?;
        as_of(versions, at)?.live(key)
    }

    /// The keys of a range that exist as of a revision, in order.
    pub(crate) fn range(&self, range: &KeyRange, at: i64) -> impl Iterator<Item = KeyValue> {
        range
            .bounds()
            .into_iter()
            .flat_map(|bounds| self.keys.range::<[u8], _>(bounds))
            .filter_map(move |(key, versions)| as_of(versions, at)?.live(key))
    }

    /// How many keys of a range exist as of a revision.
    pub(crate) fn count(&self, range: &KeyRange, at: i64) -> usize {
        let exists = |versions: &Vec<Version>| {
            as_of(versions, at).is_some_and(|version| matches!(version.state, State::Live { .. }))
        };
        range.bounds().map_or(0, |bounds| {
            self.keys.range::<[u8], _>(bounds).filter(|(_, versions)| exists(versions)).count()
        })
    }

    /// What happened to `key` in `revision`, in which it changed.
    pub(crate) fn event(&self, key: &Bytes, revision: i64, prev_kv: bool) -> Event {
        let versions = self.keys.get(key).expect("history and index name the same keys");
        let at = versions
            .binary_search_by_key(&revision, |version| version.id.revision)
            .expect("history and index name the same revisions");
        let prev_kv = if prev_kv && at > 0 { versions[at - 1].live(key) } else { None };
        match versions[at].live(key) {
            Some(kv) => Event { kind: EventKind::Put, kv, prev_kv },
            None => {
                let kv = KeyValue { key: key.clone(), mod_revision: revision, ..KeyValue::default() };
                Event { kind: EventKind::Delete, kv, prev_kv }
            }
        }
    }

    /// Forgets the versions of `key` that nobody can read once `revision` is compacted; returns their rows.
    ///
    /// The newest at or below it stays, because a read at `revision` sees it. If that is a delete it stays only when
    /// made in `revision` itself: a watch may still start there.
    pub(crate) fn compact(&mut self, key: &[u8], revision: i64) -> Vec<RowId> {
        let Some(versions) = self.keys.get_mut(key) else { return Vec::new() };
        let below = versions.partition_point(|version| version.id.revision <= revision);
        let Some(newest) = below.checked_sub(1).map(|at| &versions[at]) else { return Vec::new() };
        let keep = matches!(newest.state, State::Live { .. }) || newest.id.revision == revision;
        let dropped: Vec<Version> = versions.drain(..below - usize::from(keep)).collect();
        if versions.is_empty() {
            self.keys.remove(key);
        }
        self.versions -= dropped.len();
        self.bytes -= dropped.iter().map(|version| version.bytes(key)).sum::<u64>();
        dropped.into_iter().map(|version| version.id).collect()
    }

    /// Keys with any version, deleted ones included.
    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn versions(&self) -> usize {
        self.versions
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn as_of(versions: &[Version], at: i64) -> Option<&Version> {
    let newer = versions.partition_point(|version| version.id.revision <= at);
    versions[..newer].last()
}
