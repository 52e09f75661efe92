//! Objects of a source from words: `pod/shop/a node=e1 ip=10.0.1.5`.
//!
//! | object | words |
//! |---|---|
//! | `node/NAME` | `mesh=IP` `pods=PREFIX` `at=IP` |
//! | `pod/NS/NAME` | `node=NAME` `ip=IP` |
//! | `service/NS/NAME` | `vip=IP` `private` `unshared` `affinity=local\|remote` |
//! | `slice/NS/SERVICE` | `pods=NAME,…`, and of these `unready=NAME,…` `draining=NAME,…` |
//!
//! A slice is what the controller of Kubernetes would have written at this moment: it names the pods that there are,
//! with their addresses of now, and stays as it is when they go.

use crate::records::{list, value};
use api::{
    bytes::Uid,
    name::{NamespaceName, NodeName, ObjectName},
    record::{Affinity, NamedPort, Protocol},
};
use clustermesh_apiserver::source::object::{
    Body, Node, Object, ObjectKey, ObjectKind, Pod, Service, Slice, SliceEndpoint,
};
use std::{collections::BTreeMap, net::IpAddr};

/// The port of every Service here, and of every backend.
pub const PORT: NamedPort = NamedPort { name: None, port: 80, protocol: Protocol::Tcp };

/// What the source of one cluster holds.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// By kind and name.
    pub all: BTreeMap<ObjectKey, Object>,
    /// Of each node there is or was, as the source's memory has them: a node that returns gets its own again.
    pub mesh_addresses: BTreeMap<NodeName, Vec<IpAddr>>,
    /// UIDs that were given.
    uids: u64,
}

impl Objects {
    /// Writes an object. One that is there keeps its UID, but a pod: a pod of the same name is another pod.
    ///
    /// # Panics
    /// On a script's typing error.
    pub fn apply(&mut self, path: &str, words: &[&str], created_s: u64) {
        let key = key(path);
        let body = self.body(&key, words);
        let uid = match (self.all.get(&key), key.kind) {
            (Some(old), kind) if kind != ObjectKind::Pod => old.uid,
            (Some(_) | None, _) => self.next_uid(),
        };
        self.all.insert(key, Object { uid, created_s, body });
    }

    /// Removes an object, if it is there.
    pub fn remove(&mut self, path: &str) {
        self.all.remove(&key(path));
    }

    /// A pod, by its words.
    #[must_use]
    pub fn pod(&self, namespace: &NamespaceName, name: &ObjectName) -> Option<(&Object, &Pod)> {
        let key = ObjectKey { kind: ObjectKind::Pod, namespace: Some(namespace.clone()), name: name.clone() };
        let object = self.all.get(&key)?;
        match &object.body {
            Body::Pod(pod) => Some((object, pod)),
            Body::Node(_)
            | Body::Namespace(_)
            | Body::Service(_)
            | Body::Slice(_)
            | Body::Peer(_)
            | Body::Vm(_) => None,
        }
    }

    fn next_uid(&mut self) -> Uid {
        self.uids += 1;
        let mut uid = [0; 16];
        uid[8..].copy_from_slice(&self.uids.to_be_bytes());
        Uid(uid)
    }

    fn body(&mut self, key: &ObjectKey, words: &[&str]) -> Body {
        match key.kind {
            ObjectKind::Node => {
                let name = key.name.as_str().parse().expect("a node's name");
                self.mesh_addresses.insert(name, list(words, "mesh"));
                Body::Node(Node {
                    pod_cidrs: list(words, "pods"),
                    internal_ips: list(words, "at"),
                    ..Node::default()
                })
            }
            ObjectKind::Pod => Body::Pod(Pod {
                node: list(words, "node").pop(),
                ips: list(words, "ip"),
                host_network: false,
                service_account: "default".to_owned(),
                labels: list::<String>(words, "app").into_iter().map(|app| ("app".to_owned(), app)).collect(),
                ports: vec![],
                finished: false,
                terminating: false,
            }),
            ObjectKind::Service => {
                let global = !words.contains(&"private");
                Body::Service(Service {
                    frontends: list(words, "vip"),
                    ports: vec![PORT],
                    headless: false,
                    external_name: false,
                    balance: true,
                    global,
                    shared: global && !words.contains(&"unshared"),
                    affinity: match value(words, "affinity") {
                        Some("local") => Affinity::Local,
                        Some("remote") => Affinity::Remote,
                        Some(_) | None => Affinity::None,
                    },
                    session_affinity_s: 0,
                })
            }
            ObjectKind::EndpointSlice => Body::Slice(self.slice(key, words)),
            ObjectKind::Namespace | ObjectKind::MeshPeer | ObjectKind::ExternalWorkload => {
                panic!("no script writes a {key}")
            }
        }
    }

    fn slice(&self, key: &ObjectKey, words: &[&str]) -> Slice {
        let namespace = key.namespace.as_ref().expect("a slice has a namespace");
        let (unready, draining) =
            (list::<ObjectName>(words, "unready"), list::<ObjectName>(words, "draining"));
        let endpoint = |name: ObjectName| {
            let (object, pod) = self.pod(namespace, &name)?;
            let ready = !unready.contains(&name) && !draining.contains(&name);
            Some(SliceEndpoint {
                addresses: pod.ips.clone(),
                ready,
                serving: !unready.contains(&name),
                terminating: draining.contains(&name),
                node: pod.node.clone(),
                pod: Some((name, Some(object.uid))),
                zone: String::new(),
                hostname: String::new(),
            })
        };
        Slice {
            service: Some(key.name.as_str().parse().expect("a Service's name")),
            ports: vec![PORT],
            endpoints: list(words, "pods").into_iter().filter_map(endpoint).collect(),
        }
    }
}

fn key(path: &str) -> ObjectKey {
    let parts: Vec<&str> = path.split('/').collect();
    let (kind, namespace, name) = match *parts {
        ["node", name] => (ObjectKind::Node, None, name),
        ["pod", namespace, name] => (ObjectKind::Pod, Some(namespace), name),
        ["service", namespace, name] => (ObjectKind::Service, Some(namespace), name),
        ["slice", namespace, name] => (ObjectKind::EndpointSlice, Some(namespace), name),
        _ => panic!("no object {path}"),
    };
    let namespace = namespace.map(|namespace| namespace.parse().expect("a namespace"));
    ObjectKey { kind, namespace, name: name.parse().expect("a name") }
}
