//! Who reaches whom, and cuts.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use lab::{Lab, Traffic};

use crate::{reaches, said, sh, two_clusters};

/// Long enough for a packet to cross the lab on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);

#[test]
fn pods_reach_their_cluster_and_the_underlay_and_no_pod_of_the_other() {
    let lab = two_clusters("reach");
    let table = [
        ("its gateway", "10.1.1.1", "fd00:10:1:1::1", true),
        ("a pod beside it", "10.1.1.11", "fd00:10:1:1::11", true),
        ("a pod on the other node", "10.1.2.11", "fd00:10:1:2::11", true),
        ("a node of its cluster", "192.0.2.12", "2001:db8:a::12", true),
        ("a node of the other cluster", "192.0.2.75", "2001:db8:b::11", true),
        ("a bridged pod of the other cluster", "10.2.1.11", "fd00:10:2:1::11", false),
        ("a routed pod of the other cluster", "10.2.2.11", "fd00:10:2:2::11", false),
    ];
    for (what, v4, v6, expected) in table {
        for address in [v4, v6] {
            assert_eq!(
                reaches(&lab, "cluster-a/pod/client", address),
                expected,
                "from the bridged pod to {what}, {address}"
            );
        }
    }
    for address in ["10.1.1.10", "fd00:10:1:1::10", "192.0.2.75", "2001:db8:b::11"] {
        assert!(reaches(&lab, "cluster-a/pod/shell", address), "from the routed pod to {address}");
    }
    let answer = said(
        &lab,
        "cluster-b/pod/client",
        "curl -sS http://10.2.2.11:8080/ 'http://[fd00:10:2:1::11]:8080/'",
    );
    assert_eq!(answer, "cluster-b/cart-2\ncluster-b/cart-1\n");
}

#[test]
fn the_underlay_has_no_route_to_a_pod_or_a_mesh_address() {
    let lab = two_clusters("routes");
    for address in ["10.1.1.10", "fd00:10:2:1::10", "100.64.1.1", "fd64:2::1", "10.101.0.1"] {
        assert!(!sh(&lab, "underlay", &format!("ip route get {address}")).status.success(), "{address}");
    }
    assert!(sh(&lab, "underlay", "ip route get 192.0.2.75").status.success());
}

#[test]
fn a_node_carries_the_rules_of_a_real_one() {
    let lab = two_clusters("rules");
    for (tool, pods) in [("iptables-save", "10.1.0.0/16"), ("ip6tables-save", "fd00:10:1::/48")] {
        let rules = said(&lab, "cluster-a/node/a2", tool);
        for rule in [
            ":FORWARD DROP".to_owned(),
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP".to_owned(),
            "--mark 0x4000/0x4000 -j ACCEPT".to_owned(),
            format!("-A FLANNEL-FWD -s {pods}"),
            "-j MASQUERADE".to_owned(),
        ] {
            assert!(rules.contains(&rule), "{tool} lacks {rule}");
        }
    }
    let sysctls = "sysctl -n net.ipv4.conf.eth0.rp_filter net.ipv4.ip_forward net.ipv6.conf.all.forwarding";
    assert_eq!(said(&lab, "cluster-a/node/a2", sysctls), "1\n1\n1\n");
}

#[test]
fn what_is_cut_does_not_pass_until_it_is_healed() {
    let lab = two_clusters("cut");
    let beyond = || {
        (
            reaches(&lab, "cluster-a/node/a1", "192.0.2.75"),
            reaches(&lab, "cluster-b/pod/client", "2001:db8:a::11"),
        )
    };
    assert_eq!(beyond(), (true, true));

    lab.cut("cluster-a", "cluster-b", Traffic::All).unwrap();
    assert_eq!(beyond(), (false, false));
    assert!(reaches(&lab, "cluster-a/node/a1", "192.0.2.12"), "inside a cluster nothing is cut");
    assert!(reaches(&lab, "host/admin", "192.0.2.75"), "a guest is not of the cluster");

    lab.cut("cluster-a/node/a1", "cluster-a/node/a2", Traffic::All).unwrap();
    assert!(!reaches(&lab, "cluster-a/pod/client", "10.1.2.11"), "pods behind a cut node are cut");

    lab.heal("cluster-b", "cluster-a").unwrap();
    lab.heal("cluster-a/node/a1", "cluster-a/node/a2").unwrap();
    assert_eq!(beyond(), (true, true));
    assert!(reaches(&lab, "cluster-a/pod/client", "10.1.2.11"));
}

#[test]
fn a_udp_cut_leaves_tcp_alone_and_a_cut_of_icmp_leaves_both() {
    let lab = two_clusters("cut-udp");
    assert_eq!((tcp_passes(&lab), udp_passes(&lab)), (true, true));
    lab.cut("cluster-a", "cluster-b", Traffic::Udp).unwrap();
    assert_eq!((tcp_passes(&lab), udp_passes(&lab)), (true, false));
    lab.heal("cluster-a", "cluster-b").unwrap();
    lab.cut("cluster-a", "cluster-b", Traffic::Icmp).unwrap();
    assert_eq!((tcp_passes(&lab), udp_passes(&lab)), (true, true));
    assert!(!reaches(&lab, "cluster-a/node/a1", "2001:db8:b::11"));
}

/// Whether a node of cluster-a connects to one of cluster-b.
fn tcp_passes(lab: &Lab) -> bool {
    let server = lab.inside("cluster-b/node/b1", || TcpListener::bind("192.0.2.75:0")).unwrap().unwrap();
    let target = server.local_addr().unwrap();
    lab.inside("cluster-a/node/a1", || TcpStream::connect_timeout(&target, PATIENCE)).unwrap().is_ok()
}

/// Whether a datagram of a node of cluster-a arrives at one of cluster-b.
fn udp_passes(lab: &Lab) -> bool {
    let server = lab.inside("cluster-b/node/b1", || UdpSocket::bind("[2001:db8:b::11]:0")).unwrap().unwrap();
    let client = lab.inside("cluster-a/node/a1", || UdpSocket::bind("[2001:db8:a::11]:0")).unwrap().unwrap();
    let target: SocketAddr = server.local_addr().unwrap();
    client.send_to(b"hello", target).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    match server.recv_from(&mut [0; 16]) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}
