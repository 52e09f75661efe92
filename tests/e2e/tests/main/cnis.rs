//! Beside the devices and the rules of other networks: what they masquerade, mark and filter is none of the mesh's traffic.

use crate::story::{Answers, SHOWN, Story};
use e2e::{A, B, Cluster, carts, clean, files};
use serde_json::Value;
use std::fs;

/// A node as one network leaves it.
struct Beside {
    /// Its file of rules.
    network: &'static str,
    cluster: Cluster,
    node: &'static str,
    address: &'static str,
    /// The node's part of the pods' range.
    own: &'static str,
    /// A pod on it that asks.
    pod: &'static str,
    /// The chain whose counters show that the rules are at work.
    masquerading: &'static str,
}

const NODES: [Beside; 4] = [
    Beside {
        network: "flannel",
        cluster: A,
        node: "a1",
        address: "192.0.2.11",
        own: "10.1.1.0/24",
        pod: "client",
        masquerading: "FLANNEL-POSTRTG",
    },
    Beside {
        network: "kindnet",
        cluster: A,
        node: "a2",
        address: "192.0.2.12",
        own: "10.1.2.0/24",
        pod: "shell",
        masquerading: "KIND-MASQ-AGENT",
    },
    Beside {
        network: "calico",
        cluster: B,
        node: "b1",
        address: "192.0.2.75",
        own: "10.2.1.0/24",
        pod: "client",
        masquerading: "cali-nat-outgoing",
    },
    Beside {
        network: "aws",
        cluster: B,
        node: "b2",
        address: "192.0.2.76",
        own: "10.2.2.0/24",
        pod: "shell",
        masquerading: "AWS-SNAT-CHAIN-0",
    },
];

/// A pod on a node of [`NODES`], with its addresses.
struct Pod {
    name: &'static str,
    v4: &'static str,
    v6: &'static str,
}

/// Those whose devices are routed to, as Calico and the AWS CNI do it, without a bridge and without a subnet.
const ROUTED: [(&Beside, &str, [Pod; 2]); 2] = [
    (
        &NODES[2],
        "cali",
        [
            Pod { name: "client", v4: "10.2.1.10", v6: "fd00:10:2:1::10" },
            Pod { name: "cart-1", v4: "10.2.1.11", v6: "fd00:10:2:1::11" },
        ],
    ),
    (
        &NODES[3],
        "eni",
        [
            Pod { name: "shell", v4: "10.2.2.10", v6: "fd00:10:2:2::10" },
            Pod { name: "cart-2", v4: "10.2.2.11", v6: "fd00:10:2:2::11" },
        ],
    ),
];

#[test]
fn a_global_service_is_reached_from_and_to_nodes_of_flannel_kindnet_calico_and_the_aws_cni() {
    let story = Story::connected("cnis");
    for beside in &NODES {
        beside.apply_rules(&story);
    }
    for (beside, prefix, pods) in &ROUTED {
        for (number, pod) in pods.iter().enumerate() {
            beside.route_to(&story, &format!("{prefix}{number}"), pod);
        }
    }

    let all = |answers: &Answers| carts(answers, &[A, B]);
    for (asking, other) in [(A, B), (B, A)] {
        let sniffer = story.sniff(&[&format!("{}/cart", other.name)]).unwrap();
        for beside in NODES.iter().filter(|beside| beside.cluster.name == asking.name) {
            story.carts(&beside.place(), &asking, all);
            story.carts(&beside.node_place(), &asking, all);
            story.ask_until(&beside.place(), &format!("http://{}/", asking.cart_v6), SHOWN, all).unwrap();
        }
        clean(sniffer).unwrap();
    }
    for beside in &NODES {
        beside.assert_that_the_world_is_masqueraded(&story);
    }
    story.well();
}

impl Beside {
    fn place(&self) -> String {
        format!("{}/pod/{}", self.cluster.name, self.pod)
    }

    fn node_place(&self) -> String {
        format!("{}/node/{}", self.cluster.name, self.node)
    }

    fn apply_rules(&self, story: &Story) {
        let path = files().join(format!("cni/{}.rules", self.network));
        let pods = self.cluster.pods.split(',').next().unwrap();
        let rules = fs::read_to_string(&path).unwrap();
        let rules =
            rules.replace("{pods}", pods).replace("{node}", self.own).replace("{address}", self.address);
        story.said(&self.node_place(), &format!("iptables-restore --noflush <<'EOF'\n{rules}EOF"));
        if self.network == "aws" {
            story.said(&self.node_place(), "ip rule add priority 1024 fwmark 0x80/0x80 lookup main");
        }
    }

    /// Makes of a pod's device what a routing network makes: renamed, no bridge, a route to the one address, an answer to
    /// every question for a neighbour; and tells the CNI's cached result, as that network would have written it.
    fn route_to(&self, story: &Story, device: &str, Pod { name, v4, v6 }: &Pod) {
        let file = story.said(&self.node_place(), &format!("grep -l '\"{v4}/' /var/lib/cni/results/*"));
        let file = file.trim();
        let result: Value =
            serde_json::from_str(&story.said(&self.node_place(), &format!("cat {file}"))).unwrap();
        let interfaces = result["result"]["interfaces"].as_array().unwrap();
        let outside = interfaces
            .iter()
            .find(|one| one["sandbox"].as_str().unwrap_or_default().is_empty() && one["name"] != "cni0");
        let old = outside.unwrap()["name"].as_str().unwrap();
        story.said(
            &self.node_place(),
            &format!(
                "set -e
                 ip link set {old} nomaster
                 ip link set {old} down
                 ip link set {old} name {device}
                 ip address flush dev {device}
                 ip link set {device} up
                 echo 1 > /proc/sys/net/ipv4/conf/{device}/proxy_arp
                 echo 0 > /proc/sys/net/ipv4/neigh/{device}/proxy_delay
                 ip route replace {v4}/32 dev {device} scope link
                 ip -6 route replace {v6}/128 dev {device}
                 ip -6 address add fe80::ecee:eeff:feee:eeee/64 dev {device} nodad
                 ip rule add priority 512 to {v4} lookup main
                 sed -i 's/\"{old}\"/\"{device}\"/' {file}"
            ),
        );
        story.said(
            &format!("{}/pod/{name}", self.cluster.name),
            &format!(
                "set -e
                 ip address flush dev eth0 scope global
                 ip address add {v4}/32 dev eth0
                 ip -6 address add {v6}/128 dev eth0 nodad
                 ip route add 169.254.1.1 dev eth0 scope link
                 ip route replace default via 169.254.1.1 dev eth0
                 ip -6 route replace default via fe80::ecee:eeff:feee:eeee dev eth0"
            ),
        );
    }

    /// The rules count what a pod sends to the world: they were there, and let the mesh's traffic alone.
    fn assert_that_the_world_is_masqueraded(&self, story: &Story) {
        story.sh(&self.place(), "echo out > /dev/udp/192.0.2.10/9");
        let listed = story.said(&self.node_place(), &format!("iptables -t nat -nvxL {}", self.masquerading));
        let counted = listed.lines().filter(|line| line.contains("MASQUERADE") || line.contains("SNAT"));
        let packets =
            counted.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>();
        assert!(packets > 0, "{}: {listed}", self.network);
    }
}
