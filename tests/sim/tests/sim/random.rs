//! Random days of a mesh. A failing seed is a test case: put it into [`SEEDS`] with what it found.

use api::{
    key::{Key, MeshKey, cluster_prefix},
    name::ClusterName,
    peer::{Limits, Stale, overlap},
    record::Record,
};
use ipnet::IpNet;
use sim::{chance::Chance, records, world::World};
use std::{collections::BTreeMap, time::Duration};

const SEEDS: std::ops::Range<u64> = 0..8;
const STEPS: u32 = 50;
/// Longer than the longest wait of a follower, a deadline and the age of a stale peer together.
const QUIET: Duration = Duration::from_secs(100);

#[test]
fn after_quiet_time_everybody_holds_what_the_contracts_allow_and_nothing_else() {
    for seed in SEEDS {
        let mut mesh = Mesh::new(seed);
        for step in 0..STEPS {
            mesh.step();
            mesh.nothing_outside_a_contract(seed, step);
        }
        mesh.peace();
        mesh.world.wait(QUIET);
        mesh.nothing_outside_a_contract(seed, STEPS);
        mesh.peerings_have_two_sides(seed);
        mesh.imports_equal_what_is_announced(seed);
        mesh.agents_equal_their_stores(seed);
    }
}

struct Mesh {
    world: World,
    chance: Chance,
    names: Vec<ClusterName>,
}

impl Mesh {
    fn new(seed: u64) -> Self {
        let names = ["east", "north", "west"].map(|name| name.parse().expect("a name")).to_vec();
        let mut mesh = Self { world: World::new(seed), chance: Chance::new(!seed), names };
        for (n, name) in mesh.names.clone().iter().enumerate() {
            mesh.world.add(name, vec![format!("10.{n}.0.0/16").parse().expect("a prefix")]);
            mesh.world.copies.insert(name.clone(), sim::disk::Disk::default());
        }
        mesh
    }

    fn two(&mut self) -> (ClusterName, ClusterName) {
        let a = self.chance.below(3) as usize;
        let b = (a + 1 + self.chance.below(2) as usize) % 3;
        (self.names[a].clone(), self.names[b].clone())
    }

    fn step(&mut self) {
        let (a, b) = self.two();
        let now = self.world.now();
        match self.chance.below(16) {
            0..=4 => self.publish(&a),
            5..=6 => self.withdraw(&a),
            7 => {
                let nonce = self.world.nonce();
                self.world.write_object(&a, &b, nonce, Limits::default(), Stale::default());
                // meshctl dies between its two requests at times.
                if self.chance.below(4) > 0 {
                    self.world.write_object(&b, &a, nonce, Limits::default(), Stale::default());
                }
            }
            8 => {
                self.world.site(&a).objects().remove(&b);
            }
            9 => self.world.cut(&a, &b, true),
            10 => self.world.cut(&a, &b, false),
            11 => {
                self.world.site(&a).kill();
                if self.chance.below(3) == 0 {
                    let objects = std::mem::take(&mut self.world.site(&a).disk.objects);
                    let copy = self.world.copies[&a].clone();
                    self.world.site(&a).disk = copy;
                    self.world.site(&a).disk.objects = objects;
                }
                self.world.site(&a).start(now);
            }
            12 => {
                if let Some(running) = &self.world.site(&a).running {
                    let copy = running.durable.disk.clone();
                    self.world.copies.insert(a, copy);
                }
            }
            13 => {
                if let Some(running) = &mut self.world.site(&a).running {
                    running.durable.compact();
                }
            }
            14 => {
                let cut = self.chance.below(2) == 0;
                self.world.cut_agent(&a, cut);
            }
            _ => self.world.reset_one_in = *self.chance.pick(&[0, 50, 400]),
        }
        let ms = self.chance.below(6_000);
        self.world.wait(Duration::from_millis(ms));
    }

    /// Mostly honest: one in four announces what no contract allows.
    fn publish(&mut self, at: &ClusterName) {
        let own = self.names.iter().position(|name| name == at).expect("one of ours");
        let n = if self.chance.below(4) == 0 { self.chance.below(9) as usize } else { own };
        let host = self.chance.below(6);
        let (rest, words) = match self.chance.below(5) {
            0 => (format!("services/shop/s{host}"), String::new()),
            1 => (format!("backends/shop/cart/10.{n}.0.{host}"), String::new()),
            2 => (format!("endpoints/shop/10.{n}.0.{host}"), String::new()),
            3 => (
                format!("nodes/n{host}"),
                format!("mesh=10.{n}.255.{host} prefixes=10.{n}.{}.0/24", host / 2),
            ),
            _ => (format!("keys/n{host}"), format!("key={}", host / 2 + 1)),
        };
        let key = Key::parse(format!("mesh/v1/{at}/{rest}").as_bytes()).expect("a key");
        let words: Vec<&str> = words.split_whitespace().collect();
        let record = records::parse(&key, &words);
        self.world.site(at).source.insert(key, record);
    }

    fn withdraw(&mut self, at: &ClusterName) {
        let keys: Vec<Key> = self.world.site(at).source.keys().cloned().collect();
        if !keys.is_empty() {
            let key = self.chance.pick(&keys).clone();
            self.world.site(at).source.remove(&key);
        }
    }

