//! What is wrong around the apiserver is named where an operator looks, and costs nothing that was agreed.

use super::{
    NAMESPACE,
    apiserver::{APISERVER, Pod, Running},
    apply, cluster, namespace, so,
};
use anyhow::{Result, bail};
use chart::{Cluster, chart, eventually};
use expect_test::expect;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::{fs, process::Command};

/// What `/readyz` says, when it says this.
async fn not_ready(running: &Running, what: &str) -> String {
    eventually(what, async || match running.ready() {
        Err(why) if why.to_string().contains(what) => Ok(why.to_string()),
        other => bail!("{other:?}"),
    })
    .await
    .unwrap()
}

async fn deployment(cluster: &Cluster) -> Value {
    cluster.get("Deployment", &format!("{NAMESPACE}/{APISERVER}")).await.unwrap()
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn a_right_that_is_missing_is_named_by_verb_and_resource_and_is_enough_when_it_is_there() {
    let (cluster, helm) = cluster().await;
    apply(&helm, "install", "minimal", &[]).unwrap();
    let nobody = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": NAMESPACE}});
    cluster.create(&nobody).await.unwrap();
    let kubeconfig = cluster.kubeconfig_of(NAMESPACE, "nobody").await.unwrap();
    let pod = Pod::of(&cluster).await.with_kubeconfig(&kubeconfig);
    let said = pod.init().unwrap_err().to_string();
    let right = "cannot get resource \"secrets\" in API group \"\" in the namespace \"mesh\"";
    assert!(said.contains("cannot read Secret mesh-clustermesh-state") && said.contains(right), "{said}");

    // Its own account, from which somebody has taken the ClusterRole.
    let pod = Pod::of(&cluster).await;
    pod.init().unwrap();
    let bindings = cluster.api("ClusterRoleBinding", None).await.unwrap();
    let binding = bindings.get(APISERVER).await.unwrap();
    bindings.delete(APISERVER, &DeleteParams::default()).await.unwrap();
    let running = pod.run().unwrap();
    // Of which kind it is said first, is for the API server's answers to decide.
    let why = not_ready(&running, "cannot list resource \"").await;
    assert!(
        why.contains("at the cluster scope; the ClusterRole that is needed stands in docs/kubernetes.md"),
        "{why}"
    );

    let mut binding = serde_json::to_value(binding).unwrap();
    binding["metadata"] = json!({"name": APISERVER});
    cluster.create(&binding).await.unwrap();
    eventually("it is ready", async || running.ready()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn a_crd_that_is_missing_is_named_and_waited_for() {
    let (cluster, helm) = cluster().await;
    apply(&helm, "install", "minimal", &["crds.install=false"]).unwrap();
    let account = cluster.kubeconfig_of(NAMESPACE, APISERVER).await.unwrap();
    let pod = Pod::new(&deployment(&cluster).await, &account);
    pod.init().unwrap();
    let running = pod.run().unwrap();
    let why = not_ready(&running, "has no meshpeers in clustermesh.io/v1alpha1").await;
    assert!(why.contains("install the CRDs of docs/kubernetes.md"), "{why}");

    let mut apply = Command::new("kubectl");
    apply.arg("apply");
    for crd in ["files/meshpeers.yaml", "files/externalworkloads.yaml"] {
        apply.arg("-f").arg(chart().join(crd));
    }
    let applied = apply.env("KUBECONFIG", cluster.kubeconfig()).output().unwrap();
    assert!(applied.status.success(), "{applied:?}");
    eventually("it is ready", async || running.ready()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn a_name_that_two_clusters_claim_is_refused_by_the_one_that_is_asked() {
    let (cluster, helm) = cluster().await;
    apply(&helm, "install", "minimal", &[]).unwrap();
    let pod = Pod::of(&cluster).await;
    pod.init().unwrap();

    // A peer that has our own name.
    cluster.create(&super::rights::stranger("cluster-a", None)).await.unwrap();
    let _running = pod.start().await;
    let condition = eventually("the object's author is told", async || {
        let peer = cluster.get("MeshPeer", "cluster-a").await?;
        match peer.pointer("/status/conditions/0") {
            Some(condition) => Ok(condition.clone()),
            None => bail!("{peer}"),
        }
    })
    .await
    .unwrap();
    expect!["NotInForce: metadata.name: `cluster-a` is our own name: one of the two clusters needs another"]
        .assert_eq(&format!(
            "{}: {}",
            condition["reason"].as_str().unwrap(),
            condition["message"].as_str().unwrap()
        ));

    // Another cluster that claims a name under which one is known already.
    let known = super::meshpeer::valid("west");
    cluster.create(&known).await.unwrap();
    let peers = cluster.api("MeshPeer", None).await.unwrap();
    let other = Patch::Merge(json!({"spec": {"uuid": "33333333-3333-4333-8333-333333333333"}}));
    let refused = peers.patch("west", &PatchParams::default(), &other).await.unwrap_err().to_string();
    assert!(refused.contains("a peer with another UUID is another cluster; disconnect first"), "{refused}");

    // A cluster that takes the state of another one for its own.
    let set = ["cluster.name=cluster-b"];
    apply(&helm, "upgrade", "minimal", &set).unwrap();
    let said = Pod::of(&cluster).await.init().unwrap_err().to_string();
    assert!(said.contains("Secret mesh-clustermesh-state is cluster cluster-a's, not cluster-b's"), "{said}");
    assert!(said.contains("hint: a cluster keeps its name"), "{said}");
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn a_full_volume_ends_the_apiserver_by_name_and_with_space_again_all_is_there() {
    let (cluster, helm) = cluster().await;
    apply(&helm, "install", "minimal", &[]).unwrap();
    let policy = "/spec/template/spec/containers/0/terminationMessagePolicy";
    let policy = deployment(&cluster).await.pointer(policy).cloned();
    assert_eq!(policy, Some(json!("FallbackToLogsOnError")), "what it says last stands in the pod's status");
    cluster.create(&namespace("shop", "privileged")).await.unwrap();

    let pod = Pod::of(&cluster).await.on_volume("48m").unwrap();
    pod.init().unwrap();
    let mut running = pod.start().await;
    let revision = running.metric("mesh_apiserver_store_revision").unwrap();
    let uuid = pod.uuid();

    // Heartbeats are written all the time: nobody has to do anything.
    fill(&pod).unwrap();
    let well = eventually("it ends", async || running.ended()).await.unwrap();
    let log = pod.log();
    let last = log.lines().rev().take(3).collect::<Vec<_>>().join("\n");
    assert!(!well && last.contains("No space left on device"), "{log}");

    fs::remove_file(pod.path("junk")).unwrap();
    let running = pod.start().await;
    assert!(running.metric("mesh_apiserver_store_revision").unwrap() > revision, "it goes on where it was");
    assert_eq!(pod.uuid(), uuid);
    let aside = fs::read_dir(pod.path("")).unwrap().filter_map(Result::ok).map(|entry| entry.file_name());
    let aside: Vec<_> = aside.filter(|name| name.to_string_lossy().contains("damaged")).collect();
    assert!(aside.is_empty(), "no store was set aside: {aside:?}");
}

/// Writes until the volume is full.
fn fill(pod: &Pod) -> Result<()> {
    let block = vec![0x5a; 64 * 1024];
    let mut junk = fs::File::create(pod.path("junk"))?;
    loop {
        match std::io::Write::write(&mut junk, &block) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return so(false, || error.to_string()),
        }
    }
}
