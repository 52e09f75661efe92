//! From what a host holds to what it is to hold, in an order in which every moment is safe.
//!
//! `plan(image, observed)` is pure and idempotent: a host that holds the image gets no step. The order is [`Stage`]; it
//! keeps four promises in every moment between two steps:
//!
//! - a prefix that is in the encrypted scope before and after never leaves it: its guard is there before anything can
//!   be sent to it, and goes last;
//! - an address belongs to its owner of before or of after, never to a third, although prefixes nest: what is added
//!   comes longest first, what is removed shortest first;
//! - what a tenant says to the mesh comes from its own address or does not go;
//! - a client of a service finds the old set of backends whole or the new one whole.
//!
//! Before the view is complete only additions are planned ("no sweep before sync", design decision 18).
//!
//! What is new is written before what is old goes, which takes room for both. Where a map had
//! no room for the last plan, what nobody needs any more goes first (docs/decisions/0018), and a service that may not keep
//! what it has refuses for as long as that takes.

mod balance;
mod host;
mod pods;
mod relay;
mod scope;
mod services;
mod tenants;
#[cfg(test)]
mod tests;
mod tunnel;

pub use tunnel::FWMARK;

use crate::{image::Image, observe::Observed, step::Step};
use ipnet::IpNet;

/// How much of the mesh an image was composed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// Some source has not finished its first list: what is missing may only be late.
    Partial,
    /// What is missing is gone.
    Complete,
}

/// The steps that make a host hold the image.
#[must_use]
pub fn plan(desired: &Image, observed: &Observed, completeness: Completeness) -> Vec<Step> {
    let mut steps = Steps { steps: Vec::new(), completeness };
    let desired = &*balance::with_routes(desired, observed.balanced);
    host::plan(desired, observed, &mut steps);
    tenants::plan(desired, observed, &mut steps);
    scope::plan(desired, observed, &mut steps);
    tunnel::plan(&desired.tunnel, observed, &mut steps);
    relay::plan(&desired.relay, observed, &mut steps);
    pods::plan(desired, observed, &mut steps);
    services::plan(desired, observed, &mut steps);
    balance::plan(observed, &mut steps);
    steps.in_order()
}

/// When a step is taken. What closes comes before what opens; removal goes the same way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Only after a plan that a map had no room for: out of the maps, what nobody needs any more.
    MakeRoom,
    /// Programs at uplinks and at both directions of `mesh0`: a row means nothing without them.
    Guard,
    /// Who is who on this host, before anybody has an address or a way: until then a tenant is refused, never taken for
    /// the host.
    Tenants,
    /// New prefixes of the scope, closed, so that what follows cannot leak.
    Close,
    /// The ends of our routing table.
    Fence,
    /// Settings and addresses of `mesh0`, the rules, the masquerading.
    Prepare,
    /// Peers, and what they own; who may talk through the relay.
    Tunnel,
    /// Routes over `mesh0`, then the fences under those that were covered all the time.
    Route,
    FenceUnderRoute,
    /// The direct path.
    Open,
    /// A pod's sources are checked before it can be reached.
    PodProgram,
    Local,
    Set,
    Service,
    Vip,

    // From here on, back.
    UnService,
    UnVip,
    /// When the rows are as they are to be: a table that is written from them is written once.
    Balance,
    /// After the frontends were pointed elsewhere: what connects anew is balanced anew.
    CloseSockets,
    UnSet,
    UnLocal,
    UnPodProgram,
    Shut,
    UnFenceUnderRoute,
    UnRoute,
    UnTunnel,
    UnPrepare,
    UnTenants,
    UnFence,
    /// Out of the encrypted scope: only now may it leave in plain.
    Forget,
    UnGuard,
}

/// Collects steps by stage.
struct Steps {
    steps: Vec<(Stage, Step)>,
    completeness: Completeness,
}

impl Steps {
    /// Something that adds, or puts a value in the place of an older one.
    fn add(&mut self, stage: Stage, step: Step) {
        self.steps.push((stage, step));
    }

    /// Something that takes away: not before the view is complete.
    fn sweep(&mut self, stage: Stage, step: Step) {
        match self.completeness {
            Completeness::Partial => {}
            Completeness::Complete => self.steps.push((stage, step)),
        }
    }

    fn complete(&self) -> bool {
        self.completeness == Completeness::Complete
    }

    /// Stable: within a stage, the order in which they were said.
    fn in_order(mut self) -> Vec<Step> {
        self.steps.sort_by_key(|(stage, _)| *stage);
        self.steps.into_iter().map(|(_, step)| step).collect()
    }
}

/// Whether a shorter prefix holds all of `prefix`. At most 128 look-ups, whatever the size of the table.
fn covered(prefix: &IpNet, contains: impl Fn(&IpNet) -> bool) -> bool {
    std::iter::successors(prefix.supernet(), IpNet::supernet).any(|shorter| contains(&shorter))
}
