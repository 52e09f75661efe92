//! Packets of every size arrive, and the underlay's ICMP has no part in it.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use e2e::report;
use lab::Traffic;

use crate::story::{SHOWN, Story};

/// Sizes of whole IP packets: from what every link takes for small to a pod's MTU.
const SIZES: std::ops::RangeInclusive<usize> = 64..=1500;

/// A packet that has not come back by now was lost: the underlay is this machine, which may be busy.
const PATIENCE: Duration = Duration::from_secs(1);

/// The two ends, bridged on one side and routed on the other, in both families.
const PAIRS: [(&str, &str, &str, &str); 4] = [
    ("cluster-a/pod/client", "10.1.1.10", "cluster-b/pod/shell", "10.2.2.10"),
    ("cluster-a/pod/shell", "10.1.2.10", "cluster-b/pod/client", "10.2.1.10"),
    ("cluster-a/pod/client", "fd00:10:1:1::10", "cluster-b/pod/shell", "fd00:10:2:2::10"),
    ("cluster-a/pod/shell", "fd00:10:1:2::10", "cluster-b/pod/client", "fd00:10:2:1::10"),
];

/// What a node counts for each Packet Too Big that it makes.
const TOO_BIG: &str = "mesh_agent_drops{reason=\"too_big\"}";

#[test]
fn packets_of_every_size_arrive_with_icmp_blocked_on_the_underlay_after_at_most_one_packet_too_big() {
    let story = Story::connected("sizes");
    story.lab.cut("cluster-a", "cluster-b", Traffic::Icmp).unwrap();

    // As sockets are by default: Don't Fragment, until the path is known to be smaller.
    for (here, at, there, to) in PAIRS {
        let lost = exchange(&story, (here, at), (there, to));
        assert!(
            lost <= 2,
            "{here} {at} ⇄ {there} {to}: one a direction may be lost to the Packet Too Big, {lost} were"
        );
    }
    // Without Don't Fragment (IPv4 alone has that), nothing is lost at all.
    for pod in ["cluster-a/pod/client", "cluster-a/pod/shell", "cluster-b/pod/client", "cluster-b/pod/shell"]
    {
        story.said(pod, "sysctl -qw net.ipv4.ip_no_pmtu_disc=1 && ip route flush cache");
    }
    for (here, at, there, to) in &PAIRS[..2] {
        assert_eq!(exchange(&story, (here, at), (there, to)), 0, "{here} {at} ⇄ {there} {to} without DF");
    }
    for pod in ["cluster-a/pod/client", "cluster-a/pod/shell", "cluster-b/pod/client", "cluster-b/pod/shell"]
    {
        story.said(pod, "sysctl -qw net.ipv4.ip_no_pmtu_disc=0");
    }
    // At most one Packet Too Big per direction and family: each node has one end of each, four in all.
    for node in ["cluster-a/node/a1", "cluster-a/node/a2", "cluster-b/node/b1", "cluster-b/node/b2"] {
        let made = story.agent_metric(node, TOO_BIG);
        assert!(made <= 2, "{node} made {made} Packets Too Big, one for each family is enough");
    }

    // A ping that must not be fragmented: up to the path's MTU it passes, beyond it is told what fits.
    for (place, to, header) in
        [("cluster-a/pod/cart-1", "10.2.2.11", 28), ("cluster-a/pod/cart-2", "fd00:10:2:1::11", 48)]
    {
        story.said(place, &format!("ping -c1 -W2 -M do -s {} {to}", 1420 - header));
        let (code, stdout, stderr) =
            story.sh(place, &format!("ping -c2 -W2 -M do -s {} {to}", 1500 - header));
        let told = format!("{stdout}{stderr}");
        assert!(code != 0 && told.contains("mtu") && told.contains("1420"), "{place} {to}: {told}");
    }

    for (here, _, there, to) in PAIRS {
        bulk(&story, here, there, to);
        // TCP clamps its segments from the first SYN on; nothing was too big.
    }
}

/// Sends a packet of every size and has it sent back; returns how many were lost.
fn exchange(story: &Story, (here, at): (&str, &str), (there, to): (&str, &str)) -> usize {
    let at: IpAddr = at.parse().unwrap();
    let to: IpAddr = to.parse().unwrap();
    let bind = |place: &str, address: IpAddr| {
        let socket = story.lab.inside(place, || UdpSocket::bind((address, 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (here, there) = (bind(here, at), bind(there, to));
    let (at, to) = (here.local_addr().unwrap(), there.local_addr().unwrap());
    let headers = if at.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let (mut again, mut late) = (0, 0);
    for size in SIZES {
        let payload = payload(size - headers);
        for (from, by, target) in [(&here, &there, to), (&there, &here, at)] {
            let mut passes = || passes(from, by, target, &payload, &mut late);
            if !passes() {
                assert!(passes(), "{size} bytes to {target} were lost twice");
                again += 1;
            }
        }
    }
    again - late
}

/// Sends one packet and looks whether it arrives in time; counts those that were sent again and came late after all.
fn passes(from: &UdpSocket, by: &UdpSocket, target: SocketAddr, payload: &[u8], late: &mut usize) -> bool {
    // The second of two packets that are too big is refused by the sender's own kernel, which then knows the path.
    if let Err(error) = from.send_to(payload, target) {
        assert!(error.raw_os_error() == Some(nix::libc::EMSGSIZE), "cannot send to {target}: {error}");
        return false;
    }
    let mut heard = [0; 2048];
    loop {
        match by.recv_from(&mut heard) {
            Ok((length, _)) => {
                assert_eq!(&heard[..length], self::payload(length), "what arrives is what was sent");
                if length == payload.len() {
                    return true;
                }
                *late += 1;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("cannot receive: {error}"),
        }
    }
}

/// The one payload of so many bytes.
fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + bytes) as u8).collect()
}

/// A transfer as fast as it goes, each byte checked by the receiver.
fn bulk(story: &Story, here: &str, there: &str, to: &str) {
    let mut server =
        story.traffic(there, &["tcp-stream", "serve", "--port", "9000", "--seconds", "30"]).unwrap();
    story.await_tcp(there, 9000, SHOWN).unwrap();
    let target = SocketAddr::new(to.parse().unwrap(), 9000).to_string();
    let args = ["tcp-stream", "send", "--target", &target, "--seconds", "1", "--rate-kbit", "0"];
    let sent = report(story.traffic(here, &args).unwrap()).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(
        sent["error"].is_null() && sent["bytes"] == sent["acknowledged"],
        "{here} → {there} {to}: {sent}"
    );
    // Segments larger than the path left 58 kbit/s when they were measured, 7 kB in this second. A machine that is busy
    // with other things still moves megabytes.
    assert!(sent["bytes"].as_u64() > Some(200_000), "{here} → {there} {to}: {sent}");
}
