//! Who a process is: `spiffe://<cluster uuid>/<role>/<name>`.
//!
//! The trust domain is the cluster's UUID, so a name that two clusters share never makes them one.

use api::{
    bytes::{BadLength, ClusterUuid},
    name::{BadName, ClusterName, NodeName, ObjectName},
};
use std::{fmt, str::FromStr};

/// What a certificate lets its holder be. What each may do is the apiserver's authorization table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A cluster's apiserver: the server itself, and the only role that a peer's CA can give.
    Cluster,
    /// A node's agent.
    Node,
    /// A VM's agent.
    Vm,
    /// A person or tool that changes things.
    Operator,
    /// A person or tool that only looks.
    Reader,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Node, Self::Vm, Self::Operator, Self::Reader];

    /// As it stands in an ID and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Node => "node",
            Self::Vm => "vm",
            Self::Operator => "operator",
            Self::Reader => "reader",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| BadId::Role(text.chars().take(64).collect()))
    }
}

/// The identity in a certificate's one URI SAN.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: ClusterUuid,
    role: Role,
    name: ObjectName,
}

/// Why a text is not one of our SPIFFE IDs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// Another scheme, or other parts.
    #[error("`{0}` is not of the form spiffe://<cluster uuid>/<role>/<name>")]
    Shape(String),
    /// The trust domain is no cluster's UUID.
    #[error(transparent)]
    TrustDomain(#[from] BadLength),
    /// There is no such role.
    #[error("`{0}` is not a role (cluster, node, vm, operator, reader)")]
    Role(String),
    /// The name breaks the rule of its role.
    #[error(transparent)]
    Name(#[from] BadName),
}

impl SpiffeId {
    /// Puts an ID together.
    ///
    /// # Errors
    /// When the name breaks the rule of its role: a cluster's is a DNS label, the others' are DNS subdomains.
    pub fn new(trust_domain: ClusterUuid, role: Role, name: &str) -> Result<Self, BadId> {
        match role {
            Role::Cluster => {
                name.parse::<ClusterName>()?;
            }
            Role::Node | Role::Vm | Role::Operator | Role::Reader => {}
        }
        Ok(Self { trust_domain, role, name: name.parse()? })
    }

    /// The cluster that vouches for it.
    #[must_use]
    pub fn trust_domain(&self) -> ClusterUuid {
        self.trust_domain
    }

    /// What it may be.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Which one of its role.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The name as a node's: of a certificate with the role `node`.
    #[must_use]
    pub fn node_name(&self) -> Option<NodeName> {
        match self.role {
            Role::Node => self.name().parse().ok(),
            Role::Cluster | Role::Vm | Role::Operator | Role::Reader => None,
        }
    }

    /// The name as a VM's, which is a node to the mesh: of a certificate with the role `vm`.
    #[must_use]
    pub fn vm_name(&self) -> Option<NodeName> {
        match self.role {
            Role::Vm => self.name().parse().ok(),
            Role::Cluster | Role::Node | Role::Operator | Role::Reader => None,
        }
    }

    /// The name as a cluster's: of a certificate with the role `cluster`.
    #[must_use]
    pub fn cluster_name(&self) -> Option<ClusterName> {
        match self.role {
            Role::Cluster => self.name().parse().ok(),
            Role::Node | Role::Vm | Role::Operator | Role::Reader => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}/{}", self.trust_domain, self.role, self.name)
    }
}

impl FromStr for SpiffeId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let shape = || BadId::Shape(text.chars().take(128).collect());
        let rest = text.strip_prefix("spiffe://").ok_or_else(shape)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some(role), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(shape());
        };
        Self::new(domain.parse()?, role.parse()?, name)
    }
}

#[cfg(test)]
mod tests;
