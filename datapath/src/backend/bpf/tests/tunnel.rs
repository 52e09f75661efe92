//! Both directions of the tunnel, on a real TUN with a pod in a namespace of its own: BPF_PROG_TEST_RUN always puts an
//! Ethernet header before a packet, and refuses one that is cut.

use super::{
    super::{Attachment, Bpf, Program},
    devices::{End, Pod, option, packet_socket, pod, set_option, silence, tun, until},
    mss::{assert_checksum, tcp},
    packets::{extended, fragment, raw_ip, udp},
    rig::{GATEWAY_MAC, MTU, POD_MAC, counted, furnish, ifindex, ip, on_each_hook},
};
use std::{fs, net::UdpSocket};

const ETHERNET: usize = 14;

struct World {
    bpf: Bpf,
    /// The tunnel's owner: what WireGuard would decrypt and encrypt.
    tunnel: End,
    pod: Pod,
}

fn world(test: impl Fn(World) + Sync) {
    on_each_hook(|host| {
        silence();
        let tunnel = tun("mesh0");
        let pod = pod("pod0", POD_MAC);
        let mut bpf = host.open();
        furnish(&mut bpf, ifindex("pod0"), ifindex("lo"), ifindex("mesh0"));
        for (program, device) in
            [(Program::FromTunnel, "mesh0"), (Program::ToTunnel, "mesh0"), (Program::FromPod, "pod0")]
        {
            bpf.attach(Attachment { program, ifindex: ifindex(device) }).expect("attached");
        }
        test(World { bpf, tunnel, pod });
    });
}

/// Without its Ethernet header.
fn bare(frame: &[u8]) -> Vec<u8> {
    frame[ETHERNET..].to_vec()
}

fn from(frame: Vec<u8>) -> Vec<u8> {
    bare(&frame)
}

#[test]
fn out_of_the_tunnel_only_pods_of_this_node_are_reached_and_only_by_the_mesh() {
    let v4 = |source, target| from(udp(source, target, 9));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("to a pod", v4("10.2.0.7", "10.1.0.5"), "delivered"),
        ("to a pod, IPv6", v4("fd02::7", "fd01::5"), "delivered"),
        ("a later fragment to a pod", from(fragment("10.2.0.7", "10.1.0.5")), "delivered"),
        ("extension headers to a pod", from(extended("fd02::7", "fd01::5")), "delivered"),
        ("SCTP to a pod", from(raw_ip("10.2.0.7", "10.1.0.5", 132, &[0; 12])), "delivered"),
        ("larger than the path", from(udp("10.2.0.7", "10.1.0.5", 1472)), "delivered"),
        // The kernel gives no header to what is larger than an skb may be (BPF_SKB_MAX_LEN: 16 KiB and its own data).
        ("larger than a frame may be", from(udp("10.2.0.7", "10.1.0.5", 16_200)), "not_delivered"),
        ("to the node", v4("10.2.0.7", "10.1.255.1"), "stack"),
        ("to the node, IPv6", v4("fd02::7", "fd01::ffff"), "stack"),
        ("to the LAN", v4("10.2.0.7", "192.0.2.1"), "not_local"),
        ("to a metadata service", v4("10.2.0.7", "169.254.169.254"), "not_local"),
        ("to loopback", v4("10.2.0.7", "127.0.0.1"), "not_local"),
        ("back into the mesh", v4("10.2.0.7", "10.2.0.8"), "not_local"),
        ("to a pod that is not here", v4("10.2.0.7", "10.1.0.9"), "not_local"),
        ("to all nodes", v4("fd02::7", "ff02::1"), "not_local"),
        ("from the world", v4("192.0.2.1", "10.1.0.5"), "foreign_source"),
        ("from the world, IPv6", v4("2001:db8::1", "fd01::5"), "foreign_source"),
        ("from a disconnected peer", v4("10.3.0.7", "10.1.0.5"), "foreign_source"),
        ("from the world, in fragments", from(fragment("192.0.2.1", "10.1.0.5")), "foreign_source"),
        ("from the world, extended", from(extended("2001:db8::1", "fd01::5")), "foreign_source"),
        ("as a local pod", v4("10.1.0.6", "10.1.0.5"), "spoofed_local"),
        ("as this node", v4("fd01::ffff", "fd01::5"), "spoofed_local"),
        ("half a header", v4("10.2.0.7", "10.1.0.5")[..19].to_vec(), "truncated"),
        ("half a header, IPv6", v4("fd02::7", "fd01::5")[..39].to_vec(), "truncated"),
        ("a header of 16 bytes", [&[0x44], &v4("10.2.0.7", "10.1.0.5")[1..]].concat(), "malformed"),
    ];
    world(|World { bpf, tunnel, pod }| {
        for (name, packet, expected) in cases.clone() {
            let before = bpf.drops().expect("counters");
            tunnel.send(&packet);
            // The kernel does all of it before write(2) returns.
            let reason = counted(&before, &bpf.drops().expect("counters"));
            match (expected, pod.end.try_receive()) {
                ("delivered", Some(frame)) => {
                    assert_eq!(frame[..6], POD_MAC, "{name}");
                    assert_eq!(bare(&frame), packet, "{name}");
                    assert_eq!(
                        frame[12..14],
                        if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] },
                        "{name}"
                    );
                }
                ("delivered", None) => panic!("{name}: not delivered, {reason}"),
                (_, Some(_)) => panic!("{name}: delivered"),
                ("stack", None) => assert_eq!(reason, "", "{name}"),
                (_, None) => assert_eq!(reason, expected, "{name}"),
            }
        }
    });
}

