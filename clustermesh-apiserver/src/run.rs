//! The composition root: source → publish → store → doors, and the order in which it ends.
//!
//! ```text
//!  start:  configuration, certificate ─▶ both ports bound ─▶ health ─▶ store ─▶ lineage ─▶ source, publisher, peers
//!          ─▶ the peers of the start are believed ─▶ gRPC
//!  end:    gRPC (watches are told) ─▶ publisher, peers ─▶ store ─▶ health
//! ```

mod renew;

use crate::{
    admin::{AdminService, PeerAdmin},
    args::RunArgs,
    authz,
    backend::{self, Engine},
    enrol::{Accounts, Enrol},
    face::{self, Doors},
    health::{self, Metrics},
    init::ClusterConfig,
    keep::{self, Keep, StateSecret},
    kubernetes,
    peers::{self, Home},
    pipes::{self, Reach},
    pki::Layout,
    propagation::Propagation,
    publish, readiness_gate,
    source::{self, driver::Origin, kubernetes::Events},
    vms::{
        Register,
        admin::{Inviter, VmAdmin},
        presence::{self, VmStates},
    },
};
use anyhow::{Context, bail};
use daemon::{
    args::Hint,
    context,
    health::{Condition, Readiness},
    shutdown::finish,
    tls::{self, Tls},
};
use prometheus_client::registry::Registry;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long each part may take to end; together they stay below the 30 s after which systemd and Kubernetes kill.
const END_WITHIN: Duration = Duration::from_secs(5);

/// How long the doors stay closed for a source that cannot be read: the first list of the largest directory takes 2 s,
/// and whoever dials gives up after 5 s and comes again. After that our own agents go before peers.
const DOORS_WAIT: Duration = Duration::from_secs(10);

