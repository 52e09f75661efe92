//! Scope `all`: from node to node of one cluster, too, nothing passes in plain.

use e2e::{A, MANIFESTS, clean};
use lab::{Rule, Sniffer, Watch, Whom};

use crate::story::{SHOWN, Story, eventually};

const CANARY: &str = "canary-inside";

/// From a pod and from a node to pods of the other node: on a bridge, and routed.
const WAYS: [(&str, &str); 6] = [
    ("cluster-a/pod/client", "10.1.2.11"),
    ("cluster-a/pod/client", "[fd00:10:1:2::11]"),
    ("cluster-a/pod/shell", "10.1.1.11"),
    ("cluster-a/pod/shell", "[fd00:10:1:1::11]"),
    ("cluster-a/node/a1", "10.1.2.11"),
    ("cluster-a/node/a2", "10.1.1.11"),
];

#[test]
fn with_scope_all_nothing_passes_in_plain_between_the_nodes_of_a_cluster() {
    let story = Story::made("scope-all");
    let config = story.dir().join(A.name).join("data/cluster.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("encryptionScope: between-clusters"), "{text}");
    std::fs::write(&config, text.replace("between-clusters", "all")).unwrap();
    for file in MANIFESTS {
        story.apply(&A, file).unwrap();
    }
    story.start(&A).unwrap();
    for (from, to) in WAYS {
        eventually("pods of the other node are reached through the tunnel", SHOWN, || {
            story.curl(from, &format!("http://{to}:8080/")).map_err(|error| format!("{from} → {to}: {error}"))
        });
    }

    let own = story.sniff_device("cluster-a/pod/client", CANARY);
    let underlay = underlay(&story);
    for (from, to) in WAYS {
        story.curl(from, &format!("http://{to}:8080/{CANARY}")).unwrap();
        let answer = story.udp(from, to.trim_matches(['[', ']']), 8080, CANARY);
        assert!(answer.is_some(), "{from} → {to} by UDP");
    }
    // What is on one node never leaves it, and goes on as before.
    story.curl("cluster-a/pod/client", &format!("http://10.1.1.11:8080/{CANARY}")).unwrap();
    // The Service has backends on both nodes.
    story.carts("cluster-a/pod/client", &A, |all| all.len() == 2);
    let seen = clean(underlay).unwrap();
    assert!(seen.frames.contains_key(&lab::Class::Wireguard), "it passed somewhere: {seen}");
    assert!(own.stop().unwrap().canary_hits > 0, "the canary is there to be read");

    let why = story.ctl(&["why", "--cluster", A.name, "10.1.1.10", "10.1.2.11"]);
    assert!(why.contains("✓ encrypted: a1 → a2"), "{why}");

    // A dead tunnel costs the connection, and nothing else.
    let underlay = underlay_with_icmp(&story);
    story.kill9("cluster-a/node/a1/tunnel");
    for (from, to) in WAYS {
        assert!(story.curl(from, &format!("http://{to}:8080/{CANARY}")).is_err(), "{from} → {to}");
    }
    story.curl("cluster-a/pod/client", "http://10.1.1.11:8080/").unwrap();
    story.lab.start("cluster-a/node/a1/tunnel").unwrap();
    for (from, to) in WAYS {
        eventually("the tunnel works again", SHOWN, || {
            story.curl(from, &format!("http://{to}:8080/{CANARY}"))
        });
    }
    clean(underlay).unwrap();
}

fn nodes() -> Vec<Whom> {
    A.nodes.map(|node| Whom::Place(format!("{}/node/{node}", A.name).parse().unwrap())).to_vec()
}

/// Nothing but WireGuard between the nodes, and what they say to their apiserver.
fn rules() -> Vec<Rule> {
    let control = Whom::Place(format!("{}/host/control", A.name).parse().unwrap());
    vec![
        Rule::Arp,
        Rule::NeighbourDiscovery,
        Rule::Wireguard { between: nodes(), port: 51871 },
        Rule::Tcp { to: vec![control], port: 2379 },
    ]
}

fn underlay(story: &Story) -> Sniffer {
    Sniffer::start(&story.lab, Watch::underlay().allow(rules()).canary(CANARY)).unwrap()
}

/// While nobody listens on a node's WireGuard port, its kernel says so, quoting ciphertext.
fn underlay_with_icmp(story: &Story) -> Sniffer {
    let unreachable = Rule::Icmp { between: nodes() };
    let rules = [rules(), vec![unreachable]].concat();
    Sniffer::start(&story.lab, Watch::underlay().allow(rules).canary(CANARY)).unwrap()
}
