//! A fixture image through plan and apply on the real kernel: two nodes with `mesh-tunnel` or the kernel's WireGuard, pods
//! attached by the CNI, and a sniffer between them.
//!
//! Needs root, and `cargo build -p lab -p mesh-tunnel` before: the binaries are looked for beside the test's own.
//! The agent is this test's own executable, run in each node's place; it reconciles once and ends, so that every packet
//! afterwards is carried by what it left behind.

mod agent;

use agent::{IMAGE, Wish};
use datapath::backend::{
    bpf::Hook,
    wireguard::{Kind, PrivateKey},
};
use lab::{Lab, Sniffer, Watch, parse_rules};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    path::PathBuf,
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

const NODES: [&str; 2] = ["cluster-a/node/a1", "cluster-b/node/b1"];

#[test]
fn pods_hosts_and_services_of_two_nodes_meet_encrypted_or_not_at_all() {
    let mut mesh = Mesh::up("dphost-meet", [Kind::Userspace; 2]);
    let sniffer = mesh.connect();
    mesh.everybody_meets();

    mesh.kill_tunnel(0);
    mesh.curl("cluster-a/pod/client", &["http://10.2.1.11:8080"]).fails("a pod while the tunnel is dead", 28);
    mesh.curl("cluster-a/node/a1", &["http://10.2.1.11:8080"]).fails("a pod by a host while it is dead", 28);
    mesh.start_tunnel(0);
    mesh.curl("cluster-a/pod/client", &["http://10.2.1.11:8080"]).answers("the tunnel is back", "cluster-b");

    mesh.disconnect(sniffer);
}

#[test]
#[ignore = "needs a kernel with WireGuard: make test-kernels"]
fn a_node_with_the_kernels_wireguard_and_one_with_mesh_tunnel_meet_encrypted_or_not_at_all() {
    let mesh = Mesh::up("dphost-kernel", [Kind::Kernel, Kind::Userspace]);
    let sniffer = mesh.connect();
    mesh.everybody_meets();

    let (node, pod) = (NODES[0], "cluster-a/pod/client");
    mesh.run(node, "ip link del mesh0");
    mesh.curl(node, &["http://10.2.1.11:8080"]).fails("a host without the device", 7);
    mesh.curl(pod, &["http://10.2.1.11:8080"]).fails("a pod without the device", 28);
    mesh.repair("", "the agent makes another device");
    mesh.curl(node, &["http://10.2.1.11:8080"]).answers("a host over the new device", "cluster-b");
    mesh.curl(pod, &["http://10.2.1.11:8080"]).answers("a pod over the new device", "cluster-b");

    mesh.disconnect(sniffer);
}

#[test]
fn without_tcx_filters_carry_the_same_and_what_somebody_removes_of_them_leaks_nothing_and_is_put_back() {
    let mut mesh = Mesh::up("dphost-clsact", [Kind::Userspace; 2]);
    mesh.hook = Some(Hook::Clsact);
    let sniffer = mesh.connect();
    mesh.everybody_meets();

    mesh.run(
        NODES[0],
        "for d in /sys/class/net/*; do tc qdisc del dev ${d##*/} clsact 2>/dev/null || true; done",
    );
    // Without its program a pod's packets take the host's way, which leads into the tunnel, too.
    mesh.curl("cluster-a/node/a1", &["http://10.2.1.11:8080"]).answers("a host without filters", "cluster-b");
    mesh.repair("", "without filters");
    mesh.everybody_meets();
    mesh.disconnect(sniffer);
}

#[test]
fn an_agent_that_starts_again_loses_no_packet_of_a_stream_whatever_its_programs_stand_at() {
    let mut mesh = Mesh::up("dphost-restart", [Kind::Userspace; 2]);
    mesh.hook = Some(Hook::Clsact);
    let sniffer = mesh.connect();
    mesh.restart_under_a_stream(&[Some(Hook::Clsact); 4]);
    // Where the kernel has TCX, the agent goes over to it, back, and over again.
    mesh.restart_under_a_stream(&[None, Some(Hook::Clsact), None, None]);
    mesh.everybody_meets();
    mesh.disconnect(sniffer);
}

