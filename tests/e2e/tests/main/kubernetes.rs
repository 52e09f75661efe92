//! Beside the real kube-proxy: with rules that it writes itself, for the Services of a real apiserver.
//!
//! `make test-kubernetes` builds the real parts and runs what is ignored here.

use e2e::kubernetes::{Kubernetes, ProxyMode};
use e2e::{A, B, MANIFESTS, both, carts, only};

use crate::story::{SHOWN, Story, eventually};

/// A Service that only kube-proxy serves: by a port of every node.
const DOOR: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: door, namespace: shop}
spec:
  type: NodePort
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: door-v4, namespace: shop, labels: {kubernetes.io/service-name: door}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
  - {addresses: [10.1.1.11], nodeName: a1, conditions: {ready: true}}
  - {addresses: [10.1.2.11], nodeName: a2, conditions: {ready: true}}
"#;

/// A Service of the pods behind cart that the mesh balances, until it is told not to.
const PLAIN: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: shop}
spec:
  clusterIP: 10.101.0.20
  clusterIPs: [10.101.0.20]
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: plain-v4, namespace: shop, labels: {kubernetes.io/service-name: plain}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
  - {addresses: [10.1.1.11], nodeName: a1, conditions: {ready: true}}
  - {addresses: [10.1.2.11], nodeName: a2, conditions: {ready: true}}
"#;

/// Its address.
const PLAIN_AT: &str = "http://10.101.0.20/";

/// What each mode writes of its own: the Service that the mesh serves, and what it drops beside.
const MODES: [(ProxyMode, &str, &[&str]); 2] = [
    (
        ProxyMode::Iptables,
        "iptables-save",
        &["shop/cart:http cluster IP", "-A KUBE-FORWARD -m conntrack --ctstate INVALID"],
    ),
    (
        ProxyMode::Nftables,
        "nft list table ip kube-proxy",
        &[
            "shop/cart/tcp/http",
            "ip daddr 10.101.0.0/16 drop comment \"Drop traffic to unallocated ClusterIPs\"",
        ],
    ),
];

/// What the mode of iptables drops and the one of nftables does not, as a hardened host does by itself.
const HARDENED: &str = "nft add table inet hardened && nft add chain inet hardened forward \
     '{ type filter hook forward priority 0; }' && nft add rule inet hardened forward ct state invalid drop";

#[test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
fn a_global_service_works_beside_the_rules_of_a_real_kube_proxy_of_either_mode() {
    let story = Story::running("kube-proxy");
    let kubernetes = Kubernetes::start(&story, A).unwrap();
    kubernetes.namespace("shop").unwrap();
    // A kube-proxy looks at no Pod.
    for file in MANIFESTS.iter().filter(|file| **file != "pods.yaml") {
        kubernetes.apply(file).unwrap();
    }
    kubernetes.apply_text(DOOR).unwrap();
    // Nothing of the lab's imitation is left: what is there from now on a real one wrote.
    for node in A.nodes {
        kubernetes.clean(node).unwrap();
        let rules = story.said(&format!("{}/node/{node}", A.name), "iptables-save");
        assert!(!rules.contains("KUBE-FORWARD") && rules.contains(":FORWARD DROP"), "{rules}");
        story.said(&format!("{}/node/{node}", A.name), HARDENED);
    }

    a_service_that_is_not_to_be_balanced_is_left_alone(&story);
    kubernetes.apply_text(PLAIN).unwrap();

    for (mode, list, written) in MODES {
        let proxies = A.nodes.map(|node| kubernetes.proxy(node, mode).unwrap());
        for node in A.nodes {
            let rules = story.said(&format!("{}/node/{node}", A.name), list);
            assert!(written.iter().all(|rule| rules.contains(rule)), "{mode:?} on {node}: {rules}");
        }
        story.carts("cluster-a/pod/client", &A, |answers| only(answers, &A));
        // What the mesh leaves alone, kube-proxy serves.
        for place in ASKING {
            story.ask_until(place, PLAIN_AT, SHOWN, |answers| carts(answers, &[A])).unwrap();
        }
        opens(&story, mode);

        story.connect();
        for place in ASKING {
            for cart in [A.cart, A.cart_v6] {
                story.ask_until(place, &format!("http://{cart}/"), SHOWN, both).unwrap();
            }
        }
        // The other way round: what comes out of the tunnel passes their rules, too.
        story.carts("cluster-b/pod/client", &B, |answers| carts(answers, &[A, B]));
        for answer in 0..4 {
            assert!(
                story.udp("cluster-a/pod/client", "10.101.0.10", 7, "hello").is_some(),
                "{mode:?} {answer}"
            );
        }
        opens(&story, mode);
        story.well();

        story.ctl(&["disconnect", A.name, B.name]);
        story.carts("cluster-a/pod/client", &A, |answers| only(answers, &A));
        proxies.into_iter().for_each(|proxy| proxy.stop().unwrap());
    }
}

/// Pods on both nodes, and the nodes themselves.
const ASKING: [&str; 4] =
    ["cluster-a/pod/client", "cluster-a/pod/shell", "cluster-a/node/a1", "cluster-a/node/a2"];

/// While there are no rules of a kube-proxy, what is answered is what the mesh balances.
fn a_service_that_is_not_to_be_balanced_is_left_alone(story: &Story) {
    let answered = |place: &str| story.curl(place, PLAIN_AT);
    story.write(&A, "plain.yaml", PLAIN).unwrap();
    for place in ASKING {
        story.ask_until(place, PLAIN_AT, SHOWN, |answers| carts(answers, &[A])).unwrap();
    }
    let metadata = "metadata: {name: plain, namespace: shop";
    let left_alone = format!("{metadata}, annotations: {{clustermesh.io/balance: \"false\"}}");
    story.write(&A, "plain.yaml", &PLAIN.replacen(metadata, &left_alone, 1)).unwrap();
    for place in ASKING {
        eventually("nobody answers", SHOWN, || match answered(place) {
            Err(said) if said.contains("timed out") || said.contains("onnect") => Ok(()),
            other => Err(format!("{place}: {other:?}")),
        });
    }
    story.carts(ASKING[0], &A, |answers| only(answers, &A));
}

/// The node port of either node leads a stranger to the pods of both.
fn opens(story: &Story, mode: ProxyMode) {
    for node in ["192.0.2.11", "192.0.2.12"] {
        eventually("both pods answer at a node's port", SHOWN, || {
            let answers = story.ask("host/admin", &format!("http://{node}:30080/"), 20).unwrap();
            if carts(&answers, &[A]) { Ok(()) } else { Err(format!("{mode:?}, {node}: {answers:?}")) }
        });
    }
}
