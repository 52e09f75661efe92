//! A lab that is up: the handle that commands and tests hold.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use crate::cgroup;
use crate::enter::{Entrance, in_network};
use crate::place::{Name, Place};
use crate::state::{Lock, Paths, State};
use crate::topology::{Topology, TopologyFile};
use crate::up;

/// A lab that is up. When the handle was made by [`Lab::up`], dropping it takes the lab down, also in a panic.
#[derive(Debug)]
pub struct Lab {
    pub(crate) paths: Paths,
    pub(crate) topology: Topology,
    pub(crate) mesh_lab: PathBuf,
    downs_on_drop: bool,
}

/// How to bring a lab up.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// Another name than the topology's.
    pub name: Option<Name>,
    /// Set from a signal handler or another thread: `up` stops at the next step and takes down what it made.
    pub interrupted: Arc<AtomicBool>,
    /// The `mesh-lab` binary, whose directory is `{bin}`. None: beside this program.
    pub mesh_lab: Option<PathBuf>,
}

impl Lab {
    /// Brings up the lab of a topology file. An earlier lab of the same name goes first, also the wreck of one.
    ///
    /// # Errors
    /// The file or the machine is not fit, or a step failed; then nothing stays.
    pub fn up(file: impl AsRef<Path>) -> Result<Self> {
        Self::up_with(file, UpOptions::default())
    }

    /// Brings up a lab under another name, so that tests of one file do not meet.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up_as(name: &str, file: impl AsRef<Path>) -> Result<Self> {
        Self::up_with(file, UpOptions { name: Some(name.parse()?), ..UpOptions::default() })
    }

    /// Brings up a lab.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up_with(file: impl AsRef<Path>, options: UpOptions) -> Result<Self> {
        let file = TopologyFile::read(file.as_ref())?;
        let mesh_lab = options.mesh_lab.map_or_else(find_mesh_lab, Ok)?;
        let name = options.name.unwrap_or_else(|| file.topology.name.clone());
        let paths = Paths::of(&name)?;
        up::bring_up(&paths, &file, &mesh_lab, &Interrupt(options.interrupted))?;
        Ok(Self { paths, topology: file.topology, mesh_lab, downs_on_drop: true })
    }

    /// A handle on a lab that somebody else brought up. None: the only one that is up.
    ///
    /// # Errors
    /// It is not up; or no name was given and there is not exactly one.
    pub fn attach(name: Option<&Name>) -> Result<Self> {
        let paths = match name {
            Some(name) => Paths::of(name)?,
            None => only(Paths::all()?)?.context("no lab is up: `mesh-lab up FILE` brings one up")?,
        };
        let (topology, mesh_lab) = (paths.topology()?, find_mesh_lab()?);
        Ok(Self { paths, topology, mesh_lab, downs_on_drop: false })
    }

    /// Takes a lab down: every process, namespace, mount, cgroup and file of it. None: the only one there is.
    /// Doing it twice, or with no lab there, is no error.
    ///
    /// # Errors
    /// Something of it does not go away; or no name was given and there are several.
    pub fn down(name: Option<&Name>) -> Result<Option<Name>> {
        let paths = match name {
            Some(name) => Some(Paths::of(name)?).filter(Paths::exist),
            None => only(Paths::all()?)?,
        };
        let Some(paths) = paths else { return Ok(None) };
        let _lock = paths.lock()?;
        destroy(&paths)?;
        Ok(Some(paths.name))
    }

    /// Keeps the lab up when this handle is dropped.
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.downs_on_drop = false;
        self
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.paths.name
    }

    /// The lab's directories.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// What it looks like.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A command that runs `argv` in a place: in its cgroup and namespaces from its first instruction. Standard
    /// streams, environment and end are the caller's.
    ///
    /// # Errors
    /// There is no such place.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        place: &str,
        argv: impl IntoIterator<Item = S>,
    ) -> Result<Command> {
        Ok(self.entrance(&place.parse()?)?.command(&self.mesh_lab, argv))
    }

    /// Runs a program in a place and waits for its output.
    ///
    /// # Errors
    /// There is no such place. A program that cannot be run or fails is seen in the output's status.
    pub fn exec<S: AsRef<OsStr>>(&self, place: &str, argv: impl IntoIterator<Item = S>) -> Result<Output> {
        self.command(place, argv)?.output().with_context(|| format!("cannot run a program in {place}"))
    }

    /// Starts a program in a place; it ends with the lab at the latest.
    ///
    /// # Errors
    /// There is no such place.
    pub fn spawn<S: AsRef<OsStr>>(
        &self,
        place: &str,
        argv: impl IntoIterator<Item = S>,
    ) -> Result<std::process::Child> {
        self.command(place, argv)?.spawn().with_context(|| format!("cannot start a program in {place}"))
    }

    /// Runs `work` on a thread inside a place's network: sockets that it makes stay there.
    ///
    /// # Errors
    /// There is no such place.
    pub fn inside<T: Send>(&self, place: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
        in_network(self.entrance(&place.parse()?)?.net, work)
    }

    /// How to enter a place.
    ///
    /// # Errors
    /// There is no such place, or the lab is down.
    pub fn entrance(&self, place: &Place) -> Result<Entrance> {
        self.state()?
            .places
            .remove(place)
            .with_context(|| format!("there is no place {place}: `mesh-lab places` lists them"))
    }

    /// What is written down about the lab.
    ///
    /// # Errors
    /// The lab is down.
    pub fn state(&self) -> Result<State> {
        State::load(&self.paths)
    }

    /// Changes what is written down, with nobody else changing it.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        if !self.paths.exist() {
            bail!("the lab {} is down", self.name());
        }
        let _lock: Lock = self.paths.lock()?;
        let mut state = self.state()?;
        let result = change(&mut state);
        state.save(&self.paths)?;
        result
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.downs_on_drop
            && let Err(error) = Self::down(Some(&self.paths.name))
        {
            tracing::error!("cannot take the lab {} down: {error:#}", self.paths.name);
        }
    }
}

