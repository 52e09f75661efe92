//! One Service of two clusters: who answers, and when.

use std::collections::BTreeSet;

use e2e::{A, B, Mesh, both, clean, only};

use crate::story::{Answers, PODS_OF_A, SHOWN, Story, eventually};

/// What a node counts for a packet to a peer that was disconnected.
const CLOSED: &str = "mesh_agent_drops{reason=\"closed\"}";

#[test]
fn a_global_service_is_answered_by_its_own_cluster_until_connected_then_by_both_and_after_disconnect_by_its_own()
 {
    let story = Story::running("service");

    // Apart: each answers its own, nothing of the other is reached, and there is no problem to report.
    story.carts("cluster-a/pod/client", &A, |answers| only(answers, &A));
    story.carts("cluster-b/pod/client", &B, |answers| only(answers, &B));
    for url in ["http://10.2.1.11:8080/", "http://[fd00:10:2:1::11]:8080/", "http://10.102.0.10/"] {
        let answer = story.curl("cluster-a/pod/client", url);
        assert!(answer.is_err(), "{url} was answered before the clusters were connected: {answer:?}");
    }
    assert!(story.ctl(&["status"]).contains("no peers"));

    // Connected: both answer, from the bridged and from the routed pod and from the nodes, by IPv4 and IPv6.
    let said = story.connect();
    for step in ["✓ reach", "✓ addresses", "✓ trust", "✓ tunnel", "✓ data", "undo: meshctl disconnect"]
    {
        assert!(said.contains(step), "connect does not say `{step}`: {said}");
    }
    let status = story.well();
    assert_eq!(status.matches("4/4").count(), 2, "every pair of nodes had a round trip: {status}");
    answered_by_both_while_connected(&story);
    // How long a change takes is shown for each of its stages.
    for stage in
        ["mesh_apiserver_publish_seconds_count", "mesh_apiserver_import_seconds_count{peer=\"cluster-b\"}"]
    {
        assert!(story.apiserver_metric(&A, stage) > 0, "{stage}");
    }
    assert!(story.agent_metric("cluster-a/node/a1", "mesh_agent_program_seconds_count") > 0);
    let why = story.ctl(&["why", "shop/cart", "--cluster", A.name]);
    assert!(why.contains("✓ http 10.2.2.11:8080 in cluster-b/b2: used"), "{why}");
    let (code, _, error) = story.try_ctl(&["why", "shop/none", "--cluster", A.name]);
    assert!(code == 1 && error.contains("cluster-a has no Service shop/none"), "{code}: {error}");

    // Again: nothing changes.
    let objects =
        || story.said("cluster-a/host/control", &format!("cat {}/mesh*", story.manifests(&A).display()));
    let before = objects();
    let said = story.connect();
    assert!(said.contains("connected already"), "{said}");
    assert_eq!(objects(), before, "a second connect changes nothing");

    // Disconnected: closed, and not in plain.
    let said = story.ctl(&["disconnect", A.name, B.name]);
    assert!(said.contains("cluster-a removed its peer cluster-b: 4 backends"), "{said}");
    assert!(said.contains("still closed: 10.2.0.0/16"), "{said}");
    story.carts("cluster-a/pod/client", &A, |answers| only(answers, &A));
    story.carts("cluster-b/pod/client", &B, |answers| only(answers, &B));
    let closed =
        || story.agent_metric("cluster-a/node/a1", CLOSED) + story.agent_metric("cluster-a/node/a2", CLOSED);
    let dropped_before = closed();
    let sniffer = story.sniff(&["after-the-end"]).unwrap();
    for pod in PODS_OF_A {
        for url in ["http://10.2.1.11:8080/after-the-end", "http://[fd00:10:2:2::11]:8080/after-the-end"] {
            let answer = story.curl(pod, url);
            assert!(answer.is_err(), "{pod} still reaches {url}: {answer:?}");
        }
    }
    let refused = story.curl("cluster-a/node/a1", "http://10.2.1.11:8080/");
    assert!(refused.is_err_and(|said| said.contains("connect")), "a node's own socket learns it at once");
    clean(sniffer).unwrap();
    // A SYN from each of two pods by each of two families.
    eventually("what goes to a closed peer is counted", SHOWN, || match closed() - dropped_before {
        4.. => Ok(()),
        few => Err(format!("{few} drops")),
    });
    let status = story.ctl(&["status"]);
    assert!(status.contains("no peers"), "{status}");
}

