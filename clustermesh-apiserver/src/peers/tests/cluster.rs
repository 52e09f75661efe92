//! Clusters in one process, each with its own CA, store and doors, over real TLS on loopback.

use super::{cidr, name};
use crate::{
    admin::{AdminService, PeerAdmin},
    authz,
    backend::Engine,
    face::{self, Doors, Listening},
    init::{self, ClusterConfig},
    keep::Keep,
    peers::{self, Peers},
    pipes::{self, Reach},
    pki::Layout,
    propagation::Propagation,
    publish::{self, Own, writes},
    source::{self, driver::unix_s},
    vms::{Members, admin::VmAdmin, presence::VmStates},
};
use api::{
    bytes::{BootId, ClusterUuid, Nonce},
    key::{Key, Kind, LocalKey, MeshKey},
    name::ClusterName,
    peer::{API_VERSION, Connect, Contract, KIND, Limits, MeshPeer, MeshPeerSpec, Metadata, Stale},
    record::{Freshness, ImportState, PeerState, Phase, Record, Synced},
};
use daemon::{
    durable,
    spiffe::Role,
    tls::{Identity, Tls},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes, and less than a stuck build.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Cluster {
    pub(super) config: ClusterConfig,
    pub(super) directory: TempDir,
    pub(super) address: SocketAddr,
    pub(super) engine: Engine,
    pub(super) tls: Tls,
    pub(super) peers: Peers,
    pub(super) reach: Reach,
    cancel: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Cluster {
    pub(super) async fn new(of: &str, number: u8) -> Self {
        Self::made(of, number, false).await
    }

    /// One that only dials out.
    pub(super) async fn edge(of: &str, number: u8) -> Self {
        Self::made(of, number, true).await
    }

    async fn made(of: &str, number: u8, dial_out: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = ClusterConfig {
            name: name(of),
            uuid: ClusterUuid([number; 16]),
            pod_cidrs: vec![cidr(&format!("10.{number}.0.0/16"))],
            service_cidrs: vec![cidr(&format!("10.{}.0.0/16", 100 + number))],
            mesh_cidrs: vec![cidr(&format!("100.{}.0.0/24", 64 + number))],
            encryption_scope: Default::default(),
            advertise: vec!["localhost:2379".to_owned()],
            dial_out,
        };
        init::init(&directory.path().join("data"), &config, SystemTime::now()).expect("a cluster");
        std::fs::create_dir(directory.path().join("manifests")).expect("a directory");
        let port = face::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
        Self::start(directory, config, port).await
    }

    pub(super) async fn start(directory: TempDir, config: ClusterConfig, port: Listening) -> Self {
        let layout = Layout::new(&directory.path().join("data"));
        let tls = Tls::new(Identity::load(&layout.server(), Role::Cluster).expect("an identity"));
        let engine = Engine::open(layout.root()).await.expect("a store");
        let own = Own {
            name: config.name.clone(),
            uuid: config.uuid,
            pod_cidrs: config.pod_cidrs.clone(),
            service_cidrs: config.service_cidrs.clone(),
            mesh_cidrs: config.mesh_cidrs.clone(),
            encryption_scope: Default::default(),
        };
        let cancel = CancellationToken::new();
        let manifests = directory.path().join("manifests");
        let keep = Keep::new(&layout, None);
        let sources = source::driver::spawn(
            source::driver::Config {
                origin: source::driver::Origin::Directory(manifests.clone()),
                keep: keep.clone(),
                facts: source::index::Facts {
                    cluster: own.name.clone(),
                    uuid: own.uuid,
                    pod_cidrs: own.pod_cidrs.clone(),
                    ignored_labels: vec![],
                    namespaces_are_global: true,
                },
                mesh_cidrs: own.mesh_cidrs.clone(),
            },
            tokio::sync::watch::Sender::new(VmStates::default()).subscribe(),
            cancel.clone(),
        )
        .expect("a source");
        let propagation = Propagation::default();
        let (_, mut tasks) = publish::spawn(
            engine.clone(),
            own.clone(),
            sources.clone(),
            propagation.publish(),
            cancel.clone(),
        );
        let (reach, arrivals) = Reach::new(tls.clone());
        if config.dial_out {
            tokio::spawn(cancel.clone().run_until_cancelled_owned(pipes::offer::follow(reach.clone())));
        }
        let endpoints = vec![port.address().to_string()];
        let home = peers::Home::Directory(manifests);
        let peering =
            peers::Config { own: own.clone(), home, keep, propagation, endpoints, reach: reach.clone() };
        let (peers, task) = peers::spawn(engine.clone(), tls.clone(), peering, sources, cancel.clone())
            .await
            .expect("peerings");
        tasks.push(task);
        let address = port.address();
        let doors = Doors::new(
            authz::Own { uuid: own.uuid, name: own.name },
            tls.clone(),
            Members::nobody(),
            engine.clone(),
            cancel.clone(),
        );
        let ways = (reach.clone(), arrivals);
        let admin = AdminService::new(Arc::new(peers.clone()), VmAdmin::idle(directory.path()));
        tasks.push(tokio::spawn(async move { port.serve(doors, admin, None, ways).await.expect("served") }));
        Self { config, directory, address, engine, tls, peers, reach, cancel, tasks }
    }

    pub(super) async fn stop(self) -> (TempDir, ClusterConfig, SocketAddr) {
        self.cancel.cancel();
        for task in self.tasks {
            tokio::time::timeout(PATIENCE, task).await.expect("ends in time").expect("ends well");
        }
        self.engine.shut_down().await;
        (self.directory, self.config, self.address)
    }

    pub(super) async fn restart(self, between: impl FnOnce(&TempDir)) -> Self {
        let (directory, config, address) = self.stop().await;
        between(&directory);
        let port = face::bind(address).await.expect("the same port");
        Self::start(directory, config, port).await
    }

    pub(super) fn name(&self) -> &ClusterName {
        &self.config.name
    }

    /// What another cluster writes of us.
    pub(super) fn as_peer(&self, connect: Option<Connect>) -> MeshPeer {
        MeshPeer {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            metadata: Metadata { name: self.name().clone() },
            spec: MeshPeerSpec {
                uuid: self.config.uuid,
                endpoints: if self.config.dial_out { vec![] } else { vec![self.address.to_string()] },
                through: None,
                trust_bundle: self.tls.identity().bundle_pem().to_owned(),
                contract: Contract {
                    cidrs: [self.config.pod_cidrs.clone(), self.config.mesh_cidrs.clone()].concat(),
                    namespaces: vec![],
                    limits: Limits::default(),
                    relay: vec![],
                },
                stale: Stale::default(),
                connect,
            },
        }
    }

    pub(super) fn manifest(&self, file: &str, text: &str) {
        durable::write(&self.directory.path().join("manifests").join(file), text.as_bytes())
            .expect("written");
    }

    pub(super) fn object_of(&self, peer: &ClusterName) -> Option<MeshPeer> {
        let path = self.directory.path().join("manifests").join(peers::file_name(peer));
        let text = std::fs::read_to_string(path).ok()?;
        Some(serde_saphyr::from_str(&text).expect("a MeshPeer"))
    }

    pub(super) async fn records(&self) -> BTreeMap<Key, Record> {
        let mut records = BTreeMap::new();
        for prefix in ["mesh/v1/", "mesh-local/v1/"] {
            // The liar's own store holds what is no record.
            let take = |key: Key, value: Vec<u8>| {
                if let Ok(record) = Record::decode(&key, &value) {
                    records.insert(key, record);
                }
            };
            writes::list(&self.engine, prefix, take).await.expect("a list");
        }
        records
    }

    /// Waits until the store satisfies a predicate.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&BTreeMap<Key, Record>) -> bool) {
        let mut revisions = self.engine.revisions();
        let wait = async {
            loop {
                revisions.mark_unchanged();
                if holds(&self.records().await) {
                    return;
                }
                revisions.changed().await.expect("the store runs");
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("{} waited in vain for {what}: {:#?}", self.name(), self.records().await);
        }
    }

    pub(super) fn verdict<'a>(
        records: &'a BTreeMap<Key, Record>,
        peer: &ClusterName,
    ) -> Option<&'a PeerState> {
        match records.get(&LocalKey::Peer(peer.clone()).into())? {
            Record::PeerState(state) => Some(state),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn counters<'a>(
        records: &'a BTreeMap<Key, Record>,
        peer: &ClusterName,
    ) -> Option<&'a ImportState> {
        match records.get(&LocalKey::Import(peer.clone()).into())? {
            Record::ImportState(state) => Some(state),
            other => panic!("{other:?}"),
        }
    }

    /// Until the peerings of this start are decided.
    pub(super) async fn until_looked(&self) {
        let key = MeshKey::Synced(Kind::Peerings).of(self.name());
        let vouched = Record::from(Synced { boot: BootId(self.engine.boot()) });
        self.until("the first look", |records| records.get(&key) == Some(&vouched)).await;
    }

    pub(super) async fn until_imported(&self, from: &Self) {
        let peer = from.name();
        let backend = backend(from);
        self.until("the peer's backend and an active, fresh verdict", |records| {
            let verdict = Self::verdict(records, peer);
            records.contains_key(&backend)
                && verdict.is_some_and(|v| v.phase == Phase::Active && v.freshness == Freshness::Fresh)
        })
        .await;
    }
}

