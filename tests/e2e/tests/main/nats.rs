//! A node that nobody can dial: it stands behind a NAT box, and everything works because it dials itself.

use e2e::{A, B, Cluster, MANIFESTS, carts, files, report};

use crate::story::{SHOWN, Story, eventually, problems};

/// A pod on the node behind the box, and one of the other cluster.
const BEHIND: (&str, &str) = ("cluster-b/pod/shell", "10.2.2.11");
const BEYOND: (&str, &str) = ("cluster-a/pod/client", "10.1.1.11");

/// What the Node object of the node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// The kubelet's own address, which means nothing outside.
    ItsInnerAddress,
    /// No address of type InternalIP.
    NoAddress,
    /// There is none: the machine is a VM.
    NothingAsItIsNoNode,
    /// The same, and its programs have the clock of [`set_clock`].
    NothingAsItIsNoNodeAndItsClockIsOurs,
    /// The same, and its agent is told to balance by nftables.
    NothingAsItIsNoNodeAndNftablesBalances,
}

impl Says {
    fn is_vm(self) -> bool {
        match self {
            Self::ItsInnerAddress | Self::NoAddress => false,
            Self::NothingAsItIsNoNode
            | Self::NothingAsItIsNoNodeAndItsClockIsOurs
            | Self::NothingAsItIsNoNodeAndNftablesBalances => true,
        }
    }
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
        story.well();
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
    let rarely = ["connect-loop", "--target", &target, "--http", "--interval-ms", "15000", "--seconds", "20"];
    let seen = report(story.traffic(BEYOND.0, &rarely).unwrap()).unwrap();
    assert!(seen["attempts"] == 2 && seen["failures"] == 0, "{seen}");
}

