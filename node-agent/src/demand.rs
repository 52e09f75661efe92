//! Tunnels on demand: which of them are used, by the bytes that went through. Pure.
//!
//! Where a node that nobody can dial meets a cluster with gateways (see [`crate::compose::gateways`]), its tunnels to the
//! gateways are kept always, and every other one like this by the side that dials:
//!
//! ```text
//!            more than a trickle                 three minutes without it
//!   Parked ──────────────────────▶ Straight ──────────────────────────────▶ Leaving ──10 s──▶ Parked
//!   by the gateway's relay,        the other node itself is dialled,        the relay is dialled, and keepalives
//!   no keepalives                  keepalives                               show the other side that we are there
//! ```
//!
//! A relay passes on what belongs to a handshake that it saw. So who leaves begins a new session by the relay; the other way
//! about, the session goes along.
//!
//! The other side cannot dial. It answers where it was spoken to last while there is a session, and speaks through the relay
//! when there is none or nothing that it sends is answered: a mapping in a NAT box that is gone costs what is sent
//! meanwhile, and no more. (That keepalives come, only WireGuard knows: a device in user space does not count them.)
//!
//! All this is a matter of the path only: both ways the same keys, the same session, the same addresses inside.

use api::bytes::PublicKey;
use datapath::{host::TunnelState, image::KEEPALIVE_S};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How often the device's counters are read while there are tunnels on demand.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What goes through a tunnel is judged by so much time, which moves on in steps: what was used once is not judged again
/// with the keepalives of the minutes after it.
const WINDOW: Duration = Duration::from_secs(180);
const STEP: Duration = Duration::from_secs(15);
/// More than this in a window is use: two small requests. Rare probes of both sides, with handshakes that both begin, have
/// 1,000 bytes.
const PARKED_BYTES: u64 = 2_048;
/// The same where keepalives are sent: 39 of them have 1,248 bytes, and with handshakes and rare probes 2,600.
const STRAIGHT_BYTES: u64 = 4_096;
/// Keepalives through the relay before they end: two.
const LEAVING: Duration = Duration::from_secs(2 * KEEPALIVE_S as u64);
/// Who has answered nothing for so long, though it was probed, is not where it was heard last.
const UNHEARD: Duration = Duration::from_secs(10);
/// What was sent without an answer for so long is doubted, and probed.
const DOUBT: Duration = Duration::from_secs(5);
/// A keepalive: header and tag. (WireGuard whitepaper, 5.4.6)
const KEEPALIVE_BYTES: u64 = 32;
/// An initiation. (WireGuard whitepaper, 5.4.2)
const INITIATION_BYTES: u64 = 148;
/// A session with keepalives is renewed after 120 s or, by a device that counts only what carries something, when it is over
/// after 180 s (REKEY_AFTER_TIME, REJECT_AFTER_TIME; WireGuard whitepaper, 6.1), and the next keepalive is due.
const SESSION: Duration = Duration::from_secs(200);

/// Where the side that dials has a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing is sent but what is to be said, through the relay.
    Parked,
    /// The other node itself is dialled, and keepalives keep our NAT box open.
    Straight,
    /// The relay is dialled, and keepalives tell the other side.
    Leaving,
}

/// One tunnel that is kept on demand, and through which addresses of relays it may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDemand {
    /// The peer of the device.
    pub key: PublicKey,
    /// Addresses of the gateways' relays.
    pub relays: BTreeSet<SocketAddr>,
    /// Where we can dial the other node, and its stage is ours to say; None: it dials us, and matters whether it is heard.
    pub dialled: Option<SocketAddr>,
}

/// What is known of the tunnels on demand, and of the relays of gateways.
#[derive(Debug, Default)]
pub struct Demand {
    /// As an earlier agent left them.
    found: BTreeMap<PublicKey, TunnelState>,
    tunnels: BTreeMap<PublicKey, Tunnel>,
    /// Relays that there is a session with, by the keys of their devices.
    up: BTreeSet<PublicKey>,
    /// Tunnels that began to leave and have no session by the relay yet.
    leaving: Vec<PublicKey>,
}

