use super::*;
use crate::{
    follower::{Event, Value},
    view::View,
};
use api::{
    bytes::{BootId, ClusterUuid, Uid},
    key::{Key, LocalKey, MeshKey},
    record::{Affinity, Boot, Lineage, NamedPort, Protocol, Record},
};
use expect_test::{Expect, expect};
use std::fmt::Write;

/// Both clusters have `shop/cart`; what each annotates, and which backends a client of `east` reaches.
#[test]
fn a_peers_backends_are_used_when_both_are_global_and_the_peer_shares() {
    let cases = [
        ("", "", "10.1.0.1"),
        ("global", "", "10.1.0.1"),
        ("", "global shared", "10.1.0.1"),
        ("global", "global shared", "10.1.0.1 10.2.0.1"),
        ("global shared", "global shared", "10.1.0.1 10.2.0.1"),
        ("global shared", "global", "10.1.0.1"),
    ];
    for (own, peer, used) in cases {
        let scene = format!("service {own}\nbackend 10.1.0.1\npeer west\nservice {peer}\nbackend 10.2.0.1\n");
        assert_eq!(used_by(&scene), used, "own `{own}`, peer `{peer}`");
    }
}

#[test]
fn affinity_prefers_and_never_excludes() {
    let scene = |affinity: &str, own: &str, peer: &str| {
        format!("service global {affinity}\n{own}\npeer west\nservice global shared\n{peer}\n")
    };
    let (own, peer) = ("backend 10.1.0.1", "backend 10.2.0.1");
    let (own_gone, peer_gone) = ("backend 10.1.0.1 unready", "backend 10.2.0.1 unready");
    let cases = [
        ("affinity=none", own, peer, "10.1.0.1 10.2.0.1"),
        ("affinity=local", own, peer, "10.1.0.1"),
        ("affinity=remote", own, peer, "10.2.0.1"),
        ("affinity=local", own_gone, peer, "10.2.0.1"),
        ("affinity=local", "", peer, "10.2.0.1"),
        ("affinity=remote", own, peer_gone, "10.1.0.1"),
        ("affinity=remote", own, "", "10.1.0.1"),
        ("affinity=local", own_gone, peer_gone, ""),
        // Terminating backends of ours do not hold ready ones of a peer back, and serve when nothing else does.
        ("affinity=local", "backend 10.1.0.1 terminating", peer, "10.2.0.1"),
        ("affinity=local", "backend 10.1.0.1 terminating", peer_gone, "10.1.0.1"),
        (
            "affinity=none",
            "backend 10.1.0.1 terminating",
            "backend 10.2.0.1 terminating",
            "10.1.0.1 10.2.0.1",
        ),
    ];
    for (affinity, own, peer, used) in cases {
        assert_eq!(used_by(&scene(affinity, own, peer)), used, "{affinity}: own `{own}`, peer `{peer}`");
    }
}

#[test]
fn a_stale_peer_counts_as_its_policy_says() {
    let scene = |affinity: &str, own: &str, peer: &str| {
        format!("service global {affinity}\n{own}\npeer {peer}\nservice global shared\nbackend 10.2.0.1\n")
    };
    let own = "backend 10.1.0.1";
    let cases = [
        ("", own, "west stale", "10.1.0.1"),
        ("", own, "west stale keep", "10.1.0.1 10.2.0.1"),
        ("", own, "west stale drop-after", "10.1.0.1"),
        ("", "", "west stale", "10.2.0.1"),
        ("", "", "west stale drop-after", "10.2.0.1"),
        ("", "", "west stale drop-after dropped", ""),
        // Freshness comes before affinity, health before freshness.
        ("affinity=remote", own, "west stale", "10.1.0.1"),
        ("affinity=remote", own, "west stale keep", "10.2.0.1"),
        ("", "backend 10.1.0.1 terminating", "west stale", "10.2.0.1"),
        ("affinity=local", "backend 10.1.0.1 silent", "west stale", "10.2.0.1"),
        // A peering that is not active gives nothing.
        ("", own, "west prepared", "10.1.0.1"),
        ("", own, "west unknown", "10.1.0.1"),
    ];
    for (affinity, own, peer, used) in cases {
        assert_eq!(used_by(&scene(affinity, own, peer)), used, "{affinity}: own `{own}`, peer `{peer}`");
    }
}

#[test]
fn a_backend_behind_a_silent_tunnel_is_used_only_when_all_are() {
    let scene = |own: &str, peer: &str| {
        format!(
            "service global affinity=local\nbackend 10.1.0.1 {own}\npeer west\nservice global shared\nbackend 10.2.0.1 {peer}\n"
        )
    };
    for (own, peer, used) in [
        ("silent", "", "10.2.0.1"),
        ("", "silent", "10.1.0.1"),
        ("silent", "silent", "10.1.0.1"),
        ("silent", "terminating", "10.2.0.1"),
        ("unready", "silent", "10.2.0.1"),
    ] {
        assert_eq!(used_by(&scene(own, peer)), used, "own `{own}`, peer `{peer}`");
    }
}

