//! The one home of a VM's enrolment: a file in the manifests directory, or a custom resource.

use crate::{
    kubernetes::within,
    peers::{Home, MANAGER, others},
    source::{
        kubernetes::{MANAGED_BY, resource},
        object::ObjectKind,
        snapshot::Place,
    },
};
use anyhow::{Context as _, bail};
use api::{
    bytes::Uid,
    external_workload::ExternalWorkload,
    name::{NamespaceName, NodeName},
};
use daemon::durable;
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, PostParams, Preconditions},
};
use serde_json::json;

/// The namespace of an object that names none.
pub(super) fn namespace(workload: &ExternalWorkload) -> NamespaceName {
    let default = || "default".parse().expect("a namespace's name");
    workload.metadata.namespace.clone().unwrap_or_else(default)
}

/// Writes a new object; one of this name that is there stays.
pub(super) async fn write(home: &Home, workload: &ExternalWorkload) -> anyhow::Result<()> {
    let name = &workload.metadata.name;
    match home {
        Home::Directory(directory) => {
            let path = directory.join(file_name(name.as_str()));
            if path.try_exists().with_context(|| format!("cannot look at {}", path.display()))? {
                bail!("{} is there already: see what is wrong with it, or remove it", path.display());
            }
            let text = serde_saphyr::to_string(workload).context("cannot write the object as YAML")?;
            durable::write(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
        }
        Home::Kubernetes { client, .. } => {
            let namespace = namespace(workload);
            let object = json!({
                "apiVersion": workload.api_version,
                "kind": workload.kind,
                "metadata": {"name": name, "namespace": namespace, "labels": {MANAGED_BY: MANAGER}},
                "spec": workload.spec,
            });
            let object = serde_json::from_value(object).context("the object is no custom resource")?;
            let made =
                within(async { objects(client, &namespace).create(&PostParams::default(), &object).await });
            made.await
                .with_context(|| format!("cannot write ExternalWorkload {namespace}/{name} to Kubernetes"))?;
            Ok(())
        }
    }
}

/// Removes an object that we wrote, as the source has read it: where, and which.
pub(super) async fn remove(
    home: &Home,
    (namespace, name): (&NamespaceName, &NodeName),
    (place, uid): (&Place, Uid),
) -> anyhow::Result<()> {
    let file = file_name(name.as_str());
    if let Some(whose) = others(place, &file, "vm add") {
        bail!("ExternalWorkload {namespace}/{name} {whose}: remove it there");
    }
    match home {
        Home::Directory(directory) => {
            let path = directory.join(file);
            durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            Ok(())
        }
        Home::Kubernetes { client, .. } => {
            let api = objects(client, namespace);
            // One that was made anew under the name is another VM's.
            let judged = Preconditions { uid: Some(uid.to_string()), resource_version: None };
            let params = DeleteParams::default().preconditions(judged);
            let removed = within(async {
                match api.delete(name.as_str(), &params).await {
                    Ok(_) => Ok(()),
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    Err(error) => Err(error),
                }
            });
            removed
                .await
                .with_context(|| format!("cannot remove ExternalWorkload {namespace}/{name} from Kubernetes"))
        }
    }
}

fn objects(client: &Client, namespace: &NamespaceName) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace.as_str(), &resource(ObjectKind::ExternalWorkload))
}

/// `<manifests>/externalworkload-<name>.yaml`
fn file_name(name: &str) -> String {
    format!("externalworkload-{name}.yaml")
}
