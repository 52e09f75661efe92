//! The command line.

use crate::{compose::LISTEN_PORT, identity::IdentityArgs};
use clap::{Parser, ValueEnum};
use daemon::args::LogArgs;
use datapath::{
    backend::{
        bpf::{Hook, PacketHook},
        wireguard::Kind,
    },
    host::TunnelDevice,
};
use std::{net::SocketAddr, path::PathBuf};

/// Programs one node's data path: services at the socket, tunnels to every other cluster's nodes, and what may pass.
///
/// It knows its name and its cluster from its certificate, and everything else from its cluster's apiserver. It needs root
/// (CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW), kernel 6.1 or newer, a bpffs at /sys/fs/bpf, and, where the kernel has no WireGuard,
/// `mesh-tunnel` beside it.
#[derive(Debug, Parser)]
#[command(name = "mesh-node-agent", version, max_term_width = 100)]
pub struct Args {
    /// The cluster's apiserver; several are tried in order.
    #[arg(long, required = true, value_name = "HOST:PORT", value_delimiter = ',')]
    pub apiserver: Vec<String>,
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// Where what must survive a restart is kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/mesh")]
    pub state_dir: PathBuf,
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// How the host's data path is programmed: the same for nodes and VMs.
#[derive(Debug, Clone, clap::Args)]
pub struct HostArgs {
    /// The host's cgroup v2 root, where services are balanced. Found by itself unless it is somewhere unusual.
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// UDP port of the tunnel.
    #[arg(long, value_name = "PORT", default_value_t = LISTEN_PORT)]
    pub listen_port: u16,
    /// Whose WireGuard serves mesh0. `auto`: the device that is there, else the kernel's, else mesh-tunnel's.
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = WhichTunnel::Auto)]
    pub tunnel_device: WhichTunnel,
    /// What packet programs stand at. `auto`: TCX where the kernel has it (from 6.6 on), else filters of clsact.
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = WhichHook::Auto)]
    pub packet_hook: WhichHook,
    /// The container runtime's socket, as /run/containerd/containerd.sock or /var/run/crio/crio.sock: for pods of which the
    /// CNI keeps no result under /var/lib/cni/results. Not asked unless it is given.
    #[arg(long, value_name = "PATH")]
    pub cri_socket: Option<PathBuf>,
    /// Where to serve /healthz, /readyz and /metrics, in plain.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9878")]
    pub health: SocketAddr,
    /// Seconds after which the agent counts as ready though some peer's records are not complete; it says whose.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub ready_budget: u64,
}

/// Whose WireGuard serves the tunnel's device.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum WhichTunnel {
    Auto,
    Kernel,
    Userspace,
}

impl From<WhichTunnel> for TunnelDevice {
    fn from(which: WhichTunnel) -> Self {
        match which {
            WhichTunnel::Auto => Self::Auto,
            WhichTunnel::Kernel => Self::Only(Kind::Kernel),
            WhichTunnel::Userspace => Self::Only(Kind::Userspace),
        }
    }
}

/// What packet programs stand at.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum WhichHook {
    Auto,
    Tcx,
    Clsact,
}

impl From<WhichHook> for PacketHook {
    fn from(which: WhichHook) -> Self {
        match which {
            WhichHook::Auto => Self::Auto,
            WhichHook::Tcx => Self::Only(Hook::Tcx),
            WhichHook::Clsact => Self::Only(Hook::Clsact),
        }
    }
}
