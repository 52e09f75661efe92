//! A link of 64 kbit/s with half a second there and back, which the tunnels of eight pairs of nodes share.

use super::{super::*, target};
use crate::probe::{self, Pace};
use std::collections::BTreeSet;

const BYTES_PER_S: f64 = 8_000.;
const DELAY: Duration = Duration::from_millis(250);
/// What WireGuard and IPv4 add to a packet.
const OVERHEAD_BYTES: u16 = 60;
/// What a small probe has, with its IP header.
const SMALL_BYTES: u16 = 44;

/// Each agent by the direction in which it asks, and how many nodes are on the other side.
const AGENTS: [(usize, usize); 6] = [(0, 4), (0, 4), (1, 2), (1, 2), (1, 2), (1, 2)];
/// Until then, everybody asks everybody for the first time.
const WARM: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(600);

struct World {
    now: Instant,
    agents: Vec<Agent>,
    /// When each direction is free again.
    free_at: [Instant; 2],
    sent_bytes: [u64; 2],
    sent: usize,
    events: BTreeMap<(Instant, usize), Event>,
    ended: BTreeSet<usize>,
    unanswered: usize,
}

struct Agent {
    way: usize,
    probes: Probes,
    mtus: PathMtus,
}

#[derive(Clone)]
struct Event {
    agent: usize,
    /// The number of its probe.
    probe: usize,
    sent_at: Instant,
    packet: Packet,
    what: What,
}

#[derive(Clone)]
enum Packet {
    Small(Target),
    Padded(Padded),
}

#[derive(Clone, Copy)]
enum What {
    /// It is at the other end, which answers.
    Arrives,
    Answered,
    /// Too late, if it was not answered.
    TimesOut,
}

fn node(n: usize) -> Target {
    Target { node: format!("w{n}").parse().unwrap(), ..target() }
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let agent = |(way, nodes)| {
            let (mut probes, mut mtus) = (Probes::default(), PathMtus::default());
            probes.retarget(now, (0..nodes).map(|n| (node(n), Pace::Steady)));
            mtus.retarget(now, (0..nodes).map(|n| (node(n), 1420)));
            Agent { way, probes, mtus }
        };
        Self {
            now,
            agents: AGENTS.into_iter().map(agent).collect(),
            free_at: [now; 2],
            sent_bytes: [0; 2],
            sent: 0,
            events: BTreeMap::new(),
            ended: BTreeSet::new(),
            unanswered: 0,
        }
    }

    /// What is sent waits for what was sent before. Returns when it is at the other end.
    fn transmit(&mut self, way: usize, packet: &Packet) -> Instant {
        let inner = match packet {
            Packet::Small(_) => SMALL_BYTES,
            Packet::Padded(padded) => padded.bytes,
        };
        let bytes = inner + OVERHEAD_BYTES;
        self.sent_bytes[way] += u64::from(bytes);
        let takes = Duration::from_secs_f64(f64::from(bytes) / BYTES_PER_S);
        self.free_at[way] = self.now.max(self.free_at[way]) + takes;
        self.free_at[way] + DELAY
    }

    fn ask(&mut self) {
        for agent in 0..self.agents.len() {
            let Agent { way, probes, mtus } = &mut self.agents[agent];
            let way = *way;
            let small = probes.due(self.now).into_iter().map(|to| (Packet::Small(to), probe::TIMEOUT));
            let mut due: Vec<_> = small.collect();
            due.extend(
                mtus.due(self.now, probes).into_iter().map(|it| (Packet::Padded(it.clone()), it.timeout)),
            );
            for (packet, timeout) in due {
                self.sent += 1;
                let arrives = self.transmit(way, &packet);
                let event = Event { agent, probe: self.sent, sent_at: self.now, packet, what: What::Arrives };
                self.events.insert(
                    (self.now + timeout, 2 * self.sent),
                    Event { what: What::TimesOut, ..event.clone() },
                );
                self.events.insert((arrives, 2 * self.sent + 1), event);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event.what {
            What::Arrives => {
                let back = self.transmit(1 - self.agents[event.agent].way, &event.packet);
                self.events.insert((back, 2 * event.probe + 1), Event { what: What::Answered, ..event });
            }
            What::Answered | What::TimesOut if !self.ended.insert(event.probe) => {}
            What::Answered => self.finish(event, true),
            What::TimesOut => {
                self.unanswered += 1;
                self.finish(event, false);
            }
        }
    }

    fn finish(&mut self, event: Event, answered: bool) {
        let Agent { probes, mtus, .. } = &mut self.agents[event.agent];
        match event.packet {
            Packet::Small(to) => {
                probes.finished(self.now, &to, answered.then_some(self.now - event.sent_at));
            }
            Packet::Padded(sent) => {
                mtus.finished(self.now, &sent, answered, probes);
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.ask();
            let agents = self.agents.iter();
            let asked = agents.flat_map(|agent| [agent.probes.next_at(), agent.mtus.next_at()]).flatten();
            let happens = self.events.keys().map(|(at, _)| *at).next();
            let Some(next) = asked.chain(happens).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            while let Some(event) = self.events.first_entry().filter(|event| event.key().0 <= self.now) {
                let event = event.remove();
                self.happen(event);
            }
        }
        self.now = end;
    }
}

#[test]
fn eight_pairs_over_64_kbit_per_s_leave_three_quarters_of_it_and_are_not_called_small() {
    let mut world = World::new();
    world.run(WARM);
    let (warm_bytes, unanswered) = (world.sent_bytes, world.unanswered);
    world.run(DAY - WARM);
    for (agent, (_, nodes)) in world.agents.iter().zip(AGENTS) {
        for n in 0..nodes {
            assert_eq!(agent.mtus.mtu_bytes(&node(n), 1420), 1420);
        }
    }
    for way in [0, 1] {
        let sent = (world.sent_bytes[way] - warm_bytes[way]) as f64 / (DAY - WARM).as_secs_f64();
        assert!(sent < BYTES_PER_S / 4., "{sent} bytes a second");
    }
    assert_eq!(world.unanswered - unanswered, 0, "of what was asked after a minute");
}
