mod thin_link;

use super::*;
use crate::probe::Pace;

/// A path between two nodes, its clock, and what is known of it.
struct World {
    now: Instant,
    start: Instant,
    mtus: PathMtus,
    probes: Probes,
    /// What the path carries; nothing larger is answered.
    carries: u16,
    /// Whether it carries anything.
    alive: bool,
    ceiling: u16,
    padded: Vec<u16>,
    /// Bytes that somebody else sends every second.
    used_bytes: u64,
    sent_bytes: u64,
    look_at: Instant,
}

/// A packet under way: when its answer or absence is known, what it was (`None`: a small one), and whether it is answered.
type UnderWay = (Instant, Option<Padded>, bool);

const RTT: Duration = Duration::from_millis(20);
/// How often the device's counters are read.
const LOOK: Duration = Duration::from_secs(10);

fn target() -> Target {
    Target {
        cluster: "west".parse().unwrap(),
        node: "w1".parse().unwrap(),
        address: IpAddr::from([100, 64, 2, 1]),
    }
}

fn world(carries: u16) -> World {
    World::remembering(carries, None)
}

impl World {
    fn remembering(carries: u16, known: Option<u16>) -> Self {
        let now = Instant::now();
        let known = known.map(|mtu| ("100.64.2.1/32".parse().unwrap(), mtu));
        let mut world = Self {
            now,
            start: now,
            mtus: PathMtus::remember(known.into_iter().collect()),
            probes: Probes::default(),
            carries,
            alive: true,
            ceiling: 1420,
            padded: Vec::new(),
            used_bytes: 10_000,
            sent_bytes: 0,
            look_at: now,
        };
        world.under(1420);
        world
    }

    fn under(&mut self, ceiling: u16) {
        self.ceiling = ceiling;
        self.probes.retarget(self.now, [(target(), Pace::Steady)]);
        self.mtus.retarget(self.now, [(target(), ceiling)]);
    }

    fn mtu(&self) -> u16 {
        self.mtus.mtu_bytes(&target(), self.ceiling)
    }

    /// Lets time pass, packet by packet.
    fn run(&mut self, seconds: u64) -> &mut Self {
        let end = self.now + Duration::from_secs(seconds);
        let mut under_way: Vec<UnderWay> = Vec::new();
        loop {
            let known = under_way.iter().map(|(at, ..)| *at);
            match known.chain(self.probes.next_at()).chain(self.mtus.next_at()).chain([self.look_at]).min() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
            if self.look_at <= self.now {
                self.sent_bytes += self.used_bytes * LOOK.as_secs();
                self.mtus.count(self.now, [(target(), self.sent_bytes)]);
                self.look_at = self.now + LOOK;
            }
            let (done, rest): (Vec<UnderWay>, _) =
                under_way.into_iter().partition(|(at, ..)| *at <= self.now);
            under_way = rest;
            done.into_iter().for_each(|one| self.finish(one));
            for padded in self.mtus.due(self.now, &self.probes) {
                self.padded.push(padded.bytes);
                // The other side's, too.
                self.sent_bytes += 2 * (u64::from(padded.bytes) + 32);
                let answered = self.alive && padded.bytes <= self.carries;
                let after = if answered { RTT } else { padded.timeout };
                under_way.push((self.now + after, Some(padded), answered));
            }
            for _ in self.probes.due(self.now) {
                self.sent_bytes += 2 * 80;
                let after = if self.alive { RTT } else { crate::probe::TIMEOUT };
                under_way.push((self.now + after, None, self.alive));
            }
        }
        self.now = end;
        // Nothing is forgotten between two runs.
        under_way.into_iter().for_each(|one| self.finish(one));
        self
    }

    fn finish(&mut self, (_, padded, answered): UnderWay) {
        match padded {
            Some(padded) => self.mtus.finished(self.now, &padded, answered, &self.probes),
            None => self.probes.finished(self.now, &target(), answered.then_some(RTT)),
        };
    }
}

#[test]
fn the_uplinks_mtu_is_used_at_once_and_confirmed_by_few_packets() {
    let mut world = world(1500);
    assert_eq!(world.mtu(), 1420);
    world.run(60);
    assert_eq!(world.mtu(), 1420);
    assert_eq!(world.padded, [1420; 6], "one every ten seconds");
}

#[test]
fn a_tunnel_that_nobody_uses_is_confirmed_once_a_minute_and_at_once_when_it_is_used() {
    let mut world = world(1500);
    world.used_bytes = 0;
    world.run(570);
    assert_eq!(world.padded, [1420; 10], "one a minute");
    world.carries = 1240;
    world.run(5);
    assert_eq!(world.mtu(), 1420, "nobody has asked");
    world.used_bytes = 10_000;
    // The next look, and five losses.
    world.run(16);
    assert!(world.mtu() <= 1240, "tried {:?}", world.padded);
    world.run(25);
    assert_eq!(world.mtu(), 1232, "tried {:?}", world.padded);
    // And what grows while nobody uses it is found as soon.
    world.used_bytes = 0;
    world.run(20);
    world.carries = 1500;
    world.run(60);
    assert_eq!(world.mtu(), 1420);
}

