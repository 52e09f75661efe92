//! VMs: what the source says of them, and what they say of themselves. Neither leaves the cluster.

use super::{
    NamedPort,
    wire::{self, InField, RecordError, Wire},
    workload::{port_messages, ports},
};
use crate::{
    bytes::Instance,
    name::{NamespaceName, ServiceName},
    pb,
};
use std::{collections::BTreeSet, net::IpAddr};

/// `vms/<vm>`: the public part of a VM's enrolment, written by the apiserver from its source.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Vm {
    /// Of its identity, and of the Services it serves.
    pub namespace: NamespaceName,
    /// Whose Services it may read; all where none is named.
    pub namespaces: BTreeSet<NamespaceName>,
    /// What it serves, and is to check.
    pub serve: Vec<Served>,
}

/// A Service of its namespace that a VM serves.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Served {
    /// The Service.
    pub service: ServiceName,
    /// The names of the Service's ports, and where the VM's program listens.
    pub ports: Vec<NamedPort>,
}

impl Vm {
    /// Whether it may read Services of a namespace.
    #[must_use]
    pub fn reads(&self, namespace: &NamespaceName) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }
}

impl Wire for Vm {
    type Message = pb::Vm;

    fn from_wire(m: pb::Vm) -> Result<Self, RecordError> {
        let served = |s: pb::Served| {
            Ok(Served { service: s.service.parse().field("serve.service")?, ports: ports(&s.ports)? })
        };
        let namespaces = m.namespaces.iter().map(|name| name.parse()).collect::<Result<_, _>>();
        Ok(Self {
            namespace: m.namespace.parse().field("namespace")?,
            namespaces: namespaces.field("namespaces")?,
            serve: m.serve.into_iter().map(served).collect::<Result<_, RecordError>>()?,
        })
    }

    fn to_wire(&self) -> pb::Vm {
        let served =
            |s: &Served| pb::Served { service: s.service.to_string(), ports: port_messages(&s.ports) };
        pb::Vm {
            namespace: self.namespace.to_string(),
            namespaces: self.namespaces.iter().map(ToString::to_string).collect(),
            serve: self.serve.iter().map(served).collect(),
        }
    }
}

/// `presence/<vm>`: written by the VM while it lives.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Presence {
    /// New with each start of its agent.
    pub instance: Instance,
    /// Of this instance, from 1: each write differs from the one before.
    pub sequence: u64,
    /// Of what it serves.
    pub serve: Vec<ServedHealth>,
    /// For people.
    pub agent_version: String,
}

/// What a VM's checks say of one of the Services it serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct ServedHealth {
    /// The Service.
    pub service: ServiceName,
    /// Where the VM's program listens.
    pub port: u16,
    /// At which of its mesh addresses: a program may listen at one family alone.
    pub address: IpAddr,
    /// It answered the last checks.
    pub healthy: bool,
}

impl Wire for Presence {
    type Message = pb::Presence;

    fn from_wire(m: pb::Presence) -> Result<Self, RecordError> {
        let health = |h: pb::ServedHealth| {
            Ok(ServedHealth {
                service: h.service.parse().field("serve.service")?,
                port: wire::port(h.port).field("serve.port")?,
                address: wire::address(&h.address).field("serve.address")?,
                healthy: h.healthy,
            })
        };
        Ok(Self {
            instance: Instance::from_slice(&m.instance).field("instance")?,
            sequence: m.sequence,
            serve: m.serve.into_iter().map(health).collect::<Result<_, RecordError>>()?,
            agent_version: m.agent_version,
        })
    }

    fn to_wire(&self) -> pb::Presence {
        let health = |h: &ServedHealth| pb::ServedHealth {
            service: h.service.to_string(),
            port: h.port.into(),
            address: wire::address_bytes(&h.address),
            healthy: h.healthy,
        };
        pb::Presence {
            instance: self.instance.0.to_vec(),
            sequence: self.sequence,
            serve: self.serve.iter().map(health).collect(),
            agent_version: self.agent_version.clone(),
        }
    }
}
