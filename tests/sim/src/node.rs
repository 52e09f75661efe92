//! A node: its agent (follower, view, image, plan), its disk, and a kernel that is a value.

use crate::{
    bug::{Bug, Planted},
    chance::Chance,
    disk::Durable,
    objects::Objects,
    wire::{Line, Trouble, Wire},
};
use api::{
    bytes::{ClusterUuid, PublicKey},
    key::MeshKey,
    name::{ClusterName, NodeName},
    record::TunnelKey,
};
use clustermesh_apiserver::source::object::Body;
use datapath::{
    apply::{
        Host, Outcome, apply,
        model::{Model, Sizes},
    },
    image::{Image, Pod},
    observe::{Device, Observed, TunnelObserved},
    plan::{Completeness, plan},
    step::{Step, TunnelStep},
};
use ipnet::IpNet;
use mesh_node_agent::{
    clock::Clock,
    compose::{Composed, Families, HostFacts, LISTEN_PORT, Paths, compose},
    report,
};
use replica::{
    Now,
    follower::{Follow, Follower},
    kept::{self, Owner},
    view::{Effect, View},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

/// Time between two looks at the host, whatever the store says.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Time between two writes of the view to the disk.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// Devices of the host: its uplink and its tunnel.
const UPLINK: u32 = 2;
const MESH0: u32 = 9;

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name there.
    pub name: NodeName,
    /// What its kernel holds, whoever runs.
    pub kernel: Observed,
    /// How much its maps take.
    pub sizes: Sizes,
    /// Peers that were made anew since the boot, in order.
    pub renewals: Vec<Renewal>,
    /// The latest stamp of a handshake that each peer's end of a tunnel here remembers, Unix time in milliseconds.
    pub stamps: BTreeMap<PublicKey, u64>,
    /// Its wall clock is so many seconds ahead.
    pub skew_s: i64,
    /// What its clock showed when the agent just looked: its tunnels stamp their next handshakes so. A jump there and back
    /// that no agent looks at, within five seconds or while none runs, leaves stamps that nobody knows of
    /// (docs/decisions/0012); there are none of them here.
    pub stamp_ms: Option<u64>,
    /// The agent while it runs.
    pub running: Option<Agent>,
    /// How often the agent was started.
    pub starts: u32,
    /// Its tunnel's key, on its disk, and the epoch of its clock, as the agent knows it.
    pub key: TunnelKey,
    /// What its clock has shown, on its disk.
    kept_clock: Clock,
    /// The last view, on its disk.
    kept: Option<Vec<u8>>,
    uuid: ClusterUuid,
    keys: u8,
    number: u8,
    planted: Planted,
}

/// A peer that was made anew, as its clock went back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// Who.
    pub peer: PublicKey,
    /// The epoch of his clock.
    pub epoch: u64,
    /// He has the same addresses before and after.
    pub keeps_addresses: bool,
}

/// What an agent last did to its kernel.
#[derive(Debug, Clone)]
pub struct Programmed {
    /// Whether what was missing was taken away.
    pub completeness: Completeness,
    /// What did not work, a sentence each, as its node's record has them.
    pub problems: Vec<String>,
}

/// An agent.
#[derive(Debug)]
pub struct Agent {
    /// What it knows.
    pub view: View,
    /// What it last wanted the kernel to hold.
    pub composed: Composed,
    /// What became of that; none: it has programmed nothing.
    pub programmed: Option<Programmed>,
    /// Clusters that lost most of their backends with one list, as often as it happened.
    pub mass_removals: usize,
    /// Complete lists that it read.
    pub lists: usize,
    /// Nothing was in the maps when it began: the view on the disk is better than that.
    from_disk: bool,
    clock: Clock,
    follower: Follower,
    wire: Wire,
    look_at: Now,
    keep_at: Now,
}

