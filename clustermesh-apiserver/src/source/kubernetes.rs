//! The Kubernetes API as a source: what its objects say now, from watches of the kinds that become records.
//!
//! ```text
//!  watch of each kind ─▶ events ─▶ Fold ─▶ Snapshot       a watch that broke lists again: a missed delete is impossible
//!  GET /version, every second ─▶ when it was last known to be current
//! ```
//!
//! Invariants
//! - nothing is said before every kind's first list is complete;
//! - the snapshot is as current as the last answer of the API, while every watch stands; a watch that failed, or an API
//!   that was away, makes it older until the kind is listed again;
//! - an object that cannot be used keeps what it last said, and spoils only itself.

mod events;
mod fold;
#[cfg(test)]
mod tests;

pub use events::Events;
pub use fold::{MANAGED_BY, place, version};

use super::{
    object::ObjectKind,
    snapshot::{Listing, Problem, Snapshot, news},
};
use backon::{BackoffBuilder, ExponentialBuilder};
use daemon::health::Condition;
use fold::Fold;
use futures::StreamExt;
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::version::Info,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    runtime::watcher,
};
use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The kinds we watch; namespaces first, as a reader of the log would.
pub const KINDS: [ObjectKind; 7] = [
    ObjectKind::Namespace,
    ObjectKind::Node,
    ObjectKind::Pod,
    ObjectKind::Service,
    ObjectKind::EndpointSlice,
    ObjectKind::MeshPeer,
    ObjectKind::ExternalWorkload,
];

/// Events that wait to be folded: two pages of a list. A watch waits when it is full.
const EVENTS_MAX: usize = 1_000;

/// After a snapshot, as many times its own duration are left to events: it grows with the cluster, and they come in heaps
/// of some dozens, so that a roll-out of 10,000 pods would else be 300 snapshots of 10,000 pods. A lone change waits for
/// nobody.
const REST: u32 = 4;

/// Time between questions whether the API answers: the source's age stays well below the ten seconds after which a
/// peer calls it stale.
const PROBE: Duration = Duration::from_secs(1);

/// How long an answer may take. A control plane under load takes a second or two.
const PROBE_PATIENCE: Duration = Duration::from_secs(4);

/// How long a watch lives, in seconds, and how long a page of a list may take: one whose connection died without a word is
/// noticed after that, where no probe has noticed it before.
const WATCH_S: u32 = 60;

/// First and longest wait between attempts of a watch.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The oldest Kubernetes: it says in a token on which node its pod runs, by which agents enrol, and knows CIDRs in the rules
/// of CRDs. The chart refuses an older one, too.
const OLDEST: (u32, u32) = (1, 30);

/// How the Kubernetes API is reached.
#[derive(Clone)]
pub struct Config {
    /// With an identity that may read what we watch.
    pub client: Client,
    /// Where problems of objects are said.
    pub events: Events,
    /// Told why the first list is not complete.
    pub waiting: Condition,
}

/// Of a kind, as the API's paths name it.
#[must_use]
pub fn resource(kind: ObjectKind) -> ApiResource {
    match kind {
        ObjectKind::Node => ApiResource::erase::<core::Node>(&()),
        ObjectKind::Namespace => ApiResource::erase::<core::Namespace>(&()),
        ObjectKind::Pod => ApiResource::erase::<core::Pod>(&()),
        ObjectKind::Service => ApiResource::erase::<core::Service>(&()),
        ObjectKind::EndpointSlice => ApiResource::erase::<discovery::EndpointSlice>(&()),
        ObjectKind::MeshPeer => ApiResource {
            group: "clustermesh.io".to_owned(),
            version: "v1alpha1".to_owned(),
            api_version: api::peer::API_VERSION.to_owned(),
            kind: api::peer::KIND.to_owned(),
            plural: "meshpeers".to_owned(),
        },
        ObjectKind::ExternalWorkload => ApiResource {
            group: "clustermesh.io".to_owned(),
            version: "v1alpha1".to_owned(),
            api_version: api::peer::API_VERSION.to_owned(),
            kind: api::external_workload::KIND.to_owned(),
            plural: "externalworkloads".to_owned(),
        },
    }
}

/// What a watch tells.
type Told = watcher::Result<watcher::Event<DynamicObject>>;

/// Follows the API until cancelled. The receiver holds nothing before every kind's first complete list.
#[must_use]
pub fn spawn(config: Config, cancel: CancellationToken) -> watch::Receiver<Option<Listing>> {
    let (listings, receiver) = watch::channel(None);
    tokio::spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = follow(config, listings) => {}
        }
    });
    receiver
}

