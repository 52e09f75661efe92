use super::*;

fn target(node: &str) -> Target {
    Target {
        cluster: "west".parse().unwrap(),
        node: node.parse().unwrap(),
        address: IpAddr::from([100, 64, 2, 1]),
    }
}

fn steady<const N: usize>(nodes: [&str; N]) -> [(Target, Pace); N] {
    nodes.map(|node| (target(node), Pace::Steady))
}

fn measured(probes: &Probes, node: &str) -> Measured {
    probes.measured(&"west".parse().unwrap(), &node.parse().unwrap())
}

#[test]
fn a_target_is_asked_at_once_and_then_every_interval() {
    let (mut probes, start) = (Probes::default(), Instant::now());
    probes.retarget(start, steady(["w1"]));
    assert_eq!(probes.due(start), [target("w1")]);
    assert_eq!(probes.due(start), [], "it is under way");
    assert!(
        probes.finished(start, &target("w1"), Some(Duration::from_millis(1))),
        "the first answer is news"
    );
    assert_eq!(probes.next_at(), Some(start + INTERVAL));
    assert_eq!(probes.due(start + INTERVAL - Duration::from_millis(1)), []);
    assert_eq!(probes.due(start + INTERVAL), [target("w1")]);
    assert!(!probes.finished(start + INTERVAL, &target("w1"), Some(Duration::from_millis(1))));
}

#[test]
fn one_lost_probe_is_not_red_and_a_dead_path_is_red_within_twenty_seconds() {
    let (mut probes, start) = (Probes::default(), Instant::now());
    probes.retarget(start, steady(["w1"]));
    probes.due(start);
    probes.finished(start, &target("w1"), Some(Duration::from_millis(1)));

    let first = start + INTERVAL + TIMEOUT;
    probes.due(start + INTERVAL);
    assert!(!probes.finished(first, &target("w1"), None));
    assert!(!measured(&probes, "w1").is_red());

    let second = first + RETRY + TIMEOUT;
    probes.due(first + RETRY);
    assert!(probes.finished(second, &target("w1"), None), "turning red is news");
    assert!(measured(&probes, "w1").is_red());
    assert!(second - start < Duration::from_secs(20));

    probes.due(second + RETRY);
    assert!(
        probes.finished(second + RETRY, &target("w1"), Some(Duration::from_millis(2))),
        "turning green is news"
    );
}

#[test]
fn a_dead_path_has_been_silent_since_its_last_answer_or_since_it_was_asked_first() {
    let (mut probes, start) = (Probes::default(), Instant::now());
    let silent = |probes: &Probes| probes.silent_since(&"west".parse().unwrap(), &"w1".parse().unwrap());
    probes.retarget(start, steady(["w1"]));
    probes.finished(start + TIMEOUT, &target("w1"), None);
    assert_eq!(silent(&probes), None, "one lost probe is not red");
    probes.finished(start + TIMEOUT * 2, &target("w1"), None);
    probes.retarget(start + TIMEOUT * 2, steady(["w1", "w2"]));
    assert_eq!(silent(&probes), Some(start), "it has never answered");

    let answered = start + TIMEOUT * 3;
    probes.finished(answered, &target("w1"), Some(Duration::from_millis(1)));
    assert_eq!(silent(&probes), None);
    probes.finished(answered + TIMEOUT, &target("w1"), None);
    probes.finished(answered + TIMEOUT * 2, &target("w1"), None);
    assert_eq!(silent(&probes), Some(answered));
}

#[test]
fn a_target_that_stays_keeps_what_is_known_and_one_that_goes_is_forgotten() {
    let (mut probes, start) = (Probes::default(), Instant::now());
    probes.retarget(start, steady(["w1", "w2"]));
    probes.due(start);
    probes.finished(start, &target("w1"), Some(Duration::from_millis(7)));
    probes.retarget(start, steady(["w1", "w3"]));
    assert_eq!(measured(&probes, "w1").answer, Some((start, Duration::from_millis(7))));
    assert!(!probes.finished(start, &target("w2"), None), "its late answer hits nobody");
    assert_eq!(probes.due(start), [target("w3")]);
}

