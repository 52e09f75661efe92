use super::*;
use std::slice;

const KEY: PublicKey = PublicKey([7; 32]);
const RELAY: PublicKey = PublicKey([9; 32]);

/// A tunnel whose device counts what a script says.
struct Scene {
    dialled: bool,
    demand: Demand,
    device: BTreeMap<PublicKey, TunnelState>,
    now: Instant,
}

fn relay_at() -> SocketAddr {
    "192.0.2.9:51872".parse().unwrap()
}

/// Where the other node itself is.
fn straight_at() -> SocketAddr {
    "192.0.2.12:51871".parse().unwrap()
}

fn tunnel() -> OnDemand {
    OnDemand { key: KEY, relays: [(RELAY, relay_at())].into(), dialled: Some(straight_at()) }
}

impl Scene {
    fn found(measured: TunnelState) -> Self {
        let in_session = TunnelState { handshake_age: Some(Duration::ZERO), ..TunnelState::default() };
        let device: BTreeMap<_, _> = [(KEY, measured), (RELAY, in_session)].into();
        let mut scene = Self { dialled: false, demand: Demand::found(&device), device, now: Instant::now() };
        scene.look();
        scene
    }

    /// There is a session by the relay.
    fn new() -> Self {
        let measured = TunnelState { endpoint: Some(relay_at()), ..TunnelState::default() };
        Self::found(TunnelState { handshake_age: Some(Duration::ZERO), ..measured })
    }

    /// And the device does what comes of it.
    fn look(&mut self) -> bool {
        let tunnel = OnDemand { dialled: tunnel().dialled.filter(|_| !self.dialled), ..tunnel() };
        let changed = self.demand.look(self.now, slice::from_ref(&tunnel), &[RELAY].into(), &self.device);
        if let Some(measured) = self.device.get_mut(&KEY).filter(|_| !self.dialled) {
            measured.endpoint = match self.demand.stage(&tunnel) {
                Stage::Straight => Some(straight_at()),
                Stage::Leaving | Stage::Dead => Some(relay_at()),
                Stage::Parked => measured.endpoint,
            };
        }
        changed
    }

    /// So many bytes a look come and go for so long; what the looks were told to be news.
    fn for_s(&mut self, seconds: u64, rx: u64, tx: u64) -> usize {
        let looks = seconds / LOOK_EVERY.as_secs();
        (0..looks).filter(|_| self.pass(rx, tx)).count()
    }

    fn pass(&mut self, rx: u64, tx: u64) -> bool {
        self.now += LOOK_EVERY;
        let measured = self.device.get_mut(&KEY).unwrap();
        (measured.rx_bytes, measured.tx_bytes) = (measured.rx_bytes + rx, measured.tx_bytes + tx);
        self.look()
    }

    fn handshake_age(&mut self, seconds: u64) {
        self.device.get_mut(&KEY).unwrap().handshake_age = Some(Duration::from_secs(seconds));
    }

    fn stage(&self) -> Stage {
        self.demand.stage(&tunnel())
    }
}

#[test]
fn what_little_was_left_of_a_use_is_not_judged_again_with_the_keepalives_after_it() {
    let mut scene = Scene::new();
    assert_eq!(scene.for_s(6, 4_800, 4_800), 1);
    scene.pass(1_440, 1_440);
    assert_eq!(scene.for_s(178, 0, 13), 0);
    assert_eq!(scene.for_s(18, 0, 13), 1);
    assert_eq!(scene.stage(), Stage::Leaving);
}

#[test]
fn a_tunnel_whose_peer_the_device_does_not_have_for_a_moment_stays_where_it_is() {
    let mut scene = Scene::new();
    scene.pass(2_000, 2_000);
    let peer = scene.device.remove(&KEY).unwrap();
    assert!(!scene.look());
    assert_eq!(scene.stage(), Stage::Straight);
    scene.device.insert(KEY, peer);
    assert!(!scene.look());
    assert_eq!(scene.stage(), Stage::Straight);
}

