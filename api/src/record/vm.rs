//! VMs: what the source says of them, and what they say of themselves. Neither leaves the cluster.

use super::{
    NamedPort,
    wire::{self, InField, RecordError, Wire},
    workload::{port_messages, ports},
};
use crate::{
    bytes::Instance,
    name::{NamespaceName, ProgramName, ServiceName, SliceName, UnitName, UserName},
    pb,
};
use std::{collections::BTreeSet, fmt, net::IpAddr};

/// `vms/<vm>`: the public part of a VM's enrolment, written by the apiserver from its source.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Vm {
    /// Of its identity, and of the Services it serves.
    pub namespace: NamespaceName,
    /// Whose Services it may read; all where none is named.
    pub namespaces: BTreeSet<NamespaceName>,
    /// What it serves, and is to check.
    pub serve: Vec<Served>,
    /// What of it has an identity of its own, and is to be told apart.
    pub programs: Vec<Program>,
}

/// Processes of a VM with an identity, and mesh addresses, of their own.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Program {
    /// Unique on the VM.
    pub name: ProgramName,
    /// Which processes.
    pub processes: Processes,
    /// At most one of each family; what it sends to the mesh comes from here.
    pub addresses: Vec<IpAddr>,
    /// What it serves at these addresses, and the VM is to check.
    pub serve: Vec<Served>,
}

/// Which processes of a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum Processes {
    /// Those of a systemd unit, and of what is below it.
    Unit {
        /// A service, a scope or a slice.
        unit: UnitName,
        /// Where it is, unless it is where systemd puts it by itself.
        slice: Option<SliceName>,
    },
    /// Those of a user.
    User(UserName),
}

impl fmt::Display for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit { unit, slice: None } => write!(f, "unit {unit}"),
            Self::Unit { unit, slice: Some(slice) } => write!(f, "unit {unit} in {slice}"),
            Self::User(user) => write!(f, "user {user}"),
        }
    }
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
        let namespaces = m.namespaces.iter().map(|name| name.parse()).collect::<Result<_, _>>();
        Ok(Self {
            namespace: m.namespace.parse().field("namespace")?,
            namespaces: namespaces.field("namespaces")?,
            serve: m.serve.into_iter().map(served).collect::<Result<_, RecordError>>()?,
            programs: m.programs.into_iter().map(program).collect::<Result<_, RecordError>>()?,
        })
    }

    fn to_wire(&self) -> pb::Vm {
        pb::Vm {
            namespace: self.namespace.to_string(),
            namespaces: self.namespaces.iter().map(ToString::to_string).collect(),
            serve: self.serve.iter().map(served_message).collect(),
            programs: self.programs.iter().map(program_message).collect(),
        }
    }
}

fn served(m: pb::Served) -> Result<Served, RecordError> {
    Ok(Served { service: m.service.parse().field("serve.service")?, ports: ports(&m.ports)? })
}

fn served_message(served: &Served) -> pb::Served {
    pb::Served { service: served.service.to_string(), ports: port_messages(&served.ports) }
}

fn program(m: pb::Program) -> Result<Program, RecordError> {
    let processes = match (m.unit.is_empty(), m.user.is_empty()) {
        (false, true) => Processes::Unit {
            unit: m.unit.parse().field("programs.unit")?,
            slice: wire::optional_name(&m.slice).field("programs.slice")?,
        },
        (true, false) => Processes::User(m.user.parse().field("programs.user")?),
        (_, _) => Err("a unit or a user is named, not both").field("programs")?,
    };
    Ok(Program {
        name: m.name.parse().field("programs.name")?,
        processes,
        addresses: wire::addresses(&m.addresses).field("programs.addresses")?,
        serve: m.serve.into_iter().map(served).collect::<Result<_, RecordError>>()?,
    })
}

fn program_message(program: &Program) -> pb::Program {
    let (unit, slice, user) = match &program.processes {
        Processes::Unit { unit, slice } => (unit.to_string(), wire::name_text(slice.as_ref()), String::new()),
        Processes::User(user) => (String::new(), String::new(), user.to_string()),
    };
    pb::Program {
        name: program.name.to_string(),
        unit,
        slice,
        user,
        addresses: program.addresses.iter().map(wire::address_bytes).collect(),
        serve: program.serve.iter().map(served_message).collect(),
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
