//! A pair of nodes whose tunnel is kept on demand: one behind a NAT box, one that is dialled, and two gateways.
//!
//! ```text
//!  b ── NAT box ──┬── a        b and a: real agents' cores (compose, demand, probe, plan) on WireGuard devices that are
//!                 ├── g1       values; the gateways: the real relay's core, and such devices
//!                 └── g2
//! ```
//!
//! A day is a seed: records come to both agents in any order, programs ask each other or are silent, links and relays fail,
//! agents are late or start again.
//!
//! Laws
//! - the two see each other within a minute of the last record, whatever the order in which records came;
//! - from then on, at once, what is asked is answered, and again soon after each failure;
//! - what is used goes straight;
//! - what is not used is silent.
//!
//! Not simulated: gateways that come and go as records, a relay that starts again (its proofs are renewed only with their
//! sessions, so that it counts as up for three minutes: docs/decisions/0016), paths' MTUs, the kernel's WireGuard where it
//! differs from the one in user space.

mod agent;
mod between;
mod wireguard;

use crate::{chance::Chance, laws::Broken};
use agent::{Node, Packet, Says};
use api::{
    bytes::{ClusterUuid, PublicKey},
    key::{Key, LocalKey, MeshKey},
    record::{Cluster, Freshness, Node as NodeRecord, PeerState, Phase, Record, StalePolicy, TunnelKey},
};
use between::{Gateway, NatBox};
use mesh_node_agent::compose::LISTEN_PORT;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};
use wireguard::Datagram;

/// How far time goes at once.
const TICK: Duration = Duration::from_millis(50);
/// What a datagram takes at most, one way.
const LATENCY_MAX_MS: u64 = 150;
/// Records take so long at most, to either agent and to those of the gateways.
const NEWS_LAST: Duration = Duration::from_secs(6);
const SEEN_WITHIN: Duration = Duration::from_secs(60);
/// What has no answer by then is lost.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// Nobody notices what is lost for less.
const OUTAGE_MAX: Duration = Duration::from_millis(1_500);
/// After a failure is over, everything works again within this: 10 s until an answer is missed, a handshake that is tried
/// again after 5 s, and half a minute on the straight way, which the other side does not know of.
const RECOVERY: Duration = Duration::from_secs(45);
/// After so long without a request a tunnel is parked: three minutes, a step, the leaving, and a look.
const PARKED_AFTER: Duration = Duration::from_secs(180 + 15 + 10 + 5);
/// In so long, two rare probes are due at most, and what is around them: with keepalives there would be sixty.
const SILENT_FOR: Duration = Duration::from_secs(300);
const DATAGRAMS_OF_PROBES: usize = 30;
/// A tunnel that is used for so long is straight. Where datagrams are slower than programs ask, the two paths take turns: each
/// side follows the other, until a look finds nothing under way by the relay. On one day of a hundred that takes 20 s.
const STRAIGHT_AFTER: Duration = Duration::from_secs(60);
/// Programs ask so often while they ask.
const ASK_EVERY: Duration = Duration::from_millis(200);

const A: u8 = 12;
const B: u8 = 2;
const BOX: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 76));

fn outer(number: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(192, 0, 2, number).into(), LISTEN_PORT)
}

fn mesh_address(cluster: u8, number: u8) -> IpAddr {
    Ipv4Addr::new(100, 64, cluster, number).into()
}

fn key(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

/// Runs one seed.
///
/// # Errors
/// The law that it breaks, when and how.
pub fn explore(seed: u64, bug: Option<Bug>) -> Result<(), Broken> {
    Day::new(seed, bug).live()
}

/// Mistakes that are planted on purpose, to prove that random days find them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A session at another place than the image says goes there, also by a relay that does not know it.
    MovesSessions,
    /// Who leaves takes his session along to the relay.
    TakesSessionsToARelay,
    /// Keepalives are always sent.
    KeepsAlways,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MovesSessions, Self::TakesSessionsToARelay, Self::KeepsAlways];
}

