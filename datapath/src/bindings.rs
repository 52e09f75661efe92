//! Which device of the host belongs to which pod: from what the CNI wrote when it attached the pod, or from the container
//! runtime, and nothing else.
//!
//! ```text
//!  /var/lib/cni/results/* ─▶ attachment (one file, pure) ─┐
//!  container runtime ──────▶ sandboxed (one pod, pure) ───┼─▶ bind ─▶ address → Binding, problems
//!  devices by netlink ────────────────────────────────────┘
//! ```
//!
//! What the CNI says of a sandbox counts; the runtime's word is for those of which the CNI says nothing.
//!
//! Never from neighbours, forwarding tables or what a pod says: one forged ARP moves an address there (design decision
//! 13). The kubelet's container runtime keeps these files by libcni (`cniCacheV1`); the directory is root's. Two claims
//! of one address close both, because nobody can say which one is old.

mod cache;
mod sandbox;
#[cfg(test)]
mod tests;
mod watch;

pub use cache::{Attached, BadCache, Cached, attachment};
pub use sandbox::{Inside, NotBound, POD_INTERFACE, Sandbox, sandboxed};
pub use watch::Watch;

use crate::{
    image::Pod,
    uplinks::{Link, LinkKind},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Where libcni keeps what its plugins answered.
pub const RESULTS_DIR: &str = "/var/lib/cni/results";

/// A cached result is a few kilobytes; one with a large configuration tens of them.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// A node has at most some hundred pods with a few networks each.
const FILES_MAX: usize = 8_192;

/// What a node's pods are bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bindings {
    /// By pod address.
    pub pods: BTreeMap<IpAddr, Binding>,
    /// Host-side devices of all pods that the CNI attached, whether bound or not: their sources are checked.
    pub devices: BTreeSet<u32>,
    /// Network namespaces of all pods that the CNI attached.
    pub namespaces: BTreeSet<PathBuf>,
    /// One sentence for each file or address that is not bound, and why.
    pub problems: Vec<String>,
}

/// One address and its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// What the image wants to know.
    pub pod: Pod,
    /// Name of the host-side device.
    pub device: String,
    /// Of the container runtime: the pod sandbox.
    pub container_id: String,
}

/// Reads the directory and binds what it says to the devices that exist, and beside it the pods that the container
/// runtime names.
///
/// # Errors
/// When the directory cannot be listed. One that does not exist has no pods.
pub fn read(dir: &Path, runtime: &[(Sandbox, Inside)], links: &[Link]) -> io::Result<Bindings> {
    let mut attached = Vec::new();
    let mut problems = Vec::new();
    for name in names(dir)? {
        let text = match read_bounded(&dir.join(&name)) {
            Ok(text) => text,
            // Removed since it was listed: the pod is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                problems.push(format!("{name}: cannot read it: {error}"));
                continue;
            }
        };
        match attachment(&text) {
            Ok(Cached::Attached(one)) => attached.push((name, one)),
            Ok(Cached::Silent { container_id }) => {
                // Then the runtime has to know.
                if !runtime.iter().any(|(sandbox, _)| sandbox.id == container_id) {
                    problems.push(format!(
                        "{name}: it does not say which device the pod's addresses are at: start the agent with --cri-socket"
                    ));
                }
            }
            Ok(Cached::Nothing) => {}
            Err(error) => problems.push(format!("{name}: {error}")),
        }
    }
    let by_the_cni: BTreeSet<String> = attached.iter().map(|(_, one)| one.container_id.clone()).collect();
    for (sandbox, inside) in runtime.iter().filter(|(sandbox, _)| !by_the_cni.contains(&sandbox.id)) {
        let name = format!("sandbox {}", sandbox.id);
        match sandboxed(sandbox, inside, links) {
            Ok(one) => attached.push((name, one)),
            Err(error) => problems.push(format!("{name}: {error}")),
        }
    }
    let mut bindings = bind(&attached, links);
    problems.append(&mut bindings.problems);
    Ok(Bindings { problems, ..bindings })
}

/// Binds addresses to devices. Pure: what the files say, and the devices that exist.
#[must_use]
pub fn bind(attached: &[(String, Attached)], links: &[Link]) -> Bindings {
    let mut bindings = Bindings::default();
    let mut claims: BTreeMap<IpAddr, Vec<(&String, Binding)>> = BTreeMap::new();
    for (file, attached) in attached {
        let Some(link) = host_side(attached, links) else {
            bindings.problems.push(format!("{file}: none of the devices {} is here", attached.host_names()));
            continue;
        };
        bindings.devices.insert(link.ifindex);
        bindings.namespaces.extend(attached.namespace.clone());
        for (address, mac) in &attached.addresses {
            let binding = Binding {
                pod: Pod { ifindex: link.ifindex, mac: *mac },
                device: link.name.clone(),
                container_id: attached.container_id.clone(),
            };
            claims.entry(*address).or_default().push((file, binding));
        }
    }
    for (address, mut claimants) in claims {
        match (claimants.len(), claimants.pop()) {
            (1, Some((_, binding))) => drop(bindings.pods.insert(address, binding)),
            (_, Some((last, _))) => {
                let others: Vec<&str> = claimants.iter().map(|(file, _)| file.as_str()).collect();
                let all = format!("{} and {last}", others.join(", "));
                bindings.problems.push(format!("{address} is claimed by {all}: closed for all of them"));
            }
            (_, None) => {}
        }
    }
    bindings
}

/// With `bridge`, the interfaces outside of the sandbox are the bridge and the veth; with `ptp`, the veth alone.
fn host_side<'a>(attached: &Attached, links: &'a [Link]) -> Option<&'a Link> {
    let mut named = links.iter().filter(|link| {
        attached.host_devices.contains(&link.name)
            && !matches!(link.kind, LinkKind::Bridge | LinkKind::Loopback)
    });
    // Two would leave the choice to us.
    named.next().filter(|_| named.next().is_none())
}

/// In the order of their names, and not more than a node can have.
fn names(dir: &Path) -> io::Result<BTreeSet<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
        if names.len() > FILES_MAX {
            return Err(io::Error::other(format!("more than {FILES_MAX} files: clean {} up", dir.display())));
        }
    }
    Ok(names)
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    match read as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes"))),
        false => Ok(text),
    }
}
