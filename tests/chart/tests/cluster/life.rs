//! Installed, upgraded, rolled back, uninstalled.

use super::{NAMESPACE, apply, cluster, so};
use anyhow::Result;
use chart::{Cluster, Installed, eventually};
use expect_test::expect;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NODES: [&str; 2] = ["n1", "n2"];

/// The node that carries the label by which a relay runs on it.
const RELAY: &str = "n1";

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn installed_upgraded_without_touching_tunnels_and_relays_rolled_back_and_uninstalled_with_nothing_left()
 {
    let (cluster, helm) = cluster().await;
    for node in NODES {
        cluster.create(&self::node(node)).await.unwrap();
    }
    // What the Prometheus operator brings; its own schema is not checked.
    for (kind, plural) in [("ServiceMonitor", "servicemonitors"), ("PrometheusRule", "prometheusrules")] {
        cluster.create(&monitoring(kind, plural)).await.unwrap();
        eventually(kind, async || {
            cluster.api(kind, None).await?.list(&ListParams::default()).await.map(drop).map_err(Into::into)
        })
        .await
        .unwrap();
    }
    let before = cluster.inventory().await.unwrap();

    let notes = apply(&helm, "install", "everything", &["tunnel.image.tag="]).unwrap();
    assert!(notes.contains("Cluster cluster-a: the apiserver"), "{notes}");
    let first = pods(&cluster, "v9").await;
    let made = cluster.inventory().await.unwrap();
    expect![[r#"
        APIService v1alpha1.clustermesh.io
        ClusterRole mesh-clustermesh-apiserver
        ClusterRoleBinding mesh-clustermesh-apiserver
        ConfigMap mesh/mesh-clustermesh-bundle
        ConfigMap mesh/mesh-clustermesh-dashboard
        CustomResourceDefinition externalworkloads.clustermesh.io
        CustomResourceDefinition meshpeers.clustermesh.io
        DaemonSet mesh/mesh-clustermesh-agent
        DaemonSet mesh/mesh-clustermesh-relay
        DaemonSet mesh/mesh-clustermesh-tunnel
        Deployment mesh/mesh-clustermesh-apiserver
        PersistentVolumeClaim mesh/mesh-clustermesh-apiserver
        PodDisruptionBudget mesh/mesh-clustermesh-apiserver
        PrometheusRule mesh/mesh-clustermesh
        Role mesh/mesh-clustermesh-apiserver
        Role mesh/mesh-clustermesh-operator
        RoleBinding mesh/mesh-clustermesh-apiserver
        Secret mesh/sh.helm.release.v1.mesh.v1
        Service mesh/mesh-clustermesh-agent-metrics
        Service mesh/mesh-clustermesh-apiserver
        Service mesh/mesh-clustermesh-apiserver-metrics
        ServiceAccount mesh/mesh-clustermesh-agent
        ServiceAccount mesh/mesh-clustermesh-apiserver
        ServiceAccount mesh/mesh-clustermesh-operator
        ServiceAccount mesh/mesh-clustermesh-relay
        ServiceAccount mesh/mesh-clustermesh-tunnel
        ServiceMonitor mesh/mesh-clustermesh"#]]
    .assert_eq(&list(made.difference(&before).filter(|it| {
        !it.starts_with("Pod ") && !it.starts_with("ReplicaSet ") && !it.starts_with("ControllerRevision ")
    })));

    // The apiserver writes its bundle, as it does with server-side apply.
    let maps = cluster.api("ConfigMap", Some(NAMESPACE)).await.unwrap();
    let bundle = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"bundle.pem": "a certificate"}});
    let params = PatchParams::apply("clustermesh-apiserver").force();
    maps.patch("mesh-clustermesh-bundle", &params, &Patch::Apply(&bundle)).await.unwrap();

    apply(&helm, "upgrade", "everything", &["tunnel.image.tag=", "image.tag=v10"]).unwrap();
    let second = pods(&cluster, "v10").await;
    for node in NODES {
        assert_ne!(first[&("agent", node)], second[&("agent", node)], "agents are replaced");
        assert_eq!(first[&("tunnel", node)], second[&("tunnel", node)], "tunnels are not");
    }
    assert_eq!(first[&("relay", RELAY)], second[&("relay", RELAY)], "nor is the relay");
    let kept = cluster.get("ConfigMap", "mesh/mesh-clustermesh-bundle").await.unwrap();
    assert_eq!(kept["data"]["bundle.pem"], "a certificate", "an upgrade leaves what it does not say");

    // When a node may lose its tunnels, somebody says so.
    let (pod, _) = &second[&("tunnel", "n1")];
    let api = cluster.api("Pod", Some(NAMESPACE)).await.unwrap();
    api.delete(pod, &DeleteParams::default()).await.unwrap();
    eventually("the tunnel of n1 is a new one", async || {
        let now = all_pods(&cluster).await?;
        let image = now.get(&("tunnel", "n1")).map(|(.., image)| image.clone()).unwrap_or_default();
        so(image == "registry.example/mesh/clustermesh-tunnel:v10", || format!("{now:?}"))
    })
    .await
    .unwrap();

    helm.ok(&["rollback", "mesh", "1", "--namespace", NAMESPACE]).unwrap();
    let third = pods(&cluster, "v9").await;
    for node in NODES {
        assert_ne!(second[&("agent", node)], third[&("agent", node)], "agents are replaced");
    }
    assert_eq!(second[&("tunnel", "n2")], third[&("tunnel", "n2")], "tunnels are not");
    assert_eq!(second[&("relay", RELAY)], third[&("relay", RELAY)], "nor is the relay");
    let history = helm.ok(&["history", "mesh", "--namespace", NAMESPACE, "--output", "json"]).unwrap();
    let history: Value = serde_json::from_str(&history).unwrap();
    let told: Vec<_> =
        history.as_array().unwrap().iter().map(|it| it["description"].as_str().unwrap()).collect();
    assert_eq!(told, ["Install complete", "Upgrade complete", "Rollback to 1"]);

    helm.ok(&["uninstall", "mesh", "--namespace", NAMESPACE]).unwrap();
    gone(&cluster, &before).await;
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn an_uninstall_keeps_what_was_agreed_with_peers_unless_told_otherwise() {
    let (cluster, helm) = cluster().await;
    let before = cluster.inventory().await.unwrap();
    apply(&helm, "install", "minimal", &[]).unwrap();
    eventually("the CRD is served", async || cluster.api("MeshPeer", None).await.map(drop)).await.unwrap();
    let peer = super::meshpeer::valid("west");
    eventually("the peer is taken", async || cluster.create(&peer).await).await.unwrap();

    let said = helm.ok(&["uninstall", "mesh", "--namespace", NAMESPACE]).unwrap();
    assert!(said.contains("[CustomResourceDefinition] meshpeers.clustermesh.io"), "{said}");
    let kept = [
        "APIService v1alpha1.clustermesh.io",
        "CustomResourceDefinition externalworkloads.clustermesh.io",
        "CustomResourceDefinition meshpeers.clustermesh.io",
        "MeshPeer west",
    ]
    .map(str::to_owned);
    gone(&cluster, &before.iter().cloned().chain(kept).collect()).await;

    // The same release finds them again.
    apply(&helm, "install", "minimal", &["crds.keep=false"]).unwrap();
    cluster.get("MeshPeer", "west").await.unwrap();
    helm.ok(&["uninstall", "mesh", "--namespace", NAMESPACE]).unwrap();
    gone(&cluster, &before).await;
}