#[derive(Debug)]
struct Tunnel {
    rx_bytes: u64,
    tx_bytes: u64,
    /// At the last look.
    had_session: bool,
    stage: Stage,
    /// Since when it is in this stage, and its bytes are counted.
    since: Instant,
    bytes: Recent,
    heard_at: Instant,
    is_heard: bool,
    /// Since something was heard.
    unanswered_bytes: u64,
    /// Since when these are more than what has no answer.
    unanswered_since: Option<Instant>,
    is_doubted: bool,
}

impl Demand {
    /// Starts from what the device holds, so that a restarted agent moves nothing that is used.
    pub fn found(device: BTreeMap<PublicKey, TunnelState>) -> Self {
        let up = device.iter().filter(|(_, it)| has_session(it)).map(|(key, _)| *key).collect();
        Self { found: device, up, ..Self::default() }
    }

    /// Where our tunnel to a node is that we can dial.
    pub fn stage(&self, tunnel: &OnDemand) -> Stage {
        self.tunnels.get(&tunnel.key).map_or_else(|| self.stage_found(tunnel), |it| it.stage)
    }

    fn stage_found(&self, tunnel: &OnDemand) -> Stage {
        let found = self.found.get(&tunnel.key);
        let straight =
            |it: &TunnelState| has_session(it) && it.endpoint.is_some_and(|at| !tunnel.relays.contains(&at));
        if found.is_some_and(straight) { Stage::Straight } else { Stage::Parked }
    }

    /// Whether a node that we cannot dial is where it was heard last.
    pub fn is_heard(&self, key: &PublicKey) -> bool {
        let found = || self.found.get(key).is_some_and(has_session);
        self.tunnels.get(key).map_or_else(found, |it| it.is_heard)
    }

    /// A relay answers, by its device's key.
    pub fn is_up(&self, relay: &PublicKey) -> bool {
        self.up.contains(relay)
    }

    /// The tunnels that need a new session, as they go by the relay from now on; each is told once.
    pub fn take_leaving(&mut self) -> Vec<PublicKey> {
        std::mem::take(&mut self.leaving)
    }

    /// Those that got none: they are told again, unless they went straight meanwhile.
    pub fn put_leaving(&mut self, mut tunnels: Vec<PublicKey>) {
        tunnels.retain(|key| self.tunnels.get(key).is_some_and(|it| it.stage != Stage::Straight));
        self.leaving.extend(tunnels);
    }

    /// What was sent to it was not answered.
    pub fn is_doubted(&self, key: &PublicKey) -> bool {
        self.tunnels.get(key).is_some_and(|it| it.is_doubted)
    }

    /// Reads what the device counted for the tunnels on demand, and how it is with the relays; true when the image
    /// becomes another.
    pub fn look(
        &mut self,
        now: Instant,
        on_demand: &[OnDemand],
        relays: &BTreeSet<PublicKey>,
        device: &BTreeMap<PublicKey, TunnelState>,
    ) -> bool {
        let mut changed = false;
        let mut known = std::mem::take(&mut self.tunnels);
        for it in on_demand {
            let tunnel = match (known.remove(&it.key), device.get(&it.key)) {
                (Some(mut tunnel), Some(measured)) => {
                    let before = (tunnel.stage, tunnel.is_heard);
                    tunnel.look(now, measured);
                    if it.dialled.is_some() && before.0 != Stage::Leaving && tunnel.stage == Stage::Leaving {
                        self.leaving.push(it.key);
                    }
                    changed |= if it.dialled.is_some() {
                        tunnel.stage != before.0
                    } else {
                        tunnel.is_heard != before.1
                    };
                    tunnel
                }
                (None, Some(measured)) => Tunnel::new(now, self.stage(it), self.is_heard(&it.key), measured),
                // Its peer is about to be made.
                (Some(tunnel), None) => tunnel,
                (None, None) => continue,
            };
            self.tunnels.insert(it.key, tunnel);
        }
        let up = relays.iter().filter(|key| device.get(key).is_some_and(has_session)).copied().collect();
        changed |= self.up != up;
        self.up = up;
        changed
    }
}

