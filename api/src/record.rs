//! Records: one small fact each, valid once parsed.
//!
//! [`Record::decode`] is the boundary. A value that breaks a rule is refused whole, with the field's name; a field that
//! this version does not know is ignored.

mod cluster;
mod node;
mod peer;
mod vm;
mod wire;
mod workload;

pub use cluster::{Boot, Cluster, Heartbeat, Lineage, Peering, Phase, Synced};
pub use node::{Applied, AppliedCluster, AppliedProgram, Node, Tunnel, TunnelKey};
pub use peer::{Closed, Freshness, ImportState, PeerState, Refusal, StalePolicy, Way};
pub use vm::{Presence, Processes, Program, Served, ServedHealth, Vm};
pub use wire::RecordError;
pub use workload::{Affinity, Backend, Endpoint, Identity, NamedPort, Namespace, Protocol, Service};

use crate::key::{Key, LocalKey, MeshKey};

/// The value under a key, of the kind that the key says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Record {
    /// Of `cluster`.
    Cluster(Cluster),
    /// Of `heartbeat`.
    Heartbeat(Heartbeat),
    /// Of `lineage`.
    Lineage(Lineage),
    /// Of `synced/…`.
    Synced(Synced),
    /// Of `peerings/…`.
    Peering(Peering),
    /// Of `nodes/…`.
    Node(Node),
    /// Of `keys/…`.
    TunnelKey(TunnelKey),
    /// Of `namespaces/…`.
    Namespace(Namespace),
    /// Of `identities/…`.
    Identity(Identity),
    /// Of `endpoints/…`.
    Endpoint(Endpoint),
    /// Of `services/…`.
    Service(Service),
    /// Of `backends/…`.
    Backend(Backend),
    /// Of `applied/…`.
    Applied(Applied),
    /// Of `peers/…`.
    PeerState(PeerState),
    /// Of `imports/…`.
    ImportState(ImportState),
    /// Of `closed/…`.
    Closed(Closed),
    /// Of `vms/…`.
    Vm(Vm),
    /// Of `presence/…`.
    Presence(Presence),
}

macro_rules! conversions {
    ($($variant:ident),*) => {$(
        impl From<$variant> for Record {
            fn from(record: $variant) -> Self {
                Self::$variant(record)
            }
        }

        impl $variant {
            /// Parses the value of a key of this kind.
            ///
            /// # Errors
            /// [`RecordError`] names the field that breaks a rule.
            pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
                wire::decode(bytes)
            }

            /// The bytes under the key; the same record always gives the same bytes.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                wire::encode(self)
            }
        }
    )*

        impl Record {
            /// The bytes under the key; the same record always gives the same bytes.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                match self {
                    $(Self::$variant(record) => record.encode(),)*
                }
            }
        }
    };
}

conversions!(
    Cluster,
    Heartbeat,
    Lineage,
    Synced,
    Peering,
    Node,
    TunnelKey,
    Namespace,
    Identity,
    Endpoint,
    Service,
    Backend,
    Applied,
    PeerState,
    ImportState,
    Closed,
    Vm,
    Presence
);

impl Record {
    /// Parses the value under `key`.
    ///
    /// # Errors
    /// [`RecordError`] when the value is too large, no message of its kind, or breaks a rule of a field.
    pub fn decode(key: &Key, bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(match key {
            Key::Mesh(_, key) => match key {
                MeshKey::Cluster => Self::Cluster(wire::decode(bytes)?),
                MeshKey::Heartbeat => Self::Heartbeat(wire::decode(bytes)?),
                MeshKey::Lineage => Self::Lineage(wire::decode(bytes)?),
                MeshKey::Synced(_) => Self::Synced(wire::decode(bytes)?),
                MeshKey::Peering(_) => Self::Peering(wire::decode(bytes)?),
                MeshKey::Node(_) => Self::Node(wire::decode(bytes)?),
                MeshKey::Key(_) => Self::TunnelKey(wire::decode(bytes)?),
                MeshKey::Namespace(_) => Self::Namespace(wire::decode(bytes)?),
                MeshKey::Identity(..) => Self::Identity(wire::decode(bytes)?),
                MeshKey::Endpoint(..) => Self::Endpoint(wire::decode(bytes)?),
                MeshKey::Service(..) => Self::Service(wire::decode(bytes)?),
                MeshKey::Backend(..) => Self::Backend(wire::decode(bytes)?),
            },
            Key::Local(key) => match key {
                LocalKey::Service(..) => Self::Service(wire::decode(bytes)?),
                LocalKey::Backend(..) => Self::Backend(wire::decode(bytes)?),
                LocalKey::Applied(_) => Self::Applied(wire::decode(bytes)?),
                LocalKey::Peer(_) => Self::PeerState(wire::decode(bytes)?),
                LocalKey::Import(_) => Self::ImportState(wire::decode(bytes)?),
                LocalKey::Closed(_) => Self::Closed(wire::decode(bytes)?),
                LocalKey::Vm(_) => Self::Vm(wire::decode(bytes)?),
                LocalKey::Presence(_) => Self::Presence(wire::decode(bytes)?),
            },
        })
    }
}

#[cfg(test)]
mod tests;
