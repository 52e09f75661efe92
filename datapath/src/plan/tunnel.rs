//! Peers and what they own.
//!
//! Prefixes of different peers may nest, and WireGuard gives an address to the longest. So what is added comes longest
//! first (a shorter one would own addresses that its longer neighbour is about to get) and what is removed shortest
//! first (the other way about). A prefix that changes hands is added to its new owner, which takes it from the old one
//! in the same moment; it is never removed first. When two peers claim one prefix, the lower key has it.
//!
//! A new peer brings its prefixes along and one that goes takes them with it, but for those that cover a neighbour's:
//! these have steps of their own, for the order. `mesh-tunnel` looks at every prefix of the device when a peer that is
//! there changes, and at none when a peer comes: 20,000 prefixes, one by one, took minutes.

use super::{Stage, Steps};
use crate::{
    image::{Elsewhere, TunnelImage, Upkeep},
    observe::{Observed, PeerObserved, TunnelObserved},
    step::{Step, TunnelStep},
};
use api::bytes::PublicKey;
use ipnet::IpNet;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Bound::{Excluded, Unbounded},
};

/// Mark of WireGuard's own datagrams, which our routing rules leave alone.
///
/// It shares no bit with what others act on: kube-proxy masquerades 0x4000 and drops 0x8000, the CNI's portmap
/// masquerades 0x2000, Cilium reads 0x0f00, the AWS CNI 0x80, and Calico and Tailscale the upper half. (A mark with
/// 0x4000 had kube-proxy's rules give every datagram a random source port.)
pub const FWMARK: u32 = 0x106d;

pub(super) fn plan(desired: &TunnelImage, observed: &Observed, steps: &mut Steps) {
    let (Some(there), Some(listen_port)) = (&observed.tunnel, desired.listen_port) else { return };
    let set = there.listen_port == Some(listen_port)
        && there.fwmark == FWMARK
        && there.public_key.is_some()
        && there.public_key == there.own_key;
    if !set {
        steps.add(Stage::Tunnel, Step::Tunnel(TunnelStep::SetDevice { listen_port }));
    }
    let wanted = Owners::of(desired.peers.iter().map(|(peer, wanted)| (peer, &wanted.allowed)));
    let held = Owners::of(there.peers.iter().map(|(peer, held)| (peer, &held.allowed)));
    renew(desired, there, steps);
    change(desired, there, steps);
    gain(desired, there, &wanted.unlike(&held), steps);
    lose(desired, there, &held.without(&wanted), steps);
}

/// Peers whose clock went back since they were made here, and those that begin a new session at another place. They keep what
/// they have, so that renewing one changes nothing for anybody else; what they gain and lose are steps of their own. A smaller
/// epoch is a record from before the last one.
fn renew(desired: &TunnelImage, there: &TunnelObserved, steps: &mut Steps) {
    for (peer, wanted) in &desired.peers {
        let Some(known) = there.peers.get(peer) else { continue };
        let moved = wanted.endpoint.filter(|at| begins_anew(*at, wanted.upkeep, known));
        if moved.is_none() && known.clock_epoch >= wanted.clock_epoch {
            continue;
        }
        let renewal = TunnelStep::RenewPeer {
            peer: *peer,
            endpoint: moved.or(known.endpoint).or(wanted.endpoint),
            keepalive_s: wanted.upkeep.keepalive_s(),
            allowed: known.allowed.clone(),
            clock_epoch: known.clock_epoch.max(wanted.clock_epoch),
        };
        steps.add(Stage::Tunnel, Step::Tunnel(renewal));
    }
}

/// Peers that were there before and stay.
fn change(desired: &TunnelImage, there: &TunnelObserved, steps: &mut Steps) {
    let mut add = |step| steps.add(Stage::Tunnel, Step::Tunnel(step));
    for (peer, wanted) in &desired.peers {
        let Some(known) = there.peers.get(peer) else { continue };
        if let Some(endpoint) = wanted.endpoint.filter(|at| is_dialled_anew(*at, wanted.upkeep, known)) {
            add(TunnelStep::SetEndpoint { peer: *peer, endpoint });
        }
        let keepalive_s = wanted.upkeep.keepalive_s();
        if known.keepalive_s != keepalive_s {
            add(TunnelStep::SetKeepalive { peer: *peer, keepalive_s });
        }
    }
}

/// A learnt endpoint is where the peer really is: it stays while its session is fresh, unless what is wanted has itself
/// changed since it was asked for, or the image says what becomes of it.
fn is_dialled_anew(wanted: SocketAddr, upkeep: Upkeep, known: &PeerObserved) -> bool {
    let is_fresh = known.is_fresh && known.endpoint.is_some();
    let stays = match upkeep {
        Upkeep::Steady => is_fresh && known.asked_endpoint.is_none_or(|asked| asked == wanted),
        Upkeep::OnDemand { elsewhere, .. } => is_fresh && elsewhere == Elsewhere::Stays,
    };
    known.endpoint != Some(wanted) && !stays
}

