//! Programs of one host with identities of their own: real sockets of two tenants and of the host, on a real TUN.
#![allow(unsafe_code)]

mod changes;

use super::{
    super::{Attachment, Bpf, CgroupRow, DropReason, LocalRow, MapStep, Program, TenancyRow, TenantRow},
    devices::{End, packet_socket, silence, tun, until},
    mss::tcp,
    packets::udp,
    rig::{Host, at, chain, counted, enter, furnish, ifindex, ip, on_a_host},
};
use crate::cgroups::{self, level};
use nix::sys::socket as sys;
use std::{
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

const ETHERNET: usize = 14;
const HOST: [&str; 2] = ["10.1.255.1", "fd01::ffff"];
const A: [&str; 2] = ["10.1.255.2", "fd01::a"];
const B: [&str; 2] = ["10.1.255.3", "fd01::b"];
const OUTSIDE: [&str; 2] = ["10.2.0.7", "fd02::7"];

/// Cgroups below the test's own. Gone with this, and the thread is back above them.
struct Cgroups {
    root: PathBuf,
    made: Vec<PathBuf>,
}

impl Cgroups {
    fn make(&mut self, name: &str) -> PathBuf {
        let dir = self.root.join(name);
        fs::create_dir(&dir).expect("a cgroup");
        self.made.push(dir.clone());
        fs::write(dir.join("cgroup.type"), "threaded").expect("a threaded cgroup");
        dir
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        enter(&self.root);
        self.made.iter().for_each(|dir| fs::remove_dir(dir).expect("nobody is in it"));
    }
}

fn id(cgroup: &Path) -> u64 {
    cgroups::id(cgroup).expect("it is there")
}

fn row(addresses: [&str; 2]) -> TenantRow {
    TenantRow { v4: addresses[0].parse().ok(), v6: addresses[1].parse().ok() }
}

struct World {
    bpf: Bpf,
    tunnel: End,
    cgroups: Cgroups,
    /// Of tenants.
    a: PathBuf,
    b: PathBuf,
    /// Of nobody.
    other: PathBuf,
}

impl World {
    fn of(host: &Host) -> Self {
        silence();
        let tunnel = tun("mesh0");
        // IPv6, but no link-local address, for which the stack would look for routers.
        for (device, key, value) in
            [("mesh0", "addr_gen_mode", "1"), ("mesh0", "disable_ipv6", "0"), ("lo", "disable_ipv6", "0")]
        {
            fs::write(format!("/proc/sys/net/ipv6/conf/{device}/{key}"), value).expect("a setting");
        }
        for [v4, v6] in [HOST, A, B] {
            ip(&format!("address add {v4}/32 dev mesh0"));
            ip(&format!("-6 address add {v6}/128 dev mesh0 nodad"));
        }
        ip(&format!("route add 10.2.0.0/16 dev mesh0 src {}", HOST[0]));
        ip(&format!("-6 route add fd02::/64 dev mesh0 src {}", HOST[1]));
        let mut bpf = host.open();
        furnish(&mut bpf, 70, 80, ifindex("mesh0"));
        let mut cgroups = Cgroups { root: host.cgroup.clone(), made: Vec::new() };
        let [a, b, other] = ["a", "b", "other"].map(|name| cgroups.make(name));
        for program in [Program::FromTunnel, Program::ToTunnel] {
            bpf.attach(Attachment { program, ifindex: ifindex("mesh0") }).expect("attached");
        }
        let tenants = [(&a, A), (&b, B)];
        let rows =
            tenants.iter().map(|(cgroup, it)| MapStep::PutCgroup(id(cgroup), CgroupRow::Tenant(row(*it))));
        let level = level(&host.cgroup).expect("it is a cgroup");
        let locals = [A, B].concat().into_iter().map(|own| MapStep::PutLocal(at(own), LocalRow::Tenant));
        let steps: Vec<_> = rows
            .chain([MapStep::PutCgroup(id(&host.cgroup), CgroupRow::Above)])
            .chain(locals)
            .chain([MapStep::PutTenancy(TenancyRow { newest_cgroup: id(&other), tenants: 2, level })])
            .collect();
        steps.iter().for_each(|step| bpf.apply(step).unwrap_or_else(|e| panic!("{step:?}: {}", chain(&e))));
        bpf.hold_apart().unwrap_or_else(|e| panic!("{}", chain(&e)));
        Self { bpf, tunnel, cgroups, a, b, other }
    }

    /// Each of the three in its cgroup, and the addresses that are its own.
    fn each(&self, mut body: impl FnMut(&str, [&str; 2])) {
        for (name, cgroup, own) in [("a", &self.a, A), ("b", &self.b, B), ("the host", &self.other, HOST)] {
            enter(cgroup);
            body(name, own);
        }
    }

    /// The reason that was counted meanwhile.
    fn reason<T>(&self, body: impl FnOnce() -> T) -> (T, String) {
        let before = self.bpf.drops().expect("counters");
        let result = body();
        (result, counted(&before, &self.bpf.drops().expect("counters")))
    }
}

/// A host with two tenants.
fn world(test: impl FnOnce(World) + Send) {
    on_a_host(|host| test(World::of(host)));
}

/// Source and destination of an IP packet.
fn ends(packet: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |from: usize| IpAddr::from(*packet[from..].first_chunk::<4>().expect("an address"));
    let v6 = |from: usize| IpAddr::from(*packet[from..].first_chunk::<16>().expect("an address"));
    match packet[0] >> 4 {
        4 => (v4(12), v4(16)),
        _ => (v6(8), v6(24)),
    }
}

/// Starts to connect, and does not wait.
fn connect(to: &str, bound: Option<&str>) -> io::Result<OwnedFd> {
    let to: SocketAddr = to.parse().expect("an address with a port");
    let family = if to.is_ipv4() { sys::AddressFamily::Inet } else { sys::AddressFamily::Inet6 };
    let flags = sys::SockFlag::SOCK_NONBLOCK | sys::SockFlag::SOCK_CLOEXEC;
    let socket = sys::socket(family, sys::SockType::Stream, flags, None)?;
    if let Some(bound) = bound {
        let bound: SocketAddr = bound.parse().expect("an address with a port");
        sys::bind(socket.as_raw_fd(), &sys::SockaddrStorage::from(bound))?;
    }
    match sys::connect(socket.as_raw_fd(), &sys::SockaddrStorage::from(to)) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn loose(from: &str, to: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(from)?;
    socket.send_to(b"loose", to)?;
    Ok(socket)
}

fn bound(from: &str, to: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    socket.send(b"bound")?;
    Ok(socket)
}

#[test]
fn what_a_tenant_says_to_the_mesh_comes_from_its_own_address_and_what_the_host_says_from_the_hosts() {
    world(|world| {
        world.each(|who, own| {
            let from = |what: &str, own: &str| {
                let (source, target) = ends(&world.tunnel.receive());
                assert_eq!(source, at(own), "{who}, {what}");
                assert!(OUTSIDE.map(at).contains(&target), "{who}, {what}: to {target}");
            };
            let _tcp = connect("10.2.0.7:80", None).expect(who);
            from("TCP", own[0]);
            let _tcp = connect("[fd02::7]:80", None).expect(who);
            from("TCP, IPv6", own[1]);
            let _tcp = connect("[::ffff:10.2.0.7]:80", None).expect(who);
            from("TCP, v4-mapped", own[0]);
            let _tcp = connect("10.2.0.7:80", Some(&format!("{}:0", own[0]))).expect(who);
            from("TCP, bound to its own address", own[0]);
            let _udp = loose("0.0.0.0:0", "10.2.0.7:53").expect(who);
            from("UDP", own[0]);
            let _udp = loose("[::]:0", "[fd02::7]:53").expect(who);
            from("UDP, IPv6", own[1]);
            let _udp = loose("[::]:0", "[::ffff:10.2.0.7]:53").expect(who);
            from("UDP, v4-mapped", own[0]);
            let _udp = bound(&format!("{}:0", own[0]), "10.2.0.7:53").expect(who);
            from("UDP, bound and connected", own[0]);
            let _udp = bound(&format!("[{}]:0", own[1]), "[fd02::7]:53").expect(who);
            from("UDP, bound and connected, IPv6", own[1]);
        });
        enter(&world.a);
        let (refused, reason) = world.reason(|| bound("0.0.0.0:0", "10.2.0.7:53"));
        let refused = refused.expect_err("it has a port of all addresses, and can be given none any more");
        assert_eq!((refused.kind(), reason.as_str()), (ErrorKind::PermissionDenied, "wrong_source"));
        assert_eq!(world.tunnel.try_receive(), None);
    });
}

#[test]
fn nobody_binds_to_an_address_of_another() {
    world(|world| {
        world.each(|who, own| {
            for address in [HOST, A, B].concat().into_iter().chain(["0.0.0.0", "::", "127.0.0.1", "::1"]) {
                let to = SocketAddr::new(at(address), 0);
                let others = [HOST, A, B].iter().any(|of| *of != own && of.contains(&address));
                let udp = || UdpSocket::bind(to).map(drop);
                let tcp = || TcpListener::bind(to).map(drop);
                for (result, reason) in [world.reason(udp), world.reason(tcp)] {
                    match result {
                        Err(error) if others => {
                            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{who}, {address}");
                            assert_eq!(reason, "wrong_source", "{who}, {address}");
                        }
                        Ok(()) if !others => assert_eq!(reason, "", "{who}, {address}"),
                        result => panic!("{who}, {address}: {result:?}"),
                    }
                }
            }
        });
    });
}

/// A socket that writes its own IP headers.
fn raw() -> OwnedFd {
    // SAFETY: socket(2) takes three numbers; what it returns belongs to nobody else.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW);
        assert!(fd >= 0, "a raw socket: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}

#[test]
fn a_forged_source_is_dropped_from_a_raw_socket_and_from_a_packet_socket() {
    world(|world| {
        world.each(|who, own| {
            let (raw, link) = (raw(), packet_socket("mesh0"));
            for source in [HOST[0], A[0], B[0]] {
                let packet = &udp(source, "10.2.0.7", 9)[ETHERNET..];
                let expected = if source == own[0] { "" } else { "wrong_source" };
                let to: SocketAddr = "10.2.0.7:0".parse().expect("an address");
                let (_, reason) = world.reason(|| {
                    // Whether a sender hears of it is the kernel's business.
                    let to = sys::SockaddrStorage::from(to);
                    sys::sendto(raw.as_raw_fd(), packet, &to, sys::MsgFlags::empty()).ok();
                });
                assert_eq!(reason, expected, "{who} as {source}, raw");
                let sent = world.tunnel.try_receive().map(|packet| ends(&packet).0);
                assert_eq!(sent, expected.is_empty().then(|| at(source)), "{who} as {source}, raw");
                let (_, reason) = world.reason(|| link.send_as(packet, "mesh0"));
                assert_eq!(reason, expected, "{who} as {source}, packet");
                let sent = world.tunnel.try_receive().map(|packet| ends(&packet).0);
                assert_eq!(sent, expected.is_empty().then(|| at(source)), "{who} as {source}, packet");
            }
        });
    });
}

#[test]
fn what_comes_for_an_address_reaches_the_sockets_of_its_owner_alone() {
    world(|world| {
        world.each(|who, own| {
            // Whichever is free: a child of another test may hold the last one's socket until it is a program of its own.
            let socket = UdpSocket::bind("[::]:0").expect("a socket of both families");
            let port = socket.local_addr().expect("it is bound").port();
            socket.set_nonblocking(true).expect("asked, not waited for");
            for address in [HOST, A, B].concat() {
                let source = if address.contains(':') { OUTSIDE[1] } else { OUTSIDE[0] };
                let mut packet = udp(source, address, 9)[ETHERNET..].to_vec();
                readdress(&mut packet, port);
                let (_, reason) = world.reason(|| world.tunnel.send(&packet));
                let mine = own.contains(&address);
                let expected = if mine { "" } else { "wrong_listener" };
                assert_eq!(reason, expected, "{who} at {address}");
                assert_eq!(socket.recv(&mut [0; 64]).is_ok(), mine, "{who} at {address}");
            }
        });
    });
}

/// Sends a datagram to another port, and leaves its checksum out, or makes it right where there has to be one.
fn readdress(packet: &mut [u8], port: u16) {
    let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
    packet[header + 2..header + 4].copy_from_slice(&port.to_be_bytes());
    packet[header + 6..header + 8].fill(0);
    if header == 20 {
        return;
    }
    let length = packet.len() - header;
    let pseudo =
        [&packet[8..40], &u32::try_from(length).expect("small").to_be_bytes(), &[0, 0, 0, 17]].concat();
    let words = pseudo.chunks(2).chain(packet[header..].chunks(2));
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded");
    packet[header + 6..header + 8].copy_from_slice(&(!folded).to_be_bytes());
}

#[test]
fn a_reset_is_the_kernels_own_and_comes_from_the_address_that_was_asked() {
    world(|world| {
        for [v4, _] in [A, HOST] {
            world.tunnel.send(&tcp(OUTSIDE[0], v4, true, &[], 0)[ETHERNET..]);
            assert_eq!(ends(&world.tunnel.receive()), (at(v4), at(OUTSIDE[0])));
        }
    });
}

#[test]
fn programs_of_one_host_speak_to_each_other_by_their_own_addresses() {
    world(|world| {
        enter(&world.b);
        let listener = TcpListener::bind("0.0.0.0:7777").expect("a listener");
        world.each(|who, own| {
            let client = TcpStream::connect((B[0], 7777)).expect(who);
            let (_, from) = listener.accept().expect("the client");
            assert_eq!(from.ip(), at(own[0]), "{who}");
            assert_eq!(client.local_addr().expect("its own").ip(), at(own[0]));
        });
        enter(&world.a);
        for address in [A[0], HOST[0]] {
            let (client, reason) =
                world.reason(|| connect(&format!("{address}:7777"), None).expect("under way"));
            assert_eq!(reason, "wrong_listener", "{address} is not the listener's");
            drop(client);
        }
        let forged = &udp(HOST[0], B[0], 9)[ETHERNET..];
        let (_, reason) = world.reason(|| {
            let to = sys::SockaddrStorage::from(SocketAddr::new(at(B[0]), 0));
            sys::sendto(raw().as_raw_fd(), forged, &to, sys::MsgFlags::empty()).ok();
        });
        assert_eq!(reason, "wrong_source");
    });
}
