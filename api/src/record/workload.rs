//! Workloads: namespaces, identities, endpoints, services and their backends.

use super::wire::{self, InField, RecordError, Wire, rule};
use crate::{
    bytes::{IdentityId, Uid},
    name::{NodeName, ObjectName, PortName},
    pb,
};
use std::{collections::BTreeMap, net::IpAddr};

/// A transport protocol that services can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Protocol {
    /// 6
    #[serde(rename = "TCP")]
    Tcp,
    /// 17
    #[serde(rename = "UDP")]
    Udp,
}

impl Protocol {
    /// IANA's protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A port with the name by which frontends and backends find each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct NamedPort {
    /// None where the object names none.
    pub name: Option<PortName>,
    /// 1 to 65535.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

pub(super) fn ports(all: &[pb::NamedPort]) -> Result<Vec<NamedPort>, RecordError> {
    let port = |p: &pb::NamedPort| {
        let protocol = match pb::Protocol::try_from(p.protocol) {
            Ok(pb::Protocol::Tcp) => Protocol::Tcp,
            Ok(pb::Protocol::Udp) => Protocol::Udp,
            Ok(pb::Protocol::Unspecified) | Err(_) => return rule("ports.protocol", "neither TCP nor UDP"),
        };
        let name = wire::optional_name(&p.name).field("ports.name")?;
        Ok(NamedPort { name, port: wire::port(p.port).field("ports.port")?, protocol })
    };
    all.iter().map(port).collect()
}

pub(super) fn port_messages(ports: &[NamedPort]) -> Vec<pb::NamedPort> {
    let message = |p: &NamedPort| pb::NamedPort {
        name: wire::name_text(p.name.as_ref()),
        port: p.port.into(),
        protocol: match p.protocol {
            Protocol::Tcp => pb::Protocol::Tcp.into(),
            Protocol::Udp => pb::Protocol::Udp.into(),
        },
    };
    ports.iter().map(message).collect()
}

/// `namespaces/<ns>`
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Namespace {
    /// All of them; they are joined when policy is compiled.
    pub labels: BTreeMap<String, String>,
}

impl Wire for Namespace {
    type Message = pb::Namespace;

    fn from_wire(m: pb::Namespace) -> Result<Self, RecordError> {
        wire::labels(&m.labels).field("labels")?;
        Ok(Self { labels: m.labels })
    }

    fn to_wire(&self) -> pb::Namespace {
        pb::Namespace { labels: self.labels.clone() }
    }
}

/// `identities/<ns>/<id>`: the facts behind the number, from which whoever imports it computes it again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Identity {
    /// Its name.
    pub service_account: String,
    /// Filtered.
    pub labels: BTreeMap<String, String>,
}

impl Wire for Identity {
    type Message = pb::Identity;

    fn from_wire(m: pb::Identity) -> Result<Self, RecordError> {
        wire::labels(&m.labels).field("labels")?;
        Ok(Self { service_account: m.service_account, labels: m.labels })
    }

    fn to_wire(&self) -> pb::Identity {
        pb::Identity { service_account: self.service_account.clone(), labels: self.labels.clone() }
    }
}

/// `endpoints/<ns>/<ip>`: whose address it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Endpoint {
    /// Of the pod.
    pub uid: Uid,
    /// Of its workload.
    pub identity: IdentityId,
    /// Where it runs.
    pub node: NodeName,
    /// The pod's name.
    pub name: ObjectName,
    /// Its named container ports.
    pub ports: Vec<NamedPort>,
    /// It is being deleted.
    pub terminating: bool,
    /// Unix time in seconds; when two claim an address the newest wins.
    pub created_s: u64,
}

impl Wire for Endpoint {
    type Message = pb::Endpoint;

    fn from_wire(m: pb::Endpoint) -> Result<Self, RecordError> {
        Ok(Self {
            uid: Uid::from_slice(&m.uid).field("uid")?,
            identity: IdentityId::from_slice(&m.identity).field("identity")?,
            node: m.node.parse().field("node")?,
            name: m.name.parse().field("name")?,
            ports: ports(&m.ports)?,
            terminating: m.terminating,
            created_s: m.created_s,
        })
    }

    fn to_wire(&self) -> pb::Endpoint {
        pb::Endpoint {
            uid: self.uid.0.to_vec(),
            identity: self.identity.0.to_vec(),
            node: self.node.to_string(),
            name: self.name.to_string(),
            ports: port_messages(&self.ports),
            terminating: self.terminating,
            created_s: self.created_s,
        }
    }
}

