//! One mesh address of each range for each node, VM and program, the lowest free one first, kept for as long as possible.

use super::Exhausted;
use api::name::{BadName, NodeName, ProgramName};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

/// Who has mesh addresses: a node or a VM, or a program of a VM.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Holder {
    /// The node, or the VM.
    pub machine: NodeName,
    /// Of the VM; none for the machine itself.
    pub program: Option<ProgramName>,
}

impl From<NodeName> for Holder {
    fn from(machine: NodeName) -> Self {
        Self { machine, program: None }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            None => write!(f, "{}", self.machine),
            // No name has a slash in it.
            Some(program) => write!(f, "{}/{program}", self.machine),
        }
    }
}

impl From<Holder> for String {
    fn from(holder: Holder) -> Self {
        holder.to_string()
    }
}

impl TryFrom<String> for Holder {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        match text.split_once('/') {
            None => Ok(Self { machine: text.parse()?, program: None }),
            Some((machine, program)) => {
                Ok(Self { machine: machine.parse()?, program: Some(program.parse()?) })
            }
        }
    }
}

/// Who has which, in the order of the ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshAddresses(BTreeMap<Holder, Vec<IpAddr>>);

impl MeshAddresses {
    /// Of a node or a VM.
    #[must_use]
    pub fn of(&self, machine: &NodeName) -> &[IpAddr] {
        self.at(&Holder::from(machine.clone()))
    }

    /// Of a program of a VM.
    #[must_use]
    pub fn of_program(&self, machine: &NodeName, program: &ProgramName) -> &[IpAddr] {
        self.at(&Holder { machine: machine.clone(), program: Some(program.clone()) })
    }

    fn at(&self, holder: &Holder) -> &[IpAddr] {
        self.0.get(holder).map(Vec::as_slice).unwrap_or_default()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Holder, &Vec<IpAddr>)> {
        self.0.iter()
    }
}

impl FromIterator<(Holder, Vec<IpAddr>)> for MeshAddresses {
    fn from_iter<T: IntoIterator<Item = (Holder, Vec<IpAddr>)>>(all: T) -> Self {
        Self(all.into_iter().collect())
    }
}

/// Most that are gone and remembered: about 120 KiB of what is kept.
const GONE_MAX: usize = 1_000;

/// What one of them has.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Allocation {
    /// At most one of each range.
    addresses: Vec<IpAddr>,
    /// Since when the node is gone, Unix time in seconds. Its addresses are the last to be given to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone_s: Option<u64>,
}

pub(super) fn allocate(
    held: &mut BTreeMap<Holder, Allocation>,
    present: &BTreeSet<Holder>,
    ranges: &[IpNet],
    now_s: u64,
) -> (MeshAddresses, Vec<Exhausted>) {
    for (name, allocation) in held.iter_mut() {
        if present.contains(name) {
            allocation.gone_s = None;
        } else {
            allocation.gone_s.get_or_insert(now_s);
        }
        // A range that was taken from the configuration takes its addresses along.
        allocation.addresses.retain(|ip| ranges.iter().any(|range| range.contains(ip)));
    }
    forget(held);
    // All that anybody has or had.
    let mut taken: BTreeSet<IpAddr> = held.values().flat_map(|a| a.addresses.iter().copied()).collect();
    let mut exhausted = Vec::new();
    for holder in present {
        held.entry(holder.clone()).or_default();
        for range in ranges {
            if held[holder].addresses.iter().any(|ip| range.contains(ip)) {
                continue;
            }
            match free(&taken, range).or_else(|| reclaim(held, range)) {
                Some(ip) => {
                    taken.insert(ip);
                    held.get_mut(holder).expect("the entry was just made").addresses.push(ip);
                }
                None => exhausted.push(Exhausted { holder: holder.clone(), range: *range }),
            }
        }
    }
    let of = |holder: &Holder| (holder.clone(), in_order(&held[holder].addresses, ranges));
    (present.iter().map(of).collect(), exhausted)
}

/// Of those that are gone, who went last keeps what he had: a cluster that grows and shrinks makes new names every day.
fn forget(held: &mut BTreeMap<Holder, Allocation>) {
    let mut gone: Vec<(u64, Holder)> =
        held.iter().filter_map(|(name, a)| Some((a.gone_s?, name.clone()))).collect();
    gone.sort_by(|a, b| b.cmp(a));
    for (_, name) in gone.drain(GONE_MAX.min(gone.len())..) {
        held.remove(&name);
    }
}

/// The lowest address that nobody has or had.
fn free(taken: &BTreeSet<IpAddr>, range: &IpNet) -> Option<IpAddr> {
    // Only as many candidates as can be taken: a /64 is not walked to its end.
    hosts(range).take(taken.len() + 1).find(|ip| !taken.contains(ip))
}

/// The address of the one that has been gone for longest.
fn reclaim(held: &mut BTreeMap<Holder, Allocation>, range: &IpNet) -> Option<IpAddr> {
    let has = |a: &Allocation| a.addresses.iter().position(|ip| range.contains(ip));
    let oldest =
        held.iter().filter(|(_, a)| has(a).is_some()).filter_map(|(name, a)| Some((a.gone_s?, name.clone())));
    let (_, name) = oldest.min()?;
    let allocation = held.get_mut(&name)?;
    let ip = has(allocation).map(|at| allocation.addresses.remove(at));
    if allocation.addresses.is_empty() {
        held.remove(&name);
    }
    ip
}

/// Addresses a node may have: not the network's own, nor IPv4's broadcast.
fn hosts(range: &IpNet) -> impl Iterator<Item = IpAddr> {
    let network = range.network();
    let subnet_anycast = move |ip: &IpAddr| matches!(ip, IpAddr::V6(_)) && *ip == network;
    range.hosts().filter(move |ip| !subnet_anycast(ip))
}

/// In the order of the ranges, so that IPv4 comes first where the operator put it first.
fn in_order(addresses: &[IpAddr], ranges: &[IpNet]) -> Vec<IpAddr> {
    ranges.iter().filter_map(|range| addresses.iter().find(|ip| range.contains(*ip)).copied()).collect()
}