async fn gone(cluster: &Cluster, before: &Installed) {
    eventually("nothing is left", async || {
        let now = cluster.inventory().await?;
        so(now == *before, || {
            format!("left: {}\nmissing: {}", list(now.difference(before)), list(before.difference(&now)))
        })
    })
    .await
    .unwrap();
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// Pods by component and node: name and UID, and of which image.
type Pods = BTreeMap<(&'static str, &'static str), (String, String)>;

/// Of every node, once agents are of this version.
async fn pods(cluster: &Cluster, version: &str) -> Pods {
    let image = format!("registry.example/mesh/clustermesh-node-agent:{version}");
    let all = eventually("agents of the new version", async || {
        let all = all_pods(cluster).await?;
        let agents = all.iter().filter(|((it, _), (.., is))| *it == "agent" && *is == image).count();
        // And one relay: the other node has no label.
        let relay = all.contains_key(&("relay", RELAY));
        so(all.len() == 2 * NODES.len() + 1 && agents == NODES.len() && relay, || format!("{all:?}"))?;
        Ok(all)
    });
    let all = all.await.unwrap();
    all.into_iter().map(|(at, (name, uid, _))| (at, (name, uid))).collect()
}

/// Of agents, tunnels and relays that are to stay; no kubelet runs them, so the DaemonSet's wish says on which node they are.
async fn all_pods(
    cluster: &Cluster,
) -> Result<BTreeMap<(&'static str, &'static str), (String, String, String)>> {
    let mut all = BTreeMap::new();
    for pod in cluster.api("Pod", Some(NAMESPACE)).await?.list(&ListParams::default()).await? {
        let pod = serde_json::to_value(pod)?;
        let component = pod["metadata"]["labels"]["app.kubernetes.io/component"].as_str();
        let wish = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            .to_string();
        let node = NODES.into_iter().find(|node| wish.contains(&format!("\"{node}\"")));
        let component = ["agent", "tunnel", "relay"].into_iter().find(|it| component == Some(it));
        let (Some(component), Some(node), None) = (component, node, pod["metadata"].get("deletionTimestamp"))
        else {
            continue;
        };
        let text = |at: &str| pod.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let it = (text("/metadata/name"), text("/metadata/uid"), text("/spec/containers/0/image"));
        all.insert((component, node), it);
    }
    Ok(all)
}

fn node(name: &str) -> Value {
    let mut labels = json!({"kubernetes.io/os": "linux"});
    if name == RELAY {
        // What its values say beside what they have from the chart.
        labels["clustermesh.io/relay"] = json!("true");
        labels["example.com/border"] = json!("true");
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
}

fn monitoring(kind: &str, plural: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version =
        json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    let names = json!({"kind": kind, "plural": plural});
    let spec = json!({"group": "monitoring.coreos.com", "scope": "Namespaced", "names": names, "versions": [version]});
    let metadata = json!({"name": format!("{plural}.monitoring.coreos.com")});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata, "spec": spec})
}
