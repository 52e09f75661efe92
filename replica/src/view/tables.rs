//! Records by kind, each under the words of its key.

use api::{
    bytes::IdentityId,
    key::{Key, Kind, LocalKey, MeshKey},
    name::{ClusterName, NamespaceName, NodeName, ServiceName},
    record::{
        Applied, Backend, Closed, Cluster, Endpoint, Heartbeat, Identity, ImportState, Lineage, Namespace,
        Node, PeerState, Peering, Presence, Record, Service, Synced, TunnelKey, Vm,
    },
};
use std::{collections::BTreeMap, fmt, net::IpAddr};

/// Names a Service, the same in all clusters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: ServiceName,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The backends of one Service.
pub type Backends = BTreeMap<IpAddr, Backend>;

/// What one cluster announces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterTables {
    /// Who it is.
    pub cluster: Option<Cluster>,
    /// That it lives.
    pub heartbeat: Option<Heartbeat>,
    /// Which runs its store had.
    pub lineage: Option<Lineage>,
    /// Which kinds are complete.
    pub synced: BTreeMap<Kind, Synced>,
    /// Its side of each of its peerings.
    pub peerings: BTreeMap<ClusterName, Peering>,
    /// What the source says of its nodes.
    pub nodes: BTreeMap<NodeName, Node>,
    /// What the nodes say of themselves.
    pub keys: BTreeMap<NodeName, TunnelKey>,
    /// Their labels.
    pub namespaces: BTreeMap<NamespaceName, Namespace>,
    /// The facts behind each identity.
    pub identities: BTreeMap<(NamespaceName, IdentityId), Identity>,
    /// Whose each address is; one address may be claimed in two namespaces, see [`ClusterTables::owners`].
    pub endpoints: BTreeMap<(NamespaceName, IpAddr), Endpoint>,
    /// Exported Services.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Their backends.
    pub backends: BTreeMap<ServiceKey, Backends>,
    /// The newest revision of our own store that changed any of this, but for the heartbeat.
    pub revision: u64,
}

/// What never leaves the own cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalTables {
    /// Services that are not exported.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Their backends.
    pub backends: BTreeMap<ServiceKey, Backends>,
    /// What each node's maps hold.
    pub applied: BTreeMap<NodeName, Applied>,
    /// Our verdict about each peer.
    pub peers: BTreeMap<ClusterName, PeerState>,
    /// What each import counted.
    pub imports: BTreeMap<ClusterName, ImportState>,
    /// What stays closed after a disconnect.
    pub closed: BTreeMap<ClusterName, Closed>,
    /// What each VM may read, and what it serves.
    pub vms: BTreeMap<NodeName, Vm>,
    /// What each VM says of itself.
    pub presence: BTreeMap<NodeName, Presence>,
}

/// All records, by cluster and kind, and the revision of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// Own and peers', by name.
    pub clusters: BTreeMap<ClusterName, ClusterTables>,
    /// The own cluster's private ones.
    pub local: LocalTables,
    revisions: BTreeMap<Key, u64>,
    /// See [`Tables::revision`].
    revision: u64,
}

/// Two endpoints that claim one address; the first of them has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub winner: NamespaceName,
    /// Who does not.
    pub loser: NamespaceName,
}

impl ClusterTables {
    /// Each address with its one owner, and the conflicts that had to be decided: the newest creation has it, then
    /// the greater UID (design, decision 2).
    #[must_use]
    pub fn owners(&self) -> (BTreeMap<IpAddr, (&NamespaceName, &Endpoint)>, Vec<Conflict>) {
        let mut owners: BTreeMap<IpAddr, (&NamespaceName, &Endpoint)> = BTreeMap::new();
        let mut conflicts = Vec::new();
        for ((namespace, address), endpoint) in &self.endpoints {
            let Some(held) = owners.insert(*address, (namespace, endpoint)) else { continue };
            let claim = |endpoint: &Endpoint| (endpoint.created_s, endpoint.uid);
            let (winner, loser) = if claim(held.1) > claim(endpoint) {
                (held, (namespace, endpoint))
            } else {
                ((namespace, endpoint), held)
            };
            owners.insert(*address, winner);
            conflicts.push(Conflict { address: *address, winner: winner.0.clone(), loser: loser.0.clone() });
        }
        (owners, conflicts)
    }
}

impl Tables {
    /// Every key that is held, and the revision it was written in.
    pub fn keys(&self) -> impl Iterator<Item = (&Key, u64)> {
        self.revisions.iter().map(|(key, revision)| (key, *revision))
    }

