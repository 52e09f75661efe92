//! A link on the way that carries less than the nodes' uplinks, and says nothing of it: what passes is found.

use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;

use e2e::report;
use lab::Traffic;

use crate::story::{SHOWN, Story, eventually};

/// What the link carries from some moment on: WireGuard over IPv4 leaves 1240 of it, and 1232 is a multiple of 16.
const NARROW: u16 = 1_300;
const LEFT: u64 = 1_232;

/// Nodes that the link joins, and a pod on each: bridged and routed.
const LINK: (&str, &str) = ("cluster-a/node/a1", "cluster-b/node/b2");
const CLIENT: &str = "cluster-a/pod/client";
const SERVER: (&str, [&str; 2]) = ("cluster-b/pod/shell", ["10.2.2.10", "fd00:10:2:2::10"]);

/// The next confirmation, five losses, four steps of a search and the report of it, on a busy machine.
const FOUND: Duration = Duration::from_secs(60);
/// The next try for more, and the report of it.
const GROWN: Duration = Duration::from_secs(75);

#[test]
fn a_link_that_shrinks_without_a_word_is_followed_shown_and_used_whole_again_when_it_grows() {
    let story = Story::connected("path-mtu");
    let mut server =
        story.traffic(SERVER.0, &["tcp-stream", "serve", "--port", "9000", "--seconds", "240"]).unwrap();
    story.await_tcp(SERVER.0, 9000, SHOWN).unwrap();
    assert_eq!(mtus(&story), [1420, 1420]);

    // One that has begun before, with segments as large as the path was.
    let before = send(&story, SERVER.1[0], 45, 2_000);
    story.lab.cut(LINK.0, LINK.1, Traffic::Icmp).unwrap();
    story.lab.cut(LINK.0, LINK.1, Traffic::LargerThan(NARROW)).unwrap();
    eventually("both clusters say what the path carries", FOUND, || {
        let seen = mtus(&story);
        if seen == [LEFT, LEFT] { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    whole("begun before", before);
    story.well();
    // Other nodes' paths are what they were.
    let pair = story.ctl(&["why", "--cluster", "cluster-a", "10.1.1.10", "10.2.1.11"]);
    assert!(pair.contains("MTU 1420"), "{pair}");
    for to in SERVER.1 {
        let sent = whole(to, send(&story, to, 2, 0));
        assert!(sent > 200_000, "{to}: {sent} bytes");
    }
    // Restarted agents go on with what was found, and soon look for more, as is not tried so often where it did not pass.
    for agent in ["cluster-a/node/a1/agent", "cluster-b/node/b2/agent"] {
        story.kill9(agent);
        story.lab.start(agent).unwrap();
    }
    let sent = whole("while the agents start", send(&story, SERVER.1[0], 3, 0));
    assert!(sent > 200_000, "{sent} bytes");
    story.well();
    assert_eq!(mtus(&story), [LEFT, LEFT]);

    story.lab.heal(LINK.0, LINK.1).unwrap();
    eventually("the path is used whole again", GROWN, || {
        let seen = mtus(&story);
        if seen == [1420, 1420] { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    server.kill().unwrap();
    server.wait().unwrap();
}

/// The MTU column of each cluster: the smallest path to the other.
fn mtus(story: &Story) -> Vec<u64> {
    let (_, status) = story.status();
    let clusters = status.as_array().unwrap().iter();
    clusters.filter_map(|cluster| cluster["peers"][0]["mtuBytes"].as_u64()).collect()
}

fn send(story: &Story, to: &str, seconds: u64, rate_kbit: u64) -> Child {
    let target = SocketAddr::new(to.parse().unwrap(), 9000).to_string();
    let (seconds, rate) = (seconds.to_string(), rate_kbit.to_string());
    let args = ["tcp-stream", "send", "--target", &target, "--seconds", &seconds, "--rate-kbit", &rate];
    story.traffic(CLIENT, &args).unwrap()
}

/// Every byte was acknowledged; how many.
fn whole(which: &str, sender: Child) -> u64 {
    let sent = report(sender).unwrap();
    assert!(sent["error"].is_null() && sent["bytes"] == sent["acknowledged"], "{which}: {sent}");
    sent["bytes"].as_u64().unwrap()
}
