//! NAT boxes: which port a socket has outside, who may send to it, for how long, and when it changes.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use lab::{Lab, Traffic};

use crate::{reaches, said};

/// A box of each kind, with a machine behind each.
const NATS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/topologies/nats.yaml");

/// What has not arrived by then does not: a packet crosses the lab in less than a millisecond.
const PATIENCE: Duration = Duration::from_millis(300);

/// Longer than the boxes of the topology remember a silent mapping.
const FORGOTTEN: Duration = Duration::from_secs(3);

/// A machine behind a box, the box's addresses, and what the box's kind means.
struct Case {
    place: &'static str,
    inside: [&'static str; 2],
    outside: [&'static str; 2],
    /// A socket has one port for all its targets.
    one_port: bool,
    /// Anybody may send to it, not only whom it has sent to.
    anybody: bool,
}

const CASES: [Case; 3] = [
    Case {
        place: "host/laptop",
        inside: ["172.16.1.2", "fd00:172:1::2"],
        outside: ["192.0.2.21", "2001:db8:a::21"],
        one_port: true,
        anybody: true,
    },
    Case {
        place: "host/desk",
        inside: ["172.16.2.2", "fd00:172:2::2"],
        outside: ["192.0.2.22", "2001:db8:a::22"],
        one_port: true,
        anybody: false,
    },
    Case {
        place: "host/phone",
        inside: ["172.16.3.2", "fd00:172:3::2"],
        outside: ["192.0.2.23", "2001:db8:a::23"],
        one_port: false,
        anybody: false,
    },
];

const ONE: (&str, [&str; 2]) = ("site/host/one", ["192.0.2.11", "2001:db8:a::11"]);
const TWO: (&str, [&str; 2]) = ("site/host/two", ["192.0.2.12", "2001:db8:a::12"]);

#[test]
fn each_kind_of_box_maps_and_lets_in_as_its_name_says() {
    let lab = nats("kinds");
    for (case, family) in CASES.iter().flat_map(|case| [(case, 0), (case, 1)]) {
        let what = (case.place, case.inside[family]);
        let [first, second] = [(); 2].map(|()| socket(&lab, case.place, case.inside[family]));
        let targets: Vec<_> = (0..8).map(|_| socket(&lab, ONE.0, ONE.1[family])).collect();
        let seen: Vec<_> = targets.iter().map(|target| seen_from(target, &first)).collect();
        assert!(seen.iter().all(|from| from.ip() == ip(case.outside[family])), "{what:?}: {seen:?}");
        let ports: BTreeSet<_> = seen.iter().map(SocketAddr::port).collect();
        assert_eq!(ports.len() == 1, case.one_port, "{what:?}: {seen:?}");
        assert_ne!(seen_from(&targets[0], &second), seen[0], "{what:?}: another socket has another port");

        for (target, from) in targets.iter().zip(&seen) {
            assert!(hears(&first, target, *from), "{what:?}: whom it has sent to may answer");
        }
        for (whose, stranger) in [("machine", TWO), ("port", ONE)] {
            let stranger = socket(&lab, stranger.0, stranger.1[family]);
            assert_eq!(hears(&first, &stranger, seen[0]), case.anybody, "{what:?}: from another {whose}");
        }
    }
}

#[test]
fn a_box_forgets_a_silent_socket_and_remembers_one_that_speaks_again() {
    let lab = nats("silent");
    for case in &CASES {
        let (inner, outer) = (socket(&lab, case.place, case.inside[0]), socket(&lab, ONE.0, ONE.1[0]));
        let seen = seen_from(&outer, &inner);
        assert!(hears(&inner, &outer, seen), "{}", case.place);
        assert!(!arrives(&inner, FORGOTTEN), "nobody speaks meanwhile");
        assert!(!hears(&inner, &outer, seen), "{}: it is forgotten", case.place);
        let seen = seen_from(&outer, &inner);
        assert!(hears(&inner, &outer, seen), "{}: it is back", case.place);
    }
}

#[test]
fn a_box_that_is_bound_anew_has_other_ports_and_forgot_the_old_ones() {
    let lab = nats("rebind");
    for (case, nat) in CASES.iter().zip(["home", "office", "carrier"]) {
        let (inner, outer) = (socket(&lab, case.place, case.inside[0]), socket(&lab, ONE.0, ONE.1[0]));
        let before = seen_from(&outer, &inner);
        lab.rebind(&nat.parse().unwrap()).unwrap();
        assert!(!hears(&inner, &outer, before), "{nat}: the old port is closed");
        let after = seen_from(&outer, &inner);
        assert_ne!(after.port(), before.port(), "{nat}");
        assert!(hears(&inner, &outer, after) && !hears(&inner, &outer, before), "{nat}");
    }
    let error = lab.rebind(&"nowhere".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(error, "there is no NAT box `nowhere`");
}

#[test]
fn what_stands_behind_a_box_reaches_out_and_is_reached_by_nobody() {
    let lab = nats("behind");
    for case in &CASES {
        for family in [0, 1] {
            assert!(reaches(&lab, case.place, ONE.1[family]), "{} reaches out", case.place);
            assert!(reaches(&lab, ONE.0, case.outside[family]), "the box of {} answers", case.place);
            // Neither by the underlay's router, nor by the box itself when somebody beside it asks.
            assert!(!reaches(&lab, ONE.0, case.inside[family]), "{} by the router", case.place);
            let route = format!("ip route add {} via {}", case.inside[family], case.outside[family]);
            said(&lab, TWO.0, &route);
            assert!(!reaches(&lab, TWO.0, case.inside[family]), "{} by its box", case.place);
        }
    }
    lab.cut("nat/office", ONE.0, Traffic::All).unwrap();
    assert!(!reaches(&lab, "host/desk", ONE.1[0]) && reaches(&lab, "host/desk", TWO.1[0]));
    assert!(reaches(&lab, "host/laptop", ONE.1[0]), "only the box of the desk is cut off");
    let error = lab.cut("host/desk", ONE.0, Traffic::All).unwrap_err().to_string();
    assert!(error.contains("behind a NAT box the box can be cut"), "{error}");
}

#[test]
fn a_port_that_somebody_has_opened_on_a_box_leads_to_a_machine_behind_it_and_no_other_port_does() {
    let lab = nats("opened");
    let desk = &CASES[1];
    for family in [0, 1] {
        let listeners = [8080, 8081].map(|port| {
            let here = (ip(desk.inside[family]), port);
            lab.inside(desk.place, move || TcpListener::bind(here)).unwrap().unwrap()
        });
        let dial = |port| {
            let box_at = SocketAddr::new(ip(desk.outside[family]), port);
            lab.inside(ONE.0, move || TcpStream::connect_timeout(&box_at, PATIENCE)).unwrap()
        };
        let dialled = dial(8080).expect("the port is open");
        let (_, from) = listeners[0].accept().unwrap();
        assert_eq!(from, dialled.local_addr().unwrap(), "the machine sees who dialled");
        dial(8081).expect_err("nobody has opened it");
    }
}

fn nats(test: &str) -> Lab {
    Lab::up_as(&format!("lab-test-nats-{test}"), Path::new(NATS)).unwrap()
}

/// A socket of a place, at one of its addresses.
fn socket(lab: &Lab, place: &str, address: &str) -> UdpSocket {
    let address = ip(address);
    lab.inside(place, move || UdpSocket::bind((address, 0))).unwrap().unwrap()
}

/// Where a datagram comes from, as its target sees it.
fn seen_from(target: &UdpSocket, sender: &UdpSocket) -> SocketAddr {
    sender.send_to(b"hello", target.local_addr().unwrap()).unwrap();
    target.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    target.recv_from(&mut [0; 16]).expect("what is sent from inside arrives").1
}

/// Whether what somebody sends to an address outside arrives at the socket.
fn hears(socket: &UdpSocket, sender: &UdpSocket, outside: SocketAddr) -> bool {
    sender.send_to(b"hello", outside).unwrap();
    arrives(socket, PATIENCE)
}

/// Whether anything arrives within the time.
fn arrives(socket: &UdpSocket, within: Duration) -> bool {
    socket.set_read_timeout(Some(within)).unwrap();
    match socket.recv_from(&mut [0; 16]) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
