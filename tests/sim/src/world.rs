//! All sites, the wires between them, and time.

use crate::{
    bug::Planted,
    chance::Chance,
    disk::{Disk, Object},
    node::{Agent, Node},
    records::uuid,
    session::Session,
    site::Site,
    wire::{Line, Manner, Trouble},
};
use api::{
    bytes::{Nonce, PublicKey},
    name::{ClusterName, NodeName},
    peer::{Contract, Limits, Stale},
};
use ipnet::IpNet;
use replica::Now;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How far time moves at once: below the latency of most messages, so that order is decided by it.
pub const TICK: Duration = Duration::from_millis(20);

/// The shells' own loops look around every so many ticks; messages move in each.
const SHELL_TICKS: u64 = 4;

/// Unix time at the start, in seconds.
const EPOCH_S: u64 = 1_700_000_000;

/// A connect's deadline after its objects are written, in seconds.
const DEADLINE_S: u64 = 60;

/// A mesh.
#[derive(Debug)]
pub struct World {
    /// Clusters by name.
    pub sites: BTreeMap<ClusterName, Site>,
    /// Who watches each cluster without being a node of it.
    pub onlookers: BTreeMap<ClusterName, Agent>,
    /// All machines.
    pub nodes: BTreeMap<(ClusterName, NodeName), Node>,
    /// Clusters that are no more, and the ranges that they had.
    pub gone: BTreeMap<ClusterName, Vec<IpNet>>,
    /// Copies of stores, for bad days.
    pub copies: BTreeMap<ClusterName, Disk>,
    /// All chance.
    pub chance: Chance,
    /// Keys that hang on a lease: whose store, since when, which.
    pub leases: Vec<(ClusterName, Now, String)>,
    /// One in so many ticks a wire is reset; 0 is never.
    pub reset_one_in: u64,
    /// What is wrong on purpose.
    pub planted: Planted,
    /// From whom to whom packets are lost.
    lost: BTreeSet<(ClusterName, ClusterName)>,
    /// Who follows whom over a slow line.
    slow: BTreeSet<(ClusterName, ClusterName)>,
    /// Who cannot reach the apiserver: a node, or the onlooker.
    cut_agents: BTreeSet<(ClusterName, Option<NodeName>)>,
    now: Now,
    ticks: u64,
    nonces: u8,
    /// That there ever were.
    machines: u8,
}

impl World {
    /// An empty mesh.
    #[must_use]
    pub fn new(seed: u64, planted: Planted) -> Self {
        Self {
            sites: BTreeMap::new(),
            onlookers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            gone: BTreeMap::new(),
            copies: BTreeMap::new(),
            chance: Chance::new(seed),
            leases: Vec::new(),
            reset_one_in: 0,
            planted,
            lost: BTreeSet::new(),
            slow: BTreeSet::new(),
            cut_agents: BTreeSet::new(),
            now: Now::START,
            ticks: 0,
            nonces: 0,
            machines: 0,
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Now {
        self.now
    }

    /// Adds a cluster and starts its apiserver.
    pub fn add(&mut self, name: &ClusterName, cidrs: Vec<IpNet>) {
        let mut site = Site::new(name.clone(), uuid(name.as_str()), cidrs, self.planted);
        site.start(self.now);
        self.sites.insert(name.clone(), site);
    }

    /// A cluster is no more: its apiserver, its machines and their disks. Others hear of it from nobody.
    pub fn dismantle(&mut self, name: &ClusterName) {
        if let Some(site) = self.sites.remove(name) {
            self.gone.insert(name.clone(), site.cidrs);
            self.nodes.retain(|(cluster, _), _| cluster != name);
            self.onlookers.remove(name);
            self.leases.retain(|(cluster, ..)| cluster != name);
        }
    }

    /// Writes an object of a source; a Node comes with a machine.
    pub fn write_source(&mut self, name: &ClusterName, path: &str, words: &[&str]) {
        let unix_s = self.unix_s();
        let number = self.machines + 1;
        let planted = self.planted;
        let site = self.site(name);
        let created_s = unix_s.saturating_add_signed(site.skew_s);
        site.objects.apply(path, words, created_s);
        site.source_changed();
        if let Some(node) = path.strip_prefix("node/") {
            let node: NodeName = node.parse().expect("a name");
            let uuid = site.uuid;
            self.nodes.entry((name.clone(), node.clone())).or_insert_with(|| {
                self.machines = number;
                Node::new(name.clone(), uuid, node, number, planted)
            });
        }
    }

    /// A cluster.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn site(&mut self, name: &ClusterName) -> &mut Site {
        self.sites.get_mut(name).unwrap_or_else(|| panic!("no cluster {name}"))
    }

    /// A machine.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn node(&mut self, cluster: &ClusterName, node: &str) -> &mut Node {
        let at = (cluster.clone(), node.parse().expect("a name"));
        self.nodes.get_mut(&at).unwrap_or_else(|| panic!("no node {cluster}/{node}"))
    }

