//! Names: of labs, clusters, places and processes, valid by construction.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of a lab, cluster, node, host, pod or process: cgroup directories and interface names are made of
/// them, and a path of four such parts stays far below `PATH_MAX`.
const NAME_MAX: usize = 40;

/// A DNS label: lowercase letters, digits and inner hyphens, at most 40 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Where a program can run: a network namespace with a cgroup, and for nodes and hosts a mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    /// The router between the clusters, and the bridges of their segments.
    Underlay,
    /// A box that translates the addresses of what stands behind it.
    Nat {
        /// Its name.
        nat: Name,
    },
    /// A machine that belongs to no cluster, for example an administrator's.
    Host {
        /// Its name.
        host: Name,
    },
    /// A machine of a cluster that carries no pods, for example the one of its apiserver.
    ClusterHost {
        /// The cluster it stands in.
        cluster: Name,
        /// Its name.
        host: Name,
    },
    /// A machine of a cluster that carries pods.
    Node {
        /// The cluster it stands in.
        cluster: Name,
        /// Its name.
        node: Name,
    },
    /// A pod.
    Pod {
        /// The cluster it runs in.
        cluster: Name,
        /// Its name, unique in the cluster.
        pod: Name,
    },
}

/// A named process of a place, written `PLACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Proc {
    /// Where it runs.
    pub place: Place,
    /// What the topology calls it.
    pub name: Name,
}

/// A word that is not a name, a place or a process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not a DNS label of at most 40 characters.
    #[error(
        "`{0}` is not a name: lowercase letters, digits and inner hyphens, at most {NAME_MAX} characters"
    )]
    Name(String),
    /// Not the name of a place.
    #[error(
        "`{0}` is not a place: write underlay, nat/NAME, host/NAME, CLUSTER/host/NAME, CLUSTER/node/NAME or CLUSTER/pod/NAME"
    )]
    Place(String),
    /// Not the name of a process.
    #[error("`{0}` is not a process: write PLACE/NAME, for example cluster-a/pod/client/http")]
    Proc(String),
}

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let valid = (1..=NAME_MAX).contains(&text.len())
            && text.chars().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if valid { Ok(Self(text.to_owned())) } else { Err(BadName::Name(text.to_owned())) }
    }
}

impl FromStr for Place {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        match text.split('/').collect::<Vec<_>>()[..] {
            ["underlay"] => Ok(Self::Underlay),
            ["nat", nat] => Ok(Self::Nat { nat: nat.parse()? }),
            ["host", host] => Ok(Self::Host { host: host.parse()? }),
            [cluster, "host", host] => {
                Ok(Self::ClusterHost { cluster: cluster.parse()?, host: host.parse()? })
            }
            [cluster, "node", node] => Ok(Self::Node { cluster: cluster.parse()?, node: node.parse()? }),
            [cluster, "pod", pod] => Ok(Self::Pod { cluster: cluster.parse()?, pod: pod.parse()? }),
            _ => Err(BadName::Place(text.to_owned())),
        }
    }
}

impl FromStr for Proc {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (place, name) = text.rsplit_once('/').ok_or_else(|| BadName::Proc(text.to_owned()))?;
        Ok(Self { place: place.parse()?, name: name.parse()? })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match self {
            Self::Underlay => "underlay".to_owned(),
            Self::Nat { nat } => format!("nat/{nat}"),
            Self::Host { host } => format!("host/{host}"),
            Self::ClusterHost { cluster, host } => format!("{cluster}/host/{host}"),
            Self::Node { cluster, node } => format!("{cluster}/node/{node}"),
            Self::Pod { cluster, pod } => format!("{cluster}/pod/{pod}"),
        })
    }
}

impl fmt::Display for Proc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.place, self.name))
    }
}

/// `TryFrom<String>` and `Into<String>`, which serde reads and writes a name by.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.to_string()
            }
        }
    )*};
}
as_text!(Name, Place, Proc);
