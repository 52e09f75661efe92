//! Packets that are larger than their path: which ones are answered, and with what.

use super::super::{MapStep, RouteRow};
use super::{
    mss::tcp,
    packets::{raw_ip, udp},
    rig::{Context, GATEWAY_MAC, MTU, POD_MAC, at, furnish, ifindex, ip, net, on_each_hook, run},
};
use etherparse::{Icmpv4Type, Icmpv6Type, NetHeaders, PacketHeaders, TransportHeader, icmpv4};

/// `udp` with an IP packet of exactly so many bytes.
fn datagram(from: &str, to: &str, ip_bytes: usize) -> Vec<u8> {
    let headers = if at(from).is_ipv4() { 20 + 8 } else { 40 + 8 };
    udp(from, to, ip_bytes - headers)
}

fn without_df(mut packet: Vec<u8>) -> Vec<u8> {
    packet[14 + 6] = 0;
    packet
}

fn echo(bytes: usize) -> Vec<u8> {
    [&[8, 0, 0, 0, 0, 1, 0, 1][..], &vec![0; bytes]].concat()
}

fn error_v6(bytes: usize) -> Vec<u8> {
    [&[1, 0, 0, 0, 0, 0, 0, 0][..], &vec![0; bytes]].concat()
}

#[test]
fn what_does_not_fit_is_answered_and_what_may_be_fragmented_goes() {
    let (v4, v6) = (("10.1.0.5", "10.2.0.7"), ("fd01::5", "fd02::7"));
    let mtu = usize::from(MTU);
    let answered = "redirect too_big";
    let cases: Vec<(&str, Vec<u8>, u32, &str)> = vec![
        ("just fits", datagram(v4.0, v4.1, mtu), 0, "redirect"),
        ("just fits, IPv6", datagram(v6.0, v6.1, mtu), 0, "redirect"),
        ("one byte more", datagram(v4.0, v4.1, mtu + 1), 0, answered),
        ("one byte more, IPv6", datagram(v6.0, v6.1, mtu + 1), 0, answered),
        ("one byte more, without DF", without_df(datagram(v4.0, v4.1, mtu + 1)), 0, "redirect"),
        ("much more", datagram(v4.0, v4.1, 3000), 0, answered),
        ("much more, IPv6", datagram(v6.0, v6.1, 3000), 0, answered),
        ("echo", raw_ip(v4.0, v4.1, 1, &echo(1450)), 0, answered),
        ("an ICMP error", raw_ip(v4.0, v4.1, 1, &[&[3][..], &echo(1450)[1..]].concat()), 0, "drop too_big"),
        ("an ICMPv6 error", raw_ip(v6.0, v6.1, 58, &error_v6(1450)), 0, "drop too_big"),
        ("SCTP", raw_ip(v4.0, v4.1, 132, &echo(1450)), 0, answered),
        // Super-packets are measured by their segments: 20 + 20 + 1380, 40 + 20 + 1360, 20 + 8 + 1392.
        ("segments that fit", tcp(v4.0, v4.1, false, &[], 2760), 1380, "redirect"),
        ("segments that do not", tcp(v4.0, v4.1, false, &[], 2762), 1381, answered),
        ("segments with options", tcp(v4.0, v4.1, false, &[1; 12], 2760), 1380, answered),
        ("segments that fit, IPv6", tcp(v6.0, v6.1, false, &[], 2720), 1360, "redirect"),
        ("segments that do not, IPv6", tcp(v6.0, v6.1, false, &[], 2722), 1361, answered),
        ("datagrams that fit", udp(v4.0, v4.1, 2784), 1392, "redirect"),
        ("datagrams that do not", udp(v4.0, v4.1, 2786), 1393, answered),
        ("datagrams without DF", without_df(udp(v4.0, v4.1, 2786)), 1393, "redirect"),
        // What is not for the mesh is not our business.
        ("to the world", datagram(v4.0, "192.0.2.1", 1500), 0, "next"),
    ];
    on_each_hook(|host| {
        let mut bpf = host.open();
        ip("link add pod type veth peer name eth0");
        let pod = ifindex("pod");
        furnish(&mut bpf, pod, ifindex("eth0"), ifindex("lo"));
        for (name, packet, gso_size, expected) in &cases {
            let outcome = run(&bpf, "mesh_from_pod", packet, Context { ifindex: pod, gso_size: *gso_size });
            assert_eq!(outcome.verdict, *expected, "{name}");
            if *expected == answered {
                assert_answer(name, packet, &outcome.packet);
            } else {
                assert_eq!(outcome.packet, *packet, "{name}");
            }
        }
    });
}

