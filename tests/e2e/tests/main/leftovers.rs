//! A mesh that goes leaves nothing, and one that died is no obstacle.

use std::fs;

use e2e::A;

use crate::story::{SHOWN, Story, eventually};

#[test]
fn a_mesh_that_goes_leaves_no_process_mount_cgroup_or_file_and_one_that_died_is_replaced() {
    let died = Story::connected("leftovers");
    let (name, paths) = (died.lab.name().to_string(), died.lab.paths().clone());
    assert!(
        died.said("cluster-a/node/a1", "find /sys/fs/bpf/mesh").lines().count() > 10,
        "there is something to leave"
    );
    // As if the program had been killed: its handle goes, and nobody takes anything down.
    std::mem::forget(died);

    let story = Story::running("leftovers");
    story.carts("cluster-a/pod/client", &A, |answers| e2e::only(answers, &A));
    assert!(!processes_of(&name).is_empty(), "the mesh is there to be seen");
    drop(story);

    assert!(!paths.exist(), "{} or {} is still there", paths.state.display(), paths.cgroup.display());
    // One that has ended is to be seen until its parent, which may be this machine's init, has asked how.
    eventually("no process of the mesh is there", SHOWN, || match processes_of(&name) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.lines().any(|mount| mount.contains(&name)), "a mount is left: {mounts}");
}

/// The command lines of all processes of a lab.
fn processes_of(lab: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let of_lab = all.filter(|process| {
        let cgroup = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        cgroup.contains(&format!("/mesh-lab/{lab}/"))
    });
    of_lab.map(|process| fs::read_to_string(process.path().join("cmdline")).unwrap_or_default()).collect()
}
