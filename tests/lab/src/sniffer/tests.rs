use etherparse::PacketBuilder;
use memchr::memmem::Finder;

use super::frame::Frame;
use super::socket::Captured;
use super::{AllowList, Class, Judge, Report, parse_rules};
use crate::topology::Topology;

const RULES: &str = "
- arp
- neighbour-discovery
- wireguard: { between: [cluster-a/node/a1, 192.0.2.75], port: 51871 }
- wireguard-at: { at: [192.0.2.75], port: 51873 }
- tcp: { to: [cluster-a/host/control], port: 2379 }
- icmp: { between: [cluster-a/node/a1, cluster-b/node/b1] }
";

const A1: [u8; 4] = [192, 0, 2, 11];
const A2: [u8; 4] = [192, 0, 2, 12];
const B1: [u8; 4] = [192, 0, 2, 75];
const CONTROL: [u8; 4] = [192, 0, 2, 10];

fn allow() -> AllowList {
    let topology =
        Topology::parse(include_str!("../../topologies/two-clusters.yaml"), "two-clusters.yaml").unwrap();
    AllowList::resolve(&parse_rules(RULES).unwrap(), &topology).unwrap()
}

fn udp(from: [u8; 4], to: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64).udp(port, port);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64).tcp(from.1, to.1, 1, 1_000);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"x").unwrap();
    frame
}

fn ping(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64);
    builder.icmpv4_echo_request(1, 1).write(&mut frame, &[]).unwrap();
    frame
}

/// Turns a frame into a fragment of the datagram 7 by its flags and offset (in 8 bytes). (RFC 791)
fn fragment(mut frame: Vec<u8>, more: bool, offset: u8) -> Vec<u8> {
    frame[18..22].copy_from_slice(&[0, 7, if more { 0x20 } else { 0 }, offset]);
    frame
}

fn judge(frames: &[Vec<u8>]) -> Report {
    let mut judge = Judge {
        allow: Some(allow()),
        canaries: vec![Finder::new("canary").into_owned()],
        report: Report::default(),
    };
    for bytes in frames {
        judge.judge(&Captured { link: "from here", bytes, truncated: false });
    }
    judge.report
}

#[test]
fn only_what_a_rule_names_is_allowed() {
    let message = [4, 0, 0, 0, 9, 9];
    let table = [
        ("WireGuard between its nodes", udp(A1, B1, 51871, &message), Some(Class::Wireguard)),
        ("WireGuard with another node", udp(A1, A2, 51871, &message), None),
        ("WireGuard on another port", udp(A1, B1, 51872, &message), None),
        ("plain text on WireGuard's port", udp(A1, B1, 51871, b"GET / HTTP/1.1"), None),
        ("WireGuard at a relay, from anywhere", udp(A2, B1, 51873, &message), Some(Class::WireguardAt)),
        ("plain text at a relay", udp(A2, B1, 51873, b"GET / HTTP/1.1"), None),
        ("WireGuard at the relay's port elsewhere", udp(A1, A2, 51873, &message), None),
        ("to the control port", tcp((A2, 40_000), (CONTROL, 2379)), Some(Class::Tcp)),
        ("back from the control port", tcp((CONTROL, 2379), (A2, 40_000)), Some(Class::Tcp)),
        ("the control port's number elsewhere", tcp((A1, 40_000), (A2, 2379)), None),
        ("another port of the control host", tcp((A2, 40_000), (CONTROL, 8080)), None),
        ("a ping between listed nodes", ping(A1, B1), Some(Class::Icmp)),
        ("a ping to another", ping(A1, A2), None),
    ];
    for (what, bytes, class) in table {
        let frame = Frame::parse(&bytes);
        assert_eq!(allow().classify(&frame), class, "{what}: {frame}");
    }
}

#[test]
fn a_later_fragment_is_what_its_first_part_was() {
    let message = |text: &[u8]| udp(A1, B1, 51871, text);
    let first = fragment(message(&[4, 0, 0, 0, 1, 1, 1, 1]), true, 0);
    let later = fragment(message(b"whatever comes here now"), false, 2);
    assert_eq!(judge(&[first, later.clone()]).frames.get(&Class::Wireguard), Some(&2));
    assert_eq!(judge(std::slice::from_ref(&later)).violations, 1, "without a first part");
    let plain = fragment(message(b"GET / HTTP/1.1\r\n"), true, 0);
    assert_eq!(judge(&[plain, later]).violations, 2, "after a first part that was not allowed");
}

#[test]
fn a_canary_is_seen_also_in_an_allowed_frame() {
    let report = judge(&[udp(A1, B1, 51871, b"\x04\0\0\0 the canary")]);
    assert_eq!((report.violations, report.canary_hits), (0, 1));
    let said = report.check().unwrap_err().to_string();
    assert!(said.contains("from here: UDP 192.0.2.11 port 51871 → 192.0.2.75 port 51871"), "{said}");
}

#[test]
fn a_frame_that_is_not_well_formed_is_not_allowed() {
    assert_eq!(judge(&[vec![0; 10], vec![0xff; 60]]).violations, 2);
}

#[test]
fn a_rule_that_names_no_place_of_the_lab_is_refused() {
    let topology =
        Topology::parse(include_str!("../../topologies/two-clusters.yaml"), "two-clusters.yaml").unwrap();
    let rules = parse_rules("[icmp: {between: [cluster-c/node/c1]}]").unwrap();
    assert!(AllowList::resolve(&rules, &topology).unwrap_err().to_string().contains("cluster-c/node/c1"));
    assert!(parse_rules("- arp\n- everything").unwrap_err().to_string().contains("line 2"));
}
