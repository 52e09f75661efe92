//! The reference: what must be so, computed the naive way from what was done, and never from what a core said.
//!
//! It reads the objects of each source, the machines and the MeshPeer objects, and shares with the cores the types and
//! the parsing of `api` and nothing else. It knows no time: it says how things are when everybody heard everything.

use crate::{
    disk::Object,
    node::{Node, binding},
    site::Site,
    world::World,
};
use api::{
    bytes::{IdentityId, PublicKey, Uid},
    identity::{self, identity},
    key::{Key, Kind, LocalKey, MeshKey},
    name::{ClusterName, NamespaceName, NodeName, ServiceName},
    record::{self, Affinity, NamedPort, Record},
};
use clustermesh_apiserver::source::object::{self as source, Body, ObjectKey, Slice};
use datapath::{backend::bpf::LocalRow, backend::bpf::RouteRow, observe::Observed};
use ipnet::IpNet;
use mesh_node_agent::compose::LISTEN_PORT;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// Records under their keys.
pub(crate) type Records = BTreeMap<Key, Record>;

type ServiceOf<'a> = ((NamespaceName, ServiceName), &'a source::Service);

/// What the kernel of a node holds, as far as packets are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// The backends of each ClusterIP.
    pub(crate) services: BTreeMap<IpAddr, BTreeSet<SocketAddr>>,
    /// What can be reached through a tunnel.
    pub(crate) open: BTreeSet<IpNet>,
    /// What is dropped.
    pub(crate) closed: BTreeSet<IpNet>,
    /// Devices of the pods that live here.
    pub(crate) pods: BTreeMap<IpAddr, u32>,
    /// What does not fall through to the default route where no row guards it.
    pub(crate) fenced: BTreeSet<IpNet>,
    /// Who owns which addresses, and where he is dialled.
    pub(crate) tunnels: BTreeMap<PublicKey, (Option<SocketAddr>, BTreeSet<IpNet>)>,
}

impl Held {
    /// Of a kernel.
    pub(crate) fn of(kernel: &Observed) -> Self {
        let rows = &kernel.rows;
        let mut held = Self::default();
        for (frontend, set) in &rows.services {
            let slots = rows.backends.iter().filter(|(at, _)| at.set == set.set && at.slot < set.count);
            held.services.insert(frontend.address, slots.map(|(_, backend)| *backend).collect());
        }
        for (prefix, row) in &rows.routes {
            match row {
                RouteRow::Routed { .. } => held.open.insert(*prefix),
                RouteRow::Closed => held.closed.insert(*prefix),
            };
        }
        for (address, row) in &rows.locals {
            if let LocalRow::Pod { ifindex, .. } = row {
                held.pods.insert(*address, *ifindex);
            }
        }
        held.fenced.clone_from(&kernel.unreachable);
        let peers = kernel.tunnel.iter().flat_map(|tunnel| &tunnel.peers);
        held.tunnels = peers.map(|(key, peer)| (*key, (peer.endpoint, peer.allowed.clone()))).collect();
        held
    }
}

/// What a cluster announces to all, and what it keeps to itself.
pub(crate) fn announced(world: &World, name: &ClusterName) -> Records {
    let site = &world.sites[name];
    let mut all = Records::new();
    for (key, object) in &site.objects.all {
        if let Body::Node(node) = &object.body {
            let at: NodeName = key.name.as_str().parse().expect("a node's name");
            let record = record::Node {
                mesh_addresses: site.objects.mesh_addresses[&at].clone(),
                prefixes: node.pod_cidrs.clone(),
                endpoints: node.internal_ips.clone(),
                zone: String::new(),
                relay: vec![],
            };
            all.insert(MeshKey::Node(at).of(name), record.into());
        }
    }
    for node in machines(world, name) {
        all.insert(MeshKey::Key(node.name.clone()).of(name), node.key.clone().into());
    }
    workloads(site, &mut all);
    for ((namespace, service), object) in services(site) {
        let uid = site.objects.all[&object_of(source::ObjectKind::Service, &namespace, &service)].uid;
        let created_s =
            site.objects.all[&object_of(source::ObjectKind::Service, &namespace, &service)].created_s;
        let exported = object.global && object.shared;
        let record = record::Service {
            uid,
            frontends: object.frontends.clone(),
            ports: object.ports.clone(),
            global: object.global,
            shared: object.shared,
            affinity: object.affinity,
            headless: false,
            created_s,
            session_affinity_s: 0,
        };
        let key = if exported {
            MeshKey::Service(namespace.clone(), service.clone()).of(name)
        } else {
            LocalKey::Service(namespace.clone(), service.clone()).into()
        };
        all.insert(key, record.into());
        for (ip, backend) in backends(site, &namespace, &service) {
            let key = if exported {
                MeshKey::Backend(namespace.clone(), service.clone(), ip).of(name)
            } else {
                LocalKey::Backend(namespace.clone(), service.clone(), ip).into()
            };
            all.insert(key, backend.into());
        }
    }
    all
}

