//! Backends that die while every object still calls them ready: what the mesh does, and what it leaves to Kubernetes.

use std::fs;
use std::time::Duration;

use e2e::{A, B, both};

use crate::story::{Answers, SHOWN, Story};

/// What curl says of an address where nobody listens any more.
const REFUSED: &str = "Couldn't connect";

/// A tunnel that does not answer is silent after 15 s; the busy machine gets as much again.
const DEMOTED: Duration = Duration::from_secs(35);

/// A process is the business of its readiness probe: its connections are refused at once, and nobody waits for a timeout.
#[test]
fn a_dead_process_refuses_at_once_until_its_object_says_so_and_a_dead_node_is_left_out_by_itself() {
    let story = Story::connected("dead-backend");
    let client = "cluster-a/pod/client";
    let url = format!("http://{}/", A.cart);
    let ask =
        |holds: &dyn Fn(&Answers) -> bool, within| story.ask_until(client, &url, within, holds).unwrap();
    story.carts(client, &A, |all| all.len() == 4 && both(all));

    story.kill9("cluster-b/pod/cart-1/http");
    let refused = |all: &Answers| all.keys().any(|said| said.contains(REFUSED));
    let answers = ask(&|all| refused(all) && both(&answered(all)), SHOWN);
    assert!(!answers.contains_key("cluster-b/cart-1"), "{answers:?}");
    assert!(!answers.keys().any(|said| said.contains("timed out")), "refused, not silent: {answers:?}");
    let why = story.ctl(&["why", "shop/cart", "--cluster", A.name]);
    assert!(why.contains("10.2.1.11:8080 in cluster-b/b1: used"), "nobody said otherwise: {why}");

    // The readiness probe fails, and the EndpointSlice says so.
    let slices = fs::read_to_string(story.manifests(&B).join("cart-endpoints.yaml")).unwrap();
    let unready = slices.replacen("ready: true, serving: true", "ready: false, serving: false", 1);
    assert_ne!(slices, unready, "the manifest says it in another way: {slices}");
    story.write(&B, "cart-endpoints.yaml", &unready).unwrap();
    ask(&|all| all.len() == 3 && !refused(all), SHOWN);
    story.lab.start("cluster-b/pod/cart-1/http").unwrap();
    story.apply(&B, "cart-endpoints.yaml").unwrap();
    story.carts(client, &A, |all| all.len() == 4 && both(all));

    // The machine of cart-2: nothing of it answers any more, and no object changes.
    for process in ["agent", "tunnel"] {
        story.kill9(&format!("cluster-b/node/b2/{process}"));
    }
    let answers = ask(&|all| all.len() == 3 && both(all), DEMOTED);
    assert!(!answers.contains_key("cluster-b/cart-2"), "{answers:?}");
    let (code, table, _) = story.try_ctl(&["status"]);
    assert!(code == 1 && table.contains("cluster-b/b2"), "{table}");

    story.lab.start("cluster-b/node/b2/tunnel").unwrap();
    story.lab.start("cluster-b/node/b2/agent").unwrap();
    story.well();
    ask(&|all| all.len() == 4 && both(all), SHOWN);
}

/// Without what curl said instead of an answer.
fn answered(all: &Answers) -> Answers {
    all.iter().filter(|(said, _)| !said.contains("curl:")).map(|(who, n)| (who.clone(), *n)).collect()
}
