//! One task decides about all peerings: which are in force, who is believed, what is swept and what stays closed.
//!
//! ```text
//!  source's objects ─┐                         ┌─▶ trust store
//!  an operator ──────┼─▶ manager ── roster ────┼─▶ sessions, one a peer
//!  sessions' wishes ─┘      │                  └─▶ closed prefixes, sweeps
//!                           └── the objects' home
//! ```

mod operator;

pub(super) use operator::{Apply, Request};

use super::{
    Config, Status,
    closed::{self, ClosedPrefixes},
    home,
    roster::{InForce, Roster, roster},
    session::{self, Running, Wish, WishKind},
    sweep,
    world::World,
};
use crate::{
    backend::Engine,
    pipes::Route,
    publish::{Op, writes},
    source::{
        driver::{PeerObject, State},
        object::ObjectKind,
        snapshot::Problem,
    },
};
use api::{
    bytes::{BootId, ClusterUuid},
    key::{Kind, LocalKey, MeshKey},
    name::ClusterName,
    peer::MeshPeer,
    record::{ImportState, Phase, Record, Synced},
};
use daemon::tls::Tls;
use ipnet::IpNet;
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Time between looks without an event: what a refusing store or disk left undone is done then.
const RECHECK: Duration = Duration::from_secs(5);

/// A watch tells several writes in their order, within this time.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What sessions have to know of the other peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contracts(pub(super) BTreeMap<ClusterName, Vec<IpNet>>);

pub(super) struct Manager {
    pub(super) engine: Engine,
    pub(super) tls: Tls,
    pub(super) config: Config,
    pub(super) source: watch::Receiver<Option<State>>,
    pub(super) world: watch::Receiver<World>,
    pub(super) closed: ClosedPrefixes,
    pub(super) status: watch::Sender<Status>,
    pub(super) cancel: CancellationToken,
    pub(super) wishes: mpsc::Sender<Wish>,
    pub(super) contracts: watch::Sender<Contracts>,
    /// What we wrote to the home and the source has not read yet.
    pub(super) written: BTreeMap<ClusterName, Written>,
    pub(super) roster: Roster,
    pub(super) sessions: BTreeMap<ClusterName, Running>,
    /// As the trust store was told.
    pub(super) believed: BTreeMap<ClusterName, (ClusterUuid, String)>,
    /// Peers that the store knows from an earlier process, until the first look decided about them.
    pub(super) left: Option<BTreeMap<ClusterName, sweep::Left>>,
    /// `synced/peerings` says that what is missing is meant to be.
    pub(super) vouched: bool,
}

