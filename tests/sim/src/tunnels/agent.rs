//! What of a node's agent concerns tunnels on demand: the shell around `compose`, `demand`, `probe` and `plan`.

use super::{
    Bug,
    wireguard::{Datagram, Peer, WireGuard},
};
use api::{
    bytes::PublicKey,
    key::Key,
    name::{ClusterName, NodeName},
    record::Record,
};
use datapath::{
    apply::{Host, apply, model::Model},
    image::{Elsewhere, Upkeep},
    observe::{Device, Observed, TunnelObserved},
    plan::{Completeness, plan},
    step::{Step, TunnelStep},
};
use mesh_node_agent::{
    compose::{Composed, Families, HostFacts, LISTEN_PORT, Paths, TunnelTo, compose},
    demand::{self, Demand},
    probe::{Probes, TIMEOUT, Target},
};
use replica::{
    follower::{Event, Value},
    view::View,
};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Time between two looks at the host, and between a change and the look that it causes, as in the agent.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const GATHER: Duration = Duration::from_millis(20);

/// A packet inside a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Whence.
    pub from: IpAddr,
    /// Where to.
    pub to: IpAddr,
    /// What it is.
    pub says: Says,
    /// Which question this is, or answers.
    pub id: u32,
}

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// A probe of the agent's.
    Ping,
    /// Its answer.
    Pong,
    /// A program's.
    Request,
    /// Its answer.
    Reply,
}

/// A node: its agent, its tunnel, its mesh address.
#[derive(Debug)]
pub struct Node {
    /// Its tunnels.
    pub wireguard: WireGuard,
    /// Its mesh address.
    pub address: IpAddr,
    /// Until when its agent does nothing.
    pub busy_until: Instant,
    cluster: ClusterName,
    name: NodeName,
    kernel: Observed,
    view: View,
    revision: u64,
    composed: Composed,
    paths: Paths,
    probes: Probes,
    asked: Vec<(u32, Target, Instant)>,
    next_id: u32,
    look_at: Instant,
    count_at: Option<Instant>,
    bug: Option<Bug>,
}

impl Node {
    /// A node whose agent starts now and knows nothing yet.
    pub fn new(
        cluster: &str,
        name: &str,
        key: PublicKey,
        address: IpAddr,
        now: Instant,
        bug: Option<Bug>,
    ) -> Self {
        let cluster: ClusterName = cluster.parse().expect("a name");
        let kernel = Observed {
            device: Some(Device { ifindex: 9, up: false, mtu_bytes: 1_420 }),
            tunnel: Some(TunnelObserved { own_key: Some(key), ..TunnelObserved::default() }),
            ..Observed::default()
        };
        Self {
            wireguard: WireGuard::new(key),
            address,
            busy_until: now,
            view: View::new(cluster.clone()),
            cluster,
            name: name.parse().expect("a name"),
            kernel,
            revision: 0,
            composed: Composed::default(),
            paths: Paths::default(),
            probes: Probes::default(),
            asked: Vec::new(),
            next_id: 0,
            look_at: now,
            count_at: None,
            bug,
        }
    }

    /// A record comes.
    pub fn hear(&mut self, now: Instant, key: &Key, record: &Record) {
        self.revision += 1;
        let value =
            Value { key: key.to_string().into_bytes(), value: record.encode(), mod_revision: self.revision };
        self.view.apply(Event::Apply(value));
        self.look_at = self.look_at.min(now + GATHER);
    }

    /// Another agent, which has what is in the device and the records.
    pub fn restart_agent(&mut self, now: Instant) {
        self.paths = Paths { demand: Demand::found(&self.wireguard.states(now)), ..Paths::default() };
        (self.composed, self.probes) = (Composed::default(), Probes::default());
        self.asked.clear();
        (self.look_at, self.count_at) = (now, None);
    }

    /// The last probe of another node was answered.
    pub fn is_green(&self, cluster: &str, name: &str) -> bool {
        let measured =
            self.probes.measured(&cluster.parse().expect("a name"), &name.parse().expect("a name"));
        measured.answer.is_some() && measured.failures == 0
    }

