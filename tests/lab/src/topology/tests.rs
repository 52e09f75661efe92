use super::Topology;

const TWO_CLUSTERS: &str = include_str!("../../topologies/two-clusters.yaml");

const NATS: &str = include_str!("../../topologies/nats.yaml");

/// What is said about a topology with the first occurrence of a text replaced, and the line of it.
fn complaint(text: &str, from: &str, to: &str) -> (String, usize) {
    let (before, _) = text.split_once(from).expect("the topology has the text");
    let broken = text.replacen(from, to, 1);
    let said = Topology::parse(&broken, "lab.yaml").expect_err("it contradicts itself").to_string();
    (said, before.lines().count().max(1))
}

#[test]
fn the_shipped_topology_is_sound() {
    let topology = Topology::parse(TWO_CLUSTERS, "two-clusters.yaml").unwrap();
    assert_eq!(topology.places().len(), 16);
}

#[test]
fn an_error_names_file_line_and_what_is_wrong() {
    let table = [
        ("cni: bridge", "cni: brigde", "unknown variant `brigde`"),
        ("cni: bridge", "cnii: bridge", "cnii"),
        ("node: a1", "node: a9", "cluster-a has no node `a9`"),
        ("[10.1.1.10, ", "[10.1.2.10, ", "not in the pod_cidrs of node a1"),
        ("[10.1.1.10, ", "[10.1.1.1, ", "is the gateway's"),
        ("[192.0.2.11, ", "[192.0.2.99, ", "not in the subnets of its segment"),
        ("[192.0.2.11, ", "[192.0.2.1, ", "is the router's"),
        ("[192.0.2.12, ", "[192.0.2.11, ", "both have 192.0.2.11"),
        ("[192.0.2.11, \"2001:db8:a::11\"]", "[192.0.2.11]", "one IPv4 and one IPv6"),
        ("[10.2.0.0/16", "[10.1.0.0/16", "overlap the pod_cidrs of cluster-a"),
        ("[10.1.0.0/16", "[10.1.0.1/16", "no bits behind its length"),
        ("{ tcp: 8080 }", "{ within_s: 3 }", "exactly one of"),
        ("segment: cluster-a", "segment: cluster-c", "no cluster `cluster-c`"),
        ("two-clusters\n", "Two Clusters\n", "not a name"),
    ];
    for (from, to, reason) in table {
        let (said, line) = complaint(TWO_CLUSTERS, from, to);
        assert!(
            said.contains(&format!("lab.yaml:{line}: ")) && said.contains(reason),
            "{from} -> {to}, {line}: {said}"
        );
    }
}

#[test]
fn a_box_stands_on_a_segment_and_what_is_behind_it_has_addresses_of_it() {
    assert_eq!(Topology::parse(NATS, "nats.yaml").unwrap().places().len(), 9);
    let table = [
        ("segment: site", "segment: nowhere", "there is no cluster `nowhere`"),
        ("behind: home", "behind: hame", "there is no nat `hame`"),
        ("kind: symmetric", "kind: symmetrical", "unknown variant `symmetrical`"),
        ("[192.0.2.22, ", "[192.0.2.21, ", "both have 192.0.2.21"),
        ("[172.16.1.0/24", "[172.16.2.0/24", "overlap the prefixes inside home"),
        ("[172.16.1.2, ", "[192.0.2.13, ", "not in the subnets of its segment"),
        ("[172.16.1.2, ", "[172.16.1.1, ", "is the router's"),
        ("to: [172.16.2.2, ", "to: [172.16.1.2, ", "port 8080 leads to nothing behind it"),
    ];
    for (from, to, reason) in table {
        let (said, _) = complaint(NATS, from, to);
        assert!(said.contains(reason), "{from} -> {to}: {said}");
    }
}
