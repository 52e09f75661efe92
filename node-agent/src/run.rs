//! The loop: what changes (records, pods, links, answers of probes) is gathered, composed, programmed and told.

mod maps;

use crate::{
    apiserver::{Apiserver, KnownName},
    args::HostArgs,
    beside::{Beside, Then},
    clock::KeptClock,
    compose::{Composed, Paths, TunnelTo},
    demand::{self, Demand},
    host::Host,
    identity::Credentials,
    kept::{self, Found, KeptFile, Outcome},
    metrics::Metrics,
    path_mtu::{self, Padded, PathMtus},
    probe::{self, Probes, Target},
    report::{self, DatapathMeasured, Progress},
    writer::{self, Wishes},
};
use anyhow::Context as _;
use api::{
    key::LocalKey,
    name::{ClusterName, NodeName},
    record::TunnelKey,
};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use daemon::{
    args::Hint,
    health::{self, Condition, Readiness},
    shutdown,
    tls::Tls,
};
use datapath::backend::bpf::Balancer;
use follow::Following;
use maps::{Basis, Keeping};
use replica::{
    follower::{Event, Follow},
    kept::Owner,
    service::Silent,
    view::{Effect, View},
};
use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use tracing::{debug, info, warn};

/// Changes that arrive together are programmed together; a single one waits this long.
const GATHER: Duration = Duration::from_millis(20);
/// The kernel is compared with the image though nothing changed: somebody else may have changed it.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// What was measured is told this often, and at once when something turns red or green.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How long an ordered end may take.
const END_WITHIN: Duration = Duration::from_secs(5);

/// How an agent starts.
#[derive(Debug)]
pub struct Start<C, B> {
    /// Where what must survive a restart is kept.
    pub state_dir: PathBuf,
    /// `host:port` of the cluster's apiserver; several are tried in order.
    pub apiserver: Vec<String>,
    /// How the data path is programmed.
    pub host: HostArgs,
    /// Who may balance Services.
    pub balancer: Balancer,
    /// Who it is.
    pub credentials: C,
    /// What else it does.
    pub beside: B,
}

