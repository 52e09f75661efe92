//! What holds at every moment of every run, and what holds when it is over.
//!
//! | law | looked at |
//! |---|---|
//! | a revision of one run of a store, and of what an agent knows of it, never falls | always |
//! | nobody's record lies under another's name, and no record of a peer is one that it never announced | always |
//! | nothing outside a contract is imported, no more than it allows, and no faster | always |
//! | nothing is withdrawn that its author still announces, whatever else went away | always |
//! | a node uses no address, and sends to nobody, that was not announced within the last minute in which it could hear | always |
//! | what hangs on a lease goes with it | always |
//! | no queue grows beyond its bound | always |
//! | an identity that is held is the hash of what it says | always |
//! | no map holds more than it takes; what an agent could not do it says, each row that found no room by name | always |
//! | what is to be encrypted is guarded, or fenced where there is no room for its guard | always |
//! | a peer whose clock went back is made anew once each time, and keeps its addresses | always |
//! | both sides of a connect end active, or neither has an object | at the end |
//! | of what is too much, as much is held as a contract allows, the rest is refused by name; a node is held with its key | at the end |
//! | in maps that are too small what is there is right, and they are full before anything is missing | at the end |
//! | with room again every store and every kernel equals the reference, without a restart | at the end |
//! | every peer of a tunnel is of the newest epoch of its clock, and no handshake is refused for an older stamp | at the end |
//!
//! Design decision 3 has a law that is none here: a number that stands for an identity in a map never changes its meaning.
//! Nothing numbers identities: no map has a row of one, and the image and the steps have none (`datapath::image`,
//! `datapath::backend::bpf::Rows`). The law comes with the first map that holds such a number, which is policy's.

mod end;
mod hosts;
mod news;

pub(crate) use end::at_the_end;
pub(crate) use hosts::full_maps;

use crate::{
    disk::{LEASE_TTL_S, Object},
    reference::{self, Held, Records, limit, over},
    session::Session,
    wire::Manner,
    world::World,
};
use api::{
    bytes::BootId,
    key::{Key, MeshKey},
    name::ClusterName,
    peer::Contract,
    record::Record,
};
use news::{NodeId, Path, Use, may_use, path, uses};
use replica::Now;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A node may use what was announced within this time.
const NEWS_WITHIN: Duration = Duration::from_secs(60);

/// What was said so long ago has arrived, also over a slow line, or over one that was cut and healed.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// A contract's rate is an average over this time.
const RATE_OVER: Duration = Duration::from_secs(10);

/// A process that began so lately may not have looked at everything yet.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);

/// Messages under way on one connection: a page or a change each, and a follower asks for a page at a time.
const WIRE_MAX: usize = 4_096;

/// Watches a world.
#[derive(Debug, Default)]
pub(crate) struct Laws {
    /// When each cluster could last hear of each use, and from whom.
    heard: BTreeMap<ClusterName, BTreeMap<(ClusterName, Use), Now>>,
    /// What each cluster could say last: a source that is silent, or a node that is cut off, takes nothing back.
    told: BTreeMap<ClusterName, Records>,
    /// Since when news of a cluster reach a node.
    open_since: BTreeMap<(ClusterName, NodeId), (Path, Now)>,
    /// Since when each cluster has announced each of its keys without a pause.
    since: BTreeMap<ClusterName, BTreeMap<Key, Now>>,
    /// Everything that a cluster ever announced, as it travels.
    ever: BTreeMap<ClusterName, BTreeSet<(Key, Vec<u8>)>>,
    /// Clusters that were hostile at some time.
    liars: BTreeSet<ClusterName>,
    before: BTreeMap<ClusterName, Before>,
    revisions: BTreeMap<ClusterName, (u8, i64)>,
    views: BTreeMap<NodeId, ((u32, Option<BootId>), u64)>,
}

/// What was so at the last look.
#[derive(Debug, Default)]
struct Before {
    at: Now,
    /// What its store held of each peer, as its contract was then, and which disk that was.
    imports: BTreeMap<ClusterName, (BTreeSet<Key>, Contract)>,
    disks: u32,
}

/// A law that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// In a few words.
    pub law: &'static str,
    /// A sentence.
    pub how: String,
}

fn broken(law: &'static str, how: String) -> Result<(), Broken> {
    Err(Broken { law, how })
}

impl Laws {
    /// Takes note of what is announced now; to be called after each command.
    pub(crate) fn note(&mut self, world: &World) {
        for (name, site) in &world.sites {
            if site.manner == Manner::Hostile {
                self.liars.insert(name.clone());
            }
            let announced = reference::announced(world, name);
            let since = self.since.entry(name.clone()).or_default();
            since.retain(|key, _| announced.contains_key(key));
            for key in announced.keys() {
                if !since.contains_key(key) {
                    since.insert(key.clone(), world.now());
                }
            }
            let ever = self.ever.entry(name.clone()).or_default();
            for (key, record) in announced.iter().chain(&site.records) {
                let record = match record {
                    Record::Service(service) => {
                        api::record::Service { frontends: Vec::new(), ..service.clone() }.into()
                    }
                    record => record.clone(),
                };
                ever.insert((key.clone(), record.encode()));
            }
        }
        self.hear(world);
    }

