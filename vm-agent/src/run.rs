//! `run`: the agent's loop as a VM.

use crate::{args::RunArgs, beside::VmBeside, credentials::VmCredentials, health, membership::Membership};
use api::bytes::Instance;
use mesh_node_agent::run::{self as agent, Start};
use tracing::info;

/// Runs the agent until it is asked to end.
///
/// # Errors
/// What is missing at the start, by name.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let state_dir = args.state.state_dir;
    let membership = Membership::required(&state_dir)?;
    info!(vm = %membership.name, cluster = %membership.cluster, "Starting as a VM of a cluster");
    let beside = VmBeside::new(membership.name, Instance(rand::random()), health::spawn());
    let credentials = VmCredentials { state_dir: state_dir.clone() };
    agent::run(Start { state_dir, apiserver: membership.endpoints, host: args.host, credentials, beside })
        .await
}
