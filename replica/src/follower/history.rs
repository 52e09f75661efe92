//! What a store's records about itself say of its history.

use super::wire::Value;
use api::{
    key::{Key, MeshKey},
    name::ClusterName,
    record::{Heartbeat, Lineage, RecordError},
};

/// A record that names the boot it was written in.
pub(super) enum Testimony {
    /// All boots so far.
    Lineage(Lineage),
    /// The boot of the moment.
    Heartbeat(Heartbeat),
}

/// What a record of this cluster says of its store's history; most say nothing.
pub(super) fn testimony(cluster: &ClusterName, value: &Value) -> Option<Result<Testimony, RecordError>> {
    let Ok(Key::Mesh(of, key)) = Key::parse(&value.key) else { return None };
    if of != *cluster {
        return None;
    }
    match key {
        MeshKey::Lineage => Some(Lineage::decode(&value.value).map(Testimony::Lineage)),
        MeshKey::Heartbeat => Some(Heartbeat::decode(&value.value).map(Testimony::Heartbeat)),
        MeshKey::Cluster
        | MeshKey::Synced(_)
        | MeshKey::Peering(_)
        | MeshKey::Node(_)
        | MeshKey::Key(_)
        | MeshKey::Namespace(_)
        | MeshKey::Identity(..)
        | MeshKey::Endpoint(..)
        | MeshKey::Service(..)
        | MeshKey::Backend(..) => None,
    }
}

/// Whether two lineages tell the same of what was written up to `revision`.
pub(super) fn continues(known: &Lineage, lineage: &Lineage, revision: u64) -> bool {
    known.boot_at(revision).is_some_and(|boot| lineage.allows_resume(boot, revision))
}
