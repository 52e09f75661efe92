//! Packet programs: which there are, which device's frames each of them reads, and which way those go.

use super::raw;
use crate::backend::netlink::Direction;
use std::{fmt, io};

/// A packet program and where it can stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// Ingress of the host's side of a pod's device.
    FromPod,
    /// Ingress of the tunnel's device.
    FromTunnel,
    /// Egress of the tunnel's device.
    ToTunnel,
    /// Egress of a physical device: the guard.
    UplinkOut,
    /// Ingress of a physical device, which refuses sources of the encrypted scope and of this host; and of a bridge,
    /// behind which this host's own pods may live.
    UplinkIn,
}

/// A program at a device of this network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// Which program.
    pub program: Program,
    /// Which device.
    pub ifindex: u32,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 5] =
        [Self::FromPod, Self::FromTunnel, Self::ToTunnel, Self::UplinkOut, Self::UplinkIn];

    /// Its name in pins and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from-pod",
            Self::FromTunnel => "from-tunnel",
            Self::ToTunnel => "to-tunnel",
            Self::UplinkOut => "uplink-out",
            Self::UplinkIn => "uplink-in",
        }
    }

    pub(super) const fn direction(self) -> Direction {
        match self {
            Self::FromPod | Self::FromTunnel | Self::UplinkIn => Direction::Ingress,
            Self::ToTunnel | Self::UplinkOut => Direction::Egress,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The function in the object that reads this device's frames.
pub(super) fn function(at: Attachment) -> io::Result<&'static str> {
    Ok(match at.program {
        Program::FromPod => "mesh_from_pod",
        Program::FromTunnel => "mesh_from_tunnel",
        Program::ToTunnel => "mesh_to_tunnel",
        Program::UplinkOut => match device_kind(at.ifindex)? {
            DeviceKind::Ethernet | DeviceKind::Bridge => "mesh_uplink_out",
            DeviceKind::Bare => "mesh_uplink_out_l3",
        },
        Program::UplinkIn => match device_kind(at.ifindex)? {
            DeviceKind::Ethernet => "mesh_uplink_in",
            DeviceKind::Bridge => "mesh_bridge_in",
            DeviceKind::Bare => "mesh_uplink_in_l3",
        },
    })
}

/// What the frames of a device look like, and who lives behind it.
enum DeviceKind {
    /// Frames with an Ethernet header.
    Ethernet,
    /// The same, and local pods may be among those who send them.
    Bridge,
    /// Bare IP packets.
    Bare,
}

/// By hardware type (linux/if_arp.h) and driver, which have no name in a device's attributes that both bridge and
/// Open vSwitch set.
fn device_kind(ifindex: u32) -> io::Result<DeviceKind> {
    const ARPHRD_RAWIP: u16 = 519;
    let device = raw::device(ifindex)?;
    match device.hardware_type {
        libc::ARPHRD_ETHER if matches!(device.driver.as_str(), "bridge" | "openvswitch") => {
            Ok(DeviceKind::Bridge)
        }
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Ok(DeviceKind::Ethernet),
        libc::ARPHRD_NONE
        | libc::ARPHRD_PPP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | libc::ARPHRD_IPGRE
        | ARPHRD_RAWIP => Ok(DeviceKind::Bare),
        other => {
            Err(io::Error::other(format!("its link layer (hardware type {other}) is none that we can read")))
        }
    }
}
