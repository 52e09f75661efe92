//! `make demo`: two clusters on this machine, from nothing to a failover and back, each command with its output.

use anyhow::{Result, bail};
use clap::Parser;
use e2e::{A, B, MANIFESTS, Mesh, carts, clean, report, succeed};
use lab::{Sniffer, UpOptions};
use std::{
    collections::BTreeMap,
    process::{Child, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a change of objects may take until every request shows it.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// The streams that nothing may interrupt.
const STREAM_SECONDS: &str = "30";

/// Two clusters on this machine, in network namespaces: connected, failed over, cut off from their control planes and
/// disconnected again, each command with its output. It needs root, takes a minute and leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "mesh-demo", version)]
struct Cli {}

fn main() -> ExitCode {
    Cli::parse();
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&interrupted)) {
            eprintln!("error: cannot handle signals: {error}");
            return ExitCode::FAILURE;
        }
    }
    match Demo::run(interrupted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Demo {
    mesh: Mesh,
    interrupted: Arc<AtomicBool>,
}

impl Demo {
    fn run(interrupted: Arc<AtomicBool>) -> Result<()> {
        let started = Instant::now();
        say("Two clusters on this machine: namespaces, an underlay, the CNI's plugins, kube-proxy's rules.");
        let mesh = Mesh::up(UpOptions { interrupted: Arc::clone(&interrupted), ..UpOptions::default() })?;
        let demo = Self { mesh, interrupted };
        for step in
            [Self::apart, Self::connect, Self::together, Self::failover, Self::headless, Self::disconnect]
        {
            step(&demo)?;
            demo.check_interrupted()?;
        }
        drop(demo);
        println!("\nEverything is taken down again. It took {} s.", started.elapsed().as_secs());
        Ok(())
    }

    fn check_interrupted(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) { bail!("interrupted") } else { Ok(()) }
    }

    fn apart(&self) -> Result<()> {
        title(1, "Each cluster alone");
        for cluster in [A, B] {
            for file in MANIFESTS {
                println!("$ cp manifests/{0}/{file} {0}/manifests/", cluster.name);
                self.mesh.apply(&cluster, file)?;
            }
            println!(
                "$ start {0}: clustermesh-apiserver, and on each node mesh-tunnel and mesh-node-agent",
                cluster.name
            );
            self.mesh.start(&cluster)?;
        }
        let answers = self.curl("cluster-a/pod/client", A.cart, |answers| carts(answers, &[A]))?;
        show(&answers);
        let cart_b = "10.2.1.11:8080";
        println!("$ mesh-lab exec cluster-a/pod/client -- curl -s --max-time 1 http://{cart_b}/");
        let output = self
            .mesh
            .lab
            .exec("cluster-a/pod/client", ["curl", "-sS", "--max-time", "1", &format!("http://{cart_b}/")])?;
        if output.status.success() {
            bail!("a pod of cluster-b was reached before the clusters were connected");
        }
        print!("{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn connect(&self) -> Result<()> {
        title(2, "Connected");
        self.meshctl(["connect", A.name, B.name])?;
        self.meshctl(["status"])
    }

    fn together(&self) -> Result<()> {
        title(3, "One service, the backends of both");
        let sniffer = self.sniff("cluster-b/cart")?;
        show(&self.curl("cluster-a/pod/client", A.cart, |answers| carts(answers, &[A, B]))?);
        watched(sniffer)?;
        let sniffer = self.sniff("cluster-a/cart")?;
        show(&self.curl("cluster-b/pod/client", B.cart_v6, |answers| carts(answers, &[A, B]))?);
        watched(sniffer)?;
        self.meshctl(["why", "shop/cart", "--cluster", A.name])
    }

    fn failover(&self) -> Result<()> {
        title(4, "cluster-a's own backends go away, and come back");
        println!("$ rm cluster-a/manifests/cart-endpoints.yaml");
        self.mesh.remove(&A, "cart-endpoints.yaml")?;
        show(&self.curl("cluster-a/pod/client", A.cart, |answers| carts(answers, &[B]))?);
        println!("$ cp manifests/cluster-a/cart-endpoints.yaml cluster-a/manifests/");
        self.mesh.apply(&A, "cart-endpoints.yaml")?;
        show(&self.curl("cluster-a/pod/client", A.cart, |answers| carts(answers, &[A, B]))?);
        Ok(())
    }

    fn headless(&self) -> Result<()> {
        title(5, "Every apiserver and agent is killed: packets flow on");
        let streams = Streams::start(&self.mesh)?;
        for cluster in [A, B] {
            println!("$ kill -9 {0}: clustermesh-apiserver and both mesh-node-agent", cluster.name);
            self.mesh.kill_control(&cluster)?;
        }
        show(&self.curl("cluster-a/pod/client", A.cart, |answers| carts(answers, &[A, B]))?);
        for cluster in [A, B] {
            println!("$ start {}: clustermesh-apiserver, mesh-node-agent", cluster.name);
            self.mesh.start_control(&cluster)?;
        }
        streams.finish()
    }

    fn disconnect(&self) -> Result<()> {
        title(6, "Disconnected: closed, not in plain");
        self.meshctl(["disconnect", A.name, B.name])?;
        show(&self.curl("cluster-a/pod/client", A.cart, |answers| carts(answers, &[A]))?);
        let sniffer = self.sniff("cluster-b/cart")?;
        let argv = ["curl", "-sS", "--max-time", "1", "http://10.2.1.11:8080/"];
        println!("$ mesh-lab exec cluster-a/pod/client -- {}", argv.join(" "));
        let output = self.mesh.lab.exec("cluster-a/pod/client", argv)?;
        if output.status.success() {
            bail!("a pod of cluster-b was reached after the clusters were disconnected");
        }
        print!("{}", String::from_utf8_lossy(&output.stderr));
        watched(sniffer)
    }

    /// Twenty requests, a connection each, until they are answered as they should be.
    fn curl(
        &self,
        place: &str,
        cart: &str,
        holds: impl Fn(&BTreeMap<String, usize>) -> bool,
    ) -> Result<BTreeMap<String, usize>> {
        let url = format!("http://{cart}/");
        println!("$ for i in $(seq 20); do mesh-lab exec {place} -- curl -gs {url}; done | sort | uniq -c");
        self.mesh.ask_until(place, &url, SHOWN_WITHIN, holds)
    }

    fn meshctl<'a>(&self, args: impl IntoIterator<Item = &'a str> + Clone) -> Result<()> {
        println!("$ meshctl {}", args.clone().into_iter().collect::<Vec<_>>().join(" "));
        print!("{}", succeed(self.mesh.meshctl(args)?)?);
        Ok(())
    }

    /// Watches every link of the underlay for anything but WireGuard and gRPC between the clusters, and for the answer
    /// of the other cluster's pods, which must not be readable anywhere.
    fn sniff(&self, canary: &str) -> Result<Sniffer> {
        println!("$ mesh-lab sniff underlay --allow underlay.yaml --canary {canary} &");
        self.mesh.sniff(&[canary])
    }
}

