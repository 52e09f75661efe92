//! Contradictions between parts of a topology that each parse alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_saphyr::Spanned;

use super::{Cluster, DualAddr, DualNet, Nat, ProcessSpec, Topology};
use crate::place::Name;

/// Cluster names that would collide with directories of the lab's cgroup.
const RESERVED: [&str; 3] = ["underlay", "hosts", "nats"];

/// One contradiction and the line it was seen at.
pub(super) struct Problem {
    pub(super) line: u64,
    pub(super) text: String,
}

/// Everything that contradicts something, in the order of the file's structure.
pub(super) fn problems(topology: &Topology) -> Vec<Problem> {
    let mut found = Findings::default();
    for (name, cluster) in &topology.clusters {
        if RESERVED.contains(&name.as_str()) {
            found.add(&cluster.subnets, format!("a cluster cannot be called `{name}`"));
        }
        found.check_prefixes(name, cluster);
        found.check_machines(name, cluster, &topology.nats);
        found.check_pods(name, cluster);
    }
    for (name, guest) in &topology.hosts {
        match topology.clusters.get(&guest.segment.value) {
            None => found
                .add(&guest.segment, format!("host {name}: there is no cluster `{}`", guest.segment.value)),
            Some(cluster) => {
                let owner = format!("host {name}");
                found.check_attached(&owner, cluster, (&guest.addresses, &guest.behind), &topology.nats);
            }
        }
        if let Some(nat) = guest.behind.as_ref().and_then(|behind| topology.nats.get(&behind.value))
            && nat.segment.value != guest.segment.value
        {
            found.add(&guest.segment, format!("host {name}: its box is on {}", nat.segment.value));
        }
        found.check_processes(&format!("host {name}"), &guest.run);
    }
    for (name, nat) in &topology.nats {
        let owner = format!("nat {name}");
        match topology.clusters.get(&nat.segment.value) {
            None => found.add(&nat.segment, format!("{owner}: there is no cluster `{}`", nat.segment.value)),
            Some(cluster) => found.check_on_lan(&owner, cluster.subnets.value, &nat.addresses),
        }
        found.check_prefix(format!("prefixes inside {name}"), &nat.inside);
        for forward in &nat.forward {
            if !nat.inside.value.contains(forward.to.value) {
                found.add(&forward.to, format!("{owner}: port {} leads to nothing behind it", forward.port));
            }
        }
        if nat.udp_timeout_s == 0 {
            found.add(&nat.segment, format!("{owner}: udp_timeout_s is at least 1"));
        }
        found.check_processes(&owner, &nat.run);
    }
    found.check_processes("underlay", &topology.underlay.run);
    found.problems
}

/// What was found, and what was seen on the way.
#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    prefixes: Vec<(String, DualNet)>,
    addresses: BTreeMap<IpAddr, String>,
}

impl Findings {
    fn add<T>(&mut self, at: &Spanned<T>, text: String) {
        self.problems.push(Problem { line: at.referenced.line(), text });
    }

    /// No two prefixes of the lab share an address: an answer from the wrong side would look like success.
    fn check_prefixes(&mut self, name: &Name, cluster: &Cluster) {
        let four = [
            ("subnets", &cluster.subnets),
            ("pod_cidrs", &cluster.pod_cidrs),
            ("service_cidrs", &cluster.service_cidrs),
            ("mesh_cidrs", &cluster.mesh_cidrs),
        ];
        for (what, prefix) in four {
            self.check_prefix(format!("{what} of {name}"), prefix);
        }
        let mut seen: Vec<(&Name, DualNet)> = Vec::new();
        for (node, it) in &cluster.nodes {
            if !cluster.pod_cidrs.value.covers(it.pod_cidrs.value) {
                self.add(&it.pod_cidrs, format!("pod_cidrs of node {node} are not inside those of {name}"));
            }
            if let Some((other, _)) = seen.iter().find(|(_, other)| other.overlaps(it.pod_cidrs.value)) {
                self.add(&it.pod_cidrs, format!("pod_cidrs of node {node} overlap those of node {other}"));
            }
            seen.push((node, it.pod_cidrs.value));
        }
    }

