//! ExternalWorkload → `nodes/<vm>` and `vms/<vm>`: to the mesh a VM is a node that carries nothing but its own address, and
//! those of its programs. Endpoints, identities and backends are made where those of pods are, from what is found here.

use super::{Index, Out};
use crate::{
    source::{
        memory::MeshAddresses,
        object::{self, Body, Object, ObjectKey, ObjectKind, derived_uid},
    },
    vms::{Enrollable, presence::VmStates},
};
use api::{
    bytes::Uid,
    key::{LocalKey, MeshKey},
    name::{NodeName, ObjectName, ProgramName},
    record::{self, Node, Record, Vm},
};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr};

/// A VM that takes part.
pub(super) struct Found<'a> {
    pub(super) key: &'a ObjectKey,
    pub(super) object: &'a Object,
    pub(super) vm: &'a object::Vm,
    /// Its name among nodes.
    pub(super) node: NodeName,
    /// At least one.
    pub(super) addresses: &'a [IpAddr],
    pub(super) programs: Vec<FoundProgram<'a>>,
}

/// A program of such a VM.
pub(super) struct FoundProgram<'a> {
    pub(super) name: &'a ProgramName,
    /// Among the endpoints of the namespace.
    pub(super) endpoint: ObjectName,
    pub(super) uid: Uid,
    pub(super) program: &'a object::Program,
    /// None where the ranges are exhausted: then it reaches nobody.
    pub(super) addresses: &'a [IpAddr],
}

/// The VMs with a name and an address of their own. What was there first keeps the name: whoever may write an object in
/// some namespace must not take over the address of another machine.
pub(super) fn vms<'a>(
    index: &'a Index,
    mesh_addresses: &'a MeshAddresses,
    states: &VmStates,
    out: &mut Out<'_>,
) -> Vec<Found<'a>> {
    let mut by_age: Vec<_> = index
        .of_kind(ObjectKind::ExternalWorkload)
        .filter_map(|(key, object)| match &object.body {
            Body::Vm(vm) => Some((object.created_s, key, object, vm)),
            Body::Node(_)
            | Body::Namespace(_)
            | Body::Pod(_)
            | Body::Service(_)
            | Body::Slice(_)
            | Body::Peer(_) => None,
        })
        .collect();
    by_age.sort_by_key(|(created_s, key, ..)| (*created_s, *key));
    let mut taken: BTreeMap<&str, &ObjectKey> =
        index.of_kind(ObjectKind::Node).map(|(key, _)| (key.name.as_str(), key)).collect();
    let mut found = Vec::new();
    for (_, key, object, vm) in by_age {
        if let Some(first) = taken.get(key.name.as_str()) {
            out.notice(key, format!("the name is taken by {first}: rename this VM, it does not take part"));
            continue;
        }
        taken.insert(key.name.as_str(), key);
        let node: NodeName = key.name.as_str().parse().expect("an object's name is a node's name");
        let addresses = mesh_addresses.of(&node);
        if addresses.is_empty() {
            out.notice(key, "no mesh address: the cluster's mesh CIDRs are exhausted, give it larger ones");
            continue;
        }
        if states.get(&node).is_some_and(|state| state.twins) {
            let text = "two machines speak by its name with one key, as one is a copy of the other: stop one, and let it \
                        join by a name of its own";
            out.notice(key, text);
        }
        let programs = programs((key, object, vm), &node, mesh_addresses, out);
        let carried = programs.iter().flat_map(|program| program.addresses);
        let record = Node {
            mesh_addresses: addresses.to_vec(),
            prefixes: carried.map(|address| IpNet::from(*address)).collect(),
            // Nobody dials a VM: it may stand behind any NAT, so it opens each tunnel itself.
            endpoints: Vec::new(),
            zone: String::new(),
            relay: vec![],
        };
        out.put(key, MeshKey::Node(node.clone()).of(&out.facts.cluster), Record::from(record));
        let namespace = key.namespace.clone().expect("a VM has a namespace");
        let namespaces = vm.namespaces.clone().map(|mut namespaces| {
            namespaces.insert(namespace.clone());
            namespaces
        });
        let told = |found: &FoundProgram<'_>| record::Program {
            name: found.name.clone(),
            processes: found.program.processes.clone(),
            addresses: found.addresses.to_vec(),
            serve: Vec::new(),
        };
        let grant = Vm {
            namespace,
            namespaces: namespaces.unwrap_or_default(),
            serve: Vec::new(),
            programs: programs.iter().map(told).collect(),
        };
        let enrollable =
            Enrollable { object: key.clone(), uid: object.uid, addresses: addresses.to_vec(), grant };
        out.desired.vms.insert(node.clone(), enrollable);
        found.push(Found { key, object, vm, node, addresses, programs });
    }
    found
}

/// All of them, also one without an address: the VM has to tell its processes from its own.
fn programs<'a>(
    (key, object, vm): (&ObjectKey, &Object, &'a object::Vm),
    node: &NodeName,
    mesh_addresses: &'a MeshAddresses,
    out: &mut Out<'_>,
) -> Vec<FoundProgram<'a>> {
    let mut found = Vec::new();
    for (name, program) in &vm.programs {
        let addresses = mesh_addresses.of_program(node, name);
        if addresses.is_empty() {
            let text = format!(
                "its program {name} has no mesh address, and reaches nobody: the cluster's mesh CIDRs are exhausted, give it \
                 larger ones"
            );
            out.notice(key, text);
        }
        // The object's own name has 253 characters at most, and so has the endpoint's.
        let endpoint = format!("{}.{name}", key.name).parse().unwrap_or_else(|_| key.name.clone());
        let uid = derived_uid(out.facts.uuid, &format!("Program {}/{name}", object.uid));
        found.push(FoundProgram { name, endpoint, uid, program, addresses });
    }
    found
}

/// `vms/<vm>`, once it is known what of that which it serves is there.
pub(super) fn grants(out: &mut Out<'_>) {
    for (name, Enrollable { object, grant, .. }) in out.desired.vms.clone() {
        out.put(&object, LocalKey::Vm(name).into(), Record::from(grant));
    }
}
