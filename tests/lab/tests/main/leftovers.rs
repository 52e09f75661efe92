//! What stays behind: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lab::{Lab, Name, Paths, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{MESH_LAB, TWO_CLUSTERS, eventually, said, two_clusters};

#[test]
fn down_leaves_no_process_namespace_mount_cgroup_or_file() {
    let lab = two_clusters("down");
    let paths = lab.paths().clone();
    // What does not go by itself when a process ends: a persistent TUN, a pin, a daemon that left its session.
    said(
        &lab,
        "cluster-a/node/a1",
        "ip tuntap add dev mesh0 mode tun && ip link set mesh0 up && ip route add 10.2.0.0/16 dev mesh0",
    );
    said(&lab, "cluster-a/node/a1", "mkdir /sys/fs/bpf/mesh && mkdir /sys/fs/cgroup/host/inner");
    said(
        &lab,
        "cluster-a/pod/client",
        "setsid sleep 600 >/dev/null 2>&1 & setsid setsid sleep 600 >/dev/null 2>&1 &",
    );
    let held = namespaces_of(&lab.state().unwrap());
    assert_eq!(held.len(), 16 + 7, "16 networks, and the mounts of 7 machines");
    assert!(held.is_subset(&namespaces_in_use()));

    assert_eq!(Lab::down(Some(&paths.name)).unwrap(), Some(paths.name.clone()));
    assert_gone(&paths);
    assert!(held.is_disjoint(&namespaces_in_use()), "a namespace is still in use");
    assert_eq!(Lab::down(Some(&paths.name)).unwrap(), None, "twice is no error");
}

#[test]
fn a_lab_goes_down_when_its_handle_is_dropped_in_a_panic() {
    let paths = Paths::of(&name("lab-test-panic")).unwrap();
    let panicked = std::thread::spawn(|| {
        let _lab = two_clusters("panic");
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_gone(&paths);
}

#[test]
fn an_up_that_is_interrupted_takes_down_what_it_made() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let paths = Paths::of(&name("lab-test-interrupted")).unwrap();
        let (mut driver, _file) = stuck_up(&paths);
        kill(Pid::from_raw(driver.id().cast_signed()), signal).unwrap();
        assert!(!driver.wait().unwrap().success());
        assert_gone(&paths);
    }
}

#[test]
fn an_up_that_fails_takes_down_what_it_made_and_says_why() {
    let paths = Paths::of(&name("lab-test-fails")).unwrap();
    let file = tempfile::tempdir().unwrap();
    let path = topology_with_ready(file.path(), "{ tcp: 9, within_s: 1 }");
    let error = Lab::up_as("lab-test-fails", path).map(drop).unwrap_err().to_string();
    assert!(error.contains("cluster-a/pod/cart-1/http was not ready within 1 s"), "{error}");
    assert_gone(&paths);
}

#[test]
fn after_a_kill_of_the_driver_a_second_up_leaves_one_clean_lab() {
    let paths = Paths::of(&name("lab-test-killed")).unwrap();
    let (mut driver, _file) = stuck_up(&paths);
    let earlier = members(&paths.cgroup);
    driver.kill().unwrap();
    driver.wait().unwrap();
    assert!(
        earlier.len() >= 16 && earlier.is_subset(&members(&paths.cgroup)),
        "what was half up is still there"
    );

    let lab = two_clusters("killed");
    assert!(earlier.is_disjoint(&members(&paths.cgroup)), "nothing of the first lab is in the second");
    assert_eq!(members(&paths.cgroup).len(), 16 + 4, "16 holders and 4 servers");
    assert!(earlier.iter().all(|pid| !Path::new(&format!("/proc/{pid}/ns/net")).exists()));
    drop(lab);
    assert_gone(&paths);
}

/// An `up` that waits for a process that never gets ready, stopped there; and the directory of its file.
fn stuck_up(paths: &Paths) -> (std::process::Child, tempfile::TempDir) {
    // What an earlier run left would be taken for what is waited for below.
    Command::new(MESH_LAB).args(["--name", paths.name.as_str(), "down"]).output().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = topology_with_ready(dir.path(), "{ tcp: 9, within_s: 600 }");
    let mut up = Command::new(MESH_LAB);
    up.args(["--name", paths.name.as_str(), "up"]).arg(file).stdout(Stdio::null()).stderr(Stdio::null());
    let driver = up.spawn().unwrap();
    eventually("the lab's processes are started", || {
        State::load(paths).is_ok_and(|state| state.processes.len() == 4)
    });
    (driver, dir)
}

/// The shipped topology with another readiness for each server.
fn topology_with_ready(dir: &Path, ready: &str) -> PathBuf {
    let text = fs::read_to_string(TWO_CLUSTERS).unwrap().replace("{ tcp: 8080 }", ready);
    let file = dir.join("topology.yaml");
    fs::write(&file, text).unwrap();
    file
}

fn assert_gone(paths: &Paths) {
    assert!(!paths.state.exists(), "{} is there", paths.state.display());
    assert!(!paths.cgroup.exists(), "{} is there", paths.cgroup.display());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&format!("mesh-lab/{}", paths.name)), "a mount is there: {mounts}");
}

/// Every pid of the lab's cgroup.
fn members(cgroup: &Path) -> BTreeSet<i32> {
    let mut pids: BTreeSet<i32> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .map(|pid| pid.parse().unwrap())
        .collect();
    let Ok(entries) = fs::read_dir(cgroup) else { return pids };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        pids.extend(members(&entry.path()));
    }
    pids
}

/// The namespaces that the lab's holders made.
fn namespaces_of(state: &State) -> BTreeSet<PathBuf> {
    let holders = state.places.values().flat_map(|place| {
        let mnt = place.mnt.map(|holder| format!("/proc/{}/ns/mnt", holder.pid));
        std::iter::once(format!("/proc/{}/ns/net", place.net.pid)).chain(mnt)
    });
    holders.map(|path| fs::read_link(path).unwrap()).collect()
}

/// The namespaces of all processes of this machine.
fn namespaces_in_use() -> BTreeSet<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let links = processes
        .flat_map(|process| ["ns/net", "ns/mnt"].map(|kind| fs::read_link(process.path().join(kind))));
    links.flatten().collect()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}
