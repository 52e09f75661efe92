//! BPF: the programs of `bpf/`, their pinned maps and links.
//!
//! ```text
//!  open ─▶ preflight ─▶ geometry of the pins ─▶ maps (new or taken over) ─▶ programs, in the place of old ones
//!  observe ─▶ Rows            apply(MapStep) ─▶ one row            attach, detach ─▶ one program at one device
//! ```
//!
//! Everything is pinned below `<pin dir>/v1/`: maps by name, links in `links/`; where the kernel has no TCX, the
//! stubs that stand in its filters in `stubs/`, and the array by which they find their programs. What is pinned
//! works on when the agent is gone; the next one reads it and changes only what differs.
//!
//! Invariants: a map whose geometry differs is refused, never read with the wrong eyes; a program is replaced within
//! its link, or within the array of the stubs, so that there is no moment without one; nothing here decides what a
//! row should be.

mod abi;
mod attachment;
mod clsact;
mod error;
mod hook;
mod links;
mod maps;
mod objects;
mod preflight;
mod raw;
mod rows;
mod stubs;
#[cfg(test)]
mod tests;

pub use abi::DropReason;
pub use attachment::{Attachment, Program};
pub use error::Error;
pub use hook::{Hook, PacketHook};
pub use preflight::{Missing, default_cgroup_root, preflight};
pub use rows::{
    BackendKey, ConfigRow, IPV6_MTU_MIN_BYTES, LocalRow, MapStep, PATH_MTU_MIN_BYTES, RouteRow, Rows, SetRef,
};

use super::netlink::Netlink;
use clsact::Clsact;
use links::{Links, SOCKET_PROGRAMS};
use maps::Maps;
use objects::Objects;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};
use stubs::Stubs;

/// Our programs, maps and links in this host's kernel.
pub struct Bpf {
    objects: Objects,
    maps: Maps,
    links: Links,
    /// None: packet programs stand in links of TCX.
    clsact: Option<Clsact>,
    began_empty: bool,
}

impl Bpf {
    /// Loads the programs with new or pinned maps, puts the socket programs at `cgroup_root`, and replaces the
    /// packet programs where they already stand, also where an earlier run used the other hook. Pinned links of
    /// devices that are gone are swept.
    ///
    /// `pin_dir` is on a BPF file system, by convention `/sys/fs/bpf/mesh`.
    ///
    /// # Errors
    ///
    /// What the host lacks, a pinned map of another geometry, or what the kernel refused. Where nothing was pinned
    /// before, nothing is afterwards.
    pub fn open(pin_dir: &Path, cgroup_root: &Path, hook: PacketHook) -> Result<Self, Error> {
        preflight(pin_dir, cgroup_root)?;
        let hook = hook::choose(hook)?;
        let dir = pin_dir.join(abi::PIN_VERSION);
        let is_first = !dir.exists();
        let opened = Self::open_in(&dir, cgroup_root, hook);
        if opened.is_err() && is_first {
            // Half a set of pins would outlive us; the error is what the caller has to hear of.
            fs::remove_dir_all(&dir).ok();
        }
        opened
    }

    /// No agent had programmed these maps before: a first start, or one after a reboot.
    #[must_use]
    pub fn began_empty(&self) -> bool {
        self.began_empty
    }

    /// What packet programs are attached to.
    #[must_use]
    pub fn hook(&self) -> Hook {
        match self.clsact {
            None => Hook::Tcx,
            Some(_) => Hook::Clsact,
        }
    }

    fn open_in(dir: &Path, cgroup_root: &Path, hook: Hook) -> Result<Self, Error> {
        let links = Links { dir: dir.join("links") };
        create_dir(&links.dir)?;
        let objects = Objects::load(dir)?;
        let maps = Maps::open(dir)?;
        // By the rows, not by the pins: an agent may have died between the two.
        let began_empty = maps.read().is_ok_and(|rows| rows == Rows::default());
        let netlink = Netlink::open()?;
        let mut bpf = Self { objects, maps, links, clsact: None, began_empty };
        for program in SOCKET_PROGRAMS {
            bpf.links.put_socket(program, bpf.objects.socket(program.0), cgroup_root)?;
        }
        match hook {
            Hook::Tcx => bpf.move_to_tcx(&netlink, dir)?,
            Hook::Clsact => bpf.move_to_clsact(netlink, dir)?,
        }
        Ok(bpf)
    }

    /// Replaces the programs of an earlier run in their links. Where it used filters, a link comes before each, and
    /// then the filter goes.
    fn move_to_tcx(&self, netlink: &Netlink, dir: &Path) -> Result<(), Error> {
        let filters = clsact::standing(netlink)?;
        for at in self.links.packet()?.union(&filters) {
            self.put(*at)?;
        }
        for at in filters {
            clsact::remove(netlink, at)?;
        }
        Stubs::remove(dir)
    }

    /// Replaces the programs of an earlier run in the stubs' array. Where it used links, a filter comes behind each,
    /// and then the link goes.
    fn move_to_clsact(&mut self, netlink: Netlink, dir: &Path) -> Result<(), Error> {
        let clsact = self.clsact.insert(Clsact::open(netlink, dir, &self.objects)?);
        let linked = self.links.packet()?;
        for at in clsact.standing()?.union(&linked) {
            clsact.put(*at)?;
        }
        linked.into_iter().try_for_each(|at| self.links.remove(at))
    }

    /// Puts a program at a device, before what others attached there. Doing it again replaces the program.
    ///
    /// # Errors
    ///
    /// The device is not in this network namespace, has a link layer we cannot read, or the kernel refused.
    pub fn attach(&mut self, at: Attachment) -> Result<(), Error> {
        self.put(at)
    }

    /// Takes a program away from a device; succeeds when it is not there.
    ///
    /// # Errors
    ///
    /// The pin, or the filter, could not be removed.
    pub fn detach(&mut self, at: Attachment) -> Result<(), Error> {
        match &self.clsact {
            None => self.links.remove(at),
            Some(clsact) => clsact.remove(at),
        }
    }

    /// Where packet programs stand in force: before all others, as [`Self::attach`] puts them. Pins of devices that
    /// are gone are swept, not returned.
    ///
    /// # Errors
    ///
    /// The pins, or the kernel's filters, could not be read.
    pub fn attachments(&self) -> Result<BTreeSet<Attachment>, Error> {
        match &self.clsact {
            None => self.links.packet(),
            Some(clsact) => clsact.attachments(),
        }
    }

    /// Every row of every map the agent writes.
    ///
    /// # Errors
    ///
    /// A map could not be read, or holds what this version did not write.
    pub fn observe(&self) -> Result<Rows, Error> {
        self.maps.read()
    }

    /// Changes one row.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] when the map has no room, [`Error::Refused`] for a row that no map may hold.
    pub fn apply(&mut self, step: &MapStep) -> Result<(), Error> {
        self.maps.apply(step)
    }

    /// How often each reason refused something since the maps were made.
    ///
    /// # Errors
    ///
    /// The counters could not be read.
    pub fn drops(&self) -> Result<BTreeMap<DropReason, u64>, Error> {
        self.maps.drops()
    }

    fn put(&self, at: Attachment) -> Result<(), Error> {
        match &self.clsact {
            None => self.links.put_packet(at, |function| self.objects.packet(function)),
            Some(clsact) => clsact.put(at),
        }
    }
}

fn create_dir(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|source| Error::Pins { action: "create", path: dir.to_owned(), source })
}
