//! How large a packet may be on its way to each node, found by packets of that size (RFC 8899), where a router on the
//! way may carry less than this host's uplink and says nothing of it.
//!
//! ```text
//!            five packets of the MTU lost, small ones answered: the MTU is the base at once
//!  Confirm ───────────────────────────────────────────────────────────────────────────────▶ Search
//!   every  ◀───────────────────────────────────────────────────────────────────────────────  halves what is
//!   10 s      nothing left between what passed and what did not; once more after 30 s         not known yet
//!             and, if that finds no more, after ever longer
//! ```
//!
//! Through a tunnel that nobody uses, confirmations would be most of what is sent: they are rare there, and the first look
//! at the device's counters that finds the tunnel used has it confirmed at once.
//!
//! A padded packet that is lost says something of its size only if a small one that was sent later came back: a path
//! that is dead, or that loses anything, is not small. Nor is one that is slow: over 64 kbit/s a padded packet and its
//! answer take 400 ms longer than a small one, and as long again for each that is before them. So an answer may take
//! longer where the small ones' do, and the tunnels of a node are not asked all at once.
//!
//! What passed last is in the maps, so a restarted agent goes on from there ([`PathMtus::remember`]). [`PathMtus`] decides,
//! [`ask`] sends.

mod echo;

pub use echo::ask;

use crate::probe::{Probes, Target};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// What is used while nothing larger is known to pass: what WireGuard leaves of a link that carries IPv6.
/// (RFC 8899, 5.1.2: BASE_PLPMTU)
pub const BASE_BYTES: u16 = datapath::backend::bpf::PATH_MTU_MIN_BYTES;
/// How often the MTU in use is confirmed: 300 bytes a second and tunnel with the answers, 1.4 MB/s with 5 000 tunnels.
pub const CONFIRM: Duration = Duration::from_secs(10);
/// The same where nothing but probes is sent: 50 bytes a second. Who begins to send finds a path that shrank in between as
/// soon as one that shrinks under traffic.
pub const CONFIRM_UNUSED: Duration = Duration::from_secs(60);
/// A tunnel through which more was sent between two looks, which are [`CONFIRM`] apart, is used: our probes, what answers the
/// other side's, two padded ones among them, and a handshake have 4,400 bytes even when the second look is late by as much.
/// What a black hole swallows is sent again five times within 10 s, and is more.
const UNUSED_BYTES: u64 = 5_000;
/// How long after a search the next one tries more: twelve packets to a node whose path has shrunk, and to no other.
pub const RAISE: Duration = Duration::from_secs(30);
/// The same after searches that found no more: each waits twice as long. RFC 8899 (5.1.1) has 600 s from the first.
pub const RAISE_MAX: Duration = Duration::from_secs(240);
/// An answer that takes longer is none, on a path where small ones take no time. See [`patience`].
const TIMEOUT: Duration = Duration::from_secs(1);
/// So many in a row, and the MTU in use is too large. One in twenty lost, each way: one false alarm in two weeks.
pub const LOST_UNTIL_BLACK_HOLE: u32 = 5;
/// So many in a row, and a size that is tried is too large. (RFC 8899, 5.1.2: MAX_PROBES)
pub const LOST_UNTIL_TOO_LARGE: u32 = 3;
/// Padded packets under way at once; 180 kB.
pub const IN_FLIGHT_MAX: usize = 128;
/// WireGuard pads to this: no size between two multiples of it makes another datagram.
const STEP_BYTES: u16 = 16;

/// A padded packet to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padded {
    /// To whom.
    pub target: Target,
    /// Of the whole IP packet.
    pub bytes: u16,
    /// When it is sent.
    pub at: Instant,
    /// An answer that takes longer is none.
    pub timeout: Duration,
}

/// The paths to all nodes.
#[derive(Debug, Default)]
pub struct PathMtus {
    paths: BTreeMap<Target, Path>,
    remembered: BTreeMap<IpNet, u16>,
}

#[derive(Debug)]
struct Path {
    /// What the uplink leaves; nothing larger is tried.
    ceiling_bytes: u16,
    mtu_bytes: u16,
    task: Task,
    /// `None` while a packet is under way.
    next: Option<Instant>,
    /// How long after a search the next one tries more.
    raise: Duration,
    /// What the device has sent, and since when that is counted.
    counted: Option<(Instant, u64)>,
    used: bool,
    /// Packets of this size that were lost, and when the first of them was sent.
    lost: u32,
    lost_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Confirm {
        raise_at: Instant,
    },
    /// Between the MTU, which passed, and the smallest size that did not; `None`: none is known.
    Search {
        too_large_bytes: Option<u16>,
    },
}

impl PathMtus {
    /// Starts from what an earlier agent left in the maps, so that a restart loses nothing on a path that is small.
    pub fn remember(remembered: BTreeMap<IpNet, u16>) -> Self {
        Self { paths: BTreeMap::new(), remembered }
    }

