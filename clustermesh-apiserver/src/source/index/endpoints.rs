//! Pod → `endpoints/<ns>/<ip>` and `identities/<ns>/<id>`.

use super::{Index, Out};
use crate::source::object::{Body, Object, ObjectKey, ObjectKind, Pod};
use api::{
    bytes::{IdentityId, Uid},
    identity::{self, filter_labels},
    key::MeshKey,
    name::{NamespaceName, NodeName},
    record::{Endpoint, Identity, Record},
};
use std::{collections::BTreeMap, net::IpAddr};

/// Who has an address: the newest creation, then the greater UID.
pub(super) type Claim = (u64, Uid);

struct Claimant<'a> {
    claim: Claim,
    key: &'a ObjectKey,
    object: &'a Object,
    pod: &'a Pod,
}

pub(super) fn endpoints(index: &Index, out: &mut Out<'_>) {
    for (ip, owner) in owners(index, out) {
        let namespace = owner.key.namespace.clone().expect("a pod has a namespace");
        let Some(node) = owner.pod.node.clone() else {
            out.notice(owner.key, format!("{ip} is left out: the pod has an address, but no node"));
            continue;
        };
        out.warn_outside(owner.key, ip);
        let id = identity(&namespace, &owner, out);
        let record = endpoint(&owner, node, id);
        let cluster = &out.facts.cluster;
        out.put(owner.key, MeshKey::Endpoint(namespace, ip).of(cluster), record);
    }
}

/// One owner an address, over all namespaces. A claim that lost is shown, not served.
fn owners<'a>(index: &'a Index, out: &mut Out<'_>) -> BTreeMap<IpAddr, Claimant<'a>> {
    let mut owners: BTreeMap<IpAddr, Claimant<'a>> = BTreeMap::new();
    for (key, object) in index.of_kind(ObjectKind::Pod) {
        let Body::Pod(pod) = &object.body else { continue };
        // The address of a finished pod may be somebody else's; a hostNetwork pod has none of its own.
        if pod.finished || pod.host_network {
            continue;
        }
        for &ip in &pod.ips {
            let claim = (object.created_s, object.uid);
            let claimant = Claimant { claim, key, object, pod };
            let Some(rival) = owners.remove(&ip).filter(|rival| rival.key != key) else {
                owners.insert(ip, claimant);
                continue;
            };
            let (winner, loser) = if rival.claim > claim { (rival, claimant) } else { (claimant, rival) };
            out.notice(loser.key, format!("{ip} is claimed by {}, too; the newer one has it", winner.key));
            owners.insert(ip, winner);
        }
    }
    owners
}

fn identity(namespace: &NamespaceName, owner: &Claimant<'_>, out: &mut Out<'_>) -> IdentityId {
    let labels = filter_labels(&owner.pod.labels, &out.facts.ignored_labels);
    let service_account = owner.pod.service_account.clone();
    let id = identity::identity(identity::Facts {
        cluster: out.facts.uuid,
        namespace,
        service_account: &service_account,
        labels: &labels,
    });
    let key = MeshKey::Identity(namespace.clone(), id).of(&out.facts.cluster);
    if !out.desired.records.contains_key(&key) {
        out.put(owner.key, key, Record::from(Identity { service_account, labels }));
    }
    id
}

fn endpoint(owner: &Claimant<'_>, node: NodeName, identity: IdentityId) -> Record {
    Record::from(Endpoint {
        uid: owner.object.uid,
        identity,
        node,
        name: owner.key.name.clone(),
        ports: owner.pod.ports.clone(),
        terminating: owner.pod.terminating,
        created_s: owner.object.created_s,
    })
}
