//! What is wanted and what is → the steps between. Pure.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use api::bytes::PublicKey;
use ipnet::IpNet;

use super::{Device, Observed, Peer, PeerObserved, Step};

/// How long a session proves that its endpoint works: WireGuard's REJECT_AFTER_TIME, after which it is dead.
pub const FRESH: Duration = Duration::from_secs(180);

/// The steps that make `observed` into `desired`; none when it is so already.
///
/// Additions come before removals: an address that moves does so by being added to its new owner, and is never
/// without one.
pub fn plan(desired: &Device, observed: &Observed) -> Vec<Step> {
    let mut steps = vec![];
    if observed.public_key != Some(desired.private_key.public())
        || observed.port != Some(desired.port)
        || observed.fwmark != desired.fwmark
    {
        steps.push(Step::SetDevice {
            private_key: desired.private_key.clone(),
            port: desired.port,
            fwmark: desired.fwmark,
        });
    }
    let owners = owners(desired);
    for (key, wanted) in &desired.peers {
        match observed.peers.get(key) {
            Some(known) => change(key, wanted, known, observed.at, &owners, &mut steps),
            None => {
                let mut peer = wanted.clone();
                peer.allowed_ips.retain(|net| owners.get(net) == Some(key));
                steps.push(Step::AddPeer { key: *key, peer });
            }
        }
    }
    for (key, known) in observed.peers.iter().filter(|(key, _)| desired.peers.contains_key(key)) {
        let unwanted = known.allowed_ips.iter().filter(|net| !owners.contains_key(net));
        steps.extend(unwanted.map(|net| Step::RemoveAllowedIp { key: *key, net: *net }));
    }
    let strangers = observed.peers.keys().filter(|key| !desired.peers.contains_key(key));
    steps.extend(strangers.map(|key| Step::RemovePeer { key: *key }));
    steps
}

/// Whose each address is to be. Two claims: the lower key has it, so that two plans are equal.
fn owners(desired: &Device) -> BTreeMap<IpNet, PublicKey> {
    let mut owners = BTreeMap::new();
    for (key, peer) in &desired.peers {
        for net in &peer.allowed_ips {
            owners.entry(*net).or_insert(*key);
        }
    }
    owners
}

fn change(
    key: &PublicKey,
    wanted: &Peer,
    known: &PeerObserved,
    at: SystemTime,
    owners: &BTreeMap<IpNet, PublicKey>,
    steps: &mut Vec<Step>,
) {
    if let Some(endpoint) = endpoint_to_set(wanted, known, at) {
        steps.push(Step::SetEndpoint { key: *key, endpoint });
    }
    if wanted.keepalive_s != known.keepalive_s {
        steps.push(Step::SetKeepalive { key: *key, keepalive_s: wanted.keepalive_s });
    }
    let missing =
        wanted.allowed_ips.difference(&known.allowed_ips).filter(|net| owners.get(net) == Some(key));
    steps.extend(missing.map(|net| Step::AddAllowedIp { key: *key, net: *net }));
}

/// A learnt endpoint is where the peer really is: it stays while its session is fresh, unless what is wanted has
/// itself changed since we last asked.
fn endpoint_to_set(wanted: &Peer, known: &PeerObserved, at: SystemTime) -> Option<SocketAddr> {
    let endpoint = wanted.endpoint.filter(|endpoint| known.endpoint != Some(*endpoint))?;
    // A handshake in the future is a clock that went back, not an old session.
    let fresh = known.last_handshake.is_some_and(|then| at.duration_since(then).unwrap_or_default() < FRESH);
    let learnt = known.endpoint.is_some() && known.asked_endpoint.is_none_or(|asked| asked == endpoint);
    (!(fresh && learnt)).then_some(endpoint)
}