#[test]
fn what_somebody_broke_leaks_nothing_and_is_repaired() {
    let mut mesh = Mesh::up("dphost-broken", [Kind::Userspace; 2]);
    mesh.reconcile("connected");
    let (node, pod) = (NODES[0], "cluster-a/pod/client");
    let each = |check: &dyn Fn(&str)| {
        ["http://10.2.1.11:8080", "http://[fd00:10:2:1::11]:8080"].into_iter().for_each(check);
    };
    let sniffer = mesh.sniff();

    mesh.run(node, "ip rule del priority 100; ip -6 rule del priority 100");
    // It takes the default route now, and the guard stops it there.
    each(&|url| mesh.curl(node, &[url]).fails("without our rules", 28));
    mesh.repair("Plain", "without our rules");
    each(&|url| mesh.curl(node, &[url]).answers("the rules are back", "cluster-b"));

    mesh.run(node, "ip route flush table 27973; ip -6 route flush table 27973");
    each(&|url| mesh.curl(node, &[url]).fails("without our routes", 28));
    mesh.repair("Plain", "without our routes");
    mesh.run(node, "nft delete table inet mesh; ip addr del 100.64.1.1/32 dev mesh0; ip addr del fd64:1::1/128 dev mesh0");
    mesh.repair("", "without our addresses and our table");
    each(&|url| mesh.curl(node, &[url]).answers("all is back", "cluster-b"));

    mesh.kill_tunnel(0);
    mesh.run(node, "ip link del mesh0");
    each(&|url| mesh.curl(node, &[url]).fails("a host without the device", 7));
    each(&|url| mesh.curl(pod, &[url]).fails("a pod without the device", 28));
    mesh.start_tunnel(0);
    mesh.repair("", "with another device");
    each(&|url| mesh.curl(node, &[url]).answers("a host over the new device", "cluster-b"));
    each(&|url| mesh.curl(pod, &[url]).answers("a pod over the new device", "cluster-b"));

    sniffer.stop().unwrap().check().unwrap();
}

/// The agent's part, in the place of a node.
#[test]
#[ignore = "run by the other tests in the places of their nodes"]
fn agent() {
    let wish: Wish = std::env::var(IMAGE).expect("the test says which image").parse().unwrap();
    println!("{}", agent::run(&wish));
}

struct Mesh {
    lab: Lab,
    keys: [PrivateKey; 2],
    kinds: [Kind; 2],
    /// What packet programs are to stand at; None: what the agent chooses.
    hook: Option<Hook>,
    /// Of the nodes that have no kernel's.
    tunnels: [Option<Child>; 2],
    _servers: Vec<Child>,
}

impl Mesh {
    fn up(name: &str, kinds: [Kind; 2]) -> Self {
        let topology = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/two_nodes/topology.yaml");
        let lab = Lab::up_as(name, topology).unwrap();
        let tunnels = [0, 1].map(|node| match kinds[node] {
            Kind::Kernel => None,
            Kind::Userspace => Some(spawn_tunnel(&lab, node)),
        });
        let serve = |place: &str, name: &str| {
            lab.spawn(place, [&bin("mesh-traffic"), "http-serve", "--name", name, "--port", "9000"]).unwrap()
        };
        let servers = vec![serve(NODES[1], "cluster-b/host")];
        Self {
            lab,
            keys: [PrivateKey::generate(), PrivateKey::generate()],
            kinds,
            hook: None,
            tunnels,
            _servers: servers,
        }
    }

    /// Runs the agent once on each node; its report is one line.
    fn reconcile(&self, scene: &str) -> [String; 2] {
        [0, 1].map(|node| {
            let wish = Wish {
                scene: scene.to_owned(),
                node,
                private_key: self.keys[node].clone(),
                peer: self.keys[1 - node].public(),
                hook: self.hook,
            };
            let me = std::env::current_exe().unwrap();
            let arguments = ["--exact", "agent", "--ignored", "--nocapture", "--test-threads=1"];
            let argv = std::iter::once(me.to_str().unwrap()).chain(arguments);
            let output =
                self.lab.command(NODES[node], argv).unwrap().env(IMAGE, wish.to_string()).output().unwrap();
            let text = text(&output);
            assert!(output.status.success(), "the agent of {} failed:\n{text}", NODES[node]);
            text.lines().find(|line| line.starts_with("changed")).unwrap_or(&text).to_owned()
        })
    }

