//! Round trips to every node of the mesh, through the tunnels, between mesh addresses: what a status may call green.
//!
//! The kernel at the other end answers (ICMP echo), so a probe tells of the path and of nothing else: it works while
//! the other agent is dead. [`Probes`] decides, the shell at the end sends.

use api::name::{ClusterName, NodeName};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
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
/// How often a tunnel on demand is asked: a hundred of them take 200 bytes a second of the link, handshakes and all.
pub const RARE_INTERVAL: Duration = Duration::from_secs(600);
/// Probes of tunnels on demand under way at once: what they take, with the handshakes around them, is 2 kB, and a link of
/// 64 kbit/s carries that in a quarter of a second.
pub const RARE_IN_FLIGHT_MAX: usize = 4;
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

/// How often a target is asked while it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Every [`INTERVAL`].
    Steady,
    /// Every [`RARE_INTERVAL`].
    Rare,
}

impl Pace {
    fn interval(self) -> Duration {
        match self {
            Self::Steady => INTERVAL,
            Self::Rare => RARE_INTERVAL,
        }
    }
}

#[derive(Debug, Clone)]
struct Slot {
    pace: Pace,
    measured: Measured,
    /// When the first of the failures was known.
    failing_since: Option<Instant>,
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
    pub fn retarget(&mut self, now: Instant, targets: impl IntoIterator<Item = (Target, Pace)>) {
        let mut old = std::mem::take(&mut self.slots);
        for (target, pace) in targets {
            let slot = match old.remove(&target) {
                Some(slot) if slot.pace == pace => slot,
                Some(slot) => Slot { pace, next: slot.next.map(|at| at.min(now + pace.interval())), ..slot },
                None => Slot {
                    pace,
                    measured: Measured::default(),
                    failing_since: None,
                    since: now,
                    next: Some(now),
                },
            };
            self.slots.insert(target, slot);
        }
    }

    /// A target is asked now, whenever its turn was.
    pub fn hasten(&mut self, now: Instant, target: &Target) {
        if let Some(next) = self.slots.get_mut(target).and_then(|slot| slot.next.as_mut()) {
            *next = now.min(*next);
        }
    }

    /// The targets to ask now, at most as many as [`IN_FLIGHT_MAX`] allows; each is under way until [`Self::finished`].
    pub fn due(&mut self, now: Instant) -> Vec<Target> {
        let mut asked = self.due_of(now, Pace::Steady, IN_FLIGHT_MAX);
        asked.extend(self.due_of(now, Pace::Rare, RARE_IN_FLIGHT_MAX));
        asked
    }

    fn due_of(&mut self, now: Instant, pace: Pace, in_flight_max: usize) -> Vec<Target> {
        let room = in_flight_max.saturating_sub(self.in_flight(pace));
        let of_pace = self.slots.iter_mut().filter(|(_, slot)| slot.pace == pace);
        let due =
            of_pace.filter_map(|(target, slot)| Some((slot.next.filter(|at| *at <= now)?, target, slot)));
        let mut due: Vec<_> = due.collect();
        // Who has waited longest is first: those that do not answer, and are due again soon, hold nobody up.
        due.sort_by_key(|(at, ..)| *at);
        let ask = |(_, target, slot): (Instant, &Target, &mut Slot)| {
            slot.next = None;
            target.clone()
        };
        due.into_iter().take(room).map(ask).collect()
    }

    fn in_flight(&self, pace: Pace) -> usize {
        self.slots.values().filter(|slot| slot.pace == pace && slot.next.is_none()).count()
    }

    /// When the next one is due. Of tunnels on demand none is while as many as may be are under way: one that ends wakes
    /// us, too.
    pub fn next_at(&self) -> Option<Instant> {
        let rare = self.in_flight(Pace::Rare) < RARE_IN_FLIGHT_MAX;
        let may = |slot: &&Slot| slot.pace == Pace::Steady || rare;
        self.slots.values().filter(may).filter_map(|slot| slot.next).min()
    }

    /// An answer after `rtt`, or none. True when red and green changed places: worth telling at once.
    pub fn finished(&mut self, now: Instant, target: &Target, rtt: Option<Duration>) -> bool {
        let Some(slot) = self.slots.get_mut(target) else { return false };
        let (was_red, first) = (slot.measured.is_red(), slot.measured.answer.is_none());
        match rtt {
            Some(rtt) => {
                slot.measured = Measured { answer: Some((now, rtt)), failures: 0 };
                slot.failing_since = None;
                slot.next = Some(now + slot.pace.interval());
            }
            None => {
                slot.measured.failures = slot.measured.failures.saturating_add(1);
                slot.failing_since.get_or_insert(now);
                slot.next = Some(now + slot.retry());
            }
        }
        was_red != slot.measured.is_red() || (first && rtt.is_some())
    }

    /// What is known of a node.
    pub fn measured(&self, cluster: &ClusterName, node: &NodeName) -> Measured {
        self.slot(cluster, node).map(|slot| slot.measured.clone()).unwrap_or_default()
    }

    /// Since when a node whose path is dead has said nothing: its last answer, or when it was asked first. Of one that is
    /// asked rarely, when it would have answered last if it were asked often.
    pub fn silent_since(&self, cluster: &ClusterName, node: &NodeName) -> Option<Instant> {
        let slot = self.slot(cluster, node).filter(|slot| slot.measured.is_red())?;
        let heard = slot.measured.answer.map_or(slot.since, |(at, _)| at);
        let asked = slot.failing_since.and_then(|at| at.checked_sub(INTERVAL + TIMEOUT));
        Some(asked.map_or(heard, |asked| heard.max(asked)))
    }

    fn slot(&self, cluster: &ClusterName, node: &NodeName) -> Option<&Slot> {
        let least = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let from = Target { cluster: cluster.clone(), node: node.clone(), address: least };
        let (target, slot) = self.slots.range(from..).next()?;
        (target.cluster == *cluster && target.node == *node).then_some(slot)
    }
}

impl Slot {
    /// How long after a probe without an answer the next one is sent: on demand, to who is dead, ever more rarely. Who comes back
    /// is heard, and asked at once.
    fn retry(&self) -> Duration {
        match self.pace {
            Pace::Steady => RETRY,
            Pace::Rare => {
                let doublings = self.measured.failures.saturating_sub(FAILURES_UNTIL_RED).min(16);
                RARE_INTERVAL.min(RETRY * 2_u32.pow(doublings))
            }
        }
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