/// Which backends are preferred: `service.cilium.io/affinity`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// All alike.
    #[default]
    None,
    /// The own cluster's, while one of them is healthy.
    Local,
    /// The other clusters', while one of them is healthy.
    Remote,
}

/// `services/<ns>/<name>`
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Service {
    /// Of the Service.
    pub uid: Uid,
    /// ClusterIPs; empty when headless.
    pub frontends: Vec<IpAddr>,
    /// What clients connect to.
    pub ports: Vec<NamedPort>,
    /// Annotated global: takes in other clusters' backends.
    pub global: bool,
    /// Gives its own backends to other clusters; means nothing unless global.
    pub shared: bool,
    /// Of the cluster that reads it, about its own frontends.
    pub affinity: Affinity,
    /// `clusterIP: None`
    pub headless: bool,
    /// Unix time in seconds.
    pub created_s: u64,
    /// `sessionAffinity: ClientIP`: seconds for which a client keeps its backend after it last connected; 0 is none.
    pub session_affinity_s: u32,
}

impl Wire for Service {
    type Message = pb::Service;

    fn from_wire(m: pb::Service) -> Result<Self, RecordError> {
        let affinity = match pb::Affinity::try_from(m.affinity) {
            Ok(pb::Affinity::None) => Affinity::None,
            Ok(pb::Affinity::Local) => Affinity::Local,
            Ok(pb::Affinity::Remote) => Affinity::Remote,
            // As with the annotation itself: an unknown preference is no preference.
            Err(_) => Affinity::None,
        };
        Ok(Self {
            uid: Uid::from_slice(&m.uid).field("uid")?,
            frontends: wire::addresses(&m.frontends).field("frontends")?,
            ports: ports(&m.ports)?,
            global: m.global,
            shared: m.shared,
            affinity,
            headless: m.headless,
            created_s: m.created_s,
            session_affinity_s: m.session_affinity_s,
        })
    }

    fn to_wire(&self) -> pb::Service {
        let affinity = match self.affinity {
            Affinity::None => pb::Affinity::None,
            Affinity::Local => pb::Affinity::Local,
            Affinity::Remote => pb::Affinity::Remote,
        };
        pb::Service {
            uid: self.uid.0.to_vec(),
            frontends: self.frontends.iter().map(wire::address_bytes).collect(),
            ports: port_messages(&self.ports),
            global: self.global,
            shared: self.shared,
            affinity: affinity.into(),
            headless: self.headless,
            created_s: self.created_s,
            session_affinity_s: self.session_affinity_s,
        }
    }
}

/// `backends/<ns>/<name>/<ip>`: one address behind a Service. (EndpointSlice, `discovery.k8s.io/v1`)
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Backend {
    /// Of the pod, or derived from the slice and the address where no pod is named.
    pub uid: Uid,
    /// Several numbers may have one name.
    pub ports: Vec<NamedPort>,
    /// `conditions.ready`; absent means true.
    pub ready: bool,
    /// `conditions.serving`; absent means `ready`.
    pub serving: bool,
    /// `conditions.terminating`; absent means false.
    pub terminating: bool,
    /// Its share among equals, at least 1.
    pub weight: u32,
    /// Where it runs, or empty.
    pub zone: String,
    /// Where it runs.
    pub node: Option<NodeName>,
    /// For headless Services, or empty.
    pub hostname: String,
    /// Unix time in seconds; when two claim an address the newest wins.
    pub created_s: u64,
}

impl Wire for Backend {
    type Message = pb::Backend;

    fn from_wire(m: pb::Backend) -> Result<Self, RecordError> {
        Ok(Self {
            uid: Uid::from_slice(&m.uid).field("uid")?,
            ports: ports(&m.ports)?,
            ready: m.ready,
            serving: m.serving,
            terminating: m.terminating,
            weight: m.weight.max(1),
            zone: m.zone,
            node: wire::optional_name(&m.node).field("node")?,
            hostname: m.hostname,
            created_s: m.created_s,
        })
    }

    fn to_wire(&self) -> pb::Backend {
        pb::Backend {
            uid: self.uid.0.to_vec(),
            ports: port_messages(&self.ports),
            ready: self.ready,
            serving: self.serving,
            terminating: self.terminating,
            weight: self.weight,
            zone: self.zone.clone(),
            node: wire::name_text(self.node.as_ref()),
            hostname: self.hostname.clone(),
            created_s: self.created_s,
        }
    }
}
