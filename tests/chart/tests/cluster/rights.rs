//! What the chart's service accounts may, and that it suffices.

use super::{
    NAMESPACE,
    apiserver::{APISERVER, Pod},
    apply, cluster,
};
use anyhow::{Context, Result, bail};
use chart::{Cluster, eventually, ours};
use daemon::{
    spiffe::Role,
    tls::{Identity, IdentityPaths, connect_as_stranger},
};
use expect_test::expect;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    authorization::v1::{
        ResourceAttributes, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec, SubjectAccessReview,
        SubjectAccessReviewSpec,
    },
    core::v1::ServiceAccount,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use rpc::mesh::enrolment::v1::{EnrolNodeRequest, enrolment_client::EnrolmentClient};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, process::Command};

/// All rules of an account of the chart's namespace in a namespace, but those that every account has.
pub async fn rules(cluster: &Cluster, account: &str, namespace: &str) -> String {
    let everybody = all_rules(cluster, "default", "default", namespace).await;
    let rules = all_rules(cluster, NAMESPACE, account, namespace).await;
    rules.difference(&everybody).map(String::as_str).collect::<Vec<_>>().join("\n")
}

async fn all_rules(cluster: &Cluster, of: &str, account: &str, namespace: &str) -> BTreeSet<String> {
    let client = cluster.client_of(of, account).await.unwrap();
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) };
    let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let api: Api<SelfSubjectRulesReview> = Api::all(client);
    let status = api.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
    assert!(!status.incomplete, "{:?}", status.evaluation_error);
    let rules = status.resource_rules.into_iter().map(|rule| {
        let group = rule.api_groups.unwrap_or_default().join(",");
        let resources = rule.resources.unwrap_or_default().join(",");
        let names =
            rule.resource_names.unwrap_or_default().iter().map(|it| format!(" {it}")).collect::<String>();
        let of = if group.is_empty() { String::new() } else { format!(" of {group}") };
        format!("{resources}{of}{names}: {}", rule.verbs.join(","))
    });
    rules.collect()
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn accounts_may_exactly_this() {
    let (cluster, helm) = cluster().await;
    apply(&helm, "install", "minimal", &[]).unwrap();
    expect![[r#"
        configmaps mesh-clustermesh-bundle: patch
        endpointslices of discovery.k8s.io: list,watch
        events of events.k8s.io: create,patch
        externalworkloads of clustermesh.io: list,watch,create,delete
        meshpeers of clustermesh.io: get,list,watch,create,patch,delete
        meshpeers/status of clustermesh.io: patch
        namespaces,nodes,pods,services: list,watch
        secrets mesh-clustermesh-state: get,patch
        secrets: create
        tokenreviews of authentication.k8s.io: create"#]]
    .assert_eq(&rules(&cluster, APISERVER, NAMESPACE).await);
    expect![[r#"
        endpointslices of discovery.k8s.io: list,watch
        events of events.k8s.io: create,patch
        externalworkloads of clustermesh.io: list,watch,create,delete
        meshpeers of clustermesh.io: get,list,watch,create,patch,delete
        meshpeers/status of clustermesh.io: patch
        namespaces,nodes,pods,services: list,watch
        tokenreviews of authentication.k8s.io: create"#]]
    .assert_eq(&rules(&cluster, APISERVER, "kube-system").await);
    for account in ["mesh-clustermesh-agent", "mesh-clustermesh-tunnel"] {
        assert_eq!(rules(&cluster, account, NAMESPACE).await, "", "{account} asks nothing");
    }

    let may = async |verb: &str, group: &str, resource: &str, namespace: &str, name: &str| {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let attributes = ResourceAttributes {
            verb: some(verb),
            group: some(group),
            resource: some(resource),
            namespace: some(namespace),
            name: some(name),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{NAMESPACE}:{APISERVER}")),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api: Api<SubjectAccessReview> = Api::all(cluster.client());
        api.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
    };
    let state = "mesh-clustermesh-state";
    assert!(may("get", "", "secrets", NAMESPACE, state).await);
    for (verb, group, resource, namespace, name) in [
        ("list", "", "secrets", "", ""),
        ("list", "", "secrets", NAMESPACE, ""),
        ("watch", "", "secrets", NAMESPACE, state),
        ("get", "", "secrets", NAMESPACE, "another"),
        ("get", "", "secrets", "default", state),
        ("delete", "", "secrets", NAMESPACE, state),
        ("create", "", "secrets", "default", ""),
        ("get", "", "configmaps", NAMESPACE, ""),
        ("patch", "", "configmaps", NAMESPACE, "another"),
        ("create", "", "pods", NAMESPACE, ""),
        ("patch", "", "pods", NAMESPACE, ""),
        ("delete", "", "pods", "default", ""),
        ("patch", "", "nodes", "", "n1"),
        ("patch", "", "services", "default", ""),
        ("create", "", "serviceaccounts/token", NAMESPACE, APISERVER),
        ("create", "rbac.authorization.k8s.io", "clusterroles", "", ""),
        ("patch", "apiextensions.k8s.io", "customresourcedefinitions", "", "meshpeers.clustermesh.io"),
        ("impersonate", "", "serviceaccounts", NAMESPACE, ""),
    ] {
        assert!(!may(verb, group, resource, namespace, name).await, "{verb} {resource} {namespace}/{name}");
    }

    apply(&helm, "upgrade", "minimal", &["readinessGate.enabled=true"]).unwrap();
    assert!(may("get", "", "nodes", "", "n1").await && may("patch", "", "nodes", "", "n1").await);
    for verb in ["create", "delete", "update"] {
        assert!(!may(verb, "", "nodes", "", "n1").await, "{verb} nodes");
    }
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn the_apiserver_of_the_chart_works_with_what_its_account_may() {
    let (cluster, helm) = cluster().await;
    apply(&helm, "install", "minimal", &[]).unwrap();
    let pod = Pod::of(&cluster).await;
    pod.init().unwrap();
    let state = cluster.get("Secret", "mesh/mesh-clustermesh-state").await.unwrap();
    let mut held: Vec<_> = state["data"].as_object().unwrap().keys().map(String::as_str).collect();
    held.sort_unstable();
    expect!["ca.crt ca.key cluster.yaml operator-bundle.crt operator.crt operator.key operator.yaml"]
        .assert_eq(&held.join(" "));

    // Something to complain about, and a peer that is not there.
    let metadata =
        json!({"name": "cart", "namespace": "default", "annotations": {"service.cilium.io/global": "maybe"}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}});
    cluster.create(&service).await.unwrap();
    for peer in [stranger("west", None), stranger("gone", Some(1))] {
        cluster.create(&peer).await.unwrap();
    }

    let running = pod.start().await;
    eventually("it writes the bundle", async || {
        let map = cluster.get("ConfigMap", "mesh/mesh-clustermesh-bundle").await?;
        map.pointer("/data/bundle.pem").and_then(Value::as_str).map(drop).context("no bundle yet")
    })
    .await
    .unwrap();
    eventually("it writes Events", async || {
        let events = cluster.api("Event", Some("default")).await?.list(&ListParams::default()).await?;
        let text = serde_json::to_string(&events.items)?;
        if !text.contains("InvalidForMesh") {
            bail!("{text}");
        }
        Ok(())
    })
    .await
    .unwrap();
    eventually("it says how the peering is", async || {
        let peer = cluster.get("MeshPeer", "west").await?;
        peer.pointer("/status/conditions/0").map(drop).with_context(|| format!("{peer}\n{}", pod.log()))
    })
    .await
    .unwrap();
    // Which spec that is about: after a change, the changed one.
    let limits = json!({"spec": {"contract": {"limits": {"nodes": 7}}}});
    let peers = cluster.api("MeshPeer", None).await.unwrap();
    peers.patch("west", &PatchParams::default(), &Patch::Merge(&limits)).await.unwrap();
    eventually("the change is observed", async || {
        let peer = cluster.get("MeshPeer", "west").await?;
        let observed = &peer["status"]["conditions"][0]["observedGeneration"];
        super::so(peer["metadata"]["generation"] == 2 && *observed == 2, || format!("{peer}"))
    })
    .await
    .unwrap();
    eventually("it removes a peer whose connect has expired", async || {
        match cluster.get("MeshPeer", "gone").await {
            Ok(peer) => bail!("{peer}"),
            Err(_) => Ok(()),
        }
    })
    .await
    .unwrap();
    drop(running);
    let log = pod.log();
    assert!(!log.contains("forbidden") && !log.contains("Forbidden"), "{log}");

    // Another pod, with an empty disk: the same cluster.
    let next = Pod::of(&cluster).await;
    next.init().unwrap();
    assert_eq!(pod.uuid(), next.uuid());
    assert_eq!(pod.file("ca/key.pem"), next.file("ca/key.pem"));
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn nodes_enrol_by_the_tokens_of_their_pods_and_by_no_other() {
    let (cluster, helm) = cluster().await;
    apply(&helm, "install", "minimal", &[]).unwrap();
    let (pod, running) = Pod::ready(&cluster).await;

    let metadata = json!({"name": "n1", "labels": {"kubernetes.io/os": "linux"}});
    cluster.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata})).await.unwrap();
    let agent = "mesh-clustermesh-agent";
    for account in [agent, "default"] {
        let metadata = json!({"name": account, "namespace": NAMESPACE});
        let containers = json!([{"name": "it", "image": "it"}]);
        let spec = json!({"nodeName": "n1", "serviceAccountName": account, "containers": containers});
        cluster
            .create(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
            .await
            .unwrap();
    }
    let enrol = async |account: &str, audience: &str, bound: bool| {
        let token = token(&cluster, account, audience, bound).await.unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let bundle = pod.file("ca/cert.pem");
        let channel = connect_as_stranger(&bundle, &running.grpc).await.unwrap().channel;
        let request = EnrolNodeRequest { token, certificate_request: request };
        EnrolmentClient::new(channel)
            .enrol_node(request)
            .await
            .map(|answer| (answer.into_inner().certificate, key))
    };

    let (certificate, key) = enrol(agent, "clustermesh", true).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let [cert, key_file, bundle] = ["cert.pem", "key.pem", "bundle.pem"].map(|name| dir.path().join(name));
    fs::write(&cert, certificate).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    fs::write(&bundle, pod.file("ca/cert.pem")).unwrap();
    let identity = Identity::load(&IdentityPaths { cert, key: key_file, bundle }, Role::Node).unwrap();
    assert_eq!(identity.id().node_name().unwrap().as_str(), "n1");

    let mut said = String::new();
    for (account, audience, bound) in [
        (agent, "https://kubernetes.default.svc", true),
        (agent, "clustermesh", false),
        ("default", "clustermesh", true),
    ] {
        let refused = enrol(account, audience, bound).await.map(drop).unwrap_err();
        said += &format!(
            "{account} for {audience}, {}: {}\n",
            if bound { "of a pod" } else { "of no pod" },
            refused.message()
        );
    }
    expect![[r#"
        mesh-clustermesh-agent for https://kubernetes.default.svc, of a pod: the token is not valid: [invalid bearer token, token audiences ["https://kubernetes.default.svc"] is invalid for the target audiences ["clustermesh"]]
        mesh-clustermesh-agent for clustermesh, of no pod: the token is bound to no pod on a node: it has to be a projected volume, and Kubernetes 1.30 or newer
        default for clustermesh, of a pod: the token is system:serviceaccount:mesh:default's, and only system:serviceaccount:mesh:mesh-clustermesh-agent may enrol nodes
    "#]].assert_eq(&said);
}

/// A token as a kubelet would project it into the account's pod, or one that is bound to nothing.
async fn token(cluster: &Cluster, account: &str, audience: &str, bound: bool) -> Result<String> {
    let pod = cluster.get("Pod", &format!("{NAMESPACE}/{account}")).await?;
    let bound_object_ref = bound.then(|| BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(account.to_owned()),
        uid: pod["metadata"]["uid"].as_str().map(str::to_owned),
    });
    let spec = TokenRequestSpec {
        audiences: Some(vec![audience.to_owned()]),
        bound_object_ref,
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client(), NAMESPACE);
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    answer.status.and_then(|status| status.token).context("the answer has no token")
}

/// A peer that does not answer, with a real trust bundle; prepared by a connect when there is a deadline.
pub fn stranger(name: &str, deadline_s: Option<u64>) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut init = Command::new(ours("clustermesh-apiserver").unwrap());
    init.args(["init", "--cluster-name", name, "--pod-cidr=10.2.0.0/16", "--service-cidr=10.102.0.0/16"]);
    let made = init.args(["--mesh-cidr=100.64.2.0/24", "--data-dir"]).arg(&data).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let config: Value =
        serde_saphyr::from_str(&fs::read_to_string(data.join("cluster.yaml")).unwrap()).unwrap();
    let mut peer = super::meshpeer::valid(name);
    peer["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "clustermesh-apiserver"});
    peer["spec"]["uuid"] = config["uuid"].clone();
    peer["spec"]["trustBundle"] = json!(fs::read_to_string(data.join("ca/cert.pem")).unwrap());
    // Nobody is there.
    peer["spec"]["endpoints"] = json!(["127.0.0.1:1"]);
    match deadline_s {
        Some(deadline_s) => peer["spec"]["connect"]["deadlineS"] = json!(deadline_s),
        None => drop(peer["spec"].as_object_mut().unwrap().remove("connect")),
    }
    peer
}
