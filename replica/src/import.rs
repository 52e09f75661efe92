//! What a peer announced, after its contract allowed it: the only way by which foreign records reach our store.
//!
//! ```text
//!  follower of the peer ──event──▶ parse ─▶ rules ─▶ limits and claims ─▶ accepted ──diff──▶ writes to our store
//!                                     └───────┴──────────────┴─▶ refused: counted, and nothing else happens
//! ```
//!
//! Level, not edge: `accepted` is what our store should hold of the peer, `stored` what it does, and the writes are
//! the difference, however often a key changed in between. So a flapping peer costs its rate and no more.
//!
//! A refused value leaves what was accepted under its key as it is; only a delete, or a list that lacks the key,
//! takes it away. What was refused because of others (a limit, a prefix, a public key) is tried again when something
//! goes, within [`WAITING_MAX`]; beyond that, and after the contract changed, the peer is listed again.

mod accepted;
mod claims;
mod list;
mod reason;
mod rules;
mod seen;

pub use reason::Reason;
pub use seen::{Seen, Told};

use crate::{
    Now,
    follower::{Event, Value},
    rate::Bucket,
    view::Relisted,
};
use accepted::{Accepted, Limited};
use api::{
    bytes::{BootId, ClusterUuid, PublicKey},
    key::{Key, KeyError, Kind, MeshKey, cluster_prefix},
    name::ClusterName,
    peer::Contract,
    record::{ImportState, Record, Synced},
};
use ipnet::IpNet;
use list::List;
use reason::Refusals;
use rules::Rules;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

/// Records that wait for another one to go. An honest peer has none but while something moves between two nodes.
const WAITING_MAX: usize = 1_024;

/// Unwritten records that are compared with the store for each write that is made: after a contract's change or a
/// restart nearly all are as the store has them.
const LOOK_AHEAD: usize = 64;

/// We do not ask for another list more often than this: the largest list we promise is read in seconds.
const RELIST_EVERY: Duration = Duration::from_secs(10);

/// The kinds of which an import says in our store that they are complete, after it has written all of them.
pub const VOUCHED: [Kind; 6] =
    [Kind::Nodes, Kind::Namespaces, Kind::Identities, Kind::Endpoints, Kind::Services, Kind::Backends];

/// What we know of the world beside the peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Our own pod, service and mesh ranges.
    pub our_cidrs: Vec<IpNet>,
    /// Where any tunnel of ours or of another peer is dialled.
    pub tunnel_endpoints: BTreeSet<IpAddr>,
    /// What the contracts of all other peers contain.
    pub other_contracts: Vec<IpNet>,
    /// Public keys of our nodes and of all other peers' nodes.
    pub foreign_keys: BTreeSet<PublicKey>,
}

/// What an import begins with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Our own name.
    pub us: ClusterName,
    /// The peer's name, under which its records lie here as there.
    pub peer: ClusterName,
    /// The peer's immutable name.
    pub uuid: ClusterUuid,
    /// The boot of our own store: `synced/<kind>` of the peer is written in it.
    pub boot: BootId,
    /// What we accept.
    pub contract: Contract,
    /// The world beside the peer.
    pub facts: Facts,
    /// The peering is active; before that nothing is imported.
    pub active: bool,
    /// What our store holds under `mesh/v1/<peer>/` from before.
    pub stored: BTreeMap<Key, Vec<u8>>,
}

/// A change of our own store, under `mesh/v1/<peer>/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Put it.
    Put {
        /// Where.
        key: Key,
        /// Encoded from what was parsed.
        value: Vec<u8>,
    },
    /// Delete it.
    Delete {
        /// Where.
        key: Key,
    },
}

/// The import of one peer.
#[derive(Debug)]
pub struct Import {
    us: ClusterName,
    peer: ClusterName,
    uuid: ClusterUuid,
    boot: BootId,
    contract: Contract,
    facts: Facts,
    active: bool,
    seen: Seen,
    accepted: Accepted,
    waiting: BTreeMap<MeshKey, (Record, u64)>,
    /// More waited than there was room for.
    overflowed: bool,
    list: Option<List>,
    /// Held though the peer's last list lacked them, until it vouches for their kind.
    unconfirmed: BTreeSet<MeshKey>,
    stored: BTreeMap<MeshKey, Vec<u8>>,
    dirty: BTreeSet<MeshKey>,
    rate: Bucket,
    relist: Relist,
    refusals: Refusals,
    last_error: String,
}

#[derive(Debug)]
struct Relist {
    wanted: bool,
    not_before: Now,
}

