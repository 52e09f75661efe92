//! What a node's kernel decides (what packet programs stand at) is nobody else's concern.

use std::fs;

use e2e::{A, B, MANIFESTS, both, files, report};

use crate::{global_service::answered_by_both_while_connected, story::Story};

const CLIENT: &str = "cluster-a/pod/client";
const SHELL: &str = "cluster-b/pod/shell";
/// Longer than two starts of every agent take on a busy machine.
const STREAM_SECONDS: &str = "12";

#[test]
fn without_tcx_services_are_the_same_and_agents_that_start_again_cost_no_packet() {
    let story = with_agents_told("clsact", "--packet-hook clsact");
    for cluster in [A, B] {
        story.start(&cluster).unwrap();
    }
    story.connect();
    answered_by_both_while_connected(&story);
    assert!(path(&story).contains("packet programs at: clsact"), "{}", path(&story));
    let filters =
        story.said("cluster-a/node/a1", "tc filter show dev mesh0 ingress; tc filter show dev mesh0 egress");
    assert!(filters.contains("mesh/from-tunnel") && filters.contains("mesh/to-tunnel"), "{filters}");

    let receiver =
        story.traffic(SHELL, &["udp-seq", "receive", "--port", "9001", "--seconds", "60"]).unwrap();
    story.said(SHELL, "until ss -Hlun 'sport = 9001' | grep -q .; do :; done");
    let to_shell =
        ["udp-seq", "send", "--target", "10.2.2.10:9001", "--rate", "500", "--seconds", STREAM_SECONDS];
    let sender = story.traffic(CLIENT, &to_shell).unwrap();
    for _ in 0..2 {
        for node in ["cluster-a/node/a1", "cluster-a/node/a2", "cluster-b/node/b1", "cluster-b/node/b2"] {
            let agent = format!("{node}/agent");
            story.kill9(&agent);
            story.lab.start(&agent).unwrap();
        }
    }
    assert_eq!(report(sender).unwrap()["refused"], 0);
    let stream = report(receiver).unwrap();
    assert!(stream["lost"] == 0 && stream["finished"] == true, "the stream: {stream}");
    story.well();
    story.carts(CLIENT, &A, both);
}

/// The demo's clusters, not started, their agents with one more flag.
fn with_agents_told(name: &str, flag: &str) -> Story {
    let dir = tempfile::tempdir().unwrap();
    let agent = "{bin}/mesh-node-agent";
    let topology = fs::read_to_string(files().join("topology.yaml")).unwrap();
    assert_eq!(topology.matches(agent).count(), 4);
    let file = dir.path().join("topology.yaml");
    fs::write(&file, topology.replace(agent, &format!("{agent} {flag}"))).unwrap();
    let story = Story::made_in(name, &file);
    for cluster in [A, B] {
        for manifest in MANIFESTS {
            story.apply(&cluster, manifest).unwrap();
        }
    }
    story
}

/// How the mesh says that packets go from a pod of cluster-a to one of cluster-b.
fn path(story: &Story) -> String {
    story.ctl(&["why", "--cluster", A.name, "10.1.1.10", "10.2.2.11"])
}
