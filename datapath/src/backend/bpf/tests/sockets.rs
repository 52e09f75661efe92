//! Real sockets in a cgroup of their own: what they name, whom they reach, and whom they believe to talk to.
//!
//! The kernel refuses BPF_PROG_TEST_RUN for these programs.

use super::{
    super::{BackendKey, Bpf, MapStep, SetRef, abi::PIN_VERSION, raw},
    devices::until,
    rig::{Host, at, counted, enter, on_a_host},
};
use crate::image::Frontend;
use api::record::Protocol;
use nix::sys::socket as sys;
use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

const VIP4: &str = "10.96.0.1";
const VIP6: &str = "fd96::1";
/// Long enough for a busy machine; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(10);

/// A service on `port` of both addresses, with these backends as set `set`.
fn serve(bpf: &mut Bpf, protocol: Protocol, port: u16, set: u32, backends: &[SocketAddr]) {
    let count = u32::try_from(backends.len()).expect("few");
    for (slot, backend) in (0..).zip(backends) {
        put(bpf, MapStep::PutBackend(BackendKey { set, slot }, *backend));
    }
    for address in [at(VIP4), at(VIP6)] {
        put(bpf, MapStep::PutServiceAddress(address));
        if backends.iter().all(|b| b.is_ipv4() == address.is_ipv4()) {
            put(bpf, MapStep::PutService(Frontend { address, protocol, port }, SetRef { set, count }));
        }
    }
}

fn put(bpf: &mut Bpf, step: MapStep) {
    bpf.apply(&step).expect("written");
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address with a port")
}

/// A balanced host, and this thread's sockets in its cgroup.
fn balanced(test: impl FnOnce(&Host, &mut Bpf) + Send) {
    on_a_host(|host| {
        let mut bpf = host.open();
        enter(&host.cgroup);
        test(host, &mut bpf);
    });
}

