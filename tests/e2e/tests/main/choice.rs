//! Which backends a global service uses: what its annotations say, and how old the news of a peer are.

use std::fs;

use e2e::{A, B, Cluster, both, only};

use crate::story::{SHOWN, Story, eventually};

#[test]
fn annotations_choose_among_the_backends_and_a_stale_peers_are_used_when_there_is_nothing_fresher() {
    let story = Story::connected("choice");
    let (in_a, in_b) = ("cluster-a/pod/client", "cluster-b/pod/client");
    story.carts(in_a, &A, both);
    // A program in the node's own network, as a pod with hostNetwork is one.
    story.carts("cluster-a/node/a1", &A, both);

    annotate(&story, &A, "service.cilium.io/affinity: local");
    story.carts(in_a, &A, |answers| only(answers, &A));
    let why = story.ctl(&["why", "shop/cart", "--cluster", A.name]);
    assert!(why.contains("10.2.1.11:8080 in cluster-b/b1: not used: the affinity prefers others"), "{why}");
    story.carts(in_b, &B, both);
    annotate(&story, &A, "service.cilium.io/affinity: remote");
    story.carts(in_a, &A, |answers| only(answers, &B));
    // Preferred is not demanded: with no backend on the preferred side, the other side answers.
    story.remove(&B, "cart-endpoints.yaml").unwrap();
    story.carts(in_a, &A, |answers| only(answers, &A));
    story.apply(&B, "cart-endpoints.yaml").unwrap();

    // A client stays with one backend, wherever that is, until the Service is balanced again.
    let session = manifest(&A).replace("spec:\n", "spec:\n  sessionAffinity: ClientIP\n");
    story.write(&A, "cart.yaml", &session).unwrap();
    story.carts(in_a, &A, |answers| answers.len() == 1);
    let first = story.carts(in_a, &A, |answers| answers.len() == 1);
    assert_eq!(story.carts(in_a, &A, |_| true).into_keys().next(), first.into_keys().next());
    story.apply(&A, "cart.yaml").unwrap();
    story.carts(in_a, &A, both);

    // Not shared: b takes, and does not give.
    story.apply(&A, "cart.yaml").unwrap();
    annotate(&story, &B, "service.cilium.io/shared: \"false\"");
    story.carts(in_a, &A, |answers| only(answers, &A));
    story.carts(in_b, &B, both);
    story.apply(&B, "cart.yaml").unwrap();
    story.carts(in_a, &A, both);

    // Not global any more: each its own.
    let text =
        manifest(&A).replace("service.cilium.io/global: \"true\"", "service.cilium.io/global: \"false\"");
    story.write(&A, "cart.yaml", &text).unwrap();
    story.carts(in_a, &A, |answers| only(answers, &A));
    story.carts(in_b, &B, |answers| only(answers, &B));
    story.apply(&A, "cart.yaml").unwrap();
    story.carts(in_a, &A, both);

    // Stale: its apiserver is dead, its pods live. Fresher ones are preferred; without any, they are used.
    story.kill9("cluster-b/host/control/apiserver");
    story.carts(in_a, &A, |answers| only(answers, &A));
    let (code, table, _) = story.try_ctl(&["status", A.name]);
    assert!(code == 1 && table.contains("cluster-b: stale, its records are the last known ones"), "{table}");
    let why = story.ctl(&["why", "shop/cart", "--cluster", A.name]);
    assert!(why.contains("not used: its cluster is stale, and others are fresh"), "{why}");
    story.remove(&A, "cart-endpoints.yaml").unwrap();
    story.carts(in_a, &A, |answers| only(answers, &B));
    story.apply(&A, "cart-endpoints.yaml").unwrap();
    story.carts(in_a, &A, |answers| only(answers, &A));
    story.lab.start("cluster-b/host/control/apiserver").unwrap();
    story.carts(in_a, &A, both);
    eventually("status is green again", SHOWN, || match story.try_ctl(&["status"]) {
        (0, ..) => Ok(()),
        (_, table, error) => Err(format!("{table}{error}")),
    });
}

/// Adds an annotation to a cluster's cart.
fn annotate(story: &Story, cluster: &Cluster, annotation: &str) {
    let global = "service.cilium.io/global: \"true\"";
    let text = manifest(cluster);
    assert!(text.contains(global), "{text}");
    story.write(cluster, "cart.yaml", &text.replace(global, &format!("{global}\n    {annotation}"))).unwrap();
}

fn manifest(cluster: &Cluster) -> String {
    fs::read_to_string(e2e::files().join("manifests").join(cluster.name).join("cart.yaml")).unwrap()
}
