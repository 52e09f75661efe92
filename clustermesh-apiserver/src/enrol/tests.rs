//! Tokens as a table; an enrolment over a real connection, reviewed by a small API of our own.

use super::*;
use crate::{
    authz,
    backend::Engine,
    face::{self, Doors},
    init::{self, ClusterConfig},
    pipes::Reach,
    stand_in::ApiServer,
    vms::{Members, admin::VmAdmin},
};
use daemon::tls::{Identity, IdentityPaths, Tls, connect_as_stranger};
use expect_test::expect;
use rpc::{
    etcdserverpb::{RangeRequest, kv_client::KvClient},
    mesh::enrolment::v1::enrolment_client::EnrolmentClient,
};
use serde_json::{Value, json};
use std::time::UNIX_EPOCH;
use tokio_util::sync::CancellationToken;

fn account() -> ServiceAccount {
    "mesh/agent".parse().expect("an account")
}

fn operators() -> ServiceAccount {
    "mesh/operator".parse().expect("an account")
}

/// The status of a review of a token that enrols node a1.
fn good() -> Value {
    json!({"authenticated": true, "audiences": ["clustermesh"], "user": {
        "username": "system:serviceaccount:mesh:agent", "extra": {NODE_NAME: ["a1"], POD_NAME: ["agent-x"]}}})
}

fn with(pointer: &str, value: Value) -> Value {
    let mut status = good();
    *status.pointer_mut(pointer).expect("there") = value;
    status
}

