//! The host's resolver under the running agent.

use crate::lab::{Agent, Dnsmasq, Machine, PATIENCE, UPSTREAM, US};
use mesh_vm_agent::names::Names;
use std::{fs, net::UdpSocket, time::Instant};

#[test]
fn a_taken_port_is_told_with_a_hint_and_the_hosts_resolver_stays_as_it_was() {
    let machine = Machine::with(&[UPSTREAM]);
    let taken = machine.place.run(|| UdpSocket::bind(format!("{US}:53")).expect("a free port"));
    let mut agent = Agent::start(&machine.place, machine.host());
    let Names::Missing { why } = agent.until(|names| matches!(names, Names::Missing { .. })) else {
        panic!("names are missing")
    };
    assert_eq!(
        why,
        "cannot serve names on 127.0.0.153:53: Address already in use (os error 98); see who has it with `ss -lnptu 'sport = :53'`, or take another address"
    );
    assert_eq!(fs::read_to_string(machine.resolv_conf()).unwrap(), Machine::conf(&[UPSTREAM]));
    // When it is free, the next try takes it.
    drop(taken);
    agent.served();
}

#[test]
fn what_a_dhcp_client_writes_meanwhile_is_asked_from_then_on() {
    let machine = Machine::with(&["192.0.2.8"]);
    let _upstream = Dnsmasq::start(&machine.place, &["--host-record=www.example.com,203.0.113.5,30"]);
    machine.place.sh("ip addr add 192.0.2.8/32 dev lo");
    let mut agent = Agent::start(&machine.place, machine.host());
    agent.served();
    assert_eq!(machine.short("www.example.com"), "");
    let new = machine.root.path().join("etc/new");
    fs::write(&new, Machine::conf(&[UPSTREAM])).unwrap();
    fs::rename(&new, machine.resolv_conf()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while machine.short("www.example.com") != "203.0.113.5" {
        assert!(Instant::now() < deadline, "the new server is asked");
    }
    assert!(fs::read_to_string(machine.resolv_conf()).unwrap().contains(US), "and ours is in front again");
    agent.stop();
    assert_eq!(fs::read_to_string(machine.resolv_conf()).unwrap(), Machine::conf(&[UPSTREAM]));
}
