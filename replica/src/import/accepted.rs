//! What we hold of a peer: counted by kind, with the claims of its nodes.

use super::{Reason, claims::Claims};
use api::{
    key::{Kind, MeshKey},
    peer::Limits,
    record::{Node, Record},
};
use std::collections::BTreeMap;

/// The limits, by kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limited<'a>(pub(super) &'a Limits);

impl Limited<'_> {
    pub(super) fn of(self, kind: Kind) -> usize {
        let limit = match kind {
            Kind::Nodes | Kind::Keys => self.0.nodes,
            Kind::Namespaces | Kind::Identities => self.0.identities,
            Kind::Endpoints => self.0.endpoints,
            Kind::Services => self.0.services,
            Kind::Backends => self.0.backends,
            // One key each.
            Kind::Cluster | Kind::Heartbeat | Kind::Lineage => 1,
            // One key for each kind; for each of our peers, of which we read one.
            Kind::Synced | Kind::Peerings => Kind::ALL.len() as u32,
        };
        limit as usize
    }
}

#[derive(Debug, Default)]
pub(super) struct Accepted {
    records: BTreeMap<MeshKey, (Record, u64)>,
    counts: BTreeMap<Kind, usize>,
    claims: Claims,
    freed: bool,
}

impl Accepted {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    pub(super) fn get(&self, key: &MeshKey) -> Option<&Record> {
        self.records.get(key).map(|(record, _)| record)
    }

    /// The peer's revision of what is held.
    pub(super) fn revision(&self, key: &MeshKey) -> Option<u64> {
        self.records.get(key).map(|(_, revision)| *revision)
    }

    /// Forgets by which revision of the peer each record came.
    pub(super) fn forget_revisions(&mut self) {
        for (_, revision) in self.records.values_mut() {
            *revision = 0;
        }
    }

    pub(super) fn contains(&self, key: &MeshKey) -> bool {
        self.records.contains_key(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &MeshKey> {
        self.records.keys()
    }

    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.records
            .values()
            .filter_map(|(record, _)| if let Record::Node(node) = record { Some(node) } else { None })
    }

    pub(super) fn into_records(self) -> BTreeMap<MeshKey, (Record, u64)> {
        self.records
    }

    /// Holds a record in place of the one under its key, or leaves everything as it is.
    pub(super) fn put(
        &mut self,
        key: &MeshKey,
        record: Record,
        revision: u64,
        limits: Limited<'_>,
    ) -> Result<(), Reason> {
        let old = self.records.get(key).map(|(record, _)| record.clone());
        if old.is_none() && self.count(key.kind()) >= limits.of(key.kind()) {
            return Err(Reason::OverLimit);
        }
        if let Some(old) = &old {
            self.claims.release(old);
        }
        if let Err(reason) = self.claims.claim(key, &record) {
            if let Some(old) = &old {
                self.claims.claim(key, old).expect("what was just released is free");
            }
            return Err(reason);
        }
        match old {
            // What it no longer claims may be another's.
            Some(old) => self.freed |= matches!(old, Record::Node(_) | Record::TunnelKey(_)) && old != record,
            None => *self.counts.entry(key.kind()).or_default() += 1,
        }
        self.records.insert(key.clone(), (record, revision));
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &MeshKey) {
        if let Some((record, _)) = self.records.remove(key) {
            self.claims.release(&record);
            *self.counts.get_mut(&key.kind()).expect("every record is counted") -= 1;
            self.freed = true;
        }
    }

    /// Whether room or a claim became free since this was last asked.
    pub(super) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }
}
