//! How we reach our cluster's apiserver, and what it tells by its certificate: the cluster's name.

use api::name::ClusterName;
use daemon::tls::{Connection, Expected, Tls, connect_any};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Makes verified connections to our own apiserver.
#[derive(Debug, Clone)]
pub struct Apiserver {
    tls: Tls,
    endpoints: Vec<String>,
    expected: Expected,
}

impl Apiserver {
    /// Of the cluster that our certificate is of.
    #[must_use]
    pub fn new(tls: Tls, endpoints: Vec<String>) -> Self {
        let expected = Expected::cluster_of(tls.identity().id().trust_domain());
        Self { tls, endpoints, expected }
    }

    /// Dials until one answers that is our apiserver.
    ///
    /// # Errors
    /// The whole chain of causes, in a line.
    pub async fn open(&self) -> Result<Connection, String> {
        let connected = connect_any(&self.tls, &self.endpoints, &self.expected).await;
        connected.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }
}

impl follow::Connect for Apiserver {
    async fn connect(&self) -> Result<tonic::transport::Channel, String> {
        Ok(self.open().await?.channel)
    }
}

/// The cluster's name as it was last told: after a restart the apiserver may be dead, and the pins go on.
#[derive(Debug)]
pub struct KnownName(PathBuf);

impl KnownName {
    /// Kept in the state directory.
    #[must_use]
    pub fn in_dir(state_dir: &Path) -> Self {
        Self(state_dir.join("cluster-name"))
    }

    /// The name, if there is one.
    #[must_use]
    pub fn read(&self) -> Option<ClusterName> {
        fs::read_to_string(&self.0).ok()?.trim().parse().ok()
    }

    /// Keeps it, whole or not at all.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write(&self, name: &ClusterName) -> io::Result<()> {
        let part = self.0.with_extension("part");
        fs::write(&part, format!("{name}\n"))?;
        fs::rename(part, &self.0)
    }
}