#[test]
fn only_a_token_of_the_right_audience_account_and_pod_enrols() {
    let table = [
        good(),
        with("/authenticated", json!(false)),
        with("/audiences", json!(["https://kubernetes.default.svc"])),
        with("/user/username", json!("system:serviceaccount:shop:agent")),
        with("/user/username", json!("system:admin")),
        with("/user/extra", json!({})),
        with("/user/extra", json!({NODE_NAME: ["a1", "a2"], POD_NAME: ["agent-x"]})),
        with("/user/extra", json!({NODE_NAME: ["a1"]})),
        json!({}),
    ];
    let shown: String = table
        .into_iter()
        .map(|status| match node(&serde_json::from_value(status).expect("a status"), &account()) {
            Ok(node) => format!("node {node}\n"),
            Err(why) => format!("{why}\n"),
        })
        .collect();
    expect![[r#"
        node a1
        the token is not valid: it is expired, or of another cluster
        the token is not for the audience `clustermesh`
        the token is system:serviceaccount:shop:agent's, and only system:serviceaccount:mesh:agent may enrol nodes
        the token is system:admin's, and only system:serviceaccount:mesh:agent may enrol nodes
        the token is bound to no pod on a node: it has to be a projected volume, and Kubernetes 1.30 or newer
        the token is bound to no pod on a node: it has to be a projected volume, and Kubernetes 1.30 or newer
        the token is bound to no pod on a node: it has to be a projected volume, and Kubernetes 1.30 or newer
        the token is not valid: it is expired, or of another cluster
    "#]]
    .assert_eq(&shown);
}

#[tokio::test]
async fn a_pods_token_becomes_the_certificate_of_its_node_and_opens_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let prefix = |text: &str| vec![text.parse().expect("a prefix")];
    let config = ClusterConfig {
        name: "west".parse().expect("a name"),
        uuid: ClusterUuid([0x11; 16]),
        pod_cidrs: prefix("10.1.0.0/16"),
        service_cidrs: prefix("10.101.0.0/16"),
        mesh_cidrs: prefix("100.64.1.0/24"),
        encryption_scope: Default::default(),
        advertise: vec!["127.0.0.1:2379".to_owned()],
        dial_out: false,
    };
    init::init(dir.path(), &config, SystemTime::now()).expect("a cluster");
    let layout = Layout::new(dir.path());
    let kubernetes = ApiServer::new();
    kubernetes.answer("tokenreviews", |review| {
        assert_eq!(review["spec"]["audiences"], json!(["clustermesh"]));
        let status = match review["spec"]["token"].as_str() {
            Some("of a1") => good(),
            Some("of an operator") => with("/user/username", json!("system:serviceaccount:mesh:operator")),
            _ => json!({"authenticated": false, "error": "it is expired"}),
        };
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status})
    });
    let tls = Tls::new(Identity::load(&layout.server(), Role::Cluster).expect("an identity"));
    let engine = Engine::open(layout.root()).await.expect("a store");
    let shutdown = CancellationToken::new();
    let own = authz::Own { uuid: config.uuid, name: config.name.clone() };
    let doors = Doors::new(own, tls.clone(), Members::nobody(), engine.clone(), shutdown.clone());
    let port = face::bind("127.0.0.1:0".parse().expect("an address")).await.expect("bound");
    let at = port.address().to_string();
    let accounts = Accounts { node: Some(account()), operator: Some(operators()) };
    let vms = VmAdmin::idle(dir.path()).register.clone();
    let enrol = Enrol::new(
        layout.clone(),
        config.uuid,
        config.advertise.clone(),
        vms,
        Arc::new(crate::face::tests::home::NoPeers),
    )
    .with_accounts(kubernetes.client(), accounts);
    let serving = tokio::spawn(port.serve(doors, NoAdmin, Some(enrol), Reach::new(tls.clone())));

    let bundle = tls.identity().bundle_pem().to_owned();
    let channel = async || connect_as_stranger(&bundle, &at).await.expect("let in").channel;
    let key = rcgen::KeyPair::generate().expect("a key");
    // Whatever the request says about itself, it is not believed.
    let params = rcgen::CertificateParams::new(vec!["admin".to_owned()]).expect("a name");
    let request = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    let enrol = async |token: &str, request: &str| {
        let request = EnrolNodeRequest { token: token.to_owned(), certificate_request: request.to_owned() };
        EnrolmentClient::new(channel().await).enrol_node(request).await
    };
    let refused = enrol("of nobody", &request).await.expect_err("refused");
    assert_eq!(refused.message(), "the token is not valid: it is expired");
    let refused = enrol("of a1", "not PEM").await.expect_err("refused");
    assert!(refused.message().starts_with("cannot read the certificate request"), "{refused}");
    let certificate = enrol("of a1", &request).await.expect("enrolled").into_inner().certificate;

    let paths = IdentityPaths {
        cert: dir.path().join("a1.pem"),
        key: dir.path().join("a1-key.pem"),
        bundle: layout.server().bundle,
    };
    std::fs::write(&paths.key, key.serialize_pem()).expect("written");
    let identity = |certificate: String, role| {
        std::fs::write(&paths.cert, certificate).expect("written");
        Identity::load(&paths, role).expect("an identity")
    };
    let node = identity(certificate, Role::Node);
    assert_eq!(node.id().to_string(), format!("spiffe://{}/node/a1", config.uuid));

    // An operator's token makes operators, for an hour, and no nodes; a node's makes no operators.
    let operate = async |token: &str| {
        let (token, certificate_request) = (token.to_owned(), request.clone());
        let request = EnrolOperatorRequest { token, certificate_request };
        EnrolmentClient::new(channel().await).enrol_operator(request).await
    };
    let refused = operate("of a1").await.expect_err("refused");
    assert_eq!(
        refused.message(),
        "the token is system:serviceaccount:mesh:agent's, and only system:serviceaccount:mesh:operator may enrol operators"
    );
    let refused = enrol("of an operator", &request).await.expect_err("refused");
    assert!(refused.message().ends_with("may enrol nodes"), "{refused}");
    let operator =
        identity(operate("of an operator").await.expect("enrolled").into_inner().certificate, Role::Operator);
    assert_eq!(operator.id().to_string(), format!("spiffe://{}/operator/operator", config.uuid));
    let in_s =
        |after: Duration| (SystemTime::now() + after).duration_since(UNIX_EPOCH).expect("later").as_secs();
    let until_s = u64::try_from(operator.certificate().not_after_s).expect("after 1970");
    assert!((in_s(OPERATOR_CERTIFICATE) - 60..=in_s(OPERATOR_CERTIFICATE)).contains(&until_s), "{until_s}");

    let range = RangeRequest { key: "mesh/v1/west/cluster".into(), ..Default::default() };
    let refused = KvClient::new(channel().await).range(range).await.expect_err("nothing but enrolment");
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    shutdown.cancel();
    serving.await.expect("no panic").expect("ended well");
    engine.shut_down().await;
}

struct NoAdmin;

#[tonic::async_trait]
impl rpc::mesh::admin::v1::admin_server::Admin for NoAdmin {}