pub(super) fn key(text: &str) -> Key {
    Key::parse(text.as_bytes()).expect("a key")
}

pub(super) fn backend(of: &Cluster) -> Key {
    key(&format!("mesh/v1/{}/backends/shop/cart/10.{}.0.7", of.name(), of.config.uuid.0[0]))
}

pub(super) fn cart(number: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop, annotations: {{service.cilium.io/global: 'true'}}}}\n\
         spec: {{clusterIP: 10.{}.0.10, ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: cart-1, namespace: shop, labels: \
         {{kubernetes.io/service-name: cart}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
         endpoints: [{{addresses: [10.{number}.0.7]}}]\n",
        100 + number
    )
}

pub(super) async fn two() -> (Cluster, Cluster) {
    let [east, west] = with_carts([Cluster::new("east", 1).await, Cluster::new("west", 2).await]).await;
    (east, west)
}

pub(super) const NONCE: Nonce = Nonce([9; 16]);

pub(super) fn connecting(within_s: u64) -> Option<Connect> {
    Some(Connect { nonce: NONCE, deadline_s: Some(unix_s() + within_s) })
}

/// The clusters, each with its cart.
pub(super) async fn with_carts<const N: usize>(clusters: [Cluster; N]) -> [Cluster; N] {
    for cluster in &clusters {
        cluster.manifest("cart.yaml", &cart(cluster.config.uuid.0[0]));
    }
    for cluster in &clusters {
        let own = backend(cluster);
        cluster.until("its own backend", |records| records.contains_key(&own)).await;
    }
    clusters
}

/// As `meshctl connect` does.
pub(super) async fn connect(east: &Cluster, west: &Cluster) {
    for (us, other) in [(east, west), (west, east)] {
        assert!(us.peers.apply_peer(other.as_peer(connecting(60)), None, false).await.expect("applied"));
    }
    tokio::join!(east.until_imported(west), west.until_imported(east));
}

pub(super) async fn connected() -> (Cluster, Cluster) {
    let (east, west) = two().await;
    connect(&east, &west).await;
    (east, west)
}
