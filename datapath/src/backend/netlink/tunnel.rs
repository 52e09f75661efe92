//! `mesh0` itself: what it is, and making one of the kernel's WireGuard.

use super::{Error, Netlink};
use crate::{backend::wireguard::Kind, uplinks::MESH_DEVICE};
use futures::TryStreamExt;
use rtnetlink::{
    LinkWireguard,
    packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};

/// What every implementation uses on a path of 1500 bytes; `mesh-tunnel` does, too.
const MTU_BYTES: u32 = 1420;

/// What is called `mesh0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// Something that neither of us makes.
    Foreign,
    /// A WireGuard device of the kernel, or a TUN.
    Device(Kind),
}

/// What became of the wish for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// It is there, without key and peers.
    New,
    /// A device of this name was there before.
    Exists,
    /// This kernel has no WireGuard, and no module of it that it could load.
    Unknown,
}

impl Netlink {
    /// What `mesh0` is.
    pub(crate) fn tunnel_device(&self) -> Result<Found, Error> {
        let request = self.handle.link().get().match_name(MESH_DEVICE.to_owned()).execute();
        match self.runtime.block_on(request.try_collect::<Vec<_>>()) {
            Ok(found) => Ok(found.first().map_or(Found::Nothing, kind)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(Found::Nothing),
            Err(source) => Err(Error::Request { action: "show mesh0", source }),
        }
    }

    /// Makes `mesh0` when it is gone.
    pub(crate) fn make_wireguard_if_absent(&self) -> Result<(), Error> {
        match self.tunnel_device()? {
            Found::Device(_) | Found::Foreign => Ok(()),
            Found::Nothing => self.make_wireguard().map(drop),
        }
    }

    /// Removes `mesh0`, if one of us has made it.
    pub(crate) fn remove_mesh_device(&self) -> Result<(), Error> {
        let request = self.handle.link().get().match_name(MESH_DEVICE.to_owned()).execute();
        let found = match self.runtime.block_on(request.try_collect::<Vec<_>>()) {
            Err(error) if errno(&error) == Some(libc::ENODEV) => Vec::new(),
            found => found.map_err(|source| Error::Request { action: "show mesh0", source })?,
        };
        let ours = found.iter().filter(|device| matches!(kind(device), Found::Device(_)));
        ours.map(|device| device.header.index)
            .try_for_each(|ifindex| self.gone("remove mesh0", self.handle.link().del(ifindex).execute()))
    }

    /// Makes `mesh0` in the kernel, which loads its module for it.
    pub(crate) fn make_wireguard(&self) -> Result<Made, Error> {
        let device = LinkWireguard::new(MESH_DEVICE).mtu(MTU_BYTES).build();
        match self.runtime.block_on(self.handle.link().add(device).execute()) {
            Ok(()) => Ok(Made::New),
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(Made::Exists),
            Err(error) if errno(&error) == Some(libc::EOPNOTSUPP) => Ok(Made::Unknown),
            Err(source) => Err(Error::Request { action: "make mesh0", source }),
        }
    }
}

fn kind(device: &LinkMessage) -> Found {
    let infos = device.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let kind = infos.into_iter().flatten().find_map(|info| match info {
        LinkInfo::Kind(InfoKind::Wireguard) => Some(Kind::Kernel),
        LinkInfo::Kind(InfoKind::Tun) => Some(Kind::Userspace),
        _ => None,
    });
    kind.map_or(Found::Foreign, Found::Device)
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}
