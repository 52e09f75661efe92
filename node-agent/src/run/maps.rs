//! From the view to the maps, and to the disk.

use super::{Agent, unix_ms, utc};
use crate::{
    beside::Beside,
    compose::{self, HostFacts},
    host::Host,
    kept::{Content, Outcome, Schedule, Snapshot},
};
use api::{name::ClusterName, record::Phase};
use datapath::plan::Completeness;
use replica::{kept::Owner, view::View};
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

/// What the maps are programmed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// Nothing yet: what an earlier agent pinned is the best there is.
    Pins,
    /// Nothing was pinned, and nothing was listed: the last view that this node had.
    Disk { at_ms: u64, programmed: bool },
    /// What the store says.
    Live,
}

/// How the view gets to the disk.
pub(super) struct Keeping {
    owner: Owner,
    schedule: Schedule,
    snapshots: mpsc::Sender<Snapshot>,
    outcome: watch::Receiver<Outcome>,
}

impl Keeping {
    pub(super) fn new(
        owner: Owner,
        snapshots: mpsc::Sender<Snapshot>,
        outcome: watch::Receiver<Outcome>,
    ) -> Self {
        Self { owner, schedule: Schedule::default(), snapshots, outcome }
    }
}

impl<B: Beside> Agent<B> {
    /// Peers whose first list our apiserver has not completed: what they announce may only be late.
    fn incomplete_peers(&self) -> Vec<&ClusterName> {
        let active = self.view.tables().local.peers.iter().filter(|(_, peer)| peer.phase == Phase::Active);
        let lacks = |name: &&ClusterName| {
            self.view
                .cluster(name)
                .is_none_or(|tables| !tables.synced.contains_key(&api::key::Kind::Backends))
        };
        active.map(|(name, _)| name).filter(lacks).collect()
    }

    pub(super) async fn program(&mut self, host: &mut Host) {
        let facts = host.facts(&self.view, &self.node).await;
        self.beside.see(&self.view, &self.paths.silent);
        if self.view.is_complete() {
            if let Basis::Disk { at_ms, .. } = self.basis {
                info!(of = %utc(at_ms), "The store was listed; its view takes the place of the one from the disk");
            }
            self.basis = Basis::Live;
        }
        let completeness = match self.basis {
            Basis::Pins => {
                self.keep_apart(&facts, host).await;
                return self.judge_budget();
            }
            Basis::Disk { .. } => Completeness::Partial,
            Basis::Live => Completeness::Complete,
        };
        self.composed = compose::compose(&self.view, &self.node, &facts, &self.paths);
        self.composed.problems.extend(host.problems());
        self.composed.problems.extend(self.beside.problems());
        let revision = self.view.revision();
        let started = Instant::now();
        self.measured = host.program(self.composed.image.clone(), completeness).await;
        match &self.measured.relay {
            // One that does not answer now is not gone.
            Some(relay) => self.key.relay_key = Some(relay.key),
            None if self.offers_relay() => self.composed.problems.push(
                "the Node object offers a relay, and this host runs none: start mesh-tunnel with --relay"
                    .to_owned(),
            ),
            None => {}
        }
        self.metrics.programmed(started.elapsed(), &self.composed, &self.measured);
        if let Some(changed_at) = self.changed_at.take_if(|_| self.measured.problems.is_empty()) {
            self.metrics.propagated(changed_at.elapsed());
        }
        let now = Instant::now();
        self.probes.retarget(now, self.composed.probe_targets());
        self.paths.demand.see(&self.measured.tunnels);
        self.paths.mtus.retarget(now, self.composed.path_targets(&self.paths.demand));
        self.paths.mtus.count(now, self.composed.sent_bytes(&self.measured.tunnels));
        match self.basis {
            Basis::Pins => {}
            Basis::Disk { at_ms, programmed } => self.programmed_from_disk(at_ms, programmed),
            Basis::Live => self.programmed_live(revision, host).await,
        }
    }

    fn offers_relay(&self) -> bool {
        let own = self.view.cluster(self.view.own());
        own.and_then(|own| own.nodes.get(&self.node)).is_some_and(|me| !me.relay.is_empty())
    }