    fn peace(&mut self) {
        self.world.reset_one_in = 0;
        let now = self.world.now();
        for a in self.names.clone() {
            self.world.cut_agent(&a, false);
            self.world.site(&a).start(now);
            for b in self.names.clone() {
                self.world.cut(&a, &b, false);
            }
        }
    }

    /// What one cluster's store holds of another, without the importer's own word.
    fn held(&mut self, at: &ClusterName, of: &ClusterName) -> BTreeMap<Key, Record> {
        let Some(running) = &self.world.site(at).running else { return BTreeMap::new() };
        let records = running.durable.records(of).into_iter();
        records.filter(|(key, _)| !matches!(key, Key::Mesh(_, MeshKey::Synced(_)))).collect()
    }

    fn nothing_outside_a_contract(&mut self, seed: u64, step: u32) {
        for (n, of) in self.names.clone().iter().enumerate() {
            let cidr: IpNet = format!("10.{n}.0.0/16").parse().expect("a prefix");
            for at in self.names.clone().iter().filter(|at| *at != of) {
                for (key, record) in self.held(at, of) {
                    assert!(
                        is_within(&key, &record, &cidr),
                        "seed {seed}, step {step}: {at} holds {key} {record:?}"
                    );
                }
            }
        }
    }

    /// Both sides are active in one connect, or neither waits for the other; only who was active may be left over.
    fn peerings_have_two_sides(&mut self, seed: u64) {
        for a in self.names.clone() {
            for (b, object) in self.world.site(&a).objects().clone() {
                assert!(object.deadline_s.is_none(), "seed {seed}: {a} still prepares for {b}");
                let theirs = self.world.site(&b).objects().get(&a).cloned();
                let same = theirs.is_some_and(|theirs| theirs.nonce == object.nonce);
                let running = self.world.site(&a).running.as_ref().expect("it runs");
                let key = format!("mesh-local/v1/peers/{b}");
                let state = api::record::PeerState::decode(&running.durable.get(&key).expect("a verdict"))
                    .expect("ours");
                let confirmed = state.phase == api::record::Phase::Active;
                assert!(confirmed, "seed {seed}: {a} has {b} active and unconfirmed, the other side: {same}");
            }
        }
    }

    fn imports_equal_what_is_announced(&mut self, seed: u64) {
        for at in self.names.clone() {
            for of in self.names.clone().iter().filter(|of| **of != at) {
                let held = self.held(&at, of);
                let mine = self.world.site(&at).objects().get(of).cloned();
                let theirs = self.world.site(of).objects().get(&at).cloned();
                match (mine, theirs) {
                    (None, _) => assert!(held.is_empty(), "seed {seed}: {at} has no {of} and holds {held:?}"),
                    (Some(mine), Some(theirs)) if mine.nonce == theirs.nonce => {
                        for kind in ["services", "backends", "endpoints"] {
                            let held = of_kind(held.clone(), kind);
                            let announced = of_kind(self.announced(of), kind);
                            assert_eq!(held, announced, "seed {seed}: {at} of {of}, {kind}");
                        }
                    }
                    // The other side disconnected: what was known stays, and is stale.
                    (Some(_), _) => {}
                }
            }
        }
    }

    /// What a cluster's source says that a contract for its ranges allows.
    fn announced(&mut self, of: &ClusterName) -> BTreeMap<Key, Record> {
        let n = self.names.iter().position(|name| name == of).expect("one of ours");
        let cidr: IpNet = format!("10.{n}.0.0/16").parse().expect("a prefix");
        self.world
            .site(of)
            .source
            .clone()
            .into_iter()
            .filter(|(key, record)| is_within(key, record, &cidr))
            .collect()
    }

    fn agents_equal_their_stores(&mut self, seed: u64) {
        for name in self.names.clone() {
            let stored = |world: &mut World, of: &ClusterName| {
                let running = world.site(&name).running.as_ref().expect("it runs");
                running.durable.list(&cluster_prefix(of)).len()
            };
            for of in self.names.clone() {
                let expected = stored(&mut self.world, &of);
                let keys = self.world.agents[&name].view.tables().keys();
                let known =
                    keys.filter(|(key, _)| matches!(key, Key::Mesh(cluster, _) if *cluster == of)).count();
                assert_eq!(known, expected, "seed {seed}: records of {of} at {name}'s agent");
            }
        }
    }
}

fn of_kind(records: BTreeMap<Key, Record>, kind: &str) -> Vec<Key> {
    let is = |key: &Key| matches!(key, Key::Mesh(_, mesh) if mesh.kind().as_str() == kind);
    records.into_keys().filter(is).collect()
}

/// The rules again, naively.
fn is_within(key: &Key, record: &Record, cidr: &IpNet) -> bool {
    let Key::Mesh(_, mesh) = key else { return false };
    match (mesh, record) {
        (MeshKey::Endpoint(_, ip) | MeshKey::Backend(_, _, ip), _) => cidr.contains(ip),
        (_, Record::Node(node)) => {
            node.mesh_addresses.iter().all(|ip| cidr.contains(ip))
                && node.prefixes.iter().all(|p| overlap(cidr, p) && cidr.contains(p))
        }
        (_, _) => true,
    }
}
