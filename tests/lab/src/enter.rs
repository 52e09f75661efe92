//! Entering a place: join its cgroup, then its namespaces, and only then become the program.
//!
//! A program's first socket is already where it belongs, and the pid that is started stays the program's pid.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::process::{Activity, ProcessId};

/// What it takes to be in a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrance {
    /// The cgroup of the place's programs.
    pub cgroup: PathBuf,
    /// The process that holds the network namespace.
    pub net: ProcessId,
    /// The process that holds the mount namespace: the place's own holder, or a pod's node's. None: the machine's.
    pub mnt: Option<ProcessId>,
}

impl Entrance {
    /// A command that runs `argv` in the place. It is an ordinary child: its stdio, environment and end are the caller's.
    pub fn command<S: AsRef<OsStr>>(&self, mesh_lab: &Path, argv: impl IntoIterator<Item = S>) -> Command {
        self.wrap(mesh_lab, &[], argv)
    }

    /// The same, as the leader of a session of its own, so that no terminal's Ctrl-C reaches it.
    pub fn daemon<S: AsRef<OsStr>>(&self, mesh_lab: &Path, argv: impl IntoIterator<Item = S>) -> Command {
        self.wrap(mesh_lab, &["--session"], argv)
    }

    fn wrap<S: AsRef<OsStr>>(
        &self,
        mesh_lab: &Path,
        flags: &[&str],
        argv: impl IntoIterator<Item = S>,
    ) -> Command {
        let json = serde_json::to_string(self).expect("an entrance is plain data");
        let mut command = Command::new(mesh_lab);
        command.arg("enter").args(flags).arg(json).arg("--").args(argv);
        command
    }

    /// Moves this process into the place and replaces it by `argv`. Returns only when that failed.
    ///
    /// # Errors
    /// The place is gone, or the program cannot be run.
    pub fn become_program(&self, argv: &[String]) -> anyhow::Error {
        if let Err(error) = self.join() {
            return error;
        }
        let Some((program, args)) = argv.split_first() else {
            return anyhow::anyhow!("no program was named");
        };
        let error = Command::new(program).args(args).exec();
        anyhow::Error::new(error).context(format!("cannot run `{program}`"))
    }

    /// Moves this process into the place. It must have one thread.
    ///
    /// # Errors
    /// The place is gone, or we are not root.
    pub fn join(&self) -> Result<()> {
        let net = namespace(self.net, "net")?;
        let mnt = self.mnt.map(|holder| namespace(holder, "mnt")).transpose()?;
        cgroup::join(&self.cgroup)?;
        setns(net, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
        if let Some(mnt) = mnt {
            let here = std::env::current_dir();
            setns(mnt, CloneFlags::CLONE_NEWNS).context("cannot enter the mount namespace")?;
            // Entering a mount namespace moves us to its root (setns(2)); a directory that is hidden there is left.
            if let Ok(here) = here {
                let _ = std::env::set_current_dir(here);
            }
        }
        Ok(())
    }
}

/// Opens a namespace of a process that is still the one we mean.
pub(crate) fn namespace(holder: ProcessId, kind: &str) -> Result<File> {
    let path = format!("/proc/{}/ns/{kind}", holder.pid);
    let file = File::open(&path).with_context(|| format!("cannot open {path}: the lab is down?"))?;
    if holder.activity() == Activity::Gone {
        bail!("the holder of the place (process {}) is gone: take the lab down and up again", holder.pid);
    }
    Ok(file)
}

/// Runs `work` on a thread inside a network namespace: what it opens stays there, and this thread stays here.
///
/// # Errors
/// The namespace is gone.
pub(crate) fn in_network<T: Send>(holder: ProcessId, work: impl FnOnce() -> T + Send) -> Result<T> {
    let net = namespace(holder, "net")?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || -> Result<T> {
            setns(net, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
            Ok(work())
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
