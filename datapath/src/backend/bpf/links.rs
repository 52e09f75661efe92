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
    ffi::OsStr,
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

fn attachment(pin_name: &OsStr) -> Option<Attachment> {
    let (program, ifindex) = pin_name.to_str()?.rsplit_once('-')?;
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

/// The programs that hold tenants apart, where they are attached, and their names in pins.
pub(super) const TENANT_PROGRAMS: [(&str, AttachType); 4] = [
    ("mesh_bind4", AttachType::BIND4),
    ("mesh_bind6", AttachType::BIND6),
    ("mesh_tenant_out", AttachType::EGRESS),
    ("mesh_tenant_in", AttachType::INGRESS),
];

/// The directory of pinned links.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) dir: PathBuf,
    /// Those of earlier versions, whose programs are not touched before [`super::Bpf::succeed`].
    pub(super) earlier: Vec<PathBuf>,
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

    /// Takes a program away from its cgroup, at once; succeeds when it is not there.
    pub(super) fn remove_socket(&self, name: &'static str) -> Result<(), Error> {
        let failed = |source| Error::Attach {
            action: "detach",
            program: name,
            place: "its cgroup".to_owned(),
            source,
        };
        self.pins(name).try_for_each(|path| detach(&path)).map_err(failed)
    }

    /// Whether a link of this name is pinned.
    pub(super) fn has(&self, name: &str) -> bool {
        self.dir.join(name).exists()
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
        let failed = |source| Error::at_device("detach", at, source);
        self.pins(&pin_name(at)).try_for_each(|path| detach(&path)).map_err(failed)
    }

    /// The packet programs that stand at living devices. Pins of dead ones are swept on the way.
    pub(super) fn packet(&self) -> Result<BTreeSet<Attachment>, Error> {
        let mut living = BTreeSet::new();
        for path in pins_in(self.dirs())? {
            let Some(at) = path.file_name().and_then(attachment) else {
                continue; // a socket program's
            };
            match place_of(&path) {
                Ok(LinkPlace::Device(ifindex)) if ifindex == at.ifindex => {
                    living.insert(at);
                }
                Ok(_) => self.remove(at)?,
                Err(source) => return Err(Error::Pins { action: "read the link", path, source }),
            }
        }
        Ok(living)
    }

    /// Ours first, then those of earlier versions.
    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.dir).chain(&self.earlier)
    }

    fn pins(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        self.dirs().map(move |dir| dir.join(name))
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

/// Ends a link, and then its pin.
fn detach(pin: &Path) -> io::Result<()> {
    let removed = raw::open_pin(pin).and_then(|link| {
        raw::link_detach(link.as_fd())?;
        fs::remove_file(pin)
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Whether this version makes a link of this name.
pub(super) fn is_link(pin_name: &OsStr) -> bool {
    let cgroup = SOCKET_PROGRAMS.iter().chain(&TENANT_PROGRAMS);
    attachment(pin_name).is_some() || cgroup.into_iter().any(|(name, _)| pin_name == *name)
}

/// What is in these directories; one that is not there holds nothing.
pub(super) fn pins_in<'a>(dirs: impl IntoIterator<Item = &'a PathBuf>) -> Result<Vec<PathBuf>, Error> {
    let mut pins = Vec::new();
    for dir in dirs {
        let failed = |source| Error::Pins { action: "list", path: dir.clone(), source };
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            pins.push(entry.map_err(failed)?.path());
        }
    }
    Ok(pins)
}

fn place_of(pin: &Path) -> io::Result<LinkPlace> {
    raw::link_place(raw::open_pin(pin)?.as_fd())
}
