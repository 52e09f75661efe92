//! What the pods of the chart need of a namespace.

use super::{cluster, namespace};
use chart::{Cluster, Helm};
use expect_test::{Expect, expect};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// A pod of a component, as its controller would make it.
fn pod(objects: &[Value], component: &str) -> Value {
    let template = objects.iter().find_map(|it| {
        let template = it.pointer("/spec/template")?;
        (template["metadata"]["labels"]["app.kubernetes.io/component"] == component).then_some(template)
    });
    let mut pod = template.expect("it has a template").clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(component);
    pod["spec"]["serviceAccountName"] = json!("default");
    pod
}

async fn make(cluster: &Cluster, namespace: &str, pod: &Value) -> kube::Result<()> {
    let api = cluster.api("Pod", Some(namespace)).await.unwrap();
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry, &serde_json::from_value(pod.clone()).unwrap()).await.map(drop)
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn the_apiserver_runs_restricted_and_what_agents_tunnels_and_relays_need_is_known() {
    let (cluster, helm) = cluster().await;
    for level in ["restricted", "baseline"] {
        cluster.create(&namespace(level, level)).await.unwrap();
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": level}});
        // The controller may have been quicker.
        drop(cluster.create(&account).await);
    }
    let minimal = helm.objects("minimal", &["relay.enabled=true"]).unwrap();
    make(&cluster, "restricted", &pod(&minimal, "apiserver")).await.unwrap();
    let test = minimal.iter().find(|it| it["kind"] == "Pod").expect("helm test's pod");
    let mut test = test.clone();
    test["metadata"]["namespace"] = json!("restricted");
    make(&cluster, "restricted", &test).await.unwrap();

    let refused = async |component: &str, expected: Expect| {
        let Err(kube::Error::Api(status)) = make(&cluster, "baseline", &pod(&minimal, component)).await
        else {
            panic!("{component} is taken");
        };
        let (_, why) =
            status.message.split_once("PodSecurity \"baseline:latest\": ").expect("why it is refused");
        expected.assert_eq(&why.replace("), ", "),\n"));
    };
    refused("tunnel", expect![[r#"
        non-default capabilities (container "tunnel" must not include "NET_ADMIN" in securityContext.capabilities.add),
        host namespaces (hostNetwork=true),
        hostPath volumes (volumes "tun", "state", "uapi")"#]]).await;
    refused(
        "relay",
        expect![[r#"
        host namespaces (hostNetwork=true),
        hostPath volumes (volumes "state", "uapi")"#]],
    )
    .await;
    refused(
        "agent",
        expect![[r#"
        host namespaces (hostNetwork=true),
        hostPath volumes (volumes "state", "uapi", "bpf", "cgroup", "cni-results", "netns"),
        hostPort (container "agent" uses hostPort 9878),
        probe or lifecycle host (container "agent" uses probe or lifecycle host "127.0.0.1"),
        privileged (container "agent" must not set securityContext.privileged=true)"#]],
    )
    .await;
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn no_field_is_unknown_to_the_api_server() {
    let (cluster, helm) = cluster().await;
    for name in ["minimal", "everything"] {
        for object in objects(&helm, name) {
            let (kind, of) = (object["kind"].as_str().unwrap(), object["metadata"]["namespace"].as_str());
            let api = cluster.api(kind, of).await.unwrap();
            let strict =
                PatchParams { dry_run: true, ..PatchParams::apply("test").force().validation_strict() };
            let name = object["metadata"]["name"].as_str().unwrap();
            let taken = api.patch(name, &strict, &Patch::Apply(&object)).await;
            taken.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
        }
    }
}

/// All but those of the Prometheus operator, whose schema is its own.
fn objects(helm: &Helm, name: &str) -> Vec<Value> {
    let all = helm.objects(name, &[]).unwrap();
    all.into_iter().filter(|it| it["apiVersion"] != "monitoring.coreos.com/v1").collect()
}
