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
        dial_out: false,
    }
}

async fn init(server: &ApiServer, dir: &Path, config: &ClusterConfig) -> anyhow::Result<bool> {
    StateSecret::new(server.client(), "state").init(&Layout::new(dir), config, SystemTime::now()).await
}

fn held_in(dir: &Path) -> (ClusterConfig, Vec<u8>, Vec<u8>) {
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
    let (one, other) = (held_in(first.path()), held_in(second.path()));
    assert_eq!(one.0.uuid, other.0.uuid, "who it is stays");
    assert_eq!(other.0.pod_cidrs, later.pod_cidrs, "ranges follow the installation");
    assert_eq!((one.1, one.2), (other.1, other.2), "the same CA, the same operator");
    assert_eq!(std::fs::read(second.path().join("memory.json")).expect("there"), b"{}");
    assert!(Layout::new(second.path()).server().cert.exists(), "it can serve");
    assert!(!init(&server, second.path(), &later).await.expect("again"), "and again");
    assert_eq!(held_in(second.path()).0.uuid, one.0.uuid);
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

#[tokio::test(start_paused = true)]
async fn a_secret_that_somebody_deletes_is_laid_again_whole_and_told() {
    let server = ApiServer::new();
    let dir = tempfile::tempdir().expect("a directory");
    let config = wanted("west", "10.1.0.0/16");
    init(&server, dir.path(), &config).await.expect("made");
    let cancel = CancellationToken::new();
    let events = Events::spawn(server.client(), cancel.clone());
    let secret = StateSecret::new(server.client(), "state").telling(events);
    let layout = Layout::new(dir.path());
    let keep = Keep::new(&layout, Some(secret.clone()));
    keep.write("memory.json", b"[1]").await.expect("kept");
    let api: Api<Secret> = Api::default_namespaced(server.client());
    let held = async || api.get_opt("state").await.expect("asked").and_then(|secret| secret.data);
    let files =
        |data: Option<BTreeMap<String, ByteString>>| data.expect("there").into_keys().collect::<Vec<_>>();
    let all = files(held().await);

    // By the next write,
    server.delete("secrets", "state");
    keep.write("closed.json", b"{}").await.expect("kept");
    assert_eq!(files(held().await).len(), all.len() + 1, "all that there was, and what is new");
    // by the next start,
    server.delete("secrets", "state");
    StateSecret::new(server.client(), "state").resume(&layout).await.expect("taken");
    assert_eq!(files(held().await).len(), all.len() + 1);
    // and when nothing happens for long.
    server.delete("secrets", "state");
    let guarding = tokio::spawn(secret.clone().guard(dir.path().to_owned()));
    tokio::time::timeout(GUARD * 2, async {
        while held().await.is_none() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("laid again");
    guarding.abort();
    assert!(!secret.usurped().is_cancelled(), "nobody is a rival");
    keep.write("memory.json", b"[1,2]").await.expect("and it is still ours");

    let events: Api<k8s_openapi::api::events::v1::Event> = Api::default_namespaced(server.client());
    let told = events.list(&kube::api::ListParams::default()).await.expect("listed");
    assert!(told.items.iter().any(|event| event.reason.as_deref() == Some("StateDeleted")), "{told:?}");
    let next = tempfile::tempdir().expect("another pod");
    assert!(!init(&server, next.path(), &config).await.expect("taken"), "the next pod is the same cluster");
    assert_eq!(held_in(next.path()), held_in(dir.path()));
    cancel.cancel();
}

#[tokio::test]
async fn an_init_that_was_killed_anywhere_is_gone_on_with() {
    // In the order in which they are written.
    const FILES: [&str; 10] = [
        "ca/key.pem",
        "ca/cert.pem",
        "server/key.pem",
        "server/bundle.pem",
        "server/cert.pem",
        "admin/key.pem",
        "admin/bundle.pem",
        "admin/cert.pem",
        "admin/config.yaml",
        "cluster.yaml",
    ];
    let config = wanted("west", "10.1.0.0/16");
    let whole = tempfile::tempdir().expect("a directory");
    let server = ApiServer::new();
    init(&server, whole.path(), &config).await.expect("made");
    let dirs =
        ["", "ca", "server", "admin"].map(|dir| std::fs::read_dir(whole.path().join(dir)).expect("there"));
    let files = dirs.into_iter().flatten().filter(|entry| entry.as_ref().expect("read").path().is_file());
    assert_eq!(files.count(), FILES.len(), "these are all");
    for killed_after in 0..=FILES.len() {
        let partly = || {
            let dir = tempfile::tempdir().expect("a directory");
            for file in &FILES[..killed_after] {
                let to = dir.path().join(file);
                std::fs::create_dir_all(to.parent().expect("it has one")).expect("made");
                std::fs::copy(whole.path().join(file), to).expect("copied");
            }
            dir
        };
        // Before the Secret was made: a cluster that nobody has heard of, or the one that is complete.
        let (dir, alone) = (partly(), ApiServer::new());
        init(&alone, dir.path(), &config).await.unwrap_or_else(|error| panic!("{killed_after}: {error:#}"));
        let is_whole = killed_after == FILES.len();
        assert_eq!(held_in(dir.path()) == held_in(whole.path()), is_whole, "{killed_after}");
        let next = tempfile::tempdir().expect("another pod");
        assert!(!init(&alone, next.path(), &config).await.expect("taken"));
        assert_eq!(held_in(next.path()), held_in(dir.path()), "{killed_after}: what counts is in the Secret");
        // After that, while what the Secret holds was laid out.
        let dir = partly();
        assert!(!init(&server, dir.path(), &config).await.expect("taken"));
        assert_eq!(held_in(dir.path()), held_in(whole.path()), "{killed_after}");
        daemon::tls::Identity::load(&Layout::new(dir.path()).server(), daemon::spiffe::Role::Cluster)
            .expect("it can serve");
    }
    // What the installation says now counts also when the Secret is only made at the second try.
    let (dir, alone) = (tempfile::tempdir().expect("a directory"), ApiServer::new());
    init::init(dir.path(), &config, SystemTime::now()).expect("made");
    let later = wanted("west", "10.9.0.0/16");
    assert!(init(&alone, dir.path(), &later).await.expect("made"));
    let (now, ..) = held_in(dir.path());
    assert_eq!((now.uuid, now.pod_cidrs), (config.uuid, later.pod_cidrs));
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