    /// A nonce for a connect.
    pub fn nonce(&mut self) -> Nonce {
        self.nonces += 1;
        Nonce([self.nonces; 16])
    }

    /// What `meshctl connect` writes into one of the two clusters, about the other.
    ///
    /// # Panics
    /// When there is no such cluster.
    pub fn write_object(
        &mut self,
        at: &ClusterName,
        peer: &ClusterName,
        nonce: Nonce,
        limits: Limits,
        stale: Stale,
    ) {
        let contract =
            Contract { cidrs: self.site(peer).cidrs.clone(), namespaces: vec![], limits, relay: vec![] };
        let deadline_s = Some(self.unix_s() + DEADLINE_S);
        let object = Object { uuid: uuid(peer.as_str()), nonce: Some(nonce), deadline_s, contract, stale };
        self.site(at).peers().insert(peer.clone(), object);
    }

    /// Nothing passes between two clusters, or passes again.
    pub fn cut(&mut self, a: &ClusterName, b: &ClusterName, cut: bool) {
        self.lose(a, b, cut);
        self.lose(b, a, cut);
    }

    /// What one cluster sends to another is lost, or arrives again.
    pub fn lose(&mut self, from: &ClusterName, to: &ClusterName, lost: bool) {
        set(&mut self.lost, (from.clone(), to.clone()), lost);
    }

    /// A cluster follows another over a slow line, or over an ordinary one again.
    pub fn slow(&mut self, from: &ClusterName, to: &ClusterName, slow: bool) {
        set(&mut self.slow, (from.clone(), to.clone()), slow);
    }

    /// Nothing passes between an agent and its apiserver, or passes again; no node is the onlooker.
    pub fn cut_agent(&mut self, cluster: &ClusterName, node: Option<NodeName>, cut: bool) {
        set(&mut self.cut_agents, (cluster.clone(), node), cut);
    }

    /// Whether what a cluster announces reaches another's apiserver, in time.
    #[must_use]
    pub fn hears(&self, by: &ClusterName, of: &ClusterName) -> bool {
        !has(&self.lost, by, of) && !has(&self.lost, of, by) && !has(&self.slow, by, of)
    }

    /// Whether a node reaches its apiserver.
    #[must_use]
    pub fn reaches(&self, cluster: &ClusterName, node: &NodeName) -> bool {
        !is_cut(&self.cut_agents, cluster, Some(node))
    }

