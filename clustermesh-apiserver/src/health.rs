//! What a scrape of `/metrics` says: read from the state at that moment.

use crate::{backend::Engine, face::Doors, peers, pipes::Reach, publish::Published, source::driver::State};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::{
    fmt,
    sync::{Arc, OnceLock},
};
use tokio::sync::watch;

/// The state behind the metrics, once there is one: the port answers before the store is open.
#[derive(Clone, Default)]
pub struct Metrics(Arc<OnceLock<Sources>>);

/// Where the figures come from.
pub struct Sources {
    /// The store.
    pub engine: Engine,
    /// Who comes in.
    pub doors: Doors,
    /// What the source said last.
    pub source: watch::Receiver<Option<State>>,
    /// What the publisher did last.
    pub published: watch::Receiver<Published>,
    /// How the peerings are.
    pub peers: watch::Receiver<peers::Status>,
    /// How they are reached, and through us.
    pub reach: Reach,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Shows them in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// From now on there is something to show.
    pub fn begin(&self, sources: Sources) {
        // Called once, by the one composition root; a second call would show the same things.
        self.0.set(sources).ok();
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

#[allow(clippy::cast_precision_loss, reason = "a metric is a double; sizes stay below 2^53")]
impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(Sources { engine, doors, source, published, peers, reach }) = self.0.get() else {
            return Ok(());
        };
        let e = &mut encoder;
        let stats = engine.stats();
        gauge(e, "mesh_apiserver_store_revision", "Newest durable revision", stats.store.revision as f64)?;
        gauge(
            e,
            "mesh_apiserver_store_compacted_revision",
            "Oldest readable revision",
            stats.store.compacted as f64,
        )?;
        gauge(
            e,
            "mesh_apiserver_store_keys",
            "Keys, deleted ones until compaction included",
            stats.store.keys as f64,
        )?;
        gauge(e, "mesh_apiserver_store_bytes", "Bytes of all versions in memory", stats.store.bytes as f64)?;
        gauge(
            e,
            "mesh_apiserver_store_history_bytes",
            "Bytes of the history",
            stats.store.history_bytes as f64,
        )?;
        gauge(e, "mesh_apiserver_store_watches", "Open watches", stats.watchers as f64)?;
        gauge(e, "mesh_apiserver_store_queued_requests", "Writes that wait", stats.queued as f64)?;
        counter(e, "mesh_apiserver_store_writes", "Writes answered since the start", stats.requests as f64)?;
        counter(e, "mesh_apiserver_store_syncs", "Syncs to disk since the start", stats.syncs as f64)?;
        let seconds = stats.sync_time.as_secs_f64();
        counter(e, "mesh_apiserver_store_sync_seconds", "Time spent writing and syncing", seconds)?;
        let (problems, notices, age) = match source.borrow().as_ref() {
            Some(state) => {
                (state.problems.len(), state.desired.notices.len(), state.read_at.elapsed().as_secs_f64())
            }
            None => (0, 0, f64::INFINITY),
        };
        gauge(e, "mesh_apiserver_source_problems", "Documents that cannot be used", problems as f64)?;
        gauge(e, "mesh_apiserver_source_conflicts", "Conflicts among the source's objects", notices as f64)?;
        gauge(e, "mesh_apiserver_source_age_seconds", "Time since the source was known to be current", age)?;
        let published = *published.borrow();
        gauge(
            e,
            "mesh_apiserver_published_records",
            "Records of ours in the store",
            published.records as f64,
        )?;
        counter(e, "mesh_apiserver_published_operations", "Changes published", published.operations as f64)?;
        let (in_force, conflicts) = {
            let status = peers.borrow();
            (status.in_force.len(), status.conflicts.len())
        };
        gauge(e, "mesh_apiserver_peers", "Peerings in force", in_force as f64)?;
        gauge(
            e,
            "mesh_apiserver_peer_conflicts",
            "MeshPeer objects not in force as they stand",
            conflicts as f64,
        )?;
        let (idle, relays) = (reach.idle() as f64, reach.relays());
        gauge(e, "mesh_apiserver_pipes_idle", "Pipes that peers keep here for us to reach them", idle)?;
        let open = relays.open() as f64;
        gauge(e, "mesh_apiserver_relayed_pipes", "Pipes between peers that are open through us", open)?;
        let bytes = relays.bytes() as f64;
        counter(e, "mesh_apiserver_relayed_bytes", "Bytes passed on between peers since the start", bytes)?;
        let seen = doors.seen();
        counter(
            e,
            "mesh_apiserver_connections",
            "Connections accepted since the start",
            seen.accepted as f64,
        )?;
        let refused = seen.refused_connections as f64;
        counter(e, "mesh_apiserver_refused_connections", "Connections refused at the handshake", refused)?;
        counter(
            e,
            "mesh_apiserver_refused_calls",
            "Calls and watches refused by the table",
            seen.refused_calls as f64,
        )
    }
}