/// Pods on a bridge, routed ones and nodes find the backends of both clusters, by IPv4 and IPv6, TCP and UDP.
pub fn answered_by_both_while_connected(story: &Story) {
    for place in ["cluster-a/pod/client", "cluster-a/pod/shell", "cluster-a/node/a1"] {
        for cart in [A.cart, A.cart_v6] {
            story.ask_until(place, &format!("http://{cart}/"), SHOWN, both).unwrap();
        }
    }
    story.carts("cluster-b/pod/shell", &B, both);
    assert_eq!(
        udp_answers(story).len(),
        4,
        "each of four backends answers datagrams: {:?}",
        udp_answers(story)
    );
}

#[test]
fn when_the_own_backends_go_away_the_other_cluster_answers_and_when_they_come_back_both_do() {
    let story = Story::connected("failover");
    story.carts("cluster-a/pod/client", &A, both);
    story.remove(&A, "cart-endpoints.yaml").unwrap();
    story.carts("cluster-a/pod/client", &A, |answers| only(answers, &B));
    story.carts("cluster-b/pod/client", &B, |answers| only(answers, &B));
    story.apply(&A, "cart-endpoints.yaml").unwrap();
    story.carts("cluster-a/pod/client", &A, both);

    // All gone: nothing falls through to the underlay, a client learns it at once.
    story.remove(&A, "cart-endpoints.yaml").unwrap();
    story.remove(&B, "cart-endpoints.yaml").unwrap();
    let url = format!("http://{}/", A.cart);
    eventually("a service without backends refuses", SHOWN, || {
        match story.curl("cluster-a/pod/client", &url) {
            Err(said) if said.contains("Couldn't connect") && !said.contains("timed out") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let why = story.ctl(&["why", "shop/cart", "--cluster", A.name]);
    assert!(why.contains("10.101.0.10:80/TCP → no backend: connections are refused at once"), "{why}");

    backends_that_die_without_a_change_of_objects_refuse_and_the_others_answer(&story);
}

/// Nobody told the mesh: the objects still say that the backend is ready. Its host refuses the connection (nobody
/// listens), the client sees exactly that, and is not sent elsewhere; every other backend answers as before. It is for
/// the readiness probe of the cluster to take the backend out, as anywhere in Kubernetes.
fn backends_that_die_without_a_change_of_objects_refuse_and_the_others_answer(story: &Story) {
    for cluster in [A, B] {
        story.apply(&cluster, "cart-endpoints.yaml").unwrap();
    }
    story.carts("cluster-a/pod/client", &A, |answers| both(answers) && answers.len() == 4);
    story.kill9("cluster-b/pod/cart-2/http");
    let others = ["cluster-a/cart-1", "cluster-a/cart-2", "cluster-b/cart-1"];
    let refused = |who: &str| who.contains("Connection refused") || who.contains("Couldn't connect");
    let mut seen = Answers::new();
    eventually("the dead backend's share is refused and all others answer", SHOWN, || {
        seen = story.ask("cluster-a/pod/client", &format!("http://{}/", A.cart), 20).unwrap();
        let all = others.iter().all(|other| seen.contains_key(*other));
        if all && seen.keys().any(|who| refused(who)) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let expected = |who: &String| others.contains(&who.as_str()) || refused(who);
    assert!(seen.keys().all(expected), "answers or refusals, and nothing else: {seen:?}");
    story.lab.start("cluster-b/pod/cart-2/http").unwrap();
    story.carts("cluster-a/pod/client", &A, |answers| both(answers) && answers.len() == 4);
}

/// Who answers datagrams to cart, in both families.
fn udp_answers(story: &Mesh) -> BTreeSet<String> {
    let line = "for v in 10.101.0.10 fd00:101::10; do for i in $(seq 20); do \
        exec 3<>/dev/udp/$v/7; echo hello >&3; timeout 2 head -n1 <&3; done; done";
    let output = story.lab.exec("cluster-a/pod/client", ["bash", "-c", line]).unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
