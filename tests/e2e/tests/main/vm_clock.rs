//! A VM whose clock is put back while it is off, behind a box that knows nothing of it any more: nobody can dial it, and
//! nobody heeds what it says, until it has told that its clock went back.

use std::time::Duration;

use e2e::{B, both, report};

use crate::{
    cold_start::reboot,
    nats::{Says, behind_a_box, set_clock},
    story::{SHOWN, Story, eventually},
    vms::{CART, VM, join},
};

/// `shop/cart` in cluster-b.
const TARGET: &str = "10.102.0.10:80";
/// Less than the three minutes after which a peer by itself would begin anew, and far less than the hour of the clock.
const HEARD: Duration = Duration::from_secs(60);

#[test]
fn a_vm_that_comes_back_with_an_earlier_clock_is_heard_again_at_once_and_peers_make_it_anew_once() {
    let story = behind_a_box("symmetric", Says::NothingAsItIsNoNodeAndItsClockIsOurs);
    set_clock(&story, "+3600");
    story.write(&B, "cart-endpoints.yaml", CART).unwrap();
    story.connect();
    let line = story.ctl(&["vm", "add", "web-1", "--cluster=cluster-b", "--namespace", "shop"]);
    with_a_clock_of_another_year_it_is_told_so(&story, &line);
    let (code, stdout, stderr) = join(&story, &line);
    assert_eq!(code, 0, "{stdout}{stderr}");
    story.lab.start(&format!("{VM}/agent")).unwrap();
    story.carts(VM, &B, both);
    let kept = story.said(VM, "cat /var/lib/mesh-vm-agent/clock.json");
    assert!(kept.contains("\"epoch\":0"), "{kept}");

    for process in ["agent", "tunnel"] {
        story.kill9(&format!("{VM}/{process}"));
    }
    reboot(&story, VM);
    story.lab.rebind(&"home".parse().unwrap()).unwrap();
    set_clock(&story, "+0");
    story.lab.start(&format!("{VM}/tunnel")).unwrap();
    story.lab.start(&format!("{VM}/agent")).unwrap();
    story.ask_until(VM, &format!("http://{}/", B.cart), HEARD, both).unwrap();

    let log = story.log(&format!("{VM}/agent"));
    assert_eq!(log.matches("This host's clock went back").count(), 1, "{log}");
    for node in ["cluster-a/node/a1", "cluster-a/node/a2", "cluster-b/node/b1"] {
        eventually("the peer was made anew", SHOWN, || {
            let epochs = story.said(node, "cat /var/lib/mesh/clock-epochs.json");
            if epochs.contains(":1}") { Ok(()) } else { Err(epochs) }
        });
    }
    // Once: agents look every ten seconds, and nothing is lost.
    let every = ["connect-loop", "--target", TARGET, "--interval-ms", "100", "--seconds", "25"];
    let seen = report(story.traffic(VM, &every).unwrap()).unwrap();
    assert_eq!(seen["failures"], 0, "{seen}");
    well(&story);
}

/// Nothing of the token is used up by that.
fn with_a_clock_of_another_year_it_is_told_so(story: &Story, line: &str) {
    let bin = story.lab.state().unwrap().bin;
    let preload = "LD_PRELOAD='/usr/$LIB/faketime/libfaketimeMT.so.1' FAKETIME_DONT_FAKE_MONOTONIC=1";
    let join = format!("env {preload} FAKETIME='@2020-01-01 00:00:00' {}/{}", bin.display(), line.trim());
    let (code, _, stderr) = story.sh(VM, &join);
    let says = ["it is not valid before", "this host's clock shows Jan  1", "2020", "timedatectl"];
    assert!(code == 1 && says.iter().all(|word| stderr.contains(word)), "{stderr}");
}

fn well(story: &Story) {
    eventually("meshctl finds the VM well", SHOWN, || {
        let (code, stdout, stderr) = story.try_ctl(&["vm", "status", "web-1", "--cluster", B.name]);
        if code == 0 { Ok(()) } else { Err(format!("{stdout}{stderr}")) }
    });
}
