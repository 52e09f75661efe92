use super::{Link, LinkKind, uplinks};
use std::collections::BTreeSet;

#[test]
fn the_device_of_the_default_route_leads_out_and_pods_do_not() {
    check(
        &[
            link("lo", LinkKind::Loopback),
            out("eth0"),
            link("mesh0", LinkKind::Tunnel),
            link("veth1", LinkKind::Veth),
        ],
        "eth0",
    );
}

#[test]
fn a_device_with_an_address_at_which_the_node_is_dialled_leads_out() {
    let storage = Link { addresses: ["192.0.2.10".parse().unwrap()].into(), ..link("eth1", LinkKind::Other) };
    let other = Link { addresses: ["198.51.100.1".parse().unwrap()].into(), ..link("eth2", LinkKind::Other) };
    check(&[out("eth0"), storage, other], "eth0 eth1");
}

#[test]
fn in_a_container_a_veth_with_the_default_route_leads_out() {
    check(&[Link { kind: LinkKind::Veth, ..out("eth0") }, link("veth1", LinkKind::Veth)], "eth0");
}

#[test]
fn the_bridge_of_the_cni_gets_the_source_check_and_its_ports_do_not() {
    let port = Link { master: Some(index("cni0")), ..link("veth1", LinkKind::Veth) };
    check(&[out("eth0"), link("cni0", LinkKind::Bridge), port], "cni0 eth0");
}

#[test]
fn an_uplink_that_is_a_bridge_brings_its_ports_but_no_pod() {
    let bridge = Link { kind: LinkKind::Bridge, ..out("br0") };
    let port = |name: &str| Link { master: Some(index("br0")), ..link(name, LinkKind::Other) };
    check(&[bridge, port("eth0"), port("veth1")], "br0 eth0");
}

#[test]
fn the_tunnel_is_no_uplink_even_with_a_default_route() {
    check(&[Link { kind: LinkKind::Tunnel, ..out("mesh0") }, out("eth0")], "eth0");
}

/// `veth1` is a pod's; the node is dialled at 192.0.2.10.
fn check(links: &[Link], wanted: &str) {
    let found = uplinks(links, &["192.0.2.10".parse().unwrap()].into(), &[index("veth1")].into());
    let names: BTreeSet<&str> =
        links.iter().filter(|link| found.contains(&link.ifindex)).map(|link| link.name.as_str()).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>().join(" "), wanted);
}

fn link(name: &str, kind: LinkKind) -> Link {
    Link { ifindex: index(name), name: name.to_owned(), kind, up: true, mtu_bytes: 1500, ..Link::default() }
}

fn out(name: &str) -> Link {
    Link { has_default_route: true, ..link(name, LinkKind::Other) }
}

/// Any number that is this name's own.
fn index(name: &str) -> u32 {
    name.bytes().fold(1, |sum, byte| sum * 31 % 65_521 + u32::from(byte))
}
