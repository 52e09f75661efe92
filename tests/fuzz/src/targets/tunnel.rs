//! What is said over the sockets of `mesh-tunnel`, and what its files hold: both are the same text.

use mesh_tunnel::{
    config::{Config, Step, pieces, steps},
    key::{KEY_BYTES, PublicKey},
    relay::{
        MBIT_PER_S, PAIRS_MAX, Pair, Relay,
        text::{self, Kept},
    },
    uapi::{reply, request::Request},
};
use std::{collections::BTreeSet, iter};

/// Each takes a copy of the configuration that the ones before it left.
const REQUESTS_MAX: usize = 8;

/// Requests to the device, one after the other, each ended by an empty line.
pub(super) fn uapi(input: &[u8]) {
    let mut config = Config::default();
    for request in requests(input).take(REQUESTS_MAX) {
        if let Ok(Request::Set(set)) = Request::parse(request) {
            let next = config.with(set);
            is_kept_whole(&next);
            is_reached(&config, &next);
            config = next;
        }
    }
}

fn requests(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(input);
    iter::from_fn(move || {
        let all = rest.take()?;
        let Some(end) = all.windows(2).position(|pair| pair == b"\n\n") else { return Some(all) };
        rest = Some(&all[end + 2..]);
        Some(&all[..end])
    })
}

fn is_kept_whole(config: &Config) {
    let file = reply::as_set(config);
    let Ok(Request::Set(set)) = Request::parse(file.as_bytes()) else { panic!("what we write, we read") };
    assert_eq!(&Config::default().with(set), config, "the file holds what was set");
    let all: Vec<_> = config.peers().values().flat_map(|peer| &peer.allowed_ips).collect();
    assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len(), "an address has one owner");
}

fn is_reached(from: &Config, to: &Config) {
    let steps = steps(from, to);
    assert_eq!(pieces(&steps).concat(), steps, "no step is lost between two pieces");
    for step in &steps {
        match step {
            Step::Add(peer) | Step::Modify(peer, _) | Step::Remove(peer) => {
                assert_ne!(from.peers().get(peer), to.peers().get(peer), "{peer} was not meant");
            }
            Step::Stop | Step::Start | Step::Port | Step::Fwmark => {}
        }
    }
    assert!(!steps.is_empty() || to.runnable().is_none() || from == to, "a change takes a step");
}

/// A request to the relay, or the file of what outlives it.
pub(super) fn relay(input: &[u8]) {
    if let Ok(text::Request::Set(pairs)) = text::Request::parse(input) {
        assert!(pairs.len() <= PAIRS_MAX, "{} pairs", pairs.len());
        let relay = relay_between(&pairs);
        assert!(relay.pairs().map(|(pair, _)| pair).eq(&pairs), "who may talk is who was named");
    }
    if let Ok(kept) = Kept::parse(input) {
        assert_eq!(Kept::parse(kept.to_text().as_bytes()).as_ref(), Ok(&kept), "what we write, we read");
        let mut relay = relay_between(&kept.pairs);
        for (party, at) in &kept.whereabouts {
            relay.locate(party, *at);
        }
        let places: Vec<_> = relay.parties().filter_map(|(_, at)| at).collect();
        assert_eq!(places.len(), places.iter().collect::<BTreeSet<_>>().len(), "a place has one party");
    }
}

fn relay_between(pairs: &BTreeSet<Pair>) -> Relay {
    let own = PublicKey::from_hex(&"01".repeat(KEY_BYTES)).expect("64 hex digits");
    let mut relay = Relay::new(&own, u64::from(MBIT_PER_S) * 125_000);
    relay.allow(pairs);
    relay
}