#[test]
fn of_two_nodes_behind_boxes_neither_reaches_the_other_and_everybody_says_so() {
    let story = behind_boxes("nat-twice", &[HOME, OFFICE]);
    let (code, stdout, stderr) = story.try_ctl(&["connect", A.name, B.name, "--timeout", "20"]);
    assert!(
        code == 1 && stderr.contains("cluster-a/a2 → cluster-b/b2: the tunnel is silent"),
        "{stdout}{stderr}"
    );
    let (code, status) = story.status();
    let [first, second] = &problems(&status)[..] else { panic!("one problem of each cluster: {status}") };
    assert!(
        code == 1 && first.contains("a2 → cluster-b/b2") && second.contains("b2 → cluster-a/a2"),
        "{status}"
    );
    let why = story.ctl(&["why", "--cluster", A.name, "10.1.2.10", "10.2.2.11"]);
    assert!(why.contains("✗ encrypted: a2 → b2"), "{why}");

    // Every other pair is well, and the service leaves out the one backend that cannot be reached.
    talk(&story);
    story.carts("cluster-a/pod/client", &A, |answers| carts(answers, &[A, B]));
    let but_one = ["cluster-a/cart-1", "cluster-a/cart-2", "cluster-b/cart-1"];
    story.carts("cluster-a/pod/shell", &A, |answers| answers.keys().eq(but_one.iter()));
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
pub fn behind_a_box(kind: &str, says: Says) -> Story {
    let says_nothing = match says {
        Says::ItsInnerAddress => "",
        Says::NoAddress => "-undialled",
        Says::NothingAsItIsNoNode => "-vm",
        Says::NothingAsItIsNoNodeAndItsClockIsOurs => "-vm-clock",
        Says::NothingAsItIsNoNodeAndNftablesBalances => "-vm-nft",
    };
    behind_boxes(&format!("nat-{kind}{says_nothing}"), &[Boxed { kind, says, ..HOME }])
}

/// A node and the box that it is put behind.
pub struct Boxed<'a> {
    pub name: &'a str,
    cluster: Cluster,
    /// The node's addresses as the demo has them: the box takes them over.
    outside: [&'a str; 2],
    /// Its addresses behind the box, and their prefixes.
    inside: [&'a str; 2],
    prefixes: [&'a str; 2],
    pub kind: &'a str,
    pub says: Says,
}

/// Node b2 behind a box.
pub const HOME: Boxed<'static> = Boxed {
    name: "home",
    cluster: B,
    outside: ["192.0.2.76", "2001:db8:b::12"],
    inside: ["172.16.9.2", "fd00:172:9::2"],
    prefixes: ["172.16.9.0/24", "fd00:172:9::/64"],
    kind: "port-restricted",
    says: Says::ItsInnerAddress,
};

/// Node a2 behind another.
pub const OFFICE: Boxed<'static> = Boxed {
    name: "office",
    cluster: A,
    outside: ["192.0.2.12", "2001:db8:a::12"],
    inside: ["172.16.8.2", "fd00:172:8::2"],
    prefixes: ["172.16.8.0/24", "fd00:172:8::/64"],
    ..HOME
};

/// The demo's clusters, running, with a node behind each of these boxes.
fn behind_boxes(name: &str, boxes: &[Boxed<'_>]) -> Story {
    behind_boxes_in(name, std::fs::read_to_string(files().join("topology.yaml")).unwrap(), boxes)
}

/// The same, in a topology that has more.
pub fn behind_boxes_in(name: &str, mut topology: String, boxes: &[Boxed<'_>]) -> Story {
    let dir = tempfile::tempdir().unwrap();
    topology += "\nnats:\n";
    for Boxed { name, cluster, outside, inside, prefixes, kind, .. } in boxes {
        let list = |of: &[&str; 2]| format!("[\"{}\", \"{}\"]", of[0], of[1]);
        let at = format!("addresses: [{}, \"{}\"]", outside[0], outside[1]);
        assert!(topology.contains(&at), "{topology}");
        topology = topology.replace(&at, &format!("addresses: {}\n        behind: {name}", list(inside)));
        topology += &format!(
            "  {name}:\n    segment: {}\n    addresses: {}\n    inside: {}\n    kind: {kind}\n    udp_timeout_s: 10\n",
            cluster.name,
            list(outside),
            list(prefixes)
        );
    }
    for Boxed { cluster, says, .. } in boxes.iter().filter(|it| it.says.is_vm()) {
        let node = format!("{{lab}}/{}/nodes/{}", cluster.name, cluster.nodes[1]);
        let agent = format!(
            "{{bin}}/mesh-node-agent --apiserver {} --cert {node}/cert.pem --key {node}/key.pem --bundle {node}/bundle.pem",
            cluster.apiserver
        );
        assert!(topology.contains(&agent), "{topology}");
        let flag = match says {
            Says::NothingAsItIsNoNodeAndNftablesBalances => " --balancer nftables",
            _ => "",
        };
        topology = topology.replace(&agent, &(vm_agent() + flag));
        if *says == Says::NothingAsItIsNoNodeAndItsClockIsOurs {
            topology = with_our_clock(&topology, cluster.nodes[1]);
        }
    }
    let file = dir.path().join("topology.yaml");
    std::fs::write(&file, topology).unwrap();

    let story = Story::made_in(name, &file);
    for cluster in [A, B] {
        for manifest in MANIFESTS {
            story.apply(&cluster, manifest).unwrap();
        }
    }
    for it in boxes {
        let nodes = story.manifests(&it.cluster).join("nodes.yaml");
        let nodes = it.as_told(&std::fs::read_to_string(nodes).unwrap());
        story.write(&it.cluster, "nodes.yaml", &nodes).unwrap();
        // No CNI leads to the pods of a node behind a box: inside its cluster, too, the mesh does.
        let config = story.dir().join(it.cluster.name).join("data/cluster.yaml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("between-clusters", "all")).unwrap();
    }
    let is_vm = |cluster: &Cluster, node: &str| {
        let here = boxes.iter().filter(|it| it.cluster.name == cluster.name && node == cluster.nodes[1]);
        here.map(|it| it.says).any(Says::is_vm)
    };
    for cluster in [A, B] {
        story.lab.start(&format!("{}/host/control/apiserver", cluster.name)).unwrap();
        for node in cluster.nodes {
            story.lab.start(&format!("{}/node/{node}/tunnel", cluster.name)).unwrap();
            // A VM's agent starts when it has joined.
            if !is_vm(&cluster, node) {
                story.lab.start(&format!("{}/node/{node}/agent", cluster.name)).unwrap();
            }
        }
    }
    story
}

impl Boxed<'_> {
    /// The cluster's nodes, with what the one behind the box says.
    fn as_told(&self, nodes: &str) -> String {
        if self.says.is_vm() {
            let others = nodes.split("---\n").filter(|node| !node.contains(self.outside[0]));
            return others.collect::<Vec<_>>().join("---\n");
        }
        let line_as_told = |line: &str| match self.outside.iter().position(|outside| line.contains(outside)) {
            None => Some(format!("{line}\n")),
            Some(_) if self.says == Says::NoAddress => None,
            Some(family) => Some(line.replace(self.outside[family], self.inside[family]) + "\n"),
        };
        nodes.lines().filter_map(line_as_told).collect()
    }
}

/// A VM's agent, with no more capabilities than its unit leaves it.
fn vm_agent() -> String {
    let unit = files().join("../../vm-agent/package/mesh-vm-agent.service");
    let unit = std::fs::read_to_string(unit).expect("the package has a unit");
    let capabilities = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let capabilities = capabilities.expect("the unit bounds them").to_lowercase().replace("cap_", "+");
    format!("setpriv --bounding-set=-all,{} {{bin}}/mesh-vm-agent run", capabilities.replace(' ', ","))
}

/// What stands in front of a program whose wall clock is the one of a file. (Debian's package libfaketime)
const OUR_CLOCK: &str = "env LD_PRELOAD=/usr/$LIB/faketime/libfaketimeMT.so.1 FAKETIME_DONT_FAKE_MONOTONIC=1 \
                         FAKETIME_NO_CACHE=1 FAKETIME_TIMESTAMP_FILE={lab}/clock ";

/// A topology in which the programs of this node have our clock.
fn with_our_clock(topology: &str, node: &str) -> String {
    let (before, rest) = topology.split_once(&format!("      {node}:\n")).expect("the node is in it");
    let programs = rest.replacen("command: \"", &format!("command: \"{OUR_CLOCK}"), 3);
    // Beside the two there is the command that says whether the tunnel is ready, which has the clock, too.
    format!("{before}      {node}:\n{programs}")
}

/// How far, in seconds, the clocks of those programs are ahead, from now on.
pub fn set_clock(story: &Story, seconds: &str) {
    std::fs::write(story.dir().join("clock"), format!("{seconds}\n")).unwrap();
}
