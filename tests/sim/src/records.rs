//! Records from words: `nodes/w1 mesh=10.2.255.1 prefixes=10.2.1.0/24 endpoints=192.0.2.21`.

use api::{
    bytes::{ClusterUuid, IdentityId, PublicKey, Uid},
    key::{Key, MeshKey},
    record::{
        Affinity, Backend, Cluster, Endpoint, Identity, NamedPort, Namespace, Node, Protocol, Record,
        Service, TunnelKey,
    },
};
use std::{collections::BTreeMap, str::FromStr};

/// `name=value` among words.
#[must_use]
pub fn value<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// A list of values, comma between.
///
/// # Panics
/// On a script's typing error, as everything here.
#[must_use]
pub fn list<T: FromStr<Err: std::fmt::Debug>>(words: &[&str], name: &str) -> Vec<T> {
    let all = value(words, name).unwrap_or_default().split(',').filter(|text| !text.is_empty());
    all.map(|text| text.parse().unwrap_or_else(|e| panic!("`{text}` of {name}: {e:?}"))).collect()
}

/// The UUID of a test cluster: its name, so that it can be read.
#[must_use]
pub fn uuid(name: &str) -> ClusterUuid {
    let mut bytes = [0; 16];
    bytes[..name.len().min(16)].copy_from_slice(&name.as_bytes()[..name.len().min(16)]);
    ClusterUuid(bytes)
}

/// The record that these words describe, of the kind that its key says.
///
/// # Panics
/// When the kind is one that no script needs.
#[must_use]
pub fn parse(key: &Key, words: &[&str]) -> Record {
    let Key::Mesh(_, key) = key else { panic!("scripts write no private records") };
    let has = |word: &str| words.contains(&word);
    let number =
        |name: &str, otherwise: u64| value(words, name).map_or(otherwise, |n| n.parse().expect("a number"));
    let port = || vec![NamedPort { name: None, port: 80, protocol: Protocol::Tcp }];
    match key {
        MeshKey::Cluster => Cluster {
            uuid: uuid(value(words, "uuid").unwrap_or_default()),
            version: "sim".to_owned(),
            capabilities: vec![],
            pod_cidrs: list(words, "pods"),
            service_cidrs: vec![],
            mesh_cidrs: list(words, "mesh"),
            encrypts_inside: false,
        }
        .into(),
        MeshKey::Node(_) => Node {
            mesh_addresses: list(words, "mesh"),
            prefixes: list(words, "prefixes"),
            endpoints: list(words, "endpoints"),
            zone: String::new(),
            relay: vec![],
        }
        .into(),
        MeshKey::Key(_) => TunnelKey {
            public_key: PublicKey([number("key", 1) as u8; 32]),
            port: 51_871,
            clock_epoch: 0,
            relay_key: None,
            on_demand: false,
        }
        .into(),
        MeshKey::Namespace(_) => Namespace { labels: BTreeMap::new() }.into(),
        MeshKey::Identity(..) => Identity {
            service_account: value(words, "account").unwrap_or("default").to_owned(),
            labels: BTreeMap::new(),
        }
        .into(),
        MeshKey::Endpoint(..) => Endpoint {
            uid: Uid([number("uid", 1) as u8; 16]),
            identity: IdentityId([1; 16]),
            node: "n1".parse().expect("a name"),
            name: "pod".parse().expect("a name"),
            ports: vec![],
            terminating: false,
            created_s: number("created", 1),
        }
        .into(),
        MeshKey::Service(..) => Service {
            uid: Uid([1; 16]),
            frontends: list(words, "frontends"),
            ports: port(),
            global: !has("private"),
            shared: !has("private"),
            affinity: match value(words, "affinity") {
                Some("local") => Affinity::Local,
                Some("remote") => Affinity::Remote,
                Some(_) | None => Affinity::None,
            },
            headless: false,
            created_s: 1,
            session_affinity_s: 0,
        }
        .into(),
        MeshKey::Backend(..) => Backend {
            uid: Uid([1; 16]),
            ports: (0..number("ports", 1)).flat_map(|_| port()).collect(),
            ready: !has("unready"),
            serving: !has("unready"),
            terminating: false,
            weight: 1,
            zone: String::new(),
            node: Some("n1".parse().expect("a name")),
            hostname: String::new(),
            created_s: number("created", 1),
        }
        .into(),
        MeshKey::Heartbeat | MeshKey::Lineage | MeshKey::Synced(_) | MeshKey::Peering(_) => {
            panic!("{key} is the apiserver's own to write")
        }
    }
}