#[test]
fn a_tunnel_that_is_used_goes_straight_at_once_and_parks_by_the_relay_when_it_is_not_used_any_more() {
    let mut scene = Scene::new();
    assert_eq!(scene.stage(), Stage::Parked);
    assert!(!scene.pass(600, 600), "a request and its answer");
    assert!(scene.pass(600, 600), "and another");
    assert_eq!(scene.stage(), Stage::Straight);
    assert_eq!(scene.for_s(600, 2_000, 2_000), 0, "it stays as long as it is used");
    // Keepalives, and what a session's renewal takes.
    assert_eq!(scene.for_s(178, 0, 13), 0);
    assert_eq!(scene.stage(), Stage::Straight);
    assert_eq!(scene.for_s(18, 0, 13), 1, "within a step after the three minutes");
    assert_eq!(scene.stage(), Stage::Leaving);
    assert_eq!(scene.for_s(10, 0, 13), 1);
    assert_eq!(scene.stage(), Stage::Parked);
}

#[test]
fn what_rare_probes_and_their_handshakes_take_is_no_use() {
    let mut scene = Scene::new();
    for _ in 0..6 {
        assert!(!scene.pass(2 * (148 + 92), 2 * (96 + 96 + 32)));
        assert_eq!(scene.for_s(598, 0, 0), 0);
    }
    assert_eq!(scene.stage(), Stage::Parked);
}

#[test]
fn handshakes_are_no_use_however_many_are_answered_late_or_never() {
    let mut scene = Scene::found(TunnelState::default());
    for _ in 0..60 {
        assert_eq!(scene.for_s(8, 0, 148 / 4), 0);
        assert!(!scene.pass(92, 0), "an answer after a while, and the session is not used");
    }
    assert_eq!(scene.stage(), Stage::Parked);
    scene.handshake_age(0);
    assert!(!scene.pass(1_108, 1_840), "the gateway was late, and passes all of them on");
    assert!(!scene.pass(800, 1_000), "a use");
    assert!(scene.pass(200, 200), "and more of it");
}

#[test]
fn use_while_it_leaves_brings_it_back() {
    let mut scene = Scene::new();
    scene.pass(2_000, 600);
    while scene.stage() == Stage::Straight {
        scene.pass(0, 13);
    }
    assert_eq!(scene.stage(), Stage::Leaving);
    assert!(scene.pass(2_000, 900));
    assert_eq!(scene.stage(), Stage::Straight);
}

#[test]
fn another_agent_finds_a_tunnel_where_it_was_left() {
    let at = |endpoint: SocketAddr, age_s: u64| TunnelState {
        endpoint: Some(endpoint),
        handshake_age: Some(Duration::from_secs(age_s)),
        ..TunnelState::default()
    };
    let straight = "192.0.2.12:51871".parse().unwrap();
    for (found, stage) in [
        (at(straight, 100), Stage::Straight),
        (at(straight, 201), Stage::Parked),
        (at(relay_at(), 100), Stage::Parked),
    ] {
        assert_eq!(
            Demand::found(&[(KEY, found.clone())].into()).stage(&tunnel()),
            stage,
            "before the first look"
        );
        assert_eq!(Scene::found(found).stage(), stage);
    }
}

#[test]
fn who_dials_us_is_where_it_was_heard_while_there_is_a_session_and_it_answers() {
    let mut scene = Scene { dialled: true, ..Scene::found(TunnelState::default()) };
    assert!(!scene.demand.is_heard(&KEY), "there is no session yet");
    scene.handshake_age(0);
    assert!(scene.look() && scene.demand.is_heard(&KEY));
    assert_eq!(scene.for_s(60, 0, 0), 0, "nothing is said");
    assert_eq!(scene.for_s(10, 0, 500), 0, "it is doubted and probed");
    assert!(scene.pass(0, 500), "and does not answer");
    assert!(!scene.demand.is_heard(&KEY));
    assert!(scene.pass(96, 96) && scene.demand.is_heard(&KEY));
    scene.handshake_age(201);
    assert!(scene.look() && !scene.demand.is_heard(&KEY));
}

