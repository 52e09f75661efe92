//! Links as they are between sites: some packets are lost, there is not much room, and the other site is far away.

use std::collections::BTreeSet;

use e2e::{A, B, both, report};
use lab::Traffic;

use crate::story::{SHOWN, Story, eventually};

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
    story.well();
    story.carts("cluster-b/pod/client", &B, both);
    transfer(&story, 20_000);
    story.ctl(&["disconnect", A.name, B.name]);
    story.connect();
    story.carts("cluster-a/pod/client", &A, both);
    story.lab.heal(A.name, B.name).unwrap();
    story.well();
}

#[test]
fn clusters_connect_and_serve_each_other_over_half_a_second_there_and_back_with_loss() {
    let story = Story::running("long-link");
    // The operator is far away from one of the two, too.
    let far = ["host/admin", A.name];
    for side in far {
        story.lab.cut(side, B.name, Traffic::DelayMs(250)).unwrap();
        story.lab.cut(side, B.name, Traffic::Percent(5)).unwrap();
    }
    story.connect();
    for (place, url) in [("cluster-a/pod/client", A.cart), ("cluster-b/pod/client", B.cart)] {
        // Each request is answered, when TCP has sent again what was lost; and both clusters answer.
        let mut answered = BTreeSet::new();
        eventually("both clusters answer", SHOWN * 3, || {
            let answer = story.said(place, &format!("curl -gsS --max-time 20 http://{url}/"));
            answered.insert(answer.split('/').next().unwrap_or_default().to_owned());
            if answered.len() == 2 { Ok(()) } else { Err(answer) }
        });
    }
    transfer(&story, 20_000);
    story.well();
    // One of them may have met a busy machine.
    eventually("the status sees what a round trip takes", SHOWN, || {
        let seen = round_trips_us(&story);
        if seen.iter().all(|rtt| (500_000..1_000_000).contains(rtt)) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    });

    for side in far {
        story.lab.heal(side, B.name).unwrap();
    }
    eventually("the status sees that the link is short again", SHOWN, || {
        let seen = round_trips_us(&story);
        if seen.iter().all(|rtt| *rtt < 250_000) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    story.well();
}

/// The longest round trip of each cluster to its peer, as the status tells it.
fn round_trips_us(story: &Story) -> Vec<u64> {
    let (_, status) = story.status();
    let clusters = status.as_array().unwrap().iter();
    let seen: Vec<_> = clusters.filter_map(|cluster| cluster["peers"][0]["rttMaxUs"].as_u64()).collect();
    assert_eq!(seen.len(), 2, "{status}");
    seen
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