impl Agent {
    fn new(cluster: &ClusterName, view: View, from_disk: bool, seed: u64) -> Self {
        let prefixes = vec![api::key::MESH.to_owned(), api::key::LOCAL.to_owned()];
        Self {
            view,
            composed: Composed::default(),
            programmed: None,
            clock: Clock::default(),
            mass_removals: 0,
            lists: 0,
            from_disk,
            follower: Follower::new(Follow { cluster: cluster.clone(), prefixes }, seed),
            wire: Wire::default(),
            look_at: Now::START,
            keep_at: Now::START,
        }
    }

    /// One that only watches: it has no node.
    #[must_use]
    pub fn onlooker(cluster: &ClusterName) -> Self {
        Self::new(cluster, View::new(cluster.clone()), false, u64::from(cluster.as_str().as_bytes()[0]))
    }

    /// Moves its wire, and what came over it.
    pub fn follow(&mut self, server: Result<Line<'_>, Trouble>, chance: &mut Chance, now: Now) {
        self.wire.step(&mut self.follower, server, chance, now);
        while let Some(event) = self.follower.poll_event() {
            match self.view.apply(event) {
                Effect::Nothing => continue,
                Effect::Changed => {}
                Effect::Relisted(relisted) => {
                    self.lists += 1;
                    self.mass_removals += relisted.mass_removals.len();
                }
            }
            self.look_at = Now::START;
        }
    }

    /// Drops its connection.
    pub fn reset(&mut self, now: Now) {
        self.wire.reset(&mut self.follower, "connection reset", now);
    }
}

impl Node {
    /// A node that was just installed. `number` is its own in the mesh.
    #[must_use]
    pub fn new(
        cluster: ClusterName,
        uuid: ClusterUuid,
        name: NodeName,
        number: u8,
        planted: Planted,
    ) -> Self {
        let mut node = Self {
            cluster,
            name,
            kernel: booted(PublicKey([0; 32])),
            sizes: Sizes::AMPLE,
            renewals: Vec::new(),
            stamps: BTreeMap::new(),
            skew_s: 0,
            stamp_ms: None,
            running: None,
            starts: 0,
            key: TunnelKey {
                public_key: PublicKey([0; 32]),
                port: LISTEN_PORT,
                clock_epoch: 0,
                relay_key: None,
                on_demand: false,
            },
            kept_clock: Clock::default(),
            kept: None,
            uuid,
            keys: 0,
            number,
            planted,
        };
        node.lose();
        node.start();
        node
    }

    /// Starts the agent.
    pub fn start(&mut self) {
        if self.running.is_some() {
            return;
        }
        self.starts += 1;
        let began_empty = self.kernel.rows.services.is_empty() && self.kernel.rows.routes.is_empty();
        let owner = self.owner();
        let kept = self.kept.as_ref().and_then(|bytes| kept::decode(bytes, &owner).ok());
        let from_disk = began_empty && kept.is_some();
        let view = kept.map_or_else(|| View::new(self.cluster.clone()), |kept| kept.view);
        let agent = Agent::new(&self.cluster, view, from_disk, u64::from(self.number));
        self.running = Some(Agent { clock: self.kept_clock, ..agent });
    }

    /// Kills the agent; disk and kernel stay as they are.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// The machine goes down: the kernel forgets everything.
    pub fn power_off(&mut self) {
        self.kill();
        self.kernel = booted(self.key.public_key);
        self.renewals.clear();
        self.stamps.clear();
    }

    /// The machine starts with maps of other sizes, which begin empty.
    pub fn make_maps(&mut self, sizes: Sizes) {
        self.power_off();
        self.sizes = sizes;
        self.start();
    }

    /// What its clock shows when a clock that is right shows this, Unix time in milliseconds.
    #[must_use]
    pub fn clock_ms(&self, unix_ms: u64) -> u64 {
        unix_ms.saturating_add_signed(self.skew_s * 1_000)
    }

