//! Random days: a seed becomes a script, which can be read, shortened and kept.
//!
//! The script is written before anything runs, so that leaving out a line changes nothing about the others.

use crate::chance::Chance;

/// Things that happen before peace.
const STEPS: usize = 36;

/// The clusters, and the second octet of their addresses. The last one joins during the day, or never.
const CLUSTERS: [(&str, u8); 4] = [("east", 1), ("north", 2), ("west", 3), ("south", 4)];

/// How many there are in the morning.
const EARLY: usize = 3;

/// Nodes of each; their pods have prefixes in the lower and in the upper half of the cluster's range.
const NODES: [(&str, u8); 2] = [("n1", 1), ("n2", 200)];

const PODS: [&str; 4] = ["a", "b", "c", "d"];
const SERVICES: [&str; 2] = ["cart", "desk"];

/// The script of a seed, a command each.
#[must_use]
pub fn script(seed: u64) -> Vec<String> {
    let mut day = Day {
        chance: Chance::new(seed),
        joined: EARLY,
        has_left: false,
        lines: vec![format!("seed {seed}")],
    };
    day.morning();
    for _ in 0..STEPS {
        day.event();
        day.wait();
    }
    day.lines
}

struct Day {
    chance: Chance,
    /// Clusters that there are: the first of [`CLUSTERS`].
    joined: usize,
    /// The last of them was there, and is no more.
    has_left: bool,
    lines: Vec<String>,
}

impl Day {
    fn say(&mut self, line: String) {
        self.lines.push(line);
    }

    fn wait(&mut self) {
        let ms = match self.chance.below(12) {
            0 => 100,
            1 => 20_000 + self.chance.below(60_000),
            _ => 100 + self.chance.below(4_000),
        };
        self.say(format!("wait {}.{:03}", ms / 1_000, ms % 1_000));
    }

    fn morning(&mut self) {
        for (name, n) in &CLUSTERS[..EARLY] {
            self.cluster(name, *n);
        }
        for (a, b) in [("east", "west"), ("east", "north"), ("north", "west")] {
            if self.chance.below(4) > 0 {
                self.say(format!("connect {a} {b}"));
            }
        }
        if self.chance.one_in(3) {
            for _ in 0..2 {
                self.small_maps();
            }
        }
        self.say("wait 4".to_owned());
    }

    /// A node whose maps are too small for an ordinary day, most of them.
    fn small_maps(&mut self) {
        let (name, _) = self.one();
        let node = self.chance.pick(&NODES).0;
        let mut sizes = String::new();
        for (map, most) in [("routes", 18), ("locals", 4), ("services", 4), ("backends", 14)] {
            if self.chance.one_in(2) {
                let size = 1 + self.chance.below(most);
                sizes += &format!(" {map}={size}");
            }
        }
        self.say(format!("maps {name} {node}{sizes}"));
    }

    /// A cluster with all that it has at first.
    fn cluster(&mut self, name: &str, n: u8) {
        self.say(format!("cluster {name} 10.{n}.0.0/16 mesh=10.{n}.100.0/24"));
        for (node, third) in NODES {
            self.say(node_line(name, n, node, third));
        }
        for (at, service) in SERVICES.iter().enumerate() {
            self.say(format!("object {name} service/shop/{service} vip=10.96.{n}.{at}"));
        }
        for pod in ["a", "b"] {
            self.pod(name, n, pod);
        }
        self.say(format!("object {name} slice/shop/cart pods=a,b"));
    }

    fn one(&mut self) -> (&'static str, u8) {
        *self.chance.pick(&CLUSTERS[..self.joined])
    }

    fn two(&mut self) -> (&'static str, &'static str) {
        let all = self.joined;
        let a = self.chance.below(all as u64) as usize;
        let b = (a + 1 + self.chance.below(all as u64 - 1) as usize) % all;
        (CLUSTERS[a].0, CLUSTERS[b].0)
    }

    /// One thing that happens; most of them to the services, as on any day.
    fn event(&mut self) {
        match self.chance.below(100) {
            0..=31 => self.workload(),
            32..=34 => self.come_or_go(),
            35..=41 => self.connect(),
            42..=55 => self.network(),
            56..=75 => self.apiserver(),
            76..=87 => self.node(),
            _ => self.peer(),
        }
    }

    fn pod(&mut self, name: &str, n: u8, pod: &str) {
        let (node, third) = *self.chance.pick(&NODES);
        // Few addresses: one that becomes free is soon another pod's.
        let host = 5 + self.chance.below(3);
        let app = *self.chance.pick(&SERVICES);
        self.say(format!("object {name} pod/shop/{pod} node={node} ip=10.{n}.{third}.{host} app={app}"));
    }

