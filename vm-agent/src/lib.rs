//! `mesh-vm-agent`: a host outside Kubernetes as a workload of the mesh.
//!
//! ```text
//!  token ─▶ join ─▶ membership (name, cluster, CA, key) on the disk ─▶ run ─▶ the node agent's loop
//!                                                                      ├─▶ signs of life, checks of what it serves
//!                                                                      └─▶ its certificate, renewed by its key
//! ```
//!
//! Invariants
//! - the key is made here and never leaves this machine;
//! - it listens for nobody: every connection is outbound;
//! - without any control plane it starts from what is on its disk, also with a certificate that has ended meanwhile.

mod args;
mod beside;
mod credentials;
mod health;
mod join;
mod membership;
mod run;

use args::{Args, Command};
use clap::Parser as _;
use std::process::ExitCode;

/// Reads the arguments and does what they say.
pub async fn main() -> ExitCode {
    let args = Args::parse();
    daemon::args::exit(match daemon::log::init(&args.log) {
        Ok(()) => match args.command {
            Command::Join(join) => join::join(&join).await,
            Command::Leave(leave) => membership::leave(&leave.state.state_dir),
            Command::Run(run) => run::run(run).await,
        },
        Err(error) => Err(error.into()),
    })
}
