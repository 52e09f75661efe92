//! Pod, VM or program of a VM → `endpoints/<ns>/<ip>` and `identities/<ns>/<id>`.

use super::{Index, Out, vms};
use crate::source::object::{self, Body, Object, ObjectKey, ObjectKind};
use api::{
    bytes::{IdentityId, Uid},
    identity::{self, filter_labels},
    key::MeshKey,
    name::{NamespaceName, NodeName, ObjectName},
    record::{Endpoint, Identity, NamedPort, Record},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Identities of one namespace (design, Numbers). Labels that differ per pod and are not filtered would make one of
/// each pod, here and in every cluster that follows us.
pub const IDENTITIES_MAX: usize = 1_000;

/// The label of the one identity that all pods beyond [`IDENTITIES_MAX`] share: no selector of anybody's names it.
pub const OVERFLOW_LABEL: &str = "clustermesh.io/identity-overflow";

/// Who has an address: the newest creation, then the greater UID.
type Claim = (u64, Uid);

struct Claimant<'a> {
    claim: Claim,
    key: &'a ObjectKey,
    object: &'a Object,
    workload: Workload<'a>,
}

/// What pods, VMs and their programs have in common.
#[derive(Clone, Copy)]
struct Workload<'a> {
    node: Option<&'a NodeName>,
    service_account: &'a str,
    labels: &'a BTreeMap<String, String>,
    ports: &'a [NamedPort],
    terminating: bool,
    name: &'a ObjectName,
    uid: Uid,
}

pub(super) fn endpoints(index: &Index, vms: &[vms::Found<'_>], out: &mut Out<'_>) {
    let owners = owners(index, vms, out);
    let mut identities = Identities::default();
    for owner in owners.values() {
        identities.note(owner, out);
    }
    identities.close();
    for (ip, owner) in owners {
        let namespace = owner.key.namespace.clone().expect("pods and VMs have a namespace");
        let Some(node) = owner.workload.node.cloned() else {
            out.notice(owner.key, format!("{ip} is left out: the pod has an address, but no node"));
            continue;
        };
        // A VM's address is one of ours, by the allocation.
        if owner.key.kind == ObjectKind::Pod {
            out.warn_outside(owner.key, ip);
        }
        let id = identities.put(&namespace, &owner, out);
        let record = endpoint(&owner, node, id);
        let cluster = &out.facts.cluster;
        out.put(owner.key, MeshKey::Endpoint(namespace, ip).of(cluster), record);
    }
}

/// One owner an address, over all namespaces. A claim that lost is shown, not served.
fn owners<'a>(
    index: &'a Index,
    vms: &'a [vms::Found<'a>],
    out: &mut Out<'_>,
) -> BTreeMap<IpAddr, Claimant<'a>> {
    let mut owners: BTreeMap<IpAddr, Claimant<'a>> = BTreeMap::new();
    for (key, object) in index.of_kind(ObjectKind::Pod) {
        let Body::Pod(pod) = &object.body else { continue };
        // The address of a finished pod may be somebody else's; a hostNetwork pod has none of its own.
        if pod.finished || pod.host_network {
            continue;
        }
        let workload = Workload {
            node: pod.node.as_ref(),
            service_account: &pod.service_account,
            labels: &pod.labels,
            ports: &pod.ports,
            terminating: pod.terminating,
            name: &key.name,
            uid: object.uid,
        };
        for &ip in &pod.ips {
            let claim = (object.created_s, object.uid);
            let claimant = Claimant { claim, key, object, workload };
            let Some(rival) = owners.remove(&ip).filter(|rival| rival.key != key) else {
                owners.insert(ip, claimant);
                continue;
            };
            let (winner, loser) = if rival.claim > claim { (rival, claimant) } else { (claimant, rival) };
            out.notice(loser.key, format!("{ip} is claimed by {}, too; the newer one has it", winner.key));
            owners.insert(ip, winner);
        }
    }
    for vms::Found { key, object, vm, node, addresses, programs } in vms {
        let workload = |service_account, labels, name, uid| Workload {
            node: Some(node),
            service_account,
            labels,
            ports: &[],
            terminating: false,
            name,
            uid,
        };
        let itself = (workload(&vm.service_account, &vm.labels, &key.name, object.uid), *addresses);
        let programs = programs.iter().map(|found| {
            let object::Program { service_account, labels, .. } = found.program;
            (workload(service_account, labels, &found.endpoint, found.uid), found.addresses)
        });
        for (workload, addresses) in std::iter::once(itself).chain(programs) {
            for &ip in addresses {
                let claimant = Claimant { claim: (object.created_s, workload.uid), key, object, workload };
                // Mesh addresses are ours to give: however new a pod is that says it had one, it has not.
                if let Some(pod) = owners.insert(ip, claimant) {
                    out.notice(pod.key, format!("{ip} is the mesh address of {key}; that one has it"));
                }
            }
        }
    }
    owners
}