    /// Sends a packet into the tunnel that has its address.
    pub fn send(&mut self, now: Instant, packet: &Packet) -> Vec<Datagram> {
        let tunnel = self.kernel.tunnel.iter().flat_map(|tunnel| &tunnel.peers);
        let owner = tunnel.filter(|(_, peer)| peer.allowed.iter().any(|prefix| prefix.contains(&packet.to)));
        let Some(key) = owner.map(|(key, _)| *key).next() else { return Vec::new() };
        self.wireguard.send(now, &key, &encode(packet))
    }

    /// Takes a datagram; the answers to a program's questions are handed on.
    pub fn take(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> (Vec<Datagram>, Option<Packet>) {
        let (mut out, inside) = self.wireguard.take(now, from, datagram);
        let Some(packet) = inside.map(|(_, bytes)| decode(&bytes)).filter(|it| it.to == self.address) else {
            return (out, None);
        };
        let says = match packet.says {
            Says::Ping => Says::Pong,
            Says::Request => Says::Reply,
            Says::Pong => {
                if let Some(at) = self.asked.iter().position(|(id, ..)| *id == packet.id) {
                    let (_, target, sent_at) = self.asked.remove(at);
                    self.probes.finished(now, &target, Some(now.saturating_duration_since(sent_at)));
                }
                return (out, None);
            }
            Says::Reply => return (out, Some(packet)),
        };
        let answer = Packet { from: self.address, to: packet.from, says, id: packet.id };
        out.extend(self.send(now, &answer));
        (out, None)
    }

    /// What the device and the agent do now, in the order of the agent's loop.
    pub fn step(&mut self, now: Instant) -> Vec<Datagram> {
        let mut out = self.wireguard.tick(now);
        if now < self.busy_until {
            return out;
        }
        let late =
            |(_, _, sent_at): &(u32, Target, Instant)| now.saturating_duration_since(*sent_at) >= TIMEOUT;
        for (_, target, _) in self.asked.extract_if(.., |it| late(it)) {
            self.probes.finished(now, &target, None);
        }
        if self.count_at.is_some_and(|at| now >= at)
            && self.composed.count(now, &self.wireguard.states(now), &mut self.paths, &mut self.probes)
        {
            self.look_at = now;
        }
        if self.judge_silence(now) {
            self.look_at = self.look_at.min(now + GATHER);
        }
        if now >= self.look_at {
            self.program(now);
            self.look_at = now + LOOK_EVERY;
        }
        if self.count_at.is_none_or(|at| now >= at) {
            let on_demand = self.composed.tunnels.values().any(TunnelTo::is_on_demand);
            self.count_at = on_demand.then(|| now + demand::LOOK_EVERY);
        }
        for target in self.probes.due(now) {
            self.next_id += 1;
            let ping = Packet { from: self.address, to: target.address, says: Says::Ping, id: self.next_id };
            self.asked.push((self.next_id, target, now));
            out.extend(self.send(now, &ping));
        }
        out
    }

    fn judge_silence(&mut self, now: Instant) -> bool {
        let silent = self.composed.silent(now, &self.probes);
        let changed = silent != self.paths.silent;
        self.paths.silent = silent;
        changed
    }

    fn program(&mut self, now: Instant) {
        let host = HostFacts {
            uplinks: [2].into(),
            families: Families { v4: true, v6: false },
            uplink_mtu_bytes: 1_500,
            listen_port: LISTEN_PORT,
            ..HostFacts::default()
        };
        self.composed = compose(&self.view, &self.name, &host, &self.paths);
        let mut image = self.composed.image.clone();
        for peer in image.tunnel.peers.values_mut() {
            peer.upkeep = self.planted_upkeep(peer.upkeep);
        }
        let seen = self.kernel.tunnel.iter_mut().flat_map(|tunnel| &mut tunnel.peers);
        for (key, peer) in seen {
            let known = &self.wireguard.peers[key];
            (peer.endpoint, peer.is_fresh) = (known.endpoint, known.is_fresh(now));
        }
        let steps = plan(&image, &self.kernel, Completeness::Complete);
        let mut kernel =
            Kernel { model: Model::of(std::mem::take(&mut self.kernel)), wireguard: &mut self.wireguard };
        let problems = apply(&steps, &mut kernel).problems;
        assert!(problems.is_empty(), "a kernel that takes everything refused: {problems:?}");
        self.kernel = kernel.model.observed;
        self.probes.retarget(now, self.composed.probe_targets());
        self.paths.demand.see(&self.wireguard.states(now));
    }

    fn planted_upkeep(&self, upkeep: Upkeep) -> Upkeep {
        match (self.bug, upkeep) {
            (Some(Bug::MovesSessions), Upkeep::OnDemand { keepalive, elsewhere: Elsewhere::Stays })
            | (
                Some(Bug::TakesSessionsToARelay),
                Upkeep::OnDemand { keepalive, elsewhere: Elsewhere::BeginsAnew },
            ) => Upkeep::OnDemand { keepalive, elsewhere: Elsewhere::GoesAlong },
            (Some(Bug::KeepsAlways), Upkeep::OnDemand { elsewhere, .. }) => {
                Upkeep::OnDemand { keepalive: true, elsewhere }
            }
            (_, as_it_is) => as_it_is,
        }
    }

    /// For people: where a tunnel is.
    #[must_use]
    pub fn show(&self) -> String {
        let of = &self.cluster;
        let at = |peer: &Peer| peer.endpoint.map_or("nowhere".to_owned(), |at| at.to_string());
        let line = |((_, name), to): (&(ClusterName, NodeName), &TunnelTo)| {
            let peer = self.wireguard.peers.get(&to.key.public_key)?;
            Some(format!("{of}/{} → {name} at {}", self.name, at(peer)))
        };
        self.composed.tunnels.iter().filter_map(line).collect::<Vec<_>>().join(", ")
    }
}

/// The model of a kernel, whose tunnel is a device that works.
struct Kernel<'a> {
    model: Model,
    wireguard: &'a mut WireGuard,
}

