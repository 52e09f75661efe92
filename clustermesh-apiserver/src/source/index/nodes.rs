//! Node → `nodes/<node>`.

use super::{Index, Out};
use crate::source::{
    memory::MeshAddresses,
    object::{Body, ObjectKind},
};
use api::{
    key::MeshKey,
    name::NodeName,
    record::{Node, Record},
};

pub(super) fn nodes(index: &Index, mesh_addresses: &MeshAddresses, out: &mut Out<'_>) {
    for (key, object) in index.of_kind(ObjectKind::Node) {
        let Body::Node(node) = &object.body else { continue };
        let name: NodeName = key.name.as_str().parse().expect("an object's name is a node's name");
        let addresses = mesh_addresses.of(&name).to_vec();
        if addresses.is_empty() {
            out.notice(key, "no mesh address: the cluster's mesh CIDRs are exhausted, give it larger ones");
        }
        if node.internal_ips.is_empty() {
            out.notice(key, "no address of type InternalIP: nobody can dial its tunnel, it dials itself");
        }
        let cidrs = out.facts.pod_cidrs.clone();
        for prefix in &node.pod_cidrs {
            if !cidrs.is_empty() && !cidrs.iter().any(|cidr| cidr.contains(prefix)) {
                out.notice(
                    key,
                    format!("{prefix} lies in none of this cluster's pod CIDRs: peers will refuse it"),
                );
            }
        }
        let record = Node {
            mesh_addresses: addresses,
            prefixes: node.pod_cidrs.clone(),
            endpoints: node.internal_ips.clone(),
            zone: node.zone.clone(),
            relay: node.relay.clone(),
        };
        let cluster = &out.facts.cluster;
        out.put(key, MeshKey::Node(name).of(cluster), Record::from(record));
    }
}
