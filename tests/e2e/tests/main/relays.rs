//! Two nodes of which neither can be dialled talk through the relay of a third cluster.

use std::fs;

use e2e::{A, B, carts, clean};
use lab::{Rule, Sniffer, Watch, Whom};

use crate::nats::{Boxed, HOME, OFFICE, Says, behind_boxes_in};
use crate::story::{SHOWN, Story, eventually, problems};
use crate::three::{C, apply_c, topology};

/// The relay's node, and the port that its Node object offers.
const RELAY: &str = "cluster-c/node/c1";
const OFFERED: &str = "192.0.2.139:51872";

/// A pod on each of the nodes behind the boxes, and the address of the other one.
const ENDS: [(&str, &str); 2] = [("cluster-a/pod/shell", "10.2.2.11"), ("cluster-b/pod/shell", "10.1.2.11")];

#[test]
fn two_nodes_behind_symmetric_boxes_talk_through_a_third_cluster_as_long_as_it_allows_it() {
    let story = three_with_two_behind_boxes();
    for site in [A.name, B.name] {
        ctl(&story, &["connect", site, C.name]);
    }
    for (peer, other) in [(A.name, B.name), (B.name, A.name)] {
        change_contract(&story, peer, |yaml| {
            yaml.replace("  contract:\n", &format!("  contract:\n    relay: [{other}]\n"))
        });
    }
    let watch = sniff_relay(&story);
    ctl(&story, &["connect", A.name, B.name]);
    talk(&story);
    story.carts("cluster-a/pod/shell", &A, |answers| carts(answers, &[A, B, C]));
    let seen = clean(watch).unwrap();
    assert!(seen.frames.contains_key(&lab::Class::WireguardAt), "it passed here: {seen}");

    // Every other pair goes straight.
    let status = ctl(&story, &["status", "--wait", "--timeout", "60"]);
    assert_eq!(status.matches("4/4 (1 relay)").count(), 2, "{status}");
    let why = ctl(&story, &["why", "--cluster", A.name, "10.1.2.10", "10.2.2.11"]);
    assert!(why.contains(&format!("✓ encrypted: a2 → b2 at {OFFERED}, the relay cluster-c/c1")), "{why}");

    // The relay is part of the data path: without its agent, what is allowed stays so, also when a box is bound anew.
    story.kill9(&format!("{RELAY}/agent"));
    talk(&story);
    story.lab.rebind(&HOME.name.parse().unwrap()).unwrap();
    talk(&story);
    story.lab.start(&format!("{RELAY}/agent")).unwrap();

    let withdrawn = |line: &&str| !["relay:", "- cluster-b"].contains(&line.trim());
    change_contract(&story, A.name, |yaml| {
        yaml.lines().filter(withdrawn).map(|line| format!("{line}\n")).collect()
    });
    for (from, to) in ENDS {
        eventually("nobody passes it on any more", SHOWN, || {
            match story.curl(from, &format!("http://{to}:8080/")) {
                Ok(answer) => Err(answer),
                Err(_) => Ok(()),
            }
        });
    }
    eventually("the status says so", SHOWN * 2, || {
        let (_, stdout, _) = try_ctl(&story, &["status", "-o", "json"]);
        let found = problems(&serde_json::from_str(&stdout).unwrap());
        let said = "a2 → cluster-b/b2: the tunnel is silent";
        let relay = "do the contracts there allow it?";
        found
            .iter()
            .any(|problem| problem.contains(said) && problem.contains(relay))
            .then_some(())
            .ok_or(stdout)
    });
}

/// Both sides can begin.
fn talk(story: &Story) {
    for (from, to) in ENDS {
        eventually("the other side answers", SHOWN * 2, || {
            story.curl(from, &format!("http://{to}:8080/")).map_err(|error| format!("{from} → {to}: {error}"))
        });
    }
}

/// The sites A and B, each with a node behind a box, and C, whose first node runs a relay and offers it.
fn three_with_two_behind_boxes() -> Story {
    let (others, c) =
        topology().split_once("\n  cluster-c:\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let c = c.replacen("\"{bin}/mesh-tunnel\"", "\"{bin}/mesh-tunnel --relay 51872\"", 1);
    let behind = |mut it: Boxed<'static>| {
        (it.kind, it.says) = ("symmetric", Says::NoAddress);
        it
    };
    let story =
        behind_boxes_in("relays", format!("{others}\n  cluster-c:\n{c}"), &[behind(HOME), behind(OFFICE)]);
    story.init(&C).unwrap();
    apply_c(&story);
    let nodes = fs::read_to_string(story.manifests(&C).join("nodes.yaml")).unwrap();
    let offer = format!("  name: c1\n  annotations: {{clustermesh.io/relay: \"{OFFERED}\"}}\n");
    story.write(&C, "nodes.yaml", &nodes.replacen("  name: c1\n", &offer, 1)).unwrap();
    story.start(&C).unwrap();
    story
}

/// Edits the object by which C holds a peer to its contract.
fn change_contract(story: &Story, peer: &str, change: impl Fn(&str) -> String) {
    let held = ctl(story, &["peer", "get", peer, "--cluster", C.name]);
    let changed = change(&held);
    assert_ne!(held, changed);
    let file = story.dir().join(format!("{peer}-of-c.yaml"));
    fs::write(&file, changed).unwrap();
    ctl(story, &["peer", "apply", "-f", file.to_str().unwrap(), "--cluster", C.name]);
}

/// At the relay's node, nothing but WireGuard's messages, what its cluster's own network carries, and gRPC to apiservers.
fn sniff_relay(story: &Story) -> Sniffer {
    let places = |all: &[&str]| all.iter().map(|it| Whom::Place(it.parse().unwrap())).collect::<Vec<_>>();
    let own = ["cluster-c/node/c1", "cluster-c/node/c2", "cluster-c/pod/client", "cluster-c/pod/cart-1"];
    let own = [&own[..], &["cluster-c/pod/cart-2", "cluster-c/pod/shell"]].concat();
    let rules = vec![
        Rule::Arp,
        Rule::NeighbourDiscovery,
        Rule::Anything { between: places(&own) },
        Rule::WireguardAt { at: places(&[RELAY]), port: 51871 },
        Rule::WireguardAt { at: places(&[RELAY]), port: 51872 },
        Rule::Tcp { to: places(&["cluster-c/host/control"]), port: 2379 },
    ];
    let watch = Watch::at(RELAY.parse().unwrap()).interface("eth0").allow(rules);
    // What the pods behind the boxes answer with.
    let watch = watch.canary("cluster-b/cart-2").canary("cluster-a/cart-2");
    Sniffer::start(&story.lab, watch).unwrap()
}

fn ctl(story: &Story, args: &[&str]) -> String {
    let (code, stdout, stderr) = try_ctl(story, args);
    assert_eq!(code, 0, "meshctl {}: {stdout}{stderr}", args.join(" "));
    stdout
}

fn try_ctl(story: &Story, args: &[&str]) -> (i32, String, String) {
    story.sh("host/admin", &story.meshctl_argv_of(&[A, B, C], args.iter().copied()).join(" "))
}