async fn follow(config: Config, listings: watch::Sender<Option<Listing>>) {
    let (events, mut told) = mpsc::channel(EVENTS_MAX);
    let (again, _) = watch::channel(());
    // They end with this future.
    let mut tasks = JoinSet::new();
    for kind in KINDS {
        let api = Api::all_with(config.client.clone(), &resource(kind));
        tasks.spawn(watch_kind(kind, api, events.clone(), again.subscribe()));
    }
    let (alive, mut answered) = watch::channel(Answer { at: Instant::now(), too_old: None });
    tasks.spawn(probe(config.client.clone(), alive));

    let mut fold = Fold::default();
    let mut failing = Failing::default();
    let mut last: Option<Arc<Snapshot>> = None;
    let mut last_answer = Instant::now();
    let mut read_at = last_answer;
    let mut due = last_answer;
    loop {
        tokio::select! {
            first = told.recv() => {
                let (kind, what) = first.expect("the watches live as long as we do");
                take(&mut fold, &mut failing, kind, what);
                // What waits belongs to the same moment: a roll-out of 10,000 pods is folded in heaps.
                for _ in 1..EVENTS_MAX {
                    let Ok((kind, what)) = told.try_recv() else { break };
                    take(&mut fold, &mut failing, kind, what);
                }
            }
            at = answer(&mut answered) => {
                let silent = at - std::mem::replace(&mut last_answer, at);
                // A question went without an answer: the watches' connections may be dead without having said so.
                if silent > PROBE_PATIENCE {
                    warn!(?silent, "The Kubernetes API was away: listing everything again");
                    fold.interrupted_all();
                    again.send_replace(());
                }
                if fold.is_current() {
                    read_at = at;
                }
            }
            () = sleep_until(due), if fold.is_complete() && fold.changed() => {}
        }
        if !fold.is_complete() {
            let too_old = answered.borrow().too_old.as_ref().map(|old| format!(" ({old})"));
            config.waiting.set(Err(failing.why(&fold) + too_old.as_deref().unwrap_or_default()));
            continue;
        }
        if fold.changed() && Instant::now() < due {
            continue;
        }
        let snapshot = match last {
            Some(last) if !fold.changed() => last,
            before => {
                let began = Instant::now();
                let now = Arc::new(fold.snapshot());
                report(before.as_deref(), &now);
                due = began + began.elapsed() * (1 + REST);
                now
            }
        };
        last = Some(Arc::clone(&snapshot));
        // That the API answers does not say that each watch has told everything.
        listings.send_replace(Some(Listing { snapshot, read_at, includes: None }));
    }
}

fn take(fold: &mut Fold, failing: &mut Failing, kind: ObjectKind, told: Told) {
    match told {
        Ok(event) => {
            if matches!(event, watcher::Event::InitDone) {
                failing.well_again(kind);
            }
            fold.apply(kind, event);
        }
        Err(error) => {
            fold.interrupted(kind);
            failing.note(kind, &error);
        }
    }
}

/// An answer of the API.
struct Answer {
    /// When it was asked for.
    at: Instant,
    /// What it says of a version that is not supported.
    too_old: Option<String>,
}

/// The moment of the last answer, when there is a newer one.
async fn answer(answered: &mut watch::Receiver<Answer>) -> Instant {
    match answered.changed().await {
        Ok(()) => answered.borrow_and_update().at,
        // The probe lives as long as we do.
        Err(_) => std::future::pending().await,
    }
}

/// One watch after the other: each begins with a complete list, in pages, and is resumed by its bookmarks.
async fn watch_kind(
    kind: ObjectKind,
    api: Api<DynamicObject>,
    told: mpsc::Sender<(ObjectKind, Told)>,
    mut again: watch::Receiver<()>,
) {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(RETRY.0)
        .with_max_delay(RETRY.1)
        .with_jitter()
        .without_max_times();
    let mut delays = backoff.build();
    loop {
        let mut events = pin!(watcher(api.clone(), watcher::Config::default().timeout(WATCH_S)));
        let mut listing = true;
        let wait = loop {
            let event = tokio::select! {
                event = events.next() => event.expect("a watch has no end"),
                // The client itself waits for a list as long as it takes.
                () = sleep(Duration::from_secs(WATCH_S.into())), if listing => {
                    warn!(kind = kind.as_str(), "A list does not get on; beginning it again");
                    break Duration::ZERO;
                }
                changed = again.changed() => match changed {
                    Ok(()) => break Duration::ZERO,
                    Err(_) => return,
                },
            };
            if matches!(event, Ok(watcher::Event::InitDone)) {
                listing = false;
                delays = backoff.build();
            }
            let failed = event.is_err();
            if told.send((kind, event)).await.is_err() {
                return;
            }
            if failed {
                break delays.next().unwrap_or(RETRY.1);
            }
        };
        // The API that is there again is not kept waiting.
        tokio::select! {
            () = sleep(wait) => {}
            changed = again.changed() => if changed.is_err() { return },
        }
    }
}

