//! The CRD and the product mean the same object.

use super::{apply, cluster};
use api::{
    bytes::{ClusterUuid, Nonce},
    peer::{API_VERSION, Connect, Contract, KIND, Limits, MeshPeer, MeshPeerSpec, Metadata, Stale},
    record::StalePolicy,
};
use chart::{Cluster, eventually};
use clustermesh_apiserver::{peers::Home, source::kubernetes::Events};
use expect_test::expect;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// An object as `connect` writes it.
fn peer(name: &str) -> MeshPeer {
    let bundle = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let contract = Contract {
        cidrs: vec!["10.2.0.0/16".parse().unwrap(), "fd00:10:2::/48".parse().unwrap()],
        namespaces: vec![],
        limits: Limits::default(),
        relay: vec![],
    };
    MeshPeer {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        metadata: Metadata { name: name.parse().unwrap() },
        spec: MeshPeerSpec {
            uuid: ClusterUuid([2; 16]),
            endpoints: vec!["192.0.2.74:2379".to_owned(), "mesh.west.example:2379".to_owned()],
            through: None,
            trust_bundle: bundle.to_owned(),
            contract,
            stale: Stale::default(),
            connect: Some(Connect { nonce: Nonce([7; 16]), deadline_s: Some(1_767_323_045) }),
        },
    }
}

/// The same, as JSON.
pub(crate) fn valid(name: &str) -> Value {
    serde_json::to_value(peer(name)).unwrap()
}

