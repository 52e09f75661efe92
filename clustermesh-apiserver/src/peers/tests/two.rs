//! Two clusters in one process, each with its own CA, store and doors, over real TLS on loopback.

use super::{cidr, name};
use crate::{
    admin::{AdminService, Meant, PeerAdmin, PeerError},
    authz,
    backend::Engine,
    face::{self, Doors, Listening},
    init::{self, ClusterConfig},
    keep::Keep,
    peers::{self, Peers},
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

struct Cluster {
    config: ClusterConfig,
    directory: TempDir,
    address: SocketAddr,
    engine: Engine,
    tls: Tls,
    peers: Peers,
    cancel: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Cluster {
    async fn new(of: &str, number: u8) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = ClusterConfig {
            name: name(of),
            uuid: ClusterUuid([number; 16]),
            pod_cidrs: vec![cidr(&format!("10.{number}.0.0/16"))],
            service_cidrs: vec![cidr(&format!("10.{}.0.0/16", 100 + number))],
            mesh_cidrs: vec![cidr(&format!("100.{}.0.0/24", 64 + number))],
            encryption_scope: Default::default(),
            advertise: vec!["localhost:2379".to_owned()],
        };
        init::init(&directory.path().join("data"), &config, SystemTime::now()).expect("a cluster");
        std::fs::create_dir(directory.path().join("manifests")).expect("a directory");
        let port = face::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
        Self::start(directory, config, port).await
    }

    async fn start(directory: TempDir, config: ClusterConfig, port: Listening) -> Self {
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
        let endpoints = vec![port.address().to_string()];
        let home = peers::Home::Directory(manifests);
        let peering = peers::Config { own: own.clone(), home, keep, propagation, endpoints };
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
        let admin = AdminService::new(Arc::new(peers.clone()), VmAdmin::idle(directory.path()));
        tasks.push(tokio::spawn(async move { port.serve(doors, admin, None).await.expect("served") }));
        Self { config, directory, address, engine, tls, peers, cancel, tasks }
    }

    async fn stop(self) -> (TempDir, ClusterConfig, SocketAddr) {
        self.cancel.cancel();
        for task in self.tasks {
            tokio::time::timeout(PATIENCE, task).await.expect("ends in time").expect("ends well");
        }
        self.engine.shut_down().await;
        (self.directory, self.config, self.address)
    }

    async fn restart(self, between: impl FnOnce(&TempDir)) -> Self {
        let (directory, config, address) = self.stop().await;
        between(&directory);
        let port = face::bind(address).await.expect("the same port");
        Self::start(directory, config, port).await
    }

    fn name(&self) -> &ClusterName {
        &self.config.name
    }

    /// What another cluster writes of us.
    fn as_peer(&self, connect: Option<Connect>) -> MeshPeer {
        MeshPeer {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            metadata: Metadata { name: self.name().clone() },
            spec: MeshPeerSpec {
                uuid: self.config.uuid,
                endpoints: vec![self.address.to_string()],
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

    fn manifest(&self, file: &str, text: &str) {
        durable::write(&self.directory.path().join("manifests").join(file), text.as_bytes())
            .expect("written");
    }

    fn object_of(&self, peer: &ClusterName) -> Option<MeshPeer> {
        let path = self.directory.path().join("manifests").join(peers::file_name(peer));
        let text = std::fs::read_to_string(path).ok()?;
        Some(serde_saphyr::from_str(&text).expect("a MeshPeer"))
    }

    async fn records(&self) -> BTreeMap<Key, Record> {
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
    async fn until(&self, what: &str, holds: impl Fn(&BTreeMap<Key, Record>) -> bool) {
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

    fn verdict<'a>(records: &'a BTreeMap<Key, Record>, peer: &ClusterName) -> Option<&'a PeerState> {
        match records.get(&LocalKey::Peer(peer.clone()).into())? {
            Record::PeerState(state) => Some(state),
            other => panic!("{other:?}"),
        }
    }

    fn counters<'a>(records: &'a BTreeMap<Key, Record>, peer: &ClusterName) -> Option<&'a ImportState> {
        match records.get(&LocalKey::Import(peer.clone()).into())? {
            Record::ImportState(state) => Some(state),
            other => panic!("{other:?}"),
        }
    }

    /// Until the peerings of this start are decided.
    async fn until_looked(&self) {
        let key = MeshKey::Synced(Kind::Peerings).of(self.name());
        let vouched = Record::from(Synced { boot: BootId(self.engine.boot()) });
        self.until("the first look", |records| records.get(&key) == Some(&vouched)).await;
    }

    async fn until_imported(&self, from: &Self) {
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

fn key(text: &str) -> Key {
    Key::parse(text.as_bytes()).expect("a key")
}

fn backend(of: &Cluster) -> Key {
    key(&format!("mesh/v1/{}/backends/shop/cart/10.{}.0.7", of.name(), of.config.uuid.0[0]))
}

fn cart(number: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop, annotations: {{service.cilium.io/global: 'true'}}}}\n\
         spec: {{clusterIP: 10.{}.0.10, ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: cart-1, namespace: shop, labels: \
         {{kubernetes.io/service-name: cart}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
         endpoints: [{{addresses: [10.{number}.0.7]}}]\n",
        100 + number
    )
}

async fn two() -> (Cluster, Cluster) {
    let (east, west) = (Cluster::new("east", 1).await, Cluster::new("west", 2).await);
    east.manifest("cart.yaml", &cart(1));
    west.manifest("cart.yaml", &cart(2));
    for cluster in [&east, &west] {
        let own = backend(cluster);
        cluster.until("its own backend", |records| records.contains_key(&own)).await;
    }
    (east, west)
}

const NONCE: Nonce = Nonce([9; 16]);

fn connecting(within_s: u64) -> Option<Connect> {
    Some(Connect { nonce: NONCE, deadline_s: Some(unix_s() + within_s) })
}

async fn connected() -> (Cluster, Cluster) {
    let (east, west) = two().await;
    assert!(east.peers.apply_peer(west.as_peer(connecting(60)), None, false).await.expect("applied"));
    assert!(west.peers.apply_peer(east.as_peer(connecting(60)), None, false).await.expect("applied"));
    tokio::join!(east.until_imported(&west), west.until_imported(&east));
    (east, west)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_objects_with_one_nonce_become_an_active_peering_that_imports() {
    let (east, west) = connected().await;
    for (us, other) in [(&east, &west), (&west, &east)] {
        let object = us.object_of(other.name()).expect("its file");
        assert_eq!(object.spec.connect, Some(Connect { nonce: NONCE, deadline_s: None }));
        // Told again, the same connect changes nothing.
        assert!(!us.peers.apply_peer(other.as_peer(connecting(60)), None, false).await.expect("fine"));
    }
    let records = east.records().await;
    let synced = MeshKey::Synced(Kind::Backends).of(west.name());
    assert!(records.contains_key(&synced), "an importer says what is complete");
    assert!(
        !records.contains_key(&MeshKey::Heartbeat.of(west.name())),
        "the peer's present is not passed on"
    );
    let told = east.peers.describe().await.expect("described");
    // Who edits what he saw some time ago writes over nothing else.
    let (seen, mut edited) = (told.peers[0].clone(), told.peers[0].clone());
    edited.spec.contract.limits.nodes = 7;
    assert!(east.peers.apply_peer(edited.clone(), Some(seen.clone()), false).await.expect("as he saw it"));
    edited.spec.contract.limits.nodes = 8;
    let error = east.peers.apply_peer(edited, Some(seen), false).await.expect_err("it was changed");
    assert!(error.to_string().contains("somebody has changed MeshPeer west meanwhile"), "{error}");
    assert_eq!(told.peers.len(), 1);
    assert_eq!(told.counts["backends"], 1);

    // What the peer changes arrives, what it withdraws goes.
    west.manifest("cart.yaml", &cart(2).replace("10.2.0.7", "10.2.0.8"));
    let (old, new) = (backend(&west), key("mesh/v1/west/backends/shop/cart/10.2.0.8"));
    east.until("the other backend", |r| r.contains_key(&new) && !r.contains_key(&old)).await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnect_removes_what_was_imported_and_keeps_the_prefixes_closed() {
    let (east, west) = connected().await;
    let other_connect = Meant { nonce: Some(Nonce([1; 16])), uuid: None };
    let of_another = east.peers.remove_peer(west.name(), other_connect).await.expect("answered");
    assert!(!of_another.removed, "another connect's peering is not this one's to undo");
    let other_cluster = Meant { nonce: None, uuid: Some(ClusterUuid([9; 16])) };
    let error = east.peers.remove_peer(west.name(), other_cluster).await.expect_err("not that one");
    assert!(error.to_string().contains("its peer west is another cluster of that name"), "{error}");
    let removed = east.peers.remove_peer(west.name(), Meant::default()).await.expect("removed");
    assert!(removed.removed);
    assert_eq!(removed.records["backends"], 1);
    assert_eq!(removed.closed, [cidr("10.2.0.0/16"), cidr("100.66.0.0/24")]);
    assert_eq!(east.object_of(west.name()), None);
    let records = east.records().await;
    let of_west: Vec<String> =
        records.keys().map(Key::to_string).filter(|key| key.contains("west")).collect();
    assert_eq!(of_west, ["mesh-local/v1/closed/west"]);

    // The other side was active with us: it sees that we went, keeps its object, and grows stale.
    west.until("that east is stale", |records| {
        Cluster::verdict(records, east.name()).is_some_and(|v| v.freshness == Freshness::Stale)
    })
    .await;
    assert!(west.object_of(east.name()).is_some());
    assert!(west.records().await.contains_key(&backend(&east)), "stale is not gone");
    west.until("the reason", |records| {
        let error = Cluster::counters(records, east.name()).map(|counters| counters.last_error.clone());
        error.is_some_and(|error| error.contains("refuses our own certificate"))
    })
    .await;

    let east = east.restart(|_| {}).await;
    east.until_looked().await;
    let closed = Key::from(LocalKey::Closed(west.name().clone()));
    assert!(east.records().await.contains_key(&closed), "closed over a restart, too");
    assert_eq!(east.peers.forget(west.name()).await.expect("forgotten").len(), 2);
    assert!(!east.records().await.contains_key(&closed));
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_that_nobody_answers_is_undone_and_closes_nothing() {
    let (east, west) = two().await;
    assert!(east.peers.apply_peer(west.as_peer(connecting(2)), None, false).await.expect("applied"));
    let verdict = Key::from(LocalKey::Peer(west.name().clone()));
    east.until("the prepared peering", |records| records.contains_key(&verdict)).await;
    assert!(!east.records().await.contains_key(&backend(&west)), "prepared imports nothing");
    east.until("its end", |records| !records.keys().any(|key| key.to_string().contains("west"))).await;
    assert_eq!(east.object_of(west.name()), None);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_is_refused_counted_and_spoils_no_neighbour() {
    let (east, west) = connected().await;
    let lie = key("mesh/v1/west/backends/shop/cart/10.1.0.99");
    let garbage = key("mesh/v1/west/backends/shop/cart/10.2.0.98");
    let honest = key("mesh/v1/west/backends/shop/cart/10.2.0.97");
    let good = west.records().await[&backend(&west)].encode();
    west.manifest("cart.yaml", &cart(2).replace("[10.2.0.7]", "[10.2.0.7, 10.2.0.97]"));
    west.until("its second backend", |records| records.contains_key(&honest)).await;
    for (key, value) in [(&lie, good), (&garbage, vec![0xff; 9])] {
        let put = publish::Op::Put { key: key.clone(), value };
        writes::write(&west.engine, &[put]).await.expect("written");
    }
    east.until("the honest one, and both refusals counted", |records| {
        let refusals =
            Cluster::counters(records, west.name()).map(|c| c.refusals.clone()).unwrap_or_default();
        let counted = |reason| refusals.iter().any(|r| r.reason == reason);
        records.contains_key(&honest) && counted("our-address") && counted("malformed-value")
    })
    .await;
    let records = east.records().await;
    assert!(!records.contains_key(&lie) && !records.contains_key(&garbage));
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peering_by_hand_is_active_at_once_and_its_end_while_we_were_away_is_seen() {
    let (east, west) = two().await;
    for (us, other) in [(&east, &west), (&west, &east)] {
        us.manifest("by-hand.yaml", &serde_saphyr::to_string(&other.as_peer(None)).expect("YAML"));
    }
    tokio::join!(east.until_imported(&west), west.until_imported(&east));
    let error = east.peers.remove_peer(west.name(), Meant::default()).await.expect_err("not ours to remove");
    assert!(error.to_string().contains("by-hand.yaml"), "{error}");

    let east = east
        .restart(|directory| {
            std::fs::remove_file(directory.path().join("manifests/by-hand.yaml")).expect("removed");
        })
        .await;
    let closed = Key::from(LocalKey::Closed(west.name().clone()));
    east.until("the sweep", |records| {
        records.contains_key(&closed)
            && !records.keys().any(|key| key != &closed && key.to_string().contains("west"))
    })
    .await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_goes_while_we_are_away_and_our_store_with_it_leaves_its_prefixes_closed() {
    let (east, west) = connected().await;
    let file = peers::file_name(west.name());
    let east = east
        .restart(|directory| {
            std::fs::remove_file(directory.path().join("manifests").join(&file)).expect("removed");
            std::fs::remove_dir_all(directory.path().join("data/store")).expect("lost");
        })
        .await;
    let closed = Key::from(LocalKey::Closed(west.name().clone()));
    east.until("that it is closed", |records| records.contains_key(&closed)).await;
    let mut opened = east.peers.forget(west.name()).await.expect("forgotten");
    opened.sort();
    assert_eq!(opened, [cidr("10.2.0.0/16"), cidr("100.66.0.0/24")]);
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_cannot_be_read_after_a_restart_is_not_gone() {
    let (east, west) = connected().await;
    let file = peers::file_name(west.name());
    let text = std::fs::read_to_string(east.directory.path().join("manifests").join(&file)).expect("there");
    let broken = text.replace("uuid:", "uuid: [");
    let east = east
        .restart(|directory| {
            durable::write(&directory.path().join("manifests").join(&file), broken.as_bytes())
                .expect("written");
        })
        .await;
    east.until_looked().await;
    assert!(east.records().await.contains_key(&backend(&west)), "what was imported stays");
    assert!(!east.records().await.contains_key(&LocalKey::Closed(west.name().clone()).into()));
    // Nor when the store knows nothing of it any more.
    let east =
        east.restart(|dir| std::fs::remove_dir_all(dir.path().join("data/store")).expect("lost")).await;
    east.until_looked().await;
    assert!(!east.records().await.contains_key(&LocalKey::Closed(west.name().clone()).into()));
    east.manifest(&file, &text);
    east.until_imported(&west).await;
    std::fs::remove_file(east.directory.path().join("manifests").join(&file)).expect("removed");
    east.until("the end", |records| !records.contains_key(&backend(&west))).await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_what_was_imported_though_the_peer_is_away() {
    let (east, west) = connected().await;
    let (directory, config, address) = west.stop().await;
    let east = east.restart(|_| {}).await;
    let imported = key("mesh/v1/west/backends/shop/cart/10.2.0.7");
    east.until("a stale verdict", |records| {
        Cluster::verdict(records, &name("west")).is_some_and(|v| v.freshness == Freshness::Stale)
    })
    .await;
    assert!(east.records().await.contains_key(&imported));

    let port = face::bind(address).await.expect("the same port");
    let west = Cluster::start(directory, config, port).await;
    east.until_imported(&west).await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_conflicts_is_refused_before_anything_is_written() {
    let (east, west) = (Cluster::new("east", 1).await, Cluster::new("west", 2).await);
    east.until_looked().await;
    let mut greedy = west.as_peer(connecting(60));
    greedy.spec.contract.cidrs = vec![cidr("10.0.0.0/8")];
    for dry_run in [true, false] {
        match east.peers.apply_peer(greedy.clone(), None, dry_run).await {
            Err(PeerError::Refused(why)) => {
                assert!(why.contains("10.1.0.0/16, a pod range of our own"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(east.peers.apply_peer(west.as_peer(connecting(60)), None, true).await.expect("would be applied"));
    assert_eq!(east.object_of(west.name()), None, "a dry run writes nothing");
    // By hand it is written, and shown as what it is.
    east.manifest("greedy.yaml", &serde_saphyr::to_string(&greedy).expect("YAML"));
    east.until("the conflict", |records| {
        Cluster::counters(records, west.name()).is_some_and(|c| c.last_error.starts_with("not in force: "))
    })
    .await;
    assert!(east.peers.status().borrow().in_force.is_empty());
    east.stop().await;
    west.stop().await;
}
