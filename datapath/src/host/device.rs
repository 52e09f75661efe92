//! Which WireGuard serves `mesh0`: chosen once, when the agent starts.
//!
//! A device that is there is kept, whatever it is: another one in its place would end every session. Where there is
//! none, the kernel's is made; and where the kernel has none, `mesh-tunnel` makes its TUN when it starts.

use super::OpenError;
use crate::{
    backend::{
        netlink::{Found, Made, Netlink},
        wireguard::Kind,
    },
    uplinks::MESH_DEVICE,
};

/// Who may serve `mesh0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TunnelDevice {
    /// What is there; else the kernel, if it has WireGuard; else `mesh-tunnel`.
    #[default]
    Auto,
    /// This one only.
    Only(Kind),
}

/// The device cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A device of this name that is not WireGuard's.
    #[error("{MESH_DEVICE} is somebody else's device: remove it (ip link del {MESH_DEVICE})")]
    Foreign,
    /// Another kind was asked for.
    #[error(
        "{MESH_DEVICE} is a WireGuard device of {found}, and {wanted} was asked for: stop mesh-tunnel if it runs, remove \
         the device (ip link del {MESH_DEVICE}; traffic to the mesh is dropped meanwhile), and start again"
    )]
    Other {
        /// What is there.
        found: Kind,
        /// What was asked for.
        wanted: Kind,
    },
    /// No module.
    #[error("this kernel has no WireGuard: install its module (modprobe wireguard), or run mesh-tunnel")]
    NoKernel,
}

/// Chooses, and makes the kernel's device where it is the choice.
pub(super) fn choose(netlink: &Netlink, wanted: TunnelDevice) -> Result<Kind, OpenError> {
    let found = netlink.tunnel_device()?;
    if found != Found::Nothing || wanted == TunnelDevice::Only(Kind::Userspace) {
        return Ok(keep(found, wanted)?);
    }
    Ok(match netlink.make_wireguard()? {
        Made::New => Kind::Kernel,
        // Somebody was faster.
        Made::Exists => keep(netlink.tunnel_device()?, wanted)?,
        Made::Unknown if wanted == TunnelDevice::Auto => Kind::Userspace,
        Made::Unknown => return Err(DeviceError::NoKernel.into()),
    })
}

fn keep(found: Found, wanted: TunnelDevice) -> Result<Kind, DeviceError> {
    match (found, wanted) {
        (Found::Foreign, _) => Err(DeviceError::Foreign),
        (Found::Device(found), TunnelDevice::Only(wanted)) if found != wanted => {
            Err(DeviceError::Other { found, wanted })
        }
        (Found::Device(found), _) => Ok(found),
        // mesh-tunnel will make it.
        (Found::Nothing, _) => Ok(Kind::Userspace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_kept_unless_another_was_asked_for() {
        use Kind::{Kernel, Userspace};
        use TunnelDevice::{Auto, Only};
        let cases = [
            ("an agent starts again", Found::Device(Kernel), Auto, Ok(Kernel)),
            ("mesh-tunnel was first", Found::Device(Userspace), Auto, Ok(Userspace)),
            ("mesh-tunnel is asked for, and not there yet", Found::Nothing, Only(Userspace), Ok(Userspace)),
            (
                "the other is there",
                Found::Device(Userspace),
                Only(Kernel),
                Err(DeviceError::Other { found: Userspace, wanted: Kernel }),
            ),
            ("a bridge", Found::Foreign, Auto, Err(DeviceError::Foreign)),
        ];
        for (what, found, wanted, expected) in cases {
            assert_eq!(keep(found, wanted), expected, "{what}");
        }
    }
}
