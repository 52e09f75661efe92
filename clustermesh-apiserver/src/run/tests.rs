mod vms;

use super::*;
use crate::args::SourceArgs;
use crate::init;
use api::peer::{API_VERSION, Contract, KIND, Limits, MeshPeer, MeshPeerSpec, Metadata, Stale};
use daemon::{
    spiffe::Role,
    tls::{Certificate, Expected, Identity, connect},
};
use lab::free_port;
use rpc::etcdserverpb::{RangeRequest, kv_client::KvClient};
use std::{net::TcpListener as StdListener, path::Path};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// Nothing here takes more than a second; a hanging start fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_cluster_is_ready_when_its_first_list_can_be_read_and_ends_when_asked() {
    let dir = cluster();
    std::fs::write(
        dir.path().join("manifests/shop.yaml"),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
    )
    .expect("written");
    let running = Running::start(dir.path());
    running.until_ready().await;
    let operator = Identity::load(&Layout::new(dir.path()).admin(), Role::Operator).expect("an operator");
    let tls = Tls::new(operator);
    let expected = Expected::cluster_of(tls.trust().own());
    let connection = connect(&tls, &running.args.listen.to_string(), &expected).await.expect("connected");
    let shop = RangeRequest { key: "mesh/v1/west/namespaces/shop".into(), ..Default::default() };
    assert_eq!(KvClient::new(connection.channel).range(shop).await.expect("read").into_inner().count, 1);
    let metrics = running.get("/metrics").await;
    for figure in [
        "mesh_apiserver_publish_seconds_count 1",
        "mesh_apiserver_peers 0.0",
        "mesh_apiserver_connections_total 1.0",
        "mesh_apiserver_store_revision ",
    ] {
        assert!(metrics.contains(figure), "{figure} in {metrics}");
    }
    running.end().await.expect("ended well");
    let again = Running::start(dir.path());
    again.until_ready().await;
    again.end().await.expect("the directory was free again");
}

#[tokio::test]
async fn whoever_comes_first_finds_the_peers_of_the_start_believed_and_this_boot_in_the_lineage() {
    let (west, east) = (cluster(), cluster_of("east", 0x22));
    let manifests = west.path().join("manifests");
    std::fs::remove_dir(&manifests).expect("a source that cannot be read yet");
    let running = Running::start(west.path());
    let tls = Tls::new(Identity::load(&Layout::new(east.path()).server(), Role::Cluster).expect("of east"));
    let bundle =
        |of: &TempDir| std::fs::read_to_string(Layout::new(of.path()).server().bundle).expect("read");
    let us = ClusterConfig::load(&Layout::new(west.path())).expect("a configuration");
    tls.trust().add_peer(us.uuid, us.name.clone(), &bundle(&west)).expect("a bundle");
    let (address, expected) = (running.args.listen.to_string(), Expected::cluster(us.uuid, us.name));
    let first = tokio::spawn(async move { connect(&tls, &address, &expected).await });
    running.until_missing("peers: the MeshPeer objects are not read yet").await;

    let staged = west.path().join("staged");
    std::fs::create_dir(&staged).expect("made");
    std::fs::write(staged.join("east.yaml"), mesh_peer(&east, bundle(&east))).expect("written");
    std::fs::rename(staged, manifests).expect("the source can be read");
    let connection = first.await.expect("no panic").expect("the first try is answered");
    let lineage = RangeRequest { key: "mesh/v1/west/lineage".into(), ..Default::default() };
    let told = KvClient::new(connection.channel).range(lineage).await.expect("let in").into_inner();
    let lineage = api::record::Lineage::decode(&told.kvs[0].value).expect("a lineage");
    assert_eq!(lineage.boots.len(), 1, "this boot");
    assert_eq!(told.kvs[0].create_revision, 2, "and nothing was written before it");
    running.until_ready().await;
    running.end().await.expect("ended well");
}

#[tokio::test]
async fn what_is_missing_or_taken_at_the_start_is_named() {
    let empty = TempDir::new().expect("a directory");
    let error = run(&args(empty.path()), CancellationToken::new()).await.expect_err("no cluster");
    assert!(format!("{error:#}").starts_with("there is no cluster to serve: cannot read"), "{error:#}");
    assert!(error.downcast_ref::<Hint>().is_some(), "with a hint");

    let dir = cluster();
    let taken = StdListener::bind("127.0.0.1:0").expect("bound");
    let at = taken.local_addr().expect("an address");
    let error =
        run(&RunArgs { listen: at, ..args(dir.path()) }, CancellationToken::new()).await.expect_err("taken");
    assert!(format!("{error:#}").contains(&format!("cannot listen on {at}")), "{error:#}");

    let running = Running::start(dir.path());
    running.until_ready().await;
    let error = run(&args(dir.path()), CancellationToken::new()).await.expect_err("locked");
    assert!(format!("{error:#}").contains("one apiserver serves a data directory at a time"), "{error:#}");
    running.end().await.expect("ended well");
}

