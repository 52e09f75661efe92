//! A power cut takes everything at once, and no apiserver comes back: nodes go on from what is on their own disks.

use std::time::Duration;

use e2e::{A, B, Cluster};

use crate::story::{CARTS_OF_B, SHOWN, Story, eventually, problems};

const NODES: [(&Cluster, &str); 4] = [
    (&A, "cluster-a/node/a1"),
    (&A, "cluster-a/node/a2"),
    (&B, "cluster-b/node/b1"),
    (&B, "cluster-b/node/b2"),
];

/// A view that changes is kept every 30 s.
const KEPT: Duration = Duration::from_secs(45);

/// A disk that failed is tried again after 30 s.
const TRIED_AGAIN: Duration = Duration::from_secs(60);

#[test]
fn after_a_power_cut_nodes_without_any_apiserver_program_their_last_view_and_say_so() {
    let story = Story::connected("cold-start");
    story.well();
    for (cluster, node) in NODES {
        let theirs = if cluster.name == A.name { "10.2.1.11" } else { "10.1.1.11" };
        eventually("the connected view is on the disk", KEPT, || {
            let (code, _, stderr) =
                story.sh(node, &format!("grep -aq 'backends/shop/cart/{theirs}' /var/lib/mesh/last-view"));
            if code == 0 { Ok(()) } else { Err(format!("{node}: {code} {stderr}")) }
        });
        assert_eq!(story.said(node, "stat -c %a /var/lib/mesh/last-view").trim(), "600");
    }

    for cluster in [A, B] {
        story.kill_control(&cluster).unwrap();
    }
    for (_, node) in NODES {
        story.kill9(&format!("{node}/tunnel"));
        reboot(&story, node);
    }
    let nobody = story.ask("cluster-a/pod/client", &format!("http://{}/", A.cart), 2).unwrap();
    assert!(nobody.keys().all(|said| said.contains("curl:")), "nothing is left of the mesh: {nobody:?}");

    for (_, node) in NODES {
        story.lab.start(&format!("{node}/tunnel")).unwrap();
        story.lab.start(&format!("{node}/agent")).unwrap();
    }
    for (cluster, client) in [(&A, "cluster-a/pod/client"), (&B, "cluster-b/pod/shell")] {
        story.carts(client, cluster, |all| e2e::carts(all, &[A, B]));
    }
    for cart in CARTS_OF_B {
        let answer = story.curl("cluster-a/pod/shell", &format!("http://{cart}:8080/"));
        assert!(answer.as_ref().is_ok_and(|who| who.starts_with(B.name)), "{cart}: {answer:?}");
    }
    for (_, node) in NODES {
        let ready = story.said(node, "curl -sS http://127.0.0.1:9878/readyz");
        let but = "ready\nbut: maps: the maps hold the view of 20";
        assert!(ready.starts_with(but) && ready.contains("from this node's disk"), "{node}: {ready}");
        let log = story.log(&format!("{node}/agent"));
        assert!(
            log.contains("The maps hold the last view from the disk, until the store is listed"),
            "{log}"
        );
        assert_eq!(story.agent_metric(node, "mesh_agent_start_seconds"), 0, "nothing was listed");
    }

    for cluster in [A, B] {
        story.lab.start(&format!("{}/host/control/apiserver", cluster.name)).unwrap();
    }
    story.well();
    for (_, node) in NODES {
        assert_eq!(story.said(node, "curl -sS http://127.0.0.1:9878/readyz"), "ready\n", "{node}");
    }

    a_damaged_or_foreign_view_is_set_aside(&story);
    a_full_disk_is_named_and_costs_nothing_else(&story);
}