/// Whether somebody wants us to stop.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Fails when it is time to stop.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) { bail!("interrupted") } else { Ok(()) }
    }
}

/// Ends everything of a lab and removes what it left. The caller holds the lock.
pub(crate) fn destroy(paths: &Paths) -> Result<()> {
    let state = State::load(paths);
    cgroup::destroy(&paths.cgroup)?;
    if let Ok(state) = state {
        // Collects those that are our own children, when the lab is used as a library.
        let holders = state.places.values().map(|entrance| entrance.net);
        let started = state.processes.values().chain(state.relays.values()).copied();
        for process in holders.chain(started) {
            let _gone = process.activity();
        }
    }
    if paths.state.exists() {
        std::fs::remove_dir_all(&paths.state)
            .with_context(|| format!("cannot remove {}", paths.state.display()))?;
    }
    for dir in [&paths.state, &paths.cgroup] {
        // The directory of all labs goes with the last one; while there are others it is not empty.
        let _ = dir.parent().map(std::fs::remove_dir);
    }
    Ok(())
}

/// The lab that is meant when none is named.
fn only(mut labs: Vec<Paths>) -> Result<Option<Paths>> {
    if labs.len() > 1 {
        let names: Vec<_> = labs.iter().map(|lab| lab.name.as_str()).collect();
        bail!("{} labs are up ({}): name one with --name", labs.len(), names.join(", "));
    }
    Ok(labs.pop())
}

/// `mesh-lab` is this program, or lies beside it; a test's executable lies in `deps/`, one below.
fn find_mesh_lab() -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot tell where this program lies")?;
    let candidates = me.ancestors().skip(1).take(2).map(|dir| dir.join("mesh-lab"));
    candidates.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("no `mesh-lab` lies beside {}: build it with `cargo build -p lab`", me.display())
    })
}
