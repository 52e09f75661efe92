//! What the device is told to be: a plain value, changed by [`Set`] requests and compared by [`steps`].
//!
//! Two invariants hold after every change: an allowed-ip belongs to exactly one peer, and no peer has the
//! device's own key.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use ipnet::IpNet;

use crate::{
    key::{PublicKey, Secret},
    uapi::request::{AllowedIp, PeerSet, Set},
};

#[cfg(test)]
mod tests;

/// The whole configuration of one WireGuard device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Our private key; without one the device does not run.
    pub private_key: Option<Secret>,
    /// UDP port; without one the device does not run. 0 asks for any free port.
    pub listen_port: Option<u16>,
    /// Mark of our own UDP packets (`SO_MARK`); 0 is none.
    pub fwmark: u32,
    peers: BTreeMap<PublicKey, Peer>,
    /// Whose each allowed-ip is: the same facts as in `peers`, by address.
    owners: BTreeMap<IpNet, PublicKey>,
}

/// What we know of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Mixed into the next handshake.
    pub preshared_key: Option<Secret>,
    /// Where to send to; configured, or learnt from the peer's last authenticated packet.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 is none.
    pub keepalive_s: u16,
    /// Inner addresses of this peer, and of nobody else.
    pub allowed_ips: BTreeSet<IpNet>,
}

/// One change that turns the running device into the wanted one. The values are in the wanted [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key or port went missing: stop, keep the TUN.
    Stop,
    /// The private key is new: build the device again from the configuration, over the same TUN.
    Start,
    /// Listen elsewhere.
    Port,
    /// Mark our UDP packets otherwise.
    Fwmark,
    /// Forget a peer and its session.
    Remove(PublicKey),
    /// Change a peer in place: its session goes on.
    Modify(PublicKey, PeerChange),
    /// A peer that was not there.
    Add(PublicKey),
}

/// Which fields of a peer differ. The values are in the wanted [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerChange {
    /// The pre-shared key differs.
    pub preshared_key: bool,
    /// The endpoint differs.
    pub endpoint: bool,
    /// The keepalive interval differs.
    pub keepalive: bool,
    /// How the allowed-ips differ.
    pub allowed_ips: AllowedIpsChange,
}

/// How a peer's allowed-ips differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedIpsChange {
    /// Not at all.
    Same,
    /// These came in addition.
    Added(Vec<IpNet>),
    /// Some came and some left: the peer's list is written anew, as the library has no removal of one address.
    Exchanged,
    /// Some left: the same.
    Removed,
}

impl Config {
    /// Whether there is enough of it to run a device.
    pub fn runnable(&self) -> Option<(&Secret, u16)> {
        self.private_key.as_ref().zip(self.listen_port)
    }

    /// The peers, ordered by key.
    pub fn peers(&self) -> &BTreeMap<PublicKey, Peer> {
        &self.peers
    }

    /// Takes note of where a peer was last heard. True when that is news.
    pub fn learn_endpoint(&mut self, peer: &PublicKey, endpoint: SocketAddr) -> bool {
        match self.peers.get_mut(peer) {
            Some(known) => known.endpoint.replace(endpoint) != Some(endpoint),
            None => false,
        }
    }

    /// This configuration with a request applied to it; all of it, as parsing left nothing that can fail.
    pub fn with(&self, set: Set) -> Self {
        let mut next = self.clone();
        if let Some(key) = set.private_key {
            next.private_key = (!key.is_zero()).then_some(key);
        }
        if let Some(port) = set.listen_port {
            next.listen_port = Some(port);
        }
        if let Some(fwmark) = set.fwmark {
            next.fwmark = fwmark;
        }
        if set.replace_peers {
            next.peers.clear();
            next.owners.clear();
        }
        for peer in set.peers {
            next.set_peer(peer);
        }
        // Linux and wireguard-go ignore a peer with the device's own key, and so do we.
        if let Some(own) = next.private_key.as_ref().map(Secret::public) {
            next.remove_peer(&own);
        }
        next
    }

