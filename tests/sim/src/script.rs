//! Scripts: a command a line, `#` before a comment.
//!
//! | command | does |
//! |---|---|
//! | `cluster NAME CIDR,…` | a cluster with these ranges, running |
//! | `publish NAME REST [words]` | its source says `mesh/v1/NAME/REST` (`records.rs`) |
//! | `withdraw NAME REST` | its source no longer does |
//! | `raw NAME KEY` | garbage under any key of its store |
//! | `connect A B [limit=N] [stale=POLICY]` | meshctl writes both objects |
//! | `half-connect A B` | meshctl writes A's object about B, and dies; the next `half-connect B A` has the same nonce |
//! | `disconnect A B` | meshctl removes A's object about B |
//! | `contract A B CIDR,…` | A holds B to other ranges |
//! | `cluster NAME CIDR,… mesh=CIDR` | the same with machines: each `object NAME node/…` has one, and its agent |
//! | `dismantle NAME` | the cluster is no more: apiserver, machines, disks |
//! | `object NAME PATH [words]`, `remove NAME PATH` | an object of its source (`objects.rs`) |
//! | `limit A B [nodes=N] [endpoints=N] [services=N] [backends=N] [rate=N]` | and to so many records, and changes a second |
//! | `kill NAME`, `start NAME`, `restart NAME` | its apiserver |
//! | `pause NAME`, `wake NAME` | its apiserver stands still, and goes on; `start` between them starts another on a copy of its disk |
//! | `crash NAME N` | the power of its apiserver's machine goes after N more syncs |
//! | `source NAME off\|on` | its source is not listed yet, or is |
//! | `copy NAME`, `restore NAME`, `lose NAME` | its store while it is stopped |
//! | `compact NAME` | forgets all history |
//! | `lease NAME` | somebody puts a key with a lease, and is not heard of again |
//! | `clock NAME SECONDS` | its wall clock is so far ahead |
//! | `version NAME same\|older\|newer\|hostile` | how it answers; `honest NAME` gives a hostile one another owner |
//! | `agent-kill A NODE`, `agent-start A NODE` | a node's agent |
//! | `reboot A NODE`, `reinstall A NODE` | the machine; its disk goes, too |
//! | `cut A B`, `heal A B` | the network; `agent` as B is A's onlooker, `node/NAME` its node |
//! | `cut-to A B`, `slow A B` | what A sends to B is lost; A follows B over a slow line; until `heal` |
//! | `resets N`, `heal-all` | a connection breaks once in N ticks; all lines work again |
//! | `seed N`, `wait SECONDS` | all chance; time passes |
//! | `lists A B` | how many lists of B's store A has read; `agent` as B is A's onlooker, of A's |
//! | `show NAME`, `choose NAME NS/SERVICE`, `agent NAME`, `tunnels NAME NODE` | to the output |

use crate::{
    bug::Planted, chance::Chance, disk::Disk, node::Agent, records, show, wire::Manner, world::World,
};
use api::{
    bytes::Nonce,
    key::Key,
    name::ClusterName,
    peer::{Limits, Stale},
    record::StalePolicy,
};
use datapath::apply::model::Sizes;
use replica::view::ServiceKey;
use std::{fmt::Write, time::Duration};

/// The seed of all scripts that name none: what they show does not depend on it, or they show too much.
const SEED: u64 = 0x5eed;

/// Runs a script; the commands, and under each what it showed.
pub(super) fn show(script: &str) -> String {
    let mut runner = Runner::new(SEED, Planted::default());
    let mut out = String::new();
    for line in script.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").expect("a string");
            continue;
        }
        writeln!(out, "> {line}").expect("a string");
        out.push_str(&runner.line(line));
    }
    out
}

/// A world, and the commands that it takes.
#[derive(Debug)]
pub struct Runner {
    /// The world.
    pub world: World,
    half: Option<Nonce>,
}