    fn hear(&mut self, world: &World) {
        for (name, site) in &world.sites {
            let told = self.told.entry(name.clone()).or_default();
            if site.running.is_none() {
                continue;
            }
            let is_key = |key: &Key| matches!(key, Key::Mesh(_, MeshKey::Key(_)));
            let says = |key: &Key| match key {
                Key::Mesh(_, MeshKey::Key(node)) => world
                    .nodes
                    .get(&(name.clone(), node.clone()))
                    .is_none_or(|machine| machine.running.is_some() && world.reaches(name, node)),
                _ => site.source_speaks,
            };
            told.retain(|key, _| is_key(key) || !site.source_speaks);
            let announced = reference::announced(world, name).into_iter();
            told.extend(announced.chain(site.records.clone()).filter(|(key, _)| says(key)));
            // Of a machine that is off or cut off only the store knows what it said last: it may have got a new key and
            // been cut in one moment.
            told.extend(held(world, name, name).into_iter().filter(|(key, _)| is_key(key) && !says(key)));
        }
        for name in world.sites.keys() {
            let heard = self.heard.entry(name.clone()).or_default();
            for (of, used) in may_use(world, name, &self.told) {
                heard.insert((of, used), world.now());
            }
        }
    }

    /// Looks at everything that must always be so; to be called when time has passed.
    pub(crate) fn always(&mut self, world: &World) -> Result<(), Broken> {
        self.revisions_grow(world)?;
        for (name, site) in &world.sites {
            let Some(running) = &site.running else { continue };
            if world.now().since(running.since) < SETTLES_WITHIN {
                continue;
            }
            self.names(world, name)?;
            for (peer, session) in &running.sessions {
                if session.wire.queued() > WIRE_MAX {
                    return broken(
                        "queues are bounded",
                        format!("{} messages are under way from {peer} to {name}", session.wire.queued()),
                    );
                }
                let Some(object) = reference::objects(site).get(peer) else { continue };
                counts(object, (name, peer), &held(world, name, peer))?;
                rate(object, (name, peer), session, world.now())?;
            }
        }
        self.nothing_is_withdrawn(world)?;
        self.nothing_old_is_used(world)?;
        hosts::always(world)?;
        leases(world)
    }

    fn revisions_grow(&mut self, world: &World) -> Result<(), Broken> {
        for (name, site) in &world.sites {
            let Some(running) = &site.running else { continue };
            let now = (running.run, running.durable.store.revision());
            let before = self.revisions.insert(name.clone(), now);
            if before.is_some_and(|before| before.0 == now.0 && before.1 > now.1) {
                return broken(
                    "revisions grow",
                    format!("the revision of {name} fell from {before:?} to {now:?}"),
                );
            }
        }
        for (id, node) in &world.nodes {
            let Some(agent) = &node.running else { continue };
            let now = ((node.starts, agent.view.boot()), agent.view.revision());
            let before = self.views.insert(id.clone(), now);
            if before.is_some_and(|before| before.0 == now.0 && before.1 > now.1) {
                return broken(
                    "revisions grow",
                    format!("what {id:?} knows fell from {before:?} to {now:?}"),
                );
            }
        }
        Ok(())
    }

    /// Names, contents and contracts of what a cluster's store holds of others.
    fn names(&self, world: &World, name: &ClusterName) -> Result<(), Broken> {
        let site = &world.sites[name];
        let objects = reference::objects(site);
        for of in site.announcers() {
            let Some(object) = objects.get(&of) else {
                // Its object went in the last tick; its records go in the next one.
                if site.running.as_ref().is_some_and(|running| running.sessions.contains_key(&of)) {
                    continue;
                }
                return broken("names", format!("{name} holds records of {of}, which is no peer of it"));
            };
            for (key, record) in held(world, name, &of) {
                if !reference::is_within(&key, &record, &object.contract.cidrs) {
                    return broken(
                        "contracts",
                        format!("{name} holds {key}, which its contract does not contain: {record:?}"),
                    );
                }
                if let (Key::Mesh(_, MeshKey::Identity(namespace, id)), Record::Identity(said)) =
                    (&key, &record)
                    && let Some(author) = world.sites.get(&of)
                    && reference::identity_of(author, namespace, said) != *id
                {
                    return broken(
                        "identities are hashes",
                        format!("{name} holds {key}, which says {said:?}"),
                    );
                }
                let ever = &self.ever[&of];
                let told = self.liars.contains(&of)
                    || matches!(key, Key::Mesh(_, MeshKey::Cluster))
                    || ever.contains(&(key.clone(), record.encode()));
                if !told {
                    return broken(
                        "names",
                        format!("{name} holds {key}, which {of} never announced: {record:?}"),
                    );
                }
            }
        }
        Ok(())
    }

