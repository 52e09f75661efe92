//! What we hold of a peer: counted by kind, with the claims of its nodes.

use super::{Reason, claims::Claims};
use api::{
    key::{Kind, MeshKey},
    name::NodeName,
    peer::Limits,
    record::{Node, Record},
};
use std::collections::BTreeMap;

/// What was held and gave way, and its revision.
pub(super) type Displaced = (MeshKey, Record, u64);

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

    /// Holds a record in place of the one under its key, or leaves everything as it is. A node that is held has a right
    /// to its key, so at the limit a key of one that is not gives way: it is returned, with its revision.
    pub(super) fn put(
        &mut self,
        key: &MeshKey,
        record: Record,
        revision: u64,
        limits: Limited<'_>,
    ) -> Result<Option<Displaced>, Reason> {
        let old = self.records.get(key).map(|(record, _)| record.clone());
        let is_full = old.is_none() && self.count(key.kind()) >= limits.of(key.kind());
        let gives_way = if is_full { Some(self.gives_way_to(key).ok_or(Reason::OverLimit)?) } else { None };
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
        Ok(gives_way.and_then(|key| {
            let (record, revision) = self.take(&key)?;
            Some((key, record, revision))
        }))
    }

    /// Which key is held though its node is not, if `key` is that of a node that is.
    fn gives_way_to(&self, key: &MeshKey) -> Option<MeshKey> {
        let is_held = |node: &NodeName| self.contains(&MeshKey::Node(node.clone()));
        let MeshKey::Key(node) = key else { return None };
        let of_none = |key: &&MeshKey| matches!(key, MeshKey::Key(node) if !is_held(node));
        is_held(node).then(|| self.keys().find(of_none).cloned())?
    }

    /// Something that waits may pass now, though nothing went.
    pub(super) fn free(&mut self) {
        self.freed = true;
    }

    pub(super) fn remove(&mut self, key: &MeshKey) {
        self.take(key);
    }

    fn take(&mut self, key: &MeshKey) -> Option<(Record, u64)> {
        let (record, revision) = self.records.remove(key)?;
        self.claims.release(&record);
        *self.counts.get_mut(&key.kind()).expect("every record is counted") -= 1;
        self.freed = true;
        Some((record, revision))
    }

    /// Whether room or a claim became free since this was last asked.
    pub(super) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }
}
