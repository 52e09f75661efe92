//! An apiserver's shell: publishes what its source says, follows its peers, writes what its imports want.

use crate::{
    bug::{Bug, Planted},
    disk::{Disk, Durable, Object},
    objects::Objects,
    publisher::Publisher,
    session::Session,
    wire::Manner,
};
use api::{
    bytes::{BootId, ClusterUuid, PublicKey},
    key::{Key, Kind, LocalKey, MeshKey, cluster_prefix},
    name::ClusterName,
    record::{PeerState, Record, Synced},
};
use clustermesh_apiserver::{init::EncryptionScope, publish::Own};
use ipnet::IpNet;
use replica::{Now, import::Facts};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// What a cluster is, whether its apiserver runs or not.
#[derive(Debug)]
pub struct Site {
    /// Its name.
    pub name: ClusterName,
    /// Its trust domain.
    pub uuid: ClusterUuid,
    /// All of its ranges.
    pub cidrs: Vec<IpNet>,
    /// Those of its nodes' mesh addresses.
    pub mesh_cidrs: Vec<IpNet>,
    /// What its source holds.
    pub objects: Objects,
    /// Records that are announced beside what the objects ask for, and in its place: what no honest source asks for.
    pub records: BTreeMap<Key, Record>,
    /// The source has been listed.
    pub source_speaks: bool,
    /// How it answers its peers.
    pub manner: Manner,
    /// Its wall clock is so many seconds ahead.
    pub skew_s: i64,
    /// The disk while nobody runs on it.
    pub disk: Disk,
    /// The apiserver while it runs.
    pub running: Option<Apiserver>,
    /// One that is paused, as its machine is: it knows nothing of what happens meanwhile, and neither that another was
    /// started on a copy of its disk.
    pub paused: Option<Apiserver>,
    /// How often one was started.
    pub boots: u8,
    /// How often its disk was replaced: by an empty one, or an old copy.
    pub disks: u32,
    planted: Planted,
}

/// A running apiserver.
#[derive(Debug)]
pub struct Apiserver {
    /// Its store.
    pub durable: Durable,
    /// Its peers, one for each object.
    pub sessions: BTreeMap<ClusterName, Session>,
    /// Of its store.
    pub boot: BootId,
    /// Which start of its cluster's it is: a connection to another one is dead.
    pub run: u8,
    /// Since when it runs, or runs again.
    pub since: Now,
    publisher: Publisher,
    world: World,
}

/// What the store says that the sessions have to know.
#[derive(Debug)]
struct World {
    /// Of the store, when this was gathered from it.
    revision: i64,
    /// Where our own and each peer's nodes are dialled, and their keys.
    nodes: BTreeMap<ClusterName, (BTreeSet<IpAddr>, BTreeSet<PublicKey>)>,
    /// Those the store holds a verdict about.
    peers: Vec<ClusterName>,
}

impl World {
    /// Before the first look: no store is at this revision.
    const UNSEEN: Self = Self { revision: -1, nodes: BTreeMap::new(), peers: Vec::new() };
}

impl Site {
    /// A cluster that was initialised and never started.
    #[must_use]
    pub fn new(name: ClusterName, uuid: ClusterUuid, cidrs: Vec<IpNet>, planted: Planted) -> Self {
        Self {
            name,
            uuid,
            cidrs,
            mesh_cidrs: Vec::new(),
            objects: Objects::default(),
            records: BTreeMap::new(),
            source_speaks: true,
            manner: Manner::Same,
            skew_s: 0,
            disk: Disk::default(),
            running: None,
            paused: None,
            boots: 0,
            disks: 0,
            planted,
        }
    }

    /// Starts the apiserver on its disk.
    pub fn start(&mut self, now: Now) {
        if self.running.is_some() {
            return;
        }
        self.boots = self.boots.checked_add(1).expect("no script starts one 255 times");
        let mut boot = [self.boots; 16];
        boot[0] = self.uuid.0[0];
        let disk = std::mem::take(&mut self.disk);
        if let (Some(last), true) = (disk.last_boot(), self.planted.is(Bug::KeepsItsBoot)) {
            boot = last;
        }
        let mut durable = Durable::open(disk, boot, now);
        // Before anything else, and before anybody is answered.
        let own = self.own().records(durable.lineage(), BootId(boot), false);
        own.into_iter().for_each(|(key, record)| durable.publish(&key, &record));
        self.running = Some(Apiserver {
            durable,
            sessions: BTreeMap::new(),
            boot: BootId(boot),
            run: self.boots,
            since: now,
            publisher: Publisher::new(now),
            world: World::UNSEEN,
        });
    }