    /// How large packets to this mesh address may be, where the uplink leaves `ceiling_bytes`.
    pub fn mtu_bytes(&self, target: &Target, ceiling_bytes: u16) -> u16 {
        let known = self.paths.get(target).map(|path| path.mtu_bytes);
        known.or_else(|| self.remembered(target.address)).unwrap_or(ceiling_bytes).min(ceiling_bytes)
    }

    fn remembered(&self, address: IpAddr) -> Option<u16> {
        self.remembered.get(&IpNet::from(address)).copied()
    }

    /// Replaces the targets, each with what the uplink leaves; what is known of those that stay is kept.
    pub fn retarget(&mut self, now: Instant, targets: impl IntoIterator<Item = (Target, u16)>) {
        let mut old = std::mem::take(&mut self.paths);
        let mut new = Vec::new();
        for (target, ceiling_bytes) in targets {
            match old.remove(&target) {
                Some(path) => {
                    self.paths.insert(target, path.under(ceiling_bytes));
                }
                None => new.push((target, ceiling_bytes)),
            }
        }
        let count = u32::try_from(new.len()).unwrap_or(u32::MAX);
        for (nth, (target, ceiling_bytes)) in (0..count).zip(new) {
            let at = now + CONFIRM.mul_f64(f64::from(nth) / f64::from(count));
            let path = Path::new(at, ceiling_bytes, self.remembered(target.address));
            self.paths.insert(target, path);
        }
    }

    /// Takes what the device has sent to the targets since it was made, in bytes.
    pub fn count(&mut self, now: Instant, sent_bytes: impl IntoIterator<Item = (Target, u64)>) {
        for (target, bytes) in sent_bytes {
            if let Some(path) = self.paths.get_mut(&target) {
                path.count(now, bytes);
            }
        }
    }

    /// The packets to send now, as many as [`IN_FLIGHT_MAX`] allows; each is under way until [`Self::finished`]. `probes`
    /// tells how long small ones take.
    pub fn due(&mut self, now: Instant, probes: &Probes) -> Vec<Padded> {
        let in_flight = self.paths.values().filter(|path| path.next.is_none()).count();
        let due = self.paths.iter_mut().filter(|(_, path)| path.next.is_some_and(|at| at <= now));
        let mut sent = Vec::new();
        for (target, path) in due.take(IN_FLIGHT_MAX - in_flight.min(IN_FLIGHT_MAX)) {
            path.next = None;
            let timeout = patience(probes, target);
            sent.push(Padded { target: target.clone(), bytes: path.bytes(), at: now, timeout });
        }
        sent
    }

    /// When the next one is due.
    pub fn next_at(&self) -> Option<Instant> {
        self.paths.values().filter_map(|path| path.next).min()
    }

    /// What became of a packet; `probes` tells whether small ones are answered. True when the MTU has changed.
    pub fn finished(&mut self, now: Instant, sent: &Padded, answered: bool, probes: &Probes) -> bool {
        let Some(path) = self.paths.get_mut(&sent.target) else { return false };
        let before = path.mtu_bytes;
        if path.bytes() != sent.bytes {
            // The uplink has changed meanwhile: the answer is to another question.
            path.ask_anew(now);
        } else if answered {
            path.passed(now, sent.bytes);
        } else {
            path.lost(now, sent, |since| {
                let small = probes.measured(&sent.target.cluster, &sent.target.node).answer;
                small.is_some_and(|(at, rtt)| at.checked_sub(rtt).is_some_and(|sent| sent >= since))
            });
        }
        path.mtu_bytes != before
    }
}

/// How long an answer may take: twice what a small one takes is added, as much may be queued before it by now. At most
/// 5 s, as small ones that take longer than 2 s are not answered.
fn patience(probes: &Probes, target: &Target) -> Duration {
    let small = probes.measured(&target.cluster, &target.node).answer;
    let rtt = small.map_or(Duration::ZERO, |(_, rtt)| rtt);
    TIMEOUT + 2 * rtt
}

impl Path {
    fn new(now: Instant, ceiling_bytes: u16, remembered: Option<u16>) -> Self {
        let (mtu_bytes, task) = match remembered {
            Some(mtu) if mtu < ceiling_bytes => (mtu, Task::Search { too_large_bytes: None }),
            // What the uplink carries is what most paths carry: used until five packets of this size are lost.
            Some(_) | None => (ceiling_bytes, Task::Confirm { raise_at: now }),
        };
        Self {
            ceiling_bytes,
            mtu_bytes,
            task,
            next: Some(now),
            raise: RAISE,
            counted: None,
            used: false,
            lost: 0,
            lost_since: None,
        }
    }