/// Asks for the version: every authenticated client may, and it costs the API nothing.
async fn probe(client: Client, alive: watch::Sender<Answer>) {
    loop {
        let at = Instant::now();
        let known = alive.borrow().too_old.clone();
        let answered = match timeout(PROBE_PATIENCE, client.apiserver_version()).await {
            Ok(Ok(version)) => Some(too_old(&version)),
            // It answers, if only to say no.
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => Some(known.clone()),
            Ok(Err(_)) | Err(_) => None,
        };
        if let Some(too_old) = answered {
            if let Some(why) = too_old.as_ref().filter(|_| too_old != known) {
                warn!(why, "This Kubernetes is not supported: going on, as far as it goes");
            }
            alive.send_replace(Answer { at, too_old });
        }
        sleep(PROBE).await;
    }
}

/// What is to be said of a version that is not supported. One that cannot be read is somebody's own, and says nothing.
fn too_old(version: &Info) -> Option<String> {
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    let found: (u32, u32) = (number(&version.major)?, number(&version.minor)?);
    let (major, minor) = OLDEST;
    (found < OLDEST).then(|| {
        format!(
            "Kubernetes {} is older than {major}.{minor}, the oldest that is supported",
            version.git_version
        )
    })
}

/// Which watches fail, and why: said once.
#[derive(Default)]
struct Failing(BTreeMap<ObjectKind, String>);

impl Failing {
    fn note(&mut self, kind: ObjectKind, error: &watcher::Error) {
        let why = explain(kind, error);
        // A history that was compacted, and a server that closes its connections, are ordinary; being told no is not.
        if self.0.get(&kind) != Some(&why) {
            warn!(kind = kind.as_str(), why, "Cannot watch; what it last said stays in force");
            self.0.insert(kind, why);
        }
    }

    fn well_again(&mut self, kind: ObjectKind) {
        if self.0.remove(&kind).is_some() {
            info!(kind = kind.as_str(), "Watching again");
        }
    }

    /// Why the first list is not complete.
    fn why(&self, fold: &Fold) -> String {
        match self.0.iter().next() {
            Some((_, why)) => why.clone(),
            None => {
                let kinds: Vec<_> = fold.incomplete().map(ObjectKind::as_str).collect();
                format!("waiting for the first list of {}", kinds.join(", "))
            }
        }
    }
}

/// What an operator has to know, and what to do about it.
fn explain(kind: ObjectKind, error: &watcher::Error) -> String {
    use watcher::Error as Watch;
    let (Watch::InitialListFailed(inner) | Watch::WatchStartFailed(inner)) = error else {
        return error.to_string();
    };
    match inner {
        kube::Error::Api(status) if status.code == 403 => {
            format!("{}; the ClusterRole that is needed stands in docs/kubernetes.md", status.message)
        }
        kube::Error::Api(status) if status.code == 404 => {
            let resource = resource(kind);
            let remedy = if resource.api_version == api::peer::API_VERSION {
                "install the CRDs of docs/kubernetes.md".to_owned()
            } else {
                format!("Kubernetes {}.{} or newer has them", OLDEST.0, OLDEST.1)
            };
            format!("the Kubernetes API has no {} in {}: {remedy}", resource.plural, resource.api_version)
        }
        kube::Error::Api(status) => format!("cannot list {}: {}", resource(kind).plural, status.message),
        inner => format!("cannot list {}: {}", resource(kind).plural, chain(inner)),
    }
}

/// An error with its causes: the outermost one says little.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

/// Logs what changed among the problems: a standing one is said once.
fn report(last: Option<&Snapshot>, now: &Snapshot) {
    let held: &[Problem] = last.map_or(&[], |last| &last.problems);
    for problem in news(held, &now.problems) {
        warn!("Object {problem}");
    }
    for problem in news(&now.problems, held) {
        info!(object = problem.object.as_ref().map(ToString::to_string), field = %problem.field, "Problem is gone");
    }
}
