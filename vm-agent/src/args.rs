//! The command line.

use crate::dns::{server::ADDRESS, zone::Domain};
use clap::{Parser, Subcommand, ValueEnum};
use daemon::args::LogArgs;
use mesh_node_agent::{Balancer, Balancing, HostArgs};
use std::{net::SocketAddr, path::PathBuf};

/// Puts this machine into the mesh of a cluster, as a workload with an identity of its own.
#[derive(Debug, Parser)]
#[command(name = "mesh-vm-agent", version, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub log: LogArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Redeems a token of `meshctl vm add` or `meshctl vm token`. Once.
    Join(JoinArgs),
    /// Runs the agent; the machine has joined before.
    Run(RunArgs),
    /// Forgets the cluster that this machine has joined, and takes everything of the mesh off it. To shut it out there:
    /// `meshctl vm remove`.
    Leave(LeaveArgs),
    /// Puts this machine's resolver back as it was before the agent pointed it at itself; for an agent that was killed.
    RestoreResolver,
}

/// Of `join`.
#[derive(Debug, clap::Args)]
pub struct JoinArgs {
    /// The token's line; `-` reads it from stdin, where no list of processes shows it.
    #[arg(value_name = "TOKEN")]
    pub token: String,
    #[command(flatten)]
    pub state: StateArgs,
}

/// Of `run`. It needs root (CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW), kernel 6.1 or newer, a bpffs at /sys/fs/bpf, and, where the
/// kernel has no WireGuard, `mesh-tunnel` beside it.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub state: StateArgs,
    #[command(flatten)]
    pub host: HostArgs,
    /// What balances Services. `auto`: socket programs where the kernel has them (from 5.18 on), else nftables.
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = WhichBalancer::Auto)]
    pub balancer: WhichBalancer,
    #[command(flatten)]
    pub names: NamesArgs,
}

/// What balances Services.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum WhichBalancer {
    Auto,
    Socket,
    Nftables,
}

impl From<WhichBalancer> for Balancer {
    fn from(which: WhichBalancer) -> Self {
        match which {
            WhichBalancer::Auto => Self::Auto,
            WhichBalancer::Socket => Self::Only(Balancing::Socket),
            WhichBalancer::Nftables => Self::Only(Balancing::Nftables),
        }
    }
}

/// How the mesh's names are served to this machine.
#[derive(Debug, Clone, clap::Args)]
pub struct NamesArgs {
    /// What the cluster calls itself in names, as in cart.shop.svc.cluster.local.
    #[arg(long, value_name = "DOMAIN", default_value_t = Domain::default())]
    pub cluster_domain: Domain,
    /// Where names are served, a loopback address; port 53 unless systemd-resolved asks.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = ADDRESS)]
    pub dns: SocketAddr,
    /// Serve no names, and leave this machine's resolver alone.
    #[arg(long)]
    pub no_dns: bool,
}

/// Of `leave`.
#[derive(Debug, clap::Args)]
pub struct LeaveArgs {
    #[command(flatten)]
    pub state: StateArgs,
}

/// Where this machine's membership is.
#[derive(Debug, Clone, clap::Args)]
pub struct StateArgs {
    /// Where the key, the certificate and what must survive a restart are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/mesh-vm-agent")]
    pub state_dir: PathBuf,
}
