//! Three clusters, connected pair by pair by one command.

use std::fs;

use e2e::{A, B, Cluster, MANIFESTS, carts, files};

use crate::story::Story;

/// A third cluster: the second one's machines and objects under other names and addresses.
pub const C: Cluster = Cluster {
    name: "cluster-c",
    nodes: ["c1", "c2"],
    apiserver: "192.0.2.138:2379",
    dial_out: false,
    pods: "10.3.0.0/16,fd00:10:3::/48",
    services: "10.103.0.0/16,fd00:103::/112",
    mesh: "100.64.3.0/24,fd64:3::/112",
    cart: "10.103.0.10",
    cart_v6: "[fd00:103::10]",
};

/// What differs between the two.
const OF_C: [(&str, &str); 13] = [
    ("cluster-b", "cluster-c"),
    ("b1", "c1"),
    ("b2", "c2"),
    ("192.0.2.64/26", "192.0.2.128/26"),
    ("192.0.2.74", "192.0.2.138"),
    ("192.0.2.75", "192.0.2.139"),
    ("192.0.2.76", "192.0.2.140"),
    ("2001:db8:b:", "2001:db8:c:"),
    ("10.2.", "10.3."),
    ("fd00:10:2:", "fd00:10:3:"),
    ("10.102.", "10.103."),
    ("fd00:102:", "fd00:103:"),
    ("100.64.2.0/24, \"fd64:2:", "100.64.3.0/24, \"fd64:3:"),
];

/// What is said of cluster-b, said of the third.
pub fn of_c(text: &str) -> String {
    OF_C.iter().fold(text.to_owned(), |text, (b, c)| text.replace(b, c))
}

#[test]
fn one_command_connects_every_pair_of_three_clusters_and_running_it_again_changes_nothing() {
    let story = story("three");
    let all = [A.name, B.name, C.name];
    let meshctl = |args: &[&str]| {
        let argv = story.meshctl_argv_of(&[A, B, C], args.iter().copied()).join(" ");
        story.sh("host/admin", &argv)
    };

    let (code, said, stderr) = meshctl(&[&["connect"], &all[..]].concat());
    assert_eq!(code, 0, "{said}{stderr}");
    for pair in ["cluster-a and cluster-b\n", "cluster-a and cluster-c\n", "cluster-b and cluster-c\n"] {
        let (_, lines) = said.split_once(pair).unwrap_or_else(|| panic!("{pair}: {said}"));
        let lines: Vec<&str> = lines.lines().take(7).collect();
        for (line, step) in
            lines.iter().zip(["reach", "addresses", "trust", "tunnel", "tunnel", "data", "data"])
        {
            assert!(line.starts_with(&format!(" ✓ {step}")), "the lines of a pair stand together: {said}");
        }
    }
    assert!(said.contains("connected all 3 pairs in "), "{said}");
    // A pair that is done waits for no other: its nodes may still be about to take in what the last one brought.
    let (code, status, _) = meshctl(&["status", "--wait", "--timeout", "60"]);
    assert_eq!((code, status.matches("fresh").count()), (0, 6), "{status}");
    for (place, cluster) in [("cluster-a/pod/client", &A), ("cluster-c/pod/client", &C)] {
        story.carts(place, cluster, |answers| carts(answers, &[A, B, C]));
    }

    let (code, again, _) = meshctl(&[&["connect"], &all[..]].concat());
    assert_eq!((code, again.matches("connected already in ").count()), (0, 3), "{again}");
}

#[test]
fn a_pair_that_cannot_be_connected_stops_no_other() {
    let story = story("three-misfit");
    // cluster-c holds a peer whose pods are where cluster-b's are.
    let (code, yaml, stderr) = story.try_ctl(&["connect", A.name, B.name, "--dry-run", "-o", "yaml"]);
    assert_eq!(code, 0, "{stderr}");
    let on_a = yaml.split("---\n# on ").nth(1).expect("the object for cluster-a").split_once('\n').unwrap().1;
    let uuid = on_a.lines().find_map(|line| line.trim().strip_prefix("uuid: ")).unwrap();
    let other =
        on_a.replace("name: cluster-b", "name: other").replace(uuid, "00000000-0000-4000-8000-000000000001");
    let file = story.dir().join("other.yaml");
    fs::write(&file, other).unwrap();
    let meshctl = |line: &str| {
        let argv = story.meshctl_argv_of(&[A, B, C], line.split(' ')).join(" ");
        story.sh("host/admin", &argv)
    };
    let (code, _, stderr) = meshctl(&format!("peer apply -f {} --cluster cluster-c", file.display()));
    assert_eq!(code, 0, "{stderr}");

    let (code, said, stderr) = meshctl("connect cluster-a cluster-b cluster-c");
    assert!(code == 4 && said.matches("undo: meshctl disconnect").count() == 2, "{code}: {said}{stderr}");
    let missing = "1 of 3 pairs are not connected (cluster-b and cluster-c)";
    assert!(stderr.contains(missing) && stderr.contains("overlaps 10.2.0.0/16 of other"), "{stderr}");
    story.carts("cluster-a/pod/client", &A, |answers| carts(answers, &[A, B, C]));
}

/// All three run, and none knows another. Each test has a lab of its own.
fn story(name: &str) -> Story {
    story_of(name, &[A, B, C])
}

/// The same, of clusters that differ in how they are reached.
pub fn story_of(name: &str, clusters: &[Cluster; 3]) -> Story {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    fs::write(file.path(), topology()).unwrap();
    let story = Story::made_of(name, file.path(), clusters);
    for manifest in MANIFESTS {
        story.apply(&A, manifest).unwrap();
        story.apply(&B, manifest).unwrap();
    }
    apply_c(&story);
    for cluster in [A, B, C] {
        story.start(&cluster).unwrap();
    }
    story
}

/// The demo's machines, and those of the third cluster.
pub fn topology() -> String {
    let text = fs::read_to_string(files().join("topology.yaml")).unwrap();
    let (clusters, hosts) = text.split_once("\nhosts:\n").expect("the hosts come last");
    let (_, b) = clusters.split_once("\n  cluster-b:\n").expect("cluster-b comes last");
    let c = of_c(&format!("\n  cluster-b:\n{b}"));
    format!("{clusters}{c}\nhosts:\n{hosts}")
}

/// What the third cluster announces.
pub fn apply_c(story: &Story) {
    for manifest in MANIFESTS {
        let of_b = fs::read_to_string(files().join("manifests/cluster-b").join(manifest)).unwrap();
        story.write(&C, manifest, &of_c(&of_b)).unwrap();
    }
}
