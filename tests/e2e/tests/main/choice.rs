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
    udp_clients_of_a_backend_that_goes_are_told(&story);

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

/// A client that connected once and would never look again.
fn udp_clients_of_a_backend_that_goes_are_told(story: &Story) {
    // It talks until a call fails, and then connects again: whom it talked to last, and whom it talks to now.
    let client = "say() { echo x >&3 && who=$(timeout 2 head -n1 <&3) && [ -n \"$who\" ]; }; \
                  exec 3<>/dev/udp/10.101.0.10/7; say || exit 1; echo talks to $who; \
                  end=$((SECONDS + 25)); while say; do [ $SECONDS -lt $end ] || exit 2; done; \
                  exec 3<>/dev/udp/10.101.0.10/7; say && echo then to $who";
    let own = story.carts("cluster-a/pod/client", &A, both);
    assert!(own.len() > 2);
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..8).map(|_| scope.spawn(|| story.sh("cluster-a/pod/client", client))).collect();
        // They are at it; then cluster-b's backends go.
        story.carts("cluster-a/pod/client", &A, both);
        story.remove(&B, "cart-endpoints.yaml").unwrap();
        let mut moved = 0;
        for client in clients {
            let (code, said, stderr) = client.join().unwrap();
            assert!(said.contains("talks to cluster-"), "{code}: {said}{stderr}");
            if said.contains("talks to cluster-b") {
                assert!(code == 0 && said.contains("then to cluster-a"), "{code}: {said}{stderr}");
                moved += 1;
            } else {
                assert_eq!(code, 2, "who talks to cluster-a is left alone: {said}{stderr}");
            }
        }
        // All eight talk to cluster-a's from the start once in 256 runs.
        assert!(moved > 0, "somebody talked to cluster-b");
    });
    story.apply(&B, "cart-endpoints.yaml").unwrap();
    story.carts("cluster-a/pod/client", &A, both);
}