    /// What is pinned knows the units that ran when it was written; by the last view from the disk, we know which they are.
    async fn keep_apart(&mut self, facts: &HostFacts, host: &Host) {
        let image = compose::compose_tenancy(&self.view, &self.node, facts);
        if !image.tenancy.tenants.is_empty() {
            let measured = host.program(image, Completeness::Partial).await;
            measured.problems.iter().for_each(|problem| warn!(problem, "Cannot tell programs apart"));
        }
    }

    /// Until the store was listed, what is pinned is the best there is.
    fn judge_budget(&mut self) {
        if Instant::now() >= self.budget && !self.late {
            self.late = true;
            self.programmed
                .met_but("the store has not been listed; the maps hold what an earlier agent pinned");
            warn!(
                "The ready budget is spent and our apiserver has not been listed: ready with what an earlier agent pinned"
            );
        }
    }

    fn programmed_from_disk(&mut self, at_ms: u64, before: bool) {
        let of = utc(at_ms);
        let stale = format!(
            "the maps hold the view of {of} from this node's disk: the store has not been listed since the start"
        );
        if self.measured.problems.is_empty() && !before {
            self.basis = Basis::Disk { at_ms, programmed: true };
            self.programmed.met_but(stale.clone());
            let services = self.composed.image.services.len();
            warn!(%of, services, "The maps hold the last view from the disk, until the store is listed");
        }
        self.progress.problems = vec![stale];
    }

    async fn programmed_live(&mut self, revision: u64, host: &Host) {
        if self.measured.problems.is_empty() {
            self.progress.revision = revision;
        }
        let late = Instant::now() >= self.budget;
        let waiting: Vec<String> = self.incomplete_peers().into_iter().map(ToString::to_string).collect();
        self.progress.problems.clear();
        if !waiting.is_empty() {
            self.progress
                .problems
                .push(format!("the records of {} are not complete yet", waiting.join(", ")));
        }
        if !self.progress.programmed && self.measured.problems.is_empty() && (waiting.is_empty() || late) {
            match host.succeed().await {
                Ok(false) => {}
                Ok(true) => info!("The programs of an earlier version were replaced, the maps being full"),
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    return self
                        .progress
                        .problems
                        .push(format!("cannot succeed an earlier version: {error:#}"));
                }
            }
            self.progress.programmed = true;
            self.programmed.met();
            if !waiting.is_empty() {
                warn!(peers = ?waiting, "The ready budget is spent: ready without all records of these peers");
            }
            let took = self.started.elapsed();
            self.metrics.started(took);
            info!(
                revision,
                services = self.composed.image.services.len(),
                ?took,
                "The first complete view is in the maps"
            );
        }
    }

    /// Brings the view to the disk when it is time, and only what is in the maps and confirmed by the store.
    pub(super) fn keep(&mut self, now: Instant) {
        let outcome = self.keeping.outcome.borrow().clone();
        self.metrics.kept(&outcome);
        if self.progress.programmed && self.connected {
            // The disk is slower than the schedule: the next look tries again.
            if let Ok(permit) = self.keeping.snapshots.try_reserve()
                && self.keeping.schedule.poll(now, Content::of(&self.view), outcome.failures)
            {
                permit.send(snapshot(&self.view, &self.keeping.owner));
            }
        }
        self.progress.disk = outcome.problem;
    }

    /// At an ordered end: what changed since the last time.
    pub(super) fn keep_last(&mut self) {
        let failures = self.keeping.outcome.borrow().failures;
        let behind = self.keeping.schedule.is_behind(Content::of(&self.view), failures);
        if behind && self.progress.programmed && self.connected {
            // Full: the newest but one is being written, and that is as good as a crash would leave it.
            let _ = self.keeping.snapshots.try_send(snapshot(&self.view, &self.keeping.owner));
        }
    }
}

fn snapshot(view: &View, owner: &Owner) -> Snapshot {
    let at_ms = unix_ms();
    Snapshot { bytes: replica::kept::encode(view, owner, at_ms), at_ms }
}
