//! An agent is replaced by one whose maps are of another make. To the new agent the pins of the old one are then a
//! version that it does not know; renaming them while no agent runs makes the same of today's.

use crate::{
    story::{SHOWN, Story, eventually},
    streams::{FROM, Streams},
};
use e2e::{A, B, Cluster, both};

#[test]
fn nobody_notices_agents_whose_maps_are_of_another_make() {
    let story = Story::connected("upgrade");
    story.carts(FROM, &A, both);
    let mut streams = Streams::start(&story);

    for cluster in [A, B] {
        for node in cluster.nodes {
            replace(&story, &cluster, node);
        }
    }

    assert!(streams.still_flow(), "the agents were replaced after the streams had ended");
    streams.flowed();
    story.well();
    story.carts(FROM, &A, both);
}

/// Kills a node's agent, starts another that finds an earlier version's pins, and waits until it has succeeded it.
fn replace(story: &Story, cluster: &Cluster, node: &str) {
    let place = format!("{}/node/{node}", cluster.name);
    let agent = format!("{place}/agent");
    story.kill9(&agent);
    story.said(&place, "mv /sys/fs/bpf/mesh/v2 /sys/fs/bpf/mesh/v1");
    story.lab.start(&agent).unwrap();
    eventually("only its own version is pinned", SHOWN, || {
        let versions = story.said(&place, "ls /sys/fs/bpf/mesh");
        if versions.trim() == "v2" { Ok(()) } else { Err(versions) }
    });
}