async fn with_crd() -> Cluster {
    let (cluster, helm) = cluster().await;
    apply(&helm, "install", "minimal", &[]).unwrap();
    eventually("the CRD is served", async || {
        cluster.create(&valid("first")).await?;
        Ok(cluster.api("MeshPeer", None).await?.delete("first", &DeleteParams::default()).await?)
    })
    .await
    .unwrap();
    cluster
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn whatever_we_write_is_taken_and_read_back_as_it_was() {
    let cluster = with_crd().await;
    let declared = {
        let mut it = peer("by-hand");
        it.spec.connect = None;
        it
    };
    let namespaces = {
        let mut it = peer("namespaces");
        it.spec.contract.namespaces = vec!["shop".parse().unwrap(), "web".parse().unwrap()];
        it
    };
    let relayed = {
        let mut it = peer("relayed");
        it.spec.endpoints.clear();
        it.spec.through = Some("core".parse().unwrap());
        it.spec.contract.relay = vec!["east".parse().unwrap()];
        it
    };
    let stale = |name: &str, policy, drop_after_s| {
        let mut it = peer(name);
        it.spec.stale = Stale { policy, drop_after_s };
        it
    };
    let largest = {
        let mut it = peer("largest");
        let most = u32::MAX;
        it.spec.contract.limits = Limits {
            nodes: most,
            identities: most,
            endpoints: most,
            services: most,
            backends: most,
            changes_per_second: most,
        };
        it
    };
    let longest = peer(&"a".repeat(63));
    for written in [
        peer("west"),
        declared,
        namespaces,
        relayed,
        stale("keep", StalePolicy::Keep, None),
        stale("demote", StalePolicy::Demote, None),
        stale("drop", StalePolicy::DropAfter, None),
        stale("drop-60", StalePolicy::DropAfter, Some(60)),
        largest,
        longest,
    ] {
        let name = written.metadata.name.clone();
        cluster
            .create(&serde_json::to_value(&written).unwrap())
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let mut read = cluster.get(KIND, name.as_str()).await.unwrap();
        read["metadata"] = json!({"name": read["metadata"]["name"]});
        assert_eq!(serde_json::from_value::<MeshPeer>(read).unwrap(), written);
    }
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn what_nobody_could_use_is_refused_with_the_field_named() {
    let cluster = with_crd().await;
    let changes: [(&str, Value); 18] = [
        ("/metadata/name", json!("a.b")),
        ("/spec/uuid", json!("6F1C")),
        ("/spec/uuid", Value::Null),
        ("/spec/endpoints/0", json!("mesh.west.example")),
        ("/spec/trustBundle", json!("")),
        ("/spec/trustBundle", json!("-----BEGIN CERTIFICATE----- -----BEGIN PRIVATE KEY-----")),
        ("/spec/contract", Value::Null),
        ("/spec/contract/cidrs", json!([])),
        ("/spec/contract/cidrs/0", json!("10.2.0.0")),
        ("/spec/contract/cidrs/0", json!("0.0.0.0/0")),
        ("/spec/contract/cidrs/1", json!("::/0")),
        ("/spec/contract/namespaces", json!(["Shop"])),
        ("/spec/contract/limits", Value::Null),
        ("/spec/contract/limits/nodes", json!(-1)),
        ("/spec/contract/limits/changesPerSecond", json!(0)),
        ("/spec/stale/policy", json!("forget")),
        ("/spec/stale", json!({"policy": "keep", "dropAfterS": 60})),
        ("/spec/connect", json!({})),
    ];
    let mut all = String::new();
    for (field, value) in changes {
        let mut object = valid("west");
        *object.pointer_mut(field).expect("a field of it") = value.clone();
        let error = cluster.create(&object).await.expect_err(field);
        all += &format!("{field} {value}\n  {}\n", said(&error));
    }
    expect![[r#"
        /metadata/name "a.b"
          <nil>: Invalid value: the name is the peer cluster's, an RFC 1123 label
        /spec/uuid "6F1C"
          spec.uuid: Invalid value: "6F1C": spec.uuid in body should match '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
        /spec/uuid null
          [spec.uuid: Required value, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]
        /spec/endpoints/0 "mesh.west.example"
          spec.endpoints[0]: Invalid value: "mesh.west.example": spec.endpoints[0] in body should match ':[0-9]{1,5}$'
        /spec/trustBundle ""
          [spec.trustBundle: Invalid value: "": spec.trustBundle in body should be at least 1 chars long, spec.trustBundle: Invalid value: "": PEM certificates are expected]
        /spec/trustBundle "-----BEGIN CERTIFICATE----- -----BEGIN PRIVATE KEY-----"
          spec.trustBundle: Invalid value: "-----BEGIN CERTIFICATE----- -----BEGIN PRIVATE KEY-----": only certificates; no key ever leaves a cluster
        /spec/contract null
          [spec.contract: Required value, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]
        /spec/contract/cidrs []
          spec.contract.cidrs: Invalid value: 0: spec.contract.cidrs in body should have at least 1 items
        /spec/contract/cidrs/0 "10.2.0.0"
          spec.contract.cidrs[0]: Invalid value: "10.2.0.0": not a prefix such as 10.2.0.0/16
        /spec/contract/cidrs/0 "0.0.0.0/0"
          spec.contract.cidrs[0]: Invalid value: "0.0.0.0/0": a default route is never accepted
        /spec/contract/cidrs/1 "::/0"
          spec.contract.cidrs[1]: Invalid value: "::/0": a default route is never accepted
        /spec/contract/namespaces ["Shop"]
          spec.contract.namespaces[0]: Invalid value: "Shop": spec.contract.namespaces[0] in body should match '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'
        /spec/contract/limits null
          [spec.contract.limits: Required value, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]
        /spec/contract/limits/nodes -1
          spec.contract.limits.nodes: Invalid value: -1: spec.contract.limits.nodes in body should be greater than or equal to 0
        /spec/contract/limits/changesPerSecond 0
          spec.contract.limits.changesPerSecond: Invalid value: 0: spec.contract.limits.changesPerSecond in body should be greater than or equal to 1
        /spec/stale/policy "forget"
          [spec.stale.policy: Unsupported value: "forget": supported values: "keep", "demote", "drop-after", <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]
        /spec/stale {"dropAfterS":60,"policy":"keep"}
          spec.stale: Invalid value: dropAfterS belongs to the policy drop-after
        /spec/connect {}
          [spec.connect.nonce: Required value, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]
    "#]].assert_eq(&all);

    // Another cluster of the same name is another cluster.
    cluster.create(&valid("west")).await.unwrap();
    let peers = cluster.api(KIND, None).await.unwrap();
    let other = json!({"spec": {"uuid": ClusterUuid([3; 16])}});
    let error = peers.patch("west", &PatchParams::default(), &Patch::Merge(&other)).await.unwrap_err();
    expect![[r#"spec.uuid: Invalid value: "03030303-0303-0303-0303-030303030303": a peer with another UUID is another cluster; disconnect first"#]].assert_eq(&said(&error.into()));
}

#[tokio::test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
async fn an_object_of_the_same_name_that_nobody_looked_at_is_neither_changed_nor_removed() {
    let cluster = with_crd().await;
    let cancel = CancellationToken::new();
    let events = Events::spawn(cluster.client(), cancel.clone());
    let home = Home::Kubernetes { client: cluster.client(), events };
    let api = cluster.api(KIND, None).await.unwrap();
    let active = {
        let mut it = peer("west");
        it.spec.connect = Some(Connect { nonce: Nonce([7; 16]), deadline_s: None });
        it
    };

    let prepared = home.write(&peer("west"), None).await.unwrap();
    let first = home.write(&active, Some(&prepared)).await.unwrap();
    let spec = &cluster.get(KIND, "west").await.unwrap()["spec"];
    assert!(spec["connect"].get("deadlineS").is_none(), "what is not said any more is gone: {spec}");

    // The same words, and another object.
    api.delete("west", &DeleteParams::default()).await.unwrap();
    let second = home.write(&active, None).await.unwrap();
    let mut other = active.clone();
    other.spec.endpoints = vec!["192.0.2.99:2379".to_owned()];
    let mut said = String::new();
    for refused in [
        home.write(&other, Some(&first)).await.map(drop),
        home.remove(&first).await,
        home.write(&other, None).await.map(drop),
    ] {
        said += &format!("{:#}\n", refused.unwrap_err());
    }
    // And what somebody edits while we think is his.
    let label = json!({"metadata": {"labels": {"team": "a"}}});
    api.patch("west", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    let second = home.write(&peer("west"), Some(&second)).await.expect("a label is no edit");
    let edit = json!({"spec": {"contract": {"namespaces": ["shop"]}}});
    api.patch("west", &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
    for refused in [home.write(&other, Some(&second)).await.map(drop), home.remove(&second).await] {
        said += &format!("{:#}\n", refused.unwrap_err());
    }
    expect![[r#"
        cannot write MeshPeer west to Kubernetes: MeshPeer west is not the one any more that was looked at: look again, and do it again
        cannot remove MeshPeer west from Kubernetes: MeshPeer west is not the one any more that was looked at: look again, and do it again
        cannot write MeshPeer west to Kubernetes: there is a MeshPeer west already, which was made meanwhile or cannot be read: see kubectl describe meshpeer west
        cannot write MeshPeer west to Kubernetes: somebody has changed MeshPeer west meanwhile: look at it, and do it again
        cannot remove MeshPeer west from Kubernetes: somebody has changed MeshPeer west meanwhile: look at it, and do it again
    "#]].assert_eq(&said);
    let held = cluster.get(KIND, "west").await.unwrap();
    assert_eq!(held["spec"]["contract"]["namespaces"], json!(["shop"]));
    cancel.cancel();
}

/// What the API server has against it.
fn said(error: &anyhow::Error) -> String {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status
            .message
            .split_once(" is invalid: ")
            .map_or(status.message.clone(), |(_, why)| why.to_owned()),
        Some(_) | None => panic!("not the API server's answer: {error:#}"),
    }
}
