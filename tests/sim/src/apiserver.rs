//! An apiserver's shell: publishes what its source says, follows its peers, writes what its imports want.

use crate::{
    chance::Chance,
    disk::{Disk, Durable, Object},
    wire::Wire,
};
use api::{
    bytes::{BootId, ClusterUuid, PublicKey},
    key::{Key, Kind, LocalKey, MeshKey, cluster_prefix},
    name::ClusterName,
    record::{Closed, Heartbeat, PeerState, Record, Synced},
};
use ipnet::IpNet;
use replica::{
    Now,
    follower::{Follow, Follower},
    freshness::{Age, Verdict},
    import::{Facts, Import, Setup},
    peering::{Side, Wish},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a cluster is, whether its apiserver runs or not.
#[derive(Debug)]
pub struct Site {
    /// Its name.
    pub name: ClusterName,
    /// Its trust domain.
    pub uuid: ClusterUuid,
    /// All of its ranges.
    pub cidrs: Vec<IpNet>,
    /// What its source says, under `mesh/v1/<own>/`; none while the source is silent.
    pub source: BTreeMap<Key, Record>,
    /// The source has been listed.
    pub source_speaks: bool,
    /// The disk while nobody runs on it.
    pub disk: Disk,
    /// The apiserver while it runs.
    pub running: Option<Apiserver>,
    /// How often it was started: connections to an earlier run are dead.
    pub boots: u8,
}

/// A running apiserver.
#[derive(Debug)]
pub struct Apiserver {
    /// Its store.
    pub durable: Durable,
    /// Its peers, one for each object.
    pub sessions: BTreeMap<ClusterName, Session>,
    boot: BootId,
    beat_at: Now,
}

/// One peer, followed.
#[derive(Debug)]
pub struct Session {
    /// What it announced, after the contract.
    pub import: Import,
    /// The connection.
    pub wire: Wire,
    /// The follower over it.
    pub follower: Follower,
    /// Complete lists that it read.
    pub lists: usize,
    prefixes: Vec<String>,
    age: Age,
    side: Side,
}

impl Site {
    /// A cluster that was initialised and never started.
    #[must_use]
    pub fn new(name: ClusterName, uuid: ClusterUuid, cidrs: Vec<IpNet>) -> Self {
        let (source, disk) = (BTreeMap::new(), Disk::default());
        Self { name, uuid, cidrs, source, source_speaks: true, disk, running: None, boots: 0 }
    }

    /// Starts the apiserver on its disk.
    pub fn start(&mut self, now: Now) {
        if self.running.is_some() {
            return;
        }
        self.boots += 1;
        let mut boot = [self.boots; 16];
        boot[0] = self.uuid.0[0];
        let mut durable = Durable::open(std::mem::take(&mut self.disk), boot);
        // Before anything else, and before anybody is answered.
        durable.publish(&MeshKey::Lineage.of(&self.name), &durable.lineage().into());
        self.running =
            Some(Apiserver { durable, sessions: BTreeMap::new(), boot: BootId(boot), beat_at: now });
    }

    /// Kills it; its disk stays.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            self.disk = running.durable.disk;
        }
    }

    /// The objects, wherever they lie.
    pub fn objects(&mut self) -> &mut BTreeMap<ClusterName, Object> {
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

    /// A tick of everything that needs no wire.
    pub fn step(&mut self, now: Now, unix_s: u64) {
        self.publish(now);
        let Some(running) = &mut self.running else { return };
        let objects = running.durable.disk.objects.clone();
        let held = running.durable.list("mesh-local/v1/peers/").into_keys();
        let gone = held.filter_map(|key| match Key::parse(key.as_bytes()) {
            Ok(Key::Local(LocalKey::Peer(peer))) if !objects.contains_key(&peer) => Some(peer),
            Ok(_) | Err(_) => None,
        });
        for peer in gone.collect::<Vec<_>>() {
            running.sessions.remove(&peer);
            running.forget(&self.name, &peer);
        }
        for (peer, object) in &objects {
            let facts = self.facts(peer);
            let running = self.running.as_mut().expect("it runs");
            running.peer(&self.name, peer, object, facts, now, unix_s);
        }
    }

    fn facts(&self, peer: &ClusterName) -> Facts {
        let Some(running) = &self.running else { return Facts::default() };
        let others = || running.sessions.iter().filter(|(name, _)| *name != peer);
        let contracts = running.durable.disk.objects.iter().filter(|(name, _)| *name != peer);
        let own = running.durable.records(&self.name);
        let own_nodes =
            own.values().filter_map(|r| if let Record::Node(node) = r { Some(node) } else { None });
        let own_keys = own
            .values()
            .filter_map(|r| if let Record::TunnelKey(key) = r { Some(key.public_key) } else { None });
        let endpoints: BTreeSet<IpAddr> = own_nodes
            .flat_map(|node| node.endpoints.clone())
            .chain(others().flat_map(|(_, s)| s.import.tunnel_endpoints().copied()))
            .collect();
        let keys: BTreeSet<PublicKey> =
            own_keys.chain(others().flat_map(|(_, s)| s.import.public_keys().copied())).collect();
        Facts {
            our_cidrs: self.cidrs.clone(),
            tunnel_endpoints: endpoints,
            other_contracts: contracts.flat_map(|(_, object)| object.contract.cidrs.clone()).collect(),
            foreign_keys: keys,
        }
    }

    /// The publisher: what the store holds under our own prefix becomes what the source says.
    fn publish(&mut self, now: Now) {
        let Some(running) = &mut self.running else { return };
        let own = &self.name;
        if now >= running.beat_at {
            running.beat_at = now + HEARTBEAT;
            let revision = running.durable.store.revision() as u64;
            let beat = Heartbeat { boot: running.boot, revision, source_age_ms: 0 };
            running.durable.publish(&MeshKey::Heartbeat.of(own), &beat.into());
        }
        if !self.source_speaks {
            return;
        }
        for (key, record) in &self.source {
            running.durable.publish(key, record);
        }
        for key in running.durable.records(own).into_keys() {
            let Key::Mesh(_, mesh) = &key else { continue };
            let authored = !matches!(
                mesh,
                MeshKey::Heartbeat
                    | MeshKey::Lineage
                    | MeshKey::Synced(_)
                    | MeshKey::Peering(_)
                    | MeshKey::Key(_)
            );
            if authored && !self.source.contains_key(&key) {
                running.durable.delete_raw(&key.to_string());
            }
        }
        for kind in
            [Kind::Nodes, Kind::Namespaces, Kind::Identities, Kind::Endpoints, Kind::Services, Kind::Backends]
        {
            running.vouch(own, kind);
        }
    }
}