#[test]
fn what_is_sent_and_not_answered_is_doubted_and_keepalives_are_not() {
    let mut scene = Scene::new();
    scene.pass(2_000, 2_000);
    scene.for_s(178, 0, 13);
    assert!(!scene.demand.is_doubted(&KEY), "nothing but keepalives");
    scene.pass(64, 64);
    scene.for_s(4, 0, 256);
    assert!(!scene.demand.is_doubted(&KEY), "an answer may still come");
    scene.for_s(6, 0, 128);
    assert!(scene.demand.is_doubted(&KEY));
    scene.pass(32, 0);
    assert!(!scene.demand.is_doubted(&KEY), "it answers");
}

#[test]
fn a_device_that_was_made_anew_counts_from_nothing() {
    let mut scene = Scene::new();
    scene.pass(2_000, 700);
    scene.device.insert(KEY, TunnelState { rx_bytes: 40, ..TunnelState::default() });
    assert!(!scene.look());
    assert_eq!(scene.stage(), Stage::Straight);
    assert!(!scene.demand.is_doubted(&KEY));
}

#[test]
fn a_relay_is_up_as_long_as_there_is_a_session_with_it() {
    let mut scene = Scene::new();
    scene.device.remove(&RELAY);
    assert!(scene.look() && !scene.demand.is_up(&RELAY));
    let aged =
        |seconds| TunnelState { handshake_age: Some(Duration::from_secs(seconds)), ..TunnelState::default() };
    scene.device.insert(RELAY, aged(5));
    assert!(scene.look() && scene.demand.is_up(&RELAY));
    scene.device.insert(RELAY, aged(201));
    assert!(scene.look() && !scene.demand.is_up(&RELAY));
}

#[test]
fn what_a_gateway_does_not_pass_on_goes_straight_and_each_time_stays_there_for_twice_as_long() {
    let mut scene = Scene::found(TunnelState::default());
    let mut stayed = Vec::new();
    for _ in 0..3 {
        // Initiations, which nobody answers: the relay is up, and passes nothing on for us.
        let mut looks = 0;
        while scene.stage() != Stage::Straight {
            scene.pass(0, 148 * 2 / 5);
            looks += 1;
        }
        assert!((5..=16).contains(&looks), "{looks} looks");
        scene.handshake_age(0);
        let since = scene.now;
        while scene.stage() == Stage::Straight {
            scene.pass(13, 13);
        }
        stayed.push((scene.now - since).as_secs());
        scene.device.get_mut(&KEY).unwrap().handshake_age = None;
    }
    assert_eq!(stayed, [30, 60, 120], "unused");
    // Once it was passed on, as before.
    scene.for_s(30, 20, 20);
    scene.handshake_age(0);
    scene.pass(2_000, 2_000);
    scene.pass(2_000, 2_000);
    assert_eq!(scene.stage(), Stage::Straight);
    scene.for_s(200, 13, 13);
    assert_ne!(scene.stage(), Stage::Straight);
}

#[test]
fn while_no_gateway_works_nothing_leaves_and_who_answers_on_neither_way_is_parked_when_one_does() {
    let mut scene = Scene::new();
    scene.pass(2_000, 2_000);
    let relay = scene.device.remove(&RELAY).unwrap();
    scene.for_s(600, 13, 13);
    assert_eq!(scene.stage(), Stage::Straight);
    scene.for_s(600, 0, 148 * 2 / 5);
    assert_eq!(scene.stage(), Stage::Straight, "the link may be down");
    scene.device.insert(RELAY, relay);
    scene.pass(0, 148 * 2 / 5);
    assert_eq!(scene.stage(), Stage::Dead);
    assert_eq!(scene.for_s(600, 0, 0), 0, "nothing is to be said");
    assert!(scene.pass(92, 148), "somebody is there again");
    assert_eq!(scene.stage(), Stage::Parked);
}

