//! Two hosts on one underlay: network namespaces without a name, that end with the test, and in each a `mesh-tunnel` or a
//! device of the kernel.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use datapath::backend::wireguard::{Device, Kind, Peer, PrivateKey, Tunnel, plan};
use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;

/// A process that is not ready by then is not getting ready.
const PATIENCE: Duration = Duration::from_secs(20);
/// Another wall clock for one process. (Debian's package libfaketime)
const FAKETIME: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";
/// The tunnel's UDP port and fwmark, as the product uses them.
pub const PORT: u16 = 51871;
pub const FWMARK: u32 = 0x6d65;

/// A network namespace, held by a descriptor only: nothing is left behind, however the test ends.
pub struct Place {
    netns: File,
}

impl Place {
    pub fn new() -> Self {
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
            File::open("/proc/thread-self/ns/net").expect("a thread has a network namespace")
        });
        let place = Self { netns: netns.join().expect("the namespace's first thread ends well") };
        place.ip("link set lo up");
        place
    }

    /// Runs this in a thread inside. Sockets and processes that it makes stay inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.netns, CloneFlags::CLONE_NEWNET).expect("root enters a namespace it made");
                f()
            });
            thread.join().expect("what runs inside does not panic")
        })
    }

    /// `ip ARGS` inside.
    pub fn ip(&self, args: &str) -> String {
        let output =
            self.run(|| Command::new("ip").args(args.split(' ')).output().expect("iproute2 is installed"));
        assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("ip writes text")
    }

    pub fn ifindex(&self, interface: &str) -> usize {
        let line = self.ip(&format!("-o link show {interface}"));
        line.split(':')
            .next()
            .and_then(|index| index.parse().ok())
            .expect("a line of ip starts with the index")
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd())
    }
}

/// One end of the tunnel.
pub struct Host {
    pub place: Place,
    /// 1 or 2, in all its addresses.
    pub number: u8,
    pub interface: String,
    pub key: PrivateKey,
    pub uapi_dir: PathBuf,
    state: PathBuf,
    mtu: u16,
    kind: Kind,
    /// How far the clock of its process is ahead, when it is started.
    pub clock_ahead: Duration,
    process: Option<Child>,
}

impl Host {
    fn new(number: u8, mtu: u16, kind: Kind, dir: &Path) -> Self {
        let uapi_dir = dir.join(format!("uapi{number}"));
        let host = Self::make(number, &format!("mesh{number}"), mtu, kind, &uapi_dir, dir);
        // The second and third belong to whoever is given them.
        for net in [77, 78, 79] {
            host.place.ip(&format!("addr add 10.{net}.0.{number}/24 dev {}", host.interface));
        }
        host
    }

    /// A host alone, whose device and socket directory have a name of the caller's.
    pub fn named(interface: &str, uapi_dir: &Path, dir: &Path) -> Self {
        Self::make(0, interface, 1420, Kind::Userspace, uapi_dir, dir)
    }

    fn make(number: u8, interface: &str, mtu: u16, kind: Kind, uapi_dir: &Path, dir: &Path) -> Self {
        let mut host = Self {
            place: Place::new(),
            number,
            interface: interface.to_owned(),
            key: PrivateKey::generate(),
            uapi_dir: uapi_dir.to_owned(),
            state: dir.join(format!("state{number}/mesh.conf")),
            mtu,
            kind,
            clock_ahead: Duration::ZERO,
            process: None,
        };
        match kind {
            Kind::Kernel => {
                host.place.ip(&format!("link add {interface} mtu {mtu} type wireguard"));
                host.place.ip(&format!("link set {interface} up"));
            }
            Kind::Userspace => host.start(),
        }
        host
    }

