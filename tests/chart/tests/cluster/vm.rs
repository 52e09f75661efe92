//! VMs of a cluster whose objects come from the Kubernetes API: added, invited and removed by an operator, or by kubectl.

use super::{
    cluster,
    operator::{alice, bind, meshctl, running},
};
use chart::eventually;
use kube::api::DeleteParams;
use serde_json::{Value, json};

fn workload(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "clustermesh.io/v1alpha1",
        "kind": "ExternalWorkload",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn an_operator_adds_a_vm_as_a_custom_resource_and_removes_what_he_added_and_nothing_else() {
    let (cluster, helm) = cluster().await;
    let (_pod, _running) = running(&cluster, &helm).await;
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = alice(&cluster, dir.path()).await;
    bind(&cluster, "mesh-clustermesh-operator").await;

    let add = ["vm", "add", "web-1", "--namespace", "default", "--labels", "app=web", "--serve", "cart:8080"];
    let (code, line, stderr) = meshctl(&kubeconfig, &add);
    assert!(code == 0 && line.starts_with("mesh-vm-agent join mesh-vm-"), "{line}{stderr}");
    let object = cluster.get("ExternalWorkload", "default/web-1").await.unwrap();
    assert_eq!(
        object["spec"],
        json!({"labels": {"app": "web"}, "serve": [{"service": "cart", "port": 8080}]})
    );
    let (code, _, stderr) = meshctl(&kubeconfig, &add);
    assert!(code == 4 && stderr.contains("the name is taken by ExternalWorkload default/web-1"), "{stderr}");

    // kubectl's, or a GitOps tool's: invited, listed, and not ours to remove.
    cluster.create(&workload("db-1", &json!({}))).await.unwrap();
    eventually("it is listed", async || {
        let (_, list, stderr) = meshctl(&kubeconfig, &["vm", "list"]);
        super::so(list.contains("db-1") && list.contains("not joined"), || format!("{list}{stderr}"))
    })
    .await
    .unwrap();
    let (code, line, stderr) = meshctl(&kubeconfig, &["vm", "token", "db-1"]);
    assert!(code == 0 && line.starts_with("mesh-vm-agent join mesh-vm-"), "{line}{stderr}");
    let (code, _, stderr) = meshctl(&kubeconfig, &["vm", "remove", "db-1"]);
    assert!(code == 4 && stderr.contains("is managed by somebody else, not by `vm add`"), "{stderr}");

    let (code, stdout, stderr) = meshctl(&kubeconfig, &["vm", "remove", "web-1"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    cluster.get("ExternalWorkload", "default/web-1").await.unwrap_err();
    cluster.get("ExternalWorkload", "default/db-1").await.unwrap();
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn a_vm_that_nobody_could_use_is_refused_with_the_field_named() {
    let (cluster, helm) = cluster().await;
    super::apply(&helm, "install", "minimal", &[]).unwrap();
    eventually("the CRD is served", async || {
        cluster.create(&workload("first", &json!({"allNamespaces": true}))).await?;
        let all = cluster.api("ExternalWorkload", Some("default")).await?;
        Ok(all.delete("first", &DeleteParams::default()).await?)
    })
    .await
    .unwrap();
    let programs = json!({"programs": [
        {"name": "billing", "unit": "billing.service", "labels": {"app": "billing"}, "serve": [{"service": "cart", "port": 80}]},
        {"name": "card", "unit": r"web\x2dcard@1.service", "slice": "pay-card.slice", "serviceAccount": "card"},
        {"name": "jobs", "user": "1000"},
    ]});
    cluster.create(&workload("programs", &programs)).await.unwrap();
    assert_eq!(cluster.get("ExternalWorkload", "default/programs").await.unwrap()["spec"], programs);
    for (spec, field) in [
        (json!({"labels": {"app": "x".repeat(64)}}), "spec.labels"),
        (json!({"serviceAccount": "Legacy"}), "spec.serviceAccount"),
        (json!({"namespaces": ["a_b"]}), "spec.namespaces[0]"),
        (json!({"namespaces": ["db"], "allNamespaces": true}), "spec"),
        (json!({"serve": [{"service": "cart"}]}), "spec.serve[0].port"),
        (json!({"serve": [{"service": "cart", "port": 70_000}]}), "spec.serve[0].port"),
        (json!({"serve": [{"service": "Cart", "port": 80}]}), "spec.serve[0].service"),
        (json!({"programs": [{"name": "a"}]}), "spec.programs[0]"),
        (json!({"programs": [{"name": "a", "unit": "a.service", "user": "a"}]}), "spec.programs[0]"),
        (json!({"programs": [{"name": "a", "user": "a", "slice": "a.slice"}]}), "spec.programs[0]"),
        (json!({"programs": [{"name": "a", "unit": "../a.service"}]}), "spec.programs[0].unit"),
        (
            json!({"programs": [{"name": "a", "unit": "a.service", "slice": "a--b.slice"}]}),
            "spec.programs[0].slice",
        ),
        (json!({"programs": [{"name": "a", "user": "a b"}]}), "spec.programs[0].user"),
        (json!({"programs": [{"name": "a", "user": "a"}, {"name": "a", "user": "b"}]}), "spec.programs[1]"),
        (
            json!({"programs": (0..17).map(|n| json!({"name": format!("a{n}"), "user": "a"})).collect::<Vec<_>>()}),
            "spec.programs",
        ),
    ] {
        let refused = cluster.create(&workload("web-1", &spec)).await.unwrap_err();
        let text = format!("{refused:#}");
        assert!(text.contains(field), "{spec}: {text}");
    }
}
