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
//! A relay passes on what belongs to a handshake that it saw. So who leaves begins a new session by the relay, and who is
//! parked by one that fails leaves for another; the other way about, the session goes along. Who is parked and is found in a
//! session with the other node itself (it was dialled before we knew of gateways, or it answers there) is straight.
//!
//! Each side answers where it was spoken to last, so what is under way by the relay leads both back to it. Who goes straight is
//! probed at once, and again with each look while it is led back.
//!
//! Gateways save the link, and who can dial does not depend on them: what is sent through one and not answered goes straight,
//! as the gateway may be down, late, or not know of us. It soon tries again, and each time that is in vain, after twice as long.
//! While no gateway works, none leaves. Who answers on neither way is dead: nothing is sent to him but what is to be said.
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
/// A tunnel that no gateway passed on stays straight for so long, and for twice as long each time, up to an hour.
const NOT_PASSED: Duration = Duration::from_secs(30);
const NOT_PASSED_MAX: Duration = Duration::from_secs(3_600);
/// More than this in a window is work, which is worth to know the path's MTU for: that is found and confirmed by packets of which
/// both sides' have 20 kB, in a window without any work.
const WORK_BYTES: u64 = 32_768;
/// Keepalives through the relay before they end: two.
const LEAVING: Duration = Duration::from_secs(2 * KEEPALIVE_S as u64);
/// Who has answered nothing for so long, though it was probed, is not where it was heard last.
const UNHEARD: Duration = Duration::from_secs(10);
/// Who has answered nothing for so long on the straight way either, is dead.
const DEAD: Duration = Duration::from_secs(30);
/// For so long a tunnel that is led back by the relay tries the straight way with each look: longer than two slow paths take
/// turns. After that the straight way may be closed, and is tried as rarely as the host is looked at.
const ASTRAY: Duration = Duration::from_secs(60);
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
    /// The relay is dialled, by a new session, and keepalives tell the other side.
    Leaving,
    /// The relay is dialled, by a new session, when there is something to say.
    Dead,
}

/// Where there is a session with the other node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    /// By a relay that works.
    Relay,
    /// By one that does not work any more.
    FailedRelay,
    /// The other node itself, as far as we know.
    Itself,
}

/// One tunnel that is kept on demand, and through which addresses of relays it may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDemand {
    /// The peer of the device.
    pub key: PublicKey,
    /// The gateways' relays: where each is, by its device's key.
    pub relays: BTreeMap<PublicKey, SocketAddr>,
    /// Where we can dial the other node, and its stage is ours to say; None: it dials us, and matters whether it is heard.
    pub dialled: Option<SocketAddr>,
}

/// What is known of the tunnels on demand, and of the relays of gateways.
#[derive(Debug, Default)]
pub struct Demand {
    /// Where the device's peers are that there is a session with.
    sessions: BTreeMap<PublicKey, Option<SocketAddr>>,
    tunnels: BTreeMap<PublicKey, Tunnel>,
    /// Relays that work, by the keys of their devices.
    up: BTreeSet<PublicKey>,
}

#[derive(Debug)]
struct Tunnel {
    rx_bytes: u64,
    tx_bytes: u64,
    /// At the last look.
    had_session: bool,
    /// Whether we dial, and the stage is ours to say.
    dials: bool,
    stage: Stage,
    /// Since when it is in this stage, and its bytes are counted.
    since: Instant,
    /// How long it is straight without being used.
    stays: Duration,
    /// How often in a row no gateway passed on what was sent.
    not_passed: u32,
    bytes: Recent,
    heard_at: Instant,
    /// At the last look.
    speaks: bool,
    is_heard: bool,
    is_unanswered: bool,
    /// Since something was heard.
    unanswered_bytes: u64,
    /// Since when these are more than what has no answer.
    unanswered_since: Option<Instant>,
    is_doubted: bool,
    is_astray: bool,
}

impl Demand {
    /// Starts from what the device holds, so that a restarted agent moves nothing that is used.
    pub fn found(device: &BTreeMap<PublicKey, TunnelState>) -> Self {
        let mut demand = Self::default();
        demand.see(device);
        demand.up = demand.sessions.keys().copied().collect();
        demand
    }

    /// Takes what the device holds now: a tunnel that becomes one on demand stays where it is.
    pub fn see(&mut self, device: &BTreeMap<PublicKey, TunnelState>) {
        let sessions = device.iter().filter(|(_, it)| has_session(it));
        self.sessions = sessions.map(|(key, it)| (*key, it.endpoint)).collect();
    }

    /// Where our tunnel to a node is that we can dial.
    pub fn stage(&self, tunnel: &OnDemand) -> Stage {
        self.tunnels.get(&tunnel.key).map_or_else(|| self.stage_seen(tunnel), |it| it.stage)
    }

