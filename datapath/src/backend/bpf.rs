//! BPF: the programs of `bpf/`, their pinned maps and links.
//!
//! ```text
//!  open ─▶ preflight ─▶ geometry of the pins ─▶ maps (new or taken over) ─▶ programs, in the place of old ones
//!  observe ─▶ Rows            apply(MapStep) ─▶ one row            attach, detach ─▶ one program at one device
//! ```
//!
//! Everything is pinned below `<pin dir>/v2/`: maps by name, links in `links/`; where the kernel has no TCX, the
//! stubs that stand in its filters in `stubs/`, and the array by which they find their programs. What is pinned
//! works on when the agent is gone; the next one reads it and changes only what differs. An agent whose maps are of
//! another make has another version: it fills maps of its own beside the earlier ones, whose programs work on until
//! [`Bpf::succeed`] puts the new programs in their places.
//!
//! Invariants: a map whose geometry differs is refused, never read with the wrong eyes; a program is replaced within
//! its link, or within the array of the stubs, so that there is no moment without one; nothing here decides what a
//! row should be.

mod abi;
mod attachment;
mod balancing;
mod clsact;
mod error;
mod hook;
mod links;
mod maps;
mod objects;
mod preflight;
mod raw;
mod rivals;
mod rows;
mod stubs;
mod succession;
#[cfg(test)]
mod tests;

pub use abi::DropReason;
pub use attachment::{Attachment, Program};
pub use balancing::{Balancer, Balancing};
pub use error::Error;
pub use hook::{Hook, PacketHook};
pub use preflight::{Missing, default_cgroup_root, preflight};
pub use rivals::Rival;
pub use rows::{
    BackendKey, CgroupRow, ConfigRow, IPV6_MTU_MIN_BYTES, LocalRow, MapStep, PATH_MTU_MIN_BYTES, RouteRow,
    Rows, SetRef, TenancyRow, TenantRow,
};

use super::netlink::Netlink;
use clsact::Clsact;
use links::{Links, SOCKET_PROGRAMS, TENANT_PROGRAMS};
use maps::Maps;
use objects::Objects;
use rivals::Lookout;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use stubs::Stubs;

/// Our programs, maps and links in this host's kernel.
pub struct Bpf {
    objects: Objects,
    maps: Maps,
    links: Links,
    /// None: packet programs stand in links of TCX.
    clsact: Option<Clsact>,
    balancing: Balancing,
    cgroup_root: PathBuf,
    lookout: Lookout,
    began_empty: bool,
}

