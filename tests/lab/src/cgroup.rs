//! The lab's cgroup: who is in it belongs to the lab, and nobody else is ever ended.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::wait_until;

/// The kernel ends a killed cgroup within milliseconds, unless a process is in the middle of a call that cannot be
/// interrupted: unloading BPF and taking a network namespace down wait for RCU, on a busy machine for many seconds.
const KILL_DEADLINE: Duration = Duration::from_mins(1);

/// Time until those are killed that are still, or newly, in there.
const KILL_AGAIN: Duration = Duration::from_secs(1);

/// A step that another lab gets in the way of goes well the next time.
const RACE_DEADLINE: Duration = Duration::from_secs(1);

/// Where cgroup v2 is mounted on this machine.
///
/// # Errors
/// There is no cgroup v2 here.
pub fn unified_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (target, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(target))
        })
        .next()
        .context("no cgroup v2 is mounted: mount one, for example `mount -t cgroup2 none /sys/fs/cgroup`")
}

/// Makes a cgroup and those above it.
///
/// # Errors
/// The kernel refuses.
pub fn create(dir: &Path) -> Result<()> {
    let mut made = Ok(());
    // Another lab's `down` may remove the directory above, when it was the last in it, between our two steps.
    let _made = wait_until(RACE_DEADLINE, || {
        made = fs::create_dir_all(dir);
        !made.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)
    });
    made.with_context(|| format!("cannot make the cgroup {}", dir.display()))
}

/// Moves the calling process into a cgroup.
///
/// # Errors
/// The cgroup is gone, or the kernel refuses.
pub fn join(dir: &Path) -> Result<()> {
    // "0" is the writer itself. (cgroup-v2: Processes)
    fs::write(dir.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot join the cgroup {}", dir.display()))
}

/// Ends every process below `dir`, waits until none is left, and removes the directories. Nothing there: nothing to do.
///
/// # Errors
/// We are in it ourselves, or a process does not end within a minute: then it is named, with what it waits for.
pub fn destroy(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    refuse_suicide(dir)?;
    let is_empty = || {
        fs::read_to_string(dir.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 0"))
    };
    let deadline = Instant::now() + KILL_DEADLINE;
    loop {
        fs::write(dir.join("cgroup.kill"), "1")
            .with_context(|| format!("cannot kill the cgroup {}", dir.display()))?;
        // Again until it is empty: what a driver that died had just forked may join after the kill.
        if wait_until(KILL_AGAIN, is_empty) {
            break;
        }
        if Instant::now() < deadline {
            continue;
        }
        let stuck: Vec<_> = members(dir).into_iter().map(describe).collect();
        bail!("processes in {} did not end within {KILL_DEADLINE:?}: {}", dir.display(), stuck.join(", "));
    }
    // A process leaves the cgroup's count a moment before its last reference goes: EBUSY in between.
    let mut last = Ok(());
    if !wait_until(KILL_DEADLINE, || {
        last = remove(dir);
        last.is_ok()
    }) {
        return last.with_context(|| format!("cannot remove the cgroup {}", dir.display()));
    }
    Ok(())
}

/// Every pid in `dir` and below.
#[must_use]
pub fn members(dir: &Path) -> Vec<i32> {
    let own = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for child in children(dir) {
        pids.extend(members(&child));
    }
    pids
}

/// A process, its state, and the kernel's function in which it waits. (proc(5): status, wchan)
fn describe(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or("?").trim().to_owned()
    };
    let waits = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    format!("{pid} {} in state {} at {waits}", field("Name:"), field("State:"))
}

/// Removes the directories of a cgroup, the deepest first.
fn remove(dir: &Path) -> std::io::Result<()> {
    for child in children(dir) {
        remove(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The cgroups right below `dir`.
fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// `mesh-lab down` typed inside `mesh-lab exec` would end itself half way.
fn refuse_suicide(dir: &Path) -> Result<()> {
    let me = i32::try_from(std::process::id()).context("a pid of Linux fits 22 bits")?;
    if members(dir).contains(&me) {
        bail!("this process is itself in the lab {}: take it down from outside", dir.display());
    }
    Ok(())
}
