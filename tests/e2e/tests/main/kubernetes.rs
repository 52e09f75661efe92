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

    for (mode, list, written) in MODES {
        let proxies = A.nodes.map(|node| kubernetes.proxy(node, mode).unwrap());
        for node in A.nodes {
            let rules = story.said(&format!("{}/node/{node}", A.name), list);
            assert!(written.iter().all(|rule| rules.contains(rule)), "{mode:?} on {node}: {rules}");
        }
        story.carts("cluster-a/pod/client", &A, |answers| only(answers, &A));
        opens(&story, mode);

        story.connect();
        for place in ["cluster-a/pod/client", "cluster-a/pod/shell", "cluster-a/node/a1", "cluster-a/node/a2"]
        {
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
        story.ctl(&["status", "--wait", "--timeout", "40"]);

        story.ctl(&["disconnect", A.name, B.name]);
        story.carts("cluster-a/pod/client", &A, |answers| only(answers, &A));
        proxies.into_iter().for_each(|proxy| proxy.stop().unwrap());
    }
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
