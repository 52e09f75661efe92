//! The key space. It is the contract: `mesh/v1/<cluster>/…` travels, `mesh-local/v1/…` never leaves the cluster.
//!
//! With the cluster first, a peer is one prefix: one list, one watch, one sweep, one grant.

use crate::{
    bytes::{BadLength, IdentityId},
    name::{BadName, ClusterName, NamespaceName, NodeName, ServiceName},
};
use std::{fmt, net::IpAddr, str::FromStr};

/// Everything that travels lies under this prefix.
pub const MESH: &str = "mesh/v1/";
/// What never leaves the cluster.
pub const LOCAL: &str = "mesh-local/v1/";

/// A valid key: one place for one fact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `mesh/v1/<cluster>/…`
    Mesh(ClusterName, MeshKey),
    /// `mesh-local/v1/…`
    Local(LocalKey),
}

/// The part after `mesh/v1/<cluster>/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MeshKey {
    /// `cluster`
    Cluster,
    /// `heartbeat`
    Heartbeat,
    /// `lineage`
    Lineage,
    /// `synced/<kind>`
    Synced(Kind),
    /// `peerings/<peer>`
    Peering(ClusterName),
    /// `nodes/<node>`
    Node(NodeName),
    /// `keys/<node>`
    Key(NodeName),
    /// `namespaces/<ns>`
    Namespace(NamespaceName),
    /// `identities/<ns>/<id>`
    Identity(NamespaceName, IdentityId),
    /// `endpoints/<ns>/<ip>`
    Endpoint(NamespaceName, IpAddr),
    /// `services/<ns>/<name>`
    Service(NamespaceName, ServiceName),
    /// `backends/<ns>/<name>/<ip>`
    Backend(NamespaceName, ServiceName, IpAddr),
}

/// The part after `mesh-local/v1/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LocalKey {
    /// `services/<ns>/<name>`: a Service that is not exported.
    Service(NamespaceName, ServiceName),
    /// `backends/<ns>/<name>/<ip>`: a backend of a Service that is not exported.
    Backend(NamespaceName, ServiceName, IpAddr),
    /// `applied/<node>`: written by the node.
    Applied(NodeName),
    /// `peers/<peer>`: our verdict about a peer.
    Peer(ClusterName),
    /// `imports/<peer>`: what its import counted.
    Import(ClusterName),
    /// `closed/<peer>`: prefixes that stay closed after a disconnect.
    Closed(ClusterName),
    /// `vms/<vm>`: what a VM may read, and what it serves.
    Vm(NodeName),
    /// `presence/<vm>`: that a VM is there, written by itself.
    Presence(NodeName),
}

/// The kinds of record under `mesh/v1/<cluster>/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `cluster`
    Cluster,
    /// `heartbeat`
    Heartbeat,
    /// `lineage`
    Lineage,
    /// `synced`
    Synced,
    /// `peerings`
    Peerings,
    /// `nodes`
    Nodes,
    /// `keys`
    Keys,
    /// `namespaces`
    Namespaces,
    /// `identities`
    Identities,
    /// `endpoints`
    Endpoints,
    /// `services`
    Services,
    /// `backends`
    Backends,
}

impl Kind {
    /// Every kind, in the order of the table in ARCHITECTURE.md.
    pub const ALL: [Self; 12] = [
        Self::Cluster,
        Self::Heartbeat,
        Self::Lineage,
        Self::Synced,
        Self::Peerings,
        Self::Nodes,
        Self::Keys,
        Self::Namespaces,
        Self::Identities,
        Self::Endpoints,
        Self::Services,
        Self::Backends,
    ];

    /// As it stands in a key.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Heartbeat => "heartbeat",
            Self::Lineage => "lineage",
            Self::Synced => "synced",
            Self::Peerings => "peerings",
            Self::Nodes => "nodes",
            Self::Keys => "keys",
            Self::Namespaces => "namespaces",
            Self::Identities => "identities",
            Self::Endpoints => "endpoints",
            Self::Services => "services",
            Self::Backends => "backends",
        }
    }
}

impl FromStr for Kind {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(KeyError::Unknown)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why bytes are not a key of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A kind or shape this version does not know: ignored, never passed on.
    #[error("no kind of record lives under this key")]
    Unknown,
    /// Not UTF-8, or longer than [`crate::KEY_MAX_BYTES`].
    #[error("the key is not UTF-8 text of at most {} bytes", crate::KEY_MAX_BYTES)]
    NotText,
    /// A part is not a valid name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A part is not an identity.
    #[error(transparent)]
    Length(#[from] BadLength),
    /// A part is not an address in its one form (RFC 5952; IPv4 never mapped).
    #[error("`{0}` is not an IP address in its canonical form")]
    Address(String),
}

/// One text an address: `::ffff:1.2.3.4`, `2001:0db8::` and `1.2.3.04` would be second keys of the same thing.
fn address(text: &str) -> Result<IpAddr, KeyError> {
    let bad = || KeyError::Address(text.chars().take(64).collect());
    let ip: IpAddr = text.parse().map_err(|_| bad())?;
    if ip.to_string() == text && ip.to_canonical() == ip { Ok(ip) } else { Err(bad()) }
}

impl Key {
    /// Parses a key of the store.
    ///
    /// # Errors
    /// [`KeyError::Unknown`] for a key some other version may know; the others for a malformed one.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(bytes).map_err(|_| KeyError::NotText)?;
        if text.len() > crate::KEY_MAX_BYTES {
            return Err(KeyError::NotText);
        }
        if let Some(rest) = text.strip_prefix(LOCAL) {
            return LocalKey::parse(rest).map(Self::Local);
        }
        let rest = text.strip_prefix(MESH).ok_or(KeyError::Unknown)?;
        let (cluster, rest) = rest.split_once('/').ok_or(KeyError::Unknown)?;
        Ok(Self::Mesh(cluster.parse()?, MeshKey::parse(rest)?))
    }
}

