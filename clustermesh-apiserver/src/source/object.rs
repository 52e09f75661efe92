//! What the index knows of a Kubernetes object: only what becomes a record, parsed and valid.

use api::{
    bytes::{ClusterUuid, Uid},
    external_workload::Serve,
    name::{NamespaceName, NodeName, ObjectName, ProgramName, ServiceName},
    peer::MeshPeer,
    record::{Affinity, NamedPort, Processes},
};
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

/// The kinds of object a source may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `v1`
    Node,
    /// `v1`
    Namespace,
    /// `v1`
    Pod,
    /// `v1`
    Service,
    /// `discovery.k8s.io/v1`
    EndpointSlice,
    /// `clustermesh.io/v1alpha1`
    MeshPeer,
    /// `clustermesh.io/v1alpha1`
    ExternalWorkload,
}

impl ObjectKind {
    /// As `kind` says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::MeshPeer => "MeshPeer",
            Self::ExternalWorkload => "ExternalWorkload",
        }
    }
}

/// Which object: two documents with the same key are the same object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// What it is.
    pub kind: ObjectKind,
    /// None for objects of the cluster.
    pub namespace: Option<NamespaceName>,
    /// `metadata.name`
    pub name: ObjectName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.as_str(), self.name),
            None => write!(f, "{} {}", self.kind.as_str(), self.name),
        }
    }
}

impl ObjectKey {
    /// The UID of an object whose source gives none: a hash of the cluster and the key, so that every restart and
    /// every replica computes the same one.
    #[must_use]
    pub fn derived_uid(&self, cluster: ClusterUuid) -> Uid {
        derived_uid(cluster, &self.to_string())
    }
}

/// A UID made from what an object is, as a UUID of version 8 (RFC 9562, section 5.8).
#[must_use]
pub fn derived_uid(cluster: ClusterUuid, what: &str) -> Uid {
    let mut hash = Sha256::new();
    hash.update(cluster.0);
    hash.update(what.as_bytes());
    let mut uid = [0; 16];
    uid.copy_from_slice(&hash.finalize()[..16]);
    uid[6] = uid[6] & 0x0f | 0x80;
    uid[8] = uid[8] & 0x3f | 0x80;
    Uid(uid)
}

/// An object as the index takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Of the object, or derived.
    pub uid: Uid,
    /// `metadata.creationTimestamp`, or when it was first seen; Unix time in seconds.
    pub created_s: u64,
    /// What it says.
    pub body: Body,
}

/// What an object says, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A machine of the cluster.
    Node(Node),
    /// A namespace.
    Namespace(Namespace),
    /// A pod.
    Pod(Pod),
    /// A Service.
    Service(Service),
    /// Some of a Service's backends.
    Slice(Slice),
    /// A peering: not the index's business, see [`crate::peers`].
    Peer(Box<MeshPeer>),
    /// A VM.
    Vm(Vm),
}

/// Of a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// `spec.podCIDRs`
    pub pod_cidrs: Vec<IpNet>,
    /// `status.addresses` of type `InternalIP`, in their order.
    pub internal_ips: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`, or empty.
    pub zone: String,
    /// Annotation `clustermesh.io/relay`: where others dial its relay.
    pub relay: Vec<SocketAddr>,
    /// Keys of `spec.taints`.
    pub taints: BTreeSet<String>,
}

/// Of a Namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// All of them.
    pub labels: BTreeMap<String, String>,
    /// Annotation `clustermesh.cilium.io/global`, when there is one.
    pub global: Option<bool>,
}

/// Of a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Where it is scheduled.
    pub node: Option<NodeName>,
    /// `status.podIPs`
    pub ips: Vec<IpAddr>,
    /// It has no address of its own.
    pub host_network: bool,
    /// `default` where none is named.
    pub service_account: String,
    /// All of them; the index filters.
    pub labels: BTreeMap<String, String>,
    /// Named ports of its containers.
    pub ports: Vec<NamedPort>,
    /// Phase `Succeeded` or `Failed`: its address may be somebody else's.
    pub finished: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
}

/// Of an ExternalWorkload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// `default` where none is named.
    pub service_account: String,
    /// All of them; the index filters.
    pub labels: BTreeMap<String, String>,
    /// Whose Services it may read beside those of its own namespace; none where it may read all.
    pub namespaces: Option<BTreeSet<NamespaceName>>,
    /// Services of its namespace that it is a backend of.
    pub serve: Vec<Serve>,
    /// What of it has an identity of its own.
    pub programs: BTreeMap<ProgramName, Program>,
}

/// Of a VM: processes with an identity of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Which.
    pub processes: Processes,
    /// The VM's where none is named.
    pub service_account: String,
    /// All of them; the index filters.
    pub labels: BTreeMap<String, String>,
    /// Services of the VM's namespace that it is a backend of.
    pub serve: Vec<Serve>,
}

/// Of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `spec.clusterIPs`; empty when headless.
    pub frontends: Vec<IpAddr>,
    /// TCP and UDP ones.
    pub ports: Vec<NamedPort>,
    /// `clusterIP: None`
    pub headless: bool,
    /// A CNAME: it has no backends, and is never global.
    pub external_name: bool,
    /// Annotation `clustermesh.io/balance` is not `false`.
    pub balance: bool,
    /// Annotation `global`.
    pub global: bool,
    /// Annotation `shared`; true when global and not said otherwise.
    pub shared: bool,
    /// Annotation `affinity`.
    pub affinity: Affinity,
    /// `spec.sessionAffinity: ClientIP`: its timeout in seconds; 0 is none.
    pub session_affinity_s: u32,
}

/// Of an EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    /// Label `kubernetes.io/service-name`; none for a slice that belongs to no Service.
    pub service: Option<ServiceName>,
    /// TCP and UDP ones with a number.
    pub ports: Vec<NamedPort>,
    /// Addresses with their conditions.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice; its addresses are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// Absent means true.
    pub ready: bool,
    /// Absent means `ready`.
    pub serving: bool,
    /// Absent means false.
    pub terminating: bool,
    /// `targetRef` of kind Pod: its name and, where given, its UID.
    pub pod: Option<(ObjectName, Option<Uid>)>,
    /// Where it runs.
    pub node: Option<NodeName>,
    /// Where it runs, or empty.
    pub zone: String,
    /// For headless Services, or empty.
    pub hostname: String,
}
