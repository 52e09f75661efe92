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
//! | `kill NAME`, `start NAME`, `restart NAME` | its apiserver |
//! | `source NAME off\|on` | its source is not listed yet, or is |
//! | `copy NAME`, `restore NAME`, `lose NAME` | its store while it is stopped |
//! | `compact NAME` | forgets all history |
//! | `cut A B`, `heal A B` | the network; `agent` as B is A's own agent |
//! | `wait SECONDS` | time passes |
//! | `lists A B` | how many lists of B's store A has read; `agent` as B is A's own agent, of A's |
//! | `show NAME`, `choose NAME NS/SERVICE`, `agent NAME` | to the output |

use crate::{disk::Durable, records, show, world::World};
use api::{
    bytes::Nonce,
    key::Key,
    name::ClusterName,
    peer::{Limits, Stale},
    record::StalePolicy,
};
use replica::view::ServiceKey;
use std::{fmt::Write, time::Duration};

/// The seed of all scripts: what they show does not depend on it, or they show too much.
const SEED: u64 = 0x5eed;

pub(super) fn run(script: &str) -> String {
    let mut runner = Runner { world: World::new(SEED), half: None };
    let mut out = String::new();
    for line in script.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").expect("a string");
            continue;
        }
        writeln!(out, "> {line}").expect("a string");
        let words: Vec<&str> = line.split_whitespace().collect();
        out.push_str(&runner.command(&words));
    }
    out
}

struct Runner {
    world: World,
    half: Option<Nonce>,
}

fn name(text: &str) -> ClusterName {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

impl Runner {
    fn command(&mut self, words: &[&str]) -> String {
        let world = &mut self.world;
        match *words {
            ["cluster", cluster, ref rest @ ..] => {
                world.add(&name(cluster), records::list(&[&format!("cidrs={}", rest.join(","))], "cidrs"));
            }
            ["publish", cluster, rest, ref words @ ..] => {
                let key = Key::parse(format!("mesh/v1/{cluster}/{rest}").as_bytes()).expect("a key");
                let record = records::parse(&key, words);
                world.site(&name(cluster)).source.insert(key, record);
            }
            ["withdraw", cluster, rest] => {
                let key = Key::parse(format!("mesh/v1/{cluster}/{rest}").as_bytes()).expect("a key");
                world.site(&name(cluster)).source.remove(&key);
            }
            ["raw", cluster, key] => {
                let running = world.site(&name(cluster)).running.as_mut().expect("it runs");
                running.durable.put_raw(key, vec![0xff; 8]);
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
            ["disconnect", at, peer] => drop(world.site(&name(at)).objects().remove(&name(peer))),
            ["contract", at, peer, cidrs] => {
                let object = world.site(&name(at)).objects().get_mut(&name(peer)).expect("an object");
                object.contract.cidrs = records::list(&[&format!("cidrs={cidrs}")], "cidrs");
            }
            ["kill", cluster] => world.site(&name(cluster)).kill(),
            ["start", cluster] => self.start(cluster),
            ["restart", cluster] => {
                world.site(&name(cluster)).kill();
                self.start(cluster);
            }
            ["source", cluster, state] => world.site(&name(cluster)).source_speaks = state == "on",
            ["copy", cluster] => {
                let site = world.site(&name(cluster));
                let disk =
                    site.running.as_ref().map_or(site.disk.clone(), |running| running.durable.disk.clone());
                world.copies.insert(name(cluster), disk);
            }
            ["restore", cluster] => {
                let copy = world.copies.get(&name(cluster)).expect("a copy").clone();
                let site = world.site(&name(cluster));
                // The manifests directory is not in the store's copy.
                let objects = std::mem::take(&mut site.disk.objects);
                site.disk = copy;
                site.disk.objects = objects;
            }
            ["lose", cluster] => Durable::lose(&mut world.site(&name(cluster)).disk),
            ["compact", cluster] => {
                world.site(&name(cluster)).running.as_mut().expect("it runs").durable.compact();
            }
            ["cut", cluster, "agent"] => world.cut_agent(&name(cluster), true),
            ["heal", cluster, "agent"] => world.cut_agent(&name(cluster), false),
            ["cut", a, b] => world.cut(&name(a), &name(b), true),
            ["heal", a, b] => world.cut(&name(a), &name(b), false),
            ["wait", seconds] => world.wait(Duration::from_secs_f64(seconds.parse().expect("seconds"))),
            ["show", cluster] => return show::site(world.site(&name(cluster))),
            ["lists", cluster, of] => return self.lists(&name(cluster), of),
            ["agent", cluster] => return show::agent(&world.agents[&name(cluster)]),
            ["choose", cluster, service] => {
                let (namespace, service) = service.split_once('/').expect("namespace/service");
                let key = ServiceKey {
                    namespace: namespace.parse().expect("a name"),
                    name: service.parse().expect("a name"),
                };
                return show::choice(&world.agents[&name(cluster)], &key);
            }
            _ => panic!("no such command: {}", words.join(" ")),
        }
        String::new()
    }

    fn lists(&mut self, cluster: &ClusterName, of: &str) -> String {
        let lists = if of == "agent" {
            self.world.agents[cluster].lists
        } else {
            let running = self.world.site(cluster).running.as_ref().expect("it runs");
            running.sessions[&name(of)].lists
        };
        format!("  {lists}\n")
    }

    fn start(&mut self, cluster: &str) {
        let now = self.world.now();
        self.world.site(&name(cluster)).start(now);
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

fn stale(options: &[&str]) -> Stale {
    match records::value(options, "stale") {
        Some("keep") => Stale { policy: StalePolicy::Keep, drop_after_s: None },
        Some(after) => {
            Stale { policy: StalePolicy::DropAfter, drop_after_s: Some(after.parse().expect("seconds")) }
        }
        None => Stale::default(),
    }
}
