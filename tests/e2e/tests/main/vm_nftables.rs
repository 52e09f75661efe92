//! A VM whose kernel is told to have no socket programs: nftables balances the same Services, and status says so.

use e2e::{A, B, both, only};

use crate::{
    cold_start::reboot,
    nats::{Says, behind_a_box},
    story::{SHOWN, Story, eventually},
    vms::{CART, VM, join},
};

#[test]
fn a_vm_without_socket_programs_balances_by_nftables_and_says_so() {
    let story = behind_a_box("port-restricted", Says::NothingAsItIsNoNodeAndNftablesBalances);
    story.write(&B, "cart-endpoints.yaml", CART).unwrap();
    story.connect();
    let line = story.ctl(&["vm", "add", "web-1", "--cluster=cluster-b", "--namespace", "shop"]);
    let (code, stdout, stderr) = join(&story, &line);
    assert_eq!(code, 0, "{stdout}{stderr}");
    story.lab.start(&format!("{VM}/agent")).unwrap();

    serves_both_families(&story);
    says_so(&story);
    let pins = story.said(VM, "ls /sys/fs/bpf/mesh/v*/links");
    assert!(!pins.contains("connect4"), "no socket program stands anywhere: {pins}");
    let refused = story.curl(VM, &format!("http://{}:81/", B.cart)).unwrap_err();
    assert!(refused.contains("(7)"), "a port that the Service does not have: {refused}");

    // Backends go and come; without any, a connection is refused at once.
    story.remove(&A, "cart-endpoints.yaml").unwrap();
    story.carts(VM, &B, |all| only(all, &B));
    story.remove(&B, "cart-endpoints.yaml").unwrap();
    eventually("nobody is left", SHOWN, || match story.curl(VM, &format!("http://{}/", B.cart)) {
        Err(error) if error.contains("(7)") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    story.apply(&A, "cart-endpoints.yaml").unwrap();
    story.write(&B, "cart-endpoints.yaml", CART).unwrap();
    serves_both_families(&story);

    // Somebody flushes everything that nftables has, and then the machine starts anew without any control plane.
    story.said(VM, "nft flush ruleset");
    serves_both_families(&story);
    for cluster in [A, B] {
        story.kill_control(&cluster).unwrap();
    }
    story.kill9(&format!("{VM}/tunnel"));
    reboot(&story, VM);
    story.lab.start(&format!("{VM}/tunnel")).unwrap();
    story.lab.start(&format!("{VM}/agent")).unwrap();
    serves_both_families(&story);
}

/// IPv6 has no backend in the VM's own cluster here.
fn serves_both_families(story: &Story) {
    story.carts(VM, &B, both);
    story.ask_until(VM, &format!("http://{}/", B.cart_v6), SHOWN, |all| only(all, &A)).unwrap();
    eventually("a datagram is answered", SHOWN, || {
        story.udp(VM, B.cart, 7, "hello").map(drop).ok_or_else(|| "nothing came".to_owned())
    });
}

fn says_so(story: &Story) {
    eventually("status says who balances", SHOWN, || {
        let (code, stdout, stderr) = story.try_ctl(&["vm", "status", "web-1", "--cluster", B.name]);
        let says = code == 0 && stdout.contains("balancer   nftables");
        if says { Ok(()) } else { Err(format!("{stdout}{stderr}")) }
    });
    assert_eq!(story.agent_metric(VM, "mesh_agent_balancer{kind=\"nftables\"}"), 1);
}
