//! What a VM is shown of the ranges that it may list and watch: the store as it would be if nothing else were in it.

use api::{
    key::{Key, LocalKey, MeshKey},
    name::NodeName,
    record::Vm,
};

/// Whether a VM with this grant is shown a key: what it needs to open tunnels, the Services of its namespaces, and what is
/// about itself.
#[must_use]
pub fn vm_sees(me: &NodeName, grant: &Vm, key: &[u8]) -> bool {
    // A key of a later version is nothing that this one could judge.
    let Ok(key) = Key::parse(key) else { return false };
    match key {
        Key::Mesh(_, key) => match key {
            MeshKey::Cluster | MeshKey::Lineage | MeshKey::Synced(_) | MeshKey::Node(_) | MeshKey::Key(_) => {
                true
            }
            MeshKey::Service(namespace, _) | MeshKey::Backend(namespace, ..) => grant.reads(&namespace),
            // Its apiserver judges freshness; and a beat every two seconds of each cluster would eat a thin link.
            MeshKey::Heartbeat
            | MeshKey::Peering(_)
            | MeshKey::Namespace(_)
            | MeshKey::Identity(..)
            | MeshKey::Endpoint(..) => false,
        },
        Key::Local(key) => match key {
            LocalKey::Service(namespace, _) | LocalKey::Backend(namespace, ..) => grant.reads(&namespace),
            LocalKey::Peer(_) | LocalKey::Closed(_) => true,
            LocalKey::Applied(who) | LocalKey::Vm(who) | LocalKey::Presence(who) => who == *me,
            LocalKey::Import(_) => false,
        },
    }
}
