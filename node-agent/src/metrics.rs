//! What Prometheus scrapes: `docs/operations.md` says what to do when each moves.

use crate::{compose::Composed, kept::Outcome, report::DatapathMeasured};
use api::record::Applied;
use datapath::backend::bpf::Balancing;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Seconds a reconcile takes: from nothing to do (a few milliseconds of looking) to a whole first image.
const RECONCILE_BUCKETS: [f64; 8] = [0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Seconds until a record is in the maps: changes are gathered for 20 ms.
const PROGRAM_BUCKETS: [f64; 8] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The agent's metrics.
#[derive(Debug)]
pub struct Metrics {
    reconcile: Histogram,
    program: Histogram,
    problems: Gauge,
    services: Gauge,
    backends: Gauge,
    pods: Gauge,
    drops: Family<Reason, Gauge>,
    tunnels: Family<TunnelLabels, Gauge>,
    balancer: Family<Kind, Gauge>,
    start: Gauge<f64, AtomicU64>,
    kept_at: Gauge<f64, AtomicU64>,
    kept_bytes: Gauge,
    kept_failures: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TunnelLabels {
    cluster: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

impl Metrics {
    /// The metrics and the registry that shows them.
    pub fn new() -> (Self, Registry) {
        let metrics = Self {
            reconcile: Histogram::new(RECONCILE_BUCKETS),
            program: Histogram::new(PROGRAM_BUCKETS),
            problems: Gauge::default(),
            services: Gauge::default(),
            backends: Gauge::default(),
            pods: Gauge::default(),
            drops: Family::default(),
            tunnels: Family::default(),
            balancer: Family::default(),
            start: Gauge::default(),
            kept_at: Gauge::default(),
            kept_bytes: Gauge::default(),
            kept_failures: Counter::default(),
        };
        let mut registry = Registry::with_prefix("mesh_agent");
        registry.register_with_unit(
            "reconcile",
            "Time to compare and program the data path",
            Unit::Seconds,
            metrics.reconcile.clone(),
        );
        registry.register_with_unit(
            "program",
            "From a record's arrival to what it asks for in the maps: the last stage of a change's propagation",
            Unit::Seconds,
            metrics.program.clone(),
        );
        registry.register("problems", "What does not hold now", metrics.problems.clone());
        registry.register("services", "Frontends in the maps", metrics.services.clone());
        registry.register("backends", "Backends in the maps", metrics.backends.clone());
        registry.register("pods", "Pods of this node that the mesh can reach", metrics.pods.clone());
        registry.register(
            "drops",
            "Packets and connections refused since the maps were made, by reason",
            metrics.drops.clone(),
        );
        registry.register(
            "tunnels",
            "Tunnels by cluster and by what the last probes showed",
            metrics.tunnels.clone(),
        );
        registry.register("balancer", "1 for what balances Services", metrics.balancer.clone());
        registry.register_with_unit(
            "start",
            "From the start of this process to its first complete view in the maps; 0: not there yet",
            Unit::Seconds,
            metrics.start.clone(),
        );
        registry.register_with_unit(
            "kept_view_timestamp",
            "When the view on the disk was live, Unix time; 0: this process has not written one",
            Unit::Seconds,
            metrics.kept_at.clone(),
        );
        registry.register_with_unit(
            "kept_view",
            "Size of the view on the disk, as this process wrote it",
            Unit::Bytes,
            metrics.kept_bytes.clone(),
        );
        registry.register(
            "kept_view_failures",
            "Views that could not be written to the disk",
            metrics.kept_failures.clone(),
        );
        (metrics, registry)
    }

    /// What balances Services.
    pub fn balances(&self, balancing: Balancing) {
        self.balancer.get_or_create(&Kind { kind: balancing.name() }).set(1);
    }

    /// The first complete view is in the maps.
    pub fn started(&self, took: Duration) {
        self.start.set(took.as_secs_f64());
    }

    /// What was received this long ago is in the maps.
    pub fn propagated(&self, took: Duration) {
        self.program.observe(took.as_secs_f64());
    }

    /// How the last views came to the disk.
    pub fn kept(&self, outcome: &Outcome) {
        self.kept_at.set(outcome.at_ms.map_or(0.0, |ms| Duration::from_millis(ms).as_secs_f64()));
        self.kept_bytes.set(signed(outcome.bytes as u64));
        self.kept_failures.inner().store(outcome.failures, Ordering::Relaxed);
    }

    /// After a reconcile.
    pub fn programmed(&self, took: Duration, composed: &Composed, measured: &DatapathMeasured) {
        self.reconcile.observe(took.as_secs_f64());
        self.pods.set(signed(composed.image.pods.len() as u64));
        for (reason, count) in &measured.drops {
            self.drops.get_or_create(&Reason { reason: reason.clone() }).set(signed(*count));
        }
    }

    /// After a report.
    pub fn told(&self, applied: &Applied) {
        self.problems.set(signed(applied.problems.len() as u64));
        self.services.set(signed(applied.services));
        self.backends.set(signed(applied.backends));
        // A cluster that went takes its label with it.
        self.tunnels.clear();
        for tunnel in &applied.tunnels {
            let state = match (tunnel.probe_failed, tunnel.rtt_us) {
                (true, _) => "silent",
                (false, Some(_)) => "up",
                (false, None) => "unknown",
            };
            self.tunnels.get_or_create(&TunnelLabels { cluster: tunnel.cluster.to_string(), state }).inc();
        }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