    /// Kills it; its disk stays.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            self.disk = running.durable.disk;
        }
    }

    /// Pauses it; its disk can be copied.
    pub fn pause(&mut self) {
        if let Some(running) = self.running.take() {
            self.disk = running.durable.disk.clone();
            self.paused = Some(running);
        }
    }

    /// A paused one goes on. Whoever was started in its place is gone with its disk; MeshPeer objects lie elsewhere.
    pub fn wake(&mut self, now: Now) {
        let Some(mut woken) = self.paused.take() else { return };
        if self.boots > woken.run {
            self.disks += 1;
        }
        self.kill();
        woken.durable.disk.objects = std::mem::take(&mut self.disk).objects;
        woken.since = now;
        self.running = Some(woken);
    }

    /// Replaces the store's disk while nobody runs on it. MeshPeer objects lie elsewhere, and stay.
    pub fn replace_disk(&mut self, disk: Disk) {
        if self.running.is_none() {
            let objects = std::mem::replace(&mut self.disk, disk).objects;
            self.disk.objects = objects;
            self.disks += 1;
        }
    }

    /// The peer objects, wherever they lie.
    pub fn peers(&mut self) -> &mut BTreeMap<ClusterName, Object> {
        match &mut self.running {
            Some(running) => &mut running.durable.disk.objects,
            None => &mut self.disk.objects,
        }
    }

    /// Whether it trusts this peer: it has an object for it.
    #[must_use]
    pub fn trusts(&self, peer: &ClusterName) -> bool {
        self.running.as_ref().is_some_and(|running| running.durable.disk.objects.contains_key(peer))
    }

    /// Whether the store holds a key.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        self.running.as_ref().is_some_and(|running| running.durable.get(&key.to_string()).is_some())
    }

    /// Every cluster of which the store holds anything, but its own.
    #[must_use]
    pub fn announcers(&self) -> BTreeSet<ClusterName> {
        let Some(running) = &self.running else { return BTreeSet::new() };
        let cluster = |key: String| key.strip_prefix(api::key::MESH)?.split_once('/')?.0.parse().ok();
        running
            .durable
            .list(api::key::MESH)
            .into_keys()
            .filter_map(cluster)
            .filter(|name| *name != self.name)
            .collect()
    }

    /// Who it is, as its publisher tells it.
    pub(crate) fn own(&self) -> Own {
        Own {
            name: self.name.clone(),
            uuid: self.uuid,
            pod_cidrs: self.cidrs.clone(),
            service_cidrs: Vec::new(),
            mesh_cidrs: self.mesh_cidrs.clone(),
            encryption_scope: EncryptionScope::BetweenClusters,
        }
    }

    /// Its source changed.
    pub fn source_changed(&mut self) {
        if let Some(running) = &mut self.running {
            running.publisher.wake();
        }
    }

    /// A tick of everything that needs no wire.
    pub fn step(&mut self, now: Now, unix_s: u64) {
        let unix_s = unix_s.saturating_add_signed(self.skew_s);
        let speaks = self.source_speaks;
        let due = self.running.as_ref().is_some_and(|running| running.publisher.is_due(speaks, now));
        let own = due.then(|| self.own());
        let Some(running) = &mut self.running else { return };
        running.durable.set_time(now);
        if !self.planted.is(Bug::LeasesNeverExpire) {
            running.durable.expire_leases();
        }
        if let Some(own) = &own {
            let source = speaks.then_some((&self.objects, &self.records));
            running.publisher.step(own, source, &mut running.durable, running.boot, now, self.planted);
        }

        let objects = running.durable.disk.objects.clone();
        running.look_at_the_world();
        let gone: Vec<ClusterName> =
            running.world.peers.iter().filter(|peer| !objects.contains_key(*peer)).cloned().collect();
        for peer in gone {
            running.sessions.remove(&peer);
            running.forget(&self.name, &peer, self.planted);
        }
        running.look_at_the_world();
        for (peer, object) in &objects {
            let facts = running.facts(&self.name, &self.cidrs, peer, &objects);
            let session = running.sessions.remove(peer);
            let session = running.peer(session, &self.name, peer, object, facts, (now, unix_s), self.planted);
            running.sessions.insert(peer.clone(), session);
        }
        // All of our own peerings are there now, and what is missing is meant to be.
        let vouched = Synced { boot: running.boot };
        running.durable.publish(&MeshKey::Synced(Kind::Peerings).of(&self.name), &vouched.into());
        if running.durable.has_failed() {
            self.kill();
        }
    }
}

