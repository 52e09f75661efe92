//! The command line.

use crate::contexts::ContextArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Connects clusters and machines into one mesh, and says what is true of it.
///
/// Exit codes: 0 all is well; 1 it failed, or something is not as it should be; 2 the command line is wrong; 3 a cluster
/// cannot be reached, or does not believe us; 4 a cluster refused.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub contexts: ContextArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connects clusters with each other and proves it by a round trip.
    Connect(ConnectArgs),
    /// Whether clusters could be connected, each alone and every pair, with a code for what stands in the way.
    Check(CheckArgs),
    /// Writes what whoever helps needs to see into an archive, without keys, tokens and what is no record of the mesh.
    Dump(DumpArgs),
    /// Ends the peering of two clusters on both sides, or on one with --force; their prefixes stay closed.
    Disconnect(DisconnectArgs),
    /// What is measured now: peers, tunnels, what the nodes' maps hold. Exit code 0 only when all of it is well.
    Status(StatusArgs),
    /// A new round trip on every pair of nodes of every peering. Exit code 0 only when there was one on each.
    Test(TestArgs),
    /// What is known of a Service, pod, address or identity, as one cluster sees it; of two, how packets go between them.
    Why(WhyArgs),
    /// Opens the prefixes of a peer that was disconnected: what goes there is no longer dropped.
    Forget(ForgetArgs),
    /// The contracts that peers are held to.
    #[command(subcommand)]
    Peer(PeerCommand),
    /// The records of a cluster's store, and its dumps.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Connects clusters whose administrators share no kubeconfig.
    #[command(subcommand)]
    Token(crate::token::TokenCommand),
    /// Hosts outside Kubernetes that are workloads of the mesh.
    #[command(subcommand)]
    Vm(crate::vm::VmCommand),
    /// The completion script of a shell, to stdout.
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages into a directory.
    Man {
        /// Where; made if need be.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum PeerCommand {
    /// Every peer of every cluster, or of one.
    List {
        /// Clusters of the context; all of them when none is named.
        #[arg(value_name = "CLUSTER")]
        clusters: Vec<String>,
        /// How to print it.
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// One peer's object, as YAML: what a GitOps tool could own, and `peer apply` takes.
    Get(PeerArgs),
    /// Edits one peer's object in $VISUAL or $EDITOR, shows what changes and applies it.
    Edit {
        #[command(flatten)]
        peer: PeerArgs,
        /// Only check, and show what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Applies an object from a file, and shows what changes.
    Apply {
        /// The MeshPeer, as YAML; `-` is stdin.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// On this cluster; may be left out when the context has one only.
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<String>,
        /// Only check, and show what would change.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub struct PeerArgs {
    /// The peer.
    pub peer: String,
    /// On this cluster; may be left out when the context has one only.
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Reads records, decoded.
    Get {
        /// A key or the beginning of keys: whole (`mesh/v1/east/services/`, `mesh-local/v1/applied/`), or the cluster's own
        /// (`services/shop`). All records when left out.
        #[arg(value_name = "PREFIX")]
        prefix: Option<String>,
        /// From this cluster; may be left out when the context has one only.
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<String>,
        /// As of this revision of the store; the newest when left out.
        #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
        rev: i64,
        /// How to print it.
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// Lays a dump (made by `etcdctl snapshot save`) into an apiserver's data directory: its next start begins from it.
    Restore {
        /// The dump.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The apiserver's --data-dir, on this machine.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// Two or more clusters: of context files by name, of a kubeconfig by context. Every pair is connected.
    #[arg(required = true, num_args = 2.., value_name = "CLUSTER")]
    pub clusters: Vec<String>,
    /// A cluster that both have for a peer, which passes the bytes of their apiservers on: for two of which neither can
    /// dial the other. Where it is known here, it is told to allow it; else its administrator has to.
    #[arg(long, value_name = "CLUSTER")]
    pub through: Option<String>,
    /// Seconds until a connect that does not come about is given up. (The apiservers undo it by themselves after 60.)
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
    #[command(flatten)]
    pub dry: DryRun,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Clusters; all that are known when none is named.
    #[arg(value_name = "CLUSTER")]
    pub clusters: Vec<String>,
    /// How to print it.
    #[arg(short, long, default_value = "table")]
    pub output: Output,
}

/// Which cluster.
#[derive(Debug, Args)]
pub struct ClusterArg {
    /// Of this cluster; may be left out when only one is known.
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: Option<String>,
}

#[derive(Debug, Args)]
pub struct TestArgs {
    /// Clusters; all that are known when none is named.
    #[arg(value_name = "CLUSTER")]
    pub clusters: Vec<String>,
    /// Seconds until a pair without a round trip has failed.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
    /// Also write what came of it as JUnit's XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DumpArgs {
    /// Clusters; all that are known when none is named.
    #[arg(value_name = "CLUSTER")]
    pub clusters: Vec<String>,
    /// The archive (tar, gzip); it must not be there yet.
    #[arg(short, long, value_name = "FILE", default_value = "meshctl-dump.tar.gz")]
    pub file: PathBuf,
}

/// Check, print and change nothing.
#[derive(Debug, Args)]
pub struct DryRun {
    /// Check everything, print what would be written or removed, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: how to print the objects. `yaml` is what a GitOps tool could own instead.
    #[arg(short, long, requires = "dry_run", default_value = "table", hide_default_value = true)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct DisconnectArgs {
    /// One side; with --force, ours.
    pub a: String,
    /// The other side.
    pub b: String,
    /// Only on the first side, for a second one that is dead: it is not asked, and is called by its cluster's name.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub dry: DryRun,
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

impl Output {
    /// For programs: the same data as JSON or YAML.
    pub fn print(self, data: &impl serde::Serialize) -> anyhow::Result<String> {
        use anyhow::Context as _;
        match self {
            Self::Json => Ok(serde_json::to_string_pretty(data)? + "\n"),
            Self::Yaml | Self::Table => serde_saphyr::to_string(data).context("cannot print it as YAML"),
        }
    }
}

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// `namespace/name` of a Service or pod (a name alone is in `default`), an IP address, or an identity.
    pub what: crate::why::Asked,
    /// How packets go from the first to this one: pods or addresses.
    pub to: Option<crate::why::Asked>,
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
