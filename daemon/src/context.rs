//! `meshctl`'s contexts: which clusters an operator knows, and with which certificates.
//!
//! `clustermesh-apiserver init` writes a file with one context; an operator points at it (`meshctl --config FILE`) or
//! merges it into his own.

use crate::tls::IdentityPaths;
use api::{bytes::ClusterUuid, name::ClusterName};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A context file.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// One entry a cluster.
    pub clusters: Vec<Context>,
}

/// How an operator reaches one cluster.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// What the cluster calls itself.
    pub name: ClusterName,
    /// Which cluster it really is: its server's certificate must be of this trust domain.
    pub uuid: ClusterUuid,
    /// `host:port` of its apiserver, tried in order.
    pub endpoints: Vec<String>,
    /// Its CA certificates, PEM; a path relative to the file.
    pub bundle: PathBuf,
    /// The operator's certificate, PEM; a path relative to the file.
    pub cert: PathBuf,
    /// Its key, PEM; a path relative to the file.
    pub key: PathBuf,
}

/// The key of a cluster's ConfigMap under which its CA certificates are, PEM.
pub const BUNDLE_KEY: &str = "bundle.pem";
/// The key under which [`Published`] is, YAML.
pub const CLUSTER_KEY: &str = "cluster.yaml";
/// Whom a token of Kubernetes has to be for to enrol anybody.
pub const TOKEN_AUDIENCE: &str = "clustermesh";

/// What an apiserver on Kubernetes tells operators by its ConfigMap: enough to reach it and to know it. No secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// What the cluster calls itself.
    pub name: ClusterName,
    /// Its trust domain.
    pub uuid: ClusterUuid,
    /// `host:port` of its apiserver, tried in order.
    pub endpoints: Vec<String>,
    /// The service account, of the ConfigMap's namespace, whose tokens make operators; none makes any without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_account: Option<String>,
}

/// Two files speak of different clusters by one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two contexts are called `{name}` and are different clusters ({first} and {second})")]
pub struct Ambiguous {
    /// The name.
    pub name: ClusterName,
    /// The first one's UUID.
    pub first: ClusterUuid,
    /// The second one's UUID.
    pub second: ClusterUuid,
}

impl Context {
    /// The paths as they are seen from where we stand, for a file in `dir`.
    #[must_use]
    pub fn resolved(mut self, dir: &Path) -> Self {
        for path in [&mut self.bundle, &mut self.cert, &mut self.key] {
            *path = dir.join(&*path);
        }
        self
    }

    /// Where the operator's identity is.
    #[must_use]
    pub fn identity_paths(&self) -> IdentityPaths {
        IdentityPaths { cert: self.cert.clone(), key: self.key.clone(), bundle: self.bundle.clone() }
    }
}

impl Contexts {
    /// The contexts of several files by name. The same cluster in a later file replaces the earlier entry.
    ///
    /// # Errors
    /// [`Ambiguous`] when one name stands for two clusters.
    pub fn merge(files: impl IntoIterator<Item = Self>) -> Result<BTreeMap<ClusterName, Context>, Ambiguous> {
        let mut merged: BTreeMap<ClusterName, Context> = BTreeMap::new();
        for context in files.into_iter().flat_map(|file| file.clusters) {
            if let Some(first) = merged.get(&context.name).filter(|first| first.uuid != context.uuid) {
                return Err(Ambiguous { name: context.name, first: first.uuid, second: context.uuid });
            }
            merged.insert(context.name.clone(), context);
        }
        Ok(merged)
    }
}

#[cfg(test)]
mod tests;