impl Bpf {
    /// Loads the programs with new or pinned maps, puts the socket programs at `cgroup_root` if it is they that balance,
    /// and replaces the packet programs where they already stand, also where an earlier run used the other hook. Pinned links of
    /// devices that are gone are swept.
    ///
    /// `pin_dir` is on a BPF file system, by convention `/sys/fs/bpf/mesh`.
    ///
    /// # Errors
    ///
    /// What the host lacks, a pinned map of another geometry, or what the kernel refused. Where nothing was pinned
    /// before, nothing is afterwards.
    pub fn open(
        pin_dir: &Path,
        cgroup_root: &Path,
        hook: PacketHook,
        balancer: Balancer,
    ) -> Result<Self, Error> {
        let balancing = preflight(pin_dir, cgroup_root, balancer)?;
        if balancing == Balancing::Socket
            && let Some(rival) = Lookout::at(cgroup_root).look()?
        {
            return Err(rival.into());
        }
        let hook = hook::choose(hook)?;
        let dir = pin_dir.join(abi::PIN_VERSION);
        let is_first = !dir.exists();
        let opened = Self::open_in(&dir, cgroup_root, hook, balancing);
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

    /// What packet programs are attached to.
    #[must_use]
    pub fn hook(&self) -> Hook {
        match self.clsact {
            None => Hook::Tcx,
            Some(_) => Hook::Clsact,
        }
    }

    /// Who balances Services.
    #[must_use]
    pub fn balancing(&self) -> Balancing {
        self.balancing
    }

    fn open_in(dir: &Path, cgroup_root: &Path, hook: Hook, balancing: Balancing) -> Result<Self, Error> {
        let links = Links { dir: dir.join("links"), earlier: succession::earlier(dir)? };
        create_dir(&links.dir)?;
        let objects = Objects::load(dir, balancing)?;
        let maps = Maps::open(dir)?;
        // By the rows, not by the pins: an agent may have died between the two.
        let began_empty = links.earlier.is_empty() && maps.read().is_ok_and(|rows| rows == Rows::default());
        let clsact = match hook {
            Hook::Tcx => None,
            Hook::Clsact => Some(Clsact::open(Netlink::open()?, dir, &objects)?),
        };
        let (cgroup_root, lookout) = (cgroup_root.to_owned(), Lookout::at(cgroup_root));
        let bpf = Self { objects, maps, links, clsact, balancing, cgroup_root, lookout, began_empty };
        if !bpf.has_earlier() {
            bpf.settle(dir)?;
        }
        Ok(bpf)
    }

    /// Whether an earlier version's programs are in force, and ours wait.
    fn has_earlier(&self) -> bool {
        !self.links.earlier.is_empty()
    }

    /// Puts our programs where they belong, in the places of those that stand there, at whichever hook.
    fn settle(&self, dir: &Path) -> Result<(), Error> {
        if self.balancing == Balancing::Socket {
            for program in SOCKET_PROGRAMS {
                self.links.put_socket(program, self.objects.socket(program.0), &self.cgroup_root)?;
            }
            if TENANT_PROGRAMS.iter().any(|(name, _)| self.links.has(name)) {
                self.hold_apart()?;
            }
        }
        match &self.clsact {
            None => self.move_to_tcx(dir),
            Some(clsact) => self.move_to_clsact(clsact),
        }
    }

    /// Replaces the programs of an earlier run in their links. Where it used filters, a link comes before each, and
    /// then the filter goes.
    fn move_to_tcx(&self, dir: &Path) -> Result<(), Error> {
        let netlink = Netlink::open()?;
        let filters = clsact::standing(&netlink)?;
        for at in self.links.packet()?.union(&filters) {
            self.put(*at)?;
        }
        for at in filters {
            clsact::remove(&netlink, at)?;
        }
        Stubs::remove(dir)
    }

    /// Replaces the programs of an earlier run in the stubs' array. Where it used links, a filter comes behind each,
    /// and then the link goes.
    fn move_to_clsact(&self, clsact: &Clsact) -> Result<(), Error> {
        let linked = self.links.packet()?;
        for at in clsact.standing()?.union(&linked) {
            clsact.put(*at)?;
        }
        linked.into_iter().try_for_each(|at| self.links.remove(at))
    }

    /// Puts our programs in the places of an earlier version's, and removes what else that had pinned. To be called
    /// when the maps hold everything: until then the earlier programs work on, with the maps that they know. False:
    /// there is no earlier version.
    ///
    /// # Errors
    ///
    /// A place could not be taken over; the next call goes on where this one ended.
    pub fn succeed(&mut self) -> Result<bool, Error> {
        if !self.has_earlier() {
            return Ok(false);
        }
        self.links.take_over()?;
        let dir = self.links.dir.parent().expect("links are in a version's directory");
        self.settle(dir)?;
        self.links.forget_earlier()?;
        Ok(true)
    }

    /// Where an earlier version's packet programs stand, or ours, at whichever hook.
    fn standing(&self) -> Result<BTreeSet<Attachment>, Error> {
        let mut standing = self.links.packet()?;
        standing.extend(clsact::standing(&Netlink::open()?)?);
        Ok(standing)
    }

    /// Puts a program at a device, before what others attached there. Doing it again replaces the program. Where an
    /// earlier version's stands it stays, until [`Bpf::succeed`].
    ///
    /// # Errors
    ///
    /// The device is not in this network namespace, has a link layer we cannot read, or the kernel refused.
    pub fn attach(&mut self, at: Attachment) -> Result<(), Error> {
        if self.has_earlier() && self.standing()?.contains(&at) {
            return Ok(());
        }
        self.put(at)
    }

    /// Takes a program away from a device; succeeds when it is not there.
    ///
    /// # Errors
    ///
    /// The pin, or the filter, could not be removed.
    pub fn detach(&mut self, at: Attachment) -> Result<(), Error> {
        if self.has_earlier() {
            self.links.remove(at)?;
            return clsact::remove(&Netlink::open()?, at);
        }
        match &self.clsact {
            None => self.links.remove(at),
            Some(clsact) => clsact.remove(at),
        }
    }

    /// Takes away the socket programs of an earlier agent, when somebody else balances in their place.
    ///
    /// # Errors
    ///
    /// A pin could not be removed.
    pub fn retire_socket_programs(&self) -> Result<(), Error> {
        SOCKET_PROGRAMS.iter().try_for_each(|(name, _)| self.links.remove_socket(name))
    }

    /// Puts the programs at the cgroup that hold tenants apart; doing it again replaces them. They see each packet of this
    /// host's sockets, so they stand only where there are tenants.
    ///
    /// # Errors
    ///
    /// The kernel refused, or sockets are not ours to give a source to.
    pub fn hold_apart(&self) -> Result<(), Error> {
        if self.balancing != Balancing::Socket {
            return Err(Error::NoTenants);
        }
        TENANT_PROGRAMS.into_iter().try_for_each(|program| {
            self.links.put_socket(program, self.objects.tenant(program.0), &self.cgroup_root)
        })
    }

    /// Takes them away; succeeds when they are not there.
    ///
    /// # Errors
    ///
    /// A pin could not be removed.
    pub fn let_together(&self) -> Result<(), Error> {
        TENANT_PROGRAMS.into_iter().try_for_each(|(name, _)| self.links.remove_socket(name))
    }

    /// Whether all of them stand.
    #[must_use]
    pub fn holds_apart(&self) -> bool {
        TENANT_PROGRAMS.iter().all(|(name, _)| self.links.has(name))
    }

    /// Where packet programs stand in force: before all others, as [`Self::attach`] puts them; those of an earlier
    /// version, too, until [`Self::succeed`]. Pins of devices that are gone are swept, not returned.
    ///
    /// # Errors
    ///
    /// The pins, or the kernel's filters, could not be read.
    pub fn attachments(&self) -> Result<BTreeSet<Attachment>, Error> {
        match &self.clsact {
            _ if self.has_earlier() => self.standing(),
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

    /// A balancer of somebody else's that came to our cgroup since we were opened.
    ///
    /// # Errors
    ///
    /// The kernel could not be asked.
    pub fn rival(&mut self) -> Result<Option<Rival>, Error> {
        match self.balancing {
            Balancing::Socket => self.lookout.look(),
            Balancing::Nftables => Ok(None),
        }
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

/// Takes our filters of `clsact` away, from every device.
///
/// # Errors
///
/// The kernel refused.
pub fn remove_filters(netlink: &Netlink) -> Result<(), Error> {
    clsact::standing(netlink)?.into_iter().try_for_each(|at| clsact::remove(netlink, at))
}

fn create_dir(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|source| Error::Pins { action: "create", path: dir.to_owned(), source })
}