impl Manager {
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut wishes: mpsc::Receiver<Wish>,
    ) {
        let cancel = self.cancel.clone();
        loop {
            self.look().await;
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = self.source.changed() => if changed.is_err() { break },
                request = requests.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => break,
                },
                wish = wishes.recv() => self.fulfil(wish.expect("we hold a sender")).await,
                () = tokio::time::sleep(RECHECK) => {}
            }
        }
        for (_, session) in std::mem::take(&mut self.sessions) {
            session.stop().await;
        }
    }

    /// The objects as they will be read: the source's, and what we wrote since.
    fn objects(&mut self) -> Option<BTreeMap<ClusterName, MeshPeer>> {
        let state = self.source.borrow_and_update().clone()?;
        let mut objects: BTreeMap<_, _> =
            state.peers.iter().map(|(name, object)| (name.clone(), object.peer.clone())).collect();
        self.written.retain(|name, written| match state.includes {
            Some(includes) => written.at >= includes,
            None => written.is_news(objects.get(name)),
        });
        for (name, written) in &self.written {
            match &written.object {
                Some(object) => drop(objects.insert(name.clone(), object.peer.clone())),
                None => drop(objects.remove(name)),
            }
        }
        Some(objects)
    }

    /// The object as [`Manager::objects`] has it, and which one it is.
    fn object(&self, name: &ClusterName) -> Option<PeerObject> {
        match self.written.get(name) {
            Some(written) => written.object.clone(),
            None => self.source.borrow().as_ref()?.peers.get(name).cloned(),
        }
    }

    /// Makes what is in force be what the objects say. Does nothing that is done already.
    async fn look(&mut self) {
        // Before the first complete list nobody's absence means anything.
        let Some(objects) = self.objects() else { return };
        if let Err(error) = self.converge(&objects).await {
            error!(error = format!("{error:#}"), "Cannot bring the peerings in line; trying again");
        }
    }

    async fn converge(&mut self, objects: &BTreeMap<ClusterName, MeshPeer>) -> anyhow::Result<()> {
        let mut left = self.left.take().unwrap_or_default();
        // What is there and cannot be read is not gone.
        let undecided: BTreeMap<_, _> = left.extract_if(.., |name, _| self.cannot_be_read(name)).collect();
        let mut in_force: InForce = left.keys().map(|name| (name.clone(), None)).collect();
        in_force.extend(self.roster.peers.iter().map(|(name, peer)| (name.clone(), Some(peer.clone()))));
        let nodes =
            self.source.borrow().as_ref().map(|state| state.node_addresses.clone()).unwrap_or_default();
        let next = roster(objects, &in_force, &self.config.own, &nodes);
        report(&self.roster, &next);
        let before = std::mem::replace(&mut self.roster, next);

        let is_gone = |name: &&ClusterName| match self.roster.peers.get(*name) {
            // A cluster of the same name with another UUID is another cluster.
            Some(peer) => self.sessions.get(*name).is_some_and(|session| !session.is_with(peer)),
            None => true,
        };
        let gone: Vec<ClusterName> = in_force.keys().filter(is_gone).cloned().collect();
        let mut failed = Ok(());
        for name in gone {
            let prefixes = self.stop(&name, before.peers.get(&name), left.get(&name)).await;
            if let Err(error) = self.end(&name, &prefixes).await {
                // Tried again at the next look, with what has to be closed.
                let prefixes = (!prefixes.is_empty()).then_some(prefixes);
                self.left.get_or_insert_default().insert(name, sweep::Left { prefixes });
                failed = Err(error);
            }
        }
        self.left.get_or_insert_default().extend(undecided);
        self.contracts.send_if_modified(|contracts| {
            let now =
                self.roster.peers.iter().map(|(name, peer)| (name.clone(), peer.spec.contract.cidrs.clone()));
            let now = Contracts(now.collect());
            std::mem::replace(contracts, now.clone()) != now
        });
        for (name, peer) in &self.roster.peers.clone() {
            self.believe(name, peer);
        }
        let routes = self.roster.peers.iter().map(|(name, peer)| (name.clone(), Route::from(peer)));
        self.config.reach.set(routes.collect());
        // Whoever comes in from now on is known, whatever becomes of our own sessions.
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.decided, true));
        if let Err(error) = self.keep_active().await {
            failed = Err(error.context("cannot keep what a new peering encrypts: it waits"));
        }
        for (name, peer) in self.roster.peers.clone() {
            if !self.is_kept(&name, &peer) {
                continue;
            }
            match self.sessions.get(&name) {
                Some(session) => session.agree(&peer),
                None => match session::start(self.surroundings(), peer).await {
                    Ok(running) => drop(self.sessions.insert(name, running)),
                    Err(error) => failed = Err(error),
                },
            }
        }
        self.write_closed().await?;
        self.show_conflicts(&before).await?;
        // Nobody's absence means anything while something is not written.
        failed?;
        self.vouch().await?;
        let conflicts = self.roster.conflicts.iter().map(|(name, c)| (name.clone(), c.to_string())).collect();
        let in_force = self.roster.peers.keys().cloned().collect();
        let judged =
            objects.keys().filter_map(|name| Some((name.clone(), self.object(name)?.version?))).collect();
        self.status.send_replace(Status { decided: true, conflicts, in_force, judged });
        Ok(())
    }

    /// Whether a document that may be this peer's object is broken, since before we started.
    fn cannot_be_read(&self, name: &ClusterName) -> bool {
        let file = home::file_name(name);
        let may_be = |problem: &Problem| match &problem.object {
            Some(object) => object.kind == ObjectKind::MeshPeer && object.name.as_str() == name.as_str(),
            None => problem.place.file() == Some(&file),
        };
        let state = self.source.borrow();
        state
            .as_ref()
            .is_some_and(|state| !state.peers.contains_key(name) && state.problems.iter().any(may_be))
    }

    fn surroundings(&self) -> session::Surroundings {
        session::Surroundings {
            engine: self.engine.clone(),
            reach: self.config.reach.clone(),
            own: self.config.own.clone(),
            propagation: self.config.propagation.clone(),
            world: self.world.clone(),
            contracts: self.contracts.subscribe(),
            wishes: self.wishes.clone(),
            cancel: self.cancel.child_token(),
        }
    }

    /// Only what changed is told: each word to the trust store makes it judge every open connection again.
    fn believe(&mut self, name: &ClusterName, peer: &MeshPeer) {
        let now = (peer.spec.uuid, peer.spec.trust_bundle.clone());
        if self.believed.get(name) == Some(&now) {
            return;
        }
        match self.tls.trust().add_peer(now.0, name.clone(), &now.1) {
            Ok(()) => drop(self.believed.insert(name.clone(), now)),
            // The check read the same bundle.
            Err(error) => error!(peer = %name, %error, "Cannot use the peer's trust bundle"),
        }
    }

    /// No session and no trust any more. Gives the prefixes that have to stay closed.
    async fn stop(
        &mut self,
        name: &ClusterName,
        was: Option<&MeshPeer>,
        left: Option<&sweep::Left>,
    ) -> Vec<IpNet> {
        let mut was_active = false;
        if let Some(session) = self.sessions.remove(name) {
            was_active = session.was_active();
            session.stop().await;
        }
        if let Some((uuid, _)) = self.believed.remove(name) {
            self.tls.trust().remove_peer(uuid);
        }
        // A peering that never was active closes nothing: nobody has sent there by us.
        let of_object = was.filter(|_| was_active).map(|peer| peer.spec.contract.cidrs.clone());
        of_object.or_else(|| left.and_then(|left| left.prefixes.clone())).unwrap_or_default()
    }

    /// Nothing imported any more; what was encrypted is closed before that.
    async fn end(&mut self, name: &ClusterName, prefixes: &[IpNet]) -> anyhow::Result<()> {
        if !prefixes.is_empty() {
            let mut closed = self.closed.clone();
            closed.keep(name, prefixes);
            self.set_closed(closed).await?;
        }
        self.write_closed().await?;
        sweep::sweep(&self.engine, &self.config.own.name, name).await?;
        info!(peer = %name, closed = ?prefixes, "Peering ended");
        Ok(())
    }

    /// What active peerings encrypt is kept before anybody is told to send there.
    async fn keep_active(&mut self) -> anyhow::Result<()> {
        let mut closed = self.closed.clone();
        for (name, peer) in self.roster.peers.iter().filter(|(_, peer)| peer.phase() == Phase::Active) {
            closed.activate(name, &peer.spec.contract.cidrs);
        }
        self.set_closed(closed).await
    }

    /// Whether its peering may go on: what it would leave closed is kept, or it closes nothing.
    fn is_kept(&self, name: &ClusterName, peer: &MeshPeer) -> bool {
        peer.phase() != Phase::Active || self.closed.keeps(name, &peer.spec.contract.cidrs)
    }

    /// What is not closed, though it is kept: an active peering decides about its prefixes itself, and one whose object
    /// is there and cannot be read has not ended.
    pub(super) fn claimed(&self) -> Vec<IpNet> {
        let active = self.roster.peers.values().filter(|peer| peer.phase() == Phase::Active);
        let active = active.flat_map(|peer| peer.spec.contract.cidrs.clone());
        let undecided = self.closed.iter().filter(|(name, _)| self.cannot_be_read(name));
        active.chain(undecided.flat_map(|(_, kept)| kept.clone())).collect()
    }

    /// The file first: what the store says of closed prefixes follows from it.
    async fn set_closed(&mut self, closed: ClosedPrefixes) -> anyhow::Result<()> {
        if closed != self.closed {
            self.config.keep.write(closed::FILE, &closed.to_bytes()).await?;
            self.closed = closed;
        }
        Ok(())
    }

    async fn write_closed(&self) -> anyhow::Result<()> {
        sweep::write_closed(&self.engine, &self.closed.beside(&self.claimed())).await
    }

    /// A conflict stands where the operator looks for the import.
    async fn show_conflicts(&self, before: &Roster) -> anyhow::Result<()> {
        let mut ops = Vec::new();
        for (name, conflict) in &self.roster.conflicts {
            if !self.sessions.contains_key(name) && before.conflicts.get(name) != Some(conflict) {
                let state =
                    ImportState { last_error: format!("not in force: {conflict}"), ..ImportState::default() };
                ops.push(Op::Put { key: LocalKey::Import(name.clone()).into(), value: state.encode() });
            }
        }
        for name in before.conflicts.keys() {
            if !self.roster.conflicts.contains_key(name) && !self.sessions.contains_key(name) {
                ops.push(Op::Delete { key: LocalKey::Import(name.clone()).into() });
            }
        }
        for txn in crate::publish::txns(ops) {
            writes::write(&self.engine, &txn).await?;
        }
        Ok(())
    }

    /// All peerings and verdicts are written: now a missing one is meant.
    async fn vouch(&mut self) -> anyhow::Result<()> {
        if !self.vouched {
            let key = MeshKey::Synced(Kind::Peerings).of(&self.config.own.name);
            let record = Record::from(Synced { boot: BootId(self.engine.boot()) });
            writes::write(&self.engine, &[Op::Put { key, value: record.encode() }]).await?;
            self.vouched = true;
        }
        Ok(())
    }

    /// A session found out how its peering goes on.
    async fn fulfil(&mut self, wish: Wish) {
        // Forgets what the source has caught up with.
        if self.objects().is_none() {
            return;
        }
        let Some(judged) = self.object(&wish.peer) else { return };
        let object = &judged.peer;
        // What was meant for an older connect does not concern this one.
        if object.nonce() != wish.nonce {
            return;
        }
        let name = &wish.peer;
        let done = match &wish.kind {
            WishKind::Activate if object.phase() == Phase::Active => return,
            WishKind::Activate => {
                self.config.home.write(&home::active(object), Some(&judged)).await.map(Some)
            }
            WishKind::Remove(_) => self.config.home.remove(&judged).await.map(|()| None),
        };
        match (done, wish.kind) {
            (Ok(object), WishKind::Activate) => {
                info!(peer = %name, "Peering is active on both sides");
                self.note(name, object);
            }
            (Ok(object), WishKind::Remove(why)) => {
                warn!(peer = %name, why, "Peering was not completed and is removed");
                self.note(name, object);
            }
            (Err(error), _) => {
                error!(peer = %name, error = format!("{error:#}"), "Cannot change the MeshPeer");
            }
        }
    }

    fn note(&mut self, name: &ClusterName, object: Option<PeerObject>) {
        let state = self.source.borrow();
        let before = state.as_ref().and_then(|state| state.peers.get(name)).map(|read| read.peer.clone());
        drop(state);
        self.written.insert(name.clone(), Written { object, before, at: Instant::now() });
    }
}

/// What we wrote to the home.
pub(super) struct Written {
    /// None: it was removed.
    object: Option<PeerObject>,
    /// As the source had it then.
    before: Option<MeshPeer>,
    at: Instant,
}

impl Written {
    /// Whether the source, which says `read` now, has not caught up with us: it has when it says what we wrote, or, some
    /// time later, anything else than what it said before, which somebody wrote after us.
    fn is_news(&self, read: Option<&MeshPeer>) -> bool {
        read != self.object.as_ref().map(|object| &object.peer)
            && (read == self.before.as_ref() || self.at.elapsed() < CATCH_UP)
    }
}

fn report(before: &Roster, now: &Roster) {
    for (name, conflict) in &now.conflicts {
        if before.conflicts.get(name) != Some(conflict) {
            warn!(peer = %name, %conflict, "MeshPeer is not in force as it stands");
        }
    }
    for name in before.conflicts.keys().filter(|name| !now.conflicts.contains_key(*name)) {
        info!(peer = %name, "MeshPeer conflicts no longer");
    }
}
