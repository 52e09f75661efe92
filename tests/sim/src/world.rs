//! All sites, the wires between them, and time.

use crate::{
    agent::Agent,
    apiserver::{Session, Site},
    chance::Chance,
    disk::{Disk, Object},
    records::uuid,
    wire::Trouble,
};
use api::{
    bytes::Nonce,
    name::ClusterName,
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
    /// An agent of each.
    pub agents: BTreeMap<ClusterName, Agent>,
    /// Copies of stores, for bad days.
    pub copies: BTreeMap<ClusterName, Disk>,
    /// All chance.
    pub chance: Chance,
    /// One in so many ticks a wire is reset; 0 is never.
    pub reset_one_in: u64,
    cut: BTreeSet<(ClusterName, ClusterName)>,
    /// Clusters whose agent cannot reach its apiserver.
    cut_agents: BTreeSet<ClusterName>,
    now: Now,
    ticks: u64,
    nonces: u8,
}

impl World {
    /// An empty mesh.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            sites: BTreeMap::new(),
            agents: BTreeMap::new(),
            copies: BTreeMap::new(),
            chance: Chance::new(seed),
            reset_one_in: 0,
            cut: BTreeSet::new(),
            cut_agents: BTreeSet::new(),
            now: Now::START,
            ticks: 0,
            nonces: 0,
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Now {
        self.now
    }

    /// Adds a cluster and starts its apiserver and agent.
    pub fn add(&mut self, name: &ClusterName, cidrs: Vec<IpNet>) {
        let mut site = Site::new(name.clone(), uuid(name.as_str()), cidrs);
        site.start(self.now);
        self.sites.insert(name.clone(), site);
        self.agents.insert(name.clone(), Agent::new(name, u64::from(name.as_str().as_bytes()[0])));
    }

    /// A cluster.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn site(&mut self, name: &ClusterName) -> &mut Site {
        self.sites.get_mut(name).unwrap_or_else(|| panic!("no cluster {name}"))
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
        let contract = Contract { cidrs: self.site(peer).cidrs.clone(), namespaces: vec![], limits };
        let deadline_s = Some(self.unix_s() + DEADLINE_S);
        let object = Object { uuid: uuid(peer.as_str()), nonce: Some(nonce), deadline_s, contract, stale };
        self.site(at).objects().insert(peer.clone(), object);
    }

    /// Nothing passes between two clusters, or passes again.
    pub fn cut(&mut self, a: &ClusterName, b: &ClusterName, cut: bool) {
        for pair in [(a.clone(), b.clone()), (b.clone(), a.clone())] {
            if cut {
                self.cut.insert(pair)
            } else {
                self.cut.remove(&pair)
            };
        }
    }

    /// Nothing passes between a cluster's agent and its apiserver, or passes again.
    pub fn cut_agent(&mut self, cluster: &ClusterName, cut: bool) {
        if cut {
            self.cut_agents.insert(cluster.clone())
        } else {
            self.cut_agents.remove(cluster)
        };
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.tick();
        }
    }

    fn unix_s(&self) -> u64 {
        EPOCH_S + self.now.elapsed().as_secs()
    }

    fn tick(&mut self) {
        self.now = self.now + TICK;
        self.ticks += 1;
        let (now, unix_s) = (self.now, self.unix_s());
        let names: Vec<ClusterName> = self.sites.keys().cloned().collect();
        for name in &names {
            if self.ticks.is_multiple_of(SHELL_TICKS) {
                self.site(name).step(now, unix_s);
            }
            self.step_sessions(name);
            self.step_agent(name);
        }
    }

    fn step_sessions(&mut self, name: &ClusterName) {
        let Some(running) = &mut self.site(name).running else { return };
        let mut sessions = std::mem::take(&mut running.sessions);
        for (peer, session) in &mut sessions {
            self.maybe_reset(session);
            let (cut, now) = (self.cut.contains(&(name.clone(), peer.clone())), self.now);
            let server = match self.sites.get_mut(peer) {
                _ if cut => Err(Trouble::Cut),
                Some(site) if site.running.is_none() => Err(Trouble::Down),
                Some(site) if !site.trusts(name) => Err(Trouble::Refused("not a peer")),
                Some(site) => Ok((&mut site.running.as_mut().expect("it runs").durable, site.boots)),
                None => Err(Trouble::Down),
            };
            session.step(server, &mut self.chance, now);
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

    fn step_agent(&mut self, name: &ClusterName) {
        let Some(agent) = self.agents.get_mut(name) else { return };
        let site = self.sites.get_mut(name).expect("an agent has a cluster");
        let server = match &mut site.running {
            _ if self.cut_agents.contains(name) => Err(Trouble::Cut),
            None => Err(Trouble::Down),
            Some(running) => Ok((&mut running.durable, site.boots)),
        };
        agent.step(server, &mut self.chance, self.now);
    }
}