impl Import {
    /// An import of what follows. What the store holds from before stays, as far as the contract still allows it.
    #[must_use]
    pub fn new(setup: Setup, now: Now) -> Self {
        let rate = Bucket::new(setup.contract.limits.changes_per_second, now);
        let mut import = Self {
            us: setup.us,
            peer: setup.peer,
            uuid: setup.uuid,
            boot: setup.boot,
            contract: setup.contract,
            facts: setup.facts,
            active: setup.active,
            seen: Seen::default(),
            accepted: Accepted::default(),
            waiting: BTreeMap::new(),
            overflowed: false,
            list: None,
            unconfirmed: BTreeSet::new(),
            stored: BTreeMap::new(),
            dirty: BTreeSet::new(),
            rate,
            relist: Relist { wanted: false, not_before: now },
            refusals: Refusals::default(),
            last_error: String::new(),
        };
        for (key, value) in setup.stored {
            import.adopt(key, value);
        }
        import
    }

    /// What a follower of the peer should follow: all of it once the peering is active, before that only who it is,
    /// that it lives and how far it is.
    #[must_use]
    pub fn prefixes(&self) -> Vec<String> {
        let of = |key: MeshKey| key.of(&self.peer).to_string();
        if self.active {
            return vec![cluster_prefix(&self.peer)];
        }
        let peerings = [MeshKey::Peering(self.us.clone()), MeshKey::Synced(Kind::Peerings)];
        [MeshKey::Cluster, MeshKey::Heartbeat, MeshKey::Lineage].into_iter().chain(peerings).map(of).collect()
    }

