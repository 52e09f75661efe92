//! `cluster.yaml`: who this cluster is and which addresses are its own.

use crate::pki::Layout;
use api::{bytes::ClusterUuid, name::ClusterName, peer::overlap};
use daemon::spiffe::{Role, SpiffeId};
use ipnet::IpNet;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

/// What `init` decided. Nothing in it is changed by a running apiserver.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterConfig {
    /// A label of the UUID; unique among peers.
    pub name: ClusterName,
    /// The trust domain; immutable.
    pub uuid: ClusterUuid,
    /// Where pods' addresses come from.
    pub pod_cidrs: Vec<IpNet>,
    /// Where ClusterIPs come from.
    pub service_cidrs: Vec<IpNet>,
    /// Where mesh addresses of nodes and VMs come from.
    pub mesh_cidrs: Vec<IpNet>,
    /// What is encrypted; every agent follows it.
    #[serde(default)]
    pub encryption_scope: EncryptionScope,
    /// `host:port` by which agents, operators and peers reach this apiserver.
    pub advertise: Vec<String>,
    /// Peers do not: we open the connections to them, which they use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dial_out: bool,
}

/// What is encrypted, or dropped.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum EncryptionScope {
    /// What goes to other clusters and VMs. Inside the cluster traffic goes by the CNI's own way.
    #[default]
    BetweenClusters,
    /// What goes from node to node of this cluster, too.
    All,
}

/// Why there is no usable `cluster.yaml`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}; is this the --data-dir of an `init`?", .path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not parse.
    #[error("{} is not a cluster's configuration: {text}", .path.display())]
    Parse {
        /// Where.
        path: PathBuf,
        /// Where in it, and why.
        text: String,
    },
    /// It breaks a rule.
    #[error("{field}: {rule}")]
    Rule {
        /// The field.
        field: &'static str,
        /// What is wrong.
        rule: String,
    },
}

/// The host of `host:port`, without the brackets of an IPv6 address.
#[must_use]
pub fn host_of(endpoint: &str) -> Option<&str> {
    let (host, port) = endpoint.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port != 0)?;
    match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').filter(|v6| v6.parse::<Ipv6Addr>().is_ok()),
        None if host.is_empty() || host.contains([':', '/', '@', ' ']) => None,
        None => Some(host),
    }
}

impl ClusterConfig {
    /// Reads and checks the one of a data directory.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the field.
    pub fn load(layout: &Layout) -> Result<Self, ConfigError> {
        let path = layout.cluster();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        let config: Self = serde_saphyr::from_str(&text)
            .map_err(|error| ConfigError::Parse { path, text: error.to_string() })?;
        config.check()?;
        Ok(config)
    }

    /// As `cluster.yaml`.
    ///
    /// # Errors
    /// When it has no YAML, which is a bug of the library's.
    pub fn to_yaml(&self) -> anyhow::Result<String> {
        anyhow::Context::context(serde_saphyr::to_string(self), "cannot write the configuration as YAML")
    }

    /// `host:port` by which peers reach this apiserver; none when they cannot.
    #[must_use]
    pub fn for_peers(&self) -> Vec<String> {
        if self.dial_out { Vec::new() } else { self.advertise.clone() }
    }

    /// The apiserver's own ID.
    #[must_use]
    pub fn server_id(&self) -> SpiffeId {
        SpiffeId::new(self.uuid, Role::Cluster, self.name.as_str())
            .expect("a cluster name is a valid name of its role")
    }

    /// Checks what one field alone cannot say.
    ///
    /// # Errors
    /// [`ConfigError::Rule`] names the field and the rule.
    pub fn check(&self) -> Result<(), ConfigError> {
        let rule = |field, rule: String| Err(ConfigError::Rule { field, rule });
        let fields = [
            ("podCidrs", &self.pod_cidrs),
            ("serviceCidrs", &self.service_cidrs),
            ("meshCidrs", &self.mesh_cidrs),
        ];
        for (field, cidrs) in fields {
            if cidrs.is_empty() {
                return rule(field, "at least one prefix is needed".to_owned());
            }
            for cidr in cidrs {
                if cidr.trunc() != *cidr {
                    return rule(field, format!("{cidr} has host bits set; did you mean {}?", cidr.trunc()));
                }
                if let Some(why) = never_ours(cidr) {
                    return rule(field, format!("{cidr} {why}"));
                }
            }
        }
        let all: Vec<_> =
            fields.iter().flat_map(|(field, cidrs)| cidrs.iter().map(move |cidr| (*field, cidr))).collect();
        for (at, (field, cidr)) in all.iter().enumerate() {
            if let Some((other_field, other)) = all[at + 1..].iter().find(|(_, other)| overlap(cidr, other)) {
                return rule(field, format!("{cidr} overlaps {other} of {other_field}"));
            }
        }
        if self.advertise.is_empty() {
            return rule("advertise", "at least one host:port is needed".to_owned());
        }
        match self.advertise.iter().find(|endpoint| host_of(endpoint).is_none()) {
            Some(bad) => rule("advertise", format!("`{bad}` is not host:port (IPv6 in brackets)")),
            None => Ok(()),
        }
    }
}

/// Prefixes that no cluster has.
fn never_ours(cidr: &IpNet) -> Option<&'static str> {
    let reserved = |prefix: IpAddr, length: u8| {
        IpNet::new(prefix, length).is_ok_and(|reserved| overlap(cidr, &reserved))
    };
    if cidr.prefix_len() == 0 {
        Some("is every address there is")
    } else if reserved(Ipv4Addr::new(127, 0, 0, 0).into(), 8) || reserved(Ipv6Addr::LOCALHOST.into(), 128) {
        Some("covers loopback addresses")
    } else if reserved(Ipv4Addr::new(169, 254, 0, 0).into(), 16)
        || reserved(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 10)
    {
        Some("covers link-local addresses")
    } else if reserved(Ipv4Addr::new(224, 0, 0, 0).into(), 4)
        || reserved(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8)
    {
        Some("covers multicast addresses")
    } else {
        None
    }
}
