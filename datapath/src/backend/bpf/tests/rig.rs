//! A host of its own for each test, and packets through programs by BPF_PROG_TEST_RUN.

use super::super::{
    Balancer, Bpf, ConfigRow, DropReason, Error, Hook, LocalRow, MapStep, PacketHook, RouteRow, raw,
};
use aya::programs::{Program as AyaProgram, SchedClassifier, TestRun, TestRunOptions};
use ipnet::IpNet;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    num::NonZeroU32,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

pub const POD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 5];
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
pub const MTU: u16 = 1420;

/// Where one test lives.
pub struct Host {
    pub pins: PathBuf,
    pub cgroup: PathBuf,
    pub hook: Hook,
}

impl Host {
    pub fn open(&self) -> Bpf {
        self.open_by(self.hook)
    }

    pub fn open_by(&self, hook: Hook) -> Bpf {
        self.try_open(&self.cgroup, hook).unwrap_or_else(|e| panic!("{}", chain(&e)))
    }

    pub fn try_open(&self, cgroup: &Path, hook: Hook) -> Result<Bpf, Error> {
        Bpf::open(&self.pins, cgroup, PacketHook::Only(hook), Balancer::Auto)
    }
}

/// The whole of an error, cause by cause.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text += &format!(": {e}");
        cause = e.source();
    }
    text
}

/// What this kernel has. `tcx::the_kernel_is_believed…` holds the answer against what the kernel does.
pub fn hooks() -> impl Iterator<Item = Hook> {
    let has_tcx = raw::has_tcx().expect("an answer");
    Hook::ALL.into_iter().filter(move |hook| has_tcx || *hook == Hook::Clsact)
}

/// Runs a test on a host of its own for each hook that this kernel has.
pub fn on_each_hook(test: impl Fn(&Host) + Sync) {
    for hook in hooks() {
        eprintln!("── packet programs at {hook}");
        on_a_host_by(hook, &test);
    }
}

/// Runs a test to which it is the same what packet programs stand at.
pub fn on_a_host(test: impl FnOnce(&Host) + Send) {
    on_a_host_by(hooks().next().expect("each kernel has one"), test);
}

/// Runs a test in a thread with its own network and mount namespace, a BPF file system and a cgroup.
pub fn on_a_host_by(hook: Hook, test: impl FnOnce(&Host) + Send) {
    assert!(nix::unistd::geteuid().is_root(), "these tests load BPF programs: run them as root");
    let dir = tempfile::tempdir().expect("a directory");
    let cgroup = threaded_cgroup();
    let result = thread::scope(|scope| {
        let body = || {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("new namespaces");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .expect("private mounts");
            mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>).expect("bpffs");
            ip("link set lo up");
            let _leaves = Leaves(&cgroup);
            test(&Host { pins: dir.path().join("mesh"), cgroup: cgroup.clone(), hook });
        };
        scope.spawn(body).join()
    });
    fs::remove_dir(&cgroup).expect("the test left its cgroup");
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

/// Takes this thread out of the test's cgroup, also in a panic: nothing is left behind.
struct Leaves<'a>(&'a Path);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        let parent = self.0.parent().expect("it is below our own");
        fs::write(parent.join("cgroup.threads"), gettid().to_string()).expect("to leave the cgroup");
    }
}

/// A cgroup for single threads below our own: a socket belongs to the cgroup of the thread that makes it.
fn threaded_cgroup() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("mesh-bpf-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = own_cgroup().join(name);
    fs::create_dir(&dir).expect("a cgroup");
    fs::write(dir.join("cgroup.type"), "threaded").expect("a threaded cgroup");
    dir
}

fn own_cgroup() -> PathBuf {
    let own = fs::read_to_string("/proc/self/cgroup").expect("cgroups");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroup v2");
    super::super::default_cgroup_root().join(own)
}

/// Sockets that this thread makes from now on belong to the test's cgroup.
pub fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.threads"), gettid().to_string()).expect("to enter the cgroup");
}

/// `ip` with these arguments, in this thread's network namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("the device exists")
}