    /// Everything passes everywhere again.
    pub fn heal_all(&mut self) {
        self.lost.clear();
        self.slow.clear();
        self.cut_agents.clear();
        self.reset_one_in = 0;
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.tick();
        }
    }

    /// What a clock that is right says, in seconds of Unix time.
    #[must_use]
    pub fn unix_s(&self) -> u64 {
        EPOCH_S + self.now.elapsed().as_secs()
    }

    /// The same in milliseconds.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        EPOCH_S * 1_000 + self.now.elapsed().as_millis() as u64
    }

    fn tick(&mut self) {
        self.now = self.now + TICK;
        self.ticks += 1;
        let (now, unix_s) = (self.now, self.unix_s());
        let looks = self.ticks.is_multiple_of(SHELL_TICKS);
        if looks {
            self.sites.values_mut().for_each(|site| site.step(now, unix_s));
        }
        let names: Vec<ClusterName> = self.sites.keys().cloned().collect();
        names.iter().for_each(|name| self.step_sessions(name));
        self.step_onlookers();
        self.step_nodes(looks);
        if looks {
            self.shake_hands();
        }
    }

    fn step_sessions(&mut self, name: &ClusterName) {
        let Some(running) = &mut self.site(name).running else { return };
        let mut sessions = std::mem::take(&mut running.sessions);
        for (peer, session) in &mut sessions {
            self.maybe_reset(session);
            let (now, planted) = (self.now, self.planted);
            let (up, down) = (!has(&self.lost, name, peer), !has(&self.lost, peer, name));
            let slow = has(&self.slow, name, peer);
            let line = match self.sites.get_mut(peer) {
                _ if !up && !down => Err(Trouble::Cut),
                Some(site) if site.running.is_none() => {
                    Err(if up && site.paused.is_none() { Trouble::Down } else { Trouble::Cut })
                }
                Some(site) if !site.trusts(name) => Err(Trouble::Refused("not a peer")),
                Some(Site { running: Some(running), manner, .. }) => {
                    let (run, manner, durable) = (running.run, *manner, &mut running.durable);
                    Ok(Line { durable, run, manner, up, down, slow, planted })
                }
                Some(_) | None => Err(Trouble::Down),
            };
            session.step(line, &mut self.chance, now);
        }
        if let Some(running) = &mut self.site(name).running {
            running.sessions = sessions;
        }
    }

    fn maybe_reset(&mut self, session: &mut Session) {
        if self.reset_one_in > 0 && self.chance.below(self.reset_one_in) == 0 {
            session.wire.reset(&mut session.follower, "connection reset", self.now);
        }
    }

    fn step_onlookers(&mut self) {
        for (name, agent) in &mut self.onlookers {
            let is_cut = is_cut(&self.cut_agents, name, None);
            let site = self.sites.get_mut(name).expect("an onlooker has a cluster");
            agent.follow(own_line(site, is_cut, self.planted), &mut self.chance, self.now);
        }
    }

    fn step_nodes(&mut self, looks: bool) {
        let unix_ms = self.unix_ms();
        for ((name, at), node) in &mut self.nodes {
            let is_cut = is_cut(&self.cut_agents, name, Some(at));
            let site = self.sites.get_mut(name).expect("a node has a cluster");
            if let Some(agent) = &mut node.running {
                if self.reset_one_in > 0 && self.chance.below(self.reset_one_in) == 0 {
                    agent.reset(self.now);
                }
                agent.follow(own_line(site, is_cut, self.planted), &mut self.chance, self.now);
            }
            if looks {
                let store = site.running.as_mut().filter(|_| !is_cut).map(|running| &mut running.durable);
                node.step(&site.objects, store, self.now, unix_ms);
            }
        }
    }

    /// Every node whose agent looked at its clock opens a handshake with everybody whose tunnel it has, where packets pass.
    fn shake_hands(&mut self) {
        let opens = |node: &mut Node| {
            let stamp_ms = node.stamp_ms.take()?;
            let peers = node.kernel.tunnel.iter().flat_map(|tunnel| tunnel.peers.keys().copied());
            Some((node.cluster.clone(), node.key.public_key, stamp_ms, peers.collect()))
        };
        let opened: Vec<(ClusterName, PublicKey, u64, Vec<PublicKey>)> =
            self.nodes.values_mut().filter_map(opens).collect();
        if opened.is_empty() {
            return;
        }
        for ((to, _), node) in &mut self.nodes {
            for (from, key, stamp_ms, peers) in &opened {
                let passes = !has(&self.lost, from, to) && !has(&self.lost, to, from);
                if passes && peers.contains(&node.key.public_key) {
                    node.shake_hands(*key, *stamp_ms);
                }
            }
        }
    }
}

/// From an agent to its own apiserver. An older or newer one serves its agents as it serves its peers, a hostile one
/// has no reason to lie to its own.
fn own_line(site: &mut Site, is_cut: bool, planted: Planted) -> Result<Line<'_>, Trouble> {
    let manner = if site.manner == Manner::Hostile { Manner::Same } else { site.manner };
    match &mut site.running {
        _ if is_cut => Err(Trouble::Cut),
        None if site.paused.is_some() => Err(Trouble::Cut),
        None => Err(Trouble::Down),
        Some(running) => {
            let (durable, run) = (&mut running.durable, running.run);
            Ok(Line { durable, run, manner, up: true, down: true, slow: false, planted })
        }
    }
}

/// Whether a direction is among some. They are few, and a look at each needs no copy of a name, in every tick.
fn has(all: &BTreeSet<(ClusterName, ClusterName)>, from: &ClusterName, to: &ClusterName) -> bool {
    all.iter().any(|(a, b)| a == from && b == to)
}

fn is_cut(
    all: &BTreeSet<(ClusterName, Option<NodeName>)>,
    cluster: &ClusterName,
    node: Option<&NodeName>,
) -> bool {
    all.iter().any(|(at, who)| at == cluster && who.as_ref() == node)
}

fn set<T: Ord>(all: &mut BTreeSet<T>, one: T, is_in: bool) {
    if is_in {
        all.insert(one);
    } else {
        all.remove(&one);
    }
}