    /// What the peer says of itself: for its freshness, and for the peering.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Public keys of its nodes, which no other peer's node may use.
    pub fn public_keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.accepted.claims().keys()
    }

    /// Where its nodes are dialled, which nobody may announce.
    pub fn tunnel_endpoints(&self) -> impl Iterator<Item = &IpAddr> {
        self.accepted.nodes().flat_map(|node| &node.endpoints)
    }

    /// Takes an event of the follower of [`Import::prefixes`]. A list that ends says what it did.
    pub fn handle(&mut self, event: Event) -> Option<Relisted> {
        match event {
            Event::Init => self.list = Some(List::default()),
            Event::InitApply(value) => self.take_listed(value),
            Event::InitDone { revision } => {
                self.seen.connect(revision);
                return self.finish_list();
            }
            Event::Resumed { revision } => self.seen.connect(revision),
            Event::Apply(value) => self.take(value),
            Event::Delete { key, mod_revision } => {
                if let Ok(Key::Mesh(cluster, key)) = Key::parse(&key)
                    && cluster == self.peer
                {
                    self.delete(&key, mod_revision);
                }
            }
            Event::Progress { revision } => self.seen.revision = revision,
            Event::Disconnected { error, refused, .. } => {
                // A list that was begun goes on, or begins anew.
                self.seen.disconnect(refused);
                self.last_error = error;
            }
        }
        None
    }

    /// The peering became active, or was prepared anew.
    pub fn set_active(&mut self, active: bool) {
        if active && !self.active {
            self.relist.wanted = true;
        }
        self.active = active;
    }

    /// Holds everything to another contract: what it no longer allows goes, what it now allows is listed again.
    pub fn set_contract(&mut self, contract: Contract, now: Now) {
        if contract != self.contract {
            if contract.limits.changes_per_second != self.contract.limits.changes_per_second {
                self.rate = Bucket::new(contract.limits.changes_per_second, now);
            }
            self.contract = contract;
            self.relist.wanted = self.active;
            self.check_again();
        }
    }

    /// Holds everything to what is now known of the world.
    pub fn set_facts(&mut self, facts: Facts) {
        if facts != self.facts {
            self.facts = facts;
            self.check_again();
        }
    }

    /// Whether the follower should list the peer again; asked once, answered once.
    pub fn poll_relist(&mut self, now: Now) -> bool {
        let due = self.relist.wanted && now >= self.relist.not_before;
        if due {
            self.relist = Relist { wanted: false, not_before: now + RELIST_EVERY };
            self.overflowed = false;
        }
        due
    }

    /// The next changes of our store, at most `max` of them, in the order in which they should be made: deletes first,
    /// and the word that a kind is complete last.
    pub fn poll_writes(&mut self, max: usize, now: Now) -> Vec<Write> {
        let mut writes = Vec::new();
        for key in self.next_dirty(max) {
            if let MeshKey::Synced(kind) = key
                && self.dirty.iter().any(|other| other.kind() == kind)
            {
                continue; // Its word counts for what is not written yet.
            }
            let desired = self.desired(&key);
            if desired.as_ref() == self.stored.get(&key) {
                self.dirty.remove(&key);
                continue;
            }
            if writes.len() >= max || (desired.is_some() && !self.rate.take(now)) {
                break;
            }
            self.dirty.remove(&key);
            writes.push(self.write(key, desired));
        }
        writes
    }

    /// Room is made before it is taken, and deletes cost nothing: they go first. What turns out to be no change
    /// counts as none, so more puts than `max` are looked at.
    fn next_dirty(&self, max: usize) -> Vec<MeshKey> {
        let (mut deletes, mut puts, mut words) = (Vec::new(), Vec::new(), Vec::new());
        for key in &self.dirty {
            let (place, room) = match key {
                MeshKey::Synced(_) => (&mut words, usize::MAX),
                _ if self.accepted.contains(key) => (&mut puts, max.saturating_mul(LOOK_AHEAD)),
                _ => (&mut deletes, max),
            };
            if place.len() < room {
                place.push(key.clone());
            }
        }
        deletes.append(&mut puts);
        deletes.append(&mut words);
        deletes
    }

    /// The writes were not made; they are wanted again as far as they still are.
    pub fn requeue(&mut self, writes: Vec<Write>) {
        for write in writes {
            let (Write::Put { key, .. } | Write::Delete { key }) = write;
            let Key::Mesh(_, key) = key else { continue };
            match self.desired(&key) {
                // Whatever the store holds now, it is neither.
                Some(_) => drop(self.stored.remove(&key)),
                None => drop(self.stored.insert(key.clone(), Vec::new())),
            }
            self.dirty.insert(key);
        }
    }

    /// When to poll again though nothing was handled.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        let write = (!self.dirty.is_empty()).then(|| self.rate.ready_at());
        let relist = self.relist.wanted.then_some(self.relist.not_before);
        write.into_iter().chain(relist).min()
    }

    /// Counters, for status.
    #[must_use]
    pub fn state(&self) -> ImportState {
        let count = |kind| self.accepted.count(kind) as u64;
        ImportState {
            records: self.accepted.len() as u64,
            endpoints: count(Kind::Endpoints),
            backends: count(Kind::Backends),
            services: count(Kind::Services),
            peer_revision: self.seen.revision,
            refusals: self.refusals.list(),
            last_error: if self.seen.connected { String::new() } else { self.last_error.clone() },
            connected: self.seen.connected,
            synced: self.seen.synced,
            ..ImportState::default()
        }
    }

    fn desired(&self, key: &MeshKey) -> Option<Vec<u8>> {
        match key {
            MeshKey::Synced(kind) => {
                (self.active && self.seen.vouches_for(*kind)).then(|| Synced { boot: self.boot }.encode())
            }
            _ => self.accepted.get(key).map(Record::encode),
        }
    }

    fn write(&mut self, key: MeshKey, desired: Option<Vec<u8>>) -> Write {
        let at = key.clone().of(&self.peer);
        match desired {
            Some(value) => {
                self.stored.insert(key, value.clone());
                Write::Put { key: at, value }
            }
            None => {
                self.stored.remove(&key);
                Write::Delete { key: at }
            }
        }
    }

    /// What our store holds from before is held until the peer says otherwise, if the contract allows it.
    fn adopt(&mut self, key: Key, value: Vec<u8>) {
        let Key::Mesh(cluster, mesh) = &key else { return };
        if *cluster != self.peer {
            return;
        }
        self.stored.insert(mesh.clone(), value.clone());
        if matches!(mesh, MeshKey::Synced(_)) {
            return; // An older boot's word, which nobody takes for this one's.
        }
        self.dirty.insert(mesh.clone());
        if let Ok(record) = Record::decode(&key, &value) {
            // Its revision was our store's; the peer's are another count.
            self.consider(mesh.clone(), record, 0);
        }
    }

    fn take(&mut self, value: Value) {
        let Some((key, record)) = self.read(&value) else { return };
        if self.seen.take(&self.us, &key, &record) {
            self.vouched();
        } else if self.active {
            self.unconfirmed.remove(&key);
            self.consider(key, record, value.mod_revision);
            self.retry();
        } else {
            self.glance(&key, record);
        }
    }

    /// Before the peering is active nothing is held; but that it is another cluster should be known by then.
    fn glance(&mut self, key: &MeshKey, record: Record) {
        if *key == MeshKey::Cluster
            && let Err(reason) = self.rules().check(key, record)
        {
            self.refusals.count(reason, &key.clone().of(&self.peer).to_string());
        }
    }

    /// Parses a value of the peer, or counts why it is not one.
    fn read(&mut self, value: &Value) -> Option<(MeshKey, Record)> {
        let reason = match Key::parse(&value.key) {
            Ok(Key::Mesh(cluster, key)) if cluster == self.peer => {
                match Record::decode(&key.clone().of(&self.peer), &value.value) {
                    Ok(record) => return Some((key, record)),
                    Err(_) => {
                        if let Some(list) = &mut self.list {
                            list.refused(key);
                        }
                        Reason::MalformedValue
                    }
                }
            }
            Ok(Key::Mesh(..) | Key::Local(_)) => Reason::ForeignKey,
            // Another version's: ignored, never passed on.
            Err(KeyError::Unknown) => return None,
            Err(_) => Reason::MalformedKey,
        };
        self.refusals.count(reason, &String::from_utf8_lossy(&value.key));
        None
    }

    /// Accepts a record, or counts why not; what was accepted under its key before then stays.
    fn consider(&mut self, key: MeshKey, record: Record, revision: u64) {
        self.waiting.remove(&key);
        let reason = match self.rules().check(&key, record) {
            Err(reason) => reason,
            Ok(record) => match self.accept(&key, record.clone(), revision) {
                Ok(()) => return,
                Err(reason) => {
                    self.wait(key.clone(), record, revision);
                    reason
                }
            },
        };
        self.refusals.count(reason, &key.of(&self.peer).to_string());
    }

    /// What depends on the peer's other records: limits and claims.
    fn accept(&mut self, key: &MeshKey, record: Record, revision: u64) -> Result<(), Reason> {
        if let Record::TunnelKey(tunnel) = &record
            && self.facts.foreign_keys.contains(&tunnel.public_key)
        {
            return Err(Reason::KeyTaken);
        }
        let displaced = self.accepted.put(key, record, revision, Limited(&self.contract.limits))?;
        self.dirty.insert(key.clone());
        if let Some((key, record, revision)) = displaced {
            self.dirty.insert(key.clone());
            self.refusals.count(Reason::OverLimit, &key.clone().of(&self.peer).to_string());
            self.wait(key, record, revision);
        }
        if let MeshKey::Node(node) = key
            && self.waiting.contains_key(&MeshKey::Key(node.clone()))
        {
            // Its key waited behind those of others, and comes before them now.
            self.accepted.free();
        }
        Ok(())
    }

    fn wait(&mut self, key: MeshKey, record: Record, revision: u64) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.insert(key, (record, revision));
        } else {
            self.overflowed = true;
        }
    }

    /// Something went: what waited for it may pass now.
    fn retry(&mut self) {
        while self.accepted.take_freed() {
            self.relist.wanted |= self.overflowed && self.active;
            for (key, (record, revision)) in std::mem::take(&mut self.waiting) {
                if self.accept(&key, record.clone(), revision).is_err() {
                    self.waiting.insert(key, (record, revision));
                }
            }
        }
    }

    fn delete(&mut self, key: &MeshKey, mod_revision: u64) {
        if self.seen.forget(&self.us, key) {
            self.dirty.extend(VOUCHED.map(MeshKey::Synced));
            return;
        }
        if !self.active {
            return;
        }
        self.waiting.remove(key);
        self.unconfirmed.remove(key);
        // A delete from before the record that is held is not about it.
        if self.accepted.revision(key).is_some_and(|held| held <= mod_revision) {
            self.remove(key);
            self.sweep_unconfirmed();
        }
        self.retry();
    }

    fn remove(&mut self, key: &MeshKey) {
        self.accepted.remove(key);
        self.dirty.insert(key.clone());
    }

    fn check_again(&mut self) {
        let before = std::mem::take(&mut self.accepted);
        let waiting = std::mem::take(&mut self.waiting);
        for (key, (record, revision)) in before.into_records() {
            self.dirty.insert(key.clone());
            self.consider(key, record, revision);
        }
        for (key, (record, revision)) in waiting {
            if !self.accepted.contains(&key) {
                self.consider(key, record, revision);
            }
        }
        self.retry();
    }

    fn rules(&self) -> Rules<'_> {
        Rules { uuid: self.uuid, contract: &self.contract, facts: &self.facts }
    }
}

#[cfg(test)]
mod tests;
