//! The global service where the kernel is another than this machine's and has WireGuard: one node uses that, the other
//! one mesh-tunnel. `make test-kernels` boots such kernels, in machines that are emulated: so it is the smallest mesh,
//! the demo's clusters with one node each.

use std::fs;

use e2e::{A, B, Cluster, MANIFESTS, both, clean, files, only};
use lab::{Rule, Sniffer, Watch, Whom};
use serde_json::Value;

use crate::story::{Answers, SHOWN, Story, eventually};

/// The node of cluster-a, whose pods are on a bridge and whose WireGuard is the kernel's.
const KERNEL: &str = "a1";
/// The node of cluster-b, whose pods are routed and whose WireGuard is mesh-tunnel's.
const USERSPACE: &str = "b2";
/// The nodes that the demo has besides.
const OTHERS: [&str; 2] = ["a2", "b1"];

/// A pod of each cluster.
const CLIENT: &str = "cluster-a/pod/client";
const SHELL: &str = "cluster-b/pod/shell";

/// What must not be readable between the clusters.
const CANARY: &str = "canary-of-another-kernel";

/// In a row; that one of two backends answers them all is rare, and then asked again.
const REQUESTS: usize = 6;

/// Seconds for what is done in seconds elsewhere; a mesh that came about in less does not wait.
const TIMEOUT: &str = "600";

#[test]
#[ignore = "needs a kernel with WireGuard: make test-kernels"]
fn a_global_service_is_one_between_a_node_with_the_kernels_wireguard_and_one_with_mesh_tunnel() {
    let story = one_node_each("other-kernel");
    story.lab.start(&format!("cluster-b/node/{USERSPACE}/tunnel")).unwrap();
    for (cluster, node) in [(A, KERNEL), (B, USERSPACE)] {
        story.lab.start(&format!("{}/host/control/apiserver", cluster.name)).unwrap();
        story.lab.start(&format!("{}/node/{node}/agent", cluster.name)).unwrap();
    }

    // Apart: each answers its own.
    answered(&story, CLIENT, A.cart, |answers| only(answers, &A));
    answered(&story, SHELL, B.cart, |answers| only(answers, &B));
    assert!(story.curl(CLIENT, "http://10.2.2.11:8080/").is_err(), "a pod of the other cluster was reached");

    // Connected: both answer pods and nodes, by IPv4 and IPv6, TCP and UDP, and nothing of it can be read in between.
    story.ctl(&["connect", A.name, B.name, "--timeout", TIMEOUT]);
    story.ctl(&["status", "--wait", "--timeout", TIMEOUT]);
    for (from, to, device) in
        [(&A, ["10.1.1.10", "10.2.2.11"], "kernel"), (&B, ["10.2.2.10", "10.1.1.11"], "userspace")]
    {
        let why = story.ctl(&["why", "--cluster", from.name, to[0], to[1]]);
        assert!(why.contains(&format!("tunnel device: {device},")), "{}: {why}", from.name);
    }
    let sniffer = underlay(&story);
    for (place, carts) in [
        (CLIENT, [A.cart, A.cart_v6]),
        ("cluster-a/node/a1", [A.cart, A.cart_v6]),
        (SHELL, [B.cart, B.cart_v6]),
    ] {
        for cart in carts {
            answered(&story, place, cart, both);
        }
    }
    for cart in ["10.101.0.10", "fd00:101::10"] {
        eventually("a backend of the other cluster answers datagrams", SHOWN, || {
            match story.udp(CLIENT, cart, 7, CANARY) {
                Some(answer) if answer.contains(B.name) => Ok(()),
                other => Err(format!("{cart}: {other:?}")),
            }
        });
    }
    let seen = clean(sniffer).unwrap();
    assert!(seen.frames.contains_key(&lab::Class::Wireguard), "it passed somewhere: {seen}");

    // Without backends of its own a cluster is served by the other, in both directions.
    for (place, own, other) in [(CLIENT, A, B), (SHELL, B, A)] {
        story.remove(&own, "cart-endpoints.yaml").unwrap();
        answered(&story, place, own.cart, |answers| only(answers, &other));
        apply(&story, &own, "cart-endpoints.yaml");
        answered(&story, place, own.cart, both);
    }

    // Disconnected: closed, and not in plain.
    story.ctl(&["disconnect", A.name, B.name]);
    answered(&story, CLIENT, A.cart, |answers| only(answers, &A));
    answered(&story, SHELL, B.cart, |answers| only(answers, &B));
    let sniffer = underlay(&story);
    for (place, url) in [(CLIENT, "http://10.2.2.11:8080/"), (SHELL, "http://[fd00:10:1:1::11]:8080/")] {
        assert!(story.curl(place, &format!("{url}{CANARY}")).is_err(), "{place} still reaches {url}");
    }
    clean(sniffer).unwrap();
}

