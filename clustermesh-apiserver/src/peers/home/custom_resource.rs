//! MeshPeer as a custom resource, changed and removed only as the object that was judged.
//!
//! A name is no identity: between a decision and its write somebody may have edited the object, or removed it and made
//! another one of its name. So what is there is read again and compared, and the write carries the UID and the version
//! of what was compared (Kubernetes API conventions, Concurrency Control and Consistency).

use super::{MANAGER, objects};
use crate::kubernetes::{ANSWER_MAX, within};
use crate::source::{
    driver::PeerObject,
    kubernetes::{MANAGED_BY, place, version},
};
use anyhow::{Context, bail};
use api::{
    name::ClusterName,
    peer::{MeshPeer, MeshPeerSpec},
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};

/// How often a write is tried when only what is not ours, such as a label or the status, was changed meanwhile.
const TRIES_MAX: usize = 5;

/// The object is not the one that was judged.
#[derive(Debug, thiserror::Error)]
pub enum Changed {
    /// It has another spec.
    #[error("somebody has changed MeshPeer {0} meanwhile: look at it, and do it again")]
    Edited(ClusterName),
    /// It is gone, and there may be another one of its name.
    #[error("MeshPeer {0} is not the one any more that was looked at: look again, and do it again")]
    Replaced(ClusterName),
    /// There was none.
    #[error(
        "there is a MeshPeer {0} already, which was made meanwhile or cannot be read: see kubectl describe meshpeer {0}"
    )]
    Exists(ClusterName),
}

/// Makes the object, or changes the one that was judged. Gives it as it is then.
pub(super) async fn write(
    client: &Client,
    peer: &MeshPeer,
    judged: Option<&PeerObject>,
) -> anyhow::Result<PeerObject> {
    let name = &peer.metadata.name;
    let api = objects(client);
    let written = match judged {
        None => create(&api, peer).await,
        Some(judged) => change(&api, peer, judged).await,
    };
    let written = written.with_context(|| format!("cannot write MeshPeer {name} to Kubernetes"))?;
    Ok(PeerObject { peer: peer.clone(), place: place(&written), version: version(&written) })
}

async fn create(api: &Api<DynamicObject>, peer: &MeshPeer) -> anyhow::Result<DynamicObject> {
    let name = &peer.metadata.name;
    let object = json!({
        "apiVersion": peer.api_version,
        "kind": peer.kind,
        "metadata": {"name": name, "labels": {MANAGED_BY: MANAGER}},
        "spec": peer.spec,
    });
    let object = serde_json::from_value(object).context("a MeshPeer is an object")?;
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match tokio::time::timeout(ANSWER_MAX, api.create(&params, &object)).await {
        Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => {
            bail!(Changed::Exists(name.clone()))
        }
        Ok(made) => Ok(made?),
        Err(_) => bail!("the Kubernetes API does not answer within {ANSWER_MAX:?}"),
    }
}

async fn change(
    api: &Api<DynamicObject>,
    peer: &MeshPeer,
    judged: &PeerObject,
) -> anyhow::Result<DynamicObject> {
    let name = &peer.metadata.name;
    let wanted = serde_json::to_value(&peer.spec).context("a spec is JSON")?;
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    for _ in 0..TRIES_MAX {
        let Some(held) = read(api, judged).await? else { bail!(Changed::Replaced(name.clone())) };
        let metadata = json!({
            "uid": held.metadata.uid,
            "resourceVersion": held.metadata.resource_version,
            "labels": {MANAGED_BY: MANAGER},
        });
        let spec = replacing(&held.data["spec"], &wanted);
        let patch = Patch::Merge(json!({"metadata": metadata, "spec": spec}));
        let patched = api.patch(name.as_str(), &params, &patch);
        match tokio::time::timeout(ANSWER_MAX, patched).await {
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() => {}
            Ok(patched) => return Ok(patched?),
            Err(_) => bail!("the Kubernetes API does not answer within {ANSWER_MAX:?}"),
        }
    }
    bail!("somebody changes it all the time")
}

/// Removes the object that was judged; it is no error that it is gone.
pub(super) async fn remove(client: &Client, judged: &PeerObject) -> anyhow::Result<()> {
    let name = &judged.peer.metadata.name;
    let removed = delete(&objects(client), judged).await;
    removed.with_context(|| format!("cannot remove MeshPeer {name} from Kubernetes"))
}

async fn delete(api: &Api<DynamicObject>, judged: &PeerObject) -> anyhow::Result<()> {
    let name = judged.peer.metadata.name.as_str();
    for _ in 0..TRIES_MAX {
        let Some(held) = read(api, judged).await? else { return Ok(()) };
        let preconditions =
            Preconditions { uid: held.metadata.uid, resource_version: held.metadata.resource_version };
        let params = DeleteParams::default().preconditions(preconditions);
        match tokio::time::timeout(ANSWER_MAX, api.delete(name, &params)).await {
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => return Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() => {}
            Ok(deleted) => return Ok(deleted.map(drop)?),
            Err(_) => bail!("the Kubernetes API does not answer within {ANSWER_MAX:?}"),
        }
    }
    bail!("somebody changes it all the time")
}

/// The object as it is now; none when there is none of its name. What else is there is an error.
async fn read(api: &Api<DynamicObject>, judged: &PeerObject) -> anyhow::Result<Option<DynamicObject>> {
    let name = &judged.peer.metadata.name;
    let Some(held) = within(api.get_opt(name.as_str())).await? else { return Ok(None) };
    let uid = judged.version.as_ref().map(|version| &version.uid);
    if uid.is_none() || held.metadata.uid.as_ref() != uid {
        bail!(Changed::Replaced(name.clone()));
    }
    let spec = serde_json::from_value::<MeshPeerSpec>(held.data["spec"].clone());
    if !spec.is_ok_and(|spec| spec == judged.peer.spec) {
        bail!(Changed::Edited(name.clone()));
    }
    Ok(Some(held))
}

/// What makes one value another one as a merge patch: what is not wanted is null (RFC 7396).
fn replacing(held: &Value, wanted: &Value) -> Value {
    let (Value::Object(held), Value::Object(wanted)) = (held, wanted) else { return wanted.clone() };
    let gone = held.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let kept = wanted.iter().map(|(key, value)| {
        let before = held.get(key).unwrap_or(&Value::Null);
        (key.clone(), replacing(before, value))
    });
    Value::Object(gone.chain(kept).collect())
}

#[cfg(test)]
mod tests;