impl Host for Kernel<'_> {
    fn take(&mut self, step: &Step) -> anyhow::Result<()> {
        self.model.take(step)?;
        let Step::Tunnel(step) = step else { return Ok(()) };
        let peers = &mut self.wireguard.peers;
        match step {
            TunnelStep::AddPeer { peer, endpoint, keepalive_s, .. }
            | TunnelStep::RenewPeer { peer, endpoint, keepalive_s, .. } => {
                peers.insert(*peer, Peer::new(*endpoint, *keepalive_s));
            }
            TunnelStep::SetEndpoint { peer, endpoint } => {
                peers.get_mut(peer).expect("it is there").endpoint = Some(*endpoint);
            }
            TunnelStep::SetKeepalive { peer, keepalive_s } => {
                peers.get_mut(peer).expect("it is there").keepalive_s = *keepalive_s;
            }
            TunnelStep::RemovePeer { peer } => drop(peers.remove(peer)),
            TunnelStep::SetDevice { .. }
            | TunnelStep::AddAllowed { .. }
            | TunnelStep::RemoveAllowed { .. } => {}
        }
        Ok(())
    }
}

/// As large as a small HTTP request, a probe as large as a real one.
fn encode(packet: &Packet) -> Vec<u8> {
    let (says, bytes) = match packet.says {
        Says::Ping => (0, 44),
        Says::Pong => (1, 44),
        Says::Request => (2, 300),
        Says::Reply => (3, 300),
    };
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => unreachable!("all mesh addresses here are of IPv4"),
    };
    let mut all = [&[says][..], &octets(packet.from), &octets(packet.to), &packet.id.to_le_bytes()].concat();
    all.resize(bytes, 0);
    all
}

/// What a host's kernel answers to a probe.
pub fn answered(probe: &[u8]) -> Vec<u8> {
    let Packet { from, to, id, .. } = decode(probe);
    encode(&Packet { from: to, to: from, says: Says::Pong, id })
}

fn decode(bytes: &[u8]) -> Packet {
    let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).expect("four bytes"));
    let says = [Says::Ping, Says::Pong, Says::Request, Says::Reply][usize::from(bytes[0])];
    let id = u32::from_le_bytes(bytes[9..13].try_into().expect("four bytes"));
    Packet { from: address(1), to: address(5), says, id }
}
