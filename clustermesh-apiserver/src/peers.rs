//! Peerings: MeshPeer objects to sessions, sessions to imported records and verdicts.
//!
//! ```text
//!  MeshPeer objects ─▶ check ─▶ roster ─▶ manager ─┬─▶ session (one a peer) ─▶ mesh/v1/<peer>/…, verdict, counters
//!  (in their one home)                             └─▶ trust store, closed prefixes, sweeps
//! ```
//!
//! Invariants
//! - the object is the truth; everything in the store about a peer follows from it and from what the peer says;
//! - a peer that is broken or lies has a task and a prefix of its own, and touches nobody else's;
//! - our own start never waits for a peer;
//! - prefixes of a peering that was active stay closed after its end, until `forget` or another active peering.

pub mod check;
mod closed;
mod home;
mod manager;
pub mod roster;
mod session;
mod status;
mod sweep;
#[cfg(test)]
mod tests;
mod world;

pub use closed::{ClosedPrefixes, FILE as CLOSED_FILE};
pub use home::{Changed, Home, MANAGER, file_name, others};
pub use world::World;

use crate::{
    admin::{Description, Meant, PeerAdmin, PeerError, Removed},
    backend::Engine,
    keep::Keep,
    pipes::Reach,
    propagation::Propagation,
    publish::Own,
    source::{driver::State, snapshot::Version},
};
use api::{name::ClusterName, peer::MeshPeer};
use daemon::tls::Tls;
use ipnet::IpNet;
use manager::{Apply, Contracts, Manager, Request};
use std::collections::{BTreeMap, BTreeSet};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Requests of operators that wait: more than a handful of people at once is a script gone wild.
const REQUESTS_MAX: usize = 64;
/// Wishes of sessions that wait; each is said again after a second.
const WISHES_MAX: usize = 256;

/// What peerings depend on.
#[derive(Clone)]
pub struct Config {
    /// Who we are, and our ranges.
    pub own: Own,
    /// Where the objects are written.
    pub home: Home,
    /// Where closed prefixes are kept.
    pub keep: Keep,
    /// Where it is shown how long imports take.
    pub propagation: Propagation,
    /// `host:port` by which peers reach us; none when they cannot.
    pub endpoints: Vec<String>,
    /// The ways to them.
    pub reach: Reach,
}

/// For health and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The objects were read for the first time, and whom they name is believed.
    pub decided: bool,
    /// Peerings in force.
    pub in_force: BTreeSet<ClusterName>,
    /// Objects that are not in force as they stand, and why.
    pub conflicts: BTreeMap<ClusterName, String>,
    /// Which objects, and as of which change, all this is about.
    pub judged: BTreeMap<ClusterName, Version>,
}

/// The handle of the peerings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peers {
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<Status>,
}

impl Peers {
    /// How the peerings are.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, PeerError>>) -> Request,
    ) -> Result<T, PeerError> {
        let (answer, answered) = oneshot::channel();
        let ended = || PeerError::Refused("the apiserver is shutting down".to_owned());
        self.requests.send(request(answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// Starts the peerings; the task ends, with all sessions, when cancelled.
///
/// # Errors
/// When the file of closed prefixes is there and cannot be read, or the store refuses.
pub async fn spawn(
    engine: Engine,
    tls: Tls,
    config: Config,
    source: watch::Receiver<Option<State>>,
    cancel: CancellationToken,
) -> anyhow::Result<(Peers, JoinHandle<()>)> {
    let closed = ClosedPrefixes::load(&config.keep.path(closed::FILE))?;
    let world = world::follow(engine.clone(), cancel.clone()).await;
    let left = sweep::left(&engine, &config.own.name).await?;
    let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
    let (wishes, wished) = mpsc::channel(WISHES_MAX);
    let (status, statuses) = watch::channel(Status::default());
    if let Home::Kubernetes { client, events } = &config.home {
        let writing = status::follow(engine.clone(), client.clone(), events.clone(), statuses.clone());
        tokio::spawn(cancel.clone().run_until_cancelled_owned(writing));
    }
    let manager = Manager {
        engine,
        tls,
        config,
        source,
        world,
        closed,
        status,
        cancel,
        wishes,
        contracts: watch::Sender::new(Contracts::default()),
        written: BTreeMap::new(),
        roster: roster::Roster::default(),
        sessions: BTreeMap::new(),
        believed: BTreeMap::new(),
        left: Some(left),
        vouched: false,
    };
    let task = tokio::spawn(manager.run(receiver, wished));
    Ok((Peers { requests, status: statuses }, task))
}

#[tonic::async_trait]
impl PeerAdmin for Peers {
    async fn describe(&self) -> Result<Description, PeerError> {
        self.ask(Request::Describe).await
    }

    async fn apply_peer(
        &self,
        peer: MeshPeer,
        judged: Option<MeshPeer>,
        dry_run: bool,
    ) -> Result<bool, PeerError> {
        let wish = Box::new(Apply { peer, judged, dry_run });
        self.ask(|answer| Request::Apply(wish, answer)).await
    }

    async fn remove_peer(&self, name: &ClusterName, meant: Meant) -> Result<Removed, PeerError> {
        self.ask(|answer| Request::Remove(name.clone(), meant, answer)).await
    }

    async fn forget(&self, name: &ClusterName) -> Result<Vec<IpNet>, PeerError> {
        self.ask(|answer| Request::Forget(name.clone(), answer)).await
    }
}