pub fn at(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

pub fn net(prefix: &str) -> IpNet {
    prefix.parse().expect("a prefix")
}

/// The world of the packet tables: this node is 10.1.255.1 and fd01::ffff, its pod has 10.1.0.5 and fd01::5, another
/// pod 10.1.0.6; 10.2/16 and fd02::/64 are in the mesh, 10.3/16 and fd03::/64 belong to a peer that was disconnected.
pub fn furnish(bpf: &mut Bpf, pod: u32, other_pod: u32, mesh: u32) {
    let routed = RouteRow::Routed { mtu_bytes: MTU };
    let pod = LocalRow::Pod { ifindex: pod, mac: POD_MAC };
    let steps = [
        MapStep::PutRoute(net("10.2.0.0/16"), routed),
        MapStep::PutRoute(net("fd02::/64"), routed),
        MapStep::PutRoute(net("10.3.0.0/16"), RouteRow::Closed),
        MapStep::PutRoute(net("fd03::/64"), RouteRow::Closed),
        MapStep::PutLocal(at("10.1.0.5"), pod),
        MapStep::PutLocal(at("fd01::5"), pod),
        MapStep::PutLocal(at("10.1.0.6"), LocalRow::Pod { ifindex: other_pod, mac: POD_MAC }),
        MapStep::PutLocal(at("10.1.255.1"), LocalRow::Node),
        MapStep::PutLocal(at("fd01::ffff"), LocalRow::Node),
        MapStep::PutConfig(ConfigRow {
            mesh_ifindex: NonZeroU32::new(mesh),
            mesh_v4: Some([10, 1, 255, 1].into()),
            mesh_v6: Some("fd01::ffff".parse().expect("an address")),
        }),
    ];
    for step in &steps {
        bpf.apply(step).unwrap_or_else(|e| panic!("{step:?}: {}", chain(&e)));
    }
}

/// What a run did not say with the packet itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context {
    pub ifindex: u32,
    pub gso_size: u32,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `next`, `redirect` or `drop`, and the reason that was counted.
    pub verdict: String,
    pub packet: Vec<u8>,
}

/// Sends a frame through a program by BPF_PROG_TEST_RUN.
pub fn run(bpf: &Bpf, function: &str, frame: &[u8], context: Context) -> Outcome {
    // struct __sk_buff of linux/bpf.h; what is not named here must be zero.
    const IFINDEX: usize = 40;
    const GSO_SIZE: usize = 176;
    let mut skb = [0; 192];
    skb[IFINDEX..IFINDEX + 4].copy_from_slice(&context.ifindex.to_ne_bytes());
    skb[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&context.gso_size.to_ne_bytes());

    let before = bpf.drops().expect("counters");
    let mut out = vec![0; frame.len() + 256];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&skb),
        ..TestRunOptions::default()
    };
    let result = entry(bpf, function)
        .test_run(options)
        .unwrap_or_else(|e| panic!("{function}, {frame:02x?}: {}", chain(&e)));
    let reason = counted(&before, &bpf.drops().expect("counters"));
    let verdict = match result.return_value.cast_signed() {
        -1 => "next",
        2 => "drop",
        7 => "redirect",
        other => panic!("{function} answered {other}"),
    };
    out.truncate(result.data_size_out as usize);
    Outcome { verdict: format!("{verdict} {reason}").trim().to_owned(), packet: out }
}

/// What the kernel runs for this function: itself, or the stub that jumps there.
fn entry<'a>(bpf: &'a Bpf, function: &str) -> &'a SchedClassifier {
    match (&bpf.clsact, bpf.objects.packet_program(function)) {
        (Some(clsact), _) => clsact.stub_program(function),
        (None, AyaProgram::SchedClassifier(program)) => program,
        (None, _) => panic!("{function} is a packet program"),
    }
}

/// The reasons that were counted once between two readings.
pub fn counted(before: &BTreeMap<DropReason, u64>, after: &BTreeMap<DropReason, u64>) -> String {
    let labels: Vec<_> = DropReason::ALL
        .iter()
        .filter(|reason| after[reason] != before[reason])
        .inspect(|reason| {
            assert_eq!(after[reason], before[reason] + 1, "{reason} was counted more than once");
        })
        .map(|reason| reason.label())
        .collect();
    labels.join(" ")
}

/// A link's place, through its pin.
pub fn place(pin: &Path) -> raw::LinkPlace {
    use std::os::fd::AsFd;
    raw::link_place(raw::open_pin(pin).expect("a pin").as_fd()).expect("a link")
}