#[test]
fn probes_under_way_are_bounded() {
    let (mut probes, start) = (Probes::default(), Instant::now());
    probes.retarget(start, (0..IN_FLIGHT_MAX + 100).map(|n| (target(&format!("w{n}")), Pace::Steady)));
    assert_eq!(probes.due(start).len(), IN_FLIGHT_MAX);
    assert_eq!(probes.due(start), []);
    probes.finished(start, &target("w0"), Some(Duration::ZERO));
    assert_eq!(probes.due(start).len(), 1);
}

#[test]
fn a_tunnel_on_demand_is_asked_at_once_then_rarely_and_when_what_was_sent_was_not_answered() {
    let (mut probes, start) = (Probes::default(), Instant::now());
    probes.retarget(start, [(target("w1"), Pace::Rare)]);
    assert_eq!(probes.due(start), [target("w1")]);
    probes.finished(start, &target("w1"), Some(Duration::from_millis(1)));
    assert_eq!(probes.next_at(), Some(start + RARE_INTERVAL));
    let doubted = start + RARE_INTERVAL / 2;
    probes.hasten(doubted, &target("w1"));
    assert_eq!(probes.due(doubted), [target("w1")]);
    probes.hasten(doubted, &target("w1"));
    assert_eq!(probes.due(doubted), [], "it is under way");
    probes.finished(doubted + TIMEOUT, &target("w1"), None);
    assert_eq!(probes.next_at(), Some(doubted + TIMEOUT + RETRY));
}

#[test]
fn of_a_tunnel_on_demand_silence_counts_from_when_it_was_asked_and_not_from_its_last_answer() {
    let (mut probes, start) = (Probes::default(), Instant::now());
    let silent = |probes: &Probes| probes.silent_since(&"west".parse().unwrap(), &"w1".parse().unwrap());
    probes.retarget(start, [(target("w1"), Pace::Rare)]);
    probes.finished(start, &target("w1"), Some(Duration::from_millis(1)));
    let failed = start + RARE_INTERVAL + TIMEOUT;
    probes.finished(failed, &target("w1"), None);
    probes.finished(failed + RETRY, &target("w1"), None);
    assert_eq!(silent(&probes), Some(failed - TIMEOUT - INTERVAL));
}

#[test]
fn few_tunnels_on_demand_are_asked_at_once_and_they_hold_up_no_other() {
    let (mut probes, start) = (Probes::default(), Instant::now());
    let rare = (0..100).map(|n| (target(&format!("r{n}")), Pace::Rare));
    probes.retarget(start, rare.chain(steady(["w1"])));
    let asked = probes.due(start);
    assert_eq!(asked.len(), RARE_IN_FLIGHT_MAX + 1);
    assert_eq!((probes.due(start), probes.next_at()), (vec![], None));
    probes.finished(start, &asked[1], Some(Duration::ZERO));
    assert_eq!(probes.next_at(), Some(start));
    assert_eq!(probes.due(start).len(), 1);
}

#[test]
fn who_is_dead_is_asked_ever_more_rarely_and_holds_up_nobody_who_comes_later_by_name() {
    let (mut probes, start) = (Probes::default(), Instant::now());
    let dead: Vec<_> = (0..20).map(|n| target(&format!("a{n}"))).collect();
    let alive = target("w1");
    probes.retarget(start, dead.iter().chain([&alive]).map(|it| (it.clone(), Pace::Rare)));
    let (mut now, mut asked) = (start, Vec::new());
    let mut under_way: Vec<(Instant, Target)> = Vec::new();
    while now < start + RARE_INTERVAL * 3 {
        let due = probes.due(now);
        asked.extend(due.iter().map(|it| (now, it.clone())));
        under_way.extend(due.into_iter().map(|it| (now + TIMEOUT, it)));
        let ends = under_way.iter().map(|(at, _)| *at);
        now = ends.chain(probes.next_at()).min().unwrap().max(now);
        for (_, ended) in under_way.extract_if(.., |(at, _)| *at <= now) {
            let answer = (ended == alive).then_some(Duration::from_millis(1));
            probes.finished(now, &ended, answer);
        }
    }
    let times = |of: &Target| asked.iter().filter(|(_, it)| it == of).map(|(at, _)| *at - start).collect();
    let of_alive: Vec<Duration> = times(&alive);
    assert!(of_alive.len() == 3 && of_alive[0] < Duration::from_secs(60), "{of_alive:?}");
    let of_dead: Vec<Duration> = times(&dead[0]);
    assert!((8..=16).contains(&of_dead.len()), "{of_dead:?}");
}
