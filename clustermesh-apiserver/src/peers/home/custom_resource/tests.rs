//! Writers that meet, against a small API of our own. The real one is asked the same in the Kubernetes tier.

use super::*;
use crate::{source::snapshot::Version, stand_in::ApiServer};
use api::{
    bytes::{ClusterUuid, Nonce},
    peer::{API_VERSION, Connect, Contract, KIND, Limits, Metadata, Stale},
};

fn peer(endpoint: &str, deadline_s: Option<u64>) -> MeshPeer {
    let contract = Contract {
        cidrs: vec!["10.2.0.0/16".parse().expect("a prefix")],
        namespaces: vec![],
        limits: Limits::default(),
        relay: vec![],
    };
    let spec = MeshPeerSpec {
        uuid: ClusterUuid([2; 16]),
        endpoints: vec![endpoint.to_owned()],
        through: None,
        trust_bundle: String::new(),
        contract,
        stale: Stale::default(),
        connect: Some(Connect { nonce: Nonce([1; 16]), deadline_s }),
    };
    let metadata = Metadata { name: "west".parse().expect("a name") };
    MeshPeer { api_version: API_VERSION.into(), kind: KIND.into(), metadata, spec }
}

async fn spec(server: &ApiServer) -> Value {
    objects(&server.client()).get("west").await.expect("there").data["spec"].clone()
}

#[tokio::test]
async fn what_we_made_is_changed_whole_and_removed() {
    let server = ApiServer::new();
    let client = server.client();
    let prepared = write(&client, &peer("192.0.2.1:1", Some(9)), None).await.expect("made");
    assert_eq!(spec(&server).await["connect"]["deadlineS"], 9);
    let active = write(&client, &peer("192.0.2.1:1", None), Some(&prepared)).await.expect("changed");
    assert_eq!(spec(&server).await["connect"].get("deadlineS"), None, "what is not said any more is gone");
    let versions = [prepared, active.clone()].map(|object| object.version.expect("of the API"));
    assert_eq!(versions[0].uid, versions[1].uid);
    assert!(versions[0].generation < versions[1].generation, "{versions:?}");
    remove(&client, &active).await.expect("removed");
    remove(&client, &active).await.expect("it is gone, as it should be");
    assert!(objects(&client).get_opt("west").await.expect("asked").is_none());
}

#[tokio::test]
async fn an_object_of_the_same_name_that_nobody_looked_at_is_neither_changed_nor_removed() {
    let server = ApiServer::new();
    let client = server.client();
    let first = write(&client, &peer("192.0.2.1:1", None), None).await.expect("made");
    server.delete("meshpeers", "west");
    let second = write(&client, &peer("192.0.2.1:1", None), None).await.expect("made again");
    assert_ne!(first.version, second.version, "the same words, and another object");
    let refused = [
        write(&client, &peer("192.0.2.2:2", None), Some(&first)).await.map(drop),
        remove(&client, &first).await,
        write(&client, &peer("192.0.2.2:2", None), None).await.map(drop),
    ];
    let why = refused.map(|result| format!("{:#}", result.expect_err("not that one")));
    for (why, what) in why.iter().zip(["is not the one any more", "is not the one any more", "already"]) {
        assert!(why.contains(what), "{why}");
    }
    assert_eq!(spec(&server).await["endpoints"], json!(["192.0.2.1:1"]));
}

#[tokio::test]
async fn what_somebody_edited_meanwhile_stays_and_a_label_is_no_edit() {
    let server = ApiServer::new();
    let client = server.client();
    let api = objects(&client);
    let judged = write(&client, &peer("192.0.2.1:1", Some(9)), None).await.expect("made");
    let merge = async |patch: Value| {
        api.patch("west", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched")
    };
    merge(json!({"metadata": {"labels": {"team": "a"}}, "status": {"refused": 0}})).await;
    let judged = write(&client, &peer("192.0.2.1:1", None), Some(&judged)).await.expect("no rival");
    merge(json!({"spec": {"endpoints": ["192.0.2.7:7"]}})).await;
    let error = write(&client, &peer("192.0.2.2:2", None), Some(&judged)).await.expect_err("edited");
    assert!(error.downcast_ref::<Changed>().is_some_and(|it| matches!(it, Changed::Edited(_))), "{error:#}");
    let error = remove(&client, &judged).await.expect_err("edited");
    assert!(format!("{error:#}").contains("somebody has changed MeshPeer west"), "{error:#}");
    assert_eq!(spec(&server).await["endpoints"], json!(["192.0.2.7:7"]));
}

#[tokio::test]
async fn whoever_writes_between_the_look_and_the_write_is_seen() {
    let server = ApiServer::new();
    let client = server.client();
    let api = objects(&client);
    let judged = write(&client, &peer("192.0.2.1:1", None), None).await.expect("made");
    let held = read(&api, &judged).await.expect("asked").expect("there");
    let edit = Patch::Merge(json!({"spec": {"endpoints": ["192.0.2.7:7"]}}));
    api.patch("west", &PatchParams::default(), &edit).await.expect("edited");
    let stale =
        json!({"metadata": {"resourceVersion": held.metadata.resource_version}, "spec": {"endpoints": []}});
    let error = api.patch("west", &PatchParams::default(), &Patch::Merge(stale)).await.expect_err("stale");
    assert!(matches!(error, kube::Error::Api(status) if status.is_conflict()));
    let preconditions = Preconditions { uid: None, resource_version: held.metadata.resource_version };
    let params = DeleteParams::default().preconditions(preconditions);
    let error = api.delete("west", &params).await.expect_err("stale");
    assert!(matches!(error, kube::Error::Api(status) if status.is_conflict()));
    assert!(judged.version.is_some_and(|version: Version| version.generation == 1));
}
