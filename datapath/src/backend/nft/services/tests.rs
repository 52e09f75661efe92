//! The text, and real connections in a network namespace of their own.

use super::*;
use crate::backend::{bpf::SetRef, conntrack};
use api::record::Protocol;
use expect_test::expect;
use nix::sched::{CloneFlags, unshare};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

/// Services of one set each: `tcp FRONTEND BACKEND…`, `udp FRONTEND BACKEND…`, `sticky FRONTEND BACKEND…` (TCP).
fn rows(services: &[&str]) -> Rows {
    let mut rows = Rows::default();
    for (set, line) in (1..).zip(services) {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, frontend, backends @ ..] = &words[..] else { panic!("{line}") };
        let at: SocketAddr = frontend.parse().unwrap();
        let protocol = if *kind == "udp" { Protocol::Udp } else { Protocol::Tcp };
        let frontend = Frontend { address: at.ip(), protocol, port: at.port() };
        rows.services.insert(frontend, SetRef { set, count: backends.len() as u32 });
        rows.service_addresses.insert(at.ip());
        if *kind == "sticky" {
            rows.affinity.insert(frontend, 10_800);
        }
        for (slot, backend) in (0..).zip(backends) {
            rows.backends.insert(BackendKey { set, slot }, backend.parse().unwrap());
        }
    }
    rows
}

#[test]
fn the_table_is_replaced_whole_and_says_what_the_rows_say() {
    let rows = rows(&[
        "tcp 10.101.0.9:80 10.2.1.5:8080 10.2.1.6:8080",
        "udp 10.101.0.9:53",
        "sticky [fd01::9]:80 [fd02::5]:8080",
    ]);
    expect![[r#"
        add table inet mesh_services
        delete table inet mesh_services
        table inet mesh_services {
        set services4 {
        type ipv4_addr
        elements = { 10.101.0.9 }
        }
        set open4 {
        type ipv4_addr . inet_proto . inet_service
        elements = { 10.101.0.9 . tcp . 80 }
        }
        map to4 {
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.101.0.9 . tcp . 80 : goto set1_v4 }
        }
        set services6 {
        type ipv6_addr
        elements = { fd01::9 }
        }
        set open6 {
        type ipv6_addr . inet_proto . inet_service
        elements = { fd01::9 . tcp . 80 }
        }
        map to6 {
        type ipv6_addr . inet_proto . inet_service : verdict
        elements = { fd01::9 . tcp . 80 : goto set3_v6_sticky }
        }
        chain set1_v4 {
        meta nfproto ipv4 meta l4proto { tcp, udp } dnat ip addr . port to numgen random mod 2 map { 0 : 10.2.1.5 . 8080, 1 : 10.2.1.6 . 8080 }
        }
        chain set3_v6_sticky {
        meta nfproto ipv6 meta l4proto { tcp, udp } dnat ip6 to [fd02::5]:8080
        }
        chain refuse {
        type filter hook output priority -120; policy accept;
        ct state new meta l4proto { tcp, udp } ip daddr @services4 ip daddr . meta l4proto . th dport != @open4 meta l4proto tcp reject with tcp reset
        ct state new meta l4proto { tcp, udp } ip daddr @services4 ip daddr . meta l4proto . th dport != @open4 reject with icmpx type port-unreachable
        ct state new meta l4proto { tcp, udp } ip6 daddr @services6 ip6 daddr . meta l4proto . th dport != @open6 meta l4proto tcp reject with tcp reset
        ct state new meta l4proto { tcp, udp } ip6 daddr @services6 ip6 daddr . meta l4proto . th dport != @open6 reject with icmpx type port-unreachable
        }
        chain balance {
        type nat hook output priority -110; policy accept;
        ip daddr . meta l4proto . th dport vmap @to4
        ip6 daddr . meta l4proto . th dport vmap @to6
        }
        }
    "#]].assert_eq(&script(&rows));
}

const V4: [&str; 2] = ["10.2.1.5", "10.2.1.6"];
const V6: [&str; 2] = ["fd02::5", "fd02::6"];

/// A host whose Services lie behind a device that leads nowhere, and whose backends are its own.
fn on_a_host_of_its_own(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let host = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: root is needed");
            let mut lines = vec![
                "link set lo up".to_owned(),
                "link add under type veth peer name other".to_owned(),
                "link set under up".to_owned(),
                "link set other up".to_owned(),
                "addr add 10.9.9.9/32 dev under".to_owned(),
                "addr add fd09::9/128 dev under nodad".to_owned(),
                "route add 10.101.0.0/16 dev under src 10.9.9.9".to_owned(),
                "route add fd01::/112 dev under src fd09::9".to_owned(),
            ];
            lines.extend(V4.iter().map(|own| format!("addr add {own}/32 dev lo")));
            lines.extend(V6.iter().map(|own| format!("addr add {own}/128 dev lo nodad")));
            for line in lines {
                let done = Command::new("ip").args(line.split(' ')).output().expect("iproute2 is installed");
                assert!(done.status.success(), "ip {line}: {}", String::from_utf8_lossy(&done.stderr));
            }
            // Sockets are of the namespace that they were made in; a server ends with the test's process.
            for own in V4.iter().chain(&V6) {
                serve(own.parse().expect("an address"));
            }
            test();
        });
        host.join().expect("it went well");
    });
}

