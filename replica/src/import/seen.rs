//! What a peer says of itself and of us: read before a peering is active, and never passed on.

use api::{
    key::{Kind, MeshKey},
    name::ClusterName,
    record::{Heartbeat, Lineage, Peering, Record, Synced},
};
use std::collections::BTreeMap;

/// A record of the peer, as far as a session told.
#[derive(Debug, PartialEq, Eq)]
pub enum Told<'a, T> {
    /// No session stands, its list is not complete, or the peer does not vouch for the kind.
    Unknown,
    /// The peer has none.
    Absent,
    /// The peer has this.
    Present(&'a T),
}

impl<T> Clone for Told<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Told<'_, T> {}

/// The peer's records about itself.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Its newest heartbeat.
    pub heartbeat: Option<Heartbeat>,
    /// The runs of its store.
    pub lineage: Option<Lineage>,
    /// A session stands.
    pub connected: bool,
    /// A list was completed, in this session or an earlier one.
    pub synced: bool,
    /// Its store's revision up to which everything was told.
    pub revision: u64,
    /// It was reached, verified, and did not let us in.
    refused: bool,
    peering: Option<Peering>,
    kinds: BTreeMap<Kind, Synced>,
}

impl Seen {
    /// The peer's side of the peering with us. A peer lets in whom it has a peering with, so one that refuses us has
    /// none.
    #[must_use]
    pub fn peering(&self) -> Told<'_, Peering> {
        if self.refused {
            return Told::Absent;
        }
        match (&self.peering, self.connected && self.synced && self.vouches_for(Kind::Peerings)) {
            (Some(peering), _) if self.connected => Told::Present(peering),
            (None, true) => Told::Absent,
            (Some(_) | None, _) => Told::Unknown,
        }
    }

    /// Whether a record of this kind that the peer does not have is one that it should not have.
    pub(super) fn vouches_for(&self, kind: Kind) -> bool {
        let boot = self.lineage.as_ref().map(|lineage| lineage.current().id);
        self.synced && self.kinds.get(&kind).is_some_and(|synced| Some(synced.boot) == boot)
    }

    /// A complete list says this.
    pub(super) fn relist(&mut self, list: Self) {
        *self = Self { connected: self.connected, revision: self.revision, synced: true, ..list };
    }

    pub(super) fn connect(&mut self, revision: u64) {
        self.connected = true;
        self.refused = false;
        self.revision = revision;
    }

    pub(super) fn disconnect(&mut self, refused: bool) {
        self.connected = false;
        self.refused = refused;
    }

    /// Takes a record about the peer itself; says whether it is one.
    pub(super) fn take(&mut self, us: &ClusterName, key: &MeshKey, record: &Record) -> bool {
        match (key, record) {
            (MeshKey::Heartbeat, Record::Heartbeat(record)) => self.heartbeat = Some(record.clone()),
            (MeshKey::Lineage, Record::Lineage(record)) => self.lineage = Some(record.clone()),
            (MeshKey::Synced(kind), Record::Synced(record)) => drop(self.kinds.insert(*kind, record.clone())),
            (MeshKey::Peering(peer), Record::Peering(record)) if peer == us => {
                self.peering = Some(record.clone());
            }
            // Its peerings with others are none of our business.
            (MeshKey::Peering(_), _) => {}
            (_, _) => return false,
        }
        true
    }

    /// One of its records about itself is gone; says whether it is one.
    pub(super) fn forget(&mut self, us: &ClusterName, key: &MeshKey) -> bool {
        match key {
            MeshKey::Heartbeat => self.heartbeat = None,
            MeshKey::Lineage => self.lineage = None,
            MeshKey::Synced(kind) => drop(self.kinds.remove(kind)),
            MeshKey::Peering(peer) => {
                if peer == us {
                    self.peering = None;
                }
            }
            MeshKey::Cluster
            | MeshKey::Node(_)
            | MeshKey::Key(_)
            | MeshKey::Namespace(_)
            | MeshKey::Identity(..)
            | MeshKey::Endpoint(..)
            | MeshKey::Service(..)
            | MeshKey::Backend(..) => return false,
        }
        true
    }
}