    fn stage_seen(&self, tunnel: &OnDemand) -> Stage {
        match tunnel.place(self.session_at(&tunnel.key), &self.up) {
            Place::Itself => Stage::Straight,
            Place::Nowhere | Place::Relay | Place::FailedRelay => Stage::Parked,
        }
    }

    fn session_at(&self, key: &PublicKey) -> Option<SocketAddr> {
        self.sessions.get(key).copied().flatten()
    }

    /// Whether a node that we cannot dial is where it was heard last.
    pub fn is_heard(&self, key: &PublicKey) -> bool {
        let seen = || self.sessions.contains_key(key);
        self.tunnels.get(key).map_or_else(seen, |it| it.is_heard)
    }

    /// Through which relay it goes: where it has a session by one that works it stays, as no other knows that.
    pub fn relay(&self, tunnel: &OnDemand) -> Option<SocketAddr> {
        let at = self.session_at(&tunnel.key);
        tunnel.working(&self.up).find(|relay| Some(*relay) == at)
    }

    /// A relay works, by its device's key.
    pub fn is_up(&self, relay: &PublicKey) -> bool {
        self.up.contains(relay)
    }

    /// What was sent to it was not answered for so long that it is to be spoken to by another way.
    pub fn is_unanswered(&self, key: &PublicKey) -> bool {
        self.tunnels.get(key).is_some_and(|it| it.is_unanswered)
    }

    /// What was sent to it was not answered.
    pub fn is_doubted(&self, key: &PublicKey) -> bool {
        self.tunnels.get(key).is_some_and(|it| it.is_doubted)
    }

    /// It is to go straight since not long ago, and was by a relay at the last look: what the other side sends there leads us
    /// back, until it hears us by the straight way.
    pub fn is_astray(&self, key: &PublicKey) -> bool {
        self.tunnels.get(key).is_some_and(|it| it.is_astray)
    }

    /// Something came from it between the last two looks.
    pub fn speaks(&self, key: &PublicKey) -> bool {
        self.tunnels.get(key).is_some_and(|it| it.speaks)
    }

    /// So much goes through it that the path's MTU matters.
    pub fn carries_work(&self, key: &PublicKey) -> bool {
        self.tunnels.get(key).is_some_and(|it| it.bytes.sum() > WORK_BYTES)
    }

    /// Reads what the device counted for the tunnels on demand, and how it is with the relays, those without the ones whose
    /// nodes are silent; true when the image becomes another.
    pub fn look(
        &mut self,
        now: Instant,
        on_demand: &[OnDemand],
        relays: &BTreeSet<PublicKey>,
        device: &BTreeMap<PublicKey, TunnelState>,
    ) -> bool {
        let up: BTreeSet<_> =
            relays.iter().filter(|key| device.get(key).is_some_and(has_session)).copied().collect();
        let mut changed = self.up != up;
        self.up = up;
        self.see(device);
        let mut known = std::mem::take(&mut self.tunnels);
        for it in on_demand {
            let tunnel = match (known.remove(&it.key), device.get(&it.key)) {
                (Some(mut tunnel), Some(measured)) => {
                    let before = (tunnel.stage, tunnel.is_heard);
                    let place = it.place(self.session_at(&it.key), &self.up);
                    tunnel.dials = it.dialled.is_some();
                    tunnel.look(now, measured, place, it.working(&self.up).next().is_some());
                    let by_relay = matches!(place, Place::Relay | Place::FailedRelay);
                    tunnel.is_astray = by_relay && tunnel.goes_straight(now);
                    changed |= if it.dialled.is_some() {
                        tunnel.stage != before.0 || tunnel.is_astray
                    } else {
                        tunnel.is_heard != before.1
                    };
                    tunnel
                }
                (None, Some(measured)) => {
                    Tunnel::new(now, it, self.stage(it), self.is_heard(&it.key), measured)
                }
                // Its peer is about to be made.
                (Some(tunnel), None) => tunnel,
                (None, None) => continue,
            };
            self.tunnels.insert(it.key, tunnel);
        }
        changed
    }
}

impl OnDemand {
    /// Where its session is.
    fn place(&self, at: Option<SocketAddr>, up: &BTreeSet<PublicKey>) -> Place {
        let Some(at) = at else { return Place::Nowhere };
        if self.working(up).any(|relay| relay == at) {
            Place::Relay
        } else if self.relays.values().any(|relay| *relay == at) {
            Place::FailedRelay
        } else {
            Place::Itself
        }
    }

    /// Where those of the relays are that are up.
    fn working<'a>(&'a self, up: &'a BTreeSet<PublicKey>) -> impl Iterator<Item = SocketAddr> + 'a {
        self.relays.iter().filter(|(key, _)| up.contains(key)).map(|(_, at)| *at)
    }
}

