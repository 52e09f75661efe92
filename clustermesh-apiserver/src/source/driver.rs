//! The loop from listings to what the cluster should announce.

use super::{
    index::{Desired, Facts, Index, Notice},
    kubernetes::{self, Events},
    manifests::directory,
    memory::{self, Memory},
    object::{Body, Object, ObjectKey},
    snapshot::{Found, Listing, Place, Problem, Snapshot, Version, news},
};
use crate::{keep::Keep, readiness_gate::TAINT, vms::presence::VmStates};
use api::{
    name::{ClusterName, NodeName},
    peer::MeshPeer,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Time between attempts to write the memory when the disk refuses.
const RETRY: Duration = Duration::from_secs(1);

/// Where the objects are.
#[derive(Clone)]
pub enum Origin {
    /// Files of a directory.
    Directory(PathBuf),
    /// The Kubernetes API.
    Kubernetes(kubernetes::Config),
}

/// Where a source reads, and what its objects mean.
#[derive(Clone)]
pub struct Config {
    /// Where the objects are.
    pub origin: Origin,
    /// Where what no source can rebuild is kept.
    pub keep: Keep,
    /// What the meaning of objects depends on.
    pub facts: Facts,
    /// Where mesh addresses come from.
    pub mesh_cidrs: Vec<IpNet>,
}

/// A MeshPeer object of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerObject {
    /// What it says.
    pub peer: MeshPeer,
    /// Where it stands.
    pub place: Place,
    /// Which one it is, where that can be said.
    pub version: Option<Version>,
}

/// What the source says now.
#[derive(Debug, Clone)]
pub struct State {
    /// The records that our objects ask for, and what could not be done.
    pub desired: Arc<Desired>,
    /// The peerings.
    pub peers: Arc<BTreeMap<ClusterName, PeerObject>>,
    /// Where each VM's object stands.
    pub vm_places: Arc<BTreeMap<NodeName, Place>>,
    /// What is wrong with documents.
    pub problems: Arc<Vec<Problem>>,
    /// Of all nodes: tunnel endpoints are never mesh destinations.
    pub node_addresses: Arc<Vec<IpAddr>>,
    /// Nodes that wait for their agents: see [`crate::readiness_gate`].
    pub tainted: BTreeSet<NodeName>,
    /// When the source was last known to be current.
    pub read_at: Instant,
    /// What anybody wrote into the source before this moment is in here; none where nobody can say so.
    pub includes: Option<Instant>,
    /// When we saw that the objects are these.
    pub changed_at: Instant,
}

/// Follows the source until cancelled. The receiver holds nothing before the first complete list. `vms` says how the VMs are.
///
/// # Errors
/// When there is a memory that cannot be read: going on would give every node another address.
pub fn spawn(
    config: Config,
    vms: watch::Receiver<VmStates>,
    cancel: CancellationToken,
) -> anyhow::Result<watch::Receiver<Option<State>>> {
    let memory = Memory::load(&config.keep.path(memory::FILE))?;
    let (listings, events) = match &config.origin {
        Origin::Directory(directory) => (directory::spawn(directory.clone(), cancel.clone()), None),
        Origin::Kubernetes(kubernetes) => {
            let events = kubernetes.events.clone();
            (kubernetes::spawn(kubernetes.clone(), cancel.clone()), Some(events))
        }
    };
    let (states, receiver) = watch::channel(None);
    tokio::spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = follow(config, memory, (listings, vms), events, states) => {}
        }
    });
    Ok(receiver)
}

async fn follow(
    config: Config,
    mut memory: Memory,
    (mut listings, mut vms): (watch::Receiver<Option<Listing>>, watch::Receiver<VmStates>),
    events: Option<Events>,
    states: watch::Sender<Option<State>>,
) {
    let config = Arc::new(config);
    let mut last: Option<(Listing, State)> = None;
    loop {
        let (more, vms_changed) = tokio::select! {
            changed = listings.changed() => (changed.is_ok(), false),
            // Whoever looks after the VMs ends before us, and they stay as they are.
            Ok(()) = vms.changed() => (true, true),
        };
        if !more {
            return;
        }
        let Some(listing) = listings.borrow_and_update().clone() else { continue };
        if let Some((before, state)) = &mut last
            && Arc::ptr_eq(&before.snapshot, &listing.snapshot)
            && !vms_changed
        {
            state.read_at = listing.read_at;
            state.includes = listing.includes;
            states.send_replace(Some(state.clone()));
            continue;
        }
        let states_of_vms = vms.borrow_and_update().clone();
        let (state, remembered) = compute_aside(&config, &memory, &listing, &states_of_vms).await;
        if remembered != memory {
            // An address that others may learn is kept before anybody does.
            while let Err(error) = config.keep.write(memory::FILE, &remembered.to_bytes()).await {
                error!(
                    error = format!("{error:#}"),
                    "Cannot remember mesh addresses; nothing new is announced"
                );
                tokio::time::sleep(RETRY).await;
            }
            memory = remembered;
        }
        let before = last.as_ref().map(|(_, state)| state);
        report(before.map_or(&[], |before| &before.desired.notices), &state.desired.notices);
        if let Some(events) = &events {
            say(events, before, &state, &listing.snapshot);
        }
        last = Some((listing, state.clone()));
        states.send_replace(Some(state));
    }
}