#[test]
fn a_quiet_tunnel_is_doubted_as_soon_as_a_busy_one() {
    for dialled in [false, true] {
        let mut scene = Scene { dialled, ..Scene::new() };
        scene.look();
        scene.pass(32, 32);
        scene.for_s(300, 0, 0);
        scene.for_s(14, 0, 148 * 2 / 5);
        assert!(scene.demand.is_doubted(&KEY), "dialled: {dialled}");
    }
}

#[test]
fn who_is_parked_by_a_relay_that_fails_begins_a_session_by_another_and_stays_there() {
    const OTHER: PublicKey = PublicKey([10; 32]);
    let other_at: SocketAddr = "192.0.2.10:51872".parse().unwrap();
    let tunnel = OnDemand { relays: [(RELAY, relay_at()), (OTHER, other_at)].into(), ..tunnel() };
    let session = |at| TunnelState {
        endpoint: Some(at),
        handshake_age: Some(Duration::ZERO),
        ..TunnelState::default()
    };
    let mut device: BTreeMap<_, _> =
        [(KEY, session(relay_at())), (RELAY, session(relay_at())), (OTHER, session(other_at))].into();
    let (mut demand, now) = (Demand::found(&device), Instant::now());
    let both: BTreeSet<_> = [RELAY, OTHER].into();
    demand.look(now, slice::from_ref(&tunnel), &both, &device);
    assert_eq!((demand.relay(&tunnel), demand.stage(&tunnel)), (Some(relay_at()), Stage::Parked));
    // Its node is silent.
    assert!(demand.look(now, slice::from_ref(&tunnel), &[OTHER].into(), &device));
    assert_eq!((demand.relay(&tunnel), demand.stage(&tunnel)), (None, Stage::Leaving));
    device.insert(KEY, session(other_at));
    assert!(demand.look(now + LEAVING, slice::from_ref(&tunnel), &both, &device));
    assert_eq!((demand.relay(&tunnel), demand.stage(&tunnel)), (Some(other_at), Stage::Parked));
}

#[test]
fn who_goes_straight_and_is_led_back_by_the_relay_tries_again_with_each_look() {
    let mut scene = Scene::new();
    scene.pass(2_000, 2_000);
    assert!(scene.demand.is_astray(&KEY), "nothing was sent there yet");
    let led_back = |scene: &mut Scene| {
        scene.device.get_mut(&KEY).unwrap().endpoint = Some(relay_at());
        scene.pass(300, 300)
    };
    for _ in 0..3 {
        assert!(led_back(&mut scene) && scene.demand.is_astray(&KEY));
    }
    assert!(!scene.pass(300, 300) && !scene.demand.is_astray(&KEY), "it is straight");
    let tries = (0..60).filter(|_| led_back(&mut scene)).count();
    assert!((20..30).contains(&tries), "{tries} tries within a minute, and then no more");
}

#[test]
fn who_is_parked_and_found_in_a_session_with_the_other_node_itself_is_straight() {
    let mut scene = Scene::found(TunnelState::default());
    assert_eq!(scene.stage(), Stage::Parked);
    // It was dialled before a gateway was known, and has answered since the last look.
    let measured = scene.device.get_mut(&KEY).unwrap();
    (measured.endpoint, measured.handshake_age) = (Some(straight_at()), Some(Duration::ZERO));
    assert!(scene.pass(92, 148));
    assert_eq!(scene.stage(), Stage::Straight);
    assert_eq!(scene.for_s(178, 13, 13), 0, "no other session is begun as long as it may be used");
    scene.for_s(4, 13, 13);
    assert_eq!(scene.stage(), Stage::Leaving);
}

#[test]
fn a_tunnel_that_comes_to_be_kept_on_demand_stays_where_it_is() {
    let mut scene = Scene::new();
    scene.demand = Demand::default();
    let at = TunnelState { endpoint: Some(straight_at()), ..scene.device[&KEY].clone() };
    scene.device.insert(KEY, at);
    scene.demand.see(&scene.device);
    assert_eq!(scene.stage(), Stage::Straight);
    scene.look();
    assert_eq!(scene.stage(), Stage::Straight);
}
