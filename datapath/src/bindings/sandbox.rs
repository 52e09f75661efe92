//! A pod as its container runtime tells it (CRI), and its device as the kernel does.
//!
//! The runtime says which addresses it gave to which network namespace. Which device of the host leads there is the
//! kernel's word: the other end of a pair is named by index and namespace *at the host's end*, where no pod can reach.

use super::Attached;
use crate::uplinks::{Link, LinkKind};
use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

/// The interface that a runtime gives an address to: containerd's and CRI-O's default.
pub const POD_INTERFACE: &str = "eth0";

/// What a container runtime says of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its number, as in the CNI's results.
    pub id: String,
    /// The addresses that it was given.
    pub addresses: BTreeSet<IpAddr>,
    /// Its network namespace.
    pub namespace: PathBuf,
}

/// What the kernel says of [`POD_INTERFACE`] in a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inside {
    /// Its index there.
    pub ifindex: u32,
    /// The index of its other end.
    pub peer: u32,
    /// Of its link layer.
    pub mac: [u8; 6],
    /// Which namespace it is, by the host's numbers.
    pub nsid: i32,
}

/// Why a sandbox is not bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBound {
    /// The host has no such device, or it leads elsewhere.
    #[error("no veth of this host leads to {POD_INTERFACE} of {}", .0.display())]
    NoDevice(PathBuf),
    /// It cannot be delivered to.
    #[error("{POD_INTERFACE} of {} has no usable MAC address", .0.display())]
    Mac(PathBuf),
    /// Nobody can be given this one.
    #[error("{0} cannot be a pod's")]
    Address(IpAddr),
}

/// The same as a file of the CNI's would say. Pure.
///
/// # Errors
/// When the two do not belong together, or say what cannot be.
pub fn sandboxed(sandbox: &Sandbox, inside: &Inside, links: &[Link]) -> Result<Attached, NotBound> {
    let leads_there = |link: &&Link| {
        link.kind == LinkKind::Veth
            && link.ifindex == inside.peer
            && link.peer == Some((inside.nsid, inside.ifindex))
    };
    let device =
        links.iter().find(leads_there).ok_or_else(|| NotBound::NoDevice(sandbox.namespace.clone()))?;
    // A group address is nobody's.
    if inside.mac[0] & 1 != 0 || inside.mac == [0; 6] {
        return Err(NotBound::Mac(sandbox.namespace.clone()));
    }
    if let Some(address) = sandbox.addresses.iter().find(|address| !super::cache::is_a_pods(**address)) {
        return Err(NotBound::Address(*address));
    }
    Ok(Attached {
        container_id: sandbox.id.clone(),
        host_devices: vec![device.name.clone()],
        addresses: sandbox.addresses.iter().map(|address| (*address, inside.mac)).collect(),
        namespace: Some(sandbox.namespace.clone()),
    })
}
