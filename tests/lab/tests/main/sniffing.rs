//! The sniffer proves itself: it passes what is allowed, and sees what is not.

use std::net::UdpSocket;

use lab::{Class, Lab, Sniffer, Watch, parse_rules};

use crate::{reaches, said, two_clusters};

/// What the carts' cluster says of itself on the wire when nobody has planted anything.
const RULES: &str = "
- arp
- neighbour-discovery
- icmp: { between: [cluster-a/node/a1, cluster-b/node/b1] }
- tcp: { to: [cluster-a/pod/cart-2], port: 8080 }
";

#[test]
fn allowed_traffic_passes_and_one_planted_plain_packet_fails() {
    let lab = two_clusters("sniff");
    let watch = || Watch::underlay().allow(parse_rules(RULES).unwrap()).canary("cleartext-secret");

    let sniffer = Sniffer::start(&lab, watch()).unwrap();
    assert!(
        reaches(&lab, "cluster-a/node/a1", "192.0.2.75")
            && reaches(&lab, "cluster-a/node/a1", "2001:db8:b::11")
    );
    said(&lab, "cluster-a/pod/client", "curl -sS http://10.1.2.11:8080/");
    let report = sniffer.stop().unwrap();
    report.check().unwrap();
    // Request and reply, IPv4 and IPv6, each at the two links it crosses.
    assert_eq!(report.frames[&Class::Icmp], 8, "{report}");
    assert!(
        report.frames[&Class::Arp] > 0
            && report.frames[&Class::NeighbourDiscovery] > 0
            && report.frames[&Class::Tcp] > 0
    );

    let sniffer = Sniffer::start(&lab, watch()).unwrap();
    plant(&lab, "cluster-a/node/a1");
    let report = sniffer.stop().unwrap();
    assert!(report.violations >= 2 && report.canary_hits >= 2, "{report}");
    let said = report.check().unwrap_err().to_string();
    assert!(said.contains("from cluster-a/node/a1") && said.contains("UDP 192.0.2.11 port"), "{said}");
}

#[test]
fn the_canary_is_seen_at_the_pods_own_device() {
    let lab = two_clusters("canary");
    let pod = "cluster-a/pod/client";
    let watch = Watch::at(pod.parse().unwrap()).interface("eth0").canary("cleartext-secret");
    let sniffer = Sniffer::start(&lab, watch).unwrap();
    plant(&lab, pod);
    let report = sniffer.stop().unwrap();
    // The node may answer that nobody listens there, quoting the packet.
    assert!(report.first_canary_hits[0].contains("UDP 10.1.1.10 port"), "{report}");
    assert!(
        Sniffer::start(&lab, Watch::at(pod.parse().unwrap()).interface("eth7")).is_err(),
        "a device that is not there"
    );
}

#[test]
fn a_frame_of_a_cut_link_is_still_seen_where_it_was_sent() {
    let lab = two_clusters("sniff-cut");
    lab.cut("cluster-a", "cluster-b", lab::Traffic::All).unwrap();
    let sniffer = Sniffer::start(&lab, Watch::underlay().canary("cleartext-secret")).unwrap();
    plant(&lab, "cluster-a/node/a1");
    assert_eq!(sniffer.stop().unwrap().canary_hits, 1);
}

/// Sends one plain datagram with the secret towards cluster-b.
fn plant(lab: &Lab, from: &str) {
    let socket = lab.inside(from, || UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    // The first packet to a neighbour waits for ARP; a reply to a ping shows that it is known.
    assert!(
        from.contains("/node/") && lab.state().unwrap().cuts.len() == 1 || reaches(lab, from, "192.0.2.1")
    );
    socket.send_to(b"a cleartext-secret in a datagram", "192.0.2.75:9").unwrap();
}
