//! What is answered, over UDP and TCP, and where everything else goes.

use crate::lab::{Agent, Dnsmasq, Machine, UPSTREAM, mesh};
use std::{fmt::Write as _, net::UdpSocket};

const WWW: &str = "--host-record=www.example.com,203.0.113.5,30";

#[test]
fn the_meshs_names_are_answered_here_over_udp_and_tcp_and_the_servers_of_before_never_hear_of_them() {
    let machine = Machine::with(&[UPSTREAM]);
    let upstream = Dnsmasq::start(&machine.place, &[WWW]);
    let mut agent = Agent::start(&machine.place, machine.host());
    agent.served();
    let unknown = machine.dig("cart.shop.svc.cluster.local");
    assert!(unknown.contains("status: SERVFAIL"), "the mesh was not listed yet: {unknown}");

    agent.show(mesh(2));
    for transport in ["+notcp", "+tcp", "+notcp +noedns"] {
        for (question, answer) in [
            ("cart.shop.svc.cluster.local A", "10.101.0.10"),
            ("CART.shop.svc.clusterset.local AAAA", "fd00:101::10"),
            ("_http._tcp.cart.shop.svc.cluster.local SRV", "0 100 80 cart.shop.svc.cluster.local."),
            ("db.shop.svc.cluster.local A", "10.1.0.0 10.1.0.1"),
            ("-x 10.101.0.10", "cart.shop.svc.cluster.local."),
            ("dns-version.cluster.local TXT", "\"1.1.0\""),
            ("www.example.com A", "203.0.113.5"),
        ] {
            assert_eq!(machine.short(&format!("{transport} {question}")), answer, "{transport} {question}");
        }
        for (question, status) in [
            ("nothing.shop.svc.cluster.local A", "NXDOMAIN"),
            ("db.shop.svc.cluster.local AAAA", "NOERROR"),
            ("nothing.svc.clusterset.local A", "NXDOMAIN"),
        ] {
            let said = machine.dig(&format!("{transport} {question}"));
            assert!(said.contains(&format!("status: {status}")) && said.contains("ANSWER: 0"), "{said}");
            assert!(said.contains("AUTHORITY: 1") && said.contains("\tSOA\t"), "it may be kept: {said}");
        }
    }
    assert!(upstream.asked("www.example.com") > 0);
    assert_eq!(upstream.asked("local"), 0);
}

#[test]
fn what_is_too_large_for_a_datagram_is_fetched_over_tcp_from_us_and_by_us() {
    let machine = Machine::with(&[UPSTREAM]);
    let text = "x".repeat(250);
    let large: Vec<String> = (0..20).map(|n| format!("--txt-record=large.example.com,{n}{text}")).collect();
    let _upstream = Dnsmasq::start(&machine.place, &large.iter().map(String::as_str).collect::<Vec<_>>());
    let mut agent = Agent::start(&machine.place, machine.host());
    agent.served();
    agent.show(mesh(100));
    for (question, count) in [("db.shop.svc.cluster.local A", 100), ("large.example.com TXT", 20)] {
        let first = machine.dig(&format!("+noedns +ignore {question}"));
        assert!(first.contains(" tc") && first.contains("ANSWER: 0"), "{first}");
        let second = machine.dig(&format!("+noedns +short {question}"));
        assert_eq!(second.lines().filter(|line| !line.starts_with(";;")).count(), count, "{second}");
    }
    let edns = machine.dig("+bufsize=4096 +ignore db.shop.svc.cluster.local");
    assert!(!edns.contains(" tc") && edns.contains("ANSWER: 100"), "{edns}");
}

#[test]
fn answers_of_the_servers_of_before_are_kept_also_that_nothing_is_there() {
    let machine = Machine::with(&[UPSTREAM]);
    let upstream = Dnsmasq::start(&machine.place, &[WWW]);
    let mut agent = Agent::start(&machine.place, machine.host());
    agent.served();
    for (question, status) in [("www.example.com", "NOERROR"), ("nothing.example.com", "NXDOMAIN")] {
        for _ in 0..3 {
            let said = machine.dig(question);
            assert!(said.contains(&format!("status: {status}")), "{said}");
        }
        assert_eq!(upstream.asked(question), 1, "{question}");
    }
}

#[test]
fn servers_are_asked_in_turn_when_one_is_not_there_says_nothing_or_refuses() {
    // Nobody listens on 192.0.2.8; on 192.0.2.9 somebody says nothing.
    for dead in ["192.0.2.8", "192.0.2.9"] {
        let machine = Machine::with(&[dead, UPSTREAM]);
        let _upstream = Dnsmasq::start(&machine.place, &[WWW]);
        machine.place.sh("ip addr add 192.0.2.8/32 dev lo && ip addr add 192.0.2.9/32 dev lo");
        let _silent = machine.place.run(|| UdpSocket::bind("192.0.2.9:53").expect("a free port"));
        let mut agent = Agent::start(&machine.place, machine.host());
        agent.served();
        assert_eq!(machine.short("www.example.com"), "203.0.113.5", "{dead}");
    }
    // dnsmasq refuses what it has no server for: that is the answer when all say so.
    let machine = Machine::with(&[UPSTREAM]);
    let _upstream = Dnsmasq::start(&machine.place, &[WWW]);
    let mut agent = Agent::start(&machine.place, machine.host());
    agent.served();
    let said = machine.dig("www.example.org");
    assert!(said.contains("status: REFUSED"), "{said}");
}

#[test]
fn libc_finds_short_names_by_the_search_list_and_the_hosts_own_names_after_them() {
    let machine = Machine::with(&[UPSTREAM]);
    let _upstream = Dnsmasq::start(&machine.place, &[WWW]);
    let names =
        ["cart.shop.svc.cluster.local", "cart", "cart.shop", "cart.shop.svc", "www.example.com", "www"];
    let resolved = |machine: &Machine| {
        names.iter().fold(String::new(), |mut all, name| {
            writeln!(all, "{name} {}", machine.getent(name)).expect("a string");
            all
        })
    };
    let before = resolved(&machine);
    let mut agent = Agent::start(&machine.place, machine.host());
    agent.served();
    agent.show(mesh(2));
    expect_test::expect![[r#"
        cart.shop.svc.cluster.local 10.101.0.10
        cart 10.101.0.10
        cart.shop 10.101.0.10
        cart.shop.svc 10.101.0.10
        www.example.com 203.0.113.5
        www 203.0.113.5
    "#]]
    .assert_eq(&resolved(&machine));
    agent.stop();
    assert_eq!(resolved(&machine), before);
    assert_eq!(std::fs::read_to_string(machine.resolv_conf()).unwrap(), Machine::conf(&[UPSTREAM]));
}
