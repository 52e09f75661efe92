//! How long a change takes through this apiserver, stage by stage.
//!
//! Clocks of machines differ, so each stage is measured by one monotonic clock, and nobody's time of day is believed: the
//! source said it → it is durable here (`publish`); a peer said it → it is durable here (`import`); the agents measure the
//! last stage, to their maps. Their sum is the propagation of a change, but for the network's part.

use api::name::ClusterName;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Seconds: a change takes some milliseconds, the first list of a large cluster some seconds.
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];

/// The histograms. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct Propagation {
    publish: Histogram,
    import: Family<Peer, Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Peer {
    peer: String,
}

impl Default for Propagation {
    fn default() -> Self {
        let make: fn() -> Histogram = || Histogram::new(BUCKETS);
        Self { publish: make(), import: Family::new_with_constructor(make) }
    }
}

impl Propagation {
    /// Shows them in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "mesh_apiserver_publish",
            "From a change of the source, seen here, to durable in the store",
            Unit::Seconds,
            self.publish.clone(),
        );
        registry.register_with_unit(
            "mesh_apiserver_import",
            "From a peer's change, received here, to durable in the store",
            Unit::Seconds,
            self.import.clone(),
        );
    }

    /// Of our own changes.
    #[must_use]
    pub fn publish(&self) -> Histogram {
        self.publish.clone()
    }

    /// Of a peer's changes.
    #[must_use]
    pub fn import(&self, peer: &ClusterName) -> Histogram {
        self.import.get_or_create(&Peer { peer: peer.to_string() }).clone()
    }
}