#[test]
fn a_device_that_was_made_anew_is_used_when_it_counts_more_than_probes() {
    let mut world = world(1500);
    world.run(60);
    world.used_bytes = 0;
    world.run(60);
    world.padded.clear();
    (world.sent_bytes, world.used_bytes) = (0, 10_000);
    world.run(21);
    assert_eq!(world.padded, [1420; 2], "at the next look, and ten seconds later");
}

#[test]
fn a_path_of_any_size_is_found_to_the_step_and_what_is_used_meanwhile_passes() {
    for carries in 1200..=1420 {
        let mut world = world(1500);
        world.run(20);
        world.carries = carries;
        // Until the black hole is seen: the next confirmation, and five losses.
        world.run(16);
        assert!(world.mtu() <= carries, "{carries}: {} is used", world.mtu());
        world.run(25);
        let best = if carries == 1420 { 1420 } else { carries / STEP_BYTES * STEP_BYTES };
        assert_eq!(world.mtu(), best, "{carries}: tried {:?}", world.padded);
    }
}

#[test]
fn a_path_that_grows_soon_is_used_whole_within_a_minute_and_one_that_stays_small_is_searched_ever_more_rarely()
 {
    let mut world = world(1240);
    world.run(60);
    assert_eq!(world.mtu(), 1232);
    world.carries = 1500;
    world.run(60);
    assert_eq!(world.mtu(), 1420);
    // A little more is found, too.
    world.carries = 1300;
    world.run(60);
    world.carries = 1350;
    world.run(90);
    assert_eq!(world.mtu(), 1344);

    world.run(600);
    world.padded.clear();
    world.run(600);
    assert_eq!(world.mtu(), 1344, "the searches for more never take away what passes");
    let more = world.padded.iter().filter(|bytes| **bytes > 1344).count();
    assert!((1..=36).contains(&more), "{:?}", world.padded);
    world.carries = 1500;
    world.run(300);
    assert_eq!(world.mtu(), 1420);
}

#[test]
fn a_dead_path_is_not_a_small_one() {
    let mut world = world(1500);
    world.run(20);
    world.alive = false;
    world.run(120);
    assert_eq!(world.mtu(), 1420);
    let rate = world.padded.len() as u64 / (world.now - world.start).as_secs();
    assert!(rate <= 1, "{rate} padded packets a second");
    world.alive = true;
    world.run(20);
    assert_eq!(world.mtu(), 1420);
}

#[test]
fn a_restarted_agent_goes_on_with_what_passed_and_asks_for_more_at_once() {
    let mut small = World::remembering(1240, Some(1232));
    assert_eq!(small.mtu(), 1232);
    small.run(60);
    assert_eq!(small.mtu(), 1232);
    assert!(small.padded.iter().all(|bytes| *bytes >= 1232), "{:?}", small.padded);
    let mut grown = World::remembering(1500, Some(1232));
    grown.run(1);
    assert_eq!(grown.mtu(), 1420);
}

#[test]
fn the_uplink_is_never_exceeded_and_what_filled_it_fills_a_larger_one() {
    let mut world = world(1500);
    world.run(20).under(1328);
    assert_eq!(world.mtu(), 1328);
    world.run(20).under(1420);
    assert_eq!(world.mtu(), 1420);
    // A small path behind it stays small.
    world.carries = 1240;
    world.run(60).under(1328);
    assert_eq!(world.mtu(), 1232);
    world.run(20).under(1420);
    assert_eq!(world.mtu(), 1232);
    // An uplink below the base is used as it is, and not searched.
    world.under(1184);
    world.padded.clear();
    world.run(60);
    assert_eq!(world.mtu(), 1184);
    assert!(world.padded.iter().all(|bytes| *bytes == 1184), "{:?}", world.padded);
}

#[test]
fn an_answer_for_who_is_no_target_any_more_hits_nobody_and_packets_under_way_are_bounded() {
    let (mut mtus, now, probes) = (PathMtus::default(), Instant::now(), Probes::default());
    let node = |n: usize| Target { node: format!("w{n}").parse().unwrap(), ..target() };
    mtus.retarget(now, (0..IN_FLIGHT_MAX + 5).map(|n| (node(n), 1420)));
    let now = now + CONFIRM;
    let sent = mtus.due(now, &probes);
    assert_eq!((sent.len(), mtus.due(now, &probes).len()), (IN_FLIGHT_MAX, 0));
    mtus.finished(now, &sent[0], true, &probes);
    assert_eq!(mtus.due(now, &probes).len(), 1);
    mtus.retarget(now, []);
    assert!(!mtus.finished(now, &sent[1], false, &probes));
    assert_eq!(mtus.next_at(), None);
}
