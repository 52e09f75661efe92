//! Clusters whose apiservers nobody can dial: they open the connections, and two of them speak through a third.

use crate::{
    story::{SHOWN, Story, eventually},
    three::{C, story_of},
};
use e2e::{A, B, Cluster, MANIFESTS, carts, files, only};
use lab::Traffic;
use std::fs;

/// cluster-b with all its machines behind a box.
pub const EDGE: Cluster = Cluster { apiserver: "172.16.9.10:2379", dial_out: true, ..B };

/// Its machines' addresses as the demo has them, and behind the box. The box has that of the first.
const BEHIND: [[&str; 2]; 3] = [
    ["192.0.2.74, \"2001:db8:b::10\"", "172.16.9.10, \"fd00:172:9::10\""],
    ["192.0.2.75, \"2001:db8:b::11\"", "172.16.9.11, \"fd00:172:9::11\""],
    ["192.0.2.76, \"2001:db8:b::12\"", "172.16.9.12, \"fd00:172:9::12\""],
];

/// Whoever operates both sits behind the box, as nobody else reaches both.
const ADMIN: [&str; 2] = [
    "segment: cluster-a\n    addresses: [192.0.2.9, \"2001:db8:a::9\"]",
    "segment: cluster-b\n    behind: site\n    addresses: [172.16.9.9, \"fd00:172:9::9\"]",
];

