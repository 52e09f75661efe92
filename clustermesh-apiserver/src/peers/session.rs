//! One peer: a follower of its store, the import of what it announces, and the verdict about it. A session decides
//! nothing: it carries events to the cores of `replica` and their wishes to our store and the manager.

mod dial;
mod tell;

use super::{manager::Contracts, world::World};
use crate::{
    backend::Engine,
    pipes::{Reach, Route},
    propagation::Propagation,
    publish::{Own, writes},
    source::driver::unix_s,
};
use api::{
    bytes::{BootId, Nonce},
    key::{Key, LocalKey, MeshKey, cluster_prefix},
    name::ClusterName,
    peer::MeshPeer,
    record::{ImportState, PeerState, Peering, Phase},
};
use dial::follow;
use follow::Following;
use prometheus_client::metrics::histogram::Histogram;
use replica::{
    Now,
    follower::Event,
    freshness::{Age, Verdict},
    import::{Facts, Import, Setup},
    peering::{Object, Side},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

/// Shortest time between two records of counters: they are for people.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);
/// Time between attempts when our own store refuses, and between wishes that were not fulfilled.
const RETRY: Duration = Duration::from_secs(1);
/// Events taken before the store is written: one page of a list.
const EVENTS_AT_ONCE: usize = 500;

/// What becomes of a peering's object; the manager owns the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) peer: ClusterName,
    /// Of the connect that it is about.
    pub(super) nonce: Option<Nonce>,
    pub(super) kind: WishKind,
}

/// What a session wishes for its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WishKind {
    /// Without its deadline.
    Activate,
    /// Removed, because of this.
    Remove(String),
}

/// What every session shares.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) engine: Engine,
    pub(super) reach: Reach,
    pub(super) own: Own,
    pub(super) propagation: Propagation,
    pub(super) world: watch::Receiver<World>,
    pub(super) contracts: watch::Receiver<Contracts>,
    pub(super) wishes: mpsc::Sender<Wish>,
    pub(super) cancel: CancellationToken,
}

/// A session at work.
pub(super) struct Running {
    object: watch::Sender<MeshPeer>,
    was_active: Arc<AtomicBool>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// The object as it is now.
    pub(super) fn agree(&self, peer: &MeshPeer) {
        self.object.send_if_modified(|object| {
            let changed = object != peer;
            object.clone_from(peer);
            changed
        });
    }

    /// The cluster it is with: a cluster of the same name with another UUID is another cluster.
    pub(super) fn is_with(&self, peer: &MeshPeer) -> bool {
        self.object.borrow().spec.uuid == peer.spec.uuid
    }

    /// Agents may have sent to its prefixes.
    pub(super) fn was_active(&self) -> bool {
        self.was_active.load(Ordering::Acquire)
    }

    /// Ends it; when this returns, it writes nothing any more.
    pub(super) async fn stop(self) {
        self.cancel.cancel();
        if let Err(error) = self.task.await {
            error!(%error, "A peer's session did not end well");
        }
    }
}

/// Starts a session. When this returns, our side of the peering and the verdict stand in our store.
pub(super) async fn start(around: Surroundings, peer: MeshPeer) -> anyhow::Result<Running> {
    let name = peer.metadata.name.clone();
    let span = info_span!("peer", name = %name);
    let cancel = around.cancel.clone();
    let (object, objects) = watch::channel(peer);
    let mut session = Session::new(around, objects, name).await?;
    session.tell().instrument(span.clone()).await?;
    let was_active = Arc::clone(&session.was_active);
    let task = tokio::spawn(session.run().instrument(span));
    Ok(Running { object, was_active, cancel, task })
}

struct Session {
    around: Surroundings,
    objects: watch::Receiver<MeshPeer>,
    peer: MeshPeer,
    /// What it says of its connect and its terms.
    object: Object,
    name: ClusterName,
    started: Instant,
    /// When the oldest event came that is not in our store yet.
    received: Option<Instant>,
    /// From there to durable.
    took: Histogram,
    import: Import,
    age: Age,
    side: Side,
    following: Following,
    was_active: Arc<AtomicBool>,
    /// As our store has them.
    told: (Option<Peering>, Option<PeerState>),
    counters: (Option<ImportState>, Instant),
    wished: Option<(Wish, Instant)>,
}

impl Session {
    async fn new(
        around: Surroundings,
        mut objects: watch::Receiver<MeshPeer>,
        name: ClusterName,
    ) -> anyhow::Result<Self> {
        let peer = objects.borrow_and_update().clone();
        let engine = &around.engine;
        let mut stored = BTreeMap::new();
        writes::list(engine, &cluster_prefix(&name), |key, value| drop(stored.insert(key, value))).await?;
        let held = read(engine, &LocalKey::Peer(name.clone()).into(), PeerState::decode).await?;
        // What was said about another cluster of the same name says nothing about this one.
        let held = held.filter(|held| held.uuid == peer.spec.uuid);
        let our_side =
            read(engine, &MeshKey::Peering(name.clone()).of(&around.own.name), Peering::decode).await?;
        let counters = read(engine, &LocalKey::Import(name.clone()).into(), ImportState::decode).await?;

        let verdict = held.as_ref().map(|held| Verdict { freshness: held.freshness, dropped: held.dropped });
        let object = Object::from(&peer);
        let side = Side::new(&object, held.as_ref(), Now::START);
        let active = held.as_ref().is_some_and(|held| held.phase == Phase::Active);
        let setup = Setup {
            us: around.own.name.clone(),
            peer: name.clone(),
            uuid: peer.spec.uuid,
            boot: BootId(engine.boot()),
            contract: peer.spec.contract.clone(),
            facts: facts(&around, &name),
            active,
            stored,
        };
        let import = Import::new(setup, Now::START);
        let following = follow(&around.reach, &peer, &import);
        let started = Instant::now();
        let took = around.propagation.import(&name);
        Ok(Self {
            received: None,
            took,
            age: Age::new(peer.spec.stale, verdict, Now::START),
            side,
            following,
            was_active: Arc::new(AtomicBool::new(active)),
            told: (our_side, held),
            counters: (counters, started),
            wished: None,
            around,
            objects,
            peer,
            object,
            name,
            started,
            import,
        })
    }

