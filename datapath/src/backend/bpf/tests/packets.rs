//! Packet tables: which packet, through which program, becomes what.

use super::rig::{Context, GATEWAY_MAC, POD_MAC, at, furnish, ifindex, ip, on_each_hook, run};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};
use std::net::IpAddr;

/// A UDP datagram of a pod, behind Ethernet.
pub fn udp(from: &str, to: &str, payload_bytes: usize) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(POD_MAC, GATEWAY_MAC);
    let with_ip = match (at(from), at(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} and {to} are of two families"),
    };
    let mut packet = Vec::new();
    with_ip.udp(4000, 53).write(&mut packet, &vec![0x5a; payload_bytes]).expect("it fits");
    packet
}

/// Any protocol number, here for what is neither TCP nor UDP.
pub fn raw_ip(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = [GATEWAY_MAC, POD_MAC].concat();
    match (at(from), at(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend([0x08, 0x00]);
            let length = u16::try_from(payload.len()).expect("short");
            let header =
                Ipv4Header::new(length, 64, IpNumber(protocol), from.octets(), to.octets()).expect("short");
            header.write(&mut packet).expect("it fits");
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x86, 0xdd]);
            let header = Ipv6Header {
                payload_length: u16::try_from(payload.len()).expect("short"),
                next_header: IpNumber(protocol),
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            header.write(&mut packet).expect("it fits");
        }
        _ => panic!("{from} and {to} are of two families"),
    }
    packet.extend(payload);
    packet
}

/// A later fragment: there is no transport header to judge by.
pub fn fragment(from: &str, to: &str) -> Vec<u8> {
    match at(from) {
        IpAddr::V4(_) => {
            let mut packet = udp(from, to, 32);
            packet[14 + 6..14 + 8].copy_from_slice(&[0x00, 0xb9]);
            packet
        }
        // Fragment header: next header UDP, offset 185 units, more to come (RFC 8200, 4.5).
        IpAddr::V6(_) => raw_ip(from, to, 44, &[17, 0, 0x05, 0xc9, 0, 0, 0, 1, 1, 2, 3, 4]),
    }
}

/// Hop-by-hop options, then a routing header, then destination options (RFC 8200, 4.1).
pub fn extended(from: &str, to: &str) -> Vec<u8> {
    let header = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    raw_ip(from, to, 0, &[header(43), [60, 0, 4, 0, 0, 0, 0, 0], header(59)].concat())
}

fn patched(mut packet: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    packet[at] = value;
    packet
}

/// With `tags` VLAN tags between the MAC addresses and the rest.
fn tagged(packet: Vec<u8>, tags: usize) -> Vec<u8> {
    let (macs, rest) = packet.split_at(12);
    [macs, &[0x81, 0x00, 0x00, 0x07].repeat(tags), rest].concat()
}

fn arp() -> Vec<u8> {
    [&[0xff; 6][..], &POD_MAC, &[0x08, 0x06], &[0; 28]].concat()
}