    /// Somebody opens a handshake with it, stamped so. Who is not a peer is not heard, nor whose stamp is not after the
    /// last one that was. (WireGuard whitepaper, section 5.1)
    pub fn shake_hands(&mut self, from: PublicKey, stamp_ms: u64) {
        let is_peer = self.kernel.tunnel.as_ref().is_some_and(|tunnel| tunnel.peers.contains_key(&from));
        if is_peer && self.stamps.get(&from).is_none_or(|last| *last < stamp_ms) {
            self.stamps.insert(from, stamp_ms);
        }
    }

    /// The machine is down, and its disk is lost; so the next one has another key.
    pub fn lose(&mut self) {
        self.keys += 1;
        self.key.public_key = public_key(self.number, self.keys);
        self.key.clock_epoch = 0;
        self.kept_clock = Clock::default();
        self.kept = None;
        self.power_off();
    }

    /// The keys that others may know it by: its own, and until an agent runs that could tell it, those that it had before.
    pub fn keys_told(&self) -> impl Iterator<Item = PublicKey> {
        let (number, last) = (self.number, self.keys);
        let first = if self.running.is_some() { last } else { 0 };
        (first..=last).map(move |installation| public_key(number, installation))
    }

    /// What its devices are: the CNI's word for each pod that the source puts here.
    fn facts(&self, objects: &Objects) -> HostFacts {
        let mut bindings: BTreeMap<IpAddr, (u64, Pod)> = BTreeMap::new();
        for object in objects.all.values() {
            let Body::Pod(pod) = &object.body else { continue };
            if pod.node.as_ref() != Some(&self.name) {
                continue;
            }
            let uid = u64::from_be_bytes(object.uid.0[8..].try_into().expect("eight bytes"));
            for address in &pod.ips {
                // One that gets the address of another that is still there comes later.
                let device = (uid, binding(uid));
                let newest = bindings.get(address).is_none_or(|(older, _)| *older < uid);
                if newest {
                    bindings.insert(*address, device);
                }
            }
        }
        let pod_devices = bindings.values().map(|(_, pod)| pod.ifindex).collect();
        HostFacts {
            bindings: bindings.into_iter().map(|(address, (_, pod))| (address, pod)).collect(),
            pod_devices,
            uplinks: [UPLINK].into(),
            families: Families { v4: true, v6: false },
            uplink_mtu_bytes: 1_500,
            listen_port: LISTEN_PORT,
            ..HostFacts::default()
        }
    }

    fn owner(&self) -> Owner {
        Owner { uuid: self.uuid, node: self.name.clone() }
    }

    /// Brings the kernel in line with what is known, keeps it, and says who we are.
    pub fn step(&mut self, objects: &Objects, store: Option<&mut Durable>, now: Now, unix_ms: u64) {
        if self.running.as_ref().is_none_or(|agent| now < agent.look_at) {
            return;
        }
        let facts = self.facts(objects);
        let (owner, clock_ms) = (self.owner(), self.clock_ms(unix_ms));
        let Some(agent) = &mut self.running else { return };
        agent.look_at = now + LOOK_EVERY;
        self.stamp_ms = Some(clock_ms);
        if !self.planted.is(Bug::IgnoresItsClock) {
            agent.clock.has_told(report::told_epoch(&agent.view, &self.name, &self.key).unwrap_or_default());
            agent.clock.look(clock_ms);
            if agent.clock.is_news_to(&self.kept_clock) {
                self.kept_clock = agent.clock;
            }
            self.key.clock_epoch = agent.clock.epoch();
        }
        let completeness = match (agent.view.is_complete(), agent.from_disk) {
            (true, _) if self.planted.is(Bug::NeverRemoves) => Completeness::Partial,
            (true, _) => Completeness::Complete,
            (false, true) => Completeness::Partial,
            // What an earlier agent pinned is the best there is.
            (false, false) => return,
        };
        agent.composed = compose(&agent.view, &self.name, &facts, &Paths::default());
        let mut host = Kernel {
            model: Model::of(std::mem::take(&mut self.kernel)).sized(self.sizes),
            stamps: &mut self.stamps,
            renewals: &mut self.renewals,
            planted: self.planted,
        };
        let Outcome { problems, short_of_room, .. } = program(&agent.composed.image, &mut host, completeness);
        self.kernel = Observed { short_of_room, ..host.model.observed };
        if self.sizes == Sizes::AMPLE {
            assert!(problems.is_empty(), "a kernel that takes everything refused: {problems:?}");
        }
        if self.planted.is(Bug::ForgetsEpochs) {
            let peers = self.kernel.tunnel.iter_mut().flat_map(|tunnel| tunnel.peers.values_mut());
            peers.for_each(|peer| peer.clock_epoch = 0);
        }
        agent.programmed = Some(Programmed { completeness, problems });
        if !agent.view.is_complete() {
            return;
        }
        if now >= agent.keep_at {
            agent.keep_at = now + KEEP_EVERY;
            self.kept = Some(kept::encode(&agent.view, &owner, 0).expect("a small view"));
        }
        let own = MeshKey::Key(self.name.clone()).of(&self.cluster);
        let hides = agent.view.stored(&own).is_some() && self.planted.is(Bug::HidesItsNewKey);
        if let (Some(store), Some((key, record))) = (store, report::key(&agent.view, &self.name, &self.key))
            && !hides
        {
            store.publish(&key, &record);
        }
    }
}