    fn set_peer(&mut self, set: PeerSet) {
        let key = set.public_key;
        if set.remove {
            self.remove_peer(&key);
            return;
        }
        if set.update_only && !self.peers.contains_key(&key) {
            return;
        }
        let peer = self.peers.entry(key).or_default();
        if let Some(preshared_key) = set.preshared_key {
            peer.preshared_key = (!preshared_key.is_zero()).then_some(preshared_key);
        }
        if let Some(endpoint) = set.endpoint {
            peer.endpoint = Some(endpoint);
        }
        if let Some(keepalive_s) = set.keepalive_s {
            peer.keepalive_s = keepalive_s;
        }
        if set.replace_allowed_ips {
            for net in std::mem::take(&mut peer.allowed_ips) {
                self.owners.remove(&net);
            }
        }
        for change in set.allowed_ips {
            match change {
                AllowedIp::Add(net) => self.give(net, key),
                AllowedIp::Remove(net) => self.take_from(net, &key),
            }
        }
    }

    /// Gives an allowed-ip to a peer; whoever had it loses it at once.
    fn give(&mut self, net: IpNet, to: PublicKey) {
        if let Some(before) = self.owners.insert(net, to)
            && let Some(peer) = self.peers.get_mut(&before)
        {
            peer.allowed_ips.remove(&net);
        }
        self.peers.entry(to).or_default().allowed_ips.insert(net);
    }

    /// Removes an allowed-ip if it is this peer's: a late removal does not touch the new owner.
    fn take_from(&mut self, net: IpNet, owner: &PublicKey) {
        if self.owners.get(&net) == Some(owner) {
            self.owners.remove(&net);
            self.peers.entry(*owner).or_default().allowed_ips.remove(&net);
        }
    }

    fn remove_peer(&mut self, key: &PublicKey) {
        for net in self.peers.remove(key).unwrap_or_default().allowed_ips {
            self.owners.remove(&net);
        }
    }
}

/// The steps from one configuration to another; none when they are equal.
///
/// Each is safe by itself: an address that moves is added to its new owner first, and no peer that is to lose one is
/// touched before, as touching a peer takes all its addresses back. Only peers that exchange addresses depend on each
/// other, and [`pieces`] keeps them together.
pub fn steps(from: &Config, to: &Config) -> Vec<Step> {
    if to.runnable().is_none() {
        return if from.runnable().is_some() { vec![Step::Stop] } else { vec![] };
    }
    if from.listen_port.is_none() || from.private_key != to.private_key {
        return vec![Step::Start];
    }
    let mut steps = vec![];
    if from.listen_port != to.listen_port {
        steps.push(Step::Port);
    }
    if from.fwmark != to.fwmark {
        steps.push(Step::Fwmark);
    }
    for (key, wanted) in &to.peers {
        match from.peers.get(key) {
            Some(known) => {
                steps.extend(peer_change(known, wanted).map(|change| Step::Modify(*key, change)));
            }
            None => steps.push(Step::Add(*key)),
        }
    }
    steps.extend(from.peers.keys().filter(|key| !to.peers.contains_key(key)).map(|key| Step::Remove(*key)));
    steps.sort_by_key(Step::turn);
    steps
}

/// The steps in the smallest pieces that are whole: a packet may come between two of them.
pub fn pieces(steps: &[Step]) -> Vec<&[Step]> {
    steps.chunk_by(|a, b| a.turn() == Turn::Exchanging && b.turn() == Turn::Exchanging).collect()
}

/// When a step is due.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Device,
    Gaining,
    Exchanging,
    Losing,
    Leaving,
}

impl Step {
    fn turn(&self) -> Turn {
        match self {
            Self::Stop | Self::Start | Self::Port | Self::Fwmark => Turn::Device,
            Self::Add(_) => Turn::Gaining,
            Self::Modify(_, change) => match change.allowed_ips {
                AllowedIpsChange::Same | AllowedIpsChange::Added(_) => Turn::Gaining,
                AllowedIpsChange::Exchanged => Turn::Exchanging,
                AllowedIpsChange::Removed => Turn::Losing,
            },
            Self::Remove(_) => Turn::Leaving,
        }
    }
}

fn peer_change(from: &Peer, to: &Peer) -> Option<PeerChange> {
    if from == to {
        return None;
    }
    let allowed_ips = if from.allowed_ips == to.allowed_ips {
        AllowedIpsChange::Same
    } else if from.allowed_ips.is_subset(&to.allowed_ips) {
        AllowedIpsChange::Added(to.allowed_ips.difference(&from.allowed_ips).copied().collect())
    } else if to.allowed_ips.is_subset(&from.allowed_ips) {
        AllowedIpsChange::Removed
    } else {
        AllowedIpsChange::Exchanged
    };
    Some(PeerChange {
        preshared_key: from.preshared_key != to.preshared_key,
        endpoint: from.endpoint != to.endpoint,
        keepalive: from.keepalive_s != to.keepalive_s,
        allowed_ips,
    })
}