impl Apiserver {
    fn vouch(&mut self, own: &ClusterName, kind: Kind) {
        self.durable.publish(&MeshKey::Synced(kind).of(own), &Synced { boot: self.boot }.into());
    }

    fn peer(
        &mut self,
        own: &ClusterName,
        peer: &ClusterName,
        object: &Object,
        facts: Facts,
        now: Now,
        unix_s: u64,
    ) {
        let connect = replica::peering::Object {
            nonce: object.nonce,
            deadline_s: object.deadline_s,
            contract_hash: object.contract.hash(),
        };
        let held = self.held(peer);
        let stored = self.durable.list(&cluster_prefix(peer));
        let boot = self.boot;
        let session = self.sessions.entry(peer.clone()).or_insert_with(|| {
            let stored =
                stored.into_iter().filter_map(|(k, v)| Some((Key::parse(k.as_bytes()).ok()?, v))).collect();
            let setup = Setup {
                us: own.clone(),
                peer: peer.clone(),
                uuid: object.uuid,
                boot,
                contract: object.contract.clone(),
                facts: facts.clone(),
                active: held.as_ref().is_some_and(|held| held.phase == api::record::Phase::Active),
                stored,
            };
            let import = Import::new(setup, now);
            let prefixes = import.prefixes();
            let follow = Follow { cluster: peer.clone(), prefixes: prefixes.clone() };
            let verdict =
                held.as_ref().map(|held| Verdict { freshness: held.freshness, dropped: held.dropped });
            Session {
                import,
                wire: Wire::default(),
                lists: 0,
                follower: Follower::new(follow, u64::from(boot.0[0]) << 8 | u64::from(boot.0[1])),
                prefixes,
                age: Age::new(object.stale, verdict, now),
                side: Side::new(&connect, held.as_ref(), now),
            }
        });
        session.import.set_facts(facts);
        session.import.set_contract(object.contract.clone(), now);
        let decision = session.side.decide(&connect, session.import.seen().peering(), now, unix_s);
        session.import.set_active(decision.phase == api::record::Phase::Active);
        if session.import.prefixes() != session.prefixes {
            session.prefixes = session.import.prefixes();
            let follow = Follow { cluster: peer.clone(), prefixes: session.prefixes.clone() };
            session.follower = Follower::new(follow, 1);
            session.wire = Wire::default();
        }
        if session.import.poll_relist(now) {
            session.follower.relist(now);
        }
        if let Some(heartbeat) = &session.import.seen().heartbeat {
            session.age.handle(heartbeat, now);
        }
        let Verdict { freshness, dropped } = session.age.verdict(now);
        let state = PeerState {
            uuid: object.uuid,
            phase: decision.phase,
            freshness,
            stale_policy: object.stale.policy,
            drop_after_ms: u64::from(object.stale.drop_after_s().unwrap_or(0)) * 1_000,
            prefixes: object.contract.cidrs.clone(),
            nonce: object.nonce,
            dropped,
        };
        if decision.phase == api::record::Phase::Active {
            // Whoever is active owns its prefixes again.
            self.durable.delete_raw(&Key::from(LocalKey::Closed(peer.clone())).to_string());
        }
        loop {
            let writes = session.import.poll_writes(128, now);
            if writes.is_empty() {
                break;
            }
            self.durable.write(writes);
        }
        self.durable.publish(&LocalKey::Peer(peer.clone()).into(), &state.into());
        self.durable.publish(&MeshKey::Peering(peer.clone()).of(own), &decision.publish.into());
        self.vouch(own, Kind::Peerings);
        match decision.wish {
            Wish::Keep => {}
            Wish::Activate => {
                self.durable.disk.objects.insert(peer.clone(), Object { deadline_s: None, ..object.clone() });
            }
            Wish::Remove(_) => drop(self.durable.disk.objects.remove(peer)),
        }
    }