/// Plans and takes the steps.
fn program(image: &Image, host: &mut Kernel<'_>, completeness: Completeness) -> Outcome {
    let steps = plan(image, &host.model.observed, completeness);
    apply(&steps, host)
}

/// The model of a kernel, what its WireGuard remembers of peers, and a note of who was made anew.
struct Kernel<'a> {
    model: Model,
    stamps: &'a mut BTreeMap<PublicKey, u64>,
    renewals: &'a mut Vec<Renewal>,
    planted: Planted,
}

impl Kernel<'_> {
    fn addresses(&self, peer: &PublicKey) -> Option<BTreeSet<IpNet>> {
        let tunnel = self.model.observed.tunnel.as_ref()?;
        tunnel.peers.get(peer).map(|peer| peer.allowed.clone())
    }
}

impl Host for Kernel<'_> {
    fn take(&mut self, step: &Step) -> anyhow::Result<()> {
        let before = match step {
            Step::Tunnel(TunnelStep::RenewPeer { peer, .. }) => self.addresses(peer),
            _ => None,
        };
        let result = self.model.take(step);
        match step {
            Step::Tunnel(TunnelStep::RenewPeer { peer, clock_epoch, .. }) => {
                self.stamps.remove(peer);
                let keeps_addresses = self.addresses(peer) == before;
                self.renewals.push(Renewal { peer: *peer, epoch: *clock_epoch, keeps_addresses });
            }
            Step::Tunnel(TunnelStep::RemovePeer { peer }) => drop(self.stamps.remove(peer)),
            _ => {}
        }
        if self.planted.is(Bug::HidesThatItIsFull) { Ok(()) } else { result }
    }
}

/// The device of a pod with this UID.
#[must_use]
pub fn binding(uid: u64) -> Pod {
    let ifindex = 100 + u32::try_from(uid).expect("few pods");
    Pod { ifindex, mac: [2, 0, 0, 0, 0, uid as u8] }
}

/// A kernel after the boot: `mesh-tunnel` made its device, and nobody configured anything.
fn booted(key: PublicKey) -> Observed {
    Observed {
        device: Some(Device { ifindex: MESH0, up: false, mtu_bytes: 1_420 }),
        tunnel: Some(TunnelObserved { own_key: Some(key), ..TunnelObserved::default() }),
        ..Observed::default()
    }
}

/// Of a machine's tunnel; each installation makes another one.
fn public_key(number: u8, installation: u8) -> PublicKey {
    let mut key = [number; 32];
    key[1] = installation;
    PublicKey(key)
}
