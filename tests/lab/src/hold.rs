//! The holder of a place: a process that does nothing but own its namespaces, as a pause container does.
//!
//! No namespace is ever bound to a file. When the holder and the place's programs are dead, the namespaces are gone,
//! and with them their devices, routes, rules, mounts and pins.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{pause, setsid};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::enter::namespace;
use crate::mounts::{MachineMounts, mount_machine};
use crate::process::ProcessId;

/// What a holder says on its standard output when the place is made.
pub(crate) const READY: &str = "ready";

/// What a place is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HoldSpec {
    /// The holder's cgroup.
    pub cgroup: PathBuf,
    /// Whose eyes it has for the file system.
    pub view: View,
    /// Sysctls below `/proc/sys`, with their values, set before any device is made.
    pub sysctls: Vec<(String, String)>,
}

/// The mount namespace of a place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum View {
    /// The machine's that the lab runs on.
    Outside,
    /// Its own.
    Machine(MachineMounts),
    /// That of another holder: a pod's is its node's.
    Of(ProcessId),
}

/// Makes the place, says so, and holds it until it is killed.
///
/// # Errors
/// A step failed; nothing stays, because everything made so far hangs on this process.
pub fn hold(spec: &HoldSpec) -> Result<()> {
    cgroup::join(&spec.cgroup)?;
    setsid().context("cannot leave the terminal's session")?;
    match &spec.view {
        View::Outside => unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?,
        View::Machine(mounts) => {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("cannot make namespaces")?;
            mount_machine(mounts)?;
        }
        View::Of(node) => {
            setns(namespace(*node, "mnt")?, CloneFlags::CLONE_NEWNS)
                .context("cannot enter the node's mounts")?;
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        }
    }
    for (name, value) in &spec.sysctls {
        set_sysctl(name, value)?;
    }
    let loopback =
        Command::new("ip").args(["link", "set", "lo", "up"]).status().context("cannot run `ip`")?;
    if !loopback.success() {
        bail!("cannot set the loopback device up");
    }
    println!("{READY}");
    std::io::stdout().flush().context("nobody reads whether the place is ready")?;
    loop {
        // Returns after a signal that was handled or ignored; there is nothing to do but wait on.
        pause();
    }
}

/// Writes a sysctl of this network namespace. What this kernel does not have (bridge-nf without its module) is skipped.
fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    if !path.exists() {
        return Ok(());
    }
    fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
}
