//! A node that nobody can dial: it stands behind a NAT box, and everything works because it dials itself.

use e2e::{A, B, MANIFESTS, carts, files, report};

use crate::story::{SHOWN, Story, eventually};

/// A pod on the node behind the box, and one of the other cluster.
const BEHIND: (&str, &str) = ("cluster-b/pod/shell", "10.2.2.11");
const BEYOND: (&str, &str) = ("cluster-a/pod/client", "10.1.1.11");

/// What the Node object of the node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// The kubelet's own address, which means nothing outside.
    ItsInnerAddress,
    /// No address of type InternalIP.
    NoAddress,
}

#[test]
fn a_node_behind_a_nat_box_is_a_full_member_of_the_mesh_also_when_the_box_is_bound_anew() {
    for (kind, says) in [("port-restricted", Says::ItsInnerAddress), ("symmetric", Says::NoAddress)] {
        let story = behind_a_box(kind, says);
        story.connect();
        talk(&story);
        for (place, cluster) in [(BEYOND.0, A), (BEHIND.0, B), ("cluster-b/pod/client", B)] {
            story.carts(place, &cluster, |answers| carts(answers, &[A, B]));
        }
        let why = story.ctl(&["why", "--cluster", A.name, "10.1.1.10", "10.2.2.11"]);
        assert!(why.contains("✓ encrypted: a1 → b2"), "{why}");

        story.lab.rebind(&"home".parse().unwrap()).unwrap();
        talk(&story);
        story.ctl(&["status", "--wait", "--timeout", "40"]);
    }
}

#[test]
fn a_node_behind_a_nat_box_stays_reachable_while_nothing_is_said_and_every_control_process_is_dead() {
    let story = behind_a_box("port-restricted", Says::NoAddress);
    story.connect();
    talk(&story);
    for cluster in [A, B] {
        story.kill_control(&cluster).unwrap();
    }
    // The box forgets what has been silent for 10 s; the tunnel itself is not silent for that long.
    let target = format!("{}:8080", BEHIND.1);
    let rarely = ["connect-loop", "--target", &target, "--http", "--interval-ms", "15000", "--seconds", "16"];
    let seen = report(story.traffic(BEYOND.0, &rarely).unwrap()).unwrap();
    assert!(seen["attempts"] == 2 && seen["failures"] == 0, "{seen}");
}

/// Both sides can begin.
fn talk(story: &Story) {
    for ((from, _), (_, to)) in [(BEHIND, BEYOND), (BEYOND, BEHIND)] {
        eventually("the other side answers", SHOWN, || {
            story.curl(from, &format!("http://{to}:8080/")).map_err(|error| format!("{from} → {to}: {error}"))
        });
    }
}

/// The demo's clusters, with node b2 behind a box of this kind.
fn behind_a_box(kind: &str, says: Says) -> Story {
    let dir = tempfile::tempdir().unwrap();
    let topology = std::fs::read_to_string(files().join("topology.yaml")).unwrap();
    let at = "addresses: [192.0.2.76, \"2001:db8:b::12\"]";
    let inside = "addresses: [172.16.9.2, \"fd00:172:9::2\"]\n        behind: home";
    assert!(topology.contains(at), "{topology}");
    let nat = format!(
        "\nnats:\n  home:\n    segment: cluster-b\n    addresses: [192.0.2.76, \"2001:db8:b::12\"]\n    \
         inside: [172.16.9.0/24, \"fd00:172:9::/64\"]\n    kind: {kind}\n    udp_timeout_s: 10\n"
    );
    let file = dir.path().join("topology.yaml");
    std::fs::write(&file, topology.replace(at, inside) + &nat).unwrap();

    let says_nothing = if says == Says::NoAddress { "-undialled" } else { "" };
    let story = Story::made_in(&format!("nat-{kind}{says_nothing}"), &file);
    for cluster in [A, B] {
        for manifest in MANIFESTS {
            story.apply(&cluster, manifest).unwrap();
        }
    }
    let nodes = std::fs::read_to_string(files().join("manifests/cluster-b/nodes.yaml")).unwrap();
    let nodes = match says {
        Says::ItsInnerAddress => {
            nodes.replace("192.0.2.76", "172.16.9.2").replace("2001:db8:b::12", "fd00:172:9::2")
        }
        Says::NoAddress => {
            let outside = |line: &&str| !line.contains("192.0.2.76") && !line.contains("2001:db8:b::12");
            nodes.lines().filter(outside).map(|line| format!("{line}\n")).collect()
        }
    };
    story.write(&B, "nodes.yaml", &nodes).unwrap();
    // No CNI leads to the pods of a node behind a box: inside its cluster, too, the mesh does.
    let config = story.dir().join(B.name).join("data/cluster.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("between-clusters", "all")).unwrap();
    for cluster in [A, B] {
        story.start(&cluster).unwrap();
    }
    story
}
