//! `mesh-node-agent`: programs one node's data path from its cluster's store.
//!
//! ```text
//!  store ─▶ follow ─▶ view ─┐
//!                           ├─▶ compose ─▶ image ─▶ datapath (plan, apply) ─▶ BPF, routes, WireGuard
//!  CNI results, CRI, devices ┘                                          │
//!  store ◀── writer ◀── report ◀── probes, drops, handshakes ◀─────────┘
//! ```
//!
//! Invariants
//! - it withdraws nothing because something else is gone: until the store was listed, what is pinned stays;
//! - it writes `keys/<node>` and `applied/<node>` and nothing else, and never describes itself beyond what it measured;
//! - it ends without a trace in the data path: everything is pinned or the kernel's.

mod apiserver;
mod args;
pub mod beside;
pub mod clock;
pub mod compose;
pub mod cri;
pub mod demand;
mod host;
pub mod identity;
mod kept;
mod metrics;
pub mod path_mtu;
pub mod probe;
pub mod programs;
pub mod report;
pub mod run;
mod worker;
pub mod writer;

pub use args::HostArgs;
pub use datapath::backend::bpf::{Balancer, Balancing};

use args::Args;
use beside::Nothing;
use clap::Parser as _;

use identity::NodeCredentials;
use run::Start;
use std::process::ExitCode;

/// Reads the arguments, and runs until it is told to end.
pub async fn main() -> ExitCode {
    let args = Args::parse();
    daemon::args::exit(match daemon::log::init(&args.log) {
        Ok(()) => {
            let credentials = NodeCredentials::new(&args.identity, &args.apiserver, &args.state_dir);
            let Args { apiserver, state_dir, host, .. } = args;
            // Pods have their sockets where no table of the host's output hook sees them.
            let balancer = Balancer::Only(Balancing::Socket);
            run::run(Start { state_dir, apiserver, host, balancer, credentials, beside: Nothing }).await
        }
        Err(error) => Err(error.into()),
    })
}