/// The identities of each namespace, the oldest first: a new pod takes nobody's identity away.
#[derive(Default)]
struct Identities {
    oldest: BTreeMap<NamespaceName, BTreeMap<IdentityId, u64>>,
    kept: BTreeMap<NamespaceName, BTreeSet<IdentityId>>,
}

impl Identities {
    fn note(&mut self, owner: &Claimant<'_>, out: &Out<'_>) {
        let namespace = owner.key.namespace.clone().expect("pods and VMs have a namespace");
        let id = id(&namespace, &facts(owner.workload, out), out);
        let oldest = self.oldest.entry(namespace).or_default().entry(id).or_insert(u64::MAX);
        *oldest = owner.object.created_s.min(*oldest);
    }

    fn close(&mut self) {
        for (namespace, identities) in std::mem::take(&mut self.oldest) {
            let mut by_age: Vec<(u64, IdentityId)> =
                identities.into_iter().map(|(id, at)| (at, id)).collect();
            by_age.sort_unstable();
            let kept = by_age.into_iter().take(IDENTITIES_MAX).map(|(_, id)| id).collect();
            self.kept.insert(namespace, kept);
        }
    }

    fn put(&self, namespace: &NamespaceName, owner: &Claimant<'_>, out: &mut Out<'_>) -> IdentityId {
        let mut identity = facts(owner.workload, out);
        let mut id = id(namespace, &identity, out);
        if !self.kept.get(namespace).is_some_and(|kept| kept.contains(&id)) {
            out.notice(
                owner.key,
                format!("{namespace} has more than {IDENTITIES_MAX} identities: it gets the closed one"),
            );
            let labels = BTreeMap::from([(OVERFLOW_LABEL.to_owned(), String::new())]);
            identity = Identity { service_account: String::new(), labels };
            id = self::id(namespace, &identity, out);
        }
        let key = MeshKey::Identity(namespace.clone(), id).of(&out.facts.cluster);
        if !out.desired.records.contains_key(&key) {
            out.put(owner.key, key, Record::from(identity));
        }
        id
    }
}

fn facts(workload: Workload<'_>, out: &Out<'_>) -> Identity {
    let labels = filter_labels(workload.labels, &out.facts.ignored_labels);
    Identity { service_account: workload.service_account.to_owned(), labels }
}

fn id(
    namespace: &NamespaceName,
    Identity { service_account, labels }: &Identity,
    out: &Out<'_>,
) -> IdentityId {
    identity::identity(identity::Facts { cluster: out.facts.uuid, namespace, service_account, labels })
}

fn endpoint(owner: &Claimant<'_>, node: NodeName, identity: IdentityId) -> Record {
    Record::from(Endpoint {
        uid: owner.workload.uid,
        identity,
        node,
        name: owner.workload.name.clone(),
        ports: owner.workload.ports.to_vec(),
        terminating: owner.workload.terminating,
        created_s: owner.object.created_s,
    })
}
