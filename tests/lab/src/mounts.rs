//! What a machine of the lab sees of the file system: its own `/run`, `/sys`, bpffs, cgroup root and state.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

/// The directories behind a machine's mounts, as seen from outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineMounts {
    /// The machine's cgroup: its `/sys/fs/cgroup`.
    pub cgroup: PathBuf,
    /// The lab's state directory, visible at the same path inside: `{lab}` means the same everywhere.
    pub lab: PathBuf,
    /// Its `/var/lib/mesh`, which outlives the machine's programs.
    pub var_lib_mesh: PathBuf,
}

/// Makes the mount namespace that was just unshared a machine's own.
pub(crate) fn mount_machine(mounts: &MachineMounts) -> Result<()> {
    // Nothing mounted from here on may be seen outside.
    mount_at(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    // Opened before /run and /sys hide them.
    let cgroup =
        File::open(&mounts.cgroup).with_context(|| format!("cannot open {}", mounts.cgroup.display()))?;
    let lab = File::open(&mounts.lab).with_context(|| format!("cannot open {}", mounts.lab.display()))?;
    let var_lib_mesh = File::open(&mounts.var_lib_mesh)
        .with_context(|| format!("cannot open {}", mounts.var_lib_mesh.display()))?;

    forget_keepers()?;
    for dir in OWN_LAYERS {
        own_layer(dir)?;
    }
    make_dir("/var/lib/cni")?;
    mount_at(Some("tmpfs"), "/var/lib/cni", Some("tmpfs"), MsFlags::empty())?;
    make_dir("/var/lib/mesh")?;
    bind(&var_lib_mesh, "/var/lib/mesh")?;

    mount_at(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty())?;
    make_dir(&mounts.lab)?;
    bind(&lab, &mounts.lab)?;

    // /sys/class/net is that of the namespace whose sysfs is mounted.
    mount_at(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty())?;
    bind(&cgroup, "/sys/fs/cgroup")?;
    mount_at(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty())
}

/// File systems that keep something alive for as long as they are mounted anywhere.
const KEEPERS: [&str; 2] = ["nsfs", "bpf"];

/// Lets go of what came along when the mount namespace was copied: somebody else's namespaces and pins would live as
/// long as this machine.
fn forget_keepers() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    // The last mounted first, so that each is on top when its turn comes.
    for line in mounts.lines().rev() {
        let mut fields = line.split(' ').skip(1);
        let (Some(target), Some(kind)) = (fields.next(), fields.next()) else { continue };
        if KEEPERS.contains(&kind) {
            // A name with a space is escaped there (fstab(5)) and not found here: it stays, which costs nothing.
            let _ = umount2(target, MntFlags::MNT_DETACH);
        }
    }
    Ok(())
}

/// Where programs of a machine write what is the whole machine's: state, and what resolves its names.
const OWN_LAYERS: [&str; 2] = ["/var/lib", "/etc"];

/// Lays a layer of the machine's own over a directory: mount points that the outside lacks can be made, and what
/// programs leave there goes with the machine.
fn own_layer(dir: &str) -> Result<()> {
    // The layer's two directories must be on one file system that overlayfs can write to; /run is replaced anyway.
    mount_at(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty())?;
    make_dir("/run/upper")?;
    make_dir("/run/work")?;
    let layers = format!("lowerdir={dir},upperdir=/run/upper,workdir=/run/work");
    mount(Some("overlay"), dir, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
        .with_context(|| format!("cannot lay an overlay over {dir}: the kernel needs overlayfs"))?;
    umount2("/run", MntFlags::MNT_DETACH).context("cannot put the layer's directories out of sight")
}

/// Mounts what is open at `source` at `target`, too.
fn bind(source: &File, target: impl AsRef<Path>) -> Result<()> {
    let source = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount_at(Some(&source), target, None, MsFlags::MS_BIND)
}

fn mount_at(
    source: Option<&str>,
    target: impl AsRef<Path>,
    kind: Option<&str>,
    flags: MsFlags,
) -> Result<()> {
    let target = target.as_ref();
    mount(source, target, kind, flags, None::<&str>)
        .with_context(|| format!("cannot mount {} at {}", source.unwrap_or("nothing"), target.display()))
}

fn make_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}
