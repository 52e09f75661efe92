//! What every test needs: a mesh of its own that tells what happened when the test fails, and short questions to it.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use e2e::{A, B, Cluster, Mesh};
use lab::{Sniffer, UpOptions, Watch, patience};
use nix::sys::signal::Signal;
use serde_json::Value;

/// How long a change of objects may take until every request shows it: seconds are promised, and the machine may be busy.
pub const SHOWN: Duration = Duration::from_secs(20);

/// Lines of each log that a failure prints: the end is what matters, and there are ten logs.
const TAIL: usize = 15;

/// A pod of cluster-a on a bridge, and one that is routed.
pub const PODS_OF_A: [&str; 2] = ["cluster-a/pod/client", "cluster-a/pod/shell"];

/// The backends of `shop/cart` in cluster-b, IPv4 and IPv6: one on a bridge, one that is routed.
pub const CARTS_OF_B: [&str; 4] = ["10.2.1.11", "10.2.2.11", "[fd00:10:2:1::11]", "[fd00:10:2:2::11]"];

/// A mesh under a test. When the test fails, the end of every log is printed before the lab goes.
pub struct Story(Mesh);

impl Deref for Story {
    type Target = Mesh;

    fn deref(&self) -> &Mesh {
        &self.0
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in logs(&self.dir().join("logs")) {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
                eprintln!("── {}\n{tail}", log.display());
            }
        }
    }
}

impl Story {
    /// Machines, pods and certificates; nothing of the mesh runs.
    pub fn made(name: &str) -> Self {
        let name = Some(format!("e2e-{name}").parse().unwrap());
        Self(Mesh::up(UpOptions { name, ..UpOptions::default() }).unwrap())
    }

    /// The same, in a topology of the test's own.
    pub fn made_in(name: &str, topology: &Path) -> Self {
        let name = Some(format!("e2e-{name}").parse().unwrap());
        Self(Mesh::up_in(topology, UpOptions { name, ..UpOptions::default() }).unwrap())
    }

    /// The same, of clusters of the test's own.
    pub fn made_of(name: &str, topology: &Path, clusters: &[Cluster]) -> Self {
        let name = Some(format!("e2e-{name}").parse().unwrap());
        Self(Mesh::up_of(topology, UpOptions { name, ..UpOptions::default() }, clusters).unwrap())
    }

    /// Both clusters run and serve their own; they do not know each other.
    pub fn running(name: &str) -> Self {
        Self(Mesh::running(&format!("e2e-{name}")).unwrap())
    }

    /// Both clusters are one mesh, and `meshctl status` says so.
    pub fn connected(name: &str) -> Self {
        let story = Self::running(name);
        story.connect();
        story
    }

    /// `meshctl connect cluster-a cluster-b`, and what it says.
    pub fn connect(&self) -> String {
        self.ctl(&["connect", A.name, B.name])
    }

    /// What a `meshctl` that must succeed prints.
    pub fn ctl(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = self.try_ctl(args);
        assert_eq!(code, 0, "meshctl {}: {stdout}{stderr}", args.join(" "));
        stdout
    }

    /// Waits until `meshctl status` is green, and returns what it says: it is seconds, and the machine may be busy.
    pub fn well(&self) -> String {
        self.ctl(&["status", "--wait", "--timeout", "60"])
    }

    /// Exit code, stdout and stderr of `meshctl`.
    pub fn try_ctl(&self, args: &[&str]) -> (i32, String, String) {
        told(self.meshctl(args.iter().copied()).unwrap())
    }

    /// Exit code, stdout and stderr of a shell line in a place.
    pub fn sh(&self, place: &str, line: &str) -> (i32, String, String) {
        told(self.lab.exec(place, ["bash", "-c", line]).unwrap())
    }

    /// What a shell line in a place prints; it must go well.
    pub fn said(&self, place: &str, line: &str) -> String {
        let (code, stdout, stderr) = self.sh(place, line);
        assert_eq!(code, 0, "{place}: {line}: {stdout}{stderr}");
        stdout
    }

    /// One request: the answer, or what curl says instead.
    pub fn curl(&self, place: &str, url: &str) -> Result<String, String> {
        let (code, stdout, stderr) = self.sh(place, &format!("curl -gsS --max-time 2 '{url}'"));
        if code == 0 { Ok(stdout.trim().to_owned()) } else { Err(stderr.trim().to_owned()) }
    }

    /// One datagram and its answer, from a connected socket of a program in the place. The address is without brackets.
    pub fn udp(&self, place: &str, address: &str, port: u16, say: &str) -> Option<String> {
        let line = format!("exec 3<>/dev/udp/{address}/{port}; echo '{say}' >&3; timeout 2 head -n1 <&3");
        let (_, stdout, _) = self.sh(place, &line);
        Some(stdout.trim().to_owned()).filter(|answer| !answer.is_empty())
    }

    /// Requests to cart's own address in a cluster, until the answers are as they should be.
    pub fn carts(&self, place: &str, cluster: &Cluster, holds: impl Fn(&Answers) -> bool) -> Answers {
        self.ask_until(place, &format!("http://{}/", cluster.cart), SHOWN, holds).unwrap()
    }

    /// A counter or gauge of a node's agent, zero while there is none of these labels.
    pub fn agent_metric(&self, node: &str, name: &str) -> u64 {
        let metrics = self.said(node, "curl -sS http://127.0.0.1:9878/metrics");
        metric(&metrics, name)
    }

    /// The value of an apiserver's metric, zero while there is none of these labels.
    pub fn apiserver_metric(&self, cluster: &Cluster, name: &str) -> u64 {
        let metrics =
            self.said(&format!("{}/host/control", cluster.name), "curl -sS http://127.0.0.1:9879/metrics");
        metric(&metrics, name)
    }

    /// `meshctl status -o json`, whatever its exit code.
    pub fn status(&self) -> (i32, Value) {
        let (code, stdout, stderr) = self.try_ctl(&["status", "-o", "json"]);
        let status = serde_json::from_str(&stdout);
        (code, status.unwrap_or_else(|error| panic!("cannot read the status: {error}: {stdout}{stderr}")))
    }

    /// Watches a place's `eth0` for a canary.
    pub fn sniff_device(&self, place: &str, canary: &str) -> Sniffer {
        let watch = Watch::at(place.parse().unwrap()).interface("eth0").canary(canary);
        Sniffer::start(&self.lab, watch).unwrap()
    }

    /// Ends a process as a crash would.
    pub fn kill9(&self, proc: &str) {
        self.lab.kill(proc, Signal::SIGKILL).unwrap();
    }

    /// What a process has logged so far.
    pub fn log(&self, proc: &str) -> String {
        let path = self.lab.paths().log(&proc.parse().unwrap());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

/// Who answered how often.
pub type Answers = std::collections::BTreeMap<String, usize>;

/// Looks until there is something; else fails with what was seen last.
pub fn eventually<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience(within);
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => {
                assert!(Instant::now() < deadline, "{what}: not within {within:?}; seen last: {seen}");
            }
        }
    }
}

/// Every problem of a status, of all clusters and peers.
pub fn problems(status: &Value) -> Vec<String> {
    let of = |value: &Value| -> Vec<String> {
        let texts = value["problems"].as_array().into_iter().flatten();
        texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let clusters = status.as_array().expect("a status is a list of clusters").iter();
    clusters
        .flat_map(|cluster| {
            let peers = cluster["peers"].as_array().into_iter().flatten();
            peers.flat_map(of).chain(of(cluster)).collect::<Vec<_>>()
        })
        .collect()
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn metric(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse::<f64>().expect("a metric is a number") as u64)
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(logs(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}