/// Serves until `shutdown`.
///
/// # Errors
/// What is missing or broken at the start, by name; or that the server failed.
pub async fn run(args: &RunArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let layout = Layout::new(&args.data_dir);
    let config = ClusterConfig::load(&layout).with_context(|| {
        Hint::new("there is no cluster to serve", "make one: clustermesh-apiserver init --help")
    })?;
    let client = match args.source.kubernetes {
        true => Some(kubernetes::client().await.context("--kubernetes")?),
        false => None,
    };
    let secret = client.clone().zip(args.state_secret.as_ref());
    // The publisher and the peers end after the doors: the last thing they know is still told.
    let inner = CancellationToken::new();
    let events = client.clone().map(|client| Events::spawn(client, inner.clone()));
    let secret = secret.zip(events.clone());
    let secret = secret.map(|((client, name), events)| StateSecret::new(client, name).telling(events));
    if let Some(secret) = &secret
        && let Err(error) = secret.resume(&layout).await
    {
        let error = format!("{error:#}");
        warn!(error, "Going on with what the data directory says; nothing is changed while that is older");
    }
    let tls = Tls::new(renew::identity(&layout, &config, SystemTime::now())?);

    let health_port = daemon::health::bind(args.health)
        .await
        .with_context(|| format!("cannot listen on {} (--health)", args.health))?;
    let port = face::bind(args.listen).await.context("cannot serve gRPC (--listen)")?;
    let readiness = Readiness::default();
    let store_ready = readiness.needs("store", "not open yet");
    let source_ready = readiness.needs("source", "its first complete list is not published yet");

    let peers_ready = readiness.needs("peers", "the MeshPeer objects are not read yet");

    let (metrics, propagation) = (Metrics::default(), Propagation::default());
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    propagation.register(&mut registry);
    let health_end = CancellationToken::new();
    let health = tokio::spawn(serve_health(health_port, readiness, registry, health_end.clone()));

    backend::restore(layout.root(), config.uuid.0).await.context("cannot restore the store")?;
    let engine = Engine::open(layout.root()).await.context("cannot open the store")?;
    store_ready.met();

    let own = publish::Own::from(&config);
    publish::begin(&engine, &own).await.context("cannot write this boot into the store")?;
    let usurped = secret.as_ref().map(StateSecret::usurped).unwrap_or_default();
    if let Some(secret) = &secret {
        let guarding = secret.clone().guard(layout.root().to_owned());
        tokio::spawn(inner.clone().run_until_cancelled_owned(guarding));
    }
    let keep = Keep::new(&layout, secret);
    let (origin, home) = surroundings(args, client.clone().zip(events), &source_ready);
    let accounts = Accounts {
        node: args.enrol_service_account.clone(),
        operator: args.operator_service_account.clone(),
    };
    let tokens = client.clone();
    if let Some((client, name)) = client.clone().zip(args.bundle_configmap.clone()) {
        let published = published(args, &config, tls.identity().bundle_pem())?;
        tokio::spawn(inner.clone().run_until_cancelled_owned(keep::publish(client, name, published)));
    }
    let (vm_states, states) = watch::channel(VmStates::default());
    let (vms_heard, heard) = watch::channel(presence::Heard::new());
    let looking = presence::follow(engine.clone(), vm_states, vms_heard);
    tokio::spawn(inner.clone().run_until_cancelled_owned(looking));
    let source = source_config(origin, keep.clone(), &config);
    let sources = source::driver::spawn(source, states, inner.clone())?;
    let register = Register::load(keep.clone(), sources.clone())?;
    tokio::spawn(inner.clone().run_until_cancelled_owned(register.clone().follow()));
    let vms = VmAdmin {
        inviter: inviter(&config, tls.identity().bundle_pem())?,
        home: home.clone(),
        register: register.clone(),
        source: sources.clone(),
        heard,
    };
    if let Some(client) = client.filter(|_| args.readiness_gate) {
        let opening = readiness_gate::follow(engine.clone(), client, sources.clone());
        tokio::spawn(inner.clone().run_until_cancelled_owned(opening));
    }
    let took = propagation.publish();
    let (published, publishing) =
        publish::spawn(engine.clone(), own.clone(), sources.clone(), took, inner.clone());
    let (reach, arrivals) = Reach::new(tls.clone());
    if config.dial_out {
        tokio::spawn(inner.clone().run_until_cancelled_owned(pipes::offer::follow(reach.clone())));
    }
    let (endpoints, ways) = (config.for_peers(), reach.clone());
    let peering = peers::Config { own: own.clone(), home, keep, propagation, endpoints, reach: ways };
    let (peers, peering) =
        peers::spawn(engine.clone(), tls.clone(), peering, sources.clone(), inner.clone()).await?;
    let renewing =
        tokio::spawn(renew::every_hour(layout.clone(), config.clone(), tls.clone(), inner.clone()));
    tokio::spawn(when_published(published.clone(), source_ready));
    tokio::spawn(when_decided(peers.status(), peers_ready));
    // Until then connections wait in the port's backlog: a peer that is refused is told that there is no peering, and
    // undoes a connect that was not confirmed.
    tokio::select! {
        () = decided(peers.status()) => {}
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(DOORS_WAIT) => warn!(
            waited = ?DOORS_WAIT,
            "Serving though the MeshPeer objects cannot be read yet: peers are refused until they are"
        ),
    }

    info!(cluster = %config.name, uuid = %config.uuid, grpc = %port.address(), health = %args.health, "Serving");
    let own = authz::Own { uuid: config.uuid, name: config.name.clone() };
    let doors = Doors::new(own, tls, register.members(), engine.clone(), shutdown.clone());
    let sources = health::Sources {
        engine: engine.clone(),
        doors: doors.clone(),
        source: sources,
        published,
        peers: peers.status(),
        reach: reach.clone(),
    };
    metrics.begin(sources);
    tokio::spawn(inner.clone().run_until_cancelled_owned({
        let (usurped, shutdown) = (usurped.clone(), shutdown.clone());
        async move {
            usurped.cancelled().await;
            shutdown.cancel();
        }
    }));
    let peers: Arc<dyn PeerAdmin> = Arc::new(peers);
    let enrol = Enrol::new(
        layout.clone(),
        config.uuid,
        config.advertise.clone(),
        register.clone(),
        Arc::clone(&peers),
    );
    let enrol = match tokens {
        Some(client) => enrol.with_accounts(client, accounts),
        None => enrol,
    };
    let admin = AdminService::new(peers, Arc::new(vms));
    let served = port.serve(doors, admin, Some(enrol), (reach, arrivals)).await;

    inner.cancel();
    for task in publishing {
        finish("publisher", task, END_WITHIN).await;
    }
    finish("peers", peering, END_WITHIN).await;
    finish("renewal", renewing, END_WITHIN).await;
    engine.shut_down().await;
    health_end.cancel();
    finish("health", health, END_WITHIN).await;
    info!("Ended");
    if usurped.is_cancelled() {
        bail!(
            "another apiserver of this cluster has written the Secret of --state-secret: the next start takes what is there"
        );
    }
    served
}

