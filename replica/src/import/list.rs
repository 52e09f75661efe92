//! A list of the peer, while it is read and when it is complete.

use super::{Import, Limited, Reason, Seen, VOUCHED, WAITING_MAX};
use crate::{follower::Value, view::Relisted};
use api::{
    key::{Kind, MeshKey},
    record::Record,
};
use std::collections::{BTreeMap, BTreeSet};

/// What was read so far. Bounded: what we hold already, and of each kind its limit and as much as may wait.
#[derive(Debug, Default)]
pub(super) struct List {
    records: BTreeMap<MeshKey, (Record, u64)>,
    /// Records of keys that we do not hold.
    new: BTreeMap<Kind, usize>,
    /// Its record was refused, which is not the same as absent.
    refused: BTreeSet<MeshKey>,
    seen: Seen,
}

impl List {
    pub(super) fn refused(&mut self, key: MeshKey) {
        self.refused.insert(key);
    }
}

impl Import {
    pub(super) fn take_listed(&mut self, value: Value) {
        let Some((key, record)) = self.read(&value) else { return };
        let Some(list) = &mut self.list else { return };
        if list.seen.take(&self.us, &key, &record) {
            return;
        }
        if !self.active {
            return self.glance(&key, record);
        }
        if !self.accepted.contains(&key) {
            let new = list.new.entry(key.kind()).or_default();
            *new += 1;
            if *new > Limited(&self.contract.limits).of(key.kind()) + WAITING_MAX {
                self.overflowed = true;
                self.refusals.count(Reason::OverLimit, &key.of(&self.peer).to_string());
                return;
            }
        }
        list.records.insert(key, (record, value.mod_revision));
    }

    pub(super) fn finish_list(&mut self) -> Option<Relisted> {
        let List { records, refused, seen, .. } = self.list.take()?;
        self.seen.relist(seen);
        // What stays was numbered by another history, maybe; whatever this one says of it is newer.
        self.accepted.forget_revisions();
        let had = self.accepted.count(Kind::Backends);
        // A peering that is prepared anew reads what the peer says of itself, and no records: none of them is missing.
        let is_missing =
            |key: &&MeshKey| self.active && !records.contains_key(*key) && !refused.contains(*key);
        self.unconfirmed = self.accepted.keys().filter(is_missing).cloned().collect();
        self.waiting.clear();
        let missing = self.unconfirmed.len();
        self.vouched();
        let mut relisted = Relisted {
            swept: missing - self.unconfirmed.len(),
            unconfirmed: self.unconfirmed.len(),
            ..Relisted::default()
        };
        relisted.note_mass_removal(&self.peer, had, had - self.accepted.count(Kind::Backends));
        // Who is held keeps his place, then comes the order of the keys.
        let (held, new): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|(key, _)| self.accepted.contains(key));
        for (key, (record, revision)) in held.into_iter().chain(new) {
            self.consider(key, record, revision);
        }
        self.retry();
        Some(relisted)
    }

    /// What the peer says of its store changed: what it vouches for now, and does not have, goes.
    pub(super) fn vouched(&mut self) {
        self.dirty.extend(VOUCHED.map(MeshKey::Synced));
        self.sweep_unconfirmed();
        self.retry();
    }

    pub(super) fn sweep_unconfirmed(&mut self) {
        // Nodes come before keys in the order of keys, so a node that goes takes its key with it.
        for key in std::mem::take(&mut self.unconfirmed) {
            if self.absence_counts(&key) {
                self.remove(&key);
            } else {
                self.unconfirmed.insert(key);
            }
        }
    }

    /// As in the view's table of what a missing record means, with the peer's own word for its own store.
    fn absence_counts(&self, key: &MeshKey) -> bool {
        match key {
            MeshKey::Cluster
            | MeshKey::Heartbeat
            | MeshKey::Lineage
            | MeshKey::Synced(_)
            | MeshKey::Peering(_) => true,
            MeshKey::Key(node) => !self.accepted.contains(&MeshKey::Node(node.clone())),
            MeshKey::Node(_)
            | MeshKey::Namespace(_)
            | MeshKey::Identity(..)
            | MeshKey::Endpoint(..)
            | MeshKey::Service(..)
            | MeshKey::Backend(..) => self.seen.vouches_for(key.kind()),
        }
    }
}
