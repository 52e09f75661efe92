use super::ruleset;
use crate::topology::Topology;

#[test]
fn a_box_that_is_bound_anew_uses_other_ports() {
    let topology = Topology::parse(include_str!("../../topologies/nats.yaml"), "nats.yaml").unwrap();
    let nat = &topology.nats[&"home".parse().unwrap()];
    let ports = |rebinds| {
        let text = ruleset(nat, rebinds);
        text.split("masquerade to ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!([ports(0), ports(1), ports(5)], [":20000-29999", ":30000-39999", ":30000-39999"]);
}