    async fn run(mut self) {
        let cancel = self.around.cancel.clone();
        loop {
            // Never cut: a txn is made, or it is not.
            let next = self.step().await;
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.objects.changed() => match changed {
                    Ok(()) => self.agree(),
                    Err(_) => return,
                },
                changed = self.around.world.changed() => if changed.is_err() { return },
                changed = self.around.contracts.changed() => if changed.is_err() { return },
                event = self.following.events.recv() => self.take(event),
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    fn now(&self) -> Now {
        Now::at(self.started.elapsed())
    }

    /// The object changed: new terms, or further in its connect.
    fn agree(&mut self) {
        let peer = self.objects.borrow_and_update().clone();
        self.import.set_contract(peer.spec.contract.clone(), self.now());
        self.age.set_policy(peer.spec.stale);
        let (route, was) = (Route::from(&peer), Route::from(&self.peer));
        let elsewhere = (route.endpoints, route.through) != (was.endpoints, was.through)
            || peer.spec.trust_bundle != self.peer.spec.trust_bundle;
        self.object = Object::from(&peer);
        self.peer = peer;
        if elsewhere {
            self.following = follow(&self.around.reach, &self.peer, &self.import);
        }
    }

    fn take(&mut self, event: Option<Event>) {
        let Some(event) = event else {
            warn!("The follower ended; starting it again");
            self.following = follow(&self.around.reach, &self.peer, &self.import);
            return;
        };
        self.received.get_or_insert_with(Instant::now);
        let mut next = Some(event);
        for _ in 0..EVENTS_AT_ONCE {
            let Some(event) = next else { break };
            match &event {
                Event::InitDone { revision } => info!(revision, "Synced with the peer"),
                Event::Resumed { revision } => info!(revision, "Following the peer again"),
                Event::Disconnected { error, retry_in, .. } => {
                    warn!(error, ?retry_in, "No session with the peer");
                }
                Event::Init
                | Event::InitApply(_)
                | Event::Apply(_)
                | Event::Delete { .. }
                | Event::Progress { .. } => {}
            }
            let relisted = self.import.handle(event);
            for (cluster, (had, lost)) in relisted.iter().flat_map(|relisted| &relisted.mass_removals) {
                warn!(%cluster, had, lost, "The peer's new list lacks more than half of its backends");
            }
            // Every beat counts, not only the last one of a batch.
            self.hear();
            next = self.following.events.try_recv().ok();
        }
    }

    fn hear(&mut self) {
        let now = self.now();
        if let Some(heartbeat) = &self.import.seen().heartbeat {
            self.age.handle(heartbeat, now);
        }
    }

    /// Brings our store and the manager up to what is known; says when to do it again.
    async fn step(&mut self) -> Instant {
        let now = self.now();
        self.import.set_facts(facts(&self.around, &self.name));
        let mut retry = None;
        if let Err(error) = self.tell().await {
            error!(error = format!("{error:#}"), "Cannot write the verdict about the peer; trying again");
            retry = Some(Instant::now() + RETRY);
        }
        // `tell` may have let the import begin.
        if self.import.poll_relist(now) {
            debug!("Listing the peer");
            self.following = follow(&self.around.reach, &self.peer, &self.import);
        }
        if let Err(error) = self.write().await {
            error!(error = format!("{error:#}"), "Cannot write the peer's records; trying again");
            retry = Some(Instant::now() + RETRY);
        }
        let count = self.count().await;
        let cores = [
            self.import.poll_timeout(),
            self.age.poll_timeout(now),
            self.side.poll_timeout(&self.object, now, unix_s()),
        ];
        let cores = cores.into_iter().flatten().map(|at| self.started + at.elapsed());
        // A core that is due and cannot be served must not spin.
        let soonest = Instant::now() + Duration::from_millis(10);
        let rest = Instant::now() + Duration::from_secs(60);
        let wish = self.wished.as_ref().map(|(_, at)| *at + RETRY);
        cores
            .map(|at| at.max(soonest))
            .chain(retry)
            .chain(count)
            .chain(wish)
            .min()
            .unwrap_or(rest)
            .max(soonest)
    }
}

async fn read<T, E: std::error::Error + Send + Sync + 'static>(
    engine: &Engine,
    key: &Key,
    decode: impl Fn(&[u8]) -> Result<T, E>,
) -> anyhow::Result<Option<T>> {
    let request = store::RangeRequest { key: key.to_string().into(), ..Default::default() };
    let kvs = engine.range(&request).await?.kvs;
    // What cannot be read is written anew.
    Ok(kvs.first().and_then(|kv| decode(&kv.value).ok()))
}

fn facts(around: &Surroundings, peer: &ClusterName) -> Facts {
    let own = &around.own;
    let world = around.world.borrow();
    let contracts = around.contracts.borrow();
    Facts {
        our_cidrs: [&own.pod_cidrs, &own.service_cidrs, &own.mesh_cidrs]
            .into_iter()
            .flatten()
            .copied()
            .collect(),
        tunnel_endpoints: world.tunnel_endpoints(peer),
        other_contracts: contracts
            .0
            .iter()
            .filter(|(name, _)| *name != peer)
            .flat_map(|(_, c)| c.clone())
            .collect(),
        foreign_keys: world.keys(peer),
    }
}