    fn nothing_is_withdrawn(&mut self, world: &World) -> Result<(), Broken> {
        let mut now: BTreeMap<ClusterName, Before> = BTreeMap::new();
        for (name, site) in &world.sites {
            let mut look = Before { at: world.now(), disks: site.disks, imports: BTreeMap::new() };
            for (peer, object) in reference::objects(site) {
                let keys = held(world, name, peer).into_keys().collect();
                look.imports.insert(peer.clone(), (keys, object.contract.clone()));
            }
            now.insert(name.clone(), look);
        }
        for (name, look) in &now {
            let Some(before) = self.before.get(name) else { continue };
            let is_down = world.sites[name].running.is_none();
            if is_down || before.disks != look.disks {
                continue;
            }
            for (peer, (had, contract)) in &before.imports {
                let Some((has, contract_now)) = look.imports.get(peer) else { continue };
                if contract != contract_now || self.liars.contains(peer) {
                    continue;
                }
                // The delete of one that came again lately may still be on its way.
                let said = |key: &Key| {
                    let since = self.since.get(peer).and_then(|since| since.get(key));
                    since.is_some_and(|since| *since + ARRIVES_WITHIN <= before.at)
                };
                // Only a node that is held has its key looked after: one that its contract does not contain may lose it
                // when the peer's store does.
                let counts = |key: &Key| match key {
                    Key::Mesh(_, MeshKey::Key(node)) => {
                        let node = MeshKey::Node(node.clone()).of(peer);
                        had.contains(&node) && has.contains(&node)
                    }
                    _ => true,
                };
                let lost = had.difference(has).find(|key| counts(key) && said(key));
                if let Some(key) = lost {
                    return broken(
                        "nothing is withdrawn",
                        format!("{name} lost {key}, which {peer} announced all the time"),
                    );
                }
            }
        }
        self.before = now;
        Ok(())
    }

    fn nothing_old_is_used(&mut self, world: &World) -> Result<(), Broken> {
        let everybody = || world.sites.keys().chain(world.gone.keys());
        for (id, node) in &world.nodes {
            for of in everybody() {
                let path = path(world, id, of);
                let now = world.now();
                let known = self.open_since.entry((of.clone(), id.clone())).or_default();
                match path {
                    Some(path) if path == known.0 => {}
                    path => *known = (path.unwrap_or_default(), now),
                }
            }
            let heard = &self.heard[&id.0];
            for used in uses(&Held::of(&node.kernel)) {
                let old = |of: &ClusterName| {
                    let heard = heard.get(&(of.clone(), used.clone()))?;
                    let (_, open) = self.open_since[&(of.clone(), id.clone())];
                    Some(world.now().since((*heard).max(open)))
                };
                // What nobody announced as it is may be put together from an old copy of one and news of another.
                let open = |of: &ClusterName| world.now().since(self.open_since[&(of.clone(), id.clone())].1);
                let age = everybody().filter_map(old).min();
                let age = age.or_else(|| everybody().map(open).min()).unwrap_or(Duration::MAX);
                if age > NEWS_WITHIN {
                    return broken(
                        "nothing old is used",
                        format!("{}/{} still uses {used:?}, which nobody announces", id.0, id.1),
                    );
                }
            }
        }
        Ok(())
    }
}

/// What a cluster's store holds of another, without the importer's own word.
fn held(world: &World, at: &ClusterName, of: &ClusterName) -> Records {
    let Some(running) = &world.sites[at].running else { return Records::new() };
    let records = running.durable.records(of).into_iter();
    records.filter(|(key, _)| !matches!(key, Key::Mesh(_, MeshKey::Synced(_)))).collect()
}

/// Of no kind is more held than the contract allows.
fn counts(object: &Object, (name, peer): (&ClusterName, &ClusterName), held: &Records) -> Result<(), Broken> {
    match over(held, object).first() {
        None => Ok(()),
        Some(kind) => {
            let most = limit(object, *kind);
            broken("contracts", format!("{name} holds more than {most} {kind:?} of {peer}"))
        }
    }
}

/// What was put since the rate was set took its time.
fn rate(
    object: &Object,
    (name, peer): (&ClusterName, &ClusterName),
    session: &Session,
    now: Now,
) -> Result<(), Broken> {
    let (puts, since) = session.puts;
    let rate = u64::from(object.contract.limits.changes_per_second);
    if puts > rate * ((RATE_OVER + now.since(since)).as_secs() + 1) {
        return broken("contracts", format!("{name} put {puts} records of {peer} at {rate} a second"));
    }
    Ok(())
}

fn leases(world: &World) -> Result<(), Broken> {
    for (cluster, at, key) in &world.leases {
        let Some(running) = &world.sites[cluster].running else { continue };
        let age = world.now().since((*at).max(running.since));
        let over = Duration::from_secs(LEASE_TTL_S.unsigned_abs()) + SETTLES_WITHIN;
        if age > over && running.durable.get(key).is_some() {
            return broken("leases end", format!("{cluster} still has {key}, whose lease ended"));
        }
    }
    Ok(())
}