/// Its time grows with the cluster, half a second for 100,000 pods: on one of the runtime's own threads it would hold up
/// watches, heartbeats and whoever waits for an answer.
async fn compute_aside(
    config: &Arc<Config>,
    memory: &Memory,
    listing: &Listing,
    vms: &VmStates,
) -> (State, Memory) {
    let (config, memory) = (Arc::clone(config), memory.clone());
    let (listing, vms) = (listing.clone(), vms.clone());
    let computed = tokio::task::spawn_blocking(move || compute(&config, &memory, &listing, &vms)).await;
    computed.expect("nothing in there panics or is cancelled")
}

fn compute(config: &Config, memory: &Memory, listing: &Listing, vms: &VmStates) -> (State, Memory) {
    let changed_at = Instant::now();
    let mut memory = memory.clone();
    let snapshot = &listing.snapshot;
    let now_s = unix_s();
    let objects = memory.objects(snapshot, config.facts.uuid, now_s);
    let (mesh, exhausted) = memory.allocate(&objects, &config.mesh_cidrs, now_s);
    for full in exhausted {
        warn!(holder = %full.holder, range = %full.range, "No mesh address is left for this node, VM or program: give `init` a larger range");
    }
    let (peers, node_addresses, tainted) =
        (peers(&objects, listing), node_addresses(&objects), tainted(&objects));
    let mut index = Index::default();
    index.replace(objects);
    let desired = index.desired(&config.facts, &mesh, vms);
    let place = |key| snapshot.objects.get(key).map(|found: &Found| found.place.clone());
    let vm_places = desired.vms.iter().filter_map(|(name, vm)| Some((name.clone(), place(&vm.object)?)));
    let state = State {
        peers: Arc::new(peers),
        vm_places: Arc::new(vm_places.collect()),
        problems: Arc::new(snapshot.problems.clone()),
        node_addresses: Arc::new(node_addresses),
        tainted,
        desired: Arc::new(desired),
        read_at: listing.read_at,
        includes: listing.includes,
        changed_at,
    };
    (state, memory)
}

fn peers(objects: &BTreeMap<ObjectKey, Object>, listing: &Listing) -> BTreeMap<ClusterName, PeerObject> {
    let of = |(key, object): (&ObjectKey, &Object)| match &object.body {
        Body::Peer(peer) => {
            let found = listing.snapshot.objects.get(key)?;
            let (place, version) = (found.place.clone(), found.version.clone());
            let entry = PeerObject { peer: (**peer).clone(), place, version };
            Some((peer.metadata.name.clone(), entry))
        }
        Body::Node(_)
        | Body::Namespace(_)
        | Body::Pod(_)
        | Body::Service(_)
        | Body::Slice(_)
        | Body::Vm(_) => None,
    };
    objects.iter().filter_map(of).collect()
}

fn node_addresses(objects: &BTreeMap<ObjectKey, Object>) -> Vec<IpAddr> {
    let of = |object: &Object| match &object.body {
        Body::Node(node) => node.internal_ips.clone(),
        Body::Namespace(_)
        | Body::Pod(_)
        | Body::Service(_)
        | Body::Slice(_)
        | Body::Peer(_)
        | Body::Vm(_) => Vec::new(),
    };
    objects.values().flat_map(of).collect()
}

fn tainted(objects: &BTreeMap<ObjectKey, Object>) -> BTreeSet<NodeName> {
    let waits = |(key, object): (&ObjectKey, &Object)| match &object.body {
        Body::Node(node) if node.taints.contains(TAINT) => key.name.as_str().parse().ok(),
        Body::Node(_)
        | Body::Namespace(_)
        | Body::Pod(_)
        | Body::Service(_)
        | Body::Slice(_)
        | Body::Peer(_)
        | Body::Vm(_) => None,
    };
    objects.iter().filter_map(waits).collect()
}

/// What is wrong since now, to those who wrote the objects.
fn say(events: &Events, last: Option<&State>, now: &State, snapshot: &Snapshot) {
    let problems = last.map_or(&[][..], |last| &last.problems);
    for problem in news(problems, &now.problems) {
        events.problem(problem, snapshot);
    }
    let notices = last.map_or(&[][..], |last| &last.desired.notices);
    for notice in news(notices, &now.desired.notices) {
        events.warn(&notice.object, snapshot, "MeshConflict", notice.text.clone());
    }
}

fn report(known: &[Notice], now: &[Notice]) {
    for notice in news(known, now) {
        warn!("{notice}");
    }
    for notice in news(now, known) {
        info!(object = %notice.object, "No longer: {}", notice.text);
    }
}

/// Unix time in seconds.
#[must_use]
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