fn machines<'a>(world: &'a World, name: &'a ClusterName) -> impl Iterator<Item = &'a Node> {
    world.nodes.iter().filter(move |((cluster, _), _)| cluster == name).map(|(_, node)| node)
}

fn object_of(kind: source::ObjectKind, namespace: &NamespaceName, name: &ServiceName) -> ObjectKey {
    let name = name.as_str().parse().expect("a Service's name is an object's name");
    ObjectKey { kind, namespace: Some(namespace.clone()), name }
}

fn services(site: &Site) -> impl Iterator<Item = ServiceOf<'_>> {
    site.objects.all.iter().filter_map(|(key, object)| match &object.body {
        Body::Service(service) => {
            let namespace = key.namespace.clone().expect("a Service has a namespace");
            Some(((namespace, key.name.as_str().parse().expect("a Service's name")), service))
        }
        Body::Node(_) | Body::Namespace(_) | Body::Pod(_) | Body::Slice(_) | Body::Peer(_) | Body::Vm(_) => {
            None
        }
    })
}

/// Pods: of several that have one address the newest has it, then the greater UID.
fn workloads(site: &Site, all: &mut Records) {
    let mut claims: BTreeMap<IpAddr, Vec<(u64, Uid, &ObjectKey, &source::Pod)>> = BTreeMap::new();
    for (key, object) in &site.objects.all {
        let Body::Pod(pod) = &object.body else { continue };
        for address in &pod.ips {
            claims.entry(*address).or_default().push((object.created_s, object.uid, key, pod));
        }
    }
    for (address, mut claims) in claims {
        claims.sort_by_key(|(created_s, uid, ..)| (*created_s, *uid));
        let (created_s, uid, key, pod) = claims.pop().expect("somebody claims it");
        let namespace = key.namespace.clone().expect("a pod has a namespace");
        let record =
            record::Identity { service_account: pod.service_account.clone(), labels: pod.labels.clone() };
        let id = identity_of(site, &namespace, &record);
        all.insert(MeshKey::Identity(namespace.clone(), id).of(&site.name), record.into());
        let endpoint = record::Endpoint {
            uid,
            identity: id,
            node: pod.node.clone().expect("every pod here is on a node"),
            name: key.name.clone(),
            ports: vec![],
            terminating: false,
            created_s,
        };
        all.insert(MeshKey::Endpoint(namespace, address).of(&site.name), endpoint.into());
    }
}

/// The identity that says this, of a cluster.
pub(crate) fn identity_of(site: &Site, namespace: &NamespaceName, record: &record::Identity) -> IdentityId {
    let record::Identity { service_account, labels } = record;
    identity(identity::Facts { cluster: site.uuid, namespace, service_account, labels })
}

fn backends(
    site: &Site,
    namespace: &NamespaceName,
    service: &ServiceName,
) -> BTreeMap<IpAddr, record::Backend> {
    let key = object_of(source::ObjectKind::EndpointSlice, namespace, service);
    let mut found: BTreeMap<IpAddr, record::Backend> = BTreeMap::new();
    let Some(object) = site.objects.all.get(&key) else { return found };
    let Body::Slice(Slice { endpoints, ports, .. }) = &object.body else { return found };
    for endpoint in endpoints {
        let (pod, uid) = endpoint.pod.clone().expect("every endpoint here names its pod");
        let pod = site.objects.pod(namespace, &pod);
        for address in &endpoint.addresses {
            let backend = record::Backend {
                uid: uid.expect("and its UID"),
                ports: ports.clone(),
                ready: endpoint.ready,
                serving: endpoint.serving,
                terminating: endpoint.terminating,
                weight: 1,
                zone: String::new(),
                node: endpoint.node.clone(),
                hostname: String::new(),
                created_s: pod.map_or(object.created_s, |(pod, _)| pod.created_s),
            };
            let claim = |backend: &record::Backend| (backend.created_s, backend.uid);
            let newer = found.get(address).is_none_or(|held| claim(held) < claim(&backend));
            if newer {
                found.insert(*address, backend);
            }
        }
    }
    found
}