fn name(text: &str) -> ClusterName {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

impl Runner {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64, planted: Planted) -> Self {
        Self { world: World::new(seed, planted), half: None }
    }

    /// Does what a line says, and returns what it shows. What makes no sense as things stand does nothing: so a line can
    /// be left out of a script without another one failing.
    ///
    /// # Panics
    /// On a command that there is not, or one about a cluster or node that there is not.
    pub fn line(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.command(&words)
    }

    fn command(&mut self, words: &[&str]) -> String {
        let world = &mut self.world;
        match *words {
            ["seed", seed] => world.chance = Chance::new(seed.parse().expect("a number")),
            ["cluster", cluster, cidrs, ref options @ ..] => {
                let cluster = name(cluster);
                world.add(&cluster, cidrs_of(cidrs));
                match records::value(options, "mesh") {
                    Some(mesh) => world.site(&cluster).mesh_cidrs = cidrs_of(mesh),
                    None => drop(world.onlookers.insert(cluster.clone(), Agent::onlooker(&cluster))),
                }
            }
            ["object", cluster, path, ref words @ ..] => world.write_source(&name(cluster), path, words),
            ["remove", cluster, path] => {
                let site = world.site(&name(cluster));
                site.objects.remove(path);
                site.source_changed();
            }
            ["publish", cluster, rest, ref words @ ..] => {
                let key = Key::parse(format!("mesh/v1/{cluster}/{rest}").as_bytes()).expect("a key");
                let record = records::parse(&key, words);
                let site = world.site(&name(cluster));
                site.records.insert(key, record);
                site.source_changed();
            }
            ["withdraw", cluster, rest] => {
                let key = Key::parse(format!("mesh/v1/{cluster}/{rest}").as_bytes()).expect("a key");
                let site = world.site(&name(cluster));
                site.records.remove(&key);
                site.source_changed();
            }
            ["raw", cluster, key] => {
                if let Some(running) = &mut world.site(&name(cluster)).running {
                    running.durable.put_raw(key, vec![0xff; 8]);
                }
            }
            ["connect", a, b, ref options @ ..] => {
                let nonce = world.nonce();
                for (at, peer) in [(a, b), (b, a)] {
                    world.write_object(&name(at), &name(peer), nonce, limits(options), stale(options));
                }
            }
            ["half-connect", at, peer] => {
                let nonce = self.half.take().unwrap_or_else(|| {
                    let nonce = world.nonce();
                    self.half = Some(nonce);
                    nonce
                });
                world.write_object(&name(at), &name(peer), nonce, Limits::default(), Stale::default());
            }
            ["disconnect", at, peer] => drop(world.site(&name(at)).peers().remove(&name(peer))),
            ["contract", at, peer, cidrs] => {
                if let Some(object) = world.site(&name(at)).peers().get_mut(&name(peer)) {
                    object.contract.cidrs = cidrs_of(cidrs);
                }
            }
            ["limit", at, peer, ref options @ ..] => {
                if let Some(object) = world.site(&name(at)).peers().get_mut(&name(peer)) {
                    object.contract.limits = limits_of(options);
                }
            }
            ["kill", cluster] => world.site(&name(cluster)).kill(),
            ["start", cluster] => self.start(cluster),
            ["pause", cluster] => world.site(&name(cluster)).pause(),
            ["wake", cluster] => {
                let now = world.now();
                world.site(&name(cluster)).wake(now);
            }
            ["restart", cluster] => {
                world.site(&name(cluster)).kill();
                self.start(cluster);
            }
            ["crash", cluster, syncs] => {
                if let Some(running) = &mut world.site(&name(cluster)).running {
                    running.durable.fail_after(syncs.parse().expect("a number"));
                }
            }
            ["clock", cluster, node, skew] => {
                world.node(&name(cluster), node).skew_s = skew.parse().expect("seconds");
            }
            ["maps", cluster, node, ref options @ ..] => {
                world.node(&name(cluster), node).make_maps(sizes(options));
            }
            ["room"] => world.nodes.values_mut().for_each(|node| node.sizes = Sizes::AMPLE),
            ["clock", cluster, skew] => world.site(&name(cluster)).skew_s = skew.parse().expect("seconds"),
            ["version", cluster, version] => world.site(&name(cluster)).manner = manner(version),
            ["lease", cluster] => self.lease(&name(cluster)),
            ["resets", one_in] => world.reset_one_in = one_in.parse().expect("a number"),
            ["agent-kill", cluster, node] => world.node(&name(cluster), node).kill(),
            ["agent-start", cluster, node] => world.node(&name(cluster), node).start(),
            ["reboot", cluster, node] => {
                world.node(&name(cluster), node).power_off();
                world.node(&name(cluster), node).start();
            }
            ["reinstall", cluster, node] => {
                world.node(&name(cluster), node).lose();
                world.node(&name(cluster), node).start();
            }
            ["dismantle", cluster] => world.dismantle(&name(cluster)),
            ["source", cluster, state] => {
                world.site(&name(cluster)).source_speaks = state == "on";
                world.site(&name(cluster)).source_changed();
            }
            ["copy", cluster] => {
                let site = world.site(&name(cluster));
                let disk =
                    site.running.as_ref().map_or(site.disk.clone(), |running| running.durable.disk.clone());
                world.copies.insert(name(cluster), disk);
            }
            ["restore", cluster] => {
                if let Some(copy) = world.copies.get(&name(cluster)).cloned() {
                    world.site(&name(cluster)).replace_disk(copy);
                }
            }
            ["lose", cluster] => world.site(&name(cluster)).replace_disk(Disk::default()),
            ["compact", cluster] => {
                if let Some(running) = &mut world.site(&name(cluster)).running {
                    running.durable.compact();
                }
            }
            ["honest", cluster] => self.honest(&name(cluster)),
            ["heal-all"] => world.heal_all(),
            [verb @ ("cut" | "heal"), cluster, agent] if agent == "agent" || agent.starts_with("node/") => {
                let node = agent.strip_prefix("node/").map(|node| node.parse().expect("a name"));
                world.cut_agent(&name(cluster), node, verb == "cut");
            }
            ["cut-to", a, b] => world.lose(&name(a), &name(b), true),
            ["slow", a, b] => world.slow(&name(a), &name(b), true),
            ["cut", a, b] => world.cut(&name(a), &name(b), true),
            ["heal", a, b] => {
                world.cut(&name(a), &name(b), false);
                world.slow(&name(a), &name(b), false);
            }
            ["wait", seconds] => world.wait(Duration::from_secs_f64(seconds.parse().expect("seconds"))),
            ["show", cluster] => return show::site(world.site(&name(cluster))),
            ["lists", cluster, of] => return self.lists(&name(cluster), of),
            ["agent", cluster] => return show::agent(&world.onlookers[&name(cluster)]),
            ["tunnels", cluster, node] => return show::tunnels(world.node(&name(cluster), node)),
            ["choose", cluster, service] => {
                let (namespace, service) = service.split_once('/').expect("namespace/service");
                let key = ServiceKey {
                    namespace: namespace.parse().expect("a name"),
                    name: service.parse().expect("a name"),
                };
                return show::choice(&world.onlookers[&name(cluster)], &key);
            }
            _ => panic!("no such command: {}", words.join(" ")),
        }
        String::new()
    }

    fn lists(&mut self, cluster: &ClusterName, of: &str) -> String {
        let lists = if of == "agent" {
            self.world.onlookers[cluster].lists
        } else {
            let running = self.world.site(cluster).running.as_ref().expect("it runs");
            running.sessions[&name(of)].lists
        };
        format!("  {lists}\n")
    }

    /// Another owner takes a hostile apiserver's place: its store is a new one, and what was announced beside the
    /// objects is not any more.
    fn honest(&mut self, cluster: &ClusterName) {
        let now = self.world.now();
        let site = self.world.site(cluster);
        site.records.clear();
        if std::mem::take(&mut site.manner) == Manner::Hostile {
            site.kill();
            site.replace_disk(Disk::default());
            site.start(now);
        }
        site.source_changed();
    }

    fn lease(&mut self, cluster: &ClusterName) {
        let (now, id) = (self.world.now(), self.world.leases.len() + 1);
        let key = format!("leased/{id}");
        if let Some(running) = &mut self.world.site(cluster).running {
            running.durable.put_leased(id as i64, &key);
            self.world.leases.push((cluster.clone(), now, key));
        }
    }

    fn start(&mut self, cluster: &str) {
        let now = self.world.now();
        self.world.site(&name(cluster)).start(now);
    }
}