#[test]
fn into_the_tunnel_only_our_own_addresses_send_and_only_to_the_mesh() {
    let v4 = |source, target| from(udp(source, target, 9));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("from the node", v4("10.1.255.1", "10.2.0.7"), "sent"),
        ("from the node, IPv6", v4("fd01::ffff", "fd02::7"), "sent"),
        ("from a pod", v4("10.1.0.5", "10.2.0.7"), "sent"),
        ("a later fragment", from(fragment("10.1.255.1", "10.2.0.7")), "sent"),
        ("not masqueraded", v4("192.0.2.9", "10.2.0.7"), "not_ours"),
        ("not masqueraded, extended", from(extended("2001:db8::1", "fd02::7")), "not_ours"),
        ("as somebody in the mesh", v4("10.2.0.8", "10.2.0.7"), "not_ours"),
        ("to the world", v4("10.1.255.1", "192.0.2.1"), "not_routed"),
        ("to the world, IPv6", v4("fd01::ffff", "2001:db8::1"), "not_routed"),
        ("to a pod of this node", v4("10.1.255.1", "10.1.0.5"), "not_routed"),
        ("to a disconnected peer", v4("10.1.255.1", "10.3.0.7"), "closed"),
        ("to a disconnected peer, extended", from(extended("fd01::ffff", "fd03::7")), "closed"),
        ("a router solicitation", v4("fe80::1", "ff02::2"), "link_scope"),
        ("a multicast report", v4("10.1.255.1", "224.0.0.22"), "link_scope"),
        ("to a link-local address", v4("10.1.255.1", "169.254.169.254"), "link_scope"),
        ("half a header", v4("10.1.255.1", "10.2.0.7")[..19].to_vec(), "truncated"),
        ("a header of 16 bytes", [&[0x44], &v4("10.1.255.1", "10.2.0.7")[1..]].concat(), "malformed"),
    ];
    world(|World { bpf, tunnel, .. }| {
        let host = packet_socket("mesh0");
        for (name, packet, expected) in cases.clone() {
            let before = bpf.drops().expect("counters");
            host.send_as(&packet, "mesh0");
            let reason = counted(&before, &bpf.drops().expect("counters"));
            match (expected, tunnel.try_receive()) {
                ("sent", Some(sent)) => assert_eq!(sent, packet, "{name}"),
                ("sent", None) => panic!("{name}: not sent, {reason}"),
                (_, Some(_)) => panic!("{name}: sent"),
                (_, None) => assert_eq!(reason, expected, "{name}"),
            }
        }
    });
}