#[test]
fn our_own_certificate_is_renewed_when_it_is_due_or_gone() {
    let dir = cluster();
    let layout = Layout::new(dir.path());
    let config = ClusterConfig::load(&layout).expect("a configuration");
    let serial = || Certificate::load(&layout.server().cert).expect("a certificate").serial;
    let (first, now) = (serial(), SystemTime::now());
    assert!(!renew::if_due(&layout, &config, now).expect("looked"));
    assert_eq!(serial(), first);
    assert!(renew::if_due(&layout, &config, now + Duration::from_secs(300 * 86_400)).expect("renewed"));
    assert_ne!(serial(), first);
    std::fs::write(layout.server().cert, "not PEM").expect("written");
    assert!(renew::if_due(&layout, &config, now).expect("renewed"));
    Identity::load(&layout.server(), Role::Cluster).expect("certificate and key belong together");
    std::fs::copy(layout.admin().key, layout.server().key).expect("as a crash between two files leaves it");
    let identity = renew::identity(&layout, &config, now).expect("made whole");
    assert_eq!(*identity.id(), config.server_id());
}

// ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn cluster() -> TempDir {
    cluster_of("west", 0x11)
}

/// What another cluster is given of it.
fn mesh_peer(of: &TempDir, trust_bundle: String) -> String {
    let config = ClusterConfig::load(&Layout::new(of.path())).expect("a configuration");
    let contract =
        Contract { cidrs: config.pod_cidrs, namespaces: vec![], limits: Limits::default(), relay: vec![] };
    let peer = MeshPeer {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        metadata: Metadata { name: config.name },
        spec: MeshPeerSpec {
            uuid: config.uuid,
            // Nobody listens on the port of `discard`.
            endpoints: vec!["127.0.0.1:9".to_owned()],
            through: None,
            trust_bundle,
            contract,
            stale: Stale::default(),
            connect: None,
        },
    };
    serde_saphyr::to_string(&peer).expect("YAML")
}

fn cluster_of(name: &str, number: u8) -> TempDir {
    let dir = TempDir::new().expect("a directory");
    let prefix = |text: &str| vec![text.parse().expect("a prefix")];
    let config = ClusterConfig {
        name: name.parse().expect("a name"),
        uuid: api::bytes::ClusterUuid([number; 16]),
        pod_cidrs: prefix(&format!("10.{number}.0.0/16")),
        service_cidrs: prefix(&format!("10.{}.0.0/16", number + 100)),
        mesh_cidrs: prefix(&format!("100.64.{number}.0/24")),
        encryption_scope: Default::default(),
        advertise: vec!["127.0.0.1:2379".to_owned()],
        dial_out: false,
    };
    init::init(dir.path(), &config, SystemTime::now()).expect("initialised");
    std::fs::create_dir(dir.path().join("manifests")).expect("made");
    dir
}

fn args(dir: &Path) -> RunArgs {
    RunArgs {
        data_dir: dir.to_owned(),
        source: SourceArgs { manifests: Some(dir.join("manifests")), kubernetes: false },
        state_secret: None,
        bundle_configmap: None,
        enrol_service_account: None,
        operator_service_account: None,
        readiness_gate: false,
        listen: free_port(),
        health: free_port(),
    }
}

struct Running {
    args: RunArgs,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    fn start(dir: &Path) -> Self {
        let (args, shutdown) = (args(dir), CancellationToken::new());
        let (ours, token) = (args.clone(), shutdown.clone());
        Self { args, shutdown, task: tokio::spawn(async move { run(&ours, token).await }) }
    }

    async fn get(&self, path: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(self.args.health).await else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nHost: mesh\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        // A port that is not served yet closes the connection: no answer.
        if stream.write_all(request.as_bytes()).await.is_ok() {
            stream.read_to_string(&mut answer).await.ok();
        }
        answer
    }

    /// Until it says so: the condition is there before the first look is over.
    async fn until_missing(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.get("/readyz").await.contains(what) {
            assert!(!self.task.is_finished() && Instant::now() < deadline, "{}", self.get("/readyz").await);
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// There is no event for another process's readiness: it is asked until it says so, as a kubelet does.
    async fn until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.get("/readyz").await.ends_with("\r\n\r\nready\n") {
            assert!(!self.task.is_finished() && Instant::now() < deadline, "{}", self.get("/readyz").await);
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.expect("in time").expect("no panic")
    }
}
