//! `run`: the agent's loop as a VM.

use crate::{
    DEVICE,
    alone::Alone,
    args::{NamesArgs, RunArgs},
    beside::{Naming, VmBeside},
    credentials::VmCredentials,
    health,
    membership::Membership,
    names::{self, Facts, Names},
    resolv::Host,
};
use api::bytes::Instance;
use daemon::shutdown;
use mesh_node_agent::run::{self as agent, Start};
use std::time::Duration;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How long putting the host's resolver back may take: a call or two of its own program.
const PUT_BACK_WITHIN: Duration = Duration::from_secs(15);

/// Runs the agent until it is asked to end.
///
/// # Errors
/// What is missing at the start, by name.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let state_dir = args.state.state_dir;
    let membership = Membership::required(&state_dir)?;
    let _alone = Alone::on_this_host()?;
    info!(vm = %membership.name, cluster = %membership.cluster, "Starting as a VM of a cluster");
    let end_names = CancellationToken::new();
    let (naming, serving) = serve_names(args.names, end_names.clone());
    let beside = VmBeside::new(membership.name, Instance(rand::random()), health::spawn(), naming);
    let credentials = VmCredentials { state_dir: state_dir.clone() };
    let start = Start {
        state_dir,
        apiserver: membership.endpoints,
        host: args.host,
        balancer: args.balancer.into(),
        credentials,
        beside,
    };
    let ended = agent::run(start).await;
    end_names.cancel();
    if let Some(serving) = serving {
        shutdown::finish("names", serving, PUT_BACK_WITHIN).await;
    }
    ended
}

/// Starts serving names, unless they are not wanted.
fn serve_names(args: NamesArgs, ending: CancellationToken) -> (Option<Naming>, Option<JoinHandle<()>>) {
    if args.no_dns {
        return (None, None);
    }
    let (facts, known) = watch::channel(Facts::unknown(args.cluster_domain.clone()));
    let (told, status) = watch::channel(Names::Starting);
    let domain = args.cluster_domain;
    let options = names::Options { server: args.dns, interface: DEVICE.to_owned(), domain: domain.clone() };
    let serving = tokio::spawn(names::run(Host::this(), options, known, told, ending));
    (Some(Naming::new(domain, facts, status)), Some(serving))
}