/// Runs an agent until it is asked to end. Nothing is withdrawn when it ends.
///
/// # Errors
/// What is missing at the start, by name.
pub async fn run<C: Credentials, B: Beside>(start: Start<C, B>) -> anyhow::Result<()> {
    let Start { state_dir, apiserver: endpoints, host: args, balancer, credentials, beside } = start;
    let started = Instant::now();
    let ending = shutdown::on_signal()?;
    fs::create_dir_all(&state_dir).with_context(|| format!("cannot make {}", state_dir.display()))?;
    // First of all: who has no certificate yet is alive, and says what it waits for.
    let readiness = Readiness::default();
    let known = readiness.needs("identity", "no certificate yet: see the log");
    let programmed = readiness.needs("maps", "the first complete view is not in the maps");
    let (metrics, registry) = Metrics::new();
    let listener = health::bind(args.health).await.map_err(|error| {
        Hint::new(
            format!("cannot serve health on {}: {error}", args.health),
            "choose another address with --health",
        )
    })?;
    let serving = tokio::spawn(health::serve(listener, readiness, registry, ending.clone()));
    let Some(identity) = ending.run_until_cancelled(credentials.identity()).await else { return Ok(()) };
    let identity = identity?;
    known.met();
    let id = identity.id();
    let node =
        id.node_name().or_else(|| id.vm_name()).context("the certificate names neither node nor VM")?;
    let mut host = Host::open(&args, balancer, &state_dir)?;
    let tunnel = host.tunnel_kind().await;
    let hook = host.packet_hook().await;
    let balancing = host.balancing().await;
    info!(device = %tunnel, %hook, balancer = %balancing, "Chose what the data path is made of");
    metrics.balances(balancing);

    let owner = Owner { uuid: identity.id().trust_domain(), node: node.clone() };
    let tls = Tls::new(identity);
    tokio::spawn(credentials.keep_good(tls.clone(), ending.clone()));
    let apiserver = Apiserver::new(tls, endpoints);
    let (wishes, wished) = watch::channel(Wishes::new());
    let writer = tokio::spawn(writer::run(apiserver.clone(), wished, ending.clone()));

    let Some(own) =
        ending.run_until_cancelled(cluster_name(&apiserver, &KnownName::in_dir(&state_dir))).await
    else {
        return Ok(());
    };
    let file = KeptFile::in_dir(&state_dir, owner.clone());
    let (view, kept_at_ms) = last_view(&file, &own);
    // What is pinned is newer than what is on the disk, so the disk counts only where nothing is.
    let from_disk = if host.began_empty().await { kept_at_ms } else { None };
    let (snapshots, to_keep) = mpsc::channel(1);
    let (outcomes, kept) = watch::channel(Outcome::default());
    let keeper = tokio::spawn(kept::run(file, to_keep, outcomes));

    info!(cluster = %own, %node, "Following the cluster's store");
    let prefixes = PREFIXES.iter().chain(B::FOLLOWS).map(|prefix| (*prefix).to_owned()).collect();
    let follow = Follow { cluster: own.clone(), prefixes };
    let following = follow::spawn(follow, seed(&node), apiserver);

    let (answers, answered) = mpsc::channel(probe::IN_FLIGHT_MAX + path_mtu::IN_FLIGHT_MAX);
    let mtus = PathMtus::remember(host.path_mtus().await);
    let agent = Agent {
        key: TunnelKey {
            public_key: host.public_key(),
            port: args.listen_port,
            clock_epoch: 0,
            relay_key: None,
            on_demand: true,
        },
        clock: KeptClock::in_dir(&state_dir),
        budget: Instant::now() + Duration::from_secs(args.ready_budget),
        late: false,
        view,
        basis: from_disk.map_or(Basis::Pins, |at_ms| Basis::Disk { at_ms, programmed: false }),
        connected: false,
        keeping: Keeping::new(owner, snapshots, kept),
        started,
        node,
        composed: Composed::default(),
        measured: DatapathMeasured::default(),
        probes: Probes::default(),
        paths: Paths {
            silent: Silent::new(),
            mtus,
            demand: Demand::found(&host.tunnels().await.unwrap_or_default()),
        },
        progress: Progress::with(tunnel, hook, balancing),
        programmed,
        metrics,
        wishes,
        beside,
        answers,
        sequence: 0,
        changed_at: None,
    };
    agent.run(&mut host, following, answered, &ending).await;
    shutdown::finish("writer", writer, END_WITHIN).await;
    shutdown::finish("keeper of the last view", keeper, END_WITHIN).await;
    serving.abort();
    Ok(())
}

/// What an agent follows: all clusters, and of the private part only what it programs.
const PREFIXES: [&str; 5] = [
    "mesh/v1/",
    "mesh-local/v1/services/",
    "mesh-local/v1/backends/",
    "mesh-local/v1/peers/",
    "mesh-local/v1/closed/",
];

/// Differs from node to node, so that a restarted apiserver meets its agents one after the other.
fn seed(node: &NodeName) -> u64 {
    node.as_str()
        .bytes()
        .fold(u64::from(std::process::id()), |seed, byte| seed.rotate_left(7) ^ u64::from(byte))
}

