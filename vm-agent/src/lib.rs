//! `mesh-vm-agent`: a host outside Kubernetes as a workload of the mesh.
//!
//! ```text
//!  token ─▶ join ─▶ membership (name, cluster, CA, key) on the disk ─▶ run ─▶ the node agent's loop
//!                                                                      ├─▶ signs of life, checks of what it serves
//!                                                                      ├─▶ its certificate, renewed by its key
//!                                                                      └─▶ names ─▶ dns: answers the mesh's,
//!                                                                            │         hands on all others
//!                                                                            └─▶ resolv: points the host's resolver
//!                                                                                  at us, and puts it back
//! ```
//!
//! Invariants
//! - the key is made here and never leaves this machine;
//! - it listens for this host alone: to others, every connection is outbound;
//! - without any control plane it starts from what is on its disk, also with a certificate that has ended meanwhile;
//! - a name of the mesh is never asked for elsewhere, and no other name is answered by us;
//! - when names cannot be served, the host's resolver is as it was, and readiness says why.

mod alone;
mod args;
mod beside;
mod credentials;
pub mod dns;
mod health;
mod join;
mod leave;
mod membership;
pub mod names;
pub mod resolv;
mod run;

use args::{Args, Command};
use clap::Parser as _;
use std::process::ExitCode;

/// The mesh's device, which is called so on every host.
const DEVICE: &str = "mesh0";

/// The agent's unit, where a package has put it.
const UNIT: &str = "mesh-vm-agent.service";

/// Reads the arguments and does what they say.
pub async fn main() -> ExitCode {
    let args = Args::parse();
    daemon::args::exit(match daemon::log::init(&args.log) {
        Ok(()) => match args.command {
            Command::Join(join) => join::join(&join).await,
            Command::Leave(leave) => leave::leave(&leave.state.state_dir).await,
            Command::Run(run) => run::run(run).await,
            Command::RestoreResolver => resolv::Host::this().restore(DEVICE).await,
        },
        Err(error) => Err(error.into()),
    })
}
