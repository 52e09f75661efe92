//! docs/kubernetes.md, followed from its first command to its last one: two clusters of real Kubernetes, helm and kubectl.
//!
//! Whoever reads the page has clusters, a kubeconfig and a Service; the lab makes those. All else is the page's.

use std::fs;

use e2e::kubernetes::Kubernetes;
use e2e::page::{Block, shell_blocks};
use e2e::{A, B, Cluster, both, carts, files, kubelet};
use lab::cached;

use crate::story::{SHOWN, Story, eventually};

/// Blocks that no test runs, by their first line, and why.
const NOT_RUN: [(&str, &str); 3] = [
    ("make images", "a lab has no registry: its kubelet starts the programs that are in the images"),
    ("cargo install --locked --path meshctl", "the test was built with it"),
    (
        "kubectl --context ctx-a patch meshpeer site-b --type merge --patch '{\"spec\": {\"contract\": {\"relay\": [\"site-c\"]}}}'",
        "there is no third cluster; tests/e2e/tests/main/relays.rs has three",
    ),
];

/// Blocks for each node, by their first line; all others are for the operator's own machine.
const ON_NODES: [&str; 1] = ["ip link del mesh0"];

/// What the page cannot know: names that stand for the reader's own.
const NAMES: [(&str, &str); 2] = [("mesh.a.example:2379", A.apiserver), ("mesh.b.example:2379", B.apiserver)];

/// A pod's name on the page: DaemonSets draw their own.
const TUNNEL: &str = "mesh-clustermesh-tunnel-x7k2p";

/// What has to be so.
type Holds = fn(&Story);

/// What has to be so after a block, by how it begins.
const AFTER: [(&str, Holds); 6] = [
    ("meshctl check ctx-a ctx-b", each_for_itself),
    ("for context in ctx-a ctx-b; do kubectl --context $context -n shop annotate", one_service),
    ("echo 'relay: {enabled: true}'", a_relay),
    ("helm --kube-context ctx-a upgrade", one_service),
    ("helm --kube-context ctx-a rollback", one_service),
    ("meshctl disconnect ctx-a ctx-b", each_for_itself),
];

#[test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
fn a_newcomer_follows_the_page_from_nothing_to_two_connected_clusters_and_back() {
    let page = fs::read_to_string(files().join("../../docs/kubernetes.md")).unwrap();
    let blocks = shell_blocks(&page).unwrap();
    for known in NOT_RUN.map(|(line, _)| line).iter().chain(&ON_NODES) {
        let found = blocks.iter().filter(|block| block.first() == *known).count();
        assert_eq!(found, 1, "blocks of the page that begin with `{known}`");
    }
    for (begin, _) in AFTER {
        let found = blocks.iter().filter(|block| begins(block, begin)).count();
        assert_eq!(found, 1, "blocks of the page that begin with `{begin}`");
    }

    let story = Story::made("newcomer");
    let [a, b] = [A, B].map(|cluster| a_readers_own(&story, cluster));
    let desk = story.dir().join("desk");
    fs::create_dir(&desk).unwrap();
    std::os::unix::fs::symlink(files().join("../../helm"), desk.join("helm")).unwrap();

    kubelet::run_while(&[&a, &b], "clustermesh", || {
        for block in &blocks {
            if NOT_RUN.iter().any(|(line, _)| block.first() == *line) {
                continue;
            }
            if ON_NODES.contains(&block.first()) {
                for place in
                    [A, B].iter().flat_map(|it| it.nodes.map(|node| format!("{}/node/{node}", it.name)))
                {
                    story.said(&place, &format!("set -eux\n{}", block.text));
                }
                continue;
            }
            let commands = NAMES.iter().fold(block.text.clone(), |text, (name, is)| text.replace(name, is));
            let commands = if commands.contains(TUNNEL) {
                commands.replace(TUNNEL, &tunnel_of(&a, A.nodes[0]))
            } else {
                commands
            };
            let line =
                format!("{}\ncd {}\nset -eux\n{commands}", surroundings(&story, [&a, &b]), desk.display());
            let (code, stdout, stderr) = story.sh("host/admin", &line);
            assert_eq!(code, 0, "docs/kubernetes.md, line {}: {stdout}{stderr}", block.line);
            for (_, holds) in AFTER.iter().filter(|(begin, _)| begins(block, begin)) {
                holds(&story);
            }
        }
    });
}

/// A block's commands in one line begin like this.
fn begins(block: &Block, begin: &str) -> bool {
    block.text.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(begin)
}

/// Kubernetes with nodes, and pods behind a Service that is not global yet.
fn a_readers_own(story: &Story, cluster: Cluster) -> Kubernetes<'_> {
    let kubernetes = Kubernetes::start(story, cluster).unwrap();
    kubernetes.start_controllers().unwrap();
    kubernetes.apply("nodes.yaml").unwrap();
    // As kubelets say it.
    kubernetes.kubectl(&["label", "nodes", "--all", "kubernetes.io/os=linux"]).unwrap();
    kubernetes.kubectl(&["create", "namespace", "shop"]).unwrap();
    for account in ["client", "cart", "shell"] {
        kubernetes.kubectl(&["-n", "shop", "create", "serviceaccount", account]).unwrap();
    }
    kubernetes.apply("pods.yaml").unwrap();
    kubernetes.apply("cart.yaml").unwrap();
    kubernetes.kubectl(&["-n", "shop", "annotate", "service", "cart", "service.cilium.io/global-"]).unwrap();
    kubernetes
}

/// A reader's shell: the kubeconfig, and programs that were installed.
fn surroundings(story: &Story, all: [&Kubernetes<'_>; 2]) -> String {
    let kubeconfig = all.map(Kubernetes::kubeconfig).join(":");
    let helm = cached("helm-3.22.0/helm", "ci/kubernetes.sh").unwrap();
    let [helm, bin] =
        [helm.parent().unwrap(), &story.lab.state().unwrap().bin].map(|it| it.display().to_string());
    format!("export HOME={} KUBECONFIG={kubeconfig} PATH={helm}:{bin}:$PATH", story.dir().display())
}

fn tunnel_of(kubernetes: &Kubernetes<'_>, node: &str) -> String {
    let pods = ["-n", "clustermesh", "get", "pods", "-l", "app.kubernetes.io/component=tunnel", "-o", "name"];
    let on_node = format!("--field-selector=spec.nodeName={node}");
    let name = kubernetes.kubectl(&[&pods[..], &[&on_node]].concat()).unwrap();
    name.trim().strip_prefix("pod/").expect("one pod").to_owned()
}

fn each_for_itself(story: &Story) {
    story.carts("cluster-a/pod/client", &A, |answers| carts(answers, &[A]));
    story.carts("cluster-b/pod/client", &B, |answers| carts(answers, &[B]));
}

/// It runs on the node that the page labels, and on no other.
fn a_relay(story: &Story) {
    let bound = |node: &str| story.said(node, "ss -Hlun 'sport = :51872'");
    eventually("somebody has the relay's port", SHOWN, || match bound("cluster-a/node/a1") {
        it if it.is_empty() => Err("nobody has".to_owned()),
        _ => Ok(()),
    });
    let elsewhere = bound("cluster-a/node/a2");
    assert!(elsewhere.is_empty(), "a node without the label runs one: {elsewhere}");
}

fn one_service(story: &Story) {
    for cart in [A.cart, A.cart_v6] {
        story.ask_until("cluster-a/pod/shell", &format!("http://{cart}/"), SHOWN, both).unwrap();
    }
    story.carts("cluster-a/pod/client", &A, both);
    story.carts("cluster-b/pod/client", &B, both);
}