/// What of a peer's announcement is imported: what its contract contains, without what means nothing elsewhere.
pub(crate) fn imported(announced: &Records, contract: &Object) -> Records {
    let travels = |(key, record): (&Key, &Record)| {
        let record = match record {
            Record::Service(service) => record::Service { frontends: Vec::new(), ..service.clone() }.into(),
            record => record.clone(),
        };
        (matches!(key, Key::Mesh(..)) && is_within(key, &record, &contract.contract.cidrs))
            .then(|| (key.clone(), record))
    };
    announced.iter().filter_map(travels).collect()
}

/// How many records of a kind a contract allows.
pub(crate) fn limit(object: &Object, kind: Kind) -> usize {
    let limits = &object.contract.limits;
    match kind {
        Kind::Nodes | Kind::Keys => limits.nodes as usize,
        Kind::Namespaces | Kind::Identities => limits.identities as usize,
        Kind::Endpoints => limits.endpoints as usize,
        Kind::Services => limits.services as usize,
        Kind::Backends => limits.backends as usize,
        Kind::Cluster | Kind::Heartbeat | Kind::Lineage | Kind::Synced | Kind::Peerings => usize::MAX,
    }
}

/// Kinds of which there is more than a contract allows.
pub(crate) fn over(records: &Records, object: &Object) -> BTreeSet<Kind> {
    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
    for key in records.keys() {
        if let Key::Mesh(_, key) = key {
            *counts.entry(key.kind()).or_default() += 1;
        }
    }
    counts.into_iter().filter(|(kind, count)| *count > limit(object, *kind)).map(|(kind, _)| kind).collect()
}

/// Whether a key is of one of these kinds.
pub(crate) fn is_of(key: &Key, kinds: &BTreeSet<Kind>) -> bool {
    matches!(key, Key::Mesh(_, key) if kinds.contains(&key.kind()))
}

/// Whether all addresses of a record lie in these ranges.
pub(crate) fn is_within(key: &Key, record: &Record, cidrs: &[IpNet]) -> bool {
    let holds = |net: &IpNet| cidrs.iter().any(|cidr| cidr.contains(net));
    let Key::Mesh(_, mesh) = key else { return false };
    match (mesh, record) {
        (MeshKey::Endpoint(_, ip) | MeshKey::Backend(_, _, ip), _) => holds(&IpNet::from(*ip)),
        (_, Record::Node(node)) => {
            node.mesh_addresses.iter().all(|ip| holds(&IpNet::from(*ip))) && node.prefixes.iter().all(holds)
        }
        (_, _) => true,
    }
}

/// Peers with which a cluster is connected: both sides have an object, of the same connect.
pub(crate) fn peers<'a>(
    world: &'a World,
    of: &'a ClusterName,
) -> impl Iterator<Item = (&'a ClusterName, &'a Object)> {
    let theirs =
        |peer: &ClusterName| world.sites.get(peer).and_then(|site| objects(site).get(of)).map(|o| o.nonce);
    objects(&world.sites[of]).iter().filter(move |(peer, mine)| theirs(peer) == Some(mine.nonce))
}

/// The MeshPeer objects of a cluster, wherever they lie.
pub(crate) fn objects(site: &Site) -> &BTreeMap<ClusterName, Object> {
    site.running.as_ref().map_or(&site.disk.objects, |running| &running.durable.disk.objects)
}