#[test]
fn ports_match_by_name_and_their_numbers_may_differ() {
    check(
        "service global ports=web:80,metrics:9090,:53/UDP
         backend 10.1.0.1 ports=web:8080,metrics:9091
         peer west
         service global shared
         backend 10.2.0.1 ports=web:8081,web:8082,http:80,:5353/UDP,metrics:9091/UDP",
        expect![[r#"
            10.96.0.1:53/UDP → 10.2.0.1:5353
            10.96.0.1:80/TCP → 10.1.0.1:8080 10.2.0.1:8081 10.2.0.1:8082
            10.96.0.1:9090/TCP → 10.1.0.1:9091
            :53/UDP east 10.1.0.1:- not used: has no port of this name and protocol
            :53/UDP west 10.2.0.1:5353 used
            metrics:9090/TCP east 10.1.0.1:9091 used
            metrics:9090/TCP west 10.2.0.1:- not used: has no port of this name and protocol
            web:80/TCP east 10.1.0.1:8080 used
            web:80/TCP west 10.2.0.1:8081 used
            web:80/TCP west 10.2.0.1:8082 used
        "#]],
    );
}

#[test]
fn each_family_has_its_own_backends() {
    check(
        "service global frontends=10.96.0.1,fd00:96::1 ports=:80 affinity=local
         backend 10.1.0.1 ports=:80
         peer west
         service global shared
         backend 10.2.0.1 ports=:80
         backend fd00:2::1 ports=:80",
        expect![[r#"
            10.96.0.1:80/TCP → 10.1.0.1:80
            [fd00:96::1]:80/TCP → [fd00:2::1]:80
            :80/TCP east 10.1.0.1:80 used
            :80/TCP west 10.2.0.1:80 not used: the affinity prefers others
            :80/TCP west [fd00:2::1]:80 used
        "#]],
    );
}

#[test]
fn a_service_without_backends_keeps_its_frontend_so_that_connections_are_refused() {
    check(
        "service ports=:80",
        expect![[r#"
        10.96.0.1:80/TCP →
    "#]],
    );
}

#[test]
fn a_service_that_only_a_peer_has_is_nothing_here() {
    let view = scene("peer west\nservice global shared\nbackend 10.2.0.1");
    assert!(view.own_services().is_empty());
    assert!(view.situation(&cart()).is_none());
}

#[test]
fn a_headless_service_has_nothing_to_balance() {
    check(
        "service global headless frontends= ports=:80\nbackend 10.1.0.1",
        expect![[r#"
        :80/TCP east 10.1.0.1:80 not used: the service has no address of its family
    "#]],
    );
}

/// Each line: what the clusters have, and which addresses the name of a headless Service stands for.
#[test]
fn the_name_of_a_headless_service_stands_for_ready_backends_of_the_best_rank_in_each_family() {
    let scene = |annotations: &str, own: &str, peer: &str| {
        let service = format!("service headless frontends= {annotations}");
        format!("{service}\n{own}\npeer west\nservice global shared headless frontends=\n{peer}\n")
    };
    let (own, peer) = ("backend 10.1.0.1", "backend 10.2.0.1\nbackend fd00:2::1");
    for (annotations, own, peer, stands_for) in [
        ("", own, peer, "10.1.0.1"),
        ("global", own, peer, "10.1.0.1 10.2.0.1 fd00:2::1"),
        ("global affinity=local", own, peer, "10.1.0.1 fd00:2::1"),
        ("global", "backend 10.1.0.1 terminating", "", ""),
        ("global", "backend 10.1.0.1 unready", peer, "10.2.0.1 fd00:2::1"),
        ("global", "backend 10.1.0.1 silent", "backend 10.2.0.1", "10.2.0.1"),
        // No port has to fit, as none is asked for.
        ("ports=web:80", "backend 10.1.0.1 ports=metrics:9090", "", "10.1.0.1"),
    ] {
        let view = self::scene(&scene(annotations, own, peer));
        let situation = view.situation(&cart()).expect("a service of ours");
        let addresses: Vec<_> =
            ready(&situation, &silent()).iter().map(|(_, ip, _)| ip.to_string()).collect();
        assert_eq!(addresses.join(" "), stands_for, "`{annotations}`, own `{own}`, peer `{peer}`");
    }
}

#[test]
fn a_private_service_uses_its_private_backends() {
    assert_eq!(
        used_by("local service\nlocal backend 10.1.0.1\npeer west\nservice global shared\nbackend 10.2.0.1"),
        "10.1.0.1"
    );
}

// ---- helpers: a scene is text, a line a fact; what follows `peer` is that peer's ----

fn check(text: &str, expected: Expect) {
    let (view, silent) = (scene(text), silent());
    let choice = choose(&view.situation(&cart()).expect("a service of ours"), &silent);
    let mut out = String::new();
    for (frontend, backends) in &choice.frontends {
        let backends: Vec<String> = backends.iter().map(ToString::to_string).collect();
        writeln!(out, "{}", format!("{frontend} → {}", backends.join(" ")).trim_end()).expect("a string");
    }
    for Candidate { service_port: of, cluster, address, port, verdict, .. } in &choice.candidates {
        let name = of.name.as_ref().map_or("", |name| name.as_str());
        let address = match (port, address.is_ipv6()) {
            (Some(port), _) => std::net::SocketAddr::new(*address, *port).to_string(),
            (None, _) => format!("{address}:-"),
        };
        writeln!(out, "{name}:{}/{} {cluster} {address} {verdict}", of.port, of.protocol).expect("a string");
    }
    expected.assert_eq(&out);
}

fn used_by(text: &str) -> String {
    let (view, silent) = (scene(text), silent());
    let choice = choose(&view.situation(&cart()).expect("a service of ours"), &silent);
    let used: BTreeSet<String> = choice.frontends.values().flatten().map(|a| a.ip().to_string()).collect();
    used.into_iter().collect::<Vec<_>>().join(" ")
}

fn silent() -> Silent {
    ["east", "west"]
        .map(|cluster| (cluster.parse().expect("a name"), "silent".parse().expect("a name")))
        .into()
}

fn cart() -> ServiceKey {
    ServiceKey { namespace: "shop".parse().expect("a name"), name: "cart".parse().expect("a name") }
}

fn scene(text: &str) -> View {
    let east: ClusterName = "east".parse().expect("a name");
    let mut view = View::new(east.clone());
    let mut cluster = east.clone();
    let boot = Boot { id: BootId([1; 16]), first_revision: 1 };
    put(&mut view, MeshKey::Lineage.of(&east), Lineage { boots: vec![boot] }.into());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ServiceKey { namespace, name } = cart();
        match words[..] {
            ["peer", peer, ..] => {
                cluster = peer.parse().expect("a name");
                if !words.contains(&"unknown") {
                    put(&mut view, LocalKey::Peer(cluster.clone()).into(), peer_state(&words).into());
                }
            }
            ["local", "service", ..] => {
                put(&mut view, LocalKey::Service(namespace, name).into(), service(&words).into());
            }
            ["service", ..] => {
                put(&mut view, MeshKey::Service(namespace, name).of(&cluster), service(&words).into());
            }
            ["local", "backend", ip, ..] => {
                let key = LocalKey::Backend(namespace, name, ip.parse().expect("an address"));
                put(&mut view, key.into(), backend(&words).into());
            }
            ["backend", ip, ..] => {
                let key = MeshKey::Backend(namespace, name, ip.parse().expect("an address"));
                put(&mut view, key.of(&cluster), backend(&words).into());
            }
            _ => panic!("no such fact: {line}"),
        }
    }
    view
}

fn put(view: &mut View, key: Key, record: Record) {
    let value = Value { key: key.to_string().into_bytes(), value: record.encode(), mod_revision: 1 };
    view.apply(Event::Apply(value));
}

fn peer_state(words: &[&str]) -> PeerState {
    let has = |word: &str| words.contains(&word);
    PeerState {
        uuid: ClusterUuid([2; 16]),
        phase: if has("prepared") { Phase::Prepared } else { Phase::Active },
        freshness: if has("stale") { Freshness::Stale } else { Freshness::Fresh },
        stale_policy: if has("keep") {
            StalePolicy::Keep
        } else if has("drop-after") {
            StalePolicy::DropAfter
        } else {
            StalePolicy::Demote
        },
        drop_after_ms: 0,
        prefixes: vec!["10.2.0.0/16".parse().expect("a prefix")],
        nonce: None,
        dropped: has("dropped"),
        through: None,
        relay: vec![],
    }
}

fn value<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn ports(words: &[&str]) -> Vec<NamedPort> {
    let port = |text: &str| {
        let (text, protocol) = match text.split_once('/') {
            Some((text, "UDP")) => (text, Protocol::Udp),
            Some((text, _)) => (text, Protocol::Tcp),
            None => (text, Protocol::Tcp),
        };
        let (name, port) = text.split_once(':').expect("name:port");
        NamedPort { name: name.parse().ok(), port: port.parse().expect("a port"), protocol }
    };
    value(words, "ports").unwrap_or(":80").split(',').map(port).collect()
}

fn service(words: &[&str]) -> Service {
    let frontends =
        value(words, "frontends").unwrap_or("10.96.0.1").split(',').filter(|text| !text.is_empty());
    Service {
        uid: Uid([1; 16]),
        frontends: frontends.map(|ip| ip.parse().expect("an address")).collect(),
        ports: ports(words),
        global: words.contains(&"global"),
        shared: words.contains(&"shared"),
        affinity: match value(words, "affinity") {
            Some("local") => Affinity::Local,
            Some("remote") => Affinity::Remote,
            Some(_) | None => Affinity::None,
        },
        headless: words.contains(&"headless"),
        created_s: 1,
        session_affinity_s: 0,
    }
}

fn backend(words: &[&str]) -> Backend {
    let has = |word: &str| words.contains(&word);
    Backend {
        uid: Uid([3; 16]),
        ports: ports(words),
        ready: !has("unready") && !has("terminating"),
        serving: !has("unready"),
        terminating: has("terminating"),
        weight: 1,
        zone: String::new(),
        node: Some(if has("silent") { "silent" } else { "n1" }.parse().expect("a name")),
        hostname: String::new(),
        created_s: 1,
    }
}
