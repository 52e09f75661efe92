//! Takes everything of the mesh off a host that is no part of it any more. What an agent leaves behind on purpose, so
//! that nothing leaves in plain while it is away, is no use to a host that has left.

use crate::{
    backend::{bpf, netlink, netlink::Netlink, nft},
    observe::Masquerade,
    step::Step,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Filters of `clsact`, in front of which our stubs stand.
    #[error(transparent)]
    Bpf(#[from] bpf::Error),
    /// Routes, rules, the device.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// Our tables of nftables.
    #[error(transparent)]
    Nft(#[from] nft::Error),
    /// Programs and maps.
    #[error("cannot remove the pins in {}", path.display())]
    Pins {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Removes `mesh0`, our rules and routes, our tables, and our programs with their maps. Nothing that is gone is missed, so
/// it may be repeated after an error. A user-space tunnel ends when its device is gone.
///
/// # Errors
/// What the kernel refused; the rest stays.
pub fn dismantle(pin_dir: &Path) -> Result<(), Error> {
    let netlink = Netlink::open()?;
    let there = netlink.observe()?;
    // The tunnel first, its fences and guards last: what is on its way is dropped, and does not leave in plain.
    netlink.remove_mesh_device()?;
    let routes = there.routes.keys().map(|prefix| Step::RemoveRoute { prefix: *prefix });
    let fences = there.unreachable.iter().map(|prefix| Step::RemoveUnreachable { prefix: *prefix });
    let rules = there.rules.iter().map(|family| Step::RemoveRule(*family));
    for step in routes.chain(fences).chain(rules) {
        netlink.take(&step).unwrap_or(Ok(()))?;
    }
    nft::set(&Masquerade::Absent)?;
    nft::services::remove()?;
    bpf::remove_filters(&netlink)?;
    match fs::remove_dir_all(pin_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| Error::Pins { path: pin_dir.to_owned(), source }),
    }
}
