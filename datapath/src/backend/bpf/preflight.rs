//! What the host must have before anything is touched: facts are gathered, then judged.

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// `bpf_set_retval`, by which the socket programs refuse at once; `bpf_loop` is of 5.17. `make test-kernels` runs 6.1.
const KERNEL_MIN: (u32, u32) = (5, 18);
/// Inode of the first cgroup namespace (`PROC_CGROUP_INIT_INO` in linux/proc_ns.h).
const FIRST_CGROUP_NAMESPACE: u64 = 0xEFFF_FFFB;
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;
const CGROUP_ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// What is missing, and how to get it: one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// No privileges.
    #[error("CAP_BPF and CAP_NET_ADMIN are missing: run as root, or give the unit these capabilities")]
    Capabilities,
    /// Too old.
    #[error("kernel {found} is too old: 5.18 or newer is needed, and 6.1 or newer is tested")]
    Kernel {
        /// What `uname -r` says.
        found: String,
    },
    /// TCX was asked for.
    #[error("this kernel has no TCX, and nothing else may be used: leave --packet-hook away, or say clsact")]
    Tcx,
    /// A container that sees its own cgroup as the root.
    #[error(
        "this process is in a private cgroup namespace and would balance only itself: run it in the host's \
         (Kubernetes: hostPID with nsenter, Docker: --cgroupns=host)"
    )]
    PrivateCgroupNamespace,
    /// Not cgroup v2.
    #[error(
        "{path} is not a cgroup v2 directory: name the host's root with --cgroup-root, or mount -t cgroup2 none {path}"
    )]
    Cgroup2 {
        /// What was named.
        path: PathBuf,
    },
    /// Nowhere to pin.
    #[error("{path} is not on a BPF file system: mount -t bpf bpf /sys/fs/bpf")]
    Bpffs {
        /// What was named.
        path: PathBuf,
    },
}

/// What the judgement is made of.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// `CapEff` of /proc/self/status.
    pub capabilities: u64,
    /// `uname -r`
    pub kernel: String,
    pub cgroup_namespace: u64,
    pub cgroup_root: PathBuf,
    pub cgroup_root_is_v2: bool,
    pub pin_dir: PathBuf,
    pub pins_on_bpffs: bool,
}

/// Says whether this host can run the data path, before anything is touched.
///
/// # Errors
///
/// The first thing that is [`Missing`].
pub fn preflight(pin_dir: &Path, cgroup_root: &Path) -> Result<(), Missing> {
    judge(&gather(pin_dir, cgroup_root))
}

/// The host's cgroup v2 root, where nothing was named: the unified hierarchy, also where it lives beside v1.
#[must_use]
pub fn default_cgroup_root() -> PathBuf {
    let found = CGROUP_ROOTS.iter().find(|path| is_on(Path::new(path), CGROUP2_SUPER_MAGIC));
    PathBuf::from(found.unwrap_or(&CGROUP_ROOTS[0]))
}

pub(super) fn judge(facts: &Facts) -> Result<(), Missing> {
    let has = |capability: u32| facts.capabilities & (1 << capability) != 0;
    if !has(CAP_NET_ADMIN) || !(has(CAP_BPF) || has(CAP_SYS_ADMIN)) {
        return Err(Missing::Capabilities);
    }
    if kernel_version(&facts.kernel).is_none_or(|version| version < KERNEL_MIN) {
        return Err(Missing::Kernel { found: facts.kernel.clone() });
    }
    if facts.cgroup_namespace != FIRST_CGROUP_NAMESPACE {
        return Err(Missing::PrivateCgroupNamespace);
    }
    if !facts.cgroup_root_is_v2 {
        return Err(Missing::Cgroup2 { path: facts.cgroup_root.clone() });
    }
    if !facts.pins_on_bpffs {
        return Err(Missing::Bpffs { path: facts.pin_dir.clone() });
    }
    Ok(())
}

fn gather(pin_dir: &Path, cgroup_root: &Path) -> Facts {
    // A fact that cannot be read counts as the worst one: each has its own message.
    Facts {
        capabilities: effective_capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        cgroup_namespace: fs::metadata("/proc/self/ns/cgroup").map_or(0, |m| m.ino()),
        cgroup_root: cgroup_root.to_owned(),
        cgroup_root_is_v2: is_on(cgroup_root, CGROUP2_SUPER_MAGIC),
        pin_dir: pin_dir.to_owned(),
        // The directory itself is ours to make.
        pins_on_bpffs: pin_dir.ancestors().find(|p| p.exists()).is_some_and(|p| is_on(p, BPF_FS_MAGIC)),
    }
}

fn is_on(path: &Path, kind: FsType) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == kind)
}

fn effective_capabilities(status: &str) -> u64 {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Major and minor of `6.18.44-cloud`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_thing_is_named_with_the_way_to_get_it() {
        let good = Facts {
            capabilities: 1 << CAP_NET_ADMIN | 1 << CAP_BPF,
            kernel: "5.18.0-cloud".into(),
            cgroup_namespace: FIRST_CGROUP_NAMESPACE,
            cgroup_root: "/cg".into(),
            cgroup_root_is_v2: true,
            pin_dir: "/pins".into(),
            pins_on_bpffs: true,
        };
        assert_eq!(judge(&good), Ok(()));
        let cases: [(&str, Facts); 7] = [
            ("CAP_BPF", Facts { capabilities: 1 << CAP_NET_ADMIN, ..good.clone() }),
            ("CAP_NET_ADMIN", Facts { capabilities: 1 << CAP_BPF, ..good.clone() }),
            ("5.18 or newer", Facts { kernel: "5.17.15".into(), ..good.clone() }),
            ("5.18 or newer", Facts { kernel: "nonsense".into(), ..good.clone() }),
            ("--cgroupns=host", Facts { cgroup_namespace: 4_026_532_999, ..good.clone() }),
            ("--cgroup-root", Facts { cgroup_root_is_v2: false, ..good.clone() }),
            ("mount -t bpf", Facts { pins_on_bpffs: false, ..good }),
        ];
        for (hint, facts) in cases {
            let message = judge(&facts).expect_err(hint).to_string();
            assert!(message.contains(hint) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn kernels_are_compared_as_numbers() {
        assert_eq!(kernel_version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(kernel_version("10.0"), Some((10, 0)));
        assert_eq!(kernel_version("6"), None);
    }
}