    /// A peer's object is gone: so are its records; what was active stays closed.
    fn forget(&mut self, own: &ClusterName, peer: &ClusterName) {
        if let Some(held) = self.held(peer)
            && held.phase == api::record::Phase::Active
        {
            let closed = Closed { prefixes: held.prefixes };
            self.durable.publish(&LocalKey::Closed(peer.clone()).into(), &closed.into());
        }
        for key in self.durable.list(&cluster_prefix(peer)).into_keys() {
            self.durable.delete_raw(&key);
        }
        self.durable.delete_raw(&Key::from(LocalKey::Peer(peer.clone())).to_string());
        self.durable.delete_raw(&MeshKey::Peering(peer.clone()).of(own).to_string());
        self.vouch(own, Kind::Peerings);
    }

    fn held(&self, peer: &ClusterName) -> Option<PeerState> {
        let value = self.durable.get(&Key::from(LocalKey::Peer(peer.clone())).to_string())?;
        PeerState::decode(&value).ok()
    }
}

impl Session {
    /// Moves its wire, and what came over it.
    pub fn step(
        &mut self,
        server: Result<(&mut Durable, u8), crate::wire::Trouble>,
        chance: &mut Chance,
        now: Now,
    ) {
        self.wire.step(&mut self.follower, server, chance, now);
        while let Some(event) = self.follower.poll_event() {
            self.lists += usize::from(self.import.handle(event).is_some());
        }
    }
}