#[test]
fn on_a_path_that_is_smaller_than_ipv6_knows_segments_are_clamped_to_the_path_and_nobody_is_told_less_than_1280()
 {
    let (v4, v6) = (("10.1.0.5", "10.2.0.7"), ("fd01::5", "fd02::7"));
    let cases = [
        ("fits", datagram(v4.0, v4.1, 1232), "redirect", None),
        ("does not", datagram(v4.0, v4.1, 1233), "redirect too_big", Some(1232)),
        ("as small as IPv6 can", datagram(v6.0, v6.1, 1280), "redirect", None),
        ("does not, IPv6", datagram(v6.0, v6.1, 1281), "redirect too_big", Some(1280)),
    ];
    on_each_hook(|host| {
        let mut bpf = host.open();
        ip("link add pod type veth peer name eth0");
        let pod = ifindex("pod");
        furnish(&mut bpf, pod, ifindex("eth0"), ifindex("lo"));
        for prefix in ["10.2.0.0/16", "fd02::/64"] {
            bpf.apply(&MapStep::PutRoute(net(prefix), RouteRow::Routed { mtu_bytes: 1232 })).expect("a row");
        }
        let context = Context { ifindex: pod, ..Context::default() };
        for (name, packet, verdict, told) in cases.clone() {
            let outcome = run(&bpf, "mesh_from_pod", &packet, context);
            assert_eq!((outcome.verdict.as_str(), told_mtu(&outcome.packet)), (verdict, told), "{name}");
        }
        for ((from, to), mss, start) in [(v4, 1192_u16, 14 + 20 + 20), (v6, 1172, 14 + 40 + 20)] {
            let syn = tcp(from, to, true, &[2, 4, 5, 0xb4], 0);
            let outcome = run(&bpf, "mesh_from_pod", &syn, context);
            assert_eq!(outcome.packet[start + 2..start + 4], mss.to_be_bytes(), "{to}");
        }
    });
}

/// The MTU that a packet tells, if it is a Packet Too Big.
fn told_mtu(packet: &[u8]) -> Option<u32> {
    match PacketHeaders::from_ethernet_slice(packet).expect("a packet").transport? {
        TransportHeader::Icmpv4(icmp) => match icmp.icmp_type {
            Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu,
            }) => Some(next_hop_mtu.into()),
            _ => None,
        },
        TransportHeader::Icmpv6(icmp) => match icmp.icmp_type {
            Icmpv6Type::PacketTooBig { mtu } => Some(mtu),
            _ => None,
        },
        TransportHeader::Udp(_) | TransportHeader::Tcp(_) | TransportHeader::Igmp(_) => None,
    }
}

/// The answer is for the pod, from the node's mesh address, and quotes what the pod sent.
fn assert_answer(name: &str, sent: &[u8], answer: &[u8]) {
    assert_eq!(answer[..6], POD_MAC, "{name}: to the pod");
    assert_eq!(answer[6..12], GATEWAY_MAC, "{name}: from its gateway");
    let headers = PacketHeaders::from_ethernet_slice(answer).expect("a packet");
    let quote = headers.payload.slice();
    match (headers.net.expect("IP"), headers.transport.expect("ICMP")) {
        (NetHeaders::Ipv4(ip, _), TransportHeader::Icmpv4(icmp)) => {
            assert_eq!((ip.source, ip.destination), ([10, 1, 255, 1], [10, 1, 0, 5]), "{name}");
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "{name}: IP checksum");
            assert_eq!(usize::from(ip.total_len) + 14, answer.len(), "{name}: nothing behind it");
            let why = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: MTU };
            assert_eq!(icmp.icmp_type, Icmpv4Type::DestinationUnreachable(why), "{name}");
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(quote), "{name}: ICMP checksum");
            assert_eq!(quote, &sent[14..14 + 512], "{name}: the quote");
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Icmpv6(icmp)) => {
            assert_eq!(
                (at("fd01::ffff"), at("fd01::5")),
                (ip.source.into(), ip.destination.into()),
                "{name}"
            );
            assert_eq!(usize::from(ip.payload_length) + 14 + 40, answer.len(), "{name}: nothing behind it");
            assert_eq!(icmp.icmp_type, Icmpv6Type::PacketTooBig { mtu: u32::from(MTU) }, "{name}");
            let right = icmp.icmp_type.calc_checksum(ip.source, ip.destination, quote).expect("short");
            assert_eq!(icmp.checksum, right, "{name}: ICMPv6 checksum");
            assert_eq!(quote, &sent[14..14 + 1216], "{name}: the quote");
        }
        (net, transport) => panic!("{name}: {net:?} {transport:?}"),
    }
}