/// Says who it is: to a connection at once, and to each of its lines; to each datagram.
fn serve(own: IpAddr) {
    let tcp = TcpListener::bind((own, 8080)).expect("a port");
    thread::spawn(move || {
        for mut connection in tcp.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                // In one piece, which is read in one piece.
                let name = own.to_string();
                while connection.write_all(name.as_bytes()).is_ok()
                    && connection.read(&mut [0; 64]).is_ok_and(|n| n > 0)
                {}
            });
        }
    });
    let udp = UdpSocket::bind((own, 8080)).expect("a port");
    thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut datagram) {
            drop(udp.send_to(own.to_string().as_bytes(), from));
        }
    });
}

fn connect(to: &str) -> std::io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&to.parse().expect("an address"), Duration::from_secs(5))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(connection)
}

fn answer(connection: &mut impl std::io::Read) -> std::io::Result<String> {
    let mut text = [0; 64];
    let length = connection.read(&mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

fn datagrams(to: &str) -> UdpSocket {
    let socket = UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    socket.connect(to).expect("connected");
    socket
}

fn ask(socket: &UdpSocket) -> std::io::Result<String> {
    socket.send(b"who")?;
    let mut text = [0; 64];
    let length = socket.recv(&mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// The kernel says EPERM of what a rule stops at output, and then comes what the rule has answered.
fn is_refused(socket: &UdpSocket, why: &str) {
    assert_eq!(socket.send(b"who").unwrap_err().kind(), ErrorKind::PermissionDenied, "{why}");
    assert_eq!(socket.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{why}");
}

/// Who answers so many times.
fn who(times: usize, ask: impl Fn() -> std::io::Result<String>) -> BTreeSet<String> {
    (0..times).map(|_| ask().expect("an answer")).collect()
}

/// Two backends are told apart by so many answers but once in 2^39.
const TIMES: usize = 40;

#[test]
fn connections_of_every_kind_are_balanced_or_refused_at_once() {
    on_a_host_of_its_own(|| {
        let all = rows(&[
            "tcp 10.101.0.9:80 10.2.1.5:8080 10.2.1.6:8080",
            "udp 10.101.0.9:80 10.2.1.5:8080 10.2.1.6:8080",
            "tcp [fd01::9]:80 [fd02::5]:8080 [fd02::6]:8080",
            "udp [fd01::9]:80 [fd02::5]:8080 [fd02::6]:8080",
            "tcp 10.101.0.8:80",
            "udp 10.101.0.8:80",
            "udp [fd01::8]:80",
            "sticky 10.101.0.7:80 10.2.1.5:8080 10.2.1.6:8080",
            "tcp 10.101.0.6:80 10.2.1.6:8080",
        ]);
        let mut table = Services::default();
        assert!(!table.holds(&all).unwrap());
        table.put(&all).unwrap();
        assert!(table.holds(&all).unwrap());

        let tcp = |to: &'static str| move || answer(&mut connect(to)?);
        let udp = |to: &'static str| move || ask(&datagrams(to));
        assert_eq!(who(TIMES, tcp("10.101.0.9:80")), V4.map(str::to_owned).into());
        assert_eq!(who(TIMES, tcp("[fd01::9]:80")), V6.map(str::to_owned).into());
        assert_eq!(who(TIMES, udp("10.101.0.9:80")), V4.map(str::to_owned).into());
        assert_eq!(who(TIMES, udp("[fd01::9]:80")), V6.map(str::to_owned).into());
        assert_eq!(who(TIMES, tcp("10.101.0.7:80")).len(), 1, "this host keeps its backend");
        assert_eq!(who(4, tcp("10.101.0.6:80")), [V4[1].to_owned()].into());
        for nobody in ["10.101.0.8:80", "10.101.0.9:81", "[fd01::9]:81", "[fd01::8]:80"] {
            assert_eq!(connect(nobody).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{nobody}");
            is_refused(&datagrams(nobody), nobody);
        }

        remove().unwrap();
        assert_eq!(list().unwrap(), None);
        remove().unwrap();
    });
}

#[test]
fn what_runs_stays_where_it_is_and_of_a_backend_that_goes_udp_moves_to_another() {
    on_a_host_of_its_own(|| {
        let both = rows(&[
            "tcp 10.101.0.9:80 10.2.1.5:8080 10.2.1.6:8080",
            "udp 10.101.0.9:80 10.2.1.5:8080 10.2.1.6:8080",
        ]);
        let mut table = Services::default();
        table.put(&both).unwrap();
        let mut stream = connect("10.101.0.9:80").unwrap();
        let server = answer(&mut stream).unwrap();
        let to_it = || {
            let socket = datagrams("10.101.0.9:80");
            (ask(&socket).unwrap() == server).then_some(socket)
        };
        let socket = (0..TIMES).find_map(|_| to_it()).expect("one of them talks to that server, too");
        let other = V4.into_iter().find(|own| *own != server).unwrap();

        let backend = format!("{other}:8080");
        let one = rows(&[&format!("tcp 10.101.0.9:80 {backend}"), &format!("udp 10.101.0.9:80 {backend}")]);
        table.put(&one).unwrap();
        conntrack::forget_udp(&[format!("{server}:8080").parse().unwrap()].into()).unwrap();
        assert_eq!(ask(&socket).unwrap(), other);
        stream.write_all(b"still there?").unwrap();
        assert_eq!(answer(&mut stream).unwrap(), server);
        assert_eq!(who(TIMES, || answer(&mut connect("10.101.0.9:80")?)), [other.to_owned()].into());

        // The last one goes: what runs stays, and what is new is refused.
        table.put(&rows(&["tcp 10.101.0.9:80", "udp 10.101.0.9:80"])).unwrap();
        conntrack::forget_udp(&[backend.parse().unwrap(), "[fd02::5]:8080".parse().unwrap()].into()).unwrap();
        is_refused(&socket, "the last backend is gone");
        stream.write_all(b"still there?").unwrap();
        assert_eq!(answer(&mut stream).unwrap(), server);
    });
}

#[test]
fn a_table_that_somebody_changed_or_another_agent_wrote_is_not_current() {
    on_a_host_of_its_own(|| {
        let all = rows(&["tcp 10.101.0.9:80 10.2.1.5:8080"]);
        let mut table = Services::default();
        table.put(&all).unwrap();
        for change in [
            "add element inet mesh_services services4 { 10.101.0.7 }",
            "flush chain inet mesh_services balance",
            "delete table inet mesh_services",
        ] {
            accepted(&run(&["--file", "-"], change).unwrap()).unwrap();
            assert!(!table.holds(&all).unwrap(), "{change}");
            table.put(&all).unwrap();
            assert!(table.holds(&all).unwrap());
        }
        assert!(!Services::default().holds(&all).unwrap());
        assert!(!table.holds(&rows(&["tcp 10.101.0.9:80 10.2.1.6:8080"])).unwrap());
    });
}
