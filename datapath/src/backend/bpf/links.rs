//! Links: what keeps a program at its place when the agent is gone. Each is pinned under its own name and replaced
//! by BPF_LINK_UPDATE, so that no packet passes between an old program and a new one.

use super::{
    Error,
    attachment::{Attachment, Program, function},
    raw::{self, AttachType, LinkPlace},
};
use crate::backend::netlink::Direction;
use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

const fn attach_type(direction: Direction) -> AttachType {
    match direction {
        Direction::Ingress => AttachType::TCX_INGRESS,
        Direction::Egress => AttachType::TCX_EGRESS,
    }
}

/// The name of an attachment's pin.
fn pin_name(at: Attachment) -> String {
    format!("{}-{}", at.program, at.ifindex)
}

fn attachment(pin_name: &str) -> Option<Attachment> {
    let (program, ifindex) = pin_name.rsplit_once('-')?;
    let program = Program::ALL.into_iter().find(|p| p.name() == program)?;
    Some(Attachment { program, ifindex: ifindex.parse().ok()? })
}

/// The socket programs, where they are attached, and their names in pins.
pub(super) const SOCKET_PROGRAMS: [(&str, AttachType); 8] = [
    ("mesh_connect4", AttachType::CONNECT4),
    ("mesh_connect6", AttachType::CONNECT6),
    ("mesh_sendmsg4", AttachType::SENDMSG4),
    ("mesh_sendmsg6", AttachType::SENDMSG6),
    ("mesh_recvmsg4", AttachType::RECVMSG4),
    ("mesh_recvmsg6", AttachType::RECVMSG6),
    ("mesh_peername4", AttachType::PEERNAME4),
    ("mesh_peername6", AttachType::PEERNAME6),
];

/// The directory of pinned links.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) dir: PathBuf,
}

impl Links {
    /// Puts a socket program at a cgroup, or in the place of its predecessor there.
    pub(super) fn put_socket(
        &self,
        (name, at): (&'static str, AttachType),
        program: BorrowedFd<'_>,
        cgroup_root: &Path,
    ) -> Result<(), Error> {
        let failed = |source| Error::Attach {
            action: "attach",
            program: name,
            place: cgroup_root.display().to_string(),
            source,
        };
        let cgroup = fs::File::open(cgroup_root).map_err(failed)?;
        // A cgroup's id is the inode of its directory.
        let place = LinkPlace::Cgroup(cgroup.metadata().map_err(failed)?.ino());
        self.put(name, place, program, || raw::link_cgroup(program, cgroup.as_fd(), at)).map_err(failed)
    }

    /// Puts a packet program at a device, or in the place of its predecessor there.
    pub(super) fn put_packet<'p>(
        &self,
        at: Attachment,
        program: impl Fn(&'static str) -> BorrowedFd<'p>,
    ) -> Result<(), Error> {
        let failed = |source| Error::at_device("attach", at, source);
        let program = program(function(at).map_err(failed)?);
        self.put(&pin_name(at), LinkPlace::Device(at.ifindex), program, || {
            raw::link_tcx(program, at.ifindex, attach_type(at.program.direction()))
        })
        .map_err(failed)
    }

    /// Takes a packet program away from a device, at once; succeeds when it is not there.
    pub(super) fn remove(&self, at: Attachment) -> Result<(), Error> {
        let path = self.dir.join(pin_name(at));
        let removed = raw::open_pin(&path).and_then(|link| {
            raw::link_detach(link.as_fd())?;
            fs::remove_file(&path)
        });
        match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::at_device("detach", at, source))
            }
            _ => Ok(()),
        }
    }

    /// The packet programs that stand at living devices. Pins of dead ones are swept on the way.
    pub(super) fn packet(&self) -> Result<BTreeSet<Attachment>, Error> {
        let failed = |source| Error::Pins { action: "list", path: self.dir.clone(), source };
        let mut living = BTreeSet::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(at) = entry.file_name().to_str().and_then(attachment) else {
                continue; // a socket program's
            };
            match place_of(&entry.path()) {
                Ok(LinkPlace::Device(ifindex)) if ifindex == at.ifindex => {
                    living.insert(at);
                }
                Ok(_) => self.remove(at)?,
                Err(source) => {
                    return Err(Error::Pins { action: "read the link", path: entry.path(), source });
                }
            }
        }
        Ok(living)
    }

    fn put(
        &self,
        name: &str,
        place: LinkPlace,
        program: BorrowedFd<'_>,
        create: impl FnOnce() -> io::Result<std::os::fd::OwnedFd>,
    ) -> io::Result<()> {
        let path = self.dir.join(name);
        let old = match raw::open_pin(&path) {
            Ok(link) if raw::link_place(link.as_fd())? == place => {
                return raw::link_update(link.as_fd(), program);
            }
            // Elsewhere (another cgroup root), or its device is gone: the new one first, then away with it.
            Ok(link) => Some(link),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let new = create()?;
        if let Some(old) = old {
            raw::link_detach(old.as_fd())?;
            fs::remove_file(&path)?;
        }
        raw::pin(new.as_fd(), &path)
    }
}

fn place_of(pin: &Path) -> io::Result<LinkPlace> {
    raw::link_place(raw::open_pin(pin)?.as_fd())
}
