//! Who writes a key: one author each, and nobody else.

use api::{
    key::{Key, LocalKey, MeshKey},
    name::ClusterName,
};

/// The writers of a cluster's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// The publisher, from the source's objects.
    Source,
    /// The publisher, about the store itself.
    Store,
    /// The peerings: our side of them, and what was imported.
    Peers,
    /// A node, about itself.
    Node,
}

/// Who may write `key` in the store of `own`.
#[must_use]
pub fn author(key: &Key, own: &ClusterName) -> Author {
    match key {
        Key::Mesh(cluster, _) if cluster != own => Author::Peers,
        Key::Mesh(_, key) => match key {
            MeshKey::Cluster | MeshKey::Heartbeat | MeshKey::Lineage | MeshKey::Synced(_) => Author::Store,
            MeshKey::Peering(_) => Author::Peers,
            MeshKey::Key(_) => Author::Node,
            MeshKey::Node(_)
            | MeshKey::Namespace(_)
            | MeshKey::Identity(..)
            | MeshKey::Endpoint(..)
            | MeshKey::Service(..)
            | MeshKey::Backend(..) => Author::Source,
        },
        Key::Local(key) => match key {
            LocalKey::Service(..) | LocalKey::Backend(..) | LocalKey::Vm(_) => Author::Source,
            LocalKey::Applied(_) | LocalKey::Presence(_) => Author::Node,
            LocalKey::Peer(_) | LocalKey::Import(_) | LocalKey::Closed(_) => Author::Peers,
        },
    }
}