    /// Whether this key is held.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.revisions.contains_key(key)
    }

    /// Holds a record; says whether that differs from what was held. An older one than the one held changes nothing.
    pub fn put(&mut self, key: Key, record: Record, mod_revision: u64) -> bool {
        if self.revisions.get(&key).is_some_and(|&held| held > mod_revision) {
            return false;
        }
        self.revisions.insert(key.clone(), mod_revision);
        self.note(&key, mod_revision);
        match key {
            Key::Mesh(cluster, key) => self.clusters.entry(cluster).or_default().put(key, record),
            Key::Local(key) => self.local.put(key, record),
        }
    }

    /// Lets a record go; says whether there was one. A delete from before the record that is held is not about it.
    pub fn remove(&mut self, key: &Key, mod_revision: u64) -> bool {
        if self.revisions.get(key).is_none_or(|&held| held > mod_revision) {
            return false;
        }
        self.revisions.remove(key);
        self.note(key, mod_revision);
        match key {
            Key::Mesh(cluster, key) => {
                if let Some(tables) = self.clusters.get_mut(cluster) {
                    tables.remove(key);
                }
            }
            Key::Local(key) => self.local.remove(key),
        }
        true
    }

    /// The newest revision of our own store that changed any record, but for heartbeats.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn note(&mut self, key: &Key, mod_revision: u64) {
        if matches!(key, Key::Mesh(_, MeshKey::Heartbeat)) {
            return;
        }
        self.revision = mod_revision.max(self.revision);
        if let Key::Mesh(cluster, _) = key {
            let revision = &mut self.clusters.entry(cluster.clone()).or_default().revision;
            *revision = mod_revision.max(*revision);
        }
    }

    /// A record and its revision.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<(Record, u64)> {
        let revision = *self.revisions.get(key)?;
        let record = match key {
            Key::Mesh(cluster, key) => self.clusters.get(cluster)?.get(key),
            Key::Local(key) => self.local.get(key),
        };
        Some((record?, revision))
    }
}

fn set<K: Ord, V: PartialEq>(table: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    match table.entry(key) {
        std::collections::btree_map::Entry::Vacant(entry) => {
            entry.insert(value);
            true
        }
        std::collections::btree_map::Entry::Occupied(mut entry) => entry.insert(value) != *entry.get(),
    }
}

fn set_one<V: PartialEq>(place: &mut Option<V>, value: V) -> bool {
    let differs = place.as_ref() != Some(&value);
    *place = Some(value);
    differs
}

fn unset_backend(table: &mut BTreeMap<ServiceKey, Backends>, key: &ServiceKey, address: &IpAddr) {
    if let Some(backends) = table.get_mut(key) {
        backends.remove(address);
        if backends.is_empty() {
            table.remove(key);
        }
    }
}

fn service_key(namespace: &NamespaceName, name: &ServiceName) -> ServiceKey {
    ServiceKey { namespace: namespace.clone(), name: name.clone() }
}

/// A record always is of the kind that its key says: [`Record::decode`] takes the kind from the key.
fn of_another_kind() -> bool {
    debug_assert!(false, "a record is of the kind that its key says");
    false
}

impl ClusterTables {
    fn put(&mut self, key: MeshKey, record: Record) -> bool {
        match (key, record) {
            (MeshKey::Cluster, Record::Cluster(record)) => set_one(&mut self.cluster, record),
            (MeshKey::Heartbeat, Record::Heartbeat(record)) => set_one(&mut self.heartbeat, record),
            (MeshKey::Lineage, Record::Lineage(record)) => set_one(&mut self.lineage, record),
            (MeshKey::Synced(kind), Record::Synced(record)) => set(&mut self.synced, kind, record),
            (MeshKey::Peering(peer), Record::Peering(record)) => set(&mut self.peerings, peer, record),
            (MeshKey::Node(node), Record::Node(record)) => set(&mut self.nodes, node, record),
            (MeshKey::Key(node), Record::TunnelKey(record)) => set(&mut self.keys, node, record),
            (MeshKey::Namespace(ns), Record::Namespace(record)) => set(&mut self.namespaces, ns, record),
            (MeshKey::Identity(ns, id), Record::Identity(record)) => {
                set(&mut self.identities, (ns, id), record)
            }
            (MeshKey::Endpoint(ns, ip), Record::Endpoint(record)) => {
                set(&mut self.endpoints, (ns, ip), record)
            }
            (MeshKey::Service(namespace, name), Record::Service(record)) => {
                set(&mut self.services, ServiceKey { namespace, name }, record)
            }
            (MeshKey::Backend(namespace, name, ip), Record::Backend(record)) => {
                set(self.backends.entry(ServiceKey { namespace, name }).or_default(), ip, record)
            }
            (_, _) => of_another_kind(),
        }
    }

