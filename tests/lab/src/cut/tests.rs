use super::{Cut, Traffic, ruleset};
use crate::topology::Topology;

/// The rules that cuts make in the two-cluster topology.
fn rules(cuts: &[(&str, &str, Traffic)]) -> Vec<String> {
    let topology =
        Topology::parse(include_str!("../../topologies/two-clusters.yaml"), "two-clusters.yaml").unwrap();
    let cuts: Vec<_> = cuts
        .iter()
        .map(|(a, b, what)| Cut { a: a.parse().unwrap(), b: b.parse().unwrap(), what: *what })
        .collect();
    let text = ruleset(&topology, &cuts).unwrap();
    text.lines().map(str::trim).filter(|line| line.starts_with("iifname")).map(str::to_owned).collect()
}

#[test]
fn a_cut_between_two_nodes_stops_their_pods_too_and_both_directions() {
    let expected = [
        "iifname { u3-a1 } ip daddr { 192.0.2.12/32, 10.1.2.0/24 } counter drop",
        "iifname { u3-a1 } ip6 daddr { 2001:db8:a::12/128, fd00:10:1:2::/64 } counter drop",
        "iifname { u4-a2 } ip daddr { 192.0.2.11/32, 10.1.1.0/24 } counter drop",
        "iifname { u4-a2 } ip6 daddr { 2001:db8:a::11/128, fd00:10:1:1::/64 } counter drop",
    ];
    assert_eq!(rules(&[("cluster-a/node/a1", "cluster-a/node/a2", Traffic::All)]), expected);
}

#[test]
fn a_cluster_is_cut_with_its_hosts_and_without_its_guests() {
    let rules = rules(&[("cluster-a", "cluster-b", Traffic::Udp)]);
    assert_eq!(rules.len(), 4);
    assert!(rules.iter().all(|rule| rule.contains("meta l4proto udp counter drop")));
    assert!(rules[0].contains("{ u1-control, u3-a1, u4-a2 }"), "{}", rules[0]);
    assert!(rules.iter().all(|rule| !rule.contains("192.0.2.9/") && !rule.contains("admin")));
}

#[test]
fn blocked_icmp_leaves_neighbour_discovery_alone() {
    let rules = rules(&[("cluster-a", "cluster-b", Traffic::Icmp)]);
    assert!(rules.iter().all(|rule| !rule.contains("nd-")), "{rules:?}");
}

#[test]
fn what_has_no_link_cannot_be_cut() {
    let topology =
        Topology::parse(include_str!("../../topologies/two-clusters.yaml"), "two-clusters.yaml").unwrap();
    for side in ["underlay", "cluster-a/pod/client", "cluster-c", "cluster-a/node/a9"] {
        let cut = Cut { a: side.parse().unwrap(), b: "cluster-a".parse().unwrap(), what: Traffic::All };
        assert!(ruleset(&topology, &[cut]).unwrap_err().to_string().contains(side));
    }
}

#[test]
fn a_link_that_loses_or_is_slow_or_narrow_drops_a_share_or_what_is_too_fast_or_too_large() {
    let lossy = rules(&[("cluster-a", "cluster-b", Traffic::Percent(5))]);
    assert!(lossy.iter().all(|rule| rule.ends_with("numgen random mod 100 < 5 counter drop")), "{lossy:?}");
    let slow = rules(&[("cluster-a", "cluster-b", Traffic::AboveKbit(8_000))]);
    let narrow = rules(&[("cluster-a", "cluster-b", Traffic::LargerThan(1_300))]);
    assert!(narrow.iter().all(|rule| rule.ends_with("} meta length > 1300 counter drop")), "{narrow:?}");
    let limit = "limit rate over 1000000 bytes/second burst 20000 bytes counter drop";
    assert!(slow.len() == 4 && slow.iter().all(|rule| rule.ends_with(limit)), "{slow:?}");
}

#[test]
fn a_link_that_is_long_marks_what_passes_and_drops_nothing_by_itself() {
    let long = rules(&[("cluster-a", "cluster-b", Traffic::DelayMs(250))]);
    assert!(
        long.len() == 4 && long.iter().all(|rule| rule.ends_with("counter meta mark set 250")),
        "{long:?}"
    );
}