fn listener(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).expect("a port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

fn udp(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let address = socket.local_addr().expect("its address");
    (socket, address)
}

/// Takes one datagram and sends it back.
fn echo(server: &UdpSocket) {
    let mut buffer = [0; 64];
    let (bytes, from) = server.recv_from(&mut buffer).expect("a datagram");
    server.send_to(&buffer[..bytes], from).expect("sent back");
}

#[test]
fn a_tcp_client_reaches_a_backend_and_believes_to_talk_to_the_service() {
    balanced(|_, bpf| {
        // What is connected to, where the backend listens, and who the peer seems to be.
        let cases = [
            ("10.96.0.1:80", "127.0.0.1:0", "10.96.0.1:80"),
            ("[fd96::1]:80", "[::1]:0", "[fd96::1]:80"),
            ("[::ffff:10.96.0.1]:80", "127.0.0.1:0", "[::ffff:10.96.0.1]:80"),
        ];
        for (set, (service, backend, seems)) in (1..).zip(cases) {
            let (listener, backend) = listener(backend);
            serve(bpf, Protocol::Tcp, 80, set, &[backend]);
            let mut client = TcpStream::connect(service).expect(service);
            let (mut server, from) = listener.accept().expect("the client");
            assert_eq!(client.peer_addr().expect("a peer"), addr(seems));
            assert_eq!(from.port(), client.local_addr().expect("its own").port());
            client.write_all(b"hello").expect("written");
            let mut buffer = [0; 5];
            server.read_exact(&mut buffer).expect("read");
            assert_eq!(&buffer, b"hello");
        }
    });
}

#[test]
fn udp_with_and_without_connect_gets_its_replies_from_the_service() {
    balanced(|_, bpf| {
        // Where the client binds, what it sends to, where the backend is. The last two are v4-mapped: they enter as
        // sendmsg4 and leave as recvmsg6.
        let cases = [
            ("0.0.0.0:0", "10.96.0.1:53", "127.0.0.1:0"),
            ("[::]:0", "[fd96::1]:53", "[::1]:0"),
            ("[::]:0", "[::ffff:10.96.0.1]:53", "127.0.0.1:0"),
        ];
        for (set, (from, service, backend)) in (1..).zip(cases) {
            let (server, backend) = udp(backend);
            serve(bpf, Protocol::Udp, 53, set, &[backend]);
            let mut buffer = [0; 8];

            let (client, _) = udp(from);
            client.send_to(b"loose", service).expect(service);
            echo(&server);
            assert_eq!(client.recv_from(&mut buffer).expect("a reply"), (5, addr(service)));

            let (client, _) = udp(from);
            client.connect(service).expect(service);
            assert_eq!(client.peer_addr().expect("a peer"), addr(service));
            client.send(b"bound").expect("sent");
            echo(&server);
            assert_eq!(client.recv_from(&mut buffer).expect("a reply"), (5, addr(service)));
        }
    });
}

#[test]
fn what_has_no_backend_or_no_such_port_is_refused_at_once_and_counted() {
    balanced(|_, bpf| {
        serve(bpf, Protocol::Tcp, 80, 1, &[]);
        serve(bpf, Protocol::Udp, 53, 2, &[]);
        let tcp = |to: &'static str| move || TcpStream::connect(to).map(drop);
        let loose = |from: &'static str, to: &'static str| move || udp(from).0.send_to(b"x", to).map(drop);
        let bound = |from: &'static str, to: &'static str| move || udp(from).0.connect(to);
        type Try = Box<dyn Fn() -> std::io::Result<()>>;
        let cases: [(&str, &str, Try); 9] = [
            ("TCP", "no_backend", Box::new(tcp("10.96.0.1:80"))),
            ("TCP, IPv6", "no_backend", Box::new(tcp("[fd96::1]:80"))),
            ("TCP, v4-mapped", "no_backend", Box::new(tcp("[::ffff:10.96.0.1]:80"))),
            ("TCP to another port", "unknown_port", Box::new(tcp("10.96.0.1:81"))),
            ("TCP to the port of UDP", "unknown_port", Box::new(tcp("[fd96::1]:53"))),
            ("UDP", "no_backend", Box::new(loose("0.0.0.0:0", "10.96.0.1:53"))),
            ("UDP, connected", "no_backend", Box::new(bound("[::]:0", "[fd96::1]:53"))),
            ("UDP to another port", "unknown_port", Box::new(loose("[::]:0", "[fd96::1]:54"))),
            ("UDP to the port of TCP", "unknown_port", Box::new(bound("0.0.0.0:0", "10.96.0.1:80"))),
        ];
        for (name, reason, attempt) in cases {
            let before = bpf.drops().expect("counters");
            let error = attempt().expect_err(name);
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{name}: {error}");
            assert_eq!(counted(&before, &bpf.drops().expect("counters")), reason, "{name}");
        }
    });
}

#[test]
fn a_backend_of_the_other_family_is_no_backend() {
    balanced(|_, bpf| {
        let frontend = Frontend { address: at(VIP4), protocol: Protocol::Tcp, port: 80 };
        put(bpf, MapStep::PutBackend(BackendKey { set: 1, slot: 0 }, addr("[::1]:8080")));
        put(bpf, MapStep::PutService(frontend, SetRef { set: 1, count: 1 }));
        let error = TcpStream::connect("10.96.0.1:80").expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn what_is_no_service_and_who_is_not_in_the_cgroup_is_left_alone() {
    on_a_host(|host| {
        let mut bpf = host.open();
        serve(&mut bpf, Protocol::Tcp, 80, 1, &[]);
        // Nobody routes there, and that is all that is wrong with it.
        let outside = TcpStream::connect("10.96.0.1:80").expect_err("no route");
        assert_eq!(outside.kind(), ErrorKind::NetworkUnreachable);
        enter(&host.cgroup);
        let (_listener, backend) = listener("127.0.0.1:0");
        let direct = TcpStream::connect(backend).expect("no service, no change");
        assert_eq!(direct.peer_addr().expect("a peer"), backend);
    });
}

#[test]
fn connections_are_spread_over_all_backends() {
    balanced(|_, bpf| {
        let listeners: Vec<_> = (0..3).map(|_| listener("127.0.0.1:0")).collect();
        let backends: Vec<_> = listeners.iter().map(|(_, address)| *address).collect();
        serve(bpf, Protocol::Tcp, 80, 1, &backends);
        for (listener, _) in &listeners {
            listener.set_nonblocking(true).expect("asked, not waited for");
        }
        let mut reached = BTreeSet::new();
        // Of 64 connections none reaches the third backend once in 10^11 runs.
        for _ in 0..64 {
            let _client = TcpStream::connect("10.96.0.1:80").expect("a backend");
            reached.extend(listeners.iter().filter(|(l, _)| l.accept().is_ok()).map(|(_, address)| *address));
        }
        assert_eq!(reached, backends.into_iter().collect());
    });
}

#[test]
fn unconnected_udp_stays_with_its_backend_while_that_is_a_member() {
    balanced(|_, bpf| {
        let servers: Vec<_> = (0..8).map(|_| udp("127.0.0.1:0")).collect();
        let backends: Vec<_> = servers.iter().map(|(_, address)| *address).collect();
        for (server, _) in &servers {
            server.set_nonblocking(true).expect("asked, not waited for");
        }
        let reached = || {
            let mut buffer = [0; 8];
            let took: Vec<_> = servers.iter().filter(|(s, _)| s.recv(&mut buffer).is_ok()).collect();
            assert_eq!(took.len(), 1, "one datagram, one backend");
            took[0].1
        };
        let (client, _) = udp("0.0.0.0:0");
        let send = || client.send_to(b"x", "10.96.0.1:53").map(drop);

        serve(bpf, Protocol::Udp, 53, 1, &backends);
        send().expect("sent");
        let first = reached();
        for _ in 0..32 {
            send().expect("sent");
            assert_eq!(reached(), first);
        }

        // Another set, and every member in another slot.
        let mut turned = backends.clone();
        turned.rotate_left(3);
        serve(bpf, Protocol::Udp, 53, 2, &turned);
        for _ in 0..32 {
            send().expect("sent");
            assert_eq!(reached(), first);
        }

        // Its backend is gone: another one, and then that.
        let rest: Vec<_> = backends.iter().copied().filter(|b| *b != first).collect();
        serve(bpf, Protocol::Udp, 53, 3, &rest);
        send().expect("sent");
        let second = reached();
        assert_ne!(second, first);
        for _ in 0..32 {
            send().expect("sent");
            assert_eq!(reached(), second);
        }
    });
}

#[test]
fn a_client_of_a_service_with_session_affinity_keeps_its_backend_until_that_goes_or_is_forgotten() {
    balanced(|_, bpf| {
        let listeners: Vec<_> = (0..8).map(|_| listener("127.0.0.1:0")).collect();
        let backends: Vec<_> = listeners.iter().map(|(_, address)| *address).collect();
        for (listener, _) in &listeners {
            listener.set_nonblocking(true).expect("asked, not waited for");
        }
        // Whom 32 connections reach, one after the other.
        let reached = || {
            let all = (0..32).map(|_| {
                let _client = TcpStream::connect("10.96.0.1:80").expect("a backend");
                listeners.iter().find(|(l, _)| l.accept().is_ok()).expect("somebody").1
            });
            all.collect::<BTreeSet<_>>()
        };
        let frontend = Frontend { address: at(VIP4), protocol: Protocol::Tcp, port: 80 };
        serve(bpf, Protocol::Tcp, 80, 1, &backends);
        put(bpf, MapStep::PutAffinity(frontend, 3_600));
        let first = reached();
        assert_eq!(first.len(), 1);
        let mut turned = backends.clone();
        turned.rotate_left(3);
        serve(bpf, Protocol::Tcp, 80, 2, &turned);
        assert_eq!(reached(), first, "in another slot of another set");

        let rest: Vec<_> = backends.iter().copied().filter(|b| !first.contains(b)).collect();
        serve(bpf, Protocol::Tcp, 80, 3, &rest);
        let second = reached();
        assert!(second.len() == 1 && second != first, "its backend is gone: another one, and then that");

        // Every connection comes later than after no time at all. Of 32 all reach one of seven once in 10^26 runs.
        put(bpf, MapStep::PutAffinity(frontend, 0));
        assert!(reached().len() > 1, "forgotten");
        put(bpf, MapStep::PutAffinity(frontend, 3_600));
        assert_eq!(reached().len(), 1);
        put(bpf, MapStep::RemoveAffinity(frontend));
        assert!(reached().len() > 1, "no affinity");
    });
}

#[test]
fn clients_are_told_apart_by_their_network_namespace() {
    const PORTS: std::ops::Range<u16> = 9_000..9_008;
    balanced(|_, bpf| {
        let backends: Vec<_> = PORTS.map(|port| SocketAddr::new(at("127.0.0.1"), port)).collect();
        serve(bpf, Protocol::Udp, 53, 1, &backends);
        let frontend = Frontend { address: at(VIP4), protocol: Protocol::Udp, port: 53 };
        put(bpf, MapStep::PutAffinity(frontend, 3_600));
        let client = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.expect("ip runs").success());
            let servers: Vec<_> = PORTS.map(|port| udp(&format!("127.0.0.1:{port}")).0).collect();
            for server in &servers {
                server.set_nonblocking(true).expect("asked, not waited for");
            }
            let mut buffer = [0; 8];
            // A connected and an unconnected socket each time: one client.
            let chosen: BTreeSet<_> = (0..32)
                .map(|n| {
                    let (client, _) = udp("0.0.0.0:0");
                    if n % 2 == 0 {
                        client.connect("10.96.0.1:53").and_then(|()| client.send(b"x")).expect("sent");
                    } else {
                        client.send_to(b"x", "10.96.0.1:53").expect("sent");
                    }
                    // On a busy machine a softirq may still have it.
                    until("a server that has it", || {
                        servers.iter().position(|server| server.recv(&mut buffer).is_ok())
                    })
                })
                .collect();
            assert_eq!(chosen.len(), 1, "one client, one backend");
            chosen
        };
        let all: BTreeSet<_> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(client)).collect();
            clients.into_iter().flat_map(|client| client.join().expect("it went well")).collect()
        });
        // All eight have the same one once in two million runs.
        assert!(all.len() > 1, "each namespace chose for itself: {all:?}");
    });
}

