//! What `mesh-tunnel` and the kernel's WireGuard promise, with real packets: two hosts in network namespaces, driven as
//! the agent drives them. Tests that need the kernel's are run by `make test-kernels`.
//!
//! Needs root. Nothing outside the namespaces is touched, but for one socket in `/var/run/wireguard`.

use std::{
    io::{Read as _, Write as _},
    net::UdpSocket,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    time::{Duration, Instant},
};

use datapath::backend::wireguard::{Device, Kind, Peer, PrivateKey, Step, plan};

mod calls;
mod lab;
mod relay;
mod sniffer;
mod stream;

use lab::{Host, Lab, PORT, Underlay};
use sniffer::Sniffer;
use stream::{CANARY, Stream, packet, sockets};

/// A restarted tunnel carries traffic again within it; by the protocol's timers alone it takes 15 s.
const RESUMED: Duration = Duration::from_secs(10);
/// A tunnel that starts has a session within a moment, and repeats what is not answered after 5 s: longer than both.
const UNHEARD: Duration = Duration::from_secs(7);

#[test]
fn no_configuration_call_costs_a_packet_or_moves_a_foreign_address() {
    no_call_costs_a_packet(&Lab::new(1420, Underlay::V4));
}

#[test]
#[ignore = "needs a kernel with WireGuard: make test-kernels"]
fn no_call_costs_a_packet_of_the_kernel_or_moves_a_foreign_address() {
    no_call_costs_a_packet(&Lab::of([Kind::Kernel; 2], 1420, Underlay::V4));
}

#[test]
#[ignore = "needs a kernel with WireGuard: make test-kernels"]
fn no_call_costs_a_packet_between_the_kernel_and_mesh_tunnel() {
    no_call_costs_a_packet(&Lab::of([Kind::Kernel, Kind::Userspace], 1420, Underlay::V4));
}

fn no_call_costs_a_packet(lab: &Lab) {
    let stream = Stream::start(lab);
    stream.advance(calls::PACKETS, "before any call");
    for (host, other) in [(&lab.one, &lab.two), (&lab.two, &lab.one)] {
        calls::all(host, other, &stream);
    }
    stream.end();
}

#[test]
fn a_killed_tunnel_sends_nothing_in_plain_and_its_successor_goes_on_by_itself() {
    let mut lab = Lab::new(1420, Underlay::V4);
    let sniffer = Sniffer::new(&lab.one.place);
    let (under, tun) = (lab.one.place.ifindex("under"), lab.one.place.ifindex("mesh1"));
    arrives_again(&lab, "before anything was killed");

    lab.one.kill();
    let (sender, _, to) = sockets(&lab);
    for number in 0..1_000 {
        // The device drops, or says so: both are well.
        drop(sender.send_to(&packet(number), to));
    }
    // A plain packet by hand ends the watch, and shows that plain packets are seen.
    let planted = lab.one.place.run(|| UdpSocket::bind("192.0.2.1:0")).expect("the underlay's address");
    planted.send_to(b"PLANTED", "192.0.2.2:7").expect("the underlay carries it");
    let frames = sniffer.until(b"PLANTED");
    let (plain, inside): (Vec<_>, Vec<_>) =
        frames.iter().filter(|frame| frame.has(CANARY)).partition(|frame| frame.ifindex != tun);
    assert!(!inside.is_empty(), "the sniffer sees the canary where it is in plain by right");
    assert_eq!(plain.len(), 0, "frames in plain outside the tunnel");
    for frame in frames.iter().filter(|frame| frame.ifindex == under && !frame.has(b"PLANTED")) {
        assert!(is_expected(&frame.bytes), "an unexpected frame on the underlay: {:02x?}", frame.bytes);
    }

    let index = lab.one.place.ifindex("mesh1");
    lab.one.start();
    assert_eq!(lab.one.place.ifindex("mesh1"), index, "the device was taken over, not made anew");
    arrives_again(&lab, "the sender's tunnel started again");
    // The sender still has a session that the receiver's new process cannot know.
    lab.two.kill();
    lab.two.start();
    arrives_again(&lab, "the receiver's tunnel started again");
}