    fn workload(&mut self) {
        let (name, n) = self.one();
        let (pod, service) = (*self.chance.pick(&PODS), *self.chance.pick(&SERVICES));
        match self.chance.below(12) {
            0..=2 => self.pod(name, n, pod),
            3 => self.say(format!("remove {name} pod/shop/{pod}")),
            4..=7 => self.slice(name, service),
            8 => self.say(format!("remove {name} slice/shop/{service}")),
            9 => self.say(format!("remove {name} service/shop/{service}")),
            10 | 11 => {
                let at = SERVICES.iter().position(|one| *one == service).unwrap_or(0);
                let options = *self.chance.pick(&[
                    "",
                    "",
                    "",
                    " private",
                    " unshared",
                    " affinity=local",
                    " affinity=remote",
                ]);
                self.say(format!("object {name} service/shop/{service} vip=10.96.{n}.{at}{options}"));
            }
            _ => {}
        }
    }

    fn slice(&mut self, name: &str, service: &str) {
        let mut some = |of: &[&'static str]| -> Vec<&'static str> {
            of.iter().filter(|_| self.chance.below(3) > 0).copied().collect()
        };
        let pods = some(&PODS);
        let unhealthy: Vec<&str> = pods.iter().filter(|_| self.chance.one_in(4)).copied().collect();
        let how = if self.chance.one_in(2) { "unready" } else { "draining" };
        self.say(format!(
            "object {name} slice/shop/{service} pods={} {how}={}",
            pods.join(","),
            unhealthy.join(",")
        ));
    }

    /// A cluster joins those that run, and leaves them for ever.
    fn come_or_go(&mut self) {
        let (last, n) = CLUSTERS[CLUSTERS.len() - 1];
        match (self.joined, self.has_left) {
            (EARLY, false) => {
                self.cluster(last, n);
                self.joined += 1;
                let (other, _) = CLUSTERS[self.chance.below(EARLY as u64) as usize];
                self.connect_two(last, other);
            }
            (EARLY, true) => {
                let (other, _) = CLUSTERS[self.chance.below(EARLY as u64) as usize];
                self.say(format!("disconnect {other} {last}"));
            }
            (_, _) if self.chance.one_in(4) => {
                self.say(format!("dismantle {last}"));
                (self.joined, self.has_left) = (EARLY, true);
            }
            (_, _) => {
                let (other, _) = CLUSTERS[self.chance.below(EARLY as u64) as usize];
                self.connect_two(last, other);
            }
        }
    }

    fn connect(&mut self) {
        let (a, b) = self.two();
        self.connect_two(a, b);
    }

    fn connect_two(&mut self, a: &str, b: &str) {
        match self.chance.below(8) {
            0..=2 => self.say(format!("connect {a} {b}")),
            3 => {
                // meshctl dies between its two requests, or an apiserver at any step after them.
                self.say(format!("half-connect {a} {b}"));
                if self.chance.one_in(2) {
                    self.say(format!("half-connect {b} {a}"));
                }
                let ms = self.chance.below(900);
                self.say(format!("wait 0.{ms:03}"));
                let who = *self.chance.pick(&[a, b]);
                self.say(format!("restart {who}"));
            }
            4 => self.say(format!("disconnect {a} {b}")),
            6 | 7 => {
                // Each sync of a side is a step of its connect.
                let (who, syncs) = (*self.chance.pick(&[a, b]), self.chance.below(12));
                self.say(format!("connect {a} {b}"));
                self.say(format!("crash {who} {syncs}"));
                self.wait();
                self.say(format!("start {who}"));
            }
            _ => {
                self.say(format!("disconnect {a} {b}"));
                self.say(format!("disconnect {b} {a}"));
            }
        }
    }

    fn network(&mut self) {
        let (a, b) = self.two();
        let node = self.chance.pick(&NODES).0;
        match self.chance.below(10) {
            0 | 1 => self.say(format!("cut {a} {b}")),
            2 => self.say(format!("cut-to {a} {b}")),
            3 => self.say(format!("slow {a} {b}")),
            4..=6 => self.say(format!("heal {a} {b}")),
            7 => self.say(format!("cut {a} node/{node}")),
            8 => self.say(format!("heal {a} node/{node}")),
            _ => {
                let one_in = *self.chance.pick(&[0, 0, 50, 400]);
                self.say(format!("resets {one_in}"));
            }
        }
    }

    fn apiserver(&mut self) {
        let (name, _) = self.one();
        match self.chance.below(16) {
            0 | 1 => self.say(format!("restart {name}")),
            2 => self.say(format!("kill {name}")),
            3 => self.say(format!("start {name}")),
            4 | 5 => {
                let syncs = self.chance.below(4);
                self.say(format!("crash {name} {syncs}"));
                self.workload();
                self.wait();
                self.say(format!("start {name}"));
            }
            6 | 7 => self.say(format!("copy {name}")),
            8 | 9 => {
                self.say(format!("kill {name}"));
                let how = *self.chance.pick(&["restore", "restore", "lose"]);
                self.say(format!("{how} {name}"));
                if self.chance.one_in(3) {
                    self.say(format!("source {name} off"));
                }
                self.say(format!("start {name}"));
            }
            10 => self.say(format!("source {name} on")),
            11 | 12 => {
                self.say(format!("compact {name}"));
            }
            14 | 15 => self.pause(name),
            _ => self.say(format!("lease {name}")),
        }
    }

    fn node(&mut self) {
        let (name, n) = self.one();
        let (node, third) = *self.chance.pick(&NODES);
        match self.chance.below(10) {
            8 | 9 => {
                let skew_s = *self.chance.pick(&[3_600, -3_600, 0]);
                self.say(format!("clock {name} {node} {skew_s}"));
            }
            0 => self.say(format!("agent-kill {name} {node}")),
            1 | 2 => self.say(format!("agent-start {name} {node}")),
            3 => self.say(format!("reboot {name} {node}")),
            4 => self.say(format!("reinstall {name} {node}")),
            5 => self.say(format!("remove {name} node/{node}")),
            _ => self.say(node_line(name, n, node, third)),
        }
    }

    /// What a peer may do to us, and its clock.
    fn peer(&mut self) {
        let (name, n) = self.one();
        let (a, b) = self.two();
        match self.chance.below(12) {
            0 => self.say(format!("version {name} older")),
            1 => self.say(format!("version {name} newer")),
            2 => self.say(format!("version {name} hostile")),
            3 => {
                let skew_s = *self.chance.pick(&[3_600, -3_600, 0]);
                self.say(format!("clock {name} {skew_s}"));
            }
            4 => {
                let half = *self.chance.pick(&["/16", "/17"]);
                let m = CLUSTERS.iter().find(|(name, _)| *name == b).map_or(0, |(_, m)| *m);
                self.say(format!("contract {a} {b} 10.{m}.0.0{half}"));
            }
            5 => {
                let other = self.chance.below(9);
                let record = self.chance.pick(&[
                    "backends/shop/cart/10.{}.1.5",
                    "endpoints/shop/10.{}.1.5",
                    "nodes/n9 mesh=10.{}.100.9",
                    "nodes/n8 mesh=10.{}.100.8 prefixes=0.0.0.0/0",
                ]);
                let record = record.replace("{}", &(10 + other).to_string());
                self.say(format!("publish {name} {record}"));
            }
            6 => self.say(format!("raw {name} mesh/v1/{name}/backends/shop/cart/10.{n}.1.5")),
            7 => self.say(format!("raw {name} mesh/v1/{name}/starships/enterprise")),
            9..=11 => self.limit(a, b),
            _ => self.say(format!("honest {name}")),
        }
    }

    /// An apiserver stands still, and thinks on waking that it has led all the time; most often another did.
    fn pause(&mut self, name: &str) {
        self.say(format!("pause {name}"));
        self.wait();
        if !self.chance.one_in(3) {
            self.say(format!("start {name}"));
            self.workload();
            self.wait();
        }
        self.say(format!("wake {name}"));
    }

    /// Little enough that an ordinary cluster has more; or as much as ever.
    fn limit(&mut self, a: &str, b: &str) {
        let mut limits = String::new();
        for (name, most) in [("nodes", 2), ("endpoints", 4), ("services", 2), ("backends", 6), ("rate", 4)] {
            if self.chance.one_in(3) {
                let limit = 1 + self.chance.below(most);
                limits += &format!(" {name}={limit}");
            }
        }
        self.say(format!("limit {a} {b}{limits}"));
    }
}

fn node_line(name: &str, n: u8, node: &str, third: u8) -> String {
    format!(
        "object {name} node/{node} mesh=10.{n}.100.{third} pods=10.{n}.{third}.0/24 at=198.51.{n}.{third}"
    )
}
