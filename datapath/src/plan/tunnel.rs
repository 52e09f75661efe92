//! Peers and what they own.
//!
//! Prefixes of different peers may nest, and WireGuard gives an address to the longest. So what is added comes longest
//! first (a shorter one would own addresses that its longer neighbour is about to get) and what is removed shortest
//! first (the other way about). A prefix that changes hands is added to its new owner, which takes it from the old one
//! in the same moment; it is never removed first.

use super::{Stage, Steps};
use crate::{
    image::TunnelImage,
    observe::{Observed, PeerObserved, TunnelObserved},
    step::{Step, TunnelStep},
};
use api::bytes::PublicKey;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// Mark of WireGuard's own datagrams, which our routing rules leave alone.
///
/// It shares no bit with what others act on: kube-proxy masquerades 0x4000 and drops 0x8000, the CNI's portmap
/// masquerades 0x2000, Cilium reads 0x0f00, the AWS CNI 0x80, and Calico and Tailscale the upper half. (A mark with
/// 0x4000 had kube-proxy's rules give every datagram a random source port.)
pub const FWMARK: u32 = 0x106d;

/// A tunnel without traffic still shows within three of these that it is alive: a silent one is red after 15 s.
pub const KEEPALIVE_S: u16 = 5;

pub(super) fn plan(desired: &TunnelImage, observed: &Observed, steps: &mut Steps) {
    let (Some(there), Some(listen_port)) = (&observed.tunnel, desired.listen_port) else { return };
    let set = there.listen_port == Some(listen_port)
        && there.fwmark == FWMARK
        && there.public_key.is_some()
        && there.public_key == there.own_key;
    if !set {
        steps.add(Stage::Tunnel, Step::Tunnel(TunnelStep::SetDevice { listen_port }));
    }
    peers(desired, there, steps);
    prefixes(desired, there, steps);
    for peer in there.peers.keys().filter(|peer| !desired.peers.contains_key(peer)) {
        steps.sweep(Stage::UnTunnel, Step::Tunnel(TunnelStep::RemovePeer { peer: *peer }));
    }
}

fn peers(desired: &TunnelImage, there: &TunnelObserved, steps: &mut Steps) {
    let mut add = |step| steps.add(Stage::Tunnel, Step::Tunnel(step));
    for (peer, wanted) in &desired.peers {
        let Some(known) = there.peers.get(peer) else {
            add(TunnelStep::AddPeer { peer: *peer, endpoint: wanted.endpoint });
            continue;
        };
        if let Some(endpoint) = wanted.endpoint.filter(|wanted| is_elsewhere(*wanted, known)) {
            add(TunnelStep::SetEndpoint { peer: *peer, endpoint });
        }
        if known.keepalive_s != KEEPALIVE_S {
            add(TunnelStep::SetKeepalive { peer: *peer });
        }
    }
}

/// A learnt endpoint is where the peer really is: it stays while its session is fresh, unless what is wanted has itself
/// changed since it was asked for.
fn is_elsewhere(wanted: SocketAddr, known: &PeerObserved) -> bool {
    let was_asked_for = known.asked_endpoint.is_none_or(|asked| asked == wanted);
    let is_learnt = known.is_fresh && known.endpoint.is_some() && was_asked_for;
    known.endpoint != Some(wanted) && !is_learnt
}

fn prefixes(desired: &TunnelImage, there: &TunnelObserved, steps: &mut Steps) {
    let wanted = owners(desired.peers.iter().map(|(peer, wanted)| (peer, &wanted.allowed)));
    let held = owners(there.peers.iter().map(|(peer, held)| (peer, &held.allowed)));

    let mut gained: Vec<_> = wanted.iter().filter(|(prefix, peer)| held.get(prefix) != Some(peer)).collect();
    gained.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
    for (prefix, peer) in gained {
        steps.add(Stage::Tunnel, Step::Tunnel(TunnelStep::AddAllowed { peer: *peer, prefix: *prefix }));
    }

    let mut lost: Vec<_> = held.iter().filter(|(prefix, _)| !wanted.contains_key(prefix)).collect();
    lost.sort_by_key(|(prefix, _)| prefix.prefix_len());
    for (prefix, peer) in lost {
        steps
            .sweep(Stage::UnTunnel, Step::Tunnel(TunnelStep::RemoveAllowed { peer: *peer, prefix: *prefix }));
    }
}

fn owners<'a>(
    peers: impl Iterator<Item = (&'a PublicKey, &'a BTreeSet<IpNet>)>,
) -> BTreeMap<IpNet, PublicKey> {
    peers.flat_map(|(peer, prefixes)| prefixes.iter().map(|prefix| (*prefix, *peer))).collect()
}