/// The node of the damaged file has nothing until its apiserver answers; the other nodes do not mind.
fn a_damaged_or_foreign_view_is_set_aside(story: &Story) {
    let a1 = "cluster-a/node/a1";
    let spoil = [
        // The middle of the file, turned around bit by bit.
        (
            "f=/var/lib/mesh/last-view; at=$(($(stat -c %s $f) / 2)); \
             b=$(od -An -tu1 -j$at -N1 $f); printf \"\\\\x$(printf %x $((255 - b)))\" | \
             dd of=$f bs=1 seek=$at conv=notrunc status=none",
            "it is damaged: its sum is another",
        ),
        ("cp {lab}/foreign-view /var/lib/mesh/last-view", "it is of the node a2, and this is a1"),
    ];
    let lab = story.dir().display().to_string();
    story.said("cluster-a/node/a2", &format!("cp /var/lib/mesh/last-view {lab}/foreign-view"));
    for (spoil, because) in spoil {
        story.kill9("cluster-a/host/control/apiserver");
        story.kill9(&format!("{a1}/agent"));
        story.said(a1, &spoil.replace("{lab}", &lab));
        story.said(a1, "rm -r /sys/fs/bpf/mesh");
        story.lab.start(&format!("{a1}/agent")).unwrap();
        eventually("the agent names the file and the reason", SHOWN, || {
            let log = story.log(&format!("{a1}/agent"));
            let named =
                log.lines().find(|line| line.contains("last-view is not used") && line.contains(because));
            named.map(drop).ok_or_else(|| log.lines().last().unwrap_or_default().to_owned())
        });
        let ready = story.said(a1, "curl -sS http://127.0.0.1:9878/readyz");
        assert!(ready.starts_with("not ready: maps: "), "{ready}");
        story.said(a1, "test -e /var/lib/mesh/last-view.refused && test ! -e /var/lib/mesh/last-view");
        story.lab.start("cluster-a/host/control/apiserver").unwrap();
        story.well();
        eventually("a good view is kept again", KEPT, || {
            let (code, ..) = story.sh(a1, "test -s /var/lib/mesh/last-view");
            if code == 0 { Ok(()) } else { Err("no file".to_owned()) }
        });
    }
}

fn a_full_disk_is_named_and_costs_nothing_else(story: &Story) {
    let a1 = "cluster-a/node/a1";
    story.kill9(&format!("{a1}/agent"));
    story.said(
        a1,
        "mkdir /run/was && cp -a /var/lib/mesh/. /run/was && mount -t tmpfs -o size=128k tmpfs /var/lib/mesh && \
         cp -a /run/was/. /var/lib/mesh && ! dd if=/dev/zero of=/var/lib/mesh/ballast bs=4k status=none 2>/dev/null",
    );
    story.lab.start(&format!("{a1}/agent")).unwrap();
    let problem = "cannot keep the view in /var/lib/mesh/last-view: No space left on device";
    eventually("status names the disk that is full", SHOWN, || {
        let (_, status) = story.status();
        let found = problems(&status);
        if found.iter().any(|text| text.contains(problem)) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    story.carts("cluster-a/pod/client", &A, |all| e2e::carts(all, &[A, B]));
    story.remove(&A, "cart-endpoints.yaml").unwrap();
    story.carts("cluster-a/pod/client", &A, |all| e2e::carts(all, &[B]));
    assert!(story.agent_metric(a1, "mesh_agent_kept_view_failures_total") > 0);

    story.said(a1, "rm /var/lib/mesh/ballast");
    story.apply(&A, "cart-endpoints.yaml").unwrap();
    story.carts("cluster-a/pod/client", &A, |all| e2e::carts(all, &[A, B]));
    eventually("the disk takes the view again", TRIED_AGAIN, || {
        let (_, status) = story.status();
        let found = problems(&status);
        if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// What a reboot leaves of the mesh in a kernel: nothing.
pub fn reboot(story: &Story, node: &str) {
    story.said(
        node,
        "rm -r /sys/fs/bpf/mesh && ip link del mesh0 && rm -rf /run/wireguard && \
         for family in -4 -6; do \
           ip $family rule show | sed -n 's/^\\([0-9]*\\):.*lookup 27973.*/\\1/p' | \
           while read -r pref; do ip $family rule del pref $pref; done; \
           ip $family route flush table 27973; \
         done; \
         nft list tables | sed -n 's/^table \\(.* mesh.*\\)$/\\1/p' | while read -r table; do nft delete table $table; done; \
         test -z \"$(nft list tables | grep mesh)\"",
    );
}