#[test]
fn each_program_answers_each_packet_as_the_design_says() {
    let cases: Vec<(&str, &str, Vec<u8>, &str)> = vec![
        // What a pod sends.
        ("from_pod", "to the mesh", udp("10.1.0.5", "10.2.0.7", 9), "redirect"),
        ("from_pod", "to the mesh, IPv6", udp("fd01::5", "fd02::7", 9), "redirect"),
        ("from_pod", "to the world", udp("10.1.0.5", "192.0.2.1", 9), "next"),
        ("from_pod", "to the world, IPv6", udp("fd01::5", "2001:db8::1", 9), "next"),
        ("from_pod", "to a neighbour", udp("10.1.0.5", "10.1.0.6", 9), "next"),
        ("from_pod", "to the node's mesh address", udp("10.1.0.5", "10.1.255.1", 9), "next"),
        ("from_pod", "to a disconnected peer", udp("10.1.0.5", "10.3.0.7", 9), "drop closed"),
        ("from_pod", "to a disconnected peer, IPv6", udp("fd01::5", "fd03::7", 9), "drop closed"),
        ("from_pod", "ARP", arp(), "next"),
        ("from_pod", "neighbour discovery", udp("fe80::5", "ff02::1:ff00:1", 9), "next"),
        ("from_pod", "as another pod", udp("10.1.0.6", "192.0.2.1", 9), "drop spoofed_local"),
        ("from_pod", "as the node", udp("10.1.255.1", "192.0.2.1", 9), "drop spoofed_local"),
        ("from_pod", "as the node, IPv6", udp("fd01::ffff", "2001:db8::1", 9), "drop spoofed_local"),
        ("from_pod", "as somebody in the mesh", udp("10.2.0.7", "10.1.0.6", 9), "drop spoofed_mesh"),
        ("from_pod", "as somebody in the mesh, IPv6", udp("fd02::7", "fd01::5", 9), "drop spoofed_mesh"),
        ("from_pod", "as a disconnected peer", udp("10.3.0.7", "192.0.2.1", 9), "drop spoofed_mesh"),
        ("from_pod", "as nobody, to the world", udp("172.16.0.1", "192.0.2.1", 9), "next"),
        ("from_pod", "as nobody, to the mesh", udp("172.16.0.1", "10.2.0.7", 9), "drop unknown_source"),
        (
            "from_pod",
            "as nobody, to a disconnected peer",
            udp("172.16.0.1", "10.3.0.7", 9),
            "drop unknown_source",
        ),
        ("from_pod", "a later fragment to the mesh", fragment("10.1.0.5", "10.2.0.7"), "redirect"),
        ("from_pod", "a later fragment to a closed one", fragment("10.1.0.5", "10.3.0.7"), "drop closed"),
        ("from_pod", "a fragment, IPv6", fragment("fd01::5", "fd03::7"), "drop closed"),
        ("from_pod", "extension headers", extended("fd01::5", "fd03::7"), "drop closed"),
        ("from_pod", "extension headers of a liar", extended("fd02::7", "fd01::5"), "drop spoofed_mesh"),
        ("from_pod", "SCTP", raw_ip("10.1.0.5", "10.3.0.7", 132, &[0; 12]), "drop closed"),
        ("from_pod", "ICMP", raw_ip("10.1.0.5", "10.3.0.7", 1, &[8, 0, 0, 0, 0, 0, 0, 0]), "drop closed"),
        ("from_pod", "one tag, to the mesh", tagged(udp("10.1.0.5", "10.2.0.7", 9), 1), "drop tagged"),
        ("from_pod", "two tags, to a closed one", tagged(udp("10.1.0.5", "10.3.0.7", 9), 2), "drop closed"),
        (
            "from_pod",
            "a header of 16 bytes",
            patched(udp("10.1.0.5", "10.2.0.7", 9), 14, 0x44),
            "drop malformed",
        ),
        (
            "from_pod",
            "IPv6 that says IPv4",
            patched(udp("10.1.0.5", "10.2.0.7", 9), 14, 0x65),
            "drop malformed",
        ),
        (
            "from_pod",
            "IPv4 that says IPv6",
            patched(udp("fd01::5", "fd02::7", 9), 14, 0x45),
            "drop malformed",
        ),
        (
            "from_pod",
            "v4-mapped on the wire",
            raw_ip("::ffff:10.1.0.5", "fd02::7", 59, &[]),
            "drop malformed",
        ),
        // The guard.
        ("uplink_out", "plain to the mesh", udp("10.1.0.5", "10.2.0.7", 9), "drop plain"),
        ("uplink_out", "plain to the mesh, IPv6", udp("fd01::5", "fd02::7", 9), "drop plain"),
        ("uplink_out", "plain to a disconnected peer", udp("10.1.0.5", "10.3.0.7", 9), "drop plain"),
        ("uplink_out", "masqueraded to the mesh", udp("192.0.2.9", "10.2.0.7", 9), "drop plain"),
        ("uplink_out", "WireGuard's own", udp("192.0.2.9", "192.0.2.8", 148), "next"),
        ("uplink_out", "to the world", udp("192.0.2.9", "198.51.100.1", 9), "next"),
        ("uplink_out", "ARP", arp(), "next"),
        ("uplink_out", "a later fragment", fragment("10.1.0.5", "10.2.0.7"), "drop plain"),
        ("uplink_out", "a fragment, IPv6", fragment("fd01::5", "fd02::7"), "drop plain"),
        ("uplink_out", "extension headers", extended("fd01::5", "fd02::7"), "drop plain"),
        ("uplink_out", "SCTP", raw_ip("10.1.0.5", "10.2.0.7", 132, &[0; 12]), "drop plain"),
        ("uplink_out", "one tag", tagged(udp("10.1.0.5", "10.2.0.7", 9), 1), "drop plain"),
        ("uplink_out", "two tags", tagged(udp("fd01::5", "fd02::7", 9), 2), "drop plain"),
        (
            "uplink_out",
            "a header of 16 bytes",
            patched(udp("10.1.0.5", "10.2.0.7", 9), 14, 0x44),
            "drop malformed",
        ),
        // What comes in by a physical device.
        ("uplink_in", "from the world", udp("198.51.100.1", "192.0.2.9", 9), "next"),
        ("uplink_in", "ARP", arp(), "next"),
        ("uplink_in", "as somebody in the mesh", udp("10.2.0.7", "10.1.0.5", 9), "drop spoofed_mesh"),
        ("uplink_in", "as somebody in the mesh, IPv6", udp("fd02::7", "fd01::5", 9), "drop spoofed_mesh"),
        ("uplink_in", "as a disconnected peer", udp("10.3.0.7", "10.1.0.5", 9), "drop spoofed_mesh"),
        ("uplink_in", "as a local pod", udp("10.1.0.5", "192.0.2.9", 9), "drop spoofed_local"),
        ("uplink_in", "as the node", udp("10.1.255.1", "192.0.2.9", 9), "drop spoofed_local"),
        ("uplink_in", "a later fragment", fragment("10.2.0.7", "10.1.0.5"), "drop spoofed_mesh"),
        ("uplink_in", "extension headers", extended("fd02::7", "fd01::5"), "drop spoofed_mesh"),
        ("uplink_in", "a tag", tagged(udp("10.2.0.7", "10.1.0.5", 9), 1), "drop spoofed_mesh"),
        (
            "uplink_in",
            "IPv6 that says IPv4",
            patched(udp("10.1.0.5", "10.2.0.7", 9), 14, 0x65),
            "drop malformed",
        ),
        // What comes up through a bridge.
        ("bridge_in", "a local pod's own", udp("10.1.0.5", "192.0.2.9", 9), "next"),
        ("bridge_in", "as the node", udp("10.1.255.1", "192.0.2.9", 9), "drop spoofed_local"),
        ("bridge_in", "as somebody in the mesh", udp("10.2.0.7", "10.1.0.5", 9), "drop spoofed_mesh"),
        ("bridge_in", "from the LAN behind it", udp("192.0.2.8", "192.0.2.9", 9), "next"),
    ];
    on_each_hook(|host| {
        let mut bpf = host.open();
        ip("link add pod type veth peer name eth0");
        let pod = ifindex("pod");
        furnish(&mut bpf, pod, ifindex("eth0"), ifindex("lo"));
        let context = Context { ifindex: pod, ..Context::default() };
        for (program, name, packet, expected) in &cases {
            let outcome = run(&bpf, &format!("mesh_{program}"), packet, context);
            assert_eq!(outcome.verdict, *expected, "{program}: {name}");
            assert_eq!(outcome.packet, *packet, "{program} changed: {name}");
        }
    });
}

#[test]
fn a_pod_is_not_led_to_a_tunnel_that_is_not_there() {
    on_each_hook(|host| {
        let mut bpf = host.open();
        ip("link add pod type veth peer name eth0");
        let pod = ifindex("pod");
        furnish(&mut bpf, pod, ifindex("eth0"), 0);
        let context = Context { ifindex: pod, ..Context::default() };
        for packet in [udp("10.1.0.5", "10.2.0.7", 9), udp("fd01::5", "fd02::7", 9)] {
            assert_eq!(run(&bpf, "mesh_from_pod", &packet, context).verdict, "drop no_tunnel");
        }
    });
}
