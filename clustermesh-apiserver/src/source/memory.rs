//! What no source can rebuild: when an object without a creation time was first seen, and which mesh addresses a node
//! has. Kept in a synced file, because other clusters and WireGuard peers know these addresses.

mod allocation;
#[cfg(test)]
mod tests;

use super::{
    object::{Body, Object, ObjectKey},
    snapshot::Snapshot,
};
use crate::keep;
use allocation::Allocation;
pub use allocation::{Holder, MeshAddresses};
use api::{bytes::ClusterUuid, name::NodeName};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Where it is kept in the data directory.
pub const FILE: &str = "memory.json";

/// What is remembered of a source's objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// Of objects that carry no creation time, by their text form; Unix time in seconds.
    first_seen_s: BTreeMap<String, u64>,
    /// The addresses of each node, VM and program there is or was.
    nodes: BTreeMap<Holder, Allocation>,
}

/// A node, a VM or a program that got no mesh address of a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhausted {
    /// Who goes without.
    pub holder: Holder,
    /// The range that is full.
    pub range: IpNet,
}

impl Memory {
    /// Reads the file; a missing one is an empty memory.
    ///
    /// # Errors
    /// When it cannot be read or is not ours. Going on without it would give every node another address.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        keep::load(path, "to begin anew")
    }

    /// As the file's content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a memory is plain data")
    }

    /// The objects of a snapshot with UID and creation. Objects that vanished are forgotten: one that returns is new.
    pub fn objects(
        &mut self,
        snapshot: &Snapshot,
        cluster: ClusterUuid,
        now_s: u64,
    ) -> BTreeMap<ObjectKey, Object> {
        let mut seen = BTreeMap::new();
        let mut objects = BTreeMap::new();
        for (key, found) in &snapshot.objects {
            let parsed = &found.parsed;
            let created_s = parsed.created_s.unwrap_or_else(|| {
                let name = key.to_string();
                let first = self.first_seen_s.get(&name).copied().unwrap_or(now_s);
                seen.insert(name, first);
                first
            });
            let uid = parsed.uid.unwrap_or_else(|| key.derived_uid(cluster));
            objects.insert(key.clone(), Object { uid, created_s, body: parsed.body.clone() });
        }
        self.first_seen_s = seen;
        objects
    }

    /// Mesh addresses for every Node and VM among the objects, and for each program of a VM, one of each range; each keeps
    /// what it has. Nodes and VMs draw from one range by name, as a name is one machine's.
    pub fn allocate(
        &mut self,
        objects: &BTreeMap<ObjectKey, Object>,
        ranges: &[IpNet],
        now_s: u64,
    ) -> (MeshAddresses, Vec<Exhausted>) {
        let holders = |(key, object): (&ObjectKey, &Object)| {
            let programs = match &object.body {
                Body::Node(_) => Vec::new(),
                Body::Vm(vm) => vm.programs.keys().cloned().map(Some).collect(),
                Body::Namespace(_) | Body::Pod(_) | Body::Service(_) | Body::Slice(_) | Body::Peer(_) => {
                    return None;
                }
            };
            let machine: NodeName = key.name.as_str().parse().ok()?;
            let of = move |program| Holder { machine: machine.clone(), program };
            Some(std::iter::once(None).chain(programs).map(of))
        };
        let holders: BTreeSet<Holder> = objects.iter().filter_map(holders).flatten().collect();
        allocation::allocate(&mut self.nodes, &holders, ranges, now_s)
    }
}
