//! Round trips to every node of the mesh, through the tunnels, between mesh addresses: what a status may call green.
//!
//! The kernel at the other end answers (ICMP echo), so a probe tells of the path and of nothing else: it works while
//! the other agent is dead. [`Probes`] decides, the shell at the end sends.

use api::name::{ClusterName, NodeName};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// How often a tunnel that answers is asked. Five of these and a report fit into the 20 s in which a dead path must be
/// red.
pub const INTERVAL: Duration = Duration::from_secs(3);
/// How often one that does not answer is asked: it comes back green soon.
pub const RETRY: Duration = Duration::from_secs(1);
/// An answer that takes longer is none: twice the slowest path we promise to work over (500 ms), and its retransmission.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// One lost packet is not a dead path.
pub const FAILURES_UNTIL_RED: u32 = 2;
/// Probes under way at once: with 5 000 tunnels and the interval above, a full round still fits when a tenth is dead.
pub const IN_FLIGHT_MAX: usize = 512;

/// The other end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name there.
    pub node: NodeName,
    /// Its mesh address that is asked.
    pub address: IpAddr,
}

/// What is known of one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// The last answer: when, and how long it took.
    pub answer: Option<(Instant, Duration)>,
    /// Probes without an answer since then.
    pub failures: u32,
}

impl Measured {
    /// The path is dead, as far as was measured.
    pub fn is_red(&self) -> bool {
        self.failures >= FAILURES_UNTIL_RED
    }
}

#[derive(Debug, Clone)]
struct Slot {
    measured: Measured,
    /// Since when it is a target.
    since: Instant,
    /// `None` while a probe is under way.
    next: Option<Instant>,
}

/// Which target is asked when.
#[derive(Debug, Default)]
pub struct Probes {
    slots: BTreeMap<Target, Slot>,
}

impl Probes {
    /// Replaces the targets; what is known of those that stay is kept.
    pub fn retarget(&mut self, now: Instant, targets: impl IntoIterator<Item = Target>) {
        let mut old = std::mem::take(&mut self.slots);
        for target in targets {
            let fresh = || Slot { measured: Measured::default(), since: now, next: Some(now) };
            let slot = old.remove(&target).unwrap_or_else(fresh);
            self.slots.insert(target, slot);
        }
    }

    /// The targets to ask now, at most as many as [`IN_FLIGHT_MAX`] allows; each is under way until [`Self::finished`].
    pub fn due(&mut self, now: Instant) -> Vec<Target> {
        let in_flight = self.slots.values().filter(|slot| slot.next.is_none()).count();
        let due = self.slots.iter_mut().filter(|(_, slot)| slot.next.is_some_and(|at| at <= now));
        let mut asked = Vec::new();
        for (target, slot) in due.take(IN_FLIGHT_MAX - in_flight.min(IN_FLIGHT_MAX)) {
            slot.next = None;
            asked.push(target.clone());
        }
        asked
    }

    /// When the next one is due.
    pub fn next_at(&self) -> Option<Instant> {
        self.slots.values().filter_map(|slot| slot.next).min()
    }

    /// An answer after `rtt`, or none. True when red and green changed places: worth telling at once.
    pub fn finished(&mut self, now: Instant, target: &Target, rtt: Option<Duration>) -> bool {
        let Some(slot) = self.slots.get_mut(target) else { return false };
        let (was_red, first) = (slot.measured.is_red(), slot.measured.answer.is_none());
        match rtt {
            Some(rtt) => {
                slot.measured = Measured { answer: Some((now, rtt)), failures: 0 };
                slot.next = Some(now + INTERVAL);
            }
            None => {
                slot.measured.failures = slot.measured.failures.saturating_add(1);
                slot.next = Some(now + RETRY);
            }
        }
        was_red != slot.measured.is_red() || (first && rtt.is_some())
    }

    /// What is known of a node.
    pub fn measured(&self, cluster: &ClusterName, node: &NodeName) -> Measured {
        self.slot(cluster, node).map(|slot| slot.measured.clone()).unwrap_or_default()
    }

    /// Since when a node whose path is dead has said nothing: its last answer, or when it was asked first.
    pub fn silent_since(&self, cluster: &ClusterName, node: &NodeName) -> Option<Instant> {
        let slot = self.slot(cluster, node).filter(|slot| slot.measured.is_red())?;
        Some(slot.measured.answer.map_or(slot.since, |(at, _)| at))
    }

    fn slot(&self, cluster: &ClusterName, node: &NodeName) -> Option<&Slot> {
        let of = |target: &Target| target.cluster == *cluster && target.node == *node;
        self.slots.iter().find(|(target, _)| of(target)).map(|(_, slot)| slot)
    }
}

/// Sends one probe from `source` and waits for its answer.
///
/// # Errors
/// When the socket cannot be made: a lack of rights, or the mesh address is not there yet.
pub async fn ask(source: IpAddr, target: IpAddr, sequence: u16) -> std::io::Result<Option<Duration>> {
    let kind = if target.is_ipv4() { surge_ping::ICMP::V4 } else { surge_ping::ICMP::V6 };
    let config = surge_ping::Config::builder()
        .kind(kind)
        .bind((source, 0).into())
        .sock_type_hint(socket2::Type::RAW)
        .build();
    let client = surge_ping::Client::new(&config)?;
    // One socket a probe: the identifier only has to differ from other programs' on this host.
    let identifier = surge_ping::PingIdentifier(std::process::id() as u16 ^ sequence.rotate_left(8));
    let mut pinger = client.pinger(target, identifier).await;
    pinger.timeout(TIMEOUT);
    Ok(pinger.ping(surge_ping::PingSequence(sequence), &[0; 16]).await.ok().map(|(_, rtt)| rtt))
}

#[cfg(test)]
mod tests;