#[test]
fn a_multipath_client_reaches_a_backend_and_sees_it() {
    const IPPROTO_MPTCP: i32 = 262;
    balanced(|_, bpf| {
        let (listener, backend) = listener("127.0.0.1:0");
        serve(bpf, Protocol::Tcp, 80, 1, &[backend]);
        let raw = socket(IPPROTO_MPTCP);
        if raw.as_ref().err() == Some(&nix::errno::Errno::EPROTONOSUPPORT) {
            assert!(!std::path::Path::new("/proc/sys/net/mptcp/enabled").exists(), "the kernel has it");
            eprintln!("this kernel has no MPTCP: nothing to see");
            return;
        }
        let client = raw.expect("a socket");
        let to = sys::SockaddrIn::new(10, 96, 0, 1, 80);
        sys::connect(client.as_raw_fd(), &to).expect("a backend");
        listener.accept().expect("the client");
        // connect is asked with the cookie of the subflow, getpeername with that of the socket above it; nothing a
        // program of this kind can read joins the two. So the name is the backend's: true, but not what was asked for.
        let peer: sys::SockaddrIn = sys::getpeername(client.as_raw_fd()).expect("a peer");
        assert_eq!(SocketAddr::from((peer.ip(), peer.port())), backend);
    });
}

/// A TCP socket of a protocol that the standard library has no name for.
#[allow(unsafe_code)]
fn socket(protocol: i32) -> nix::Result<OwnedFd> {
    // SAFETY: socket(2) takes three numbers; what it returns belongs to nobody else.
    unsafe {
        let fd = nix::errno::Errno::result(libc::socket(
            libc::AF_INET,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
            protocol,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

#[test]
fn programs_are_replaced_while_clients_connect_and_none_slips_through() {
    balanced(|host, bpf| {
        let (listener, backend) = listener("127.0.0.1:0");
        serve(bpf, Protocol::Tcp, 80, 1, &[backend]);
        let pin = host.pins.join(PIN_VERSION).join("links/mesh_connect4");
        let before = program_of(&pin);
        std::thread::scope(|scope| {
            let clients = scope.spawn(|| {
                // The cgroup is inherited by threads.
                for _ in 0..400 {
                    let client = TcpStream::connect("10.96.0.1:80").expect("never without a program");
                    assert_eq!(client.peer_addr().expect("a peer"), addr("10.96.0.1:80"));
                    listener.accept().expect("the client");
                }
            });
            while !clients.is_finished() {
                drop(host.open());
            }
        });
        assert_ne!(program_of(&pin), before, "it was replaced");
    });
}

/// A kernel number of the program behind a pinned link.
fn program_of(pin: &std::path::Path) -> u32 {
    let link = raw::open_pin(pin).expect("a pin");
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd())).expect("a link");
    let id = info.lines().find_map(|line| line.strip_prefix("prog_id:")).expect("it has a program");
    id.trim().parse().expect("a number")
}
