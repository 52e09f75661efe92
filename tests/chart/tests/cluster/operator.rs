//! What an operator needs of Kubernetes, and that it suffices: `meshctl` by a kubeconfig, as somebody who may nothing else.

use super::{
    NAMESPACE,
    apiserver::{Pod, Running},
    apply, cluster,
    rights::rules,
};
use chart::{Cluster, Kubelet, eventually, ours};
use expect_test::expect;
use kube::api::{Patch, PatchParams};
use lab::free_port;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Somebody with an account and no rights.
const ALICE: &str = "alice";

/// The apiserver of the chart, which says that it is at the address where it is.
pub(super) async fn running(cluster: &Cluster, helm: &chart::Helm) -> (Pod, Running) {
    let at = free_port();
    apply(helm, "install", "minimal", &[&format!("apiserver.advertise={{{at}}}")]).unwrap();
    started(cluster, at).await
}

async fn started(cluster: &Cluster, at: std::net::SocketAddr) -> (Pod, Running) {
    let pod = Pod::of(cluster).await;
    pod.init().unwrap();
    let running = pod.run_at(at).unwrap();
    eventually("it is ready", async || running.ready()).await.unwrap();
    eventually("it says who it is", async || {
        let map = cluster.get("ConfigMap", "mesh/mesh-clustermesh-bundle").await?;
        super::so(map.pointer("/data/cluster.yaml").is_some(), || map.to_string())
    })
    .await
    .unwrap();
    (pod, running)
}

/// Alice's kubeconfig: a program tells her token, as those of cloud providers do.
pub(super) async fn alice(cluster: &Cluster, dir: &Path) -> PathBuf {
    let metadata = json!({"name": ALICE, "namespace": NAMESPACE});
    cluster
        .create(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))
        .await
        .unwrap();
    let with_token = cluster.kubeconfig_of(NAMESPACE, ALICE).await.unwrap();
    let mut config: Value = serde_json::from_str(&fs::read_to_string(with_token).unwrap()).unwrap();
    let version = "client.authentication.k8s.io/v1";
    let token = config["users"][0]["user"]["token"].take();
    let credential = json!({"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}});
    fs::write(dir.join("credential.json"), credential.to_string()).unwrap();
    let exec = json!({
        "apiVersion": version,
        "command": "cat",
        "args": [dir.join("credential.json")],
        "interactiveMode": "Never",
    });
    config["users"][0]["user"] = json!({ "exec": exec });
    config["contexts"][0]["name"] = json!("ctx-a");
    let file = dir.join("kubeconfig");
    fs::write(&file, config.to_string()).unwrap();
    file
}

/// Binds alice to a Role.
pub(super) async fn bind(cluster: &Cluster, role: &str) {
    let metadata = json!({"name": format!("alice-{role}"), "namespace": NAMESPACE});
    let subject = json!({"kind": "ServiceAccount", "name": ALICE, "namespace": NAMESPACE});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role});
    cluster
        .create(
            &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": role, "subjects": [subject]}),
        )
        .await
        .unwrap();
}

