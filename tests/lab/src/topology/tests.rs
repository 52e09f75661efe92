use super::Topology;

const TWO_CLUSTERS: &str = include_str!("../../topologies/two-clusters.yaml");

/// What is said about the two-cluster topology with the first occurrence of a text replaced, and the line of it.
fn complaint(from: &str, to: &str) -> (String, usize) {
    let (before, _) = TWO_CLUSTERS.split_once(from).expect("the topology has the text");
    let broken = TWO_CLUSTERS.replacen(from, to, 1);
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
        let (said, line) = complaint(from, to);
        assert!(
            said.contains(&format!("lab.yaml:{line}: ")) && said.contains(reason),
            "{from} -> {to}, {line}: {said}"
        );
    }
}
