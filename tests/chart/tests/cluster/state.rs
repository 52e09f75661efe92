//! The Secret of the cluster's state, in a real API server.

use super::{
    apiserver::{APISERVER, Pod},
    apply, cluster, so,
};
use anyhow::Context;
use chart::eventually;
use kube::api::{DeleteParams, ListParams};

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn the_state_secret_comes_again_when_somebody_deletes_it() {
    let (cluster, helm) = cluster().await;
    apply(&helm, "install", "minimal", &[]).unwrap();
    let (pod, _running) = Pod::ready(&cluster).await;
    let before = cluster.get("Secret", "mesh/mesh-clustermesh-state").await.unwrap();

    let secrets = cluster.api("Secret", Some(super::NAMESPACE)).await.unwrap();
    secrets.delete("mesh-clustermesh-state", &DeleteParams::default()).await.unwrap();
    let after = eventually("it is laid again", async || {
        cluster.get("Secret", "mesh/mesh-clustermesh-state").await.with_context(|| pod.log())
    })
    .await
    .unwrap();
    assert_ne!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert_eq!(before["data"], after["data"], "nothing of it is lost");
    eventually("it is told", async || {
        let events = cluster.api("Event", Some(super::NAMESPACE)).await?.list(&ListParams::default()).await?;
        let text = serde_json::to_string(&events.items)?;
        so(text.contains("StateDeleted"), || text.clone())
    })
    .await
    .unwrap();
    assert!(pod.log().contains("Somebody has deleted the Secret"), "{APISERVER}: {}", pod.log());

    let next = Pod::of(&cluster).await;
    next.init().unwrap();
    assert_eq!(pod.file("ca/key.pem"), next.file("ca/key.pem"), "the next pod is the same cluster");
}
