//! Executes a plan. What fails is reported and tried again at the next reconcile; what does not depend on it goes on.

#[cfg(any(test, feature = "model"))]
pub mod model;
#[cfg(test)]
mod tests;

use crate::{
    backend::bpf::{self, LocalRow, Program, RouteRow},
    observe::Masquerade,
    step::{Step, TunnelStep},
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};
use tracing::{debug, warn};

/// A host, or the model of one.
pub trait Host {
    /// Takes one step. A repeated step is no error, and neither is the removal of what is gone.
    ///
    /// # Errors
    /// Says what refused, and where it can, why.
    fn take(&mut self, step: &Step) -> anyhow::Result<()>;

    /// Takes several that a backend can do in one request; after an error they are taken one by one.
    ///
    /// # Errors
    /// When any of them was refused. Some may have been taken.
    fn take_together(&mut self, steps: &[Step]) -> anyhow::Result<()> {
        steps.iter().try_for_each(|step| self.take(step))
    }
}

/// What became of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Steps that were taken.
    pub taken: usize,
    /// One sentence for each step that was refused; what was left alone because of it is counted in the last.
    pub problems: Vec<String>,
    /// A map had no room for something: [`crate::observe::Observed::short_of_room`] of the next plan.
    pub short_of_room: bool,
}

/// Problems that a report spells out: a full map refuses thousands of rows for one reason, and a person reads ten. The first of
/// each map comes beyond them.
const PROBLEMS_MAX: usize = 16;

/// Steps of one request. `mesh-tunnel` writes its whole state for each: 20,000 single ones took minutes.
const TOGETHER_MAX: usize = 1_024;

/// Executes the steps in order.
pub fn apply(steps: &[Step], host: &mut impl Host) -> Outcome {
    let mut run = Run {
        host,
        outcome: Outcome::default(),
        undone: Vec::new(),
        skipped: 0,
        unsaid: 0,
        full: BTreeSet::new(),
    };
    for group in steps.chunk_by(|a, b| matches!((a, b), (Step::Tunnel(_), Step::Tunnel(_)))) {
        for steps in group.chunks(TOGETHER_MAX) {
            if steps.len() == 1 || !run.take_together(steps) {
                steps.iter().for_each(|step| run.take(step));
            }
        }
    }
    run.finish()
}

struct Run<'a, H> {
    host: &'a mut H,
    outcome: Outcome,
    undone: Vec<&'a Step>,
    skipped: usize,
    unsaid: usize,
    /// Maps that a problem names as full.
    full: BTreeSet<&'static str>,
}

impl<'a, H: Host> Run<'a, H> {
    fn take_together(&mut self, steps: &'a [Step]) -> bool {
        let waits = steps.iter().any(|step| self.undone.iter().any(|before| waits_for(step, before)));
        if waits || self.host.take_together(steps).is_err() {
            return false;
        }
        steps.iter().for_each(|step| debug!(%step, "Took a step"));
        self.outcome.taken += steps.len();
        true
    }

    fn take(&mut self, step: &'a Step) {
        if let Some(reason) = self.undone.iter().find(|before| waits_for(step, before)) {
            debug!(%step, %reason, "Left alone until the earlier step works");
            self.undone.push(step);
            self.skipped += 1;
            return;
        }
        match self.host.take(step) {
            Ok(()) => {
                debug!(%step, "Took a step");
                self.outcome.taken += 1;
            }
            Err(error) => {
                let of_map = error.downcast_ref::<bpf::Error>();
                self.outcome.short_of_room |= of_map.is_some_and(bpf::Error::is_short_of_room);
                warn!(%step, error = format!("{error:#}"), "Cannot take a step");
                let full = of_map.and_then(bpf::Error::full_map);
                let is_first = full.is_some_and(|map| self.full.insert(map));
                if is_first || self.outcome.problems.len() < PROBLEMS_MAX {
                    self.outcome.problems.push(format!("cannot {step}: {error:#}"));
                } else {
                    self.unsaid += 1;
                }
                self.undone.push(step);
            }
        }
    }

    fn finish(mut self) -> Outcome {
        if self.unsaid > 0 {
            self.outcome.problems.push(format!("{} more were refused", self.unsaid));
        }
        if self.skipped > 0 {
            self.outcome.problems.push(format!("{} steps wait for those", self.skipped));
        }
        self.outcome
    }
}

