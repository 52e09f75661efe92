//! What can go wrong between the agent and the kernel.

use super::{attachment::Attachment, preflight::Missing, rivals::Rival};
use crate::backend::netlink;
use aya::maps::MapError;
use std::{io, path::PathBuf};

/// An error of the BPF backend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host cannot run the data path.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// Another balancer has the sockets.
    #[error(transparent)]
    Rival(#[from] Rival),
    /// Nftables balances, and gives no socket the address of its program.
    #[error(
        "programs of this VM cannot have identities of their own where nftables balances: what they send to the mesh is \
         dropped; run a kernel with socket programs (Linux 5.18), or take the programs out of the ExternalWorkload"
    )]
    NoTenants,
    /// The kernel did not say whether it has TCX.
    #[error("cannot ask the kernel whether it has TCX")]
    Probe(#[source] io::Error),
    /// The kernel did not say what stands at its devices.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A map is full. What did not fit stays closed or unreachable, never open.
    #[error("cannot add {row} to map {map}: its {max_entries} entries are in use")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// Its size.
        max_entries: u32,
        /// What was to be added.
        row: String,
    },
    /// A pinned map is of another make than ours.
    #[error("pinned map {path} has {found}, this version needs {needed}: stop the agent and remove {dir}")]
    Geometry {
        /// The pin.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What the object says.
        needed: String,
        /// The directory of all pins of this version.
        dir: PathBuf,
    },
    /// A row that no map may hold.
    #[error("cannot program {row}: {reason}")]
    Refused {
        /// The row.
        row: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Bytes in a map that this version did not write.
    #[error("map {map} holds a row of {what}, which this version does not know: remove its pin")]
    ForeignRow {
        /// Name of the map.
        map: &'static str,
        /// The field and its value.
        what: String,
    },
    /// Reading or writing a map.
    #[error("cannot {action} map {map}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        source: aya::maps::MapError,
    },
    /// Loading an object: its maps or one of its programs.
    #[error("cannot load {what}")]
    Load {
        /// Object or program.
        what: String,
        /// What the kernel said; the verifier's log is in it.
        source: Box<aya::EbpfError>,
    },
    /// Attaching, replacing or detaching a program.
    #[error("cannot {action} `{program}` at {place}")]
    Attach {
        /// What was tried.
        action: &'static str,
        /// The program's name.
        program: &'static str,
        /// Device or cgroup.
        place: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Working with the pin directory.
    #[error("cannot {action} {path}")]
    Pins {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// A packet program cannot come to a device, or go from it.
    pub(super) fn at_device(action: &'static str, at: Attachment, source: io::Error) -> Self {
        Self::Attach { action, program: at.program.name(), place: format!("device {}", at.ifindex), source }
    }
}

impl Error {
    /// The map that is full, if one is.
    #[must_use]
    pub fn full_map(&self) -> Option<&'static str> {
        match self {
            Self::Full { map, .. } => Some(map),
            _ => None,
        }
    }

    /// A row was refused because its map is full, or the kernel has no memory for it.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Map { source: MapError::SyscallError(call), .. } => {
                call.io_error.raw_os_error() == Some(libc::ENOMEM)
            }
            _ => false,
        }
    }
}
