//! A node drops what a real node drops.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use etherparse::{IpNumber, Ipv4Header, TcpHeader};
use lab::{Lab, Sniffer, Watch};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::{TWO_CLUSTERS, reaches, said, sh, two_clusters};

#[test]
fn a_node_does_not_route_for_strangers() {
    let lab = two_clusters("stranger");
    assert!(reaches(&lab, "host/admin", "192.0.2.75") && reaches(&lab, "host/admin", "2001:db8:b::11"));
    // By a node instead of the router: neither end is a pod of its cluster, and the policy of FORWARD is DROP.
    said(
        &lab,
        "host/admin",
        "ip route add 192.0.2.75 via 192.0.2.11 && ip route add 2001:db8:b::11 via 2001:db8:a::11",
    );
    assert!(!reaches(&lab, "host/admin", "192.0.2.75") && !reaches(&lab, "host/admin", "2001:db8:b::11"));
}

#[test]
fn a_node_drops_a_reply_whose_request_it_never_saw() {
    let lab = two_clusters("invalid");
    let shell = Ipv4Addr::new(10, 1, 2, 10);
    said(&lab, "host/admin", "ip route add 10.1.2.0/24 via 192.0.2.12");
    assert!(
        reaches(&lab, "host/admin", "10.1.2.10"),
        "pods accept strangers, as in a cluster without policy"
    );

    let watch =
        Watch::at("cluster-a/pod/shell".parse().unwrap()).interface("eth0").canary("half-a-connection");
    let watch = watch.canary("a-whole-one");
    let sniffer = Sniffer::start(&lab, watch).unwrap();
    send_segment(&lab, shell, TcpFlags { syn: true, ack: true }, b"half-a-connection");
    send_segment(&lab, shell, TcpFlags { syn: true, ack: false }, b"a-whole-one");
    assert!(reaches(&lab, "host/admin", "10.1.2.10"), "whatever was sent before has arrived by now");
    let report = sniffer.stop().unwrap();
    assert_eq!(report.canary_hits, 1, "the request arrives, the reply to nothing does not: {report}");
}

#[test]
fn the_reverse_path_filter_is_the_one_that_the_topology_names() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("topology.yaml");
    for (filter, answered) in [(0, true), (1, false)] {
        let text = fs::read_to_string(TWO_CLUSTERS).unwrap();
        fs::write(
            &file,
            text.replacen("cni: bridge", &format!("cni: bridge\n        rp_filter: {filter}"), 1),
        )
        .unwrap();
        let lab = Lab::up_as("lab-test-rpfilter", &file).unwrap();
        // A pod that speaks with the address of another cluster's node: the way back leads over eth0, not over the
        // bridge that it came from. A node that is strict drops it, the others answer to the wrong side.
        said(&lab, "cluster-a/pod/client", "ip addr add 192.0.2.75/32 dev eth0");
        let watch = Watch::at("cluster-a/node/a1".parse().unwrap()).interface("eth0").canary("wrong side");
        let sniffer = Sniffer::start(&lab, watch).unwrap();
        let pattern: String = b"wrong side".iter().map(|byte| format!("{byte:02x}")).collect();
        sh(&lab, "cluster-a/pod/client", &format!("ping -c1 -W1 -p {pattern} -I 192.0.2.75 192.0.2.11"));
        let report = sniffer.stop().unwrap();
        assert_eq!(report.canary_hits > 0, answered, "rp_filter {filter}: {report}");
    }
}

/// The flags of a segment that matter here.
struct TcpFlags {
    syn: bool,
    ack: bool,
}

/// Sends one TCP segment out of the blue, from the administrator's host.
fn send_segment(lab: &Lab, to: Ipv4Addr, flags: TcpFlags, payload: &[u8]) {
    let from = [192, 0, 2, 9];
    let mut tcp = TcpHeader::new(40_000, 9, 1, 1_000);
    (tcp.syn, tcp.ack) = (flags.syn, flags.ack);
    tcp.checksum = tcp.calc_checksum_ipv4_raw(from, to.octets(), payload).unwrap();
    let length = u16::try_from(tcp.header_len() + payload.len()).unwrap();
    let ip = Ipv4Header::new(length, 64, IpNumber::TCP, from, to.octets()).unwrap();
    let mut packet = Vec::new();
    ip.write(&mut packet).unwrap();
    tcp.write(&mut packet).unwrap();
    packet.extend_from_slice(payload);

    let raw = || socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw);
    let socket = lab.inside("host/admin", raw).unwrap().unwrap();
    let [a, b, c, d] = to.octets();
    sendto(socket.as_raw_fd(), &packet, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty()).unwrap();
}