/// Where objects are read, and where MeshPeer objects are written.
fn surroundings(
    args: &RunArgs,
    kubernetes: Option<(kube::Client, Events)>,
    waiting: &Condition,
) -> (Origin, Home) {
    match (kubernetes, &args.source.manifests) {
        (Some((client, events)), _) => {
            let home = Home::Kubernetes { client: client.clone(), events: events.clone() };
            let source = source::kubernetes::Config { client, events, waiting: waiting.clone() };
            (Origin::Kubernetes(source), home)
        }
        (None, Some(directory)) => (Origin::Directory(directory.clone()), Home::Directory(directory.clone())),
        (None, None) => unreachable!("clap demands one of the two sources"),
    }
}

/// What a token says of us.
fn inviter(config: &ClusterConfig, bundle_pem: &str) -> anyhow::Result<Inviter> {
    let ca = tls::bundle_der(bundle_pem).context("cannot use our own CA's certificate")?;
    let (cluster, uuid) = (config.name.clone(), config.uuid);
    Ok(Inviter { cluster, uuid, endpoints: config.advertise.clone(), peers_dial: !config.dial_out, ca })
}

/// What the ConfigMap tells: whom to believe, and to operators where we are.
fn published(
    args: &RunArgs,
    config: &ClusterConfig,
    bundle_pem: &str,
) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let cluster = context::Published {
        name: config.name.clone(),
        uuid: config.uuid,
        endpoints: config.advertise.clone(),
        operator_account: args.operator_service_account.as_ref().map(|account| account.name.clone()),
    };
    let cluster = serde_saphyr::to_string(&cluster).context("cannot write who we are as YAML")?;
    Ok([(context::BUNDLE_KEY, bundle_pem.to_owned()), (context::CLUSTER_KEY, cluster)].into())
}

fn source_config(origin: Origin, keep: Keep, config: &ClusterConfig) -> source::driver::Config {
    source::driver::Config {
        origin,
        keep,
        facts: source::index::Facts {
            cluster: config.name.clone(),
            uuid: config.uuid,
            pod_cidrs: config.pod_cidrs.clone(),
            ignored_labels: Vec::new(),
            namespaces_are_global: true,
        },
        mesh_cidrs: config.mesh_cidrs.clone(),
    }
}

async fn serve_health(port: TcpListener, readiness: Readiness, metrics: Registry, end: CancellationToken) {
    if let Err(error) = daemon::health::serve(port, readiness, metrics, end).await {
        warn!(%error, "The health port has failed");
    }
}

async fn when_published(mut published: watch::Receiver<publish::Published>, ready: Condition) {
    // The publisher ends with the process.
    if published.wait_for(|published| published.synced).await.is_ok() {
        ready.met();
    }
}

async fn decided(mut status: watch::Receiver<peers::Status>) {
    // The peerings end with the process.
    if status.wait_for(|status| status.decided).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn when_decided(status: watch::Receiver<peers::Status>, ready: Condition) {
    decided(status).await;
    ready.met();
}

#[cfg(test)]
mod tests;