fn has_session(measured: &TunnelState) -> bool {
    measured.handshake_age.is_some_and(|age| age < SESSION)
}

impl Tunnel {
    fn new(now: Instant, of: &OnDemand, stage: Stage, is_heard: bool, measured: &TunnelState) -> Self {
        Self {
            rx_bytes: measured.rx_bytes,
            tx_bytes: measured.tx_bytes,
            had_session: has_session(measured),
            dials: of.dialled.is_some(),
            stage,
            since: now,
            stays: WINDOW,
            not_passed: 0,
            bytes: Recent::default(),
            heard_at: now,
            speaks: false,
            is_heard,
            is_unanswered: false,
            unanswered_bytes: 0,
            unanswered_since: None,
            is_doubted: false,
            is_astray: false,
        }
    }

    fn look(&mut self, now: Instant, measured: &TunnelState, place: Place, gateway_works: bool) {
        // A device that was made anew counts from nothing.
        let grown = |now: u64, before: u64| if now < before { now } else { now - before };
        let (rx, tx) = (grown(measured.rx_bytes, self.rx_bytes), grown(measured.tx_bytes, self.tx_bytes));
        (self.rx_bytes, self.tx_bytes) = (measured.rx_bytes, measured.tx_bytes);
        self.hear(now, rx, tx);
        let unanswered = self.unanswered_since.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.is_doubted = unanswered >= DOUBT;
        let session = has_session(measured);
        self.is_unanswered = unanswered >= UNHEARD;
        self.is_heard = session && !self.is_unanswered;
        // Without a session all of it is handshakes, and a gateway that answers late answers many at once.
        let had_session = std::mem::replace(&mut self.had_session, session);
        self.bytes.add(now, if session && had_session { rx + tx } else { 0 });
        if self.dials {
            self.judge(now, place, gateway_works, unanswered);
        }
    }

    /// It is to go straight since not long ago.
    fn goes_straight(&self, now: Instant) -> bool {
        let is_new = now.saturating_duration_since(self.since) < ASTRAY;
        self.dials && self.stage == Stage::Straight && is_new
    }

    /// We send keepalives, which nobody answers.
    fn keeps_open(&self) -> bool {
        self.dials && matches!(self.stage, Stage::Straight | Stage::Leaving)
    }

    fn hear(&mut self, now: Instant, rx: u64, tx: u64) {
        self.speaks = rx > 0;
        if self.speaks {
            (self.heard_at, self.unanswered_bytes, self.unanswered_since) = (now, 0, None);
            if self.stage != Stage::Straight {
                self.not_passed = 0;
            }
            return;
        }
        self.unanswered_bytes += tx;
        // Keepalives have no answer, nor has the first initiation, yet.
        let unheard = now.saturating_duration_since(self.heard_at.max(self.since));
        let keepalives = if self.keeps_open() { 1 + unheard.as_secs() / u64::from(KEEPALIVE_S) } else { 1 };
        if self.unanswered_bytes > keepalives * KEEPALIVE_BYTES + INITIATION_BYTES {
            self.unanswered_since.get_or_insert(now);
        }
    }

    fn judge(&mut self, now: Instant, place: Place, gateway_works: bool, unanswered: Duration) {
        let (after, bytes) = (now.saturating_duration_since(self.since), self.bytes.sum());
        let next = match self.stage {
            Stage::Parked | Stage::Leaving | Stage::Dead if bytes > PARKED_BYTES => {
                self.stays = WINDOW;
                Stage::Straight
            }
            Stage::Parked if place == Place::Itself => {
                self.stays = WINDOW;
                Stage::Straight
            }
            Stage::Parked | Stage::Leaving | Stage::Dead if self.is_unanswered => {
                self.stays = NOT_PASSED_MAX.min(NOT_PASSED * 2_u32.pow(self.not_passed.min(16)));
                self.not_passed = self.not_passed.saturating_add(1);
                Stage::Straight
            }
            Stage::Parked if gateway_works && place == Place::FailedRelay => Stage::Leaving,
            Stage::Leaving if after >= LEAVING => Stage::Parked,
            Stage::Dead if self.speaks => Stage::Parked,
            Stage::Straight if gateway_works && unanswered >= DEAD => Stage::Dead,
            Stage::Straight if gateway_works && bytes <= STRAIGHT_BYTES && after >= self.stays => {
                Stage::Leaving
            }
            Stage::Parked | Stage::Leaving | Stage::Dead | Stage::Straight => return,
        };
        (self.stage, self.since, self.bytes) = (next, now, Recent::default());
        // What the way before did not answer says nothing of this one.
        (self.unanswered_bytes, self.unanswered_since) = (0, None);
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
