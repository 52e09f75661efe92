//! Links as they are between sites: some packets are lost, and there is not much room.

use e2e::{A, B, both, report};
use lab::Traffic;

use crate::story::{SHOWN, Story};

#[test]
fn clusters_connect_and_serve_each_other_over_a_link_that_loses_and_over_one_that_is_slow() {
    let story = Story::running("bad-links");
    // One packet of twenty, in each direction: handshakes, records and requests come later, and come.
    story.lab.cut(A.name, B.name, Traffic::Percent(5)).unwrap();
    story.connect();
    story.carts("cluster-a/pod/client", &A, both);
    transfer(&story, 20_000);
    story.lab.heal(A.name, B.name).unwrap();

    // Half a megabit, as of a site behind a radio link: what the mesh itself says leaves room for everybody else.
    story.lab.cut(A.name, B.name, Traffic::AboveKbit(512)).unwrap();
    story.ctl(&["status", "--wait", "--timeout", "40"]);
    story.carts("cluster-b/pod/client", &B, both);
    transfer(&story, 20_000);
    story.ctl(&["disconnect", A.name, B.name]);
    story.connect();
    story.carts("cluster-a/pod/client", &A, both);
    story.lab.heal(A.name, B.name).unwrap();
    story.ctl(&["status", "--wait", "--timeout", "40"]);
}

/// Three seconds of TCP from pod to pod (96 kB), each byte checked, and at least so many of them.
fn transfer(story: &Story, least: u64) {
    let shell = "cluster-b/pod/shell";
    let mut server =
        story.traffic(shell, &["tcp-stream", "serve", "--port", "9000", "--seconds", "60"]).unwrap();
    story.await_tcp(shell, 9000, SHOWN).unwrap();
    let args = ["tcp-stream", "send", "--target", "10.2.2.10:9000", "--seconds", "3", "--rate-kbit", "256"];
    let sent = report(story.traffic("cluster-a/pod/client", &args).unwrap()).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let whole = sent["error"].is_null() && sent["acknowledged"] == sent["bytes"];
    assert!(whole && sent["bytes"].as_u64() > Some(least), "{sent}");
}