impl Apiserver {
    /// Those the store holds a verdict about.
    fn known_peers(&self) -> Vec<ClusterName> {
        let parsed = |key: String| match Key::parse(key.as_bytes()) {
            Ok(Key::Local(LocalKey::Peer(peer))) => Some(peer),
            Ok(_) | Err(_) => None,
        };
        self.durable.list("mesh-local/v1/peers/").into_keys().filter_map(parsed).collect()
    }

    /// Gathers what the store says of everybody's nodes, when it says something new.
    fn look_at_the_world(&mut self) {
        let revision = self.durable.store.revision();
        if self.world.revision == revision {
            return;
        }
        let mut world = World { revision, peers: self.known_peers(), ..World::UNSEEN };
        for (key, value) in self.durable.list(api::key::MESH) {
            let Ok(key) = Key::parse(key.as_bytes()) else { continue };
            let Key::Mesh(cluster, MeshKey::Node(_) | MeshKey::Key(_)) = &key else { continue };
            let (endpoints, keys) = world.nodes.entry(cluster.clone()).or_default();
            match Record::decode(&key, &value) {
                Ok(Record::Node(node)) => endpoints.extend(node.endpoints),
                Ok(Record::TunnelKey(key)) => drop(keys.insert(key.public_key)),
                Ok(_) | Err(_) => {}
            }
        }
        self.world = world;
    }

    fn facts(
        &self,
        own: &ClusterName,
        cidrs: &[IpNet],
        peer: &ClusterName,
        objects: &BTreeMap<ClusterName, Object>,
    ) -> Facts {
        let known = |name: &&ClusterName| *name == own || objects.contains_key(*name);
        let others = || self.world.nodes.iter().filter(|(name, _)| *name != peer && known(name));
        let contracts = objects.iter().filter(|(name, _)| *name != peer);
        Facts {
            our_cidrs: cidrs.to_vec(),
            tunnel_endpoints: others().flat_map(|(_, (endpoints, _))| endpoints.clone()).collect(),
            other_contracts: contracts.flat_map(|(_, object)| object.contract.cidrs.clone()).collect(),
            foreign_keys: others().flat_map(|(_, (_, keys))| keys.clone()).collect(),
        }
    }

    /// A peer's object is gone: so are its records; what was active stays closed.
    fn forget(&mut self, own: &ClusterName, peer: &ClusterName, planted: Planted) {
        if let Some(held) = self.held(peer)
            && held.phase == api::record::Phase::Active
        {
            let closed = api::record::Closed { prefixes: held.prefixes };
            self.durable.publish(&LocalKey::Closed(peer.clone()).into(), &closed.into());
        }
        if !planted.is(Bug::KeepsTheDisconnected) {
            for key in self.durable.list(&cluster_prefix(peer)).into_keys() {
                self.durable.delete_raw(&key);
            }
        }
        self.durable.delete_raw(&Key::from(LocalKey::Peer(peer.clone())).to_string());
        self.durable.delete_raw(&MeshKey::Peering(peer.clone()).of(own).to_string());
    }

    /// The verdict that the store holds about a peer.
    pub(crate) fn held(&self, peer: &ClusterName) -> Option<PeerState> {
        let value = self.durable.get(&Key::from(LocalKey::Peer(peer.clone())).to_string())?;
        PeerState::decode(&value).ok()
    }
}
