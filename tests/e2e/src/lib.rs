//! Two clusters with the products on them, in a lab: what the demo shows, and what the end-to-end tests hold.
//!
//! The products run as anywhere: by their flags, on their default ports and paths. Nothing of the lab changes what they
//! do; this crate only does what an operator would (init, certificates, manifests, start, meshctl).

pub mod kubelet;
pub mod kubernetes;
pub mod machine;
pub mod page;

use anyhow::{Context, Result, bail};
use lab::{Lab, Report, Rule, Sniffer, UpOptions, Watch, Whom, patience};
use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

/// A cluster of the topology.
#[derive(Debug, Clone, Copy)]
pub struct Cluster {
    /// Its name.
    pub name: &'static str,
    /// Its nodes.
    pub nodes: [&'static str; 2],
    /// Its apiserver, `host:port`.
    pub apiserver: &'static str,
    /// Its peers cannot dial it.
    pub dial_out: bool,
    /// IPv4 and IPv6 ranges of pods.
    pub pods: &'static str,
    /// Of Services.
    pub services: &'static str,
    /// Of mesh addresses.
    pub mesh: &'static str,
    /// The Service `shop/cart`, IPv4.
    pub cart: &'static str,
    /// The Service `shop/cart`, IPv6.
    pub cart_v6: &'static str,
}

/// The first cluster.
pub const A: Cluster = Cluster {
    name: "cluster-a",
    nodes: ["a1", "a2"],
    apiserver: "192.0.2.10:2379",
    dial_out: false,
    pods: "10.1.0.0/16,fd00:10:1::/48",
    services: "10.101.0.0/16,fd00:101::/112",
    mesh: "100.64.1.0/24,fd64:1::/112",
    cart: "10.101.0.10",
    cart_v6: "[fd00:101::10]",
};

/// The second cluster.
pub const B: Cluster = Cluster {
    name: "cluster-b",
    nodes: ["b1", "b2"],
    apiserver: "192.0.2.74:2379",
    dial_out: false,
    pods: "10.2.0.0/16,fd00:10:2::/48",
    services: "10.102.0.0/16,fd00:102::/112",
    mesh: "100.64.2.0/24,fd64:2::/112",
    cart: "10.102.0.10",
    cart_v6: "[fd00:102::10]",
};

/// A lab with both clusters in it. Dropping it takes everything down.
#[derive(Debug)]
pub struct Mesh {
    /// The machines.
    pub lab: Lab,
    bin: PathBuf,
}

/// Where this crate's topology and manifests are.
#[must_use]
pub fn files() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

impl Mesh {
    /// Machines and pods, and on the disk of each cluster what `init` and `cert issue` make; nothing of the mesh runs.
    pub fn up(options: UpOptions) -> Result<Self> {
        Self::up_in(&files().join("topology.yaml"), options)
    }

    /// As [`Mesh::up`], in a topology that differs from this crate's in where its machines stand.
    pub fn up_in(topology: &Path, options: UpOptions) -> Result<Self> {
        Self::up_of(topology, options, &[A, B])
    }

    /// As [`Mesh::up_in`], of clusters that differ in more.
    pub fn up_of(topology: &Path, options: UpOptions, clusters: &[Cluster]) -> Result<Self> {
        let lab = Lab::up_with(topology, options)?;
        let bin = lab.state()?.bin;
        let mesh = Self { lab, bin };
        for cluster in clusters {
            mesh.init(cluster)?;
        }
        Ok(mesh)
    }

    /// A lab for a test, under the test's name, with both clusters running, their manifests applied, not connected.
    pub fn running(name: &str) -> Result<Self> {
        let mesh = Self::up(UpOptions { name: Some(name.parse()?), ..UpOptions::default() })?;
        for cluster in [A, B] {
            for file in MANIFESTS {
                mesh.apply(&cluster, file)?;
            }
            mesh.start(&cluster)?;
        }
        Ok(mesh)
    }

    /// As [`Mesh::running`], connected.
    pub fn connected(name: &str) -> Result<Self> {
        let mesh = Self::running(name)?;
        succeed(mesh.meshctl(["connect", A.name, B.name])?)?;
        Ok(mesh)
    }

    /// One of the products' programs.
    #[must_use]
    pub fn program(&self, name: &str) -> String {
        self.bin.join(name).display().to_string()
    }

    /// The lab's state directory: `{lab}` of the topology.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.lab.paths().state
    }

    /// The manifests directory of a cluster.
    #[must_use]
    pub fn manifests(&self, cluster: &Cluster) -> PathBuf {
        self.dir().join(cluster.name).join("manifests")
    }