    fn remove(&mut self, key: &MeshKey) {
        match key {
            MeshKey::Cluster => self.cluster = None,
            MeshKey::Heartbeat => self.heartbeat = None,
            MeshKey::Lineage => self.lineage = None,
            MeshKey::Synced(kind) => drop(self.synced.remove(kind)),
            MeshKey::Peering(peer) => drop(self.peerings.remove(peer)),
            MeshKey::Node(node) => drop(self.nodes.remove(node)),
            MeshKey::Key(node) => drop(self.keys.remove(node)),
            MeshKey::Namespace(ns) => drop(self.namespaces.remove(ns)),
            MeshKey::Identity(ns, id) => drop(self.identities.remove(&(ns.clone(), *id))),
            MeshKey::Endpoint(ns, ip) => drop(self.endpoints.remove(&(ns.clone(), *ip))),
            MeshKey::Service(ns, name) => drop(self.services.remove(&service_key(ns, name))),
            MeshKey::Backend(ns, name, ip) => unset_backend(&mut self.backends, &service_key(ns, name), ip),
        }
    }

    fn get(&self, key: &MeshKey) -> Option<Record> {
        Some(match key {
            MeshKey::Cluster => self.cluster.clone()?.into(),
            MeshKey::Heartbeat => self.heartbeat.clone()?.into(),
            MeshKey::Lineage => self.lineage.clone()?.into(),
            MeshKey::Synced(kind) => self.synced.get(kind).cloned()?.into(),
            MeshKey::Peering(peer) => self.peerings.get(peer).cloned()?.into(),
            MeshKey::Node(node) => self.nodes.get(node).cloned()?.into(),
            MeshKey::Key(node) => self.keys.get(node).cloned()?.into(),
            MeshKey::Namespace(ns) => self.namespaces.get(ns).cloned()?.into(),
            MeshKey::Identity(ns, id) => self.identities.get(&(ns.clone(), *id)).cloned()?.into(),
            MeshKey::Endpoint(ns, ip) => self.endpoints.get(&(ns.clone(), *ip)).cloned()?.into(),
            MeshKey::Service(ns, name) => self.services.get(&service_key(ns, name)).cloned()?.into(),
            MeshKey::Backend(ns, name, ip) => {
                self.backends.get(&service_key(ns, name))?.get(ip).cloned()?.into()
            }
        })
    }
}

impl LocalTables {
    fn put(&mut self, key: LocalKey, record: Record) -> bool {
        match (key, record) {
            (LocalKey::Service(namespace, name), Record::Service(record)) => {
                set(&mut self.services, ServiceKey { namespace, name }, record)
            }
            (LocalKey::Backend(namespace, name, ip), Record::Backend(record)) => {
                set(self.backends.entry(ServiceKey { namespace, name }).or_default(), ip, record)
            }
            (LocalKey::Applied(node), Record::Applied(record)) => set(&mut self.applied, node, record),
            (LocalKey::Peer(peer), Record::PeerState(record)) => set(&mut self.peers, peer, record),
            (LocalKey::Import(peer), Record::ImportState(record)) => set(&mut self.imports, peer, record),
            (LocalKey::Closed(peer), Record::Closed(record)) => set(&mut self.closed, peer, record),
            (LocalKey::Vm(vm), Record::Vm(record)) => set(&mut self.vms, vm, record),
            (LocalKey::Presence(vm), Record::Presence(record)) => set(&mut self.presence, vm, record),
            (_, _) => of_another_kind(),
        }
    }

    fn remove(&mut self, key: &LocalKey) {
        match key {
            LocalKey::Service(ns, name) => drop(self.services.remove(&service_key(ns, name))),
            LocalKey::Backend(ns, name, ip) => unset_backend(&mut self.backends, &service_key(ns, name), ip),
            LocalKey::Applied(node) => drop(self.applied.remove(node)),
            LocalKey::Peer(peer) => drop(self.peers.remove(peer)),
            LocalKey::Import(peer) => drop(self.imports.remove(peer)),
            LocalKey::Closed(peer) => drop(self.closed.remove(peer)),
            LocalKey::Vm(vm) => drop(self.vms.remove(vm)),
            LocalKey::Presence(vm) => drop(self.presence.remove(vm)),
        }
    }

    fn get(&self, key: &LocalKey) -> Option<Record> {
        Some(match key {
            LocalKey::Service(ns, name) => self.services.get(&service_key(ns, name)).cloned()?.into(),
            LocalKey::Backend(ns, name, ip) => {
                self.backends.get(&service_key(ns, name))?.get(ip).cloned()?.into()
            }
            LocalKey::Applied(node) => self.applied.get(node).cloned()?.into(),
            LocalKey::Peer(peer) => self.peers.get(peer).cloned()?.into(),
            LocalKey::Import(peer) => self.imports.get(peer).cloned()?.into(),
            LocalKey::Closed(peer) => self.closed.get(peer).cloned()?.into(),
            LocalKey::Vm(vm) => self.vms.get(vm).cloned()?.into(),
            LocalKey::Presence(vm) => self.presence.get(vm).cloned()?.into(),
        })
    }
}