/// What the kernel of a node must hold.
pub(crate) fn kernel(world: &World, node: &Node) -> Held {
    let name = &node.cluster;
    let site = &world.sites[name];
    let own = announced(world, name);
    let foreign: Vec<(Records, &Object)> = peers(world, name)
        .map(|(peer, object)| {
            let mut records = imported(&announced(world, peer), object);
            // Which of those that are too many are held is a matter of who came first, which is not known here.
            let over = over(&records, object);
            records.retain(|key, _| !is_of(key, &over) || site.holds(key));
            (records, object)
        })
        .collect();
    let mut held = Held::default();

    for ((namespace, service), object) in services(site) {
        let mut candidates = of_service(&own, &namespace, &service, false);
        for (records, _) in foreign.iter().filter(|_| object.global) {
            let shared = records.keys().any(
                |key| matches!(key, Key::Mesh(_, MeshKey::Service(ns, s)) if *ns == namespace && *s == service),
            );
            if shared {
                candidates.extend(of_service(records, &namespace, &service, true));
            }
        }
        let worth = |remote: bool, backend: &record::Backend| {
            let preferred = match object.affinity {
                Affinity::None => true,
                Affinity::Local => !remote,
                Affinity::Remote => remote,
            };
            (!backend.ready, !preferred)
        };
        candidates.retain(|(_, _, backend)| backend.ready || backend.serving && backend.terminating);
        let best = candidates.iter().map(|(_, remote, backend)| worth(*remote, backend)).min();
        let chosen = candidates.iter().filter(|(_, remote, backend)| Some(worth(*remote, backend)) == best);
        let port = |ports: &[NamedPort]| ports[0].port;
        let chosen: BTreeSet<SocketAddr> =
            chosen.map(|(ip, _, backend)| SocketAddr::new(*ip, port(&backend.ports))).collect();
        for vip in &object.frontends {
            held.services.insert(*vip, chosen.clone());
        }
    }

    held.closed.extend(&site.mesh_cidrs);
    for (records, object) in &foreign {
        held.closed.extend(&object.contract.cidrs);
        tunnels(records, None, true, &mut held);
    }
    tunnels(&own, Some(&node.name), false, &mut held);
    let open = held.open.clone();
    held.closed.retain(|prefix| !open.contains(prefix));
    held.fenced = &held.open | &held.closed;

    for (key, record) in &own {
        if let (Key::Mesh(_, MeshKey::Endpoint(_, address)), Record::Endpoint(endpoint)) = (key, record)
            && endpoint.node == node.name
        {
            held.pods.insert(*address, device(site, &node.name, *address));
        }
    }
    held
}

/// The device that the CNI of a node made for an address: that of the pod that came last, whatever the clocks say.
fn device(site: &Site, node: &NodeName, address: IpAddr) -> u32 {
    let uid =
        |object: &source::Object| u64::from_be_bytes(object.uid.0[8..].try_into().expect("eight bytes"));
    let here = |object: &&source::Object| match &object.body {
        Body::Pod(pod) => pod.node.as_ref() == Some(node) && pod.ips.contains(&address),
        Body::Node(_)
        | Body::Namespace(_)
        | Body::Service(_)
        | Body::Slice(_)
        | Body::Peer(_)
        | Body::Vm(_) => false,
    };
    let newest = site.objects.all.values().filter(here).map(uid).max();
    binding(newest.expect("the owner of the address is here")).ifindex
}

fn of_service(
    records: &Records,
    namespace: &NamespaceName,
    service: &ServiceName,
    remote: bool,
) -> Vec<(IpAddr, bool, record::Backend)> {
    let of = |(key, record): (&Key, &Record)| match (key, record) {
        (
            Key::Mesh(_, MeshKey::Backend(ns, name, ip)) | Key::Local(LocalKey::Backend(ns, name, ip)),
            Record::Backend(backend),
        ) if ns == namespace && name == service => Some((*ip, remote, backend.clone())),
        (_, _) => None,
    };
    records.iter().filter_map(of).collect()
}

/// The tunnels to the nodes of a cluster that have a key; pods go through them when they are another cluster's.
fn tunnels(records: &Records, but: Option<&NodeName>, with_pods: bool, held: &mut Held) {
    for (key, record) in records {
        let (Key::Mesh(cluster, MeshKey::Node(name)), Record::Node(node)) = (key, record) else { continue };
        let Some(Record::TunnelKey(tunnel)) = records.get(&MeshKey::Key(name.clone()).of(cluster)) else {
            continue;
        };
        if Some(name) == but {
            continue;
        }
        let mut owns: BTreeSet<IpNet> = node.mesh_addresses.iter().map(|ip| IpNet::from(*ip)).collect();
        if with_pods {
            owns.extend(&node.prefixes);
        }
        held.open.extend(&owns);
        let at = node.endpoints.first().map(|ip| SocketAddr::new(*ip, LISTEN_PORT));
        held.tunnels.insert(tunnel.public_key, (at, owns));
    }
}
