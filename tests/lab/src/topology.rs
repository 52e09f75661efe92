//! What a lab looks like: one YAML file, checked whole before the first namespace is made.

mod check;
mod dual;
mod nat;
mod process;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_saphyr::Spanned;

pub use dual::{DualAddr, DualNet};
pub use nat::{Forward, Nat, NatKind};
pub use process::{CommandLine, ProcessSpec, Ready, Templates};

use crate::place::{Name, Place};

/// A whole lab.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The lab's name, unless `--name` says another.
    pub name: Name,
    /// The clusters, each on a segment of its own behind the underlay's router.
    pub clusters: BTreeMap<Name, Cluster>,
    /// Machines that belong to no cluster.
    #[serde(default)]
    pub hosts: BTreeMap<Name, Guest>,
    /// Boxes between a segment and machines behind them.
    #[serde(default)]
    pub nats: BTreeMap<Name, Nat>,
    /// The router's own processes.
    #[serde(default)]
    pub underlay: Underlay,
}

/// The router between the segments.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Underlay {
    /// Processes that run on it.
    #[serde(default)]
    pub run: Vec<ProcessSpec>,
}

/// A cluster: one L2 segment with nodes and hosts, and pods on the nodes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The segment's prefixes. The router has the first address of each.
    pub subnets: Spanned<DualNet>,
    /// All pods of the cluster; what kube-proxy's and the CNI's FORWARD rules accept.
    pub pod_cidrs: Spanned<DualNet>,
    /// The cluster's Service addresses. The lab gives them to nobody; it checks that nothing overlaps.
    pub service_cidrs: Spanned<DualNet>,
    /// The cluster's mesh addresses. The lab gives them to nobody; it checks that nothing overlaps.
    pub mesh_cidrs: Spanned<DualNet>,
    /// Machines that carry pods.
    #[serde(default)]
    pub nodes: BTreeMap<Name, Node>,
    /// Machines that carry none.
    #[serde(default)]
    pub hosts: BTreeMap<Name, Host>,
    /// Pods, by name.
    #[serde(default)]
    pub pods: BTreeMap<Name, Pod>,
}

/// A machine with pods.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its addresses on the segment, or behind the box.
    pub addresses: Spanned<DualAddr>,
    /// The NAT box that it stands behind. None: it is on the cluster's segment.
    pub behind: Option<Spanned<Name>>,
    /// The prefixes of its pods.
    pub pod_cidrs: Spanned<DualNet>,
    /// The CNI plugin that attaches its pods.
    pub cni: Cni,
    /// Reverse path filter of all its devices: 0 off, 1 strict, 2 loose. (ip-sysctl: `rp_filter`)
    #[serde(default)]
    pub rp_filter: RpFilter,
    /// Its processes.
    #[serde(default)]
    pub run: Vec<ProcessSpec>,
}

/// A machine of a cluster without pods.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its addresses on the segment, or behind the box.
    pub addresses: Spanned<DualAddr>,
    /// The NAT box that it stands behind. None: it is on the cluster's segment.
    pub behind: Option<Spanned<Name>>,
    /// Its processes.
    #[serde(default)]
    pub run: Vec<ProcessSpec>,
}

/// A machine on a cluster's segment that is not part of the cluster: cutting the cluster off leaves it connected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// The cluster whose segment it, or the box that it stands behind, is plugged into.
    pub segment: Spanned<Name>,
    /// Its addresses on the segment, or behind the box.
    pub addresses: Spanned<DualAddr>,
    /// The NAT box that it stands behind.
    pub behind: Option<Spanned<Name>>,
    /// Its processes.
    #[serde(default)]
    pub run: Vec<ProcessSpec>,
}

/// A pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// The Kubernetes namespace that the CNI is told.
    #[serde(default = "default_namespace")]
    pub namespace: Name,
    /// The node that carries it.
    pub node: Spanned<Name>,
    /// Its addresses, out of its node's `pod_cidrs`.
    pub ips: Spanned<DualAddr>,
    /// Its processes.
    #[serde(default)]
    pub run: Vec<ProcessSpec>,
}

/// Which of Debian's CNI plugins attaches the pods of a node; both with ipMasq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// A bridge `cni0` that is the gateway.
    Bridge,
    /// A veth pair and a host route for each pod.
    Ptp,
}

/// The kernel's reverse path filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u8")]
pub struct RpFilter(u8);

/// A topology as read, with where it was read from.
#[derive(Debug, Clone)]
pub struct TopologyFile {
    /// The topology.
    pub topology: Topology,
    /// The text, as read.
    pub text: String,
    /// The directory of the file, absolute: `{file}` in command lines.
    pub dir: PathBuf,
}

impl TopologyFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// It cannot be read, is not YAML of this shape, or contradicts itself; the message names file and line.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let absolute = path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))?;
        let dir = absolute.parent().context("a file has a directory")?.to_owned();
        let topology = Topology::parse(&text, &path.display().to_string())?;
        Ok(Self { topology, text, dir })
    }
}

