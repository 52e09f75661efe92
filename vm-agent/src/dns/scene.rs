//! A mesh as text, for tests: a line a fact, as agent of the cluster `east`.
//!
//! ```text
//! service east shop/cart global 10.101.0.10 fd00:101::10 http:80/TCP
//! headless west shop/db global
//! backend west shop/db 10.2.1.11 hostname=db-0 http:8080/TCP unready
//! peer west
//! ```

use api::{
    bytes::{ClusterUuid, Uid},
    key::{Key, LocalKey, MeshKey},
    name::{ClusterName, NamespaceName, ServiceName},
    record::{
        Affinity, Backend, Cluster, Freshness, NamedPort, PeerState, Phase, Protocol, Record, Service,
        StalePolicy,
    },
};
use replica::{
    follower::{Event, Value},
    view::View,
};
use std::net::IpAddr;

/// Whether the store was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    Yes,
    NotYet,
}

/// The view of `east`, whose frontends come from 10.101.0.0/16 and fd00:101::/64.
pub fn view(text: &str, listed: Listed) -> View {
    let east: ClusterName = name("east");
    let mut records = vec![(MeshKey::Cluster.of(&east), Record::from(cluster()))];
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        records.push(fact(&words));
    }
    let value = |(key, record): (Key, Record)| Value {
        key: key.to_string().into_bytes(),
        value: record.encode(),
        mod_revision: 7,
    };
    let mut view = View::new(east);
    match listed {
        Listed::NotYet => {
            for record in records {
                view.apply(Event::Apply(value(record)));
            }
        }
        Listed::Yes => {
            view.apply(Event::Init);
            for record in records {
                view.apply(Event::InitApply(value(record)));
            }
            view.apply(Event::InitDone { revision: 7 });
        }
    }
    view
}

fn fact(words: &[&str]) -> (Key, Record) {
    match words {
        ["peer", peer] => (LocalKey::Peer(name(peer)).into(), peer_state().into()),
        ["service" | "headless", cluster, of, ..] => {
            let (namespace, service) = service_key(of);
            (MeshKey::Service(namespace, service).of(&name(cluster)), service_record(words).into())
        }
        ["backend", cluster, of, address, ..] => {
            let (namespace, service) = service_key(of);
            let key = MeshKey::Backend(namespace, service, address.parse().expect("an address"));
            (key.of(&name(cluster)), backend(&words[4..]).into())
        }
        _ => panic!("no such fact: {words:?}"),
    }
}

fn name<T: std::str::FromStr<Err = api::name::BadName>>(text: &str) -> T {
    text.parse().expect("a name")
}

fn service_key(text: &str) -> (NamespaceName, ServiceName) {
    let (namespace, service) = text.split_once('/').expect("namespace/name");
    (name(namespace), name(service))
}

fn cluster() -> Cluster {
    let prefix = |text: &str| text.parse().expect("a prefix");
    Cluster {
        uuid: ClusterUuid([1; 16]),
        version: String::new(),
        capabilities: vec![],
        pod_cidrs: vec![prefix("10.1.0.0/16")],
        service_cidrs: vec![prefix("10.101.0.0/16"), prefix("fd00:101::/64")],
        mesh_cidrs: vec![prefix("100.64.1.0/24")],
        encrypts_inside: false,
    }
}

fn peer_state() -> PeerState {
    PeerState {
        uuid: ClusterUuid([2; 16]),
        phase: Phase::Active,
        freshness: Freshness::Fresh,
        stale_policy: StalePolicy::Demote,
        drop_after_ms: 0,
        prefixes: vec!["10.2.0.0/16".parse().expect("a prefix")],
        nonce: None,
        dropped: false,
        through: None,
        relay: vec![],
    }
}

/// `http:80/TCP` or `:80/TCP`.
fn ports(words: &[&str]) -> Vec<NamedPort> {
    let port = |word: &&str| {
        let (head, protocol) = word.rsplit_once('/')?;
        let (name, port) = head.split_once(':')?;
        let protocol = if protocol == "UDP" { Protocol::Udp } else { Protocol::Tcp };
        Some(NamedPort { name: name.parse().ok(), port: port.parse().ok()?, protocol })
    };
    words.iter().filter_map(port).collect()
}

fn service_record(words: &[&str]) -> Service {
    Service {
        uid: Uid([1; 16]),
        frontends: words.iter().filter_map(|word| word.parse::<IpAddr>().ok()).collect(),
        ports: ports(words),
        global: words.contains(&"global"),
        shared: words.contains(&"global"),
        affinity: Affinity::None,
        headless: words[0] == "headless",
        created_s: 1,
        session_affinity_s: 0,
    }
}

fn backend(words: &[&str]) -> Backend {
    let hostname = words.iter().find_map(|word| word.strip_prefix("hostname="));
    Backend {
        uid: Uid([3; 16]),
        ports: ports(words),
        ready: !words.contains(&"unready"),
        serving: !words.contains(&"unready"),
        terminating: false,
        weight: 1,
        zone: String::new(),
        node: None,
        hostname: hostname.unwrap_or_default().to_owned(),
        created_s: 1,
    }
}
