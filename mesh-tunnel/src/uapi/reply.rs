//! A configuration as text: the answer to `get=1`, and the state file.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use zeroize::Zeroizing;

use crate::{
    config::{Config, Peer},
    key::PublicKey,
};

/// Bytes of text a peer takes at most but for its allowed-ips: eight lines of at most 80 bytes, and two of them keys of 64.
const PEER_TEXT_MAX: usize = 1024;
/// Bytes of an `allowed_ip=` line: an IPv6 address (39), its prefix (4), the key (11) and the line's end.
const ALLOWED_IP_TEXT_MAX: usize = 64;

/// What the device counted for one peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Time since the handshake of the current session.
    pub since_handshake: Option<Duration>,
    /// Bytes received from the peer.
    pub rx_bytes: u64,
    /// Bytes sent to the peer.
    pub tx_bytes: u64,
}

/// The answer to `get=1`, without its `errno=` line. `now` dates the handshakes.
pub fn observed(
    config: &Config,
    counters: &BTreeMap<PublicKey, Counters>,
    now: SystemTime,
) -> Zeroizing<String> {
    let mut text = buffer(config);
    device(&mut text, config);
    for (key, peer) in config.peers() {
        peer_lines(&mut text, key, peer);
        let counters = counters.get(key).copied().unwrap_or_default();
        let handshake = counters
            .since_handshake
            .and_then(|since| now.checked_sub(since)?.duration_since(UNIX_EPOCH).ok())
            .unwrap_or_default();
        line(&mut text, "last_handshake_time_sec", handshake.as_secs());
        line(&mut text, "last_handshake_time_nsec", handshake.subsec_nanos());
        line(&mut text, "rx_bytes", counters.rx_bytes);
        line(&mut text, "tx_bytes", counters.tx_bytes);
        line(&mut text, "protocol_version", 1);
    }
    text
}

/// The configuration as the request that makes it from nothing.
pub fn as_set(config: &Config) -> Zeroizing<String> {
    let mut text = buffer(config);
    text.push_str("set=1\n");
    device(&mut text, config);
    for (key, peer) in config.peers() {
        peer_lines(&mut text, key, peer);
    }
    text
}

/// Room for all of it from the start: a buffer that grows leaves copies of keys behind.
fn buffer(config: &Config) -> Zeroizing<String> {
    let addresses: usize = config.peers().values().map(|peer| peer.allowed_ips.len()).sum();
    let room = (config.peers().len() + 1) * PEER_TEXT_MAX + addresses * ALLOWED_IP_TEXT_MAX;
    Zeroizing::new(String::with_capacity(room))
}

fn device(text: &mut String, config: &Config) {
    if let Some(key) = &config.private_key {
        line(text, "private_key", key.to_hex().as_str());
    }
    if let Some(port) = config.listen_port {
        line(text, "listen_port", port);
    }
    if config.fwmark != 0 {
        line(text, "fwmark", config.fwmark);
    }
}

fn peer_lines(text: &mut String, key: &PublicKey, peer: &Peer) {
    line(text, "public_key", key);
    if let Some(preshared_key) = &peer.preshared_key {
        line(text, "preshared_key", preshared_key.to_hex().as_str());
    }
    if let Some(endpoint) = peer.endpoint {
        line(text, "endpoint", endpoint);
    }
    line(text, "persistent_keepalive_interval", peer.keepalive_s);
    for net in &peer.allowed_ips {
        line(text, "allowed_ip", net);
    }
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    writeln!(text, "{key}={value}").expect("a String takes every write");
}