/// Binds alice to the chart's Role, by the command of the page.
fn as_documented(cluster: &Cluster) {
    let page = fs::read_to_string(chart::chart().join("../../docs/kubernetes.md")).unwrap();
    let mut lines = page.lines().filter(|line| line.contains("create rolebinding"));
    let line = lines.next().expect("the page says how operators are made");
    let line = line.replace("-n clustermesh", &format!("-n {NAMESPACE}"));
    let alice = format!("--serviceaccount={NAMESPACE}:{ALICE}");
    let line = line.replace("--user=alice", &alice);
    assert!(line.contains(&alice) && lines.next().is_none(), "{line}");
    let ran =
        Command::new("sh").arg("-c").arg(&line).env("KUBECONFIG", cluster.kubeconfig()).output().unwrap();
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Exit code, stdout and stderr of `meshctl --context ctx-a`.
pub(super) fn meshctl(kubeconfig: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(ours("meshctl").unwrap());
    command.args(["--context", "ctx-a"]).args(args);
    // Whatever the one who runs the tests has at home.
    command.env("KUBECONFIG", kubeconfig).env("HOME", kubeconfig.parent().unwrap()).env_remove("MESHCONFIG");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn the_charts_role_makes_an_operator_and_what_is_missing_is_named() {
    let (cluster, helm) = cluster().await;
    let (pod, _running) = running(&cluster, &helm).await;
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = alice(&cluster, dir.path()).await;

    let (code, _, stderr) = meshctl(&kubeconfig, &["peer", "list"]);
    expect![[r#"
        error: context ctx-a may not list configmaps in namespace mesh: the Kubernetes API forbids it
        hint: whoever administers mesh binds the chart's Role to you: kubectl -n mesh create rolebinding mesh-operators --role=RELEASE-clustermesh-operator --user=YOU
    "#]].assert_eq(&stderr);
    assert_eq!(code, 4);

    // Who may find the cluster is no operator yet.
    let rules_of = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]);
    let metadata = json!({"name": "finder", "namespace": NAMESPACE});
    cluster
        .create(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules_of}))
        .await
        .unwrap();
    bind(&cluster, "finder").await;
    let (code, _, stderr) = meshctl(&kubeconfig, &["peer", "list"]);
    assert_eq!(code, 4, "{stderr}");
    let right = "may not create serviceaccounts/token mesh-clustermesh-operator in namespace mesh";
    assert!(stderr.contains(right), "{stderr}");

    as_documented(&cluster);
    expect![[r#"
        configmaps: list
        pods/portforward: get,create
        pods: list
        serviceaccounts/token mesh-clustermesh-operator: create"#]]
    .assert_eq(&rules(&cluster, ALICE, NAMESPACE).await);
    assert_eq!(rules(&cluster, ALICE, "kube-system").await, "");
    let (code, stdout, stderr) = meshctl(&kubeconfig, &["peer", "list"]);
    assert!(code == 0 && stdout.starts_with("CLUSTER"), "{code}: {stdout}{stderr}");
    assert!(pod.log().contains("Enrolled an operator"), "{}", pod.log());
    let (code, stdout, _) = meshctl(&kubeconfig, &["store", "get", "cluster", "-o", "json"]);
    assert!(code == 0 && stdout.contains("mesh/v1/cluster-a/cluster"), "{stdout}");

    let (code, _, stderr) = meshctl(&kubeconfig, &["--mesh-namespace", "elsewhere", "peer", "list"]);
    assert!(code == 4 && stderr.contains("may not list configmaps in namespace elsewhere"), "{stderr}");
    let (code, _, stderr) = meshctl(&kubeconfig, &["connect", "ctx-a", "ctx-b"]);
    assert!(code == 1 && stderr.contains("no context is called ctx-b; there is: ctx-a"), "{code}: {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn an_apiserver_whose_address_does_not_answer_is_reached_by_a_port_forward() {
    let (cluster, helm) = cluster().await;
    // Nobody is at port 1.
    apply(&helm, "install", "minimal", &["apiserver.advertise={127.0.0.1:1}"]).unwrap();
    let at = free_port();
    let (_pod, _running) = started(&cluster, at).await;
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = alice(&cluster, dir.path()).await;
    bind(&cluster, "mesh-clustermesh-operator").await;

    let (code, _, stderr) = meshctl(&kubeconfig, &["peer", "list"]);
    assert!(
        code == 3 && stderr.contains("no pod of the apiserver runs in namespace mesh"),
        "{code}: {stderr}"
    );

    let kubelet = Kubelet::start(at).await.unwrap();
    runs_on(&cluster, kubelet.port()).await;
    let (code, stdout, stderr) = meshctl(&kubeconfig, &["store", "get", "cluster", "-o", "json"]);
    assert!(code == 0 && stdout.contains("mesh/v1/cluster-a/cluster"), "{code}: {stdout}{stderr}");
}

/// A node whose kubelet is at a port of loopback, and on it the apiserver's pod.
async fn runs_on(cluster: &Cluster, kubelet: u16) {
    let metadata = json!({"name": "n1"});
    cluster.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata})).await.unwrap();
    let addresses = json!([{"type": "InternalIP", "address": "127.0.0.1"}]);
    let endpoints = json!({"kubeletEndpoint": {"Port": kubelet}});
    let status = json!({"status": {"addresses": addresses, "daemonEndpoints": endpoints}});
    let nodes = cluster.api("Node", None).await.unwrap();
    nodes.patch_status("n1", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();

    let deployment = cluster.get("Deployment", "mesh/mesh-clustermesh-apiserver").await.unwrap();
    let mut pod = deployment.pointer("/spec/template").unwrap().clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("apiserver");
    pod["metadata"]["namespace"] = json!(NAMESPACE);
    pod["spec"]["nodeName"] = json!("n1");
    cluster.create(&pod).await.unwrap();
    let pods = cluster.api("Pod", Some(NAMESPACE)).await.unwrap();
    let status = json!({"status": {"phase": "Running", "podIP": "10.1.0.7"}});
    pods.patch_status("apiserver", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}