/// Also where no session is known: its handshake may be under way. (That it is dialled there, too, is remembered as what was asked
/// for.)
fn begins_anew(wanted: SocketAddr, upkeep: Upkeep, known: &PeerObserved) -> bool {
    let begins = matches!(upkeep, Upkeep::OnDemand { elsewhere: Elsewhere::BeginsAnew, .. });
    begins && known.endpoint != Some(wanted)
}

/// New peers with what they bring along, then every other prefix that is gained, longest first.
fn gain(desired: &TunnelImage, there: &TunnelObserved, gained: &Owners, steps: &mut Steps) {
    let mut add = |step| steps.add(Stage::Tunnel, Step::Tunnel(step));
    let is_new = |peer: &PublicKey| !there.peers.contains_key(peer);
    let (mut brought, mut single) = gained.divide(is_new);
    for (peer, new) in desired.peers.iter().filter(|(peer, _)| is_new(peer)) {
        let allowed = brought.remove(peer).unwrap_or_default();
        add(TunnelStep::AddPeer {
            peer: *peer,
            endpoint: new.endpoint,
            keepalive_s: new.upkeep.keepalive_s(),
            allowed,
            clock_epoch: new.clock_epoch,
        });
    }
    single.sort_by_key(|(prefix, _)| Reverse(prefix.prefix_len()));
    for (prefix, peer) in single {
        add(TunnelStep::AddAllowed { peer, prefix });
    }
}

/// Every prefix that is lost, shortest first, then the peers that go, with what they take along.
fn lose(desired: &TunnelImage, there: &TunnelObserved, lost: &Owners, steps: &mut Steps) {
    let mut sweep = |step| steps.sweep(Stage::UnTunnel, Step::Tunnel(step));
    let goes = |peer: &PublicKey| !desired.peers.contains_key(peer);
    let (_, mut single) = lost.divide(goes);
    single.sort_by_key(|(prefix, _)| prefix.prefix_len());
    for (prefix, peer) in single {
        sweep(TunnelStep::RemoveAllowed { peer, prefix });
    }
    for peer in there.peers.keys().filter(|peer| goes(peer)) {
        sweep(TunnelStep::RemovePeer { peer: *peer });
    }
}

/// The prefixes of each peer.
type ByPeer = BTreeMap<PublicKey, BTreeSet<IpNet>>;

/// Whose each prefix is.
struct Owners(BTreeMap<IpNet, PublicKey>);

impl Owners {
    fn of<'a>(peers: impl Iterator<Item = (&'a PublicKey, &'a BTreeSet<IpNet>)>) -> Self {
        let mut owners = BTreeMap::new();
        for (peer, prefixes) in peers {
            for prefix in prefixes {
                // Of two claims the lower key's, always, so that two plans are equal.
                owners.entry(*prefix).or_insert(*peer);
            }
        }
        Self(owners)
    }

    /// What `others` gives to somebody else, or to nobody.
    fn unlike(&self, others: &Self) -> Self {
        self.filter(|prefix, peer| others.0.get(prefix) != Some(peer))
    }

    /// What `others` gives to nobody.
    fn without(&self, others: &Self) -> Self {
        self.filter(|prefix, _| !others.0.contains_key(prefix))
    }

    fn filter(&self, keep: impl Fn(&IpNet, &PublicKey) -> bool) -> Self {
        let kept = self.0.iter().filter(|(prefix, peer)| keep(prefix, peer));
        Self(kept.map(|(prefix, peer)| (*prefix, *peer)).collect())
    }

    /// By peer, what those peers carry with them; and one by one what needs its place in the order: it belongs to
    /// another peer, or covers another's.
    fn divide(&self, carries: impl Fn(&PublicKey) -> bool) -> (ByPeer, Vec<(IpNet, PublicKey)>) {
        let mut carried = ByPeer::new();
        let mut single = Vec::new();
        for (prefix, peer) in &self.0 {
            if carries(peer) && !self.covers_another(prefix, peer) {
                carried.entry(*peer).or_default().insert(*prefix);
            } else {
                single.push((*prefix, *peer));
            }
        }
        (carried, single)
    }

    /// Whether another peer's prefix lies within this one. In the order of prefixes, all that lie within follow at once.
    fn covers_another(&self, prefix: &IpNet, peer: &PublicKey) -> bool {
        let within =
            self.0.range((Excluded(*prefix), Unbounded)).take_while(|(other, _)| prefix.contains(*other));
        within.into_iter().any(|(_, owner)| owner != peer)
    }
}
