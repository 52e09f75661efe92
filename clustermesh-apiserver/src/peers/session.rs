//! One peer: a follower of its store, the import of what it announces, and the verdict about it. A session decides
//! nothing: it carries events to the cores of `replica` and their wishes to our store and the manager.

use super::{manager::Contracts, world::World};
use crate::{
    backend::Engine,
    publish::{Op, Own, TXN_OPS, writes},
    source::driver::unix_s,
};
use api::{
    bytes::{BootId, Nonce},
    key::{Key, LocalKey, MeshKey, cluster_prefix},
    name::ClusterName,
    peer::MeshPeer,
    record::{ImportState, PeerState, Peering, Phase},
};
use daemon::tls::{Expected, Tls, connect_any};
use follow::Following;
use replica::{
    Now,
    follower::{Event, Follow},
    freshness::{Age, Verdict},
    import::{Facts, Import, Setup, Write},
    peering::{self, Decision, Object, Side},
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
    pub(super) tls: Tls,
    pub(super) own: Own,
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
    session.tell().await?;
    let was_active = Arc::clone(&session.was_active);
    let task = tokio::spawn(session.run().instrument(span));
    Ok(Running { object, was_active, cancel, task })
}

struct Session {
    around: Surroundings,
    objects: watch::Receiver<MeshPeer>,
    peer: MeshPeer,
    name: ClusterName,
    started: Instant,
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
        let side = Side::new(&Object::from(&peer), held.as_ref(), Now::START);
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
        let following = follow(&around.tls, &peer, &import);
        let started = Instant::now();
        Ok(Self {
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
        let elsewhere = peer.spec.endpoints != self.peer.spec.endpoints
            || peer.spec.trust_bundle != self.peer.spec.trust_bundle;
        self.peer = peer;
        if elsewhere {
            self.following = follow(&self.around.tls, &self.peer, &self.import);
        }
    }

    fn take(&mut self, event: Option<Event>) {
        let Some(event) = event else {
            warn!("The follower ended; starting it again");
            self.following = follow(&self.around.tls, &self.peer, &self.import);
            return;
        };
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
            self.following = follow(&self.around.tls, &self.peer, &self.import);
        }
        if let Err(error) = self.write().await {
            error!(error = format!("{error:#}"), "Cannot write the peer's records; trying again");
            retry = Some(Instant::now() + RETRY);
        }
        let count = self.count().await;
        let object = Object::from(&self.peer);
        let cores = [
            self.import.poll_timeout(),
            self.age.poll_timeout(now),
            self.side.poll_timeout(&object, now, unix_s()),
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

    /// Our side of the peering, and the verdict; what differs is written.
    async fn tell(&mut self) -> anyhow::Result<()> {
        let now = self.now();
        let object = Object::from(&self.peer);
        let Decision { publish, wish, phase, .. } =
            self.side.decide(&object, self.import.seen().peering(), now, unix_s());
        let verdict = self.age.verdict(now);
        let state = PeerState {
            uuid: self.peer.spec.uuid,
            phase,
            freshness: verdict.freshness,
            stale_policy: self.peer.spec.stale.policy,
            drop_after_ms: self.peer.spec.stale.drop_after_s().map_or(0, |s| u64::from(s) * 1_000),
            prefixes: self.peer.spec.contract.cidrs.clone(),
            nonce: object.nonce,
            dropped: verdict.dropped,
        };
        let mut ops = Vec::new();
        if self.told.0.as_ref() != Some(&publish) {
            let key = MeshKey::Peering(self.name.clone()).of(&self.around.own.name);
            ops.push(Op::Put { key, value: publish.encode() });
        }
        if self.told.1.as_ref() != Some(&state) {
            ops.push(Op::Put { key: LocalKey::Peer(self.name.clone()).into(), value: state.encode() });
        }
        if !ops.is_empty() {
            writes::write(&self.around.engine, &ops).await?;
            if self.told.1.as_ref().map(|was| (was.freshness, was.phase))
                != Some((state.freshness, state.phase))
            {
                info!(freshness = ?state.freshness, phase = ?state.phase, "Verdict about the peer");
            }
            self.told = (Some(publish), Some(state));
        }
        self.was_active.fetch_or(phase == Phase::Active, Ordering::AcqRel);
        self.import.set_active(phase == Phase::Active);
        self.wish(object.nonce, wish);
        Ok(())
    }

    fn wish(&mut self, nonce: Option<Nonce>, wish: peering::Wish) {
        let kind = match wish {
            peering::Wish::Keep => {
                self.wished = None;
                return;
            }
            peering::Wish::Activate => WishKind::Activate,
            peering::Wish::Remove(why) => WishKind::Remove(why.to_string()),
        };
        let wish = Wish { peer: self.name.clone(), nonce, kind };
        let again = self.wished.as_ref().is_none_or(|(last, at)| *last != wish || at.elapsed() >= RETRY);
        // A full queue is a busy manager; the wish is said again.
        if again && self.around.wishes.try_send(wish.clone()).is_ok() {
            self.wished = Some((wish, Instant::now()));
        }
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        loop {
            let wanted = self.import.poll_writes(TXN_OPS, self.now());
            if wanted.is_empty() {
                return Ok(());
            }
            let ops = wanted.iter().map(|write| match write {
                Write::Put { key, value } => Op::Put { key: key.clone(), value: value.clone() },
                Write::Delete { key } => Op::Delete { key: key.clone() },
            });
            // Records of 64 KiB would not fit by the hundred; in pieces they do.
            for txn in crate::publish::txns(ops.collect()) {
                if let Err(error) = writes::write(&self.around.engine, &txn).await {
                    self.import.requeue(wanted);
                    return Err(error.into());
                }
            }
        }
    }

    /// Counters, at most once a second; says when the next ones may be written.
    async fn count(&mut self) -> Option<Instant> {
        let state = self.import.state();
        let (written, at) = &self.counters;
        let next = *at + COUNTERS_EVERY;
        let same = |written: &ImportState| {
            // The peer's heartbeat moves its revision every two seconds; that alone is no news.
            ImportState { peer_revision: 0, ..written.clone() }
                == ImportState { peer_revision: 0, ..state.clone() }
        };
        let quiet = written.as_ref().is_some_and(same);
        if quiet && written.as_ref().is_some_and(|written| written.peer_revision == state.peer_revision) {
            return None;
        }
        if written.is_some() && Instant::now() < next {
            return Some(next);
        }
        let op = Op::Put { key: LocalKey::Import(self.name.clone()).into(), value: state.encode() };
        match writes::write(&self.around.engine, &[op]).await {
            Ok(()) => {
                self.counters = (Some(state), Instant::now());
                None
            }
            Err(error) => {
                error!(%error, "Cannot write the import's counters; trying again");
                self.counters.1 = Instant::now();
                Some(Instant::now() + COUNTERS_EVERY)
            }
        }
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

fn follow(tls: &Tls, peer: &MeshPeer, import: &Import) -> Following {
    let name = peer.metadata.name.clone();
    let dial = Dial {
        tls: tls.clone(),
        endpoints: peer.spec.endpoints.clone(),
        expected: Expected::cluster(peer.spec.uuid, name.clone()),
    };
    follow::spawn(Follow { cluster: name, prefixes: import.prefixes() }, rand::random(), dial)
}

/// How a peer is reached, and who has to answer.
struct Dial {
    tls: Tls,
    endpoints: Vec<String>,
    expected: Expected,
}

impl follow::Connect for Dial {
    async fn connect(&self) -> Result<tonic::transport::Channel, String> {
        match connect_any(&self.tls, &self.endpoints, &self.expected).await {
            Ok(connection) => Ok(connection.channel),
            Err(error) => Err(format!("{:#}", anyhow::Error::from(error))),
        }
    }
}