    /// What `init` and `cert issue` make on the disk of a cluster; done for both by [`Mesh::up`].
    pub fn init(&self, cluster: &Cluster) -> Result<()> {
        let dir = self.dir().join(cluster.name);
        fs::create_dir_all(dir.join("manifests"))?;
        let (data, bin) = (dir.join("data"), self.bin.join("clustermesh-apiserver"));
        let (data, bin) = (data.to_string_lossy(), bin.to_string_lossy());
        let control = format!("{}/host/control", cluster.name);
        let Cluster { name, pods, services, mesh, apiserver, dial_out, .. } = cluster;
        let init = [
            &bin,
            "init",
            "--data-dir",
            &data,
            "--cluster-name",
            name,
            "--pod-cidr",
            pods,
            "--service-cidr",
            services,
        ]
        .into_iter()
        .chain(["--mesh-cidr", mesh, "--advertise", apiserver])
        .chain(dial_out.then_some("--dial-out"));
        succeed(self.lab.exec(&control, init)?)?;
        for node in cluster.nodes {
            let out = dir.join("nodes").join(node);
            let out = out.to_string_lossy();
            succeed(self.lab.exec(
                &control,
                [&bin, "cert", "issue", "node", node, "--data-dir", &data, "--out", &out],
            )?)?;
        }
        Ok(())
    }

    /// Starts what runs on the cluster's machines.
    pub fn start(&self, cluster: &Cluster) -> Result<()> {
        for node in cluster.nodes {
            self.lab.start(&format!("{}/node/{node}/tunnel", cluster.name))?;
        }
        self.start_control(cluster)
    }

    /// Starts the apiserver and the agents.
    pub fn start_control(&self, cluster: &Cluster) -> Result<()> {
        self.lab.start(&format!("{}/host/control/apiserver", cluster.name))?;
        for node in cluster.nodes {
            self.lab.start(&format!("{}/node/{node}/agent", cluster.name))?;
        }
        Ok(())
    }

    /// Ends the apiserver and the agents as a crash would; `mesh-tunnel` is part of the data path and stays.
    pub fn kill_control(&self, cluster: &Cluster) -> Result<()> {
        let kill = nix::sys::signal::Signal::SIGKILL;
        self.lab.kill(&format!("{}/host/control/apiserver", cluster.name), kill)?;
        for node in cluster.nodes {
            self.lab.kill(&format!("{}/node/{node}/agent", cluster.name), kill)?;
        }
        Ok(())
    }

    /// Puts one of this crate's manifests into the cluster's directory, whole or not at all.
    pub fn apply(&self, cluster: &Cluster, file: &str) -> Result<()> {
        let source = files().join("manifests").join(cluster.name).join(file);
        let text =
            fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
        self.write(cluster, file, &text)
    }

    /// Puts a manifest of the caller's own into the cluster's directory, whole or not at all.
    pub fn write(&self, cluster: &Cluster, file: &str, text: &str) -> Result<()> {
        let dir = self.manifests(cluster);
        let part = dir.join(format!(".{file}.part"));
        fs::write(&part, text)?;
        fs::rename(&part, dir.join(file)).with_context(|| format!("cannot write {file} of {}", cluster.name))
    }

    /// Takes a manifest away.
    pub fn remove(&self, cluster: &Cluster, file: &str) -> Result<()> {
        fs::remove_file(self.manifests(cluster).join(file)).with_context(|| format!("cannot remove {file}"))
    }

