//! Pods with empty disks, against a small API of our own.

use super::*;
use crate::stand_in::ApiServer;
use std::path::Path;

fn wanted(name: &str, pods: &str) -> ClusterConfig {
    ClusterConfig {
        name: name.parse().expect("a name"),
        uuid: api::bytes::ClusterUuid(rand::random()),
        pod_cidrs: vec![pods.parse().expect("a prefix")],
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a prefix")],
        mesh_cidrs: vec!["100.64.0.0/24".parse().expect("a prefix")],
        encryption_scope: Default::default(),
        advertise: vec!["127.0.0.1:2379".to_owned()],
    }
}

async fn init(server: &ApiServer, dir: &Path, config: &ClusterConfig) -> anyhow::Result<bool> {
    StateSecret::new(server.client(), "state").init(&Layout::new(dir), config, SystemTime::now()).await
}

fn held(dir: &Path) -> (ClusterConfig, Vec<u8>, Vec<u8>) {
    let layout = Layout::new(dir);
    let read = |path: &Path| std::fs::read(path).expect("there");
    (ClusterConfig::load(&layout).expect("a cluster"), read(&layout.ca_key()), read(&layout.admin().key))
}

#[tokio::test]
async fn a_pod_with_an_empty_disk_is_the_same_cluster() {
    let server = ApiServer::new();
    let (first, second) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    assert!(init(&server, first.path(), &wanted("west", "10.1.0.0/16")).await.expect("made"));
    let layout = Layout::new(first.path());
    let keep = Keep::new(&layout, Some(StateSecret::new(server.client(), "state")));
    keep.write("memory.json", b"{}").await.expect("kept");

    let later = wanted("west", "10.9.0.0/16");
    assert!(!init(&server, second.path(), &later).await.expect("taken"));
    let (one, other) = (held(first.path()), held(second.path()));
    assert_eq!(one.0.uuid, other.0.uuid, "who it is stays");
    assert_eq!(other.0.pod_cidrs, later.pod_cidrs, "ranges follow the installation");
    assert_eq!((one.1, one.2), (other.1, other.2), "the same CA, the same operator");
    assert_eq!(std::fs::read(second.path().join("memory.json")).expect("there"), b"{}");
    assert!(Layout::new(second.path()).server().cert.exists(), "it can serve");
    assert!(!init(&server, second.path(), &later).await.expect("again"), "and again");
    assert_eq!(held(second.path()).0.uuid, one.0.uuid);
}

#[tokio::test]
async fn a_secret_of_another_cluster_is_refused_by_name() {
    let server = ApiServer::new();
    let (first, second) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    init(&server, first.path(), &wanted("west", "10.1.0.0/16")).await.expect("made");
    let error = init(&server, second.path(), &wanted("east", "10.2.0.0/16")).await.expect_err("not ours");
    assert!(error.to_string().starts_with("Secret state is cluster west's, not east's"), "{error:#}");
    assert_eq!(std::fs::read_dir(second.path()).expect("a directory").count(), 0, "nothing was laid");
}

#[tokio::test]
async fn of_two_apiservers_the_one_that_writes_second_ends_and_its_next_start_takes_what_is_there() {
    let server = ApiServer::new();
    let (first, second) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    for dir in [&first, &second] {
        init(&server, dir.path(), &wanted("west", "10.1.0.0/16")).await.expect("made or taken");
    }
    let secret = || StateSecret::new(server.client(), "state");
    let keep = |dir: &Path, secret: &StateSecret| Keep::new(&Layout::new(dir), Some(secret.clone()));
    let (one, other) = (secret(), secret());
    keep(first.path(), &one).write("memory.json", b"[1]").await.expect("kept");
    let error = keep(second.path(), &other).write("memory.json", b"[2]").await.expect_err("out of date");
    let text = format!("{error:#}");
    assert!(text.contains("another apiserver of this cluster has written memory.json"), "{text}");
    assert!(other.usurped().is_cancelled() && !one.usurped().is_cancelled());

    // Each as it would start again: the container's, with the directory as it is.
    let other = secret();
    other.resume(&Layout::new(second.path())).await.expect("taken");
    assert_eq!(std::fs::read(second.path().join("memory.json")).expect("there"), b"[1]");
    keep(second.path(), &other).write("memory.json", b"[1,2]").await.expect("kept");
    keep(first.path(), &one).write("closed.json", b"{}").await.expect_err("now this one is out of date");
    assert!(one.usurped().is_cancelled());
}

#[tokio::test]
async fn an_operators_certificate_that_is_due_is_renewed_in_the_secret_and_nobody_is_a_rival() {
    let server = ApiServer::new();
    let dir = tempfile::tempdir().expect("a directory");
    let config = wanted("west", "10.1.0.0/16");
    init(&server, dir.path(), &config).await.expect("made");
    let api: Api<Secret> = Api::default_namespaced(server.client());
    let certificate =
        async || api.get("state").await.expect("there").data.expect("files")["operator.crt"].clone();
    let before = certificate().await;

    let later = SystemTime::now() + Duration::from_secs(360 * 86_400);
    let secret = StateSecret::new(server.client(), "state");
    assert!(!secret.init(&Layout::new(dir.path()), &config, later).await.expect("taken"));
    assert_ne!(certificate().await, before);
    assert!(!secret.usurped().is_cancelled());
}

#[tokio::test]
async fn who_labels_the_secret_is_no_rival() {
    let server = ApiServer::new();
    let dir = tempfile::tempdir().expect("a directory");
    init(&server, dir.path(), &wanted("west", "10.1.0.0/16")).await.expect("made");
    let secret = StateSecret::new(server.client(), "state");
    let keep = Keep::new(&Layout::new(dir.path()), Some(secret.clone()));
    keep.write("memory.json", b"[1]").await.expect("kept");
    let api: Api<Secret> = Api::default_namespaced(server.client());
    let label = Patch::Merge(json!({"metadata": {"labels": {"backup": "yes"}}}));
    api.patch("state", &PatchParams::default(), &label).await.expect("labelled");
    keep.write("memory.json", b"[2]").await.expect("kept");
    assert!(!secret.usurped().is_cancelled());
}

#[tokio::test]
async fn a_change_that_the_api_refuses_does_not_count() {
    let server = ApiServer::new();
    let dir = tempfile::tempdir().expect("a directory");
    let keep = Keep::new(&Layout::new(dir.path()), Some(StateSecret::new(server.client(), "state")));
    let error = keep.write("closed.json", b"{}").await.expect_err("there is no Secret");
    assert_eq!(error.to_string(), "cannot write closed.json into Secret state");
    assert!(!dir.path().join("closed.json").exists());
    let error = keep.write("closed.json", &vec![b' '; SECRET_MAX_BYTES + 1]).await.expect_err("too large");
    assert!(error.to_string().contains("a Secret takes 786432"), "{error}");
}
