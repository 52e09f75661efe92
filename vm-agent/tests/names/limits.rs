//! Who is answered, and how many at a time.

use crate::lab::{Agent, Machine, Place, US, mesh};
use mesh_vm_agent::dns::server::CONNECTIONS_MAX;
use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

/// `cart.shop.svc.cluster.local A`, with the id 7.
const QUERY: &[u8] =
    b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x04cart\x04shop\x03svc\x07cluster\x05local\0\0\x01\0\x01";
/// How long an answer that is not to come is waited for.
const QUIET: Duration = Duration::from_millis(500);

#[test]
fn a_neighbour_gets_no_answer_though_the_host_routes_loopback_addresses() {
    let (machine, neighbour) = (Machine::with(&["192.0.2.8"]), Place::new());
    let netns = neighbour.netns();
    let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
    machine.place.sh(&format!("ip link add eth0 type veth peer name eth0 netns {path}"));
    for (place, address) in [(&machine.place, "198.51.100.1"), (&neighbour, "198.51.100.2")] {
        place.sh(&format!("ip addr add {address}/24 dev eth0 && ip link set eth0 up"));
        // What is under /proc/sys/net is that of the writer's network namespace. (proc(5))
        place.sh("echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet");
    }
    // To the neighbour, 127.0.0.153 is the host.
    neighbour.sh(
        "ip route flush table local 127.0.0.0/8; ip link set lo down; ip route add 127.0.0.153/32 dev eth0",
    );
    let mut agent = Agent::start(&machine.place, machine.host());
    agent.served();
    agent.show(mesh(0));

    let bare = machine.place.run(|| UdpSocket::bind(format!("{US}:5300")).unwrap());
    let asking = neighbour.run(|| UdpSocket::bind("198.51.100.2:0").unwrap());
    asking.send_to(QUERY, format!("{US}:5300")).unwrap();
    bare.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(bare.recv(&mut [0; 512]).expect("an ordinary socket there hears the neighbour"), QUERY.len());

    asking.send_to(QUERY, format!("{US}:53")).unwrap();
    asking.set_read_timeout(Some(QUIET)).unwrap();
    asking.recv(&mut [0; 512]).expect_err("the agent's does not");
    assert_eq!(machine.short("cart.shop.svc.cluster.local"), "10.101.0.10");
}

#[test]
fn idle_connections_take_no_more_than_their_share_and_leave_datagrams_alone() {
    let machine = Machine::with(&["192.0.2.8"]);
    let mut agent = Agent::start(&machine.place, machine.host());
    agent.served();
    agent.show(mesh(0));
    let connect = || machine.place.run(|| TcpStream::connect(format!("{US}:53")).unwrap());
    let mut idle: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| connect()).collect();
    let mut next = connect();
    next.write_all(&[&[0, QUERY.len() as u8], QUERY].concat()).unwrap();
    next.set_read_timeout(Some(QUIET)).unwrap();
    next.read(&mut [0; 2]).expect_err("it waits for its turn");
    assert_eq!(machine.short("cart.shop.svc.cluster.local"), "10.101.0.10");
    idle.pop();
    next.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut length = [0; 2];
    next.read_exact(&mut length).expect("a connection was closed");
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    next.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..2], QUERY[..2]);
}

#[test]
fn a_silent_connection_is_closed_after_a_few_seconds() {
    let machine = Machine::with(&["192.0.2.8"]);
    let mut agent = Agent::start(&machine.place, machine.host());
    agent.served();
    let mut idle = machine.place.run(|| TcpStream::connect(format!("{US}:53")).unwrap());
    idle.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(idle.read(&mut [0; 1]).expect("it is closed, not left open"), 0);
}