    /// Runs meshctl on the operator's machine, with both clusters' contexts.
    pub fn meshctl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        self.lab.exec("host/admin", self.meshctl_argv(args))
    }

    /// The command line of [`Mesh::meshctl`].
    pub fn meshctl_argv<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        self.meshctl_argv_of(&[A, B], args)
    }

    /// The command line of a meshctl with these clusters' contexts.
    pub fn meshctl_argv_of<'a>(
        &self,
        clusters: &[Cluster],
        args: impl IntoIterator<Item = &'a str>,
    ) -> Vec<String> {
        let config = |cluster: &Cluster| {
            self.dir().join(cluster.name).join("data/admin/config.yaml").display().to_string()
        };
        let program = self.bin.join("meshctl").display().to_string();
        let configs: Vec<String> = clusters.iter().map(config).collect();
        let mut argv = vec![program, "--config".to_owned(), configs.join(":")];
        argv.extend(args.into_iter().map(str::to_owned));
        argv
    }

    /// Asks an URL `count` times from a place, a new connection each, and counts who answered.
    /// A request that failed is counted under its error.
    pub fn ask(&self, place: &str, url: &str, count: usize) -> Result<BTreeMap<String, usize>> {
        let script = format!(
            "i=0; while [ $i -lt {count} ]; do i=$((i+1)); curl -gsS --max-time 2 {url} 2>&1 || echo; done"
        );
        let output = self.lab.exec(place, ["sh", "-c", &script])?;
        Ok(counted(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Asks until `holds`, or gives up after `within`; the last answers say what was so instead.
    pub fn ask_until(
        &self,
        place: &str,
        url: &str,
        within: Duration,
        holds: impl Fn(&BTreeMap<String, usize>) -> bool,
    ) -> Result<BTreeMap<String, usize>> {
        let deadline = Instant::now() + patience(within);
        loop {
            let answers = self.ask(place, url, 20)?;
            if holds(&answers) {
                return Ok(answers);
            }
            if Instant::now() > deadline {
                bail!("{url} from {place} was answered by {answers:?} within {within:?}");
            }
        }
    }
}

impl Mesh {
    /// Starts a program of `mesh-traffic` in a place; its report is its output's last line, JSON.
    pub fn traffic(&self, place: &str, args: &[&str]) -> Result<Child> {
        let program = self.bin.join("mesh-traffic").display().to_string();
        let argv = [program.as_str()].into_iter().chain(args.iter().copied());
        let mut command = self.lab.command(place, argv)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("cannot start mesh-traffic")
    }

    /// Waits until a port of a place accepts connections.
    pub fn await_tcp(&self, place: &str, port: u16, within: Duration) -> Result<()> {
        let deadline = Instant::now() + patience(within);
        loop {
            let connected = self.lab.inside(place, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)))?;
            match connected {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    bail!("nothing listens on port {port} of {place} after {within:?}: {error}")
                }
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// Watches every link of the underlay: only what the mesh needs there may be seen, and nothing that says `canary`.
    pub fn sniff(&self, canaries: &[&str]) -> Result<Sniffer> {
        let mut watch = Watch::underlay().allow(underlay_rules()?);
        for canary in canaries {
            watch = watch.canary(canary);
        }
        Sniffer::start(&self.lab, watch)
    }
}

/// The report of a program that [`Mesh::traffic`] started, when it has ended.
pub fn report(child: Child) -> Result<serde_json::Value> {
    let Output { stdout, stderr, .. } = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&stdout);
    let line =
        text.lines().last().with_context(|| format!("no report: {}", String::from_utf8_lossy(&stderr)))?;
    serde_json::from_str(line).with_context(|| format!("cannot read the report {line}"))
}

/// What may be on the underlay while the mesh runs: WireGuard between nodes, gRPC to apiservers, address resolution, and
/// what the pods and nodes of one cluster say to each other by their CNI (the default scope ends there).
pub fn underlay_rules() -> Result<Vec<Rule>> {
    let places =
        |all: &[String]| all.iter().map(|p| p.parse().map(Whom::Place)).collect::<Result<Vec<_>, _>>();
    let nodes =
        [A, B].iter().flat_map(|c| c.nodes.map(|n| format!("{}/node/{n}", c.name))).collect::<Vec<_>>();
    let controls = [A, B].map(|c| format!("{}/host/control", c.name));
    let own = |c: Cluster| {
        let pods = ["client", "cart-1", "cart-2", "shell"].map(|p| format!("{}/pod/{p}", c.name));
        places(&[&pods[..], &c.nodes.map(|n| format!("{}/node/{n}", c.name))[..]].concat())
    };
    Ok(vec![
        Rule::Anything { between: own(A)? },
        Rule::Anything { between: own(B)? },
        Rule::Arp,
        Rule::NeighbourDiscovery,
        Rule::Wireguard { between: places(&nodes)?, port: 51871 },
        Rule::Tcp { to: places(&controls)?, port: 2379 },
    ])
}

/// The offences of a watch, if there were any; else how much it saw.
pub fn clean(sniffer: Sniffer) -> Result<Report> {
    let report = sniffer.stop()?;
    report.check()?;
    Ok(report)
}

/// The manifests of a cluster, in the order in which an operator would apply them.
pub const MANIFESTS: [&str; 4] = ["nodes.yaml", "pods.yaml", "cart.yaml", "cart-endpoints.yaml"];

/// The output of a program that must succeed, as text.
pub fn succeed(output: Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    bail!("{}: {stdout}{}", output.status, String::from_utf8_lossy(&output.stderr))
}

/// Who answered how often: each line is an answer.
#[must_use]
pub fn counted(lines: &str) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        *answers.entry(line.to_owned()).or_default() += 1;
    }
    answers
}

/// Whether only this cluster's pods answered.
#[must_use]
pub fn only(answers: &BTreeMap<String, usize>, cluster: &Cluster) -> bool {
    !answers.is_empty() && answers.keys().all(|who| who.starts_with(cluster.name))
}

/// Whether pods of both clusters answered, and nobody else.
#[must_use]
pub fn both(answers: &BTreeMap<String, usize>) -> bool {
    let from = |cluster: &Cluster| answers.keys().any(|who| who.starts_with(cluster.name));
    from(&A) && from(&B) && answers.keys().all(|who| who.starts_with(A.name) || who.starts_with(B.name))
}

/// Whether every `cart` pod of these clusters answered, and nobody else.
#[must_use]
pub fn carts(answers: &BTreeMap<String, usize>, clusters: &[Cluster]) -> bool {
    let all =
        clusters.iter().flat_map(|cluster| ["cart-1", "cart-2"].map(|pod| format!("{}/{pod}", cluster.name)));
    answers.keys().cloned().eq(all)
}