impl MeshKey {
    fn parse(rest: &str) -> Result<Self, KeyError> {
        let mut parts = rest.splitn(5, '/');
        let kind: Kind = parts.next().unwrap_or_default().parse()?;
        let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
        match (kind, parts) {
            (Kind::Cluster, [None, ..]) => Ok(Self::Cluster),
            (Kind::Heartbeat, [None, ..]) => Ok(Self::Heartbeat),
            (Kind::Lineage, [None, ..]) => Ok(Self::Lineage),
            (Kind::Synced, [Some(of), None, ..]) => Ok(Self::Synced(of.parse()?)),
            (Kind::Peerings, [Some(peer), None, ..]) => Ok(Self::Peering(peer.parse()?)),
            (Kind::Nodes, [Some(node), None, ..]) => Ok(Self::Node(node.parse()?)),
            (Kind::Keys, [Some(node), None, ..]) => Ok(Self::Key(node.parse()?)),
            (Kind::Namespaces, [Some(ns), None, ..]) => Ok(Self::Namespace(ns.parse()?)),
            (Kind::Identities, [Some(ns), Some(id), None, _]) => Ok(Self::Identity(ns.parse()?, id.parse()?)),
            (Kind::Endpoints, [Some(ns), Some(ip), None, _]) => Ok(Self::Endpoint(ns.parse()?, address(ip)?)),
            (Kind::Services, [Some(ns), Some(name), None, _]) => {
                Ok(Self::Service(ns.parse()?, name.parse()?))
            }
            (Kind::Backends, [Some(ns), Some(name), Some(ip), None]) => {
                Ok(Self::Backend(ns.parse()?, name.parse()?, address(ip)?))
            }
            (_, _) => Err(KeyError::Unknown),
        }
    }

    /// The kind of record that lives under this key.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Cluster => Kind::Cluster,
            Self::Heartbeat => Kind::Heartbeat,
            Self::Lineage => Kind::Lineage,
            Self::Synced(_) => Kind::Synced,
            Self::Peering(_) => Kind::Peerings,
            Self::Node(_) => Kind::Nodes,
            Self::Key(_) => Kind::Keys,
            Self::Namespace(_) => Kind::Namespaces,
            Self::Identity(..) => Kind::Identities,
            Self::Endpoint(..) => Kind::Endpoints,
            Self::Service(..) => Kind::Services,
            Self::Backend(..) => Kind::Backends,
        }
    }

    /// This key of one cluster.
    #[must_use]
    pub fn of(self, cluster: &ClusterName) -> Key {
        Key::Mesh(cluster.clone(), self)
    }
}

impl LocalKey {
    fn parse(rest: &str) -> Result<Self, KeyError> {
        let parts: Vec<&str> = rest.splitn(5, '/').collect();
        match parts[..] {
            ["services", ns, name] => Ok(Self::Service(ns.parse()?, name.parse()?)),
            ["backends", ns, name, ip] => Ok(Self::Backend(ns.parse()?, name.parse()?, address(ip)?)),
            ["applied", node] => Ok(Self::Applied(node.parse()?)),
            ["peers", peer] => Ok(Self::Peer(peer.parse()?)),
            ["imports", peer] => Ok(Self::Import(peer.parse()?)),
            ["closed", peer] => Ok(Self::Closed(peer.parse()?)),
            ["vms", vm] => Ok(Self::Vm(vm.parse()?)),
            ["presence", vm] => Ok(Self::Presence(vm.parse()?)),
            _ => Err(KeyError::Unknown),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh(cluster, key) => write!(f, "{MESH}{cluster}/{key}"),
            Self::Local(key) => write!(f, "{LOCAL}{key}"),
        }
    }
}

impl fmt::Display for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Self::Cluster | Self::Heartbeat | Self::Lineage => write!(f, "{kind}"),
            Self::Synced(of) => write!(f, "{kind}/{of}"),
            Self::Peering(peer) => write!(f, "{kind}/{peer}"),
            Self::Node(node) | Self::Key(node) => write!(f, "{kind}/{node}"),
            Self::Namespace(ns) => write!(f, "{kind}/{ns}"),
            Self::Identity(ns, id) => write!(f, "{kind}/{ns}/{id}"),
            Self::Endpoint(ns, ip) => write!(f, "{kind}/{ns}/{ip}"),
            Self::Service(ns, name) => write!(f, "{kind}/{ns}/{name}"),
            Self::Backend(ns, name, ip) => write!(f, "{kind}/{ns}/{name}/{ip}"),
        }
    }
}

impl fmt::Display for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(ns, name) => write!(f, "services/{ns}/{name}"),
            Self::Backend(ns, name, ip) => write!(f, "backends/{ns}/{name}/{ip}"),
            Self::Applied(node) => write!(f, "applied/{node}"),
            Self::Peer(peer) => write!(f, "peers/{peer}"),
            Self::Import(peer) => write!(f, "imports/{peer}"),
            Self::Closed(peer) => write!(f, "closed/{peer}"),
            Self::Vm(vm) => write!(f, "vms/{vm}"),
            Self::Presence(vm) => write!(f, "presence/{vm}"),
        }
    }
}

impl From<LocalKey> for Key {
    fn from(key: LocalKey) -> Self {
        Self::Local(key)
    }
}

/// `mesh/v1/<cluster>/`: all that one cluster announces.
#[must_use]
pub fn cluster_prefix(cluster: &ClusterName) -> String {
    format!("{MESH}{cluster}/")
}

#[cfg(test)]
mod tests;
