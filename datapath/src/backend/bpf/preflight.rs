//! What the host must have before anything is touched: facts are gathered, then judged.

use super::balancing::{self, Balancer, Balancing};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

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
    #[error(
        "kernel {found} is too old to balance at sockets: 5.18 or newer is needed, and 6.1 or newer is tested"
    )]
    SocketPrograms {
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
    /// What the socket programs call is there.
    pub has_socket_programs: bool,
    pub cgroup_namespace: u64,
    pub cgroup_root: PathBuf,
    pub cgroup_root_is_v2: bool,
    pub pin_dir: PathBuf,
    pub pins_on_bpffs: bool,
}

/// Says whether this host can run the data path, and who is to balance, before anything is touched.
///
/// # Errors
///
/// The first thing that is [`Missing`].
pub fn preflight(pin_dir: &Path, cgroup_root: &Path, balancer: Balancer) -> Result<Balancing, Missing> {
    judge(&gather(pin_dir, cgroup_root), balancer)
}

/// The host's cgroup v2 root, where nothing was named: the unified hierarchy, also where it lives beside v1.
#[must_use]
pub fn default_cgroup_root() -> PathBuf {
    let found = CGROUP_ROOTS.iter().find(|path| is_on(Path::new(path), CGROUP2_SUPER_MAGIC));
    PathBuf::from(found.unwrap_or(&CGROUP_ROOTS[0]))
}

pub(super) fn judge(facts: &Facts, balancer: Balancer) -> Result<Balancing, Missing> {
    let has = |capability: u32| facts.capabilities & (1 << capability) != 0;
    if !has(CAP_NET_ADMIN) || !(has(CAP_BPF) || has(CAP_SYS_ADMIN)) {
        return Err(Missing::Capabilities);
    }
    let balancing = balancing::judge(balancer, facts)?;
    // Nothing but socket programs stands at a cgroup.
    if balancing == Balancing::Socket && facts.cgroup_namespace != FIRST_CGROUP_NAMESPACE {
        return Err(Missing::PrivateCgroupNamespace);
    }
    if balancing == Balancing::Socket && !facts.cgroup_root_is_v2 {
        return Err(Missing::Cgroup2 { path: facts.cgroup_root.clone() });
    }
    if !facts.pins_on_bpffs {
        return Err(Missing::Bpffs { path: facts.pin_dir.clone() });
    }
    Ok(balancing)
}

fn gather(pin_dir: &Path, cgroup_root: &Path) -> Facts {
    // A fact that cannot be read counts as the worst one: each has its own message.
    Facts {
        capabilities: effective_capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        has_socket_programs: balancing::has_socket_programs(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            capabilities: 1 << CAP_NET_ADMIN | 1 << CAP_BPF,
            kernel: "5.18.0-cloud".into(),
            has_socket_programs: true,
            cgroup_namespace: FIRST_CGROUP_NAMESPACE,
            cgroup_root: "/cg".into(),
            cgroup_root_is_v2: true,
            pin_dir: "/pins".into(),
            pins_on_bpffs: true,
        }
    }

    #[test]
    fn each_missing_thing_is_named_with_the_way_to_get_it() {
        let wanted = Balancer::Only(Balancing::Socket);
        assert_eq!(judge(&good(), wanted), Ok(Balancing::Socket));
        let cases: [(&str, Facts); 6] = [
            ("CAP_BPF", Facts { capabilities: 1 << CAP_NET_ADMIN, ..good() }),
            ("CAP_NET_ADMIN", Facts { capabilities: 1 << CAP_BPF, ..good() }),
            (
                "kernel 5.17.15 is too old",
                Facts { kernel: "5.17.15".into(), has_socket_programs: false, ..good() },
            ),
            ("--cgroupns=host", Facts { cgroup_namespace: 4_026_532_999, ..good() }),
            ("--cgroup-root", Facts { cgroup_root_is_v2: false, ..good() }),
            ("mount -t bpf", Facts { pins_on_bpffs: false, ..good() }),
        ];
        for (hint, facts) in cases {
            let message = judge(&facts, wanted).expect_err(hint).to_string();
            assert!(message.contains(hint) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn nftables_balances_where_sockets_cannot_or_where_it_was_asked_for_and_needs_no_cgroup() {
        let only = Balancer::Only;
        for (wanted, has_socket_programs, expected) in [
            (Balancer::Auto, true, Ok(Balancing::Socket)),
            (Balancer::Auto, false, Ok(Balancing::Nftables)),
            (only(Balancing::Nftables), true, Ok(Balancing::Nftables)),
            (only(Balancing::Nftables), false, Ok(Balancing::Nftables)),
            (only(Balancing::Socket), true, Ok(Balancing::Socket)),
            (only(Balancing::Socket), false, Err(Missing::SocketPrograms { found: good().kernel })),
        ] {
            let facts = Facts { has_socket_programs, ..good() };
            assert_eq!(judge(&facts, wanted), expected, "{wanted:?}, socket programs: {has_socket_programs}");
        }
        let private = Facts { cgroup_namespace: 1, cgroup_root_is_v2: false, ..good() };
        assert_eq!(judge(&private, only(Balancing::Nftables)), Ok(Balancing::Nftables));
    }
}