#[test]
fn a_cluster_behind_a_nat_box_without_a_forwarded_port_is_a_full_member_of_the_mesh() {
    let story = edge("edge");
    let said = story.connect();
    let ways =
        "cluster-a follows cluster-b over a connection that cluster-b opened, cluster-b dials cluster-a";
    assert!(said.contains(&format!(" ✓ control   {ways}")), "{said}");
    let status = story.well();
    assert!(status.contains("cluster-a  cluster-b  fresh, dialled by it"), "{status}");
    eventually("another pipe waits in the place of the one in use", SHOWN, || {
        let idle = story.apiserver_metric(&A, "mesh_apiserver_pipes_idle");
        if idle == 2 { Ok(()) } else { Err(idle.to_string()) }
    });
    changes_arrive(&story);

    story.lab.rebind(&"site".parse().unwrap()).unwrap();
    changes_arrive(&story);
    for cluster in [A, EDGE] {
        restart(&story, &cluster);
        changes_arrive(&story);
    }
    story.lab.cut(A.name, "nat/site", Traffic::All).unwrap();
    eventually("both are stale", SHOWN, || {
        let (_, status, _) = story.try_ctl(&["status", "cluster-b"]);
        if status.contains("cluster-b  cluster-a  stale") { Ok(()) } else { Err(status) }
    });
    story.lab.heal(A.name, "nat/site").unwrap();
    story.well();
    changes_arrive(&story);

    let (code, stdout, stderr) = story.try_ctl(&["disconnect", A.name, B.name]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    story.carts("cluster-a/pod/client", &A, |answers| only(answers, &A));
}

#[test]
fn two_sites_whose_apiservers_cannot_reach_each_other_are_one_mesh_through_a_third_that_allows_it() {
    let [a, b] = [A, B].map(|cluster| Cluster { dial_out: true, ..cluster });
    let story = story_of("relay", &[a, b, C]);
    story.lab.cut("cluster-a/host/control", "cluster-b/host/control", Traffic::All).unwrap();
    let meshctl = |line: &str| {
        let argv = story.meshctl_argv_of(&[A, B, C], line.split(' ')).join(" ");
        story.sh("host/admin", &argv)
    };
    let (code, _, stderr) = meshctl("connect cluster-a cluster-b");
    assert!(code == 4 && stderr.contains("MESH103: neither cluster-a nor cluster-b advertises"), "{stderr}");
    for edge in [A.name, B.name] {
        let (code, said, stderr) = meshctl(&format!("connect {edge} cluster-c"));
        assert_eq!(code, 0, "{said}{stderr}");
    }
    let (code, said, stderr) = meshctl("connect cluster-a cluster-b --through cluster-c");
    assert_eq!(code, 0, "{said}{stderr}");
    for line in [
        " ✓ relay     cluster-c passes bytes on between cluster-a and cluster-b\n",
        " ✓ control   cluster-a follows cluster-b through cluster-c, which reads nothing, cluster-b follows",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // The others' nodes may still be about to put into their maps what this connection has changed.
    let (code, status, _) = meshctl("status --wait --timeout 40");
    assert_eq!((code, status.matches("fresh, relay cluster-c").count()), (0, 2), "{status}");
    assert!(story.apiserver_metric(&C, "mesh_apiserver_relayed_bytes_total") > 0);
    story.carts("cluster-a/pod/client", &A, |answers| carts(answers, &[A, B, C]));

    restart(&story, &C);
    story.remove(&B, "cart-endpoints.yaml").unwrap();
    story.carts("cluster-a/pod/client", &A, |answers| carts(answers, &[A, C]));
    let (code, status, _) = meshctl("status --wait --timeout 40");
    assert_eq!(code, 0, "{status}");
}

/// What one side takes away and brings back is seen by the other, and its requests follow.
fn changes_arrive(story: &Story) {
    for (place, at, other) in [("cluster-a/pod/client", A, EDGE), ("cluster-b/pod/client", EDGE, A)] {
        story.remove(&other, "cart-endpoints.yaml").unwrap();
        story.carts(place, &at, |answers| carts(answers, &[at]));
        story.apply(&other, "cart-endpoints.yaml").unwrap();
        story.carts(place, &at, |answers| carts(answers, &[A, B]));
    }
}

fn restart(story: &Story, cluster: &Cluster) {
    let apiserver = format!("{}/host/control/apiserver", cluster.name);
    story.kill9(&apiserver);
    story.lab.start(&apiserver).unwrap();
}

/// The demo's clusters, running, with everything of cluster-b behind one box.
pub fn edge(name: &str) -> Story {
    let mut topology = fs::read_to_string(files().join("topology.yaml")).unwrap();
    let mut change = |from: &str, to: &str| {
        assert!(topology.contains(from), "{from}: {topology}");
        topology = topology.replace(from, to);
    };
    for [outside, inside] in BEHIND {
        change(&format!("addresses: [{outside}]"), &format!("addresses: [{inside}]\n        behind: site"));
    }
    change(B.apiserver, EDGE.apiserver);
    change(ADMIN[0], ADMIN[1]);
    topology += "\nnats:\n  site:\n    segment: cluster-b\n    addresses: [192.0.2.74, \"2001:db8:b::10\"]\n    \
                 inside: [172.16.9.0/24, \"fd00:172:9::/64\"]\n    kind: port-restricted\n    udp_timeout_s: 10\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("topology.yaml");
    fs::write(&file, topology).unwrap();

    let story = Story::made_of(name, &file, &[A, EDGE]);
    for cluster in [A, EDGE] {
        for manifest in MANIFESTS {
            story.apply(&cluster, manifest).unwrap();
        }
    }
    let nodes = fs::read_to_string(story.manifests(&EDGE).join("nodes.yaml")).unwrap();
    let inner = [("192.0.2.75", "172.16.9.11"), ("2001:db8:b::11", "fd00:172:9::11")];
    let inner =
        inner.into_iter().chain([("192.0.2.76", "172.16.9.12"), ("2001:db8:b::12", "fd00:172:9::12")]);
    let nodes = inner.fold(nodes, |nodes, (outside, inside)| nodes.replace(outside, inside));
    story.write(&EDGE, "nodes.yaml", &nodes).unwrap();
    // No CNI leads from node to node behind a box of the lab: inside the cluster, too, the mesh does.
    let config = story.dir().join(EDGE.name).join("data/cluster.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("between-clusters", "all")).unwrap();
    for cluster in [A, EDGE] {
        story.start(&cluster).unwrap();
    }
    story
}