fn cidrs_of(text: &str) -> Vec<ipnet::IpNet> {
    records::list(&[&format!("cidrs={text}")], "cidrs")
}

fn manner(text: &str) -> Manner {
    match text {
        "same" => Manner::Same,
        "older" => Manner::Older,
        "newer" => Manner::Newer,
        "hostile" => Manner::Hostile,
        _ => panic!("no version {text}"),
    }
}

fn limits(options: &[&str]) -> Limits {
    let Some(limit) = records::value(options, "limit") else { return Limits::default() };
    let limit = limit.parse().expect("a number");
    Limits {
        nodes: limit,
        identities: limit,
        endpoints: limit,
        services: limit,
        backends: limit,
        ..Limits::default()
    }
}

/// Limits by their names; those that are not named are the default.
fn limits_of(options: &[&str]) -> Limits {
    let of = |name: &str, otherwise: u32| {
        records::value(options, name).map_or(otherwise, |limit| limit.parse().expect("a number"))
    };
    let default = Limits::default();
    Limits {
        nodes: of("nodes", default.nodes),
        identities: default.identities,
        endpoints: of("endpoints", default.endpoints),
        services: of("services", default.services),
        backends: of("backends", default.backends),
        changes_per_second: of("rate", default.changes_per_second),
    }
}

/// Of maps; those that are not named are never full.
fn sizes(options: &[&str]) -> Sizes {
    let of =
        |name: &str| records::value(options, name).map_or(u32::MAX, |size| size.parse().expect("a number"));
    Sizes { routes: of("routes"), locals: of("locals"), services: of("services"), backends: of("backends") }
}

fn stale(options: &[&str]) -> Stale {
    match records::value(options, "stale") {
        Some("keep") => Stale { policy: StalePolicy::Keep, drop_after_s: None },
        Some(after) => {
            Stale { policy: StalePolicy::DropAfter, drop_after_s: Some(after.parse().expect("seconds")) }
        }
        None => Stale::default(),
    }
}