#[test]
fn a_host_whose_clock_went_back_is_heard_again_as_soon_as_its_peer_was_made_anew() {
    let mut lab = Lab::new(1420, Underlay::V4);
    for (ahead, when) in [(Duration::from_secs(3_600), "an hour ahead"), (Duration::ZERO, "an hour back")] {
        lab.one.kill();
        lab.one.clock_ahead = ahead;
        lab.one.start();
        if !ahead.is_zero() {
            arrives_again(&lab, when);
        }
    }
    // The new process opens a session at once, and its peer does not answer a stamp of an hour ago.
    let (sender, receiver, to) = sockets(&lab);
    receiver.set_read_timeout(Some(UNHEARD)).expect("a timeout");
    sender.send_to(&packet(0), to).expect("the tunnel's device takes it");
    let heard = receiver.recv(&mut [0; 64]);
    assert!(heard.is_err(), "a clock that went back is no matter, and what this test is about has no reason");

    let two = lab.two.tunnel();
    let before = two.observe().expect("the tunnel answers").peers[&lab.one.key.public()].clone();
    let peer = Peer {
        endpoint: before.endpoint,
        allowed_ips: before.allowed_ips.clone(),
        keepalive_s: before.keepalive_s,
    };
    two.apply(&[Step::RenewPeer { key: lab.one.key.public(), peer }]).expect("a peer is made anew");
    arrives_again(&lab, "after the peer was made anew");
    let after = two.observe().expect("the tunnel answers");
    assert_eq!(after.peers.keys().collect::<Vec<_>>(), [&lab.one.key.public()], "the parking peer is gone");
    let after = &after.peers[&lab.one.key.public()];
    assert_eq!((after.endpoint, &after.allowed_ips), (before.endpoint, &before.allowed_ips));
}

/// Neighbour discovery of both families (and the multicast of a new IPv6 device), and the tunnel's own packets.
fn is_expected(frame: &[u8]) -> bool {
    let udp_ports =
        |at: usize| frame.get(at..at + 4) == Some(&[PORT.to_be_bytes(), PORT.to_be_bytes()].concat()[..]);
    match frame.get(12..14) {
        Some([0x08, 0x06]) => true,
        Some([0x08, 0x00]) => frame.get(23) == Some(&17) && udp_ports(34),
        Some([0x86, 0xdd]) => frame.get(38) == Some(&0xff) || frame.get(20) == Some(&58),
        Some(_) | None => false,
    }
}

/// Sends until a packet arrives, and holds that it did not take the protocol's timers.
fn arrives_again(lab: &Lab, when: &str) {
    let (sender, receiver, to) = sockets(lab);
    let start = Instant::now();
    let mut buffer = [0; 64];
    loop {
        drop(sender.send_to(&packet(0), to));
        if receiver.recv(&mut buffer).is_ok() {
            return;
        }
        assert!(start.elapsed() < RESUMED, "nothing arrives: {when}");
    }
}

#[test]
fn packets_of_every_size_arrive_whatever_the_underlay_takes_at_once() {
    for underlay in [Underlay::V4, Underlay::V6] {
        // The underlay takes 1500 bytes: the larger outer packets are fragmented.
        let lab = Lab::new(2_000, underlay);
        let (sender, receiver, to) = sockets(&lab);
        receiver.set_read_timeout(Some(RESUMED)).expect("a timeout");
        let mut buffer = [0; 2_048];
        for bytes in (1..=1_972).step_by(3).chain([1_360, 1_392, 1_420, 1_440, 1_472, 1_500, 1_972]) {
            let sent: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            sender.send_to(&sent, to).expect("the tunnel's device takes it");
            let received =
                receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{bytes} bytes: {error}"));
            assert_eq!(&buffer[..received], sent);
        }
    }
}

#[test]
fn a_new_key_or_port_is_taken_over_the_same_device() {
    let mut lab = Lab::new(1420, Underlay::V6);
    arrives_again(&lab, "with the first key");
    let index = lab.one.place.ifindex("mesh1");
    let before = lab.one.key.public();
    lab.one.key = PrivateKey::generate();

    let two = lab.two.as_peer(&Underlay::V6.address(2));
    let wanted = Device { port: 4_242, ..lab.one.device([(lab.two.key.clone(), two)]) };
    converge(&lab.one, &wanted);
    // The address moves to the new key as it is added; the old one is forgotten.
    converge(
        &lab.two,
        &lab.two.device([(lab.one.key.clone(), Peer { endpoint: None, ..lab.one.as_peer("[::1]") })]),
    );
    arrives_again(&lab, "with a new key and port");

    let seen = lab.two.tunnel().observe().expect("the tunnel answers");
    assert!(!seen.peers.contains_key(&before));
    let one = &seen.peers[&lab.one.key.public()];
    assert_eq!(one.endpoint, "[2001:db8::1]:4242".parse().ok(), "learnt from the peer's own packets");
    assert!(one.last_handshake.is_some() && one.rx_bytes > 0);
    assert_eq!(lab.one.place.ifindex("mesh1"), index);

    // What was learnt outlives the process: it opens the session, though nothing was ever configured.
    lab.two.tunnel().observe().expect("the tunnel answers");
    converge(
        &lab.two,
        &Device {
            fwmark: 7,
            ..lab.two.device([(lab.one.key.clone(), Peer { endpoint: None, ..lab.one.as_peer("[::1]") })])
        },
    );
    lab.two.kill();
    lab.two.start();
    arrives_again(&lab, "after the peer that only knows what it learnt started again");
}

