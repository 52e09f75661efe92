//! What balances Services: socket programs, or nftables where the kernel has none that can do it.
//!
//! Chosen once, when the agent starts, by asking the kernel for the helpers that the socket programs call: distributions
//! bring features back, and a version does not say which.

use super::{Missing, preflight::Facts};
use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use std::fmt;

/// Who balances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Balancing {
    /// Programs at the sockets' calls: once a connection, for every socket below a cgroup.
    Socket,
    /// A table at the output hook, and connection tracking: for the host's own sockets, and nobody else's.
    Nftables,
}

impl Balancing {
    /// Its name in flags, logs and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Nftables => "nftables",
        }
    }
}

impl fmt::Display for Balancing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What may be chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Balancer {
    /// Socket programs where the kernel has them, else nftables.
    #[default]
    Auto,
    /// This one only.
    Only(Balancing),
}

/// `bpf_set_retval` is of Linux 5.18, by which they refuse at once, and `bpf_loop` of 5.17.
pub(super) fn has_socket_programs() -> bool {
    let has = |helper| is_helper_supported(ProgramType::CgroupSockAddr, helper).unwrap_or(false);
    has(BpfHelper::BPF_FUNC_set_retval) && has(BpfHelper::BPF_FUNC_loop)
}

pub(super) fn judge(wanted: Balancer, facts: &Facts) -> Result<Balancing, Missing> {
    match wanted {
        Balancer::Auto if facts.has_socket_programs => Ok(Balancing::Socket),
        Balancer::Auto => Ok(Balancing::Nftables),
        Balancer::Only(Balancing::Socket) if !facts.has_socket_programs => {
            Err(Missing::SocketPrograms { found: facts.kernel.clone() })
        }
        Balancer::Only(balancing) => Ok(balancing),
    }
}
