//! The one home of a peering: a file in the manifests directory, written and removed whole.

use anyhow::{Context, bail};
use api::{
    name::ClusterName,
    peer::{Connect, MeshPeer},
};
use daemon::durable;
use replica::peering::CONNECT_WITHIN;
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

/// The object as it is kept when an operator's machine wrote its deadline: one that has passed by our clock, or lies
/// further away than a connect may take, comes from a clock that differs, and is measured by ours.
#[must_use]
pub fn by_our_clock(peer: &MeshPeer, now_s: u64) -> MeshPeer {
    let latest_s = now_s + CONNECT_WITHIN.as_secs();
    let mut peer = peer.clone();
    if let Some(Connect { deadline_s: Some(deadline_s), .. }) = &mut peer.spec.connect
        && !(now_s + 1..=latest_s).contains(deadline_s)
    {
        *deadline_s = latest_s;
    }
    peer
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{
        bytes::{ClusterUuid, Nonce},
        peer::{API_VERSION, Contract, KIND, Limits, MeshPeerSpec, Metadata, Stale},
    };

    #[test]
    fn a_deadline_of_a_clock_that_differs_is_measured_by_ours() {
        let deadline = |deadline_s| {
            let connect = Some(Connect { nonce: Nonce([1; 16]), deadline_s });
            let contract = Contract { cidrs: vec![], namespaces: vec![], limits: Limits::default() };
            let (endpoints, trust_bundle, stale) = (vec![], String::new(), Stale::default());
            let spec = MeshPeerSpec {
                uuid: ClusterUuid([2; 16]),
                endpoints,
                trust_bundle,
                contract,
                stale,
                connect,
            };
            let metadata = Metadata { name: "west".parse().unwrap() };
            let peer = MeshPeer { api_version: API_VERSION.into(), kind: KIND.into(), metadata, spec };
            by_our_clock(&peer, 10_000).spec.connect.unwrap().deadline_s
        };
        assert_eq!(deadline(Some(10_030)), Some(10_030), "ours and theirs agree");
        assert_eq!(deadline(Some(10_000 - 3_600)), Some(10_060), "theirs is an hour behind");
        assert_eq!(deadline(Some(10_000 + 3_600)), Some(10_060), "theirs is an hour ahead");
        assert_eq!(deadline(None), None, "an active object has none");
    }
}
