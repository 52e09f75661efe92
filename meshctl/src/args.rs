//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Connects clusters and machines into one mesh, and says what is true of it.
///
/// Exit codes: 0 all is well; 1 it failed, or something is not as it should be; 2 the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, max_term_width = 100)]
pub struct Cli {
    /// Context files: where clusters are and how to prove who we are. Later files add clusters.
    #[arg(long, env = "MESHCONFIG", value_delimiter = ':', global = true, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connects clusters with each other and proves it by a round trip.
    Connect(ConnectArgs),
    /// Ends the peering of two clusters on both sides; their prefixes stay closed.
    Disconnect(DisconnectArgs),
    /// What is measured now: peers, tunnels, what the nodes' maps hold. Exit code 0 only when all of it is well.
    Status(StatusArgs),
    /// Why a Service has the backends it has, as one cluster sees it.
    Why(WhyArgs),
    /// Opens the prefixes of a peer that was disconnected: what goes there is no longer dropped.
    Forget(ForgetArgs),
}

#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// Two or more clusters of the context; every pair is connected.
    #[arg(required = true, num_args = 2.., value_name = "CLUSTER")]
    pub clusters: Vec<String>,
    /// Seconds until a connect that does not come about is given up. (The apiservers undo it by themselves after 60.)
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
}

#[derive(Debug, Args)]
pub struct DisconnectArgs {
    /// One side.
    pub a: String,
    /// The other side.
    pub b: String,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Clusters of the context; all of them when none is named.
    #[arg(value_name = "CLUSTER")]
    pub clusters: Vec<String>,
    /// Wait until all is well: data fresh, every node's maps programmed, a round trip on every pair.
    #[arg(long)]
    pub wait: bool,
    /// With --wait: seconds until it is given up.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", requires = "wait")]
    pub timeout: u64,
    /// How to print it.
    #[arg(short, long, default_value = "table")]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For programs that people read.
    Yaml,
}

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// `namespace/name`, or a name in the namespace `default`.
    pub service: String,
    /// As seen from this cluster; may be left out when the context has one only.
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: Option<String>,
}

#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// The peer that was disconnected.
    pub peer: String,
    /// On this cluster; may be left out when the context has one only.
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: Option<String>,
}