fn has_session(measured: &TunnelState) -> bool {
    measured.handshake_age.is_some_and(|age| age < SESSION)
}

impl Tunnel {
    fn new(now: Instant, stage: Stage, is_heard: bool, measured: &TunnelState) -> Self {
        Self {
            rx_bytes: measured.rx_bytes,
            tx_bytes: measured.tx_bytes,
            had_session: has_session(measured),
            stage,
            since: now,
            bytes: Recent::default(),
            heard_at: now,
            is_heard,
            unanswered_bytes: 0,
            unanswered_since: None,
            is_doubted: false,
        }
    }

    fn look(&mut self, now: Instant, measured: &TunnelState) {
        // A device that was made anew counts from nothing.
        let grown = |now: u64, before: u64| if now < before { now } else { now - before };
        let (rx, tx) = (grown(measured.rx_bytes, self.rx_bytes), grown(measured.tx_bytes, self.tx_bytes));
        (self.rx_bytes, self.tx_bytes) = (measured.rx_bytes, measured.tx_bytes);
        self.hear(now, rx, tx);
        let unanswered = self.unanswered_since.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.is_doubted = unanswered >= DOUBT;
        let session = has_session(measured);
        self.is_heard = session && unanswered < UNHEARD;
        // Without a session all of it is handshakes, and a gateway that answers late answers many at once.
        let had_session = std::mem::replace(&mut self.had_session, session);
        self.bytes.add(now, if session && had_session { rx + tx } else { 0 });
        self.judge(now);
    }

    fn hear(&mut self, now: Instant, rx: u64, tx: u64) {
        if rx > 0 {
            (self.heard_at, self.unanswered_bytes, self.unanswered_since) = (now, 0, None);
            return;
        }
        self.unanswered_bytes += tx;
        // Keepalives have no answer, nor has the first initiation, yet.
        let unheard = now.saturating_duration_since(self.heard_at);
        let keepalives = 1 + unheard.as_secs() / u64::from(KEEPALIVE_S);
        if self.unanswered_bytes > keepalives * KEEPALIVE_BYTES + INITIATION_BYTES {
            self.unanswered_since.get_or_insert(now);
        }
    }

    fn judge(&mut self, now: Instant) {
        let (after, bytes) = (now.saturating_duration_since(self.since), self.bytes.sum());
        let next = match self.stage {
            Stage::Parked | Stage::Leaving if bytes > PARKED_BYTES => Stage::Straight,
            Stage::Leaving if after >= LEAVING => Stage::Parked,
            Stage::Straight if bytes <= STRAIGHT_BYTES && after >= WINDOW => Stage::Leaving,
            Stage::Parked | Stage::Leaving | Stage::Straight => return,
        };
        (self.stage, self.since, self.bytes) = (next, now, Recent::default());
    }
}

/// Bytes of the last [`WINDOW`], in steps: at most fourteen.
#[derive(Debug, Default)]
struct Recent(VecDeque<(Instant, u64)>);

impl Recent {
    fn add(&mut self, now: Instant, bytes: u64) {
        while self.0.front().is_some_and(|(began, _)| now.saturating_duration_since(*began) >= WINDOW + STEP)
        {
            self.0.pop_front();
        }
        match self.0.back_mut() {
            Some((began, sum)) if now.saturating_duration_since(*began) < STEP => *sum += bytes,
            Some(_) | None => self.0.push_back((now, bytes)),
        }
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests;
