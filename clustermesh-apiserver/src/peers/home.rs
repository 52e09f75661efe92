//! The one home of a peering: a file in the manifests directory, written and removed whole.

use crate::source::durable;
use anyhow::{Context, bail};
use api::{
    name::ClusterName,
    peer::{Connect, MeshPeer},
};
use std::path::{Path, PathBuf};

/// `<manifests>/meshpeer-<name>.yaml`
#[must_use]
pub fn file_name(peer: &ClusterName) -> String {
    format!("meshpeer-{peer}.yaml")
}

fn path(manifests: &Path, peer: &ClusterName) -> PathBuf {
    manifests.join(file_name(peer))
}

/// Writes the object's file.
///
/// # Errors
/// When the disk refuses.
pub fn write(manifests: &Path, peer: &MeshPeer) -> anyhow::Result<()> {
    let path = path(manifests, &peer.metadata.name);
    let text = serde_saphyr::to_string(peer).context("cannot write the MeshPeer as YAML")?;
    durable::write(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Removes the object's file. `file` is where the source read it.
///
/// # Errors
/// When the object stands in a file that is not ours to remove, or the disk refuses.
pub fn remove(manifests: &Path, peer: &ClusterName, file: &str) -> anyhow::Result<()> {
    if file != file_name(peer) {
        bail!(
            "MeshPeer {peer} stands in {file}, which `connect` did not write: remove it there, and the peering ends"
        );
    }
    let path = path(manifests, peer);
    durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(())
}

/// The object of a peering that became active: without the deadline.
#[must_use]
pub fn active(peer: &MeshPeer) -> MeshPeer {
    let mut peer = peer.clone();
    peer.spec.connect = peer.spec.connect.map(|connect| Connect { deadline_s: None, ..connect });
    peer
}