/// Programs of one side that ask the other.
#[derive(Debug, Clone, Copy)]
struct Asking {
    by_b: bool,
    since: Instant,
    until: Instant,
}

struct Day {
    now: Instant,
    began: Instant,
    chance: Chance,
    a: Node,
    b: Node,
    gateways: Vec<Gateway>,
    nat: NatBox,
    cut_until: Instant,
    flight: BTreeMap<(Instant, u64), (SocketAddr, Datagram)>,
    datagrams: u64,
    /// Records on their way to an agent: when, whether it is b's, and what.
    news: Vec<(Instant, bool, Key, Record)>,
    /// Since when nothing fails; None: before both ends saw each other.
    calm_since: Option<Instant>,
    asking: Option<Asking>,
    next_request: u32,
    open: BTreeMap<u32, Instant>,
    /// Since when nothing that was asked in calm was answered.
    outage_since: Option<Instant>,
    asked_at: Instant,
    /// Another agent takes a tunnel that is straight as used.
    restarted_at: Instant,
    /// What the two sent each other while they were to be silent.
    words: VecDeque<Instant>,
    log: Vec<String>,
}

impl Day {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let now = Instant::now();
        let mut day = Self {
            now,
            began: now,
            chance: Chance::new(seed),
            a: Node::new("east", "a", key(A), mesh_address(1, A), now, bug),
            b: Node::new("west", "b", key(B), mesh_address(2, B), now, bug),
            gateways: [11, 13].map(|number| Gateway::new(number, now)).into(),
            nat: NatBox::default(),
            cut_until: now,
            flight: BTreeMap::new(),
            datagrams: 0,
            news: Vec::new(),
            calm_since: None,
            asking: None,
            next_request: 0,
            open: BTreeMap::new(),
            outage_since: None,
            asked_at: now,
            restarted_at: now,
            words: VecDeque::new(),
            log: Vec::new(),
        };
        // On some days the gateways become known when the two have seen each other.
        let gateways_last = day.chance.one_in(2);
        for to_b in [false, true] {
            for (key, record) in day.records(to_b) {
                let at = day.soon();
                let is_gateway = matches!(&record, Record::Node(node) if !node.relay.is_empty());
                let at = match (gateways_last, is_gateway) {
                    (true, true) => at.max(now + NEWS_LAST / 3),
                    (true, false) => now + at.saturating_duration_since(now) / 6,
                    (false, _) => at,
                };
                day.news.push((at, to_b, key, record));
            }
        }
        for at in 0..day.gateways.len() {
            day.gateways[at].allows_at = day.soon();
        }
        day
    }

    fn soon(&mut self) -> Instant {
        self.began + Duration::from_millis(self.chance.below(NEWS_LAST.as_millis() as u64))
    }

    /// What an agent of either cluster follows.
    fn records(&self, to_b: bool) -> Vec<(Key, Record)> {
        let mut all: Vec<(Key, Record)> = Vec::new();
        let names = [("east", 1), ("west", 2)];
        for (name, id) in names {
            let cidr = |text: String| vec![text.parse().expect("a prefix")];
            let record = Cluster {
                uuid: ClusterUuid([id; 16]),
                version: String::new(),
                capabilities: vec![],
                pod_cidrs: cidr(format!("10.{id}.0.0/16")),
                service_cidrs: vec![],
                mesh_cidrs: cidr(format!("100.64.{id}.0/24")),
                encrypts_inside: false,
            };
            all.push((MeshKey::Cluster.of(&name.parse().expect("a name")), record.into()));
        }
        let mut node = |cluster: u8, name: &str, number: u8, relay: Option<&Gateway>| {
            let of = names[usize::from(cluster) - 1].0.parse().expect("a name");
            let record = NodeRecord {
                mesh_addresses: vec![mesh_address(cluster, number)],
                prefixes: vec![],
                endpoints: if number == B { vec![] } else { vec![outer(number).ip()] },
                zone: String::new(),
                relay: relay.map(Gateway::relay_at).into_iter().collect(),
            };
            let tunnel = TunnelKey {
                public_key: key(number),
                port: LISTEN_PORT,
                clock_epoch: 0,
                relay_key: relay.map(|relay| relay.device.key),
                on_demand: true,
            };
            all.push((MeshKey::Node(name.parse().expect("a name")).of(&of), record.into()));
            all.push((MeshKey::Key(name.parse().expect("a name")).of(&of), tunnel.into()));
        };
        node(1, "a", A, None);
        node(2, "b", B, None);
        for gateway in &self.gateways {
            node(1, &format!("g{}", gateway.number), gateway.number, Some(gateway));
        }
        let (peer, id) = names[usize::from(!to_b)];
        let state = PeerState {
            uuid: ClusterUuid([id; 16]),
            phase: Phase::Active,
            freshness: Freshness::Fresh,
            stale_policy: StalePolicy::Demote,
            drop_after_ms: 0,
            prefixes: vec![format!("100.64.{id}.0/24").parse().expect("a prefix")],
            nonce: None,
            dropped: false,
            through: None,
            relay: vec![],
        };
        all.push((LocalKey::Peer(peer.parse().expect("a name")).into(), state.into()));
        all
    }

    fn live(&mut self) -> Result<(), Broken> {
        while self.calm_since.is_none() {
            self.tick()?;
            let is_green = self.b.is_green("east", "a") && self.a.is_green("west", "b");
            if self.news.is_empty() && is_green {
                self.calm_since = Some(self.now);
            } else if self.now > self.began + NEWS_LAST + SEEN_WITHIN {
                return Err(self.broken("who can be dialled is seen", "not within a minute".to_owned()));
            }
        }
        self.say("both see each other".to_owned());
        // As after `meshctl connect`: somebody asks at once.
        for number in 0..6 {
            self.ask(number == 0)?;
            self.rest()?;
        }
        Ok(())
    }

    /// One side asks for a while, and things may fail.
    fn ask(&mut self, at_once: bool) -> Result<(), Broken> {
        let by_b = self.chance.one_in(2);
        let seconds = 5 + self.chance.below(60);
        self.say(format!("{} asks for {seconds} s", if by_b { "b" } else { "a" }));
        self.asking = Some(Asking { by_b, since: self.now, until: self.now + Duration::from_secs(seconds) });
        if !at_once && self.chance.one_in(2) {
            self.fail();
        }
        while let Some(asking) = self.asking {
            self.tick()?;
            if self.now >= asking.until {
                self.asking = None;
            }
        }
        Ok(())
    }

    fn rest(&mut self) -> Result<(), Broken> {
        let until =
            self.now + Duration::from_secs(*self.chance.pick(&[3, 20, 100, 185, 195, 205, 212, 230, 600]));
        let mut fails_at =
            self.chance.one_in(3).then(|| self.now + Duration::from_secs(self.chance.below(200)));
        while self.now < until {
            if fails_at.take_if(|at| self.now >= *at).is_some() {
                self.fail();
            }
            self.tick()?;
        }
        Ok(())
    }

    /// Something fails for a while.
    fn fail(&mut self) {
        let (gateway, seconds) = (self.chance.below(2) as usize, 1 + self.chance.below(40));
        let until = self.now + Duration::from_secs(seconds);
        let by_b = self.chance.one_in(2);
        match self.chance.below(6) {
            0 => {
                self.say(format!("relay {gateway} is late for {seconds} s"));
                self.gateways[gateway].late_until = until;
            }
            1 => {
                self.say(format!("gateway {gateway} is dead for {seconds} s"));
                self.gateways[gateway].dead_until = until;
            }
            2 => {
                self.say(format!("b's link is cut for {seconds} s"));
                self.cut_until = until;
            }
            3 => {
                self.say("the box forgets".to_owned());
                self.nat.mappings.clear();
            }
            // These must not matter.
            4 => {
                self.say(format!("an agent is late (b's: {by_b})"));
                self.side(by_b).busy_until = self.now + Duration::from_secs(1 + self.chance.below(3));
                return;
            }
            _ => {
                self.say(format!("an agent starts again (b's: {by_b})"));
                let now = self.now;
                self.side(by_b).restart_agent(now);
                self.restarted_at = now;
                return;
            }
        }
        self.calm_since = self.calm_since.map(|at| at.max(until + RECOVERY));
    }

    fn side(&mut self, b: bool) -> &mut Node {
        if b { &mut self.b } else { &mut self.a }
    }

    fn tick(&mut self) -> Result<(), Broken> {
        self.now += TICK;
        let now = self.now;
        while let Some(at) = self.news.iter().position(|(at, ..)| *at <= now) {
            let (_, to_b, key, record) = self.news.swap_remove(at);
            self.side(to_b).hear(now, &key, &record);
        }
        while let Some(next) = self.flight.first_entry().filter(|next| next.key().0 <= now) {
            let (from, (to, datagram)) = next.remove();
            self.arrive(from, to, &datagram);
        }
        for b in [false, true] {
            let out = self.side(b).step(now);
            self.post_from(b, out);
        }
        for at in 0..self.gateways.len() {
            let gateway = &mut self.gateways[at];
            if gateway.device.peers.is_empty() && now >= gateway.allows_at {
                gateway.allow();
            }
            let (own, relay_at) = (outer(gateway.number), gateway.relay_at());
            let (mut tunnels, mut relayed) = (gateway.tunnels.tick(now), gateway.device.tick(now));
            while now >= gateway.late_until
                && let Some((from, datagram)) = gateway.waiting.pop_front()
            {
                relayed.extend(gateway.pass(now, from, &datagram));
            }
            if now < gateway.dead_until {
                tunnels.clear();
                relayed.clear();
            }
            tunnels.into_iter().for_each(|it| self.post(own, it));
            relayed.into_iter().for_each(|it| self.post(relay_at, it));
        }
        self.ask_now();
        self.judge()
    }

    fn ask_now(&mut self) {
        let Some(asking) = self.asking else { return };
        if self.now.saturating_duration_since(self.asked_at) < ASK_EVERY {
            return;
        }
        self.asked_at = self.now;
        self.next_request += 1;
        let (id, now) = (self.next_request, self.now);
        let (from, to) = (self.a.address, self.b.address);
        let (from, to) = if asking.by_b { (to, from) } else { (from, to) };
        self.open.insert(id, now);
        let out = self.side(asking.by_b).send(now, &Packet { from, to, says: Says::Request, id });
        self.post_from(asking.by_b, out);
    }

    fn judge(&mut self) -> Result<(), Broken> {
        let now = self.now;
        let lost: Vec<_> = self
            .open
            .iter()
            .filter(|(_, at)| now.saturating_duration_since(**at) >= LOST_AFTER)
            .map(|(id, at)| (*id, *at))
            .collect();
        for (id, at) in lost {
            self.open.remove(&id);
            if self.calm_since.is_none_or(|calm| at < calm) {
                continue;
            }
            let since = *self.outage_since.get_or_insert(at);
            if at.saturating_duration_since(since) >= OUTAGE_MAX {
                return Err(self.broken(
                    "what is asked is answered",
                    format!("nothing since {} ms", since.saturating_duration_since(self.began).as_millis()),
                ));
            }
        }
        if let Some(asking) = self.asking
            && self.calm_since.is_some_and(|at| at <= asking.since)
            && now.saturating_duration_since(asking.since) >= STRAIGHT_AFTER
        {
            let straight = self.b.wireguard.peers[&key(A)].endpoint == Some(outer(A))
                && self.a.wireguard.peers[&key(B)].endpoint.is_some_and(|at| at.ip() == BOX);
            if !straight {
                return Err(self.broken("what is used goes straight", String::new()));
            }
        }
        let used_at = self.asked_at.max(self.restarted_at);
        let silent_since = self.calm_since.map(|calm| calm.max(used_at) + PARKED_AFTER);
        match silent_since {
            Some(since) if now >= since => {
                let recent = |at: &Instant| *at >= since && now.saturating_duration_since(*at) < SILENT_FOR;
                self.words.retain(recent);
                if self.words.len() > DATAGRAMS_OF_PROBES {
                    let words = self.words.len();
                    return Err(self.broken(
                        "what is not used is silent",
                        format!("{words} datagrams within {} s", SILENT_FOR.as_secs()),
                    ));
                }
            }
            Some(_) | None => self.words.clear(),
        }
        Ok(())
    }

    fn post_from(&mut self, b: bool, out: Vec<Datagram>) {
        let now = self.now;
        let relays: BTreeSet<_> = self.gateways.iter().map(Gateway::relay_at).collect();
        for (to, datagram) in out {
            // Of what goes to a relay, only what is for the other node; its keepalives are the proof's.
            let other = if b { key(A) } else { key(B) };
            let peer = self.side(b).wireguard.peers.get(&other).and_then(|peer| peer.endpoint);
            let is_proof = relays.contains(&to) && !self.is_for_pair(b, &datagram);
            if peer == Some(to) && !is_proof {
                self.words.push_back(now);
            }
            if !b {
                self.post(outer(A), (to, datagram));
            } else if now >= self.cut_until {
                let from = self.nat.out(now, to);
                self.post(from, (to, datagram));
            }
        }
    }

    /// What a side sends to a relay is for the other node, or for the relay's own device: its indices tell.
    fn is_for_pair(&self, b: bool, datagram: &[u8]) -> bool {
        let (own, other) = if b { (&self.b, &self.a) } else { (&self.a, &self.b) };
        own.wireguard.is_for(&other.wireguard.key, datagram)
    }

    fn post(&mut self, from: SocketAddr, datagram: Datagram) {
        self.datagrams += 1;
        let at = self.now + Duration::from_millis(1 + self.chance.below(LATENCY_MAX_MS));
        self.flight.insert((at, self.datagrams), (from, datagram));
    }

    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let now = self.now;
        let to_b = to.ip() == BOX;
        if to_b && (now < self.cut_until || !self.nat.lets_in(now, from, to.port())) {
            return;
        }
        if to_b || to == outer(A) {
            let (out, reply) = self.side(to_b).take(now, from, datagram);
            self.post_from(to_b, out);
            if let Some(reply) = reply
                && self.open.remove(&reply.id).is_some()
            {
                self.outage_since = None;
            }
            return;
        }
        let Some(at) = self.gateways.iter().position(|it| outer(it.number).ip() == to.ip()) else { return };
        let gateway = &mut self.gateways[at];
        if now < gateway.dead_until {
            return;
        }
        let out = if to != gateway.relay_at() {
            let (mut out, inside) = gateway.tunnels.take(now, from, datagram);
            // Only probes come here: the kernel answers.
            if let Some((peer, bytes)) = inside {
                out.extend(gateway.tunnels.send(now, &peer, &agent::answered(&bytes)));
            }
            out
        } else if now < gateway.late_until {
            gateway.waiting.push_back((from, datagram.to_vec()));
            Vec::new()
        } else {
            gateway.pass(now, from, datagram)
        };
        out.into_iter().for_each(|it| self.post(to, it));
    }

    fn say(&mut self, what: String) {
        let at = self.now.saturating_duration_since(self.began).as_millis();
        self.log.push(format!("{at:>9} ms  {what}; {}; {}", self.a.show(), self.b.show()));
    }

    fn broken(&mut self, law: &'static str, how: String) -> Broken {
        self.say(how);
        Broken { law, how: format!("\n{}", self.log.join("\n")) }
    }
}
