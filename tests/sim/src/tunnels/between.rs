//! What is between the two nodes: the NAT box of one, and the gateways of the other.

use super::{
    A, B, BOX, key, outer,
    wireguard::{Datagram, Peer, WireGuard},
};
use api::bytes::PublicKey;
use mesh_node_agent::compose::LISTEN_PORT;
use mesh_tunnel::{
    key::PublicKey as RelayKey,
    relay::{Pair, Relay, Verdict},
};
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// A box forgets what was not used for so long. (nf_conntrack_udp_timeout)
const MAPPING_LASTS: Duration = Duration::from_secs(30);

fn relay_key(of: &PublicKey) -> RelayKey {
    let hex: String = of.0.iter().map(|byte| format!("{byte:02x}")).collect();
    RelayKey::from_hex(&hex).expect("64 digits")
}

/// A box that gives each destination a port of its own, and lets nobody else in.
#[derive(Debug, Default)]
pub struct NatBox {
    /// By where they lead.
    pub mappings: BTreeMap<SocketAddr, (u16, Instant)>,
    next_port: u16,
}

impl NatBox {
    /// Where what goes there comes from.
    pub fn out(&mut self, now: Instant, to: SocketAddr) -> SocketAddr {
        let lasts = |at: Instant| now.saturating_duration_since(at) < MAPPING_LASTS;
        let known = self.mappings.get(&to).filter(|(_, at)| lasts(*at)).map(|(port, _)| *port);
        let port = known.unwrap_or_else(|| {
            self.next_port += 1;
            20_000 + self.next_port
        });
        self.mappings.insert(to, (port, now));
        SocketAddr::new(BOX, port)
    }

    /// Whether what comes from there to a port gets in.
    pub fn lets_in(&mut self, now: Instant, from: SocketAddr, port: u16) -> bool {
        let Some((_, at)) = self
            .mappings
            .get_mut(&from)
            .filter(|(own, at)| *own == port && now.saturating_duration_since(*at) < MAPPING_LASTS)
        else {
            return false;
        };
        *at = now;
        true
    }
}

/// A node that offers a relay: its own tunnels, which answer, and the relay with its device.
#[derive(Debug)]
pub struct Gateway {
    /// Of its addresses and keys.
    pub number: u8,
    /// Its node's.
    pub tunnels: WireGuard,
    relay: Relay,
    /// The relay's, by which it knows who is where.
    pub device: WireGuard,
    /// When its agent knows the pair.
    pub allows_at: Instant,
    /// Until when what comes to the relay waits, and what does.
    pub late_until: Instant,
    /// From whom.
    pub waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Until when nothing comes and goes.
    pub dead_until: Instant,
}

impl Gateway {
    /// One whose agent does not know the pair yet.
    pub fn new(number: u8, now: Instant) -> Self {
        let own = key(number + 100);
        Self {
            number,
            tunnels: WireGuard::new(key(number)),
            relay: Relay::new(&relay_key(&own), u64::MAX),
            device: WireGuard::new(own),
            allows_at: now,
            late_until: now,
            waiting: VecDeque::new(),
            dead_until: now,
        }
    }

    /// Where its relay is.
    pub fn relay_at(&self) -> SocketAddr {
        SocketAddr::new(outer(self.number).ip(), LISTEN_PORT + 1)
    }

    /// Lets the pair talk.
    pub fn allow(&mut self) {
        let pair = Pair::new(relay_key(&key(A)), relay_key(&key(B))).expect("two keys");
        self.relay.allow(&[pair].into());
        for party in [A, B] {
            self.device.peers.insert(key(party), Peer::new(None, 0));
        }
        self.tunnels.peers.insert(key(B), Peer::new(None, 5));
        self.tunnels.peers.insert(key(A), Peer::new(Some(outer(A)), 5));
    }

    /// What the relay sends when this comes.
    pub fn pass(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Vec<Datagram> {
        match self.relay.take(now, from, datagram) {
            Verdict::To(at) => vec![(at, datagram.to_vec())],
            Verdict::Refused(_) => Vec::new(),
            Verdict::Ours => {
                let (out, _) = self.device.take(now, from, datagram);
                for (party, peer) in &self.device.peers {
                    if let Some(at) = peer.endpoint.filter(|_| peer.is_fresh(now)) {
                        self.relay.locate(&relay_key(party), at);
                    }
                }
                out
            }
        }
    }
}
