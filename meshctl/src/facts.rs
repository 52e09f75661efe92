//! What one cluster's store says now: every record, with the revision that last changed it.

use crate::session::Listed;
use api::{
    key::{Key, LocalKey, MeshKey},
    name::{ClusterName, NodeName},
    record::{Applied, ImportState, Node, PeerState, Record},
};
use replica::import::VOUCHED;
use std::collections::BTreeMap;

/// One list of a cluster's store, parsed. What does not parse is left out, as every reader does.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Whose store it is.
    pub cluster: ClusterName,
    /// The store's revision when it was listed.
    pub head: i64,
    /// When it was listed, Unix time in milliseconds.
    pub now_ms: u64,
    /// The records, and the revision that last changed each.
    pub records: BTreeMap<Key, (Record, i64)>,
}

impl Facts {
    /// Parses what was listed.
    pub fn new(
        cluster: ClusterName,
        head: i64,
        now_ms: u64,
        listed: impl IntoIterator<Item = Listed>,
    ) -> Self {
        let parse = |listed: Listed| {
            let key = Key::parse(&listed.key).ok()?;
            let record = Record::decode(&key, &listed.value).ok()?;
            Some((key, (record, listed.revision)))
        };
        Self { cluster, head, now_ms, records: listed.into_iter().filter_map(parse).collect() }
    }

    /// One record.
    pub fn get(&self, key: impl Into<Key>) -> Option<&Record> {
        self.records.get(&key.into()).map(|(record, _)| record)
    }

    /// Our verdict about each peer.
    pub fn peers(&self) -> impl Iterator<Item = (&ClusterName, &PeerState)> {
        self.records.iter().filter_map(|(key, (record, _))| match (key, record) {
            (Key::Local(LocalKey::Peer(peer)), Record::PeerState(state)) => Some((peer, state)),
            _ => None,
        })
    }

    /// Scope `all`: what goes between this cluster's own nodes is encrypted, too.
    pub fn encrypts_inside(&self) -> bool {
        let own = self.get(MeshKey::Cluster.of(&self.cluster));
        matches!(own, Some(Record::Cluster(own)) if own.encrypts_inside)
    }

    /// What the import of a peer counted.
    pub fn import(&self, peer: &ClusterName) -> Option<&ImportState> {
        match self.get(LocalKey::Import(peer.clone()))? {
            Record::ImportState(state) => Some(state),
            _ => None,
        }
    }

    /// The nodes that a cluster announces, without its VMs: those come and go, and `meshctl vm` says how each is.
    pub fn nodes(&self, cluster: &ClusterName) -> impl Iterator<Item = (&NodeName, &Node)> {
        self.nodes_and_vms(cluster).filter(|(_, node)| !node.is_vm())
    }

    /// All machines that a cluster announces.
    pub fn nodes_and_vms(&self, cluster: &ClusterName) -> impl Iterator<Item = (&NodeName, &Node)> {
        self.records.iter().filter_map(move |(key, (record, _))| match (key, record) {
            (Key::Mesh(of, MeshKey::Node(node)), Record::Node(record)) if of == cluster => {
                Some((node, record))
            }
            _ => None,
        })
    }

    /// What a node of this cluster measured.
    pub fn applied(&self, node: &NodeName) -> Option<&Applied> {
        match self.get(LocalKey::Applied(node.clone()))? {
            Record::Applied(applied) => Some(applied),
            _ => None,
        }
    }

    /// The import has written all that the peer's list had: it vouches for each kind after that, in the boot that runs.
    pub fn is_imported(&self, peer: &ClusterName) -> bool {
        let Some(Record::Heartbeat(beat)) = self.get(MeshKey::Heartbeat.of(&self.cluster)) else {
            return false;
        };
        let vouches = |kind| match self.get(MeshKey::Synced(kind).of(peer)) {
            Some(Record::Synced(synced)) => synced.boot == beat.boot,
            Some(_) | None => false,
        };
        VOUCHED.into_iter().all(vouches)
    }

    /// The newest revision that changed what agents program for a peer.
    pub fn newest_revision_of(&self, peer: &ClusterName) -> i64 {
        let of_peer = |key: &Key| match key {
            Key::Mesh(cluster, _) => cluster == peer,
            Key::Local(LocalKey::Peer(name)) => name == peer,
            Key::Local(_) => false,
        };
        self.records
            .iter()
            .filter(|(key, _)| of_peer(key))
            .map(|(_, (_, revision))| *revision)
            .max()
            .unwrap_or(0)
    }
}
