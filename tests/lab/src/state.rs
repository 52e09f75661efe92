//! What a lab knows about itself between two commands: `/run/mesh-lab/<lab>/`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::cut::Cut;
use crate::enter::Entrance;
use crate::place::{Name, Place, Proc};
use crate::process::{ProcessId, wait_until};
use crate::topology::Topology;

/// Where labs keep their state.
const STATE_ROOT: &str = "/run/mesh-lab";

/// Commands that change a lab wait for each other; the longest, `up`, takes some seconds.
const LOCK_DEADLINE: Duration = Duration::from_secs(60);

/// The directories of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The lab's name.
    pub name: Name,
    /// `/run/mesh-lab/<lab>`.
    pub state: PathBuf,
    /// `<cgroup v2>/mesh-lab/<lab>`.
    pub cgroup: PathBuf,
}

/// What is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// The directory of the binaries: `{bin}`.
    pub bin: PathBuf,
    /// The directory of the topology file: `{file}`.
    pub file: PathBuf,
    /// How to enter each place.
    pub places: BTreeMap<Place, Entrance>,
    /// The processes that were started, and the last process of each name.
    pub processes: BTreeMap<Proc, ProcessId>,
    /// The links that are cut.
    pub cuts: Vec<Cut>,
    /// The relays that delay packets, by how many milliseconds.
    pub relays: BTreeMap<u16, ProcessId>,
    /// How often each NAT box was bound anew.
    pub rebinds: BTreeMap<Name, u8>,
}

/// The right to change a lab; given back when dropped, also by the kernel when the process dies.
pub struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Paths {
    /// The directories of the lab of this name.
    ///
    /// # Errors
    /// There is no cgroup v2 here.
    pub fn of(name: &Name) -> Result<Self> {
        let cgroup = crate::cgroup::unified_root()?.join("mesh-lab").join(name.as_str());
        Ok(Self { name: name.clone(), state: Path::new(STATE_ROOT).join(name.as_str()), cgroup })
    }

    /// Every lab that has left a directory, up or half up.
    ///
    /// # Errors
    /// There is no cgroup v2 here.
    pub fn all() -> Result<Vec<Self>> {
        let mut names = Vec::new();
        for root in [PathBuf::from(STATE_ROOT), crate::cgroup::unified_root()?.join("mesh-lab")] {
            let Ok(entries) = fs::read_dir(root) else { continue };
            let dirs = entries.flatten().filter(|entry| entry.path().is_dir());
            names.extend(dirs.filter_map(|entry| entry.file_name().to_str()?.parse::<Name>().ok()));
        }
        names.sort();
        names.dedup();
        names.iter().map(Self::of).collect()
    }

    /// Whether anything of the lab exists.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.state.exists() || self.cgroup.exists()
    }

    /// The log of a process.
    #[must_use]
    pub fn log(&self, proc: &Proc) -> PathBuf {
        self.state.join("logs").join(proc.place.to_string()).join(format!("{}.log", proc.name))
    }

    /// A place's own directory.
    #[must_use]
    pub fn place(&self, place: &Place) -> PathBuf {
        self.state.join("places").join(place.to_string())
    }

    /// The cgroup that is a place's root: of a node it holds `host` and `pods/<pod>`, of a pod only its own programs.
    #[must_use]
    pub fn cgroup_root(&self, topology: &Topology, place: &Place) -> PathBuf {
        let lab = &self.cgroup;
        match place {
            Place::Underlay => lab.join("underlay"),
            Place::Nat { nat } => lab.join("nats").join(nat.as_str()),
            Place::Host { host } => lab.join("hosts").join(host.as_str()),
            Place::ClusterHost { cluster, host: machine } | Place::Node { cluster, node: machine } => {
                lab.join(cluster.as_str()).join(machine.as_str())
            }
            Place::Pod { cluster, pod } => {
                let node = &topology.clusters[cluster].pods[pod].node.value;
                lab.join(cluster.as_str()).join(node.as_str()).join("pods").join(pod.as_str())
            }
        }
    }

    /// The cgroup of a place's programs.
    #[must_use]
    pub fn cgroup_of_programs(&self, topology: &Topology, place: &Place) -> PathBuf {
        let root = self.cgroup_root(topology, place);
        match place {
            Place::Underlay | Place::Nat { .. } | Place::Pod { .. } => root,
            Place::Host { .. } | Place::ClusterHost { .. } | Place::Node { .. } => root.join("host"),
        }
    }

    /// Takes the right to change the lab, making its state directory if there is none.
    ///
    /// # Errors
    /// Another command holds it for longer than a minute.
    pub fn lock(&self) -> Result<Lock> {
        let mut taken = None;
        let waited = wait_until(LOCK_DEADLINE, || {
            taken = self.try_lock().transpose();
            taken.is_some()
        });
        match taken {
            Some(lock) => lock,
            None if !waited => {
                bail!("another command has been changing the lab {} for {LOCK_DEADLINE:?}", self.name)
            }
            None => bail!("cannot lock the lab {}", self.name),
        }
    }

    fn try_lock(&self) -> Result<Option<Lock>> {
        let dir = match fs::create_dir_all(&self.state).and_then(|()| File::open(&self.state)) {
            Ok(dir) => dir,
            // A `down`, of this lab or of the last other one, removed it in between.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot make {}", self.state.display())),
        };
        let opened = dir.metadata().context("cannot look at the directory that was just opened")?.ino();
        let Ok(lock) = Flock::lock(dir, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
        // The one we locked may have been removed and made again meanwhile.
        let is_current = fs::metadata(&self.state).is_ok_and(|now| now.ino() == opened);
        Ok(is_current.then_some(Lock(lock)))
    }

    /// The topology of a lab that is up, parsed from the copy that `up` made.
    ///
    /// # Errors
    /// The lab is not up.
    pub fn topology(&self) -> Result<Topology> {
        let path = self.state.join("topology.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("the lab {} is not up", self.name))?;
        Topology::parse(&text, &path.display().to_string())
    }
}

impl State {
    /// Reads the state of a lab that is up.
    ///
    /// # Errors
    /// The lab is not up.
    pub fn load(paths: &Paths) -> Result<Self> {
        let text = fs::read_to_string(paths.state.join("state.json"))
            .with_context(|| format!("the lab {} is not up: `mesh-lab up FILE` brings one up", paths.name))?;
        serde_json::from_str(&text).with_context(|| format!("the state of the lab {} is damaged", paths.name))
    }

    /// Writes the state; a reader sees the old one or the new one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, paths: &Paths) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("the state is plain data")?;
        let draft = paths.state.join("state.json.new");
        fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
        fs::rename(&draft, paths.state.join("state.json")).context("cannot replace the state")
    }
}