    /// Both nodes are programmed, by the devices that were asked for; watched from then on.
    fn connect(&self) -> Sniffer {
        // Each reason of a change is one line of an agent's report.
        let first = self.reconcile("connected");
        assert!(first.iter().all(|report| report.contains("problems []")), "{first:#?}");
        let again = self.reconcile("connected");
        assert!(again.iter().all(|report| report.contains("changed 0, problems []")), "{again:#?}");
        for (report, kind) in again.iter().zip(self.kinds) {
            assert!(report.contains(&format!("tunnel {kind}")), "{report}");
            let hook = self.hook.map_or("hook ", Hook::name);
            assert!(report.contains(hook), "{report}");
        }
        self.sniff()
    }

    fn everybody_meets(&self) {
        let far = [
            ("a pod by a pod's own address", "cluster-a/pod/client", "http://10.2.1.11:8080"),
            ("the same over IPv6", "cluster-a/pod/client", "http://[fd00:10:2:1::11]:8080"),
            ("a service by a pod", "cluster-a/pod/client", "http://10.101.0.80"),
            ("the same over IPv6", "cluster-a/pod/client", "http://[fd00:101::80]"),
            ("a pod by a host", "cluster-a/node/a1", "http://10.2.1.11:8080"),
            ("the same over IPv6", "cluster-a/node/a1", "http://[fd00:10:2:1::11]:8080"),
            ("a service by a host", "cluster-a/node/a1", "http://10.101.0.80"),
            ("a host by its mesh address", "cluster-a/pod/client", "http://100.64.2.1:9000"),
            ("the same over IPv6", "cluster-a/node/a1", "http://[fd64:2::1]:9000"),
        ];
        for (what, from, url) in far {
            self.curl(from, &[url]).answers(what, "cluster-b");
        }
        self.curl("cluster-b/pod/client", &["http://10.1.1.11:8080"]).answers("the other way", "cluster-a");
        // Stack traffic with another source is masqueraded: else its replies would find no way back.
        self.curl("cluster-a/node/a1", &["--interface", "192.0.2.11", "http://10.2.1.11:8080"])
            .answers("a host with its node address as the source", "cluster-b");
        self.curl("cluster-a/pod/client", &["http://10.101.0.80:81"])
            .fails("a port that the service has not", 7);
        self.curl("cluster-a/pod/client", &["http://10.101.0.81"]).fails("a service without backends", 7);
        self.curl("cluster-a/pod/client", &["http://10.1.1.11:8080"])
            .answers("a pod of its own node", "cluster-a");
    }

    /// What was open is closed, and nothing was seen in plain all the time.
    fn disconnect(&self, sniffer: Sniffer) {
        let closed = self.reconcile("disconnected");
        assert!(closed.iter().all(|report| report.contains("problems []")), "{closed:#?}");
        self.curl("cluster-a/pod/client", &["http://10.2.1.11:8080"]).fails("a closed prefix by a pod", 28);
        self.curl("cluster-a/node/a1", &["http://10.2.1.11:8080"]).fails("a closed prefix by a host", 7);
        let again = self.reconcile("disconnected");
        assert!(again.iter().all(|report| report.contains("changed 0, problems []")), "{again:#?}");

        let report = sniffer.stop().unwrap();
        report.check().unwrap();
        assert!(report.total() > 0, "the sniffer saw nothing at all");

        let gone = self.reconcile("empty");
        assert!(gone.iter().all(|report| report.contains("problems []")), "{gone:#?}");
    }