impl Topology {
    /// Parses and checks a topology. `origin` stands before the line in messages, usually the file's name.
    ///
    /// # Errors
    /// Not YAML of this shape, or it contradicts itself: one line a problem.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let topology: Self = match serde_saphyr::from_str(text) {
            Ok(topology) => topology,
            Err(error) => {
                let line = error.location().map_or(0, |at| at.line());
                bail!("{origin}:{line}: {}", error.without_snippet());
            }
        };
        let problems = check::problems(&topology);
        if problems.is_empty() {
            return Ok(topology);
        }
        let lines: Vec<_> =
            problems.iter().map(|problem| format!("{origin}:{}: {}", problem.line, problem.text)).collect();
        bail!("{}", lines.join("\n"))
    }

    /// Every place, in the order of their names.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let mut places = vec![Place::Underlay];
        places.extend(self.nats.keys().map(|nat| Place::Nat { nat: nat.clone() }));
        places.extend(self.hosts.keys().map(|host| Place::Host { host: host.clone() }));
        for (cluster, it) in &self.clusters {
            let hosts = it
                .hosts
                .keys()
                .map(|host| Place::ClusterHost { cluster: cluster.clone(), host: host.clone() });
            let nodes =
                it.nodes.keys().map(|node| Place::Node { cluster: cluster.clone(), node: node.clone() });
            let pods = it.pods.keys().map(|pod| Place::Pod { cluster: cluster.clone(), pod: pod.clone() });
            places.extend(hosts.chain(nodes).chain(pods));
        }
        places.sort();
        places
    }

    /// The processes that a place declares.
    ///
    /// # Errors
    /// There is no such place.
    pub fn processes(&self, place: &Place) -> Result<&[ProcessSpec]> {
        let found = match place {
            Place::Underlay => Some(&self.underlay.run),
            Place::Nat { nat } => self.nats.get(nat).map(|it| &it.run),
            Place::Host { host } => self.hosts.get(host).map(|it| &it.run),
            Place::ClusterHost { cluster, host } => {
                self.clusters.get(cluster).and_then(|it| it.hosts.get(host)).map(|it| &it.run)
            }
            Place::Node { cluster, node } => {
                self.clusters.get(cluster).and_then(|it| it.nodes.get(node)).map(|it| &it.run)
            }
            Place::Pod { cluster, pod } => {
                self.clusters.get(cluster).and_then(|it| it.pods.get(pod)).map(|it| &it.run)
            }
        };
        found
            .map(Vec::as_slice)
            .with_context(|| format!("there is no place {place}: `mesh-lab places` lists them"))
    }

    /// A place's own addresses: on the segment, behind the box, or the pod's. The underlay's router has one pair a
    /// cluster; a NAT box has the one that the underlay sees.
    #[must_use]
    pub fn addresses(&self, place: &Place) -> Vec<IpAddr> {
        let cluster = |name: &Name| self.clusters.get(name);
        let found: Vec<DualAddr> = match place {
            Place::Underlay => self.clusters.values().map(|it| it.router()).collect(),
            Place::Nat { nat } => self.nats.get(nat).map(|it| it.addresses.value).into_iter().collect(),
            Place::Host { host } => self.hosts.get(host).map(|it| it.addresses.value).into_iter().collect(),
            Place::ClusterHost { cluster: c, host } => cluster(c)
                .and_then(|it| it.hosts.get(host))
                .map(|it| it.addresses.value)
                .into_iter()
                .collect(),
            Place::Node { cluster: c, node } => cluster(c)
                .and_then(|it| it.nodes.get(node))
                .map(|it| it.addresses.value)
                .into_iter()
                .collect(),
            Place::Pod { cluster: c, pod } => {
                cluster(c).and_then(|it| it.pods.get(pod)).map(|it| it.ips.value).into_iter().collect()
            }
        };
        found.into_iter().flat_map(DualAddr::both).collect()
    }
}

impl Cluster {
    /// The router's addresses on the segment: the first of each subnet.
    #[must_use]
    pub fn router(&self) -> DualAddr {
        self.subnets.value.first()
    }
}

impl RpFilter {
    /// The value of the sysctl.
    #[must_use]
    pub fn value(self) -> u8 {
        self.0
    }
}

impl Default for RpFilter {
    /// Strict, as many distributions set it.
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<u8> for RpFilter {
    type Error = String;

    fn try_from(value: u8) -> Result<Self, String> {
        if value <= 2 { Ok(Self(value)) } else { Err(format!("rp_filter is 0, 1 or 2, not {value}")) }
    }
}

/// Where Kubernetes puts what names no namespace.
fn default_namespace() -> Name {
    "default".parse().expect("`default` is a name")
}