fn converge(host: &Host, wanted: &Device) {
    let tunnel = host.tunnel();
    tunnel.apply(&plan(wanted, &tunnel.observe().expect("the tunnel answers"))).expect("the steps apply");
    assert_eq!(plan(wanted, &tunnel.observe().expect("the tunnel answers")), []);
}

#[test]
fn malformed_input_changes_nothing_and_nobody_else_may_speak() {
    let lab = Lab::new(1420, Underlay::V4);
    let socket = lab.one.uapi_dir.join("mesh1.sock");
    let say = |text: &str| {
        let mut stream = UnixStream::connect(&socket).expect("the socket answers");
        stream.write_all(text.as_bytes()).expect("it is read");
        stream.shutdown(std::net::Shutdown::Write).expect("a half close");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    };
    // Counters and handshakes go on by themselves.
    let config = || {
        let answer = say("get=1\n\n");
        let lines = answer.lines().filter(|line| !line.contains("_bytes") && !line.contains("handshake"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let before = config();
    let key = lab.two.key.public();
    for malformed in [
        "set=1\nlisten_port=70000\n\n".to_owned(),
        "set=1\nunknown=1\n\n".to_owned(),
        "hello\n\n".to_owned(),
        // All of it is read before any of it is done.
        format!("set=1\nfwmark=1\npublic_key={key}\nremove=true\nallowed_ip=nonsense\n\n"),
        format!("set=1\npublic_key={key}\nallowed_ip=10.0.0.0/8\nendpoint=example.org:1\n\n"),
    ] {
        assert_eq!(say(&malformed), "errno=22\n\n", "{malformed}");
        assert_eq!(config(), before, "{malformed}");
    }
    assert_eq!(say("set=1\nfwmark=1\n"), "", "a request that does not end is none");
    assert_eq!(config(), before);
    // One connection may say several things.
    assert_eq!(
        say("set=1\nfwmark=5\n\nset=2\n\nset=1\nfwmark=28005\n\n"),
        "errno=0\n\nerrno=22\n\nerrno=0\n\n"
    );
    assert_eq!(config(), before);

    let mode = std::fs::metadata(&socket).expect("the socket's file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = lab.one.place.run(|| lab.one.command().output().expect("the binary runs"));
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("error: mesh1 is served by another process; stop that one first"), "{said}");
    assert_eq!(config(), before, "the first one still serves");
}

#[test]
fn a_request_without_end_is_cut() {
    let lab = Lab::new(1420, Underlay::V4);
    let mut stream = UnixStream::connect(lab.one.uapi_dir.join("mesh1.sock")).expect("the socket answers");
    let line = [b'x'; 1 << 20];
    let written = (0..8).take_while(|_| stream.write_all(&line).is_ok()).count();
    assert!(written < 8, "it stopped reading at its bound");
    lab.one.tunnel();
}

#[test]
fn wireguard_control_reads_our_answers() {
    use wireguard_control::{Backend, DeviceUpdate, Key};
    let dir = tempfile::tempdir().expect("a directory");
    // The library looks in one directory only; the name is ours alone.
    let interface = format!("mt{}", std::process::id());
    let host = Host::named(&interface, std::path::Path::new("/var/run/wireguard"), dir.path());
    let other = Key::generate_private().get_public();
    let name = interface.parse().expect("a name");
    DeviceUpdate::new()
        .set_private_key(Key::from_base64(&host.key.to_base64()).expect("a key"))
        .set_listen_port(PORT)
        .set_fwmark(lab::FWMARK)
        .add_peer_with(&other, |peer| {
            peer.set_endpoint("192.0.2.9:9".parse().expect("an address"))
                .set_preshared_key(Key([9; 32]))
                .set_persistent_keepalive_interval(25)
                .replace_allowed_ips()
                .add_allowed_ip("10.1.2.3".parse().expect("an address"), 16)
        })
        .apply(&name, Backend::Userspace)
        .expect("the library configures us");
    let device = wireguard_control::Device::get(&name, Backend::Userspace).expect("the library reads us");
    assert_eq!(device.public_key.map(|key| key.0), Some(host.key.public().0));
    assert_eq!((device.listen_port, device.fwmark), (Some(PORT), Some(lab::FWMARK)));
    let [peer] = &device.peers[..] else { panic!("one peer: {:?}", device.peers.len()) };
    assert_eq!(peer.config.public_key, other);
    assert_eq!(peer.config.endpoint, "192.0.2.9:9".parse().ok());
    assert_eq!(peer.config.persistent_keepalive_interval, Some(25));
    assert_eq!(peer.config.preshared_key, Some(Key([9; 32])));
    assert_eq!(format!("{:?}", peer.config.allowed_ips), "[10.1.0.0/16]");
    assert_eq!(peer.stats.last_handshake_time, None);
}
