//! Every control process dies at once: packets flow on, and when the processes are back there is still no gap.

use crate::{
    story::Story,
    streams::{FROM, Streams},
};
use e2e::{A, B, Mesh, both};

#[test]
fn traffic_and_new_connections_outlive_every_apiserver_and_agent_and_their_return() {
    let story = Story::connected("headless");
    story.carts(FROM, &A, both);
    let streams = Streams::start(&story);

    for cluster in [A, B] {
        story.kill_control(&cluster).unwrap();
    }
    assert!(control_is_dead(&story));
    story.carts(FROM, &A, both);
    for cluster in [A, B] {
        story.start_control(&cluster).unwrap();
    }

    streams.flowed();
    story.well();
    story.carts(FROM, &A, both);
}

/// Nobody answers an operator while the control plane is dead; the message says what is not there.
fn control_is_dead(story: &Mesh) -> bool {
    let output = story.meshctl(["status"]).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("192.0.2.10:2379"), "the error names who does not answer: {error}");
    !output.status.success()
}
