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
        "{MESH_DEVICE} is a {found} WireGuard device, and {wanted} was asked for: stop mesh-tunnel if it runs, remove \
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

    #[test]
    fn what_the_kernel_has_is_made_and_what_it_has_not_is_said() {
        let inside = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root makes network namespaces");
            let netlink = Netlink::open().expect("a socket");
            assert_eq!(netlink.tunnel_device().expect("an answer"), Found::Nothing);
            let only = |kind| choose(&netlink, TunnelDevice::Only(kind)).map_err(|error| error.to_string());
            let chosen = choose(&netlink, TunnelDevice::Auto).expect("one of the two");
            match chosen {
                Kind::Kernel => {
                    assert_eq!(netlink.tunnel_device().expect("an answer"), Found::Device(Kind::Kernel));
                    assert_eq!(netlink.make_wireguard().expect("an answer"), Made::Exists);
                    assert_eq!(only(Kind::Kernel), Ok(Kind::Kernel));
                    let refused = only(Kind::Userspace).expect_err("the kernel's is there");
                    assert!(
                        refused.starts_with("mesh0 is a kernel WireGuard device, and userspace"),
                        "{refused}"
                    );
                }
                Kind::Userspace => {
                    assert_eq!(netlink.tunnel_device().expect("an answer"), Found::Nothing);
                    assert_eq!(only(Kind::Userspace), Ok(Kind::Userspace));
                    let refused = only(Kind::Kernel).expect_err("there is none");
                    assert!(refused.starts_with("this kernel has no WireGuard: "), "{refused}");
                }
            }
        });
        inside.join().expect("it went well");
    }
}