    /// The command of this host's `mesh-tunnel`.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-tunnel"));
        command.args(["--interface", &self.interface, "--mtu", &self.mtu.to_string()]);
        command.arg("--state").arg(&self.state).arg("--uapi-dir").arg(&self.uapi_dir);
        if self.clock_ahead > Duration::ZERO {
            command.env("LD_PRELOAD", FAKETIME).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            command.env("FAKETIME", format!("+{}", self.clock_ahead.as_secs()));
        }
        command
    }

    /// Starts the process and waits until it says that it is ready.
    pub fn start(&mut self) {
        let mut command = self.command();
        command.stderr(Stdio::piped()).env("RUST_LOG", "info,gotatun=off");
        let mut process = self.place.run(|| command.spawn().expect("the binary was built for this test"));
        let (ready, is_ready) = mpsc::channel();
        let lines = BufReader::new(process.stderr.take().expect("stderr is piped")).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains(" Ready ") {
                    ready.send(()).ok();
                }
                eprintln!("{line}");
            }
        });
        is_ready.recv_timeout(PATIENCE).expect("mesh-tunnel gets ready");
        self.process = Some(process);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("a process to kill");
        process.kill().expect("it is our child");
        process.wait().expect("it is our child");
    }

    pub fn tunnel(&self) -> Tunnel {
        let opened = match self.kind {
            Kind::Kernel => self.place.run(|| Tunnel::open(Kind::Kernel, &self.interface)),
            Kind::Userspace => Tunnel::open_at(&self.uapi_dir, &self.interface),
        };
        opened.expect("the tunnel answers")
    }

    /// What this host is for the other.
    pub fn as_peer(&self, underlay: &str) -> Peer {
        Peer {
            endpoint: Some(format!("{underlay}:{PORT}").parse().expect("an address and a port")),
            allowed_ips: [format!("10.77.0.{}/32", self.number).parse().expect("a net")].into(),
            keepalive_s: 0,
        }
    }

    /// This host's device with these peers.
    pub fn device(&self, peers: impl IntoIterator<Item = (PrivateKey, Peer)>) -> Device {
        let peers = peers.into_iter().map(|(key, peer)| (key.public(), peer)).collect();
        Device { private_key: self.key.clone(), port: PORT, fwmark: FWMARK, peers }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        drop(std::fs::remove_file(self.uapi_dir.join(format!("{}.sock", self.interface))));
    }
}

/// The outer addresses of a tunnel.
#[derive(Clone, Copy)]
pub enum Underlay {
    V4,
    V6,
}

impl Underlay {
    /// A host's address as it stands before a port.
    pub fn address(self, number: u8) -> String {
        match self {
            Self::V4 => format!("192.0.2.{number}"),
            Self::V6 => format!("[2001:db8::{number}]"),
        }
    }
}

/// Two hosts with a tunnel between them.
pub struct Lab {
    pub one: Host,
    pub two: Host,
    /// Files of both; goes last.
    _dir: TempDir,
}

impl Lab {
    pub fn new(mtu: u16, underlay: Underlay) -> Self {
        Self::of([Kind::Userspace; 2], mtu, underlay)
    }

    /// Hosts whose tunnels are of these kinds.
    pub fn of([first, second]: [Kind; 2], mtu: u16, underlay: Underlay) -> Self {
        let dir = tempfile::tempdir().expect("a directory for state and sockets");
        let (one, two) = (Host::new(1, mtu, first, dir.path()), Host::new(2, mtu, second, dir.path()));
        one.place.ip(&format!("link add under type veth peer name under netns {}", two.place.path()));
        for (host, other) in [(&one, &two), (&two, &one)] {
            let number = host.number;
            host.place.ip(&format!("addr add 192.0.2.{number}/24 dev under"));
            host.place.ip(&format!("addr add 2001:db8::{number}/64 dev under nodad"));
            host.place.ip("link set under up");
            // If the tunnel's device or its route went, packets would leave by this one, in plain.
            host.place.ip(&format!("route add default via 192.0.2.{}", other.number));
        }
        for (host, other) in [(&one, &two), (&two, &one)] {
            let wanted = host.device([(other.key.clone(), other.as_peer(&underlay.address(other.number)))]);
            let tunnel = host.tunnel();
            let steps = plan(&wanted, &tunnel.observe().expect("a tunnel"));
            tunnel.apply(&steps).expect("the first configuration");
            assert_eq!(plan(&wanted, &tunnel.observe().expect("a tunnel")), []);
        }
        Self { one, two, _dir: dir }
    }
}
