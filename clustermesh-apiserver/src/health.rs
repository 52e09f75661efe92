//! What a scrape of `/metrics` says: read from the state at that moment.

use crate::{backend::Engine, publish::Published, source::driver::State};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::fmt;
use tokio::sync::watch;

/// The state behind the metrics.
pub struct Metrics {
    /// The store.
    pub engine: Engine,
    /// What the source said last.
    pub source: watch::Receiver<Option<State>>,
    /// What the publisher did last.
    pub published: watch::Receiver<Published>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Shows them in a registry.
    pub fn register(self, registry: &mut Registry) {
        registry.register_collector(Box::new(self));
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
        let e = &mut encoder;
        let stats = self.engine.stats();
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
        let (problems, notices, age) = match self.source.borrow().as_ref() {
            Some(state) => {
                (state.problems.len(), state.desired.notices.len(), state.read_at.elapsed().as_secs_f64())
            }
            None => (0, 0, f64::INFINITY),
        };
        gauge(e, "mesh_apiserver_source_problems", "Documents that cannot be used", problems as f64)?;
        gauge(e, "mesh_apiserver_source_conflicts", "Conflicts among the source's objects", notices as f64)?;
        gauge(e, "mesh_apiserver_source_age_seconds", "Time since the source was known to be current", age)?;
        let published = *self.published.borrow();
        gauge(
            e,
            "mesh_apiserver_published_records",
            "Records of ours in the store",
            published.records as f64,
        )?;
        counter(e, "mesh_apiserver_published_operations", "Changes published", published.operations as f64)
    }
}