    fn count(&mut self, now: Instant, bytes: u64) {
        let Some((since, before)) = self.counted else {
            self.counted = Some((now, bytes));
            return;
        };
        // A device that was made anew counts from nothing.
        let used = bytes.checked_sub(before).unwrap_or(bytes) > UNUSED_BYTES;
        if used || now.saturating_duration_since(since) >= CONFIRM {
            if used && !self.used {
                self.next = self.next.map(|at| at.min(now));
            }
            (self.used, self.counted) = (used, Some((now, bytes)));
        }
    }

    /// When what passes is confirmed again, or the search for more begins.
    fn confirm_after(&self, now: Instant, raise_at: Instant) -> Instant {
        let (soon, late) = (now + CONFIRM, now + CONFIRM_UNUSED);
        match self.used {
            true => soon,
            false if self.mtu_bytes < self.ceiling_bytes => raise_at.clamp(soon, late),
            false => late,
        }
    }

    /// Under another uplink. What filled the old one fills a larger one, until it is found otherwise.
    fn under(mut self, ceiling_bytes: u16) -> Self {
        if ceiling_bytes != self.ceiling_bytes {
            let filled = self.mtu_bytes == self.ceiling_bytes;
            self.mtu_bytes = if filled { ceiling_bytes } else { self.mtu_bytes.min(ceiling_bytes) };
            self.ceiling_bytes = ceiling_bytes;
            if let Task::Search { too_large_bytes } = &mut self.task {
                *too_large_bytes = too_large_bytes.filter(|bytes| *bytes <= ceiling_bytes);
            }
        }
        self
    }

    /// The size that is asked about.
    fn bytes(&self) -> u16 {
        match self.task {
            Task::Confirm { .. } => self.mtu_bytes,
            Task::Search { too_large_bytes } => self.between(too_large_bytes).unwrap_or(self.mtu_bytes),
        }
    }

    /// The next size of a search: the ceiling first, as paths grow to what they were; then the middle.
    fn between(&self, too_large_bytes: Option<u16>) -> Option<u16> {
        let Some(too_large) = too_large_bytes else {
            return (self.mtu_bytes < self.ceiling_bytes).then_some(self.ceiling_bytes);
        };
        let middle = self.mtu_bytes.midpoint(too_large) / STEP_BYTES * STEP_BYTES;
        let above = self.mtu_bytes / STEP_BYTES * STEP_BYTES + STEP_BYTES;
        Some(middle.max(above)).filter(|bytes| *bytes < too_large)
    }

    fn ask_anew(&mut self, now: Instant) {
        (self.lost, self.lost_since, self.next) = (0, None, Some(now));
    }

    fn passed(&mut self, now: Instant, bytes: u16) {
        self.ask_anew(now);
        match self.task {
            Task::Confirm { raise_at } if raise_at <= now && self.mtu_bytes < self.ceiling_bytes => {
                self.task = Task::Search { too_large_bytes: None };
            }
            Task::Confirm { raise_at } => self.next = Some(self.confirm_after(now, raise_at)),
            Task::Search { too_large_bytes } => {
                (self.mtu_bytes, self.raise) = (bytes, RAISE);
                self.search_below(now, too_large_bytes);
            }
        }
    }

    fn lost(&mut self, now: Instant, sent: &Padded, small_passed_since: impl Fn(Instant) -> bool) {
        self.lost = self.lost.saturating_add(1);
        let since = *self.lost_since.get_or_insert(sent.at);
        // One that could not even be sent has failed at once.
        self.next = Some(now.max(sent.at + sent.timeout));
        let enough = match self.task {
            Task::Confirm { .. } => LOST_UNTIL_BLACK_HOLE,
            Task::Search { .. } => LOST_UNTIL_TOO_LARGE,
        };
        if self.lost < enough || !small_passed_since(since) {
            return;
        }
        self.ask_anew(now);
        match self.task {
            // Nothing smaller is worth trying.
            Task::Confirm { raise_at } if self.mtu_bytes <= BASE_BYTES => {
                self.next = Some(self.confirm_after(now, raise_at));
            }
            Task::Confirm { .. } => {
                (self.mtu_bytes, self.raise) = (BASE_BYTES, RAISE);
                self.search_below(now, Some(sent.bytes));
            }
            Task::Search { .. } => self.search_below(now, Some(sent.bytes)),
        }
    }

    fn search_below(&mut self, now: Instant, too_large_bytes: Option<u16>) {
        self.task = match self.between(too_large_bytes) {
            Some(_) => Task::Search { too_large_bytes },
            None => {
                let raise_at = now + self.raise;
                self.next = Some(self.confirm_after(now, raise_at));
                self.raise = RAISE_MAX.min(2 * self.raise);
                Task::Confirm { raise_at }
            }
        };
    }
}

#[cfg(test)]
mod tests;
