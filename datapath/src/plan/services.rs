//! Services: a changed set of backends is written beside the old one, the frontend is pointed at it in one map update,
//! then the old set goes. Equal sets are one set, so that a service's families and ports share where they can.
//!
//! After a plan that a map had no room for there may be no room for both: then a frontend that has backends which it may not
//! have any more refuses until its new set is there. One that only lacks some keeps what it has.

use super::{Stage, Steps};
use crate::{
    backend::bpf::SetRef,
    image::{Frontend, Image},
    observe::Observed,
    step::Step,
};
use api::record::Protocol;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

pub(super) fn plan(desired: &Image, observed: &Observed, steps: &mut Steps) {
    let mut sets = Sets::of(observed);
    let mut live: BTreeSet<u32> = BTreeSet::new();
    // Those that somebody may find backends in while this plan is being carried out.
    let mut in_use: BTreeSet<u32> = BTreeSet::new();

    for (frontend, backends) in &desired.services {
        let there = observed.rows.services.get(frontend);
        if let Some(there) = there {
            let refuses = observed.short_of_room
                && steps.complete()
                && !sets.are_there(backends)
                && sets.holds_more(*there, backends);
            if refuses {
                steps.add(Stage::MakeRoom, Step::PutService { frontend: *frontend, to: EMPTY });
            } else {
                in_use.insert(there.set);
            }
        }
        let to = match there {
            // A view that is not complete may lack backends that the old set has: it may grow, not shrink.
            Some(there) if !steps.complete() && sets.holds_more(*there, backends) => *there,
            Some(_) | None => sets.find_or_fill(backends, there, steps),
        };
        live.insert(to.set);
        if there != Some(&to) {
            steps.add(Stage::Service, Step::PutService { frontend: *frontend, to });
        }
    }
    for (frontend, to) in &observed.rows.services {
        if !desired.services.contains_key(frontend) {
            steps.sweep(Stage::UnService, Step::RemoveService { frontend: *frontend });
            in_use.insert(to.set);
            if !steps.complete() {
                live.insert(to.set);
            }
        }
    }
    // What nothing refers to is no memory of anybody: it goes also while the view is incomplete.
    for (set, slots) in sets.observed.iter().filter(|(set, _)| !live.contains(set)) {
        let is_free = observed.short_of_room && !in_use.contains(set);
        let stage = if is_free { Stage::MakeRoom } else { Stage::UnSet };
        steps.add(stage, Step::RemoveSet { set: *set, slots: slots.keys().copied().collect() });
    }
    affinity(desired, observed, steps);
    sockets(desired, observed, steps);
    vips(desired, observed, steps);
}

/// Backends of UDP frontends that none has any more.
fn sockets(desired: &Image, observed: &Observed, steps: &mut Steps) {
    let udp = |frontend: &Frontend| frontend.protocol == Protocol::Udp;
    let sets: BTreeSet<u32> =
        observed.rows.services.iter().filter(|(frontend, _)| udp(frontend)).map(|(_, to)| to.set).collect();
    let were = observed.rows.backends.iter().filter(|(key, _)| sets.contains(&key.set)).map(|(_, at)| *at);
    let are: BTreeSet<SocketAddr> = desired
        .services
        .iter()
        .filter(|(frontend, _)| udp(frontend))
        .flat_map(|(_, all)| all)
        .copied()
        .collect();
    let backends: BTreeSet<SocketAddr> = were.filter(|backend| !are.contains(backend)).collect();
    if !backends.is_empty() {
        let close = Step::CloseUdp { backends, namespaces: desired.namespaces.clone() };
        if observed.short_of_room {
            // Of those that refuse from now on, nobody knows later which they had.
            steps.sweep(Stage::MakeRoom, close.clone());
        }
        steps.sweep(Stage::CloseSockets, close);
    }
}

/// Before its frontend, so that no client of it is forgotten.
fn affinity(desired: &Image, observed: &Observed, steps: &mut Steps) {
    for (frontend, seconds) in &desired.session_affinity {
        if observed.rows.affinity.get(frontend) != Some(seconds) {
            steps.add(Stage::Set, Step::PutAffinity { frontend: *frontend, seconds: *seconds });
        }
    }
    for frontend in observed.rows.affinity.keys() {
        if !desired.session_affinity.contains_key(frontend) {
            steps.sweep(Stage::UnService, Step::RemoveAffinity { frontend: *frontend });
        }
    }
}

