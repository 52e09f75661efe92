//! Links that are long: what passes comes later, whole and in order.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use lab::{Lab, Traffic};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use nix::unistd::Pid;

use crate::{reaches, two_clusters};

/// One direction of the link.
const DELAY: Duration = Duration::from_millis(150);

/// On a busy machine everything comes later than it should; nothing may come earlier.
const LATE: Duration = Duration::from_millis(100);

/// How long the last packet may take to cross the lab on a busy machine, beyond the delay.
const PATIENCE: Duration = Duration::from_secs(1);

const A1: (&str, [&str; 2]) = ("cluster-a/node/a1", ["192.0.2.11", "2001:db8:a::11"]);
const A2: (&str, [&str; 2]) = ("cluster-a/node/a2", ["192.0.2.12", "2001:db8:a::12"]);
const B1: (&str, [&str; 2]) = ("cluster-b/node/b1", ["192.0.2.75", "2001:db8:b::11"]);

#[test]
fn a_long_link_delivers_everything_later_and_in_order_inside_a_segment_and_between_two() {
    let lab = two_clusters("long");
    for (from, to) in [(A1, A2), (B1, A1)] {
        lab.cut(from.0, to.0, Traffic::DelayMs(150)).unwrap();
        for family in [0, 1] {
            let flight = Flight::watch(&lab, (from.0, from.1[family]), (to.0, to.1[family]), 500);
            assert_eq!(flight.arrived, (0..500).collect::<Vec<u16>>(), "{from:?} to {to:?}");
            let [least, median, _] = flight.took;
            assert!(least >= DELAY && median < DELAY + LATE, "{from:?} to {to:?}: {:?}", flight.took);
        }
        lab.heal(from.0, to.0).unwrap();
        let flight = Flight::watch(&lab, (from.0, from.1[0]), (to.0, to.1[0]), 10);
        assert!(flight.arrived.len() == 10 && flight.took[1] < DELAY, "healed: {:?}", flight.took);
    }
}

#[test]
fn a_link_is_long_and_loses_and_is_slow_at_once_and_of_two_delays_the_later_counts() {
    let lab = two_clusters("long-lossy");
    lab.cut(A1.0, B1.0, Traffic::DelayMs(1_000)).unwrap();
    lab.cut(A1.0, B1.0, Traffic::Percent(50)).unwrap();
    lab.cut(A1.0, B1.0, Traffic::DelayMs(150)).unwrap();
    let flight = Flight::watch(&lab, (A1.0, A1.1[0]), (B1.0, B1.1[0]), 500);
    assert!((100..400).contains(&flight.arrived.len()), "half is lost: {}", flight.arrived.len());
    assert!(flight.arrived.is_sorted(), "{:?}", flight.arrived);
    assert!(flight.took[0] >= DELAY && flight.took[1] < DELAY + LATE, "{:?}", flight.took);
    lab.heal(A1.0, B1.0).unwrap();

    // 64 kbit/s let a burst of 2 048 bytes through: 500 packets of 30 bytes at once are far more.
    lab.cut(A1.0, B1.0, Traffic::AboveKbit(64)).unwrap();
    lab.cut(A1.0, B1.0, Traffic::DelayMs(150)).unwrap();
    let flight = Flight::watch(&lab, (A1.0, A1.1[0]), (B1.0, B1.1[0]), 500);
    assert!((1..400).contains(&flight.arrived.len()) && flight.took[0] >= DELAY, "{flight:?}");
}

#[test]
fn a_link_whose_relay_died_is_cut_until_the_next_change() {
    let lab = two_clusters("long-dead");
    lab.cut(A1.0, B1.0, Traffic::DelayMs(20)).unwrap();
    assert!(reaches(&lab, A1.0, B1.1[0]));
    let relay = lab.state().unwrap().relays[&20];
    kill(Pid::from_raw(relay.pid), Signal::SIGKILL).unwrap();
    crate::eventually("the relay is gone", || relay.activity() == lab::Activity::Gone);
    assert!(!reaches(&lab, A1.0, B1.1[0]) && reaches(&lab, A2.0, B1.1[0]), "only this link is dead");
    lab.cut(A1.0, B1.0, Traffic::DelayMs(20)).unwrap();
    assert!(reaches(&lab, A1.0, B1.1[0]));
}

/// What became of numbered datagrams from one place to another.
#[derive(Debug)]
struct Flight {
    /// Their numbers, as they came.
    arrived: Vec<u16>,
    /// How long the fastest, the one in the middle and the slowest took.
    took: [Duration; 3],
}

impl Flight {
    fn watch(lab: &Lab, from: (&str, &str), to: (&str, &str), count: u16) -> Self {
        let bind = |(place, address): (&str, &str)| {
            let address: IpAddr = address.parse().unwrap();
            lab.inside(place, move || UdpSocket::bind((address, 0))).unwrap().unwrap()
        };
        let (sender, receiver) = (bind(from), bind(to));
        receiver.set_read_timeout(Some(DELAY + PATIENCE)).unwrap();
        // Packets that left at once arrive at once: all of them have room.
        setsockopt(&receiver, RcvBufForce, &(usize::from(count) * 4_096)).unwrap();
        let target = receiver.local_addr().unwrap();
        // Neighbours are found by then, in both directions of the link.
        crate::eventually("the link carries something", || reaches(lab, from.0, to.1));
        std::thread::scope(|scope| {
            let sending = scope.spawn(move || {
                let stamps = (0..count).map(|number| {
                    let now = Instant::now();
                    sender.send_to(&number.to_be_bytes(), target).unwrap();
                    now
                });
                stamps.collect::<Vec<_>>()
            });
            let mut seen = Vec::new();
            let mut datagram = [0; 2];
            while seen.len() < count.into() {
                match receiver.recv_from(&mut datagram) {
                    Ok(_) => seen.push((u16::from_be_bytes(datagram), Instant::now())),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            let sent = sending.join().unwrap();
            let arrived: Vec<_> = seen.iter().map(|(number, _)| *number).collect();
            let mut took: Vec<_> = seen.iter().map(|(number, at)| *at - sent[usize::from(*number)]).collect();
            took.sort();
            assert!(!took.is_empty(), "nothing arrived");
            Self { arrived, took: [took[0], took[took.len() / 2], took[took.len() - 1]] }
        })
    }
}