/// Requests to cart, a few at a time as each takes a second there, until the answers are as they should be.
fn answered(story: &Story, place: &str, cart: &str, holds: impl Fn(&Answers) -> bool) {
    eventually("cart is answered by those who should", SHOWN, || {
        let answers = story.ask(place, &format!("http://{cart}/{CANARY}"), REQUESTS).unwrap();
        if holds(&answers) { Ok(()) } else { Err(format!("{cart} from {place}: {answers:?}")) }
    });
}

/// The demo's clusters with one node each and the pods on it, not started, their objects applied.
fn one_node_each(name: &str) -> Story {
    let text = fs::read_to_string(files().join("topology.yaml")).unwrap();
    let mut topology: Value = serde_saphyr::from_str(&text).unwrap();
    for cluster in [A, B] {
        let it = &mut topology["clusters"][cluster.name];
        it["nodes"].as_object_mut().unwrap().retain(|node, _| !OTHERS.contains(&node.as_str()));
        it["pods"].as_object_mut().unwrap().retain(|_, pod| is_here(&pod["node"]));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("topology.yaml");
    // JSON is YAML.
    fs::write(&file, topology.to_string()).unwrap();
    let story = Story::made_in(name, &file);
    for cluster in [A, B] {
        for manifest in MANIFESTS {
            apply(&story, &cluster, manifest);
        }
    }
    story
}

/// One of the demo's manifests, without the nodes that are not here and what is on them.
fn apply(story: &Story, cluster: &Cluster, manifest: &str) {
    let source = files().join("manifests").join(cluster.name).join(manifest);
    let text = fs::read_to_string(source).unwrap();
    let objects = text.split("\n---\n").map(|document| serde_saphyr::from_str::<Value>(document).unwrap());
    let here = objects.filter_map(|mut object| {
        if let Some(endpoints) = object["endpoints"].as_array_mut() {
            endpoints.retain(|endpoint| is_here(&endpoint["nodeName"]));
        }
        let node =
            if object["kind"] == "Node" { &object["metadata"]["name"] } else { &object["spec"]["nodeName"] };
        is_here(node).then(|| object.to_string())
    });
    story.write(cluster, manifest, &here.collect::<Vec<_>>().join("\n---\n")).unwrap();
}

/// Whether what names this node, or none, is part of the smaller mesh.
fn is_here(node: &Value) -> bool {
    node.as_str().is_none_or(|node| !OTHERS.contains(&node))
}

/// Watches every link between the machines: WireGuard between the nodes, and what anybody says to an apiserver.
fn underlay(story: &Story) -> Sniffer {
    let whom = |place: String| Whom::Place(place.parse().unwrap());
    let nodes = [(A, KERNEL), (B, USERSPACE)].map(|(it, node)| whom(format!("{}/node/{node}", it.name)));
    let controls = [A, B].map(|it| whom(format!("{}/host/control", it.name)));
    let rules = vec![
        Rule::Arp,
        Rule::NeighbourDiscovery,
        Rule::Wireguard { between: nodes.to_vec(), port: 51871 },
        Rule::Tcp { to: controls.to_vec(), port: 2379 },
    ];
    Sniffer::start(&story.lab, Watch::underlay().allow(rules).canary(CANARY)).unwrap()
}