#[test]
fn what_came_out_of_the_tunnel_is_not_forwarded_into_it() {
    world(|World { mut bpf, tunnel, .. }| {
        // Two mistakes at once: nobody looks at what comes out, and the host routes.
        bpf.detach(Attachment { program: Program::FromTunnel, ifindex: ifindex("mesh0") }).expect("detached");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a setting");
        ip("route add 10.2.0.0/16 dev mesh0");
        let before = bpf.drops().expect("counters");
        tunnel.send(&bare(&udp("10.2.0.7", "10.2.0.8", 9)));
        assert_eq!(counted(&before, &bpf.drops().expect("counters")), "hairpin");
        assert_eq!(tunnel.try_receive(), None);
    });
}

#[test]
fn a_pods_packet_leaves_by_the_tunnel_without_its_link_layer() {
    world(|World { tunnel, pod, .. }| {
        for frame in [udp("10.1.0.5", "10.2.0.7", 9), udp("fd01::5", "fd02::7", 9)] {
            pod.end.send(&frame);
            assert_eq!(tunnel.receive(), bare(&frame));
        }
    });
}

#[test]
fn a_pods_packet_that_is_too_big_comes_back_as_the_answer() {
    world(|World { tunnel, pod, .. }| {
        let cases =
            [(udp("10.1.0.5", "10.2.0.7", 1450), 42, 512), (udp("fd01::5", "fd02::7", 1430), 62, 1216)];
        for (frame, headers, quote) in cases {
            let answer_bytes = headers + quote;
            pod.end.send(&frame);
            let answer = pod.end.receive_from(GATEWAY_MAC);
            assert_eq!(answer.len(), answer_bytes);
            assert_eq!(answer[..6], POD_MAC);
            assert_eq!(answer[answer_bytes - quote..], frame[ETHERNET..ETHERNET + quote]);
            assert_eq!(tunnel.try_receive(), None);
        }
    });
}

#[test]
fn a_pods_own_stack_believes_the_answer() {
    // (linux/in.h, linux/in6.h; the standard library has no name for them)
    let families = [
        ("10.1.0.5:0", "10.2.0.7:53", libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_MTU),
        ("[fd01::5]:0", "[fd02::7]:53", libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_MTU),
    ];
    world(|World { pod, tunnel, .. }| {
        pod.inside(|| {
            fs::write("/proc/sys/net/ipv6/conf/pod0-p/disable_ipv6", "0").expect("a setting");
            for arguments in [
                "addr add 10.1.0.5/24 dev pod0-p",
                "addr add fd01::5/64 dev pod0-p nodad",
                "neigh add 10.1.0.1 lladdr 02:00:00:00:00:01 dev pod0-p",
                "neigh add fd01::1 lladdr 02:00:00:00:00:01 dev pod0-p",
                "route add default via 10.1.0.1",
                "-6 route add default via fd01::1",
            ] {
                ip(arguments);
            }
            for (from, to, level, discover, mtu) in families {
                let socket = UdpSocket::bind(from).expect("the pod's address");
                set_option(&socket, level, discover, libc::IP_PMTUDISC_DO);
                socket.connect(to).expect("a route");
                assert_eq!(option(&socket, level, mtu), 1500, "{to}");
                socket.send(&[0x5a; 1440]).expect("nobody knows better yet");
                until("the path's MTU", || (option(&socket, level, mtu) == i32::from(MTU)).then_some(()));
                // The answer may have left an error for the next call: that is taken first.
                let too_big = socket
                    .send(&[0x5a; 1440])
                    .or_else(|_| socket.send(&[0x5a; 1440]))
                    .expect_err("known now");
                assert_eq!(too_big.raw_os_error(), Some(libc::EMSGSIZE), "{to}: {too_big}");
                let largest = usize::from(MTU) - if level == libc::IPPROTO_IP { 28 } else { 48 };
                socket
                    .send(&vec![0x5a; largest])
                    .or_else(|_| socket.send(&vec![0x5a; largest]))
                    .expect("it fits");
                assert_eq!(tunnel.receive().len(), usize::from(MTU), "{to}");
            }
        });
    });
}