/// The name as it is told by the apiserver's certificate at first contact, and from then on as it was told.
async fn cluster_name(apiserver: &Apiserver, known: &KnownName) -> ClusterName {
    if let Some(name) = known.read() {
        return name;
    }
    let mut waits = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .without_max_times()
        .build();
    loop {
        match apiserver.open().await {
            Ok(connection) => {
                let name = connection.server.cluster_name().expect("an apiserver's ID names a cluster");
                if let Err(error) = known.write(&name) {
                    warn!(%error, "Cannot keep the cluster's name; a restart needs the apiserver");
                }
                return name;
            }
            Err(error) => {
                let wait = waits.next().unwrap_or(Duration::from_secs(10));
                warn!(error, ?wait, "Cannot reach the apiserver");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// The view as it was kept on the disk, and when it was live. Absence means nothing in it, as it is not complete.
fn last_view(file: &KeptFile, own: &ClusterName) -> (View, Option<u64>) {
    match file.read() {
        Found::View(kept) if kept.view.own() == own => {
            info!(of = %utc(kept.at_ms), revision = kept.revision, skipped = kept.skipped, "Read the last view from the disk");
            return (kept.view, Some(kept.at_ms));
        }
        Found::View(kept) => {
            warn!(found = %kept.view.own(), "The view on the disk is of a cluster of another name; it is not used");
        }
        Found::Nothing => {}
        Found::Refused(why) => warn!("{why}"),
    }
    (View::new(own.clone()), None)
}

/// A moment as people write it.
fn utc(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1_000).unwrap_or(i64::MAX);
    let moment = OffsetDateTime::from_unix_timestamp(seconds).ok();
    moment
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s of Unix time"))
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A finished probe.
enum Finished {
    /// Its target, and the round trip if there was one.
    Small(Target, Option<Duration>),
    /// And whether it was answered.
    Padded(Padded, bool),
}

struct Agent<B> {
    beside: B,
    started: Instant,
    basis: Basis,
    /// The store vouches for the view now.
    connected: bool,
    keeping: Keeping,
    node: NodeName,
    key: TunnelKey,
    /// The one that stamps our handshakes.
    clock: KeptClock,
    /// When the agent counts as ready whatever is missing.
    budget: Instant,
    late: bool,
    view: View,
    composed: Composed,
    measured: DatapathMeasured,
    probes: Probes,
    paths: Paths,
    progress: Progress,
    programmed: Condition,
    metrics: Metrics,
    wishes: watch::Sender<Wishes>,
    answers: mpsc::Sender<Finished>,
    sequence: u16,
    /// When the oldest record came that is not in the maps yet.
    changed_at: Option<Instant>,
}

/// What woke the loop.
enum Woken {
    Record(Event),
    Host,
    Answer(Finished),
    Time,
}

impl<B: Beside> Agent<B> {
    async fn run(
        mut self,
        host: &mut Host,
        mut following: Following,
        mut answered: mpsc::Receiver<Finished>,
        ending: &tokio_util::sync::CancellationToken,
    ) {
        let (mut look_at, mut tell_at) = (Instant::now(), Instant::now());
        let mut count_at = None;
        loop {
            let probes = [self.probes.next_at(), self.paths.mtus.next_at()].into_iter().flatten();
            let wake_at = probes.chain(count_at).chain([look_at, tell_at]).min().unwrap_or(look_at);
            let woken = tokio::select! {
                () = ending.cancelled() => return self.keep_last(),
                event = following.events.recv() => match event {
                    Some(event) => Woken::Record(event),
                    None => return,
                },
                changed = host.changed() => {
                    if let Err(error) = changed {
                        warn!(%error, "Cannot watch the CNI's results; they are read at every look");
                    }
                    Woken::Host
                }
                Some(finished) = answered.recv() => Woken::Answer(finished),
                () = sleep_until(wake_at.into()) => Woken::Time,
            };
            let now = Instant::now();
            match woken {
                Woken::Record(event) => {
                    if self.take(event) {
                        self.changed_at.get_or_insert(now);
                        look_at = look_at.min(now + GATHER);
                        if self.view.is_complete() && self.beside.look(&self.view) == Then::Relist {
                            following.relist();
                        }
                    }
                }
                Woken::Host => look_at = look_at.min(now + GATHER),
                Woken::Answer(Finished::Small(target, rtt)) => {
                    if self.probes.finished(now, &target, rtt) {
                        tell_at = now;
                    }
                }
                Woken::Answer(Finished::Padded(sent, answered)) => {
                    if self.measure_path(now, &sent, answered) {
                        look_at = look_at.min(now + GATHER);
                    }
                }
                Woken::Time => {}
            }
            let is_over = |at| now >= at;
            if count_at.is_some_and(is_over) && self.count(now, host).await {
                look_at = now;
            }
            if self.judge_silence(now) {
                look_at = look_at.min(now + GATHER);
            }
            if now >= look_at {
                self.program(host).await;
                look_at = Instant::now() + LOOK_EVERY;
                tell_at = now;
            }
            if count_at.is_none_or(is_over) {
                let on_demand = self.composed.tunnels.values().any(TunnelTo::is_on_demand);
                count_at = on_demand.then(|| Instant::now() + demand::LOOK_EVERY);
            }
            self.ask(now);
            if now >= tell_at {
                self.keep(now);
                self.tell(now);
                tell_at = now + TELL_EVERY;
            }
        }
    }

    /// True when the image may have changed.
    fn take(&mut self, event: Event) -> bool {
        match &event {
            Event::Disconnected { error, retry_in, .. } => {
                self.connected = false;
                warn!(error, ?retry_in, "Lost the apiserver; the maps stay as they are");
            }
            Event::InitDone { .. } | Event::Resumed { .. } => self.connected = true,
            Event::Init
            | Event::InitApply(_)
            | Event::Apply(_)
            | Event::Delete { .. }
            | Event::Progress { .. } => {}
        }
        match self.view.apply(event) {
            Effect::Nothing => false,
            Effect::Changed => true,
            Effect::Relisted(relisted) => {
                info!(
                    revision = self.view.revision(),
                    swept = relisted.swept,
                    unconfirmed = relisted.unconfirmed,
                    "Listed the store"
                );
                true
            }
        }
    }

    /// Reads what went through the tunnels that are kept on demand; true when one of them takes another way.
    async fn count(&mut self, now: Instant, host: &Host) -> bool {
        // A device that is too busy to answer, or that is gone, says nothing about what is used.
        let Ok(device) = host.tunnels().await else { return false };
        self.composed.count(now, &device, &mut self.paths, &mut self.probes)
    }

    /// A tunnel whose probes have failed for long enough is silent, whatever the control plane knows.
    fn judge_silence(&mut self, now: Instant) -> bool {
        let silent = self.composed.silent(now, &self.probes);
        let changed = silent != self.paths.silent;
        if changed {
            info!(?silent, "Tunnels that are silent");
            self.paths.silent = silent;
        }
        changed
    }

    /// True when the path to a node carries more or less than was known.
    fn measure_path(&mut self, now: Instant, sent: &Padded, answered: bool) -> bool {
        let changed = self.paths.mtus.finished(now, sent, answered, &self.probes);
        if changed {
            let Target { cluster, node, .. } = &sent.target;
            let mtu_bytes = self.paths.mtus.mtu_bytes(&sent.target, u16::MAX);
            info!(%cluster, %node, mtu_bytes, tried_bytes = sent.bytes, answered, "The path's MTU is another");
        }
        changed
    }

    /// Our own mesh address of the family of another.
    fn source_to(&self, address: IpAddr) -> Option<IpAddr> {
        let mut own = self.composed.image.mesh_addresses.iter().copied();
        own.find(|own| own.is_ipv4() == address.is_ipv4())
    }

    fn ask(&mut self, now: Instant) {
        for padded in self.paths.mtus.due(now, &self.probes) {
            let source = self.source_to(padded.target.address);
            self.sequence = self.sequence.wrapping_add(1);
            let (answers, sequence) = (self.answers.clone(), self.sequence);
            tokio::spawn(async move {
                let answered = match source {
                    Some(source) => path_mtu::ask(source, &padded, sequence).await.unwrap_or_else(|error| {
                        debug!(%error, %source, bytes = padded.bytes, "Cannot send a padded probe");
                        false
                    }),
                    None => false,
                };
                // The loop ends before its probes do.
                let _ = answers.send(Finished::Padded(padded, answered)).await;
            });
        }
        for target in self.probes.due(now) {
            let source = self.source_to(target.address);
            self.sequence = self.sequence.wrapping_add(1);
            let (answers, sequence) = (self.answers.clone(), self.sequence);
            tokio::spawn(async move {
                let rtt = match source {
                    Some(source) => {
                        probe::ask(source, target.address, sequence).await.unwrap_or_else(|error| {
                            warn!(%error, %source, "Cannot send a probe");
                            None
                        })
                    }
                    None => None,
                };
                // The loop ends before its probes do.
                let _ = answers.send(Finished::Small(target, rtt)).await;
            });
        }
    }

    fn tell(&mut self, now: Instant) {
        let told = report::told_epoch(&self.view, &self.node, &self.key);
        self.key.clock_epoch = self.clock.look(unix_ms(), told);
        if self.basis == Basis::Pins {
            return;
        }
        let applied = report::applied(
            &self.view,
            &self.composed,
            &self.measured,
            &self.probes,
            &self.progress,
            (now, unix_ms()),
        );
        self.metrics.told(&applied);
        let mut wishes = Wishes::from([(LocalKey::Applied(self.node.clone()).into(), applied.into())]);
        wishes.extend(report::key(&self.view, &self.node, &self.key));
        wishes.extend(self.beside.wishes());
        self.wishes.send_replace(wishes);
    }
}