fn watched(sniffer: Sniffer) -> Result<()> {
    let report = clean(sniffer)?;
    println!(
        "the sniffer saw {} frames; between the clusters nothing but WireGuard and gRPC, and the canary nowhere",
        report.total()
    );
    Ok(())
}

/// A TCP transfer and a one-way UDP stream from cluster-a to cluster-b, and new connections all the while.
struct Streams {
    tcp: Child,
    udp_receiver: Child,
    udp: Child,
    connections: Child,
}

impl Streams {
    fn start(mesh: &Mesh) -> Result<Self> {
        let (client, shell) = ("cluster-a/pod/client", "cluster-b/pod/shell");
        let target = |port: u16| format!("10.2.2.10:{port}");
        let spawn = |place: &str, args: &[&str]| mesh.traffic(place, args);
        println!(
            "$ mesh-traffic: TCP and UDP from {client} to {shell}, and a new connection every 100 ms, for {STREAM_SECONDS} s"
        );
        spawn(shell, &["tcp-stream", "serve", "--port", "9000", "--seconds", "60"])?;
        let udp_receiver = spawn(shell, &["udp-seq", "receive", "--port", "9001", "--seconds", "60"])?;
        mesh.await_tcp(shell, 9000, Duration::from_secs(5))?;
        Ok(Self {
            tcp: spawn(
                client,
                &["tcp-stream", "send", "--target", &target(9000), "--seconds", STREAM_SECONDS],
            )?,
            udp: spawn(
                client,
                &["udp-seq", "send", "--target", &target(9001), "--seconds", STREAM_SECONDS, "--rate", "200"],
            )?,
            connections: spawn(
                client,
                &[
                    "connect-loop",
                    "--target",
                    "10.101.0.10:80",
                    "--http",
                    "--interval-ms",
                    "100",
                    "--seconds",
                    STREAM_SECONDS,
                ],
            )?,
            udp_receiver,
        })
    }

    fn finish(self) -> Result<()> {
        let tcp = report(self.tcp)?;
        println!(
            "TCP transfer   {} bytes, longest gap {} ms, {}",
            tcp["bytes"],
            tcp["longest_gap_ms"],
            if tcp["error"].is_null() { "intact" } else { "broken" }
        );
        report(self.udp)?;
        let udp = report(self.udp_receiver)?;
        println!(
            "UDP stream     {} packets, {} lost, longest gap {} ms",
            udp["received"], udp["lost"], udp["longest_gap_ms"]
        );
        let connections = report(self.connections)?;
        println!("connections    {} made, {} failed", connections["attempts"], connections["failures"]);
        if !tcp["error"].is_null() || udp["lost"] != 0 || connections["failures"] != 0 {
            bail!("something was interrupted while the control plane was dead");
        }
        Ok(())
    }
}

fn title(number: usize, text: &str) {
    println!("\n── {number}. {text}");
}

fn say(text: &str) {
    println!("{text}");
}

fn show(answers: &BTreeMap<String, usize>) {
    for (who, count) in answers {
        println!("{count:7} {who}");
    }
}