#[test]
fn segment_sizes_are_clamped_in_both_directions() {
    // 1460 → 1420 - 20 - 20
    let (large, fits) = ([2, 4, 0x05, 0xb4], [2, 4, 0x05, 0x64]);
    assert_eq!(MTU, 1420);
    world(|World { tunnel, pod, .. }| {
        let out = tcp("10.1.0.5", "10.2.0.7", true, &large, 0);
        pod.end.send(&out);
        assert_eq!(tunnel.receive()[40..], fits);

        let into = tcp("10.2.0.7", "10.1.0.5", true, &large, 0);
        tunnel.send(&bare(&into));
        let frame = pod.end.receive_to(POD_MAC);
        assert_eq!(frame[ETHERNET + 40..], fits);
        assert_checksum("into the pod", &frame);
    });
}

#[test]
fn an_uplink_without_ethernet_headers_is_guarded_too() {
    world(|World { mut bpf, .. }| {
        let provider = tun("wan0");
        for program in [Program::UplinkOut, Program::UplinkIn] {
            bpf.attach(Attachment { program, ifindex: ifindex("wan0") }).expect("attached");
        }
        let host = packet_socket("wan0");
        // The last two have an Ethernet type where a careless reader would look for it, in the source address.
        let out = [
            ("to the mesh", udp("192.0.2.9", "10.2.0.7", 9), "plain"),
            ("to the mesh, IPv6", udp("2001:db8::9", "fd02::7", 9), "plain"),
            ("to the world", udp("192.0.2.9", "198.51.100.1", 9), ""),
            ("from 8.0.69.0 to the mesh", udp("8.0.69.0", "10.2.0.7", 9), "plain"),
            ("from 134.221.96.0 to the mesh", udp("134.221.96.0", "10.2.0.7", 9), "plain"),
        ];
        for (name, frame, expected) in out {
            let before = bpf.drops().expect("counters");
            host.send_as(&bare(&frame), "wan0");
            assert_eq!(counted(&before, &bpf.drops().expect("counters")), expected, "{name}");
            assert_eq!(provider.try_receive(), expected.is_empty().then(|| bare(&frame)), "{name}");
        }
        let into = [
            ("as somebody in the mesh", udp("10.2.0.7", "10.1.0.5", 9), "spoofed_mesh"),
            ("as a local pod, IPv6", udp("fd01::5", "fd01::ffff", 9), "spoofed_local"),
            ("from the world", udp("198.51.100.1", "192.0.2.9", 9), ""),
        ];
        for (name, frame, expected) in into {
            let before = bpf.drops().expect("counters");
            provider.send(&bare(&frame));
            assert_eq!(counted(&before, &bpf.drops().expect("counters")), expected, "{name}");
        }
    });
}

#[test]
fn a_cut_frame_is_dropped_wherever_it_comes_in() {
    world(|World { mut bpf, pod: sender, .. }| {
        for program in [Program::FromPod, Program::UplinkIn] {
            let at = Attachment { program, ifindex: ifindex("pod0") };
            bpf.detach(Attachment { program: Program::FromPod, ..at }).expect("detached");
            bpf.attach(at).expect("attached");
            for (frame, bytes) in [(udp("10.2.0.7", "10.1.0.5", 9), 33), (udp("fd02::7", "fd01::5", 9), 53)] {
                let before = bpf.drops().expect("counters");
                sender.end.send(&frame[..bytes]);
                // The pair of devices hands a frame over in a softirq: wait until it was judged, however.
                let after =
                    until("a verdict", || Some(bpf.drops().expect("counters")).filter(|now| *now != before));
                assert_eq!(counted(&before, &after), "truncated", "{program}");
            }
        }
    });
}
