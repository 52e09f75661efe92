//! A host: a network namespace without a name, an `/etc` of its own, dnsmasq as the server that it had
//! before, and the agent's names.

use api::{
    bytes::Uid,
    key::MeshKey,
    name::{ClusterName, NamespaceName, ServiceName},
    record::{Affinity, Backend, NamedPort, Protocol, Record, Service},
};
use mesh_vm_agent::{
    dns::zone::{Domain, Zone},
    names::{self, Facts, Names, Options},
    resolv::Host,
};
use nix::sched::{CloneFlags, setns, unshare};
use replica::{
    follower::{Event, Value},
    service::Silent,
    view::View,
};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where dnsmasq answers for `example.com`, for 30 s.
pub const UPSTREAM: &str = "192.0.2.1";
/// Where the agent answers.
pub const US: &str = "127.0.0.153";
/// What does not happen by then does not happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace, and a mount namespace where the test needs one, held by descriptors only: nothing is left
/// behind, however the test ends.
pub struct Place {
    netns: File,
    mounts: Option<File>,
}

impl Place {
    pub fn new() -> Self {
        let first = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
            File::open("/proc/thread-self/ns/net").expect("a thread has a network namespace")
        });
        let place =
            Self { netns: first.join().expect("the namespace's first thread ends well"), mounts: None };
        place.sh("ip link set lo up");
        place
    }

    /// A place with `/run` and `/etc` of its own, and files of `ci/resolvers.sh` laid over its `/usr` and `/etc`.
    pub fn with_layers(tree: &str) -> Self {
        let cache = std::env::var("MESH_CACHE")
            .unwrap_or_else(|_| std::env::var("HOME").expect("there is a HOME") + "/.cache/mesh");
        let tree = format!("{cache}/resolvers/{tree}");
        assert!(fs::exists(&tree).expect("a path"), "{tree} is there: run ci/resolvers.sh");
        let first = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("these tests make mount namespaces: run them as root");
            File::open("/proc/thread-self/ns/mnt").expect("a thread has a mount namespace")
        });
        let mounts = first.join().expect("the namespace's first thread ends well");
        let place = Self { mounts: Some(mounts), ..Self::new() };
        place.sh(&format!(
            "set -e
            mount --make-rprivate /
            mount -t tmpfs tmpfs /run && mkdir /run/upper /run/work
            mount -t overlay -o lowerdir={tree}/usr:/usr overlay /usr
            mount -t overlay -o lowerdir={tree}/etc:/etc,upperdir=/run/upper,workdir=/run/work overlay /etc
            mount -t tmpfs tmpfs /run"
        ));
        place
    }

    /// Runs this in a thread inside. Sockets and processes that it makes stay inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                f()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves this thread inside, for good.
    fn enter(&self) {
        setns(&self.netns, CloneFlags::CLONE_NEWNET).expect("root enters a namespace it made");
        if let Some(mounts) = &self.mounts {
            // A thread that shares its root and directory with others cannot leave for other mounts. (setns(2))
            unshare(CloneFlags::CLONE_FS).expect("a thread may have its own directory");
            setns(mounts, CloneFlags::CLONE_NEWNS).expect("root enters a namespace it made");
        }
    }

    /// The same place, for a thread that outlives this one.
    fn again(&self) -> Self {
        let again = |file: &File| file.try_clone().expect("a descriptor");
        Self { netns: again(&self.netns), mounts: self.mounts.as_ref().map(again) }
    }

    /// A shell's line inside; what it printed.
    pub fn sh(&self, line: &str) -> String {
        let (said, ok) = self.try_sh(line);
        assert!(ok, "{line}: {said}");
        said
    }

    /// The same, and whether it succeeded.
    pub fn try_sh(&self, line: &str) -> (String, bool) {
        let output = self.run(|| Command::new("sh").args(["-c", line]).output().expect("there is a shell"));
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&said).trim().to_owned(), output.status.success())
    }

    pub fn netns(&self) -> File {
        self.netns.try_clone().expect("a descriptor")
    }
}

/// dnsmasq, and what it was asked.
pub struct Dnsmasq {
    process: Child,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Dnsmasq {
    pub fn start(place: &Place, args: &[&str]) -> Self {
        place.sh(&format!("ip addr replace {UPSTREAM}/32 dev lo"));
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
            "--no-resolv",
        ]);
        command.args([
            "--no-hosts",
            "--log-queries",
            "--log-facility=-",
            "--bind-interfaces",
            "--except-interface=lo",
        ]);
        command.args([&format!("--listen-address={UPSTREAM}"), "--auth-zone=example.com", "--auth-ttl=30"]);
        command.arg(format!("--auth-server=ns.example.com,{UPSTREAM}")).args(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = place.run(|| command.spawn().expect("dnsmasq is installed"));
        let lines = BufReader::new(process.stderr.take().expect("stderr is piped")).lines();
        let (ready, is_ready) = mpsc::channel();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains(": started") {
                    ready.send(()).ok();
                }
                if let Some((_, question)) = line.split_once("query[").or_else(|| line.split_once("auth[")) {
                    heard.lock().unwrap().push(question.to_owned());
                }
                eprintln!("{line}");
            }
        });
        is_ready.recv_timeout(PATIENCE).expect("dnsmasq starts");
        Self { process, asked }
    }

    /// How often it was asked for something that contains this.
    pub fn asked(&self, text: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|question| question.contains(text)).count()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The agent's names in a place, from a thread of its own.
