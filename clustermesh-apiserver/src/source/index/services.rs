//! Service → `services/<ns>/<name>`, and where its backends go.

use super::{Index, Out};
use crate::source::object::{Body, ObjectKey, ObjectKind};
use api::{
    key::{Key, LocalKey, MeshKey},
    name::{ClusterName, NamespaceName, ServiceName},
    record::{Record, Service},
};
use std::{collections::BTreeMap, net::IpAddr};

/// Services by which agents reach their apiserver, and the apiserver its source. They stay kube-proxy's: in our maps a
/// backend that moved while the apiserver is away would be the last one known, and nobody could tell of the new one.
const WAY_TO_US: [(&str, &str); 2] = [("default", "kubernetes"), ("kube-system", "kube-dns")];

/// Whether a Service's records travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// Global, shared, and in a namespace that takes part.
    Exported,
    /// Everything else: balanced here, seen by nobody else.
    Local,
}

impl Home {
    pub(super) fn backend_key(
        self,
        own: &ClusterName,
        ns: NamespaceName,
        name: ServiceName,
        ip: IpAddr,
    ) -> Key {
        match self {
            Self::Exported => MeshKey::Backend(ns, name, ip).of(own),
            Self::Local => LocalKey::Backend(ns, name, ip).into(),
        }
    }

    fn service_key(self, own: &ClusterName, ns: NamespaceName, name: ServiceName) -> Key {
        match self {
            Self::Exported => MeshKey::Service(ns, name).of(own),
            Self::Local => LocalKey::Service(ns, name).into(),
        }
    }
}

/// Every Service that can have backends, and their home; none for one that stays kube-proxy's.
pub(super) type Homes = BTreeMap<(NamespaceName, ServiceName), Option<Home>>;

pub(super) fn services(index: &Index, out: &mut Out<'_>) -> Homes {
    let mut homes = Homes::new();
    let mut frontends: BTreeMap<IpAddr, &ObjectKey> = BTreeMap::new();
    for (key, object) in index.of_kind(ObjectKind::Service) {
        let Body::Service(service) = &object.body else { continue };
        if service.external_name {
            continue;
        }
        let namespace = key.namespace.clone().expect("a Service has a namespace");
        let name: ServiceName = key.name.as_str().parse().expect("checked when the Service was read");
        if !service.balance || WAY_TO_US.contains(&(namespace.as_str(), name.as_str())) {
            if service.global {
                out.notice(key, "annotated global, but not balanced here: it stays kube-proxy's");
            }
            homes.insert((namespace, name), None);
            continue;
        }
        let takes_part = index.is_global(&namespace, out.facts);
        if service.global && !takes_part {
            out.notice(key, "annotated global, but its namespace does not take part: it stays local");
        }
        let global = service.global && takes_part;
        let shared = global && service.shared;
        let home = if shared { Home::Exported } else { Home::Local };
        let mut own = Vec::new();
        for &ip in &service.frontends {
            match frontends.get(&ip) {
                Some(&first) => {
                    out.notice(key, format!("{ip} is the clusterIP of {first}, too; that one has it"));
                }
                None => {
                    frontends.insert(ip, key);
                    own.push(ip);
                }
            }
        }
        let record = Service {
            uid: object.uid,
            frontends: own,
            ports: service.ports.clone(),
            global,
            shared,
            affinity: service.affinity,
            headless: service.headless,
            created_s: object.created_s,
            session_affinity_s: service.session_affinity_s,
        };
        let record_key = home.service_key(&out.facts.cluster, namespace.clone(), name.clone());
        out.put(key, record_key, Record::from(record));
        homes.insert((namespace, name), Some(home));
    }
    homes
}