/// Marked after its frontends: in between it behaves as before, not as a service without ports.
fn vips(desired: &Image, observed: &Observed, steps: &mut Steps) {
    let wanted: BTreeSet<IpAddr> =
        desired.services.keys().map(|frontend: &Frontend| frontend.address).collect();
    for address in wanted.difference(&observed.rows.service_addresses) {
        steps.add(Stage::Vip, Step::PutVip { address: *address });
    }
    for address in observed.rows.service_addresses.difference(&wanted) {
        // After its frontends: an address on its way out refuses, it does not fall through.
        steps.sweep(Stage::UnVip, Step::RemoveVip { address: *address });
    }
}

/// What a frontend without a backend refers to: connecting fails at once. Set 0 has no rows.
const EMPTY: SetRef = SetRef { set: 0, count: 0 };

/// The sets that are there, and those that this plan adds.
struct Sets<'a> {
    observed: BTreeMap<u32, BTreeMap<u32, SocketAddr>>,
    by_content: BTreeMap<Vec<SocketAddr>, u32>,
    next: u32,
    services: &'a BTreeMap<Frontend, SetRef>,
}

impl<'a> Sets<'a> {
    fn of(observed: &'a Observed) -> Self {
        let mut sets: BTreeMap<u32, BTreeMap<u32, SocketAddr>> = BTreeMap::new();
        for (key, backend) in &observed.rows.backends {
            sets.entry(key.set).or_default().insert(key.slot, *backend);
        }
        let by_content = sets
            .iter()
            .filter(|(set, slots)| **set != EMPTY.set && is_whole(slots))
            .map(|(set, slots)| (slots.values().copied().collect(), *set))
            .collect();
        // Beyond every number that is in use, also by a frontend whose rows are gone: a number that was just emptied
        // may still be in the hands of a program that runs on another processor.
        let highest = sets.keys().copied().chain(observed.rows.services.values().map(|to| to.set)).max();
        Self { observed: sets, by_content, next: highest.unwrap_or(0), services: &observed.rows.services }
    }

    /// The set with this content; its present one when that has it.
    fn find_or_fill(
        &mut self,
        wanted: &BTreeSet<SocketAddr>,
        there: Option<&SetRef>,
        steps: &mut Steps,
    ) -> SetRef {
        if wanted.is_empty() {
            return EMPTY;
        }
        let backends: Vec<SocketAddr> = wanted.iter().copied().collect();
        let count = backends.len() as u32;
        let same = |slots: &BTreeMap<u32, SocketAddr>| is_whole(slots) && slots.values().eq(&backends);
        if let Some(there) = there.filter(|there| there.count == count)
            && self.observed.get(&there.set).is_some_and(same)
        {
            return *there;
        }
        let set = match self.by_content.get(&backends) {
            Some(set) => *set,
            None => {
                let set = self.fresh();
                self.by_content.insert(backends.clone(), set);
                steps.add(Stage::Set, Step::PutSet { set, backends });
                set
            }
        };
        SetRef { set, count }
    }

    /// The next number; after 4 billion exchanges without a restart of the numbering, the first that is free.
    fn fresh(&mut self) -> u32 {
        let taken = |set: u32, sets: &Self| {
            set == EMPTY.set
                || sets.observed.contains_key(&set)
                || sets.by_content.values().any(|used| *used == set)
                || sets.services.values().any(|to| to.set == set)
        };
        self.next = match self.next.checked_add(1) {
            Some(next) => next,
            None => {
                (1..=u32::MAX).find(|set| !taken(*set, self)).expect("maps hold far fewer sets than numbers")
            }
        };
        self.next
    }

    /// Whether these backends are a set already, so that they need no room. One that this plan fills for another frontend is
    /// not there yet.
    fn are_there(&self, wanted: &BTreeSet<SocketAddr>) -> bool {
        let backends: Vec<SocketAddr> = wanted.iter().copied().collect();
        let is_there = |set: &u32| self.observed.contains_key(set);
        wanted.is_empty() || self.by_content.get(&backends).is_some_and(is_there)
    }

    fn holds_more(&self, there: SetRef, wanted: &BTreeSet<SocketAddr>) -> bool {
        let held: BTreeSet<SocketAddr> =
            self.observed.get(&there.set).map(|slots| slots.values().copied().collect()).unwrap_or_default();
        !held.is_subset(wanted)
    }
}

/// Slots 0 to n - 1 without a hole: not the rest of a set whose writing was cut short.
fn is_whole(slots: &BTreeMap<u32, SocketAddr>) -> bool {
    slots.keys().copied().eq(0..slots.len() as u32)
}
