//! The one home of a peering: a file in the manifests directory, or a custom resource; written and removed whole.

mod custom_resource;

pub use custom_resource::Changed;

use crate::source::{
    driver::PeerObject,
    kubernetes::{Events, resource},
    object::ObjectKind,
    snapshot::Place,
};
use anyhow::{Context, bail};
use api::{
    name::ClusterName,
    peer::{Connect, MeshPeer},
};
use daemon::durable;
use kube::{Api, Client, api::DynamicObject};
use replica::peering::CONNECT_WITHIN;
use std::path::{Path, PathBuf};

/// Who we are among those that write custom resources.
pub const MANAGER: &str = "clustermesh-apiserver";

/// Where MeshPeer objects are written. The source reads them there.
#[derive(Clone)]
pub enum Home {
    /// Files of the manifests directory.
    Directory(PathBuf),
    /// Custom resources.
    Kubernetes {
        /// With an identity that may write them.
        client: Client,
        /// Where refusals are said.
        events: Events,
    },
}

impl Home {
    /// Where an object that we write stands.
    #[must_use]
    pub fn place(&self, peer: &ClusterName) -> Place {
        match self {
            Self::Directory(_) => Place::File { file: file_name(peer), line: None },
            Self::Kubernetes { .. } => Place::Kubernetes { managed_by: MANAGER.to_owned() },
        }
    }

    /// Whether an object is one that we wrote, else who has to change it.
    ///
    /// # Errors
    /// Where it stands, and what to do.
    pub fn may_change(&self, peer: &ClusterName, place: &Place) -> Result<(), String> {
        match others(place, &file_name(peer), "connect") {
            None => Ok(()),
            Some(whose) => Err(format!("MeshPeer {peer} {whose}: change it there")),
        }
    }

    /// Writes the object: over the one that was judged, where there was one. Gives it as it stands then.
    ///
    /// # Errors
    /// When the disk, or the Kubernetes API, refuses; [`Changed`] when another one is there than was judged.
    pub async fn write(&self, peer: &MeshPeer, judged: Option<&PeerObject>) -> anyhow::Result<PeerObject> {
        let name = &peer.metadata.name;
        match self {
            Self::Directory(directory) => {
                let path = path(directory, name);
                let text = serde_saphyr::to_string(peer).context("cannot write the MeshPeer as YAML")?;
                durable::write(&path, text.as_bytes())
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Ok(PeerObject { peer: peer.clone(), place: self.place(name), version: None })
            }
            Self::Kubernetes { client, .. } => custom_resource::write(client, peer, judged).await,
        }
    }

    /// Removes the object that was judged.
    ///
    /// # Errors
    /// When the object is not ours to remove, or the disk or the Kubernetes API refuses; [`Changed`] when another one is
    /// there than was judged.
    pub async fn remove(&self, judged: &PeerObject) -> anyhow::Result<()> {
        let name = &judged.peer.metadata.name;
        if let Err(why) = self.may_change(name, &judged.place) {
            bail!("{why}; once it is removed there, the peering ends");
        }
        match self {
            Self::Directory(directory) => {
                let path = path(directory, name);
                durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                Ok(())
            }
            Self::Kubernetes { client, .. } => custom_resource::remove(client, judged).await,
        }
    }
}

/// Whose an object is that our own `command`, which writes `file`, has not written; none where it is ours.
#[must_use]
pub fn others(place: &Place, file: &str, command: &str) -> Option<String> {
    match place {
        Place::File { file: at, .. } if at == file => None,
        Place::File { file: at, .. } => Some(format!("stands in {at}, which `{command}` did not write")),
        Place::Kubernetes { managed_by } if managed_by == MANAGER => None,
        Place::Kubernetes { managed_by } => {
            let owner = if managed_by.is_empty() { "somebody else" } else { managed_by };
            Some(format!("is managed by {owner}, not by `{command}`"))
        }
    }
}

/// The custom resources.
pub(super) fn objects(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource(ObjectKind::MeshPeer))
}

/// `<manifests>/meshpeer-<name>.yaml`
#[must_use]
pub fn file_name(peer: &ClusterName) -> String {
    format!("meshpeer-{peer}.yaml")
}

fn path(manifests: &Path, peer: &ClusterName) -> PathBuf {
    manifests.join(file_name(peer))
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
            let contract =
                Contract { cidrs: vec![], namespaces: vec![], limits: Limits::default(), relay: vec![] };
            let (endpoints, trust_bundle, stale) = (vec![], String::new(), Stale::default());
            let spec = MeshPeerSpec {
                uuid: ClusterUuid([2; 16]),
                endpoints,
                through: None,
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
