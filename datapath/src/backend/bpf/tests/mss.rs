//! Segment sizes: what becomes of the option in SYN and SYN-ACK, whatever else stands beside it.

use super::rig::{Context, GATEWAY_MAC, MTU, POD_MAC, at, furnish, ifindex, ip, on_each_hook, run};
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use std::net::IpAddr;

const SYN: bool = true;

/// A segment of the pod's to the mesh, with these option bytes as they are.
pub fn tcp(from: &str, to: &str, syn: bool, options: &[u8], payload_bytes: usize) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(POD_MAC, GATEWAY_MAC);
    let with_ip = match (at(from), at(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} and {to} are of two families"),
    };
    let mut segment = with_ip.tcp(4000, 80, 7, 64_000).options_raw(options).expect("at most 40 bytes");
    segment = if syn { segment.syn() } else { segment.ack(1) };
    let mut packet = Vec::new();
    segment.write(&mut packet, &vec![0x5a; payload_bytes]).expect("it fits");
    packet
}

/// Panics unless the checksum of the segment is right.
pub fn assert_checksum(name: &str, packet: &[u8]) {
    let headers = PacketHeaders::from_ethernet_slice(packet).expect("a packet");
    let (Some(net), Some(TransportHeader::Tcp(tcp))) = (headers.net, headers.transport) else {
        panic!("{name}: no TCP any more")
    };
    let right = match net {
        NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(&ip, headers.payload.slice()),
        NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(&ip, headers.payload.slice()),
        NetHeaders::Arp(_) => panic!("{name}: no IP any more"),
    };
    assert_eq!(tcp.checksum, right.expect("short"), "{name}: checksum");
}

#[test]
fn only_an_mss_option_that_is_too_large_is_lowered_and_the_checksum_stays_right() {
    const V4: (&str, &str) = ("10.1.0.5", "10.2.0.7");
    const V6: (&str, &str) = ("fd01::5", "fd02::7");
    // 1420 - 20 - 20 and 1420 - 40 - 20
    const CLAMPED_V4: [u8; 2] = 1380_u16.to_be_bytes();
    const CLAMPED_V6: [u8; 2] = 1360_u16.to_be_bytes();
    // A segment, its options, and the options behind the program. 1460 = 0x05b4, 1440 = 0x05a0.
    type Case = (&'static str, (&'static str, &'static str), bool, Vec<u8>, Vec<u8>);
    let with = |mss: [u8; 2], before: &[u8], after: &[u8]| [before, &[2, 4], &mss, after].concat();
    let same = |name, pair, syn, options: Vec<u8>| (name, pair, syn, options.clone(), options);
    let ethernet_v4 = 1460_u16.to_be_bytes();
    let ethernet_v6 = 1440_u16.to_be_bytes();
    let jumbo = 8960_u16.to_be_bytes();
    let cases: Vec<Case> = vec![
        ("alone", V4, SYN, with(ethernet_v4, &[], &[]), with(CLAMPED_V4, &[], &[])),
        ("alone, IPv6", V6, SYN, with(ethernet_v6, &[], &[]), with(CLAMPED_V6, &[], &[])),
        ("jumbo", V4, SYN, with(jumbo, &[], &[]), with(CLAMPED_V4, &[], &[])),
        ("largest", V6, SYN, with([0xff; 2], &[], &[]), with(CLAMPED_V6, &[], &[])),
        (
            "as Linux sends it",
            V4,
            SYN,
            with(ethernet_v4, &[], &[4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]),
            with(CLAMPED_V4, &[], &[4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]),
        ),
        ("at an odd place", V4, SYN, with(ethernet_v4, &[1], &[1, 1, 1]), with(CLAMPED_V4, &[1], &[1, 1, 1])),
        ("at an odd place, IPv6", V6, SYN, with(jumbo, &[3, 3, 7], &[0]), with(CLAMPED_V6, &[3, 3, 7], &[0])),
        ("last of 40", V4, SYN, with(ethernet_v4, &[1; 36], &[]), with(CLAMPED_V4, &[1; 36], &[])),
        ("behind an unknown option", V4, SYN, with(jumbo, &[254, 8, 0, 0, 0, 0, 0, 0], &[]), {
            with(CLAMPED_V4, &[254, 8, 0, 0, 0, 0, 0, 0], &[])
        }),
        same("just fits", V4, SYN, with(CLAMPED_V4, &[], &[])),
        same("small", V6, SYN, with([0x02, 0x18], &[], &[])),
        same("no SYN", V4, !SYN, with(ethernet_v4, &[], &[])),
        same("none", V4, SYN, vec![]),
        same("behind the end", V4, SYN, with(ethernet_v4, &[0, 0, 0, 0], &[])),
        same("of three bytes", V4, SYN, vec![2, 3, 5, 0xb4]),
        same("of no length", V4, SYN, with(ethernet_v4, &[254, 0], &[0, 0])),
        same("longer than the header", V4, SYN, vec![254, 200, 2, 4, 5, 0xb4, 0, 0]),
        same("cut by the header's end", V4, SYN, vec![1, 1, 2, 4]),
        same("only padding", V4, SYN, vec![1; 40]),
    ];
    on_each_hook(|host| {
        let mut bpf = host.open();
        ip("link add pod type veth peer name eth0");
        let pod = ifindex("pod");
        furnish(&mut bpf, pod, ifindex("eth0"), ifindex("lo"));
        let context = Context { ifindex: pod, ..Context::default() };
        for (name, (from, to), syn, options, expected) in cases.clone() {
            // Every place in a checksum's words, and a payload of either parity.
            for payload_bytes in [0, 1] {
                let packet = tcp(from, to, syn, &options, payload_bytes);
                let outcome = run(&bpf, "mesh_from_pod", &packet, context);
                assert_eq!(outcome.verdict, "redirect", "{name}");
                let start = if at(from).is_ipv4() { 14 + 20 + 20 } else { 14 + 40 + 20 };
                let options = &outcome.packet[start..start + expected.len()];
                assert_eq!(options, expected, "{name}");
                assert_checksum(name, &outcome.packet);
            }
        }
    });
}

#[test]
fn a_segment_that_cannot_be_read_goes_as_it_is() {
    on_each_hook(|host| {
        let mut bpf = host.open();
        ip("link add pod type veth peer name eth0");
        let pod = ifindex("pod");
        furnish(&mut bpf, pod, ifindex("eth0"), ifindex("lo"));
        let context = Context { ifindex: pod, ..Context::default() };
        let syn = tcp("10.1.0.5", "10.2.0.7", SYN, &[2, 4, 5, 0xb4], 0);
        let mut later_fragment = syn.clone();
        later_fragment[14 + 7] = 1;
        let mut long_header = syn.clone();
        long_header[14 + 20 + 12] = 0xf0;
        long_header[14 + 20 + 20] = 1; // and so the option is looked for behind the end
        let mut short_header = syn.clone();
        short_header[14 + 20 + 12] = 0x40;
        let cases = [
            ("a later fragment", later_fragment),
            ("a header longer than the packet", long_header),
            ("a header of 16 bytes", short_header),
            ("cut in the flags", syn[..14 + 20 + 13].to_vec()),
            ("cut in the option", syn[..14 + 20 + 23].to_vec()),
        ];
        for (name, packet) in cases {
            let outcome = run(&bpf, "mesh_from_pod", &packet, context);
            assert_eq!((outcome.verdict.as_str(), outcome.packet), ("redirect", packet), "{name}");
        }
        assert_eq!(MTU, 1420, "the tables above are written for it");
    });
}
