//! BPF: the programs of `bpf/`, their pinned maps and links.
//!
//! ```text
//!  open ─▶ preflight ─▶ geometry of the pins ─▶ maps (new or taken over) ─▶ programs ─▶ links (updated in place)
//!  observe ─▶ Rows            apply(MapStep) ─▶ one row            attach, detach ─▶ one link
//! ```
//!
//! Everything is pinned below `<pin dir>/v1/`: maps by name, links in `links/`. What is pinned works on when the
//! agent is gone; the next one reads it and changes only what differs. An agent whose maps are of another make has
//! another version: it fills maps of its own beside the earlier ones, whose programs work on until [`Bpf::succeed`]
//! puts the new programs into their links.
//!
//! Invariants: a map whose geometry differs is refused, never read with the wrong eyes; a program is replaced within
//! its link, so that there is no moment without one; nothing here decides what a row should be.

mod abi;
mod error;
mod links;
mod maps;
mod objects;
mod preflight;
mod raw;
mod rivals;
mod rows;
mod succession;
#[cfg(test)]
mod tests;

pub use abi::DropReason;
pub use error::Error;
pub use links::{Attachment, Program};
pub use preflight::{Missing, default_cgroup_root, preflight};
pub use rivals::Rival;
pub use rows::{
    BackendKey, ConfigRow, IPV6_MTU_MIN_BYTES, LocalRow, MapStep, PATH_MTU_MIN_BYTES, RouteRow, Rows, SetRef,
};

use links::{Links, SOCKET_PROGRAMS};
use maps::Maps;
use objects::Objects;
use rivals::Lookout;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Our programs, maps and links in this host's kernel.
pub struct Bpf {
    objects: Objects,
    maps: Maps,
    links: Links,
    cgroup_root: PathBuf,
    lookout: Lookout,
    began_empty: bool,
}

impl Bpf {
    /// Loads the programs with new or pinned maps, puts the socket programs at `cgroup_root`, and replaces the
    /// packet programs where they already stand. Pinned links of devices that are gone are swept.
    ///
    /// `pin_dir` is on a BPF file system, by convention `/sys/fs/bpf/mesh`.
    ///
    /// # Errors
    ///
    /// What the host lacks, a pinned map of another geometry, or what the kernel refused. Where nothing was pinned
    /// before, nothing is afterwards.
    pub fn open(pin_dir: &Path, cgroup_root: &Path) -> Result<Self, Error> {
        preflight(pin_dir, cgroup_root)?;
        if let Some(rival) = Lookout::at(cgroup_root).look()? {
            return Err(rival.into());
        }
        let dir = pin_dir.join(abi::PIN_VERSION);
        let is_first = !dir.exists();
        let opened = Self::open_in(&dir, cgroup_root);
        if opened.is_err() && is_first {
            // Half a set of pins would outlive us; the error is what the caller has to hear of.
            fs::remove_dir_all(&dir).ok();
        }
        opened
    }

    /// No agent had programmed this host before: a first start, or one after a reboot.
    #[must_use]
    pub fn began_empty(&self) -> bool {
        self.began_empty
    }

    fn open_in(dir: &Path, cgroup_root: &Path) -> Result<Self, Error> {
        let links = Links { dir: dir.join("links"), earlier: succession::earlier(dir)? };
        create_dir(&links.dir)?;
        let objects = Objects::load(dir)?;
        let maps = Maps::open(dir)?;
        // By the rows, not by the pins: an agent may have died between the two.
        let began_empty = links.earlier.is_empty() && maps.read().is_ok_and(|rows| rows == Rows::default());
        let (cgroup_root, lookout) = (cgroup_root.to_owned(), Lookout::at(cgroup_root));
        let bpf = Self { objects, maps, links, cgroup_root, lookout, began_empty };
        bpf.put_all()?;
        Ok(bpf)
    }

    /// Puts our programs into the links of earlier versions, and removes what else they had pinned. To be called when
    /// the maps hold everything: until then the earlier programs work on, with the maps that they know. False: there is
    /// no earlier version.
    ///
    /// # Errors
    ///
    /// A link could not be taken over; the next call goes on where this one ended.
    pub fn succeed(&mut self) -> Result<bool, Error> {
        if self.links.earlier.is_empty() {
            return Ok(false);
        }
        self.links.take_over()?;
        self.put_all()?;
        self.links.forget_earlier()?;
        Ok(true)
    }

    /// Puts a program at a device, before what others attached there. Doing it again replaces the program. Where an
    /// earlier version's stands it stays, until [`Bpf::succeed`].
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
    /// The pin could not be removed.
    pub fn detach(&mut self, at: Attachment) -> Result<(), Error> {
        self.links.remove(at)
    }

    /// Where packet programs stand. Pins of devices that are gone are swept, not returned.
    ///
    /// # Errors
    ///
    /// The pins could not be read.
    pub fn attachments(&self) -> Result<BTreeSet<Attachment>, Error> {
        self.links.packet()
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

    /// A balancer of somebody else's that came to our cgroup since we were opened.
    ///
    /// # Errors
    ///
    /// The kernel could not be asked.
    pub fn rival(&mut self) -> Result<Option<Rival>, Error> {
        self.lookout.look()
    }

    /// How often each reason refused something since the maps were made.
    ///
    /// # Errors
    ///
    /// The counters could not be read.
    pub fn drops(&self) -> Result<BTreeMap<DropReason, u64>, Error> {
        self.maps.drops()
    }

    fn put_all(&self) -> Result<(), Error> {
        for program in SOCKET_PROGRAMS {
            self.links.put_socket(program, self.objects.socket(program.0), &self.cgroup_root)?;
        }
        for at in self.links.packet()? {
            self.put(at)?;
        }
        Ok(())
    }

    fn put(&self, at: Attachment) -> Result<(), Error> {
        self.links.put_packet(at, |function| self.objects.packet(function))
    }
}

fn create_dir(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|source| Error::Pins { action: "create", path: dir.to_owned(), source })
}
