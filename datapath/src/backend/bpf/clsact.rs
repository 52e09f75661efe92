//! Packet programs at devices without TCX: filters of `clsact`, each of which is a stub.
//!
//! The kernel itself says what stands where, because anybody may remove a filter or put another one before
//! it, which nobody can do to a link. Ours have a priority, handles and names of their own; what differs in
//! one of them is somebody else's and stays. A `clsact` that was made for them stays, too: it does not say
//! who made it, and without filters it does nothing.

use super::{
    Error,
    attachment::{Attachment, Program, function},
    objects::Objects,
    stubs::Stubs,
};
use crate::backend::netlink::{self, Direction, Filter, FilterPlace, Netlink};
use std::{collections::BTreeSet, io, path::Path};

/// The first of all: nobody's verdict can go round ours.
const PRIORITY: u16 = 1;
/// Of our first program's filters; each has two, so that a new one can stand before an old one goes ("m").
const HANDLE_BASE: u32 = 0x6d00;
const NAME_PREFIX: &str = "mesh/";
const KIND: &str = "bpf";

/// The stubs, and who puts them.
pub(super) struct Clsact {
    netlink: Netlink,
    stubs: Stubs,
}

impl Clsact {
    /// Lets every stub, wherever it stands, jump to these programs.
    pub(super) fn open(netlink: Netlink, dir: &Path, objects: &Objects) -> Result<Self, Error> {
        Ok(Self { netlink, stubs: Stubs::open(dir, objects)? })
    }

    /// Puts a program's stub at a device, before what others put there. Where another run's stands, or
    /// somebody came before it, a second one comes before all, and then the old one goes: no packet passes
    /// neither.
    pub(super) fn put(&self, at: Attachment) -> Result<(), Error> {
        self.try_put(at).map_err(|source| Error::at_device("attach", at, source))
    }

    fn try_put(&self, at: Attachment) -> io::Result<()> {
        let stub = self.stubs.of(function(at)?);
        let place = place(at);
        match self.netlink.filtered_devices()?.get(&at.ifindex) {
            None => self.netlink.add_clsact(at.ifindex)?,
            Some(qdisc) if qdisc.takes(place.direction) => {}
            Some(_) => {
                return Err(io::Error::other(
                    "it has an `ingress` qdisc, which takes no filters for egress: its owner has to use `clsact`",
                ));
            }
        }
        let found = self.netlink.filters(place)?;
        if let Some(other) = found.iter().find(|filter| filter.kind != KIND || !filter.every_protocol) {
            return Err(io::Error::other(format!(
                "a `{}` filter holds priority {PRIORITY}, which ours needs to be asked first: its owner has to use \
                 another",
                other.kind
            )));
        }
        let ours: Vec<&Filter> = found.iter().filter(|filter| owner(filter) == Some(at.program)).collect();
        // More than one: a run died between the two halves of an exchange, and what is behind the first is
        // not needed.
        let (old, unneeded) = (ours.first(), ours.iter().skip(1));
        for filter in unneeded {
            self.netlink.remove_filter(place, filter.handle)?;
        }
        if in_force(&found).any(|filter| old == Some(&filter) && filter.program_id == stub.id) {
            return Ok(());
        }
        let free = handles(at.program).into_iter().find(|handle| old.is_none_or(|old| old.handle != *handle));
        let free = free.expect("one filter does not have two handles");
        self.netlink.add_filter(place, free, &name(at.program), stub.fd())?;
        if let Some(old) = old {
            self.netlink.remove_filter(place, old.handle)?;
        }
        Ok(())
    }

    /// Takes a program away from a device; succeeds when it is not there.
    pub(super) fn remove(&self, at: Attachment) -> Result<(), Error> {
        remove(&self.netlink, at)
    }

    /// Where our programs stand in force: these stubs, and nobody before them.
    pub(super) fn attachments(&self) -> Result<BTreeSet<Attachment>, Error> {
        let mut attachments = BTreeSet::new();
        each_place(&self.netlink, |ifindex, found| {
            for filter in in_force(found) {
                let at = owner(filter).map(|program| Attachment { program, ifindex });
                // A device that cannot be asked any more is gone.
                let is_current = |at: &Attachment| {
                    function(*at).is_ok_and(|name| self.stubs.of(name).id == filter.program_id)
                };
                attachments.extend(at.filter(is_current));
            }
        })?;
        Ok(attachments)
    }

    #[cfg(test)]
    pub(super) fn stub_program(&self, function: &str) -> &aya::programs::SchedClassifier {
        self.stubs.of(function).program()
    }

    /// Where filters of ours stand, of this run or of an earlier one.
    pub(super) fn standing(&self) -> Result<BTreeSet<Attachment>, Error> {
        standing(&self.netlink)
    }
}

/// As [`Clsact::standing`], for who has no stubs.
pub(super) fn standing(netlink: &Netlink) -> Result<BTreeSet<Attachment>, Error> {
    let mut attachments = BTreeSet::new();
    each_place(netlink, |ifindex, found| {
        attachments.extend(found.iter().filter_map(owner).map(|program| Attachment { program, ifindex }));
    })?;
    Ok(attachments)
}

/// As [`Clsact::remove`], for who has no stubs.
pub(super) fn remove(netlink: &Netlink, at: Attachment) -> Result<(), Error> {
    let place = place(at);
    let removed = netlink.filters(place).and_then(|found| {
        let mut ours = found.iter().filter(|filter| owner(filter) == Some(at.program));
        ours.try_for_each(|filter| netlink.remove_filter(place, filter.handle))
    });
    removed.map_err(|error| Error::at_device("detach", at, error.into()))
}

/// What stands at our priority of each device that takes filters.
fn each_place(netlink: &Netlink, mut look: impl FnMut(u32, &[Filter])) -> Result<(), netlink::Error> {
    for (ifindex, qdisc) in netlink.filtered_devices()? {
        for direction in Direction::ALL.into_iter().filter(|direction| qdisc.takes(*direction)) {
            look(ifindex, &netlink.filters(FilterPlace { ifindex, direction, priority: PRIORITY })?);
        }
    }
    Ok(())
}

/// Those of ours before which nobody else is asked.
fn in_force(found: &[Filter]) -> impl Iterator<Item = &Filter> {
    found.iter().take_while(|filter| owner(filter).is_some())
}

/// The program whose filter this is; None: it is not ours.
fn owner(filter: &Filter) -> Option<Program> {
    let program = filter.name.strip_prefix(NAME_PREFIX)?;
    let program = Program::ALL.into_iter().find(|known| known.name() == program)?;
    (filter.kind == KIND && handles(program).contains(&filter.handle)).then_some(program)
}

fn handles(program: Program) -> [u32; 2] {
    let first = HANDLE_BASE + 2 * program as u32;
    [first, first + 1]
}

fn name(program: Program) -> String {
    format!("{NAME_PREFIX}{program}")
}

fn place(at: Attachment) -> FilterPlace {
    FilterPlace { ifindex: at.ifindex, direction: at.program.direction(), priority: PRIORITY }
}