    /// A stream from pod to pod while the agents of both nodes start again, once with each of these hooks.
    fn restart_under_a_stream(&mut self, hooks: &[Option<Hook>]) {
        let traffic = |place: &str, arguments: &str| {
            let program = bin("mesh-traffic");
            let argv = std::iter::once(program.as_str()).chain(arguments.split(' '));
            let mut command = self.lab.command(place, argv).unwrap();
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let receiver = traffic("cluster-b/pod/client", "udp-seq receive --port 9001 --seconds 900");
        self.run("cluster-b/pod/client", "until ss -Hlun 'sport = 9001' | grep -q .; do :; done");
        let mut sender =
            traffic("cluster-a/pod/client", "udp-seq send --target 10.2.1.10:9001 --rate 100 --seconds 800");
        for hook in hooks {
            self.hook = *hook;
            let reports = self.reconcile("connected");
            assert!(reports.iter().all(|report| report.contains("problems []")), "{reports:#?}");
        }
        // The sender ends its stream, and the receiver knows how long it was.
        kill(Pid::from_raw(sender.id().cast_signed()), Signal::SIGINT).unwrap();
        assert!(sender.wait().unwrap().success());
        let report = text(&receiver.wait_with_output().unwrap());
        assert!(report.contains(r#""lost":0,"#) && report.contains(r#""finished":true"#), "{report}");
    }

    /// A reconcile that finds something to do, no problem, and this among the reasons of drops.
    #[track_caller]
    fn repair(&self, reason: &str, what: &str) {
        let [report, _] = self.reconcile("connected");
        let found =
            report.contains(reason) && !report.contains("changed 0,") && report.contains("problems []");
        assert!(found, "{what}: {report}");
    }

    #[track_caller]
    fn run(&self, place: &str, script: &str) {
        let output = self.lab.exec(place, ["sh", "-ec", script]).unwrap();
        assert!(output.status.success(), "{script}: {}", text(&output));
    }

    fn sniff(&self) -> Sniffer {
        // ICMP: the port is unreachable while the tunnel's process is dead.
        let nodes = NODES.join(", ");
        let rules = format!(
            "[arp, neighbour-discovery, {{icmp: {{between: [{nodes}]}}}}, \
             {{wireguard: {{between: [{nodes}], port: 51871}}}}]"
        );
        let watch = Watch::underlay().allow(parse_rules(&rules).unwrap()).canary("cluster-b/cart");
        Sniffer::start(&self.lab, watch).unwrap()
    }

    fn curl(&self, place: &str, arguments: &[&str]) -> Answer {
        let curl = ["curl", "--silent", "--show-error", "--max-time", "4"];
        Answer(self.lab.exec(place, curl.iter().chain(arguments)).unwrap())
    }

    fn kill_tunnel(&mut self, node: usize) {
        let mut tunnel = self.tunnels[node].take().unwrap();
        tunnel.kill().unwrap();
        tunnel.wait().unwrap();
    }

    fn start_tunnel(&mut self, node: usize) {
        self.tunnels[node] = Some(spawn_tunnel(&self.lab, node));
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for tunnel in self.tunnels.iter_mut().flatten() {
            tunnel.kill().ok();
            tunnel.wait().ok();
        }
    }
}

struct Answer(Output);

impl Answer {
    #[track_caller]
    fn answers(&self, what: &str, by: &str) {
        let text = text(&self.0);
        assert!(self.0.status.success() && text.contains(by), "{what}: {text}");
    }

    /// With curl's exit code: 7 is refused at once, 28 is no answer.
    #[track_caller]
    fn fails(&self, what: &str, code: i32) {
        assert_eq!(self.0.status.code(), Some(code), "{what}: {}", text(&self.0));
    }
}

/// Starts `mesh-tunnel` and waits until it answers.
fn spawn_tunnel(lab: &Lab, node: usize) -> Child {
    let child = lab.spawn(NODES[node], [bin("mesh-tunnel")]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let answers = || {
        let socket = "/var/run/wireguard/mesh0.sock";
        let script = format!("exec 2>/dev/null; test -S {socket} && ip link show mesh0");
        lab.exec(NODES[node], ["sh", "-c", &script]).unwrap().status.success()
    };
    while !answers() {
        assert!(Instant::now() < deadline, "mesh-tunnel on {} does not answer after 10 s", NODES[node]);
    }
    child
}

/// A binary of the workspace, beside this test's own directory.
fn bin(name: &str) -> String {
    let me = std::env::current_exe().unwrap();
    let path = me.ancestors().nth(2).unwrap().join(name);
    assert!(path.is_file(), "{} is missing: cargo build -p lab -p mesh-tunnel", path.display());
    path.to_str().unwrap().to_owned()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