    fn check_prefix(&mut self, owner: String, prefix: &Spanned<DualNet>) {
        let clash = self
            .prefixes
            .iter()
            .find(|(_, other)| other.overlaps(prefix.value))
            .map(|(other, _)| other.clone());
        if let Some(other) = clash {
            self.add(prefix, format!("{owner} overlap the {other}"));
        }
        self.prefixes.push((owner, prefix.value));
    }

    fn check_machines(&mut self, name: &Name, cluster: &Cluster, nats: &BTreeMap<Name, Nat>) {
        for (node, it) in &cluster.nodes {
            let owner = format!("node {name}/{node}");
            self.check_attached(&owner, cluster, (&it.addresses, &it.behind), nats);
            self.check_processes(&format!("node {name}/{node}"), &it.run);
        }
        for (host, it) in &cluster.hosts {
            // Both have the directory <cluster>/<name> in the cgroup.
            if cluster.nodes.contains_key(host) {
                self.add(&it.addresses, format!("{name} has a node and a host called `{host}`"));
            }
            let owner = format!("host {name}/{host}");
            self.check_attached(&owner, cluster, (&it.addresses, &it.behind), nats);
            self.check_processes(&format!("host {name}/{host}"), &it.run);
        }
    }

    fn check_pods(&mut self, name: &Name, cluster: &Cluster) {
        for (pod, it) in &cluster.pods {
            let owner = format!("pod {name}/{pod}");
            match cluster.nodes.get(&it.node.value) {
                None => self.add(&it.node, format!("{owner}: {name} has no node `{}`", it.node.value)),
                Some(node) if !node.pod_cidrs.value.contains(it.ips.value) => {
                    self.add(
                        &it.ips,
                        format!("{owner}: its addresses are not in the pod_cidrs of node {}", it.node.value),
                    );
                }
                Some(node)
                    if node
                        .pod_cidrs
                        .value
                        .first()
                        .both()
                        .iter()
                        .any(|gateway| it.ips.value.both().contains(gateway)) =>
                {
                    self.add(
                        &it.ips,
                        format!("{owner}: the first address of a node's pod_cidrs is the gateway's"),
                    );
                }
                Some(_) => {}
            }
            self.check_unique(&owner, &it.ips);
            self.check_processes(&owner, &it.run);
        }
    }

    /// A machine is on its segment, or behind the box that it names.
    fn check_attached(
        &mut self,
        owner: &str,
        cluster: &Cluster,
        (addresses, behind): (&Spanned<DualAddr>, &Option<Spanned<Name>>),
        nats: &BTreeMap<Name, Nat>,
    ) {
        match behind {
            None => self.check_on_lan(owner, cluster.subnets.value, addresses),
            Some(behind) => match nats.get(&behind.value) {
                None => self.add(behind, format!("{owner}: there is no nat `{}`", behind.value)),
                Some(nat) => self.check_on_lan(owner, nat.inside.value, addresses),
            },
        }
    }

    fn check_on_lan(&mut self, owner: &str, subnets: DualNet, addresses: &Spanned<DualAddr>) {
        if !subnets.contains(addresses.value) {
            self.add(addresses, format!("{owner}: its addresses are not in the subnets of its segment"));
        }
        if subnets.first().both().iter().any(|router| addresses.value.both().contains(router)) {
            self.add(addresses, format!("{owner}: the first address of a subnet is the router's"));
        }
        self.check_unique(owner, addresses);
    }

    fn check_unique(&mut self, owner: &str, addresses: &Spanned<DualAddr>) {
        for address in addresses.value.both() {
            if let Some(other) = self.addresses.insert(address, owner.to_owned()) {
                self.add(addresses, format!("{owner} and {other} both have {address}"));
            }
        }
    }

    fn check_processes(&mut self, owner: &str, run: &[ProcessSpec]) {
        let mut names = BTreeSet::new();
        for process in run {
            if !names.insert(&process.name.value) {
                self.add(&process.name, format!("{owner} has two processes called `{}`", process.name.value));
            }
            if let Some(ready) = &process.ready
                && ready.value.tcp.is_some() == ready.value.command.is_some()
            {
                self.add(ready, format!("{owner}: `ready` needs exactly one of `tcp` and `command`"));
            }
        }
    }
}
