//! One peer, followed: from its object and what it says to records and a verdict in our store.

use crate::{
    bug::{Bug, Planted},
    chance::Chance,
    disk::Object,
    site::Apiserver,
    wire::{Line, Trouble, Wire},
};
use api::{
    key::{Key, LocalKey, MeshKey, cluster_prefix},
    name::ClusterName,
    peer::{Contract, Limits},
    record::{Heartbeat, PeerState, Phase},
};
use replica::{
    Now,
    follower::{Follow, Follower},
    freshness::{Age, Verdict},
    import::{Facts, Import, Setup, Write},
    peering::{Side, Wish},
};

/// Writes of one txn.
const WRITES_MAX: usize = 128;

/// One peer, followed.
#[derive(Debug)]
pub struct Session {
    /// What it announced, after the contract.
    pub import: Import,
    /// The connection.
    pub wire: Wire,
    /// The follower over it.
    pub follower: Follower,
    /// Complete lists that it read.
    pub lists: usize,
    /// Records that it put since its rate was set, and since when that is.
    pub puts: (u64, Now),
    prefixes: Vec<String>,
    /// The object and the facts that the rest was told last, and the object as the side sees it.
    told: (Object, Facts),
    connect: replica::peering::Object,
    age: Age,
    first_beat: Option<Heartbeat>,
    side: Side,
}

impl Session {
    /// Moves its wire, and what came over it.
    pub fn step(&mut self, server: Result<Line<'_>, Trouble>, chance: &mut Chance, now: Now) {
        self.wire.step(&mut self.follower, server, chance, now);
        while let Some(event) = self.follower.poll_event() {
            self.lists += usize::from(self.import.handle(event).is_some());
        }
    }

    fn follow(&mut self, peer: &ClusterName, seed: u64) {
        self.prefixes = self.import.prefixes();
        let follow = Follow { cluster: peer.clone(), prefixes: self.prefixes.clone() };
        self.follower = Follower::new(follow, seed);
        self.wire = Wire::default();
    }
}

impl Apiserver {
    /// A tick of one peering.
    #[expect(clippy::too_many_arguments, reason = "a session borrows from the site, which holds all of them")]
    pub(crate) fn peer(
        &mut self,
        session: Option<Session>,
        own: &ClusterName,
        peer: &ClusterName,
        object: &Object,
        facts: Facts,
        (now, unix_s): (Now, u64),
        planted: Planted,
    ) -> Session {
        let mut session = session.unwrap_or_else(|| {
            let held = self.held(peer);
            let connect = connect(object);
            let (contract, held_to) = terms(object, &facts, planted);
            let stored = self.durable.list(&cluster_prefix(peer)).into_iter();
            let setup = Setup {
                us: own.clone(),
                peer: peer.clone(),
                uuid: object.uuid,
                boot: self.boot,
                contract,
                facts: held_to,
                active: held.as_ref().is_some_and(|held| held.phase == Phase::Active),
                stored: stored.filter_map(|(k, v)| Some((Key::parse(k.as_bytes()).ok()?, v))).collect(),
            };
            let import = Import::new(setup, now);
            let prefixes = import.prefixes();
            let verdict =
                held.as_ref().map(|held| Verdict { freshness: held.freshness, dropped: held.dropped });
            let seed = u64::from(self.boot.0[0]) << 8 | u64::from(self.boot.0[1]);
            Session {
                follower: Follower::new(Follow { cluster: peer.clone(), prefixes: prefixes.clone() }, seed),
                wire: Wire::default(),
                lists: 0,
                puts: (0, now),
                prefixes,
                age: Age::new(object.stale, verdict, now),
                first_beat: None,
                side: Side::new(&connect, held.as_ref(), now),
                told: (object.clone(), facts.clone()),
                connect,
                import,
            }
        });
        if session.told.0 != *object || session.told.1 != facts {
            let (contract, held_to) = terms(object, &facts, planted);
            let rate = |object: &Object| object.contract.limits.changes_per_second;
            if rate(&session.told.0) != rate(object) {
                session.puts = (0, now);
            }
            session.import.set_facts(held_to);
            session.import.set_contract(contract, now);
            session.connect = connect(object);
            session.told = (object.clone(), facts);
        }
        let decision = session.side.decide(&session.connect, session.import.seen().peering(), now, unix_s);
        session.import.set_active(decision.phase == Phase::Active);
        if session.import.prefixes() != session.prefixes {
            session.follow(peer, 1);
        }
        if session.import.poll_relist(now) {
            session.follower.relist(now);
        }
        if let Some(beat) = &session.import.seen().heartbeat {
            let first = session.first_beat.get_or_insert_with(|| beat.clone());
            session.age.handle(if planted.is(Bug::HearsOneBeat) { first } else { beat }, now);
        }
        let Verdict { freshness, dropped } = session.age.verdict(now);
        let state = PeerState {
            uuid: object.uuid,
            phase: decision.phase,
            freshness,
            stale_policy: object.stale.policy,
            drop_after_ms: u64::from(object.stale.drop_after_s().unwrap_or(0)) * 1_000,
            prefixes: object.contract.cidrs.clone(),
            nonce: object.nonce,
            dropped,
            through: None,
            relay: vec![],
        };
        let closed = Key::from(LocalKey::Closed(peer.clone())).to_string();
        if decision.phase == Phase::Active && self.durable.get(&closed).is_some() {
            // Whoever is active owns its prefixes again.
            self.durable.delete_raw(&closed);
        }
        loop {
            let mut writes = session.import.poll_writes(WRITES_MAX, now);
            if writes.is_empty() {
                break;
            }
            if planted.is(Bug::WritesUnderAnotherName) {
                writes.iter_mut().for_each(misname);
            }
            session.puts.0 += writes.iter().filter(|write| matches!(write, Write::Put { .. })).count() as u64;
            self.durable.write(writes);
        }
        self.durable.publish(&LocalKey::Peer(peer.clone()).into(), &state.into());
        self.durable.publish(&MeshKey::Peering(peer.clone()).of(own), &decision.publish.into());
        match decision.wish {
            Wish::Keep => {}
            Wish::Activate => {
                self.durable.disk.objects.insert(peer.clone(), Object { deadline_s: None, ..object.clone() });
            }
            Wish::Remove(_) => drop(self.durable.disk.objects.remove(peer)),
        }
        session
    }
}

/// The object as a side of a peering sees it.
fn connect(object: &Object) -> replica::peering::Object {
    replica::peering::Object {
        nonce: object.nonce,
        deadline_s: object.deadline_s,
        contract_hash: object.contract.hash(),
    }
}

/// What the peer is held to.
fn terms(object: &Object, facts: &Facts, planted: Planted) -> (Contract, Facts) {
    if planted.is(Bug::ImportsWithoutContract) {
        let everything = vec!["0.0.0.0/0".parse().expect("a prefix")];
        return (Contract { cidrs: everything, ..object.contract.clone() }, Facts::default());
    }
    let mut contract = object.contract.clone();
    if planted.is(Bug::CountsNothing) {
        contract.limits = Limits::default();
    }
    (contract, facts.clone())
}

/// [`Bug::WritesUnderAnotherName`].
fn misname(write: &mut Write) {
    let (Write::Put { key, .. } | Write::Delete { key }) = write;
    if let Key::Mesh(cluster, MeshKey::Backend(..)) = key {
        *cluster = "nobody".parse().expect("a name");
    }
}
