//! Which cluster this machine is a VM of: written by `join`, read at every start.

use anyhow::{Context as _, bail};
use api::{
    bytes::ClusterUuid,
    name::{ClusterName, NodeName},
};
use daemon::{args::Hint, durable, tls::IdentityPaths};
use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

const FILE: &str = "membership.yaml";

/// What is in the state directory beside, and is of this membership alone.
const OF_IT: [&str; 10] = [
    "cert.pem",
    "key.pem",
    "bundle.pem",
    "cluster-name",
    "last-view",
    "last-view.refused",
    "wireguard.key",
    "clock.json",
    "clock-epochs.json",
    // Of a tunnel that the package's unit runs.
    "tunnel/mesh0.conf",
];

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// Our name there.
    pub name: NodeName,
    /// What the cluster calls itself.
    pub cluster: ClusterName,
    /// Which cluster it really is.
    pub uuid: ClusterUuid,
    /// `host:port` of its apiserver, tried in order.
    pub endpoints: Vec<String>,
}

impl Membership {
    /// Reads it; none where nobody has joined.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn load(state_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = state_dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let membership = serde_saphyr::from_str(&text);
        membership.map(Some).with_context(|| {
            Hint::new(
                format!("cannot understand {}", path.display()),
                "`mesh-vm-agent leave`, and join again",
            )
        })
    }

    /// As [`Membership::load`], where somebody has to have joined.
    ///
    /// # Errors
    /// Says how to join.
    pub fn required(state_dir: &Path) -> anyhow::Result<Self> {
        match Self::load(state_dir)? {
            Some(membership) => Ok(membership),
            None => bail!(Hint::new(
                format!(
                    "this machine has not joined a cluster: there is no {}",
                    state_dir.join(FILE).display()
                ),
                "`meshctl vm add` on an operator's machine prints the line that joins it",
            )),
        }
    }

    /// Keeps it, whole or not at all.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write(&self, state_dir: &Path) -> anyhow::Result<()> {
        let path = state_dir.join(FILE);
        let text = serde_saphyr::to_string(self).context("cannot write the membership as YAML")?;
        durable::write(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Forgets it.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(state_dir: &Path) -> anyhow::Result<()> {
        remove(&state_dir.join(FILE))
    }
}

/// Where the identity is.
pub fn identity(state_dir: &Path) -> IdentityPaths {
    IdentityPaths {
        cert: state_dir.join("cert.pem"),
        key: state_dir.join("key.pem"),
        bundle: state_dir.join("bundle.pem"),
    }
}

/// Makes the directory, for root alone.
///
/// # Errors
/// Names the directory.
pub fn make_dir(state_dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(state_dir).with_context(|| format!("cannot make {}", state_dir.display()))?;
    fs::set_permissions(state_dir, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot close {} to others", state_dir.display()))
}

/// Whether something of a membership is there, which a `leave` that failed has left.
#[must_use]
pub fn has_remains(state_dir: &Path) -> bool {
    OF_IT.iter().any(|name| state_dir.join(name).exists())
}

/// Removes what came with a membership.
///
/// # Errors
/// Names the file that cannot be removed.
pub fn remove_remains(state_dir: &Path) -> anyhow::Result<()> {
    for name in OF_IT {
        remove(&state_dir.join(name))?;
    }
    Ok(())
}

/// Removes a file, if it is there.
///
/// # Errors
/// Names it.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    durable::remove(path).map(drop).with_context(|| format!("cannot remove {}", path.display()))
}