pub struct Agent {
    ending: CancellationToken,
    status: watch::Receiver<Names>,
    facts: watch::Sender<Facts>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    pub fn start(place: &Place, host: Host) -> Self {
        let options = Options {
            server: format!("{US}:53").parse().expect("an address"),
            interface: "mesh0".to_owned(),
            domain: Domain::default(),
        };
        let (facts, known) = watch::channel(Facts::unknown(Domain::default()));
        let (told, status) = watch::channel(Names::Starting);
        let ending = CancellationToken::new();
        let (inside, end) = (place.again(), ending.clone());
        let thread = std::thread::spawn(move || {
            inside.enter();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(names::run(host, options, known, told, end));
        });
        Self { ending, status, facts, thread: Some(thread) }
    }

    /// Waits until names are as expected.
    pub fn until(&mut self, expected: impl Fn(&Names) -> bool) -> Names {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let reached = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.status.wait_for(|names| expected(names)))
                .await
                .map(|names| names.expect("the agent runs").clone())
        });
        reached.unwrap_or_else(|_| panic!("names stay {:?}", self.status.borrow()))
    }

    pub fn served(&mut self) {
        self.until(|names| matches!(names, Names::Served { .. }));
    }

    pub fn show(&self, zone: Zone) {
        let namespace = Some("shop".parse().expect("a name"));
        self.facts.send_replace(Facts { namespace, zone: Arc::new(zone) });
    }

    /// An ordered end.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.ending.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the agent ends well");
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.ending.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// All of it.
pub struct Machine {
    pub place: Place,
    pub root: TempDir,
}

impl Machine {
    /// A host whose `/etc/resolv.conf` names these servers.
    pub fn with(servers: &[&str]) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("etc")).expect("a directory");
        let machine = Self { place: Place::new(), root };
        fs::write(machine.resolv_conf(), Self::conf(servers)).expect("a file");
        machine
    }

    pub fn conf(servers: &[&str]) -> String {
        servers.iter().map(|server| format!("nameserver {server}\n")).collect::<String>()
            + "search example.com\n"
    }

    pub fn resolv_conf(&self) -> PathBuf {
        self.root.path().join("etc/resolv.conf")
    }

    pub fn host(&self) -> Host {
        Host::new(self.root.path(), "vm")
    }

    /// `dig` of our server.
    pub fn dig(&self, args: &str) -> String {
        self.place.try_sh(&format!("dig @{US} +tries=1 +timeout=8 {args}")).0
    }

    /// The same, the data alone, in order.
    pub fn short(&self, args: &str) -> String {
        let said = self.dig(&format!("+short {args}"));
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        lines.join(" ")
    }

    /// What libc says, with this host's `/etc/resolv.conf` in the place of the machine's. That has to be the
    /// same mount when the file is replaced, so the directory is laid over `/etc`, with what else libc reads
    /// from there.
    pub fn getent(&self, name: &str) -> String {
        let etc = self.root.path().join("etc");
        fs::write(etc.join("nsswitch.conf"), "hosts: dns\n").expect("a file");
        let line =
            format!("unshare -m sh -c 'mount --bind {} /etc && getent ahostsv4 {name}'", etc.display());
        let (said, _) = self.place.try_sh(&line);
        said.lines().next().unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
    }
}

/// `shop/cart` with both families and a named port, and the headless `shop/db` with this many backends.
pub fn mesh(backends: u8) -> Zone {
    let east: ClusterName = "east".parse().expect("a name");
    let mut view = View::new(east.clone());
    let shop: NamespaceName = "shop".parse().expect("a name");
    let (cart, db): (ServiceName, ServiceName) =
        ("cart".parse().expect("a name"), "db".parse().expect("a name"));
    let frontends = ["10.101.0.10", "fd00:101::10"].map(|ip| ip.parse().expect("an address")).to_vec();
    let mut records = vec![
        (MeshKey::Service(shop.clone(), cart), Record::from(service(frontends))),
        (MeshKey::Service(shop.clone(), db.clone()), service(vec![]).into()),
    ];
    for n in 0..backends {
        let address = IpAddr::from(Ipv4Addr::new(10, 1, 0, n));
        records.push((MeshKey::Backend(shop.clone(), db.clone(), address), backend().into()));
    }
    view.apply(Event::Init);
    for (key, record) in records {
        let key = key.of(&east).to_string().into_bytes();
        view.apply(Event::InitApply(Value { key, value: record.encode(), mod_revision: 1 }));
    }
    view.apply(Event::InitDone { revision: 1 });
    Zone::of(&view, &Silent::new(), Domain::default())
}

fn service(frontends: Vec<IpAddr>) -> Service {
    Service {
        uid: Uid([1; 16]),
        headless: frontends.is_empty(),
        frontends,
        ports: vec![NamedPort { name: "http".parse().ok(), port: 80, protocol: Protocol::Tcp }],
        global: true,
        shared: true,
        affinity: Affinity::None,
        created_s: 1,
        session_affinity_s: 0,
    }
}

fn backend() -> Backend {
    Backend {
        uid: Uid([2; 16]),
        ports: vec![],
        ready: true,
        serving: true,
        terminating: false,
        weight: 1,
        zone: String::new(),
        node: None,
        hostname: String::new(),
        created_s: 1,
    }
}