/// Whether `step` would be unsafe, or impossible, when `undone` was not done.
fn waits_for(step: &Step, undone: &Step) -> bool {
    match step {
        // What leaves the scope may leave in plain: only after everything before it is as it should be.
        Step::RemoveScope { .. } | Step::RemoveUnreachable { .. } => true,
        Step::PutScope { prefix, row: RouteRow::Routed { .. } } | Step::PutRoute { prefix, .. } => {
            needs_device(step, undone) || encloses(undone, *prefix) || tells_apart(undone)
        }
        Step::PutSet { backends, .. } => backends.iter().any(|backend| is_not_closed(undone, backend.ip())),
        Step::PutService { to, .. } => matches!(undone, Step::PutSet { set, .. } if *set == to.set),
        // A frontend that was not moved may still refer to it.
        // While a frontend still gives that backend, whoever connects anew gets it again.
        Step::CloseUdp { .. } => {
            matches!(undone, Step::PutService { .. } | Step::RemoveService { .. } | Step::Balance)
        }
        Step::RemoveSet { .. } => matches!(undone, Step::PutService { .. } | Step::RemoveService { .. }),
        Step::RemoveVip { address } => {
            matches!(undone, Step::RemoveService { frontend } if frontend.address == *address)
        }
        // A pod whose sources are not checked is not part of the mesh.
        Step::PutLocal { local: LocalRow::Pod { ifindex, .. }, .. } => {
            matches!(undone, Step::Attach(at) if at.ifindex == *ifindex)
        }
        // A cgroup counts as seen when it is known what it is.
        Step::PutTenancy(_) => matches!(undone, Step::PutCgroup { .. } | Step::PutUser { .. }),
        // What comes for a tenant would meet any listener of the host.
        Step::PutLocal { local: LocalRow::Tenant, .. } => {
            matches!(undone, Step::HoldApart | Step::PutTenancy(_))
        }
        // Nothing comes out of a tunnel whose end nobody guards.
        Step::Tunnel(TunnelStep::AddPeer { .. }) => {
            matches!(undone, Step::Attach(at) if at.program == Program::FromTunnel)
                || matches!(undone, Step::Tunnel(TunnelStep::SetDevice { .. }))
        }
        Step::Tunnel(TunnelStep::AddAllowed { peer, prefix }) => match undone {
            // Else it would own what its longer neighbour did not get.
            Step::Tunnel(TunnelStep::AddPeer { peer: missing, allowed, .. }) => {
                missing == peer || allowed.iter().any(|longer| prefix.contains(longer))
            }
            Step::Tunnel(TunnelStep::AddAllowed { prefix: longer, .. }) => prefix.contains(longer),
            _ => false,
        },
        Step::Tunnel(TunnelStep::SetEndpoint { peer, .. } | TunnelStep::SetKeepalive { peer, .. }) => {
            matches!(undone, Step::Tunnel(TunnelStep::AddPeer { peer: missing, .. }) if missing == peer)
        }
        // Its longer neighbours would fall to a third owner.
        Step::Tunnel(TunnelStep::RemoveAllowed { .. } | TunnelStep::RemovePeer { .. }) => match undone {
            Step::Tunnel(TunnelStep::AddPeer { allowed, .. }) => !allowed.is_empty(),
            Step::Tunnel(TunnelStep::AddAllowed { .. } | TunnelStep::RemoveAllowed { .. }) => true,
            _ => false,
        },
        Step::AddAddress { .. } => needs_device(step, undone),
        // It keeps what it has, so nothing that was refused before concerns it.
        Step::Tunnel(TunnelStep::RenewPeer { .. }) => false,
        Step::SetMasquerade(Masquerade::To { .. } | Masquerade::Absent | Masquerade::Foreign)
        | Step::Attach(_)
        | Step::Detach(_)
        | Step::HoldApart
        | Step::LetTogether
        | Step::PutCgroup { .. }
        | Step::RemoveCgroup { .. }
        | Step::PutUser { .. }
        | Step::RemoveUser { .. }
        | Step::PutScope { row: RouteRow::Closed, .. }
        | Step::AddUnreachable { .. }
        | Step::BringUp { .. }
        | Step::SetSysctl(_)
        | Step::PutConfig(_)
        | Step::RemoveAddress { .. }
        | Step::AddRule(_)
        | Step::RemoveRule(_)
        | Step::Tunnel(TunnelStep::SetDevice { .. })
        | Step::Relay { .. }
        | Step::RemoveRoute { .. }
        | Step::PutLocal { local: LocalRow::Node, .. }
        | Step::RemoveLocal { .. }
        | Step::PutAffinity { .. }
        | Step::RemoveAffinity { .. }
        | Step::RemoveService { .. }
        | Step::Balance
        | Step::PutVip { .. } => false,
    }
}

fn needs_device(step: &Step, undone: &Step) -> bool {
    match (step, undone) {
        (Step::AddAddress { .. } | Step::PutRoute { .. }, Step::BringUp { .. }) => true,
        // The kernel refuses a preferred source that is nobody's.
        (Step::PutRoute { route, .. }, Step::AddAddress { address, .. }) => route.source == Some(*address),
        _ => false,
    }
}

/// Else a tenant would be taken for the host.
fn tells_apart(undone: &Step) -> bool {
    matches!(undone, Step::PutCgroup { .. } | Step::PutUser { .. } | Step::PutTenancy(_))
}

/// The prefix could not be closed or fenced first.
fn encloses(undone: &Step, prefix: IpNet) -> bool {
    match undone {
        Step::PutScope { prefix: open, row: RouteRow::Closed } | Step::AddUnreachable { prefix: open } => {
            *open == prefix
        }
        _ => false,
    }
}

fn is_not_closed(undone: &Step, address: IpAddr) -> bool {
    matches!(undone, Step::PutScope { prefix, .. } if prefix.contains(&address))
}
