//! Every control process dies at once: packets flow on, and when the processes are back there is still no gap.

use e2e::{A, B, Mesh, both, report};

use crate::story::{SHOWN, Story};

/// Long enough to kill and to start ten processes while everything flows; the demo shows thirty.
const STREAM_SECONDS: &str = "14";

/// A gap that a person would call one. The machine has two cores, and twenty processes start on them meanwhile.
const GAP_MAX_MS: u64 = 1_000;

#[test]
fn traffic_and_new_connections_outlive_every_apiserver_and_agent_and_their_return() {
    let story = Story::connected("headless");
    story.carts("cluster-a/pod/client", &A, both);
    let (client, shell) = ("cluster-a/pod/client", "cluster-b/pod/shell");
    let mut server =
        story.traffic(shell, &["tcp-stream", "serve", "--port", "9000", "--seconds", "60"]).unwrap();
    let receiver =
        story.traffic(shell, &["udp-seq", "receive", "--port", "9001", "--seconds", "60"]).unwrap();
    story.await_tcp(shell, 9000, SHOWN).unwrap();
    let stream = |args: &[&str]| {
        let args = [args, &["--seconds", STREAM_SECONDS]].concat();
        story.traffic(client, &args).unwrap()
    };
    let tcp = stream(&["tcp-stream", "send", "--target", "10.2.2.10:9000"]);
    let udp = stream(&["udp-seq", "send", "--target", "10.2.2.10:9001", "--rate", "200"]);
    let cart = format!("{}:80", A.cart);
    let connections = stream(&["connect-loop", "--target", &cart, "--http", "--interval-ms", "100"]);

    for cluster in [A, B] {
        story.kill_control(&cluster).unwrap();
    }
    assert!(control_is_dead(&story));
    story.carts(client, &A, both);
    for cluster in [A, B] {
        story.start_control(&cluster).unwrap();
    }

    let tcp = report(tcp).unwrap();
    assert!(tcp["error"].is_null() && tcp["bytes"] == tcp["acknowledged"], "the TCP transfer: {tcp}");
    assert!(tcp["longest_gap_ms"].as_u64() < Some(GAP_MAX_MS), "the TCP transfer: {tcp}");
    assert_eq!(report(udp).unwrap()["refused"], 0);
    let udp = report(receiver).unwrap();
    assert!(udp["lost"] == 0 && udp["finished"] == true, "the UDP stream: {udp}");
    assert!(udp["longest_gap_ms"].as_u64() < Some(GAP_MAX_MS), "the UDP stream: {udp}");
    let connections = report(connections).unwrap();
    assert!(connections["failures"] == 0, "new connections: {connections}");
    assert_eq!(
        connections["answers"].as_object().map(|who| who.len()),
        Some(4),
        "all backends: {connections}"
    );
    server.kill().unwrap();
    server.wait().unwrap();

    story.ctl(&["status", "--wait", "--timeout", "40"]);
    story.carts(client, &A, both);
}

/// Nobody answers an operator while the control plane is dead; the message says what is not there.
fn control_is_dead(story: &Mesh) -> bool {
    let output = story.meshctl(["status"]).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("192.0.2.10:2379"), "the error names who does not answer: {error}");
    !output.status.success()
}
