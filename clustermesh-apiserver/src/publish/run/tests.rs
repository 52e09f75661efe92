//! From a directory of YAML to a real store.

use super::*;
use crate::source::{
    driver::{self, Config, Origin},
    index::Facts,
};
use crate::{
    keep::Keep,
    pki::Layout,
    propagation::Propagation,
    source::kubernetes::{self, Events},
    stand_in::ApiServer,
    vms::presence::VmStates,
};
use api::{
    key::MeshKey,
    record::{Heartbeat, Synced},
};
use daemon::{durable, health::Readiness};
use serde_json::json;
use std::{collections::BTreeSet, net::Ipv4Addr, path::Path};

/// Far more than anything here takes, and less than a stuck build.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    engine: Engine,
    source: watch::Receiver<Option<State>>,
    directory: tempfile::TempDir,
    cancel: CancellationToken,
}

impl Cluster {
    async fn start(directory: tempfile::TempDir) -> Self {
        let origin = Origin::Directory(directory.path().join("manifests"));
        Self::start_from(origin, directory, CancellationToken::new()).await
    }

    async fn start_from(origin: Origin, directory: tempfile::TempDir, cancel: CancellationToken) -> Self {
        let engine = Engine::open(&directory.path().join("data")).await.expect("a store");
        let own = Own {
            name: "east".parse().expect("a name"),
            uuid: api::bytes::ClusterUuid([7; 16]),
            pod_cidrs: vec!["10.1.0.0/16".parse().expect("a range")],
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
            mesh_cidrs: vec!["100.64.0.0/24".parse().expect("a range")],
            encryption_scope: Default::default(),
        };
        let facts = Facts {
            cluster: own.name.clone(),
            uuid: own.uuid,
            pod_cidrs: own.pod_cidrs.clone(),
            ignored_labels: vec![],
            namespaces_are_global: true,
        };
        let config = Config {
            origin,
            keep: Keep::new(&Layout::new(directory.path()), None),
            facts,
            mesh_cidrs: own.mesh_cidrs.clone(),
        };
        let vms = tokio::sync::watch::Sender::new(VmStates::default()).subscribe();
        let source = driver::spawn(config, vms, cancel.clone()).expect("a source");
        let took = Propagation::default().publish();
        spawn(engine.clone(), own, source.clone(), took, cancel.clone());
        Self { engine, source, directory, cancel }
    }

    async fn stop(self) -> tempfile::TempDir {
        self.cancel.cancel();
        self.engine.shut_down().await;
        self.directory
    }

    async fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for prefix in ["mesh/v1/", "mesh-local/v1/"] {
            writes::list(&self.engine, prefix, |key, _| keys.push(key.to_string())).await.expect("a list");
        }
        keys.retain(|key| !key.contains("heartbeat") && !key.contains("identities"));
        keys
    }

    async fn value(&self, key: &str) -> Option<(Vec<u8>, i64)> {
        let request = store::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let kv = self.engine.range(&request).await.expect("a read").kvs.pop()?;
        Some((kv.value.to_vec(), kv.mod_revision))
    }

    /// Waits until the store satisfies a predicate on its keys.
    async fn until(&self, what: &str, holds: impl Fn(&[String]) -> bool) {
        let mut revisions = self.engine.revisions();
        let wait = async {
            loop {
                revisions.mark_unchanged();
                if holds(&self.keys().await) {
                    return;
                }
                revisions.changed().await.expect("the store runs");
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("waited in vain for {what}: {:#?}", self.keys().await);
        }
    }

    fn write(&self, file: &str, text: &str) {
        durable::write(&self.directory.path().join("manifests").join(file), text.as_bytes())
            .expect("written");
    }
}

fn has(keys: &[String], key: &str) -> bool {
    keys.iter().any(|k| k == key)
}

fn new() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(directory.path().join("manifests")).expect("a directory");
    directory
}

const CART: &str = "\
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop, annotations: {service.cilium.io/global: 'true'}}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.7]}]
";

const EXPORTED: &str = "mesh/v1/east/services/shop/cart";
const BACKEND: &str = "mesh/v1/east/backends/shop/cart/10.1.0.7";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_directory_stands_in_the_store() {
    let cluster = Cluster::start(new()).await;
    cluster.write("cart.yaml", CART);
    cluster.until("the Service and its backend", |keys| has(keys, EXPORTED) && has(keys, BACKEND)).await;
    let backend = cluster.value(BACKEND).await;

    cluster.write("cart.yaml", &CART.replace("'true'", "'false'"));
    cluster
        .until("a Service that is no longer exported", |keys| {
            has(keys, "mesh-local/v1/services/shop/cart") && !has(keys, EXPORTED) && !has(keys, BACKEND)
        })
        .await;

    cluster.write("cart.yaml", CART);
    cluster.until("the Service again", |keys| has(keys, BACKEND)).await;
    assert_eq!(cluster.value(BACKEND).await.map(|b| b.0), backend.map(|b| b.0));
    let before = cluster.value(BACKEND).await;

    // A comment changes nothing, and a broken neighbour spoils only itself.
    cluster.write("cart.yaml", &format!("# nothing new\n{CART}---\nkind: [\n"));
    cluster.write("ns.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}");
    cluster.until("the Namespace", |keys| has(keys, "mesh/v1/east/namespaces/shop")).await;
    assert_eq!(cluster.value(BACKEND).await, before, "not written again");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_withdraws_nothing_before_the_source_is_read() {
    let cluster = Cluster::start(new()).await;
    cluster.write("cart.yaml", CART);
    cluster.until("the backend", |keys| has(keys, BACKEND)).await;
    let first = cluster.value(BACKEND).await;
    let directory = cluster.stop().await;

    let manifests = directory.path().join("manifests");
    std::fs::rename(&manifests, directory.path().join("away")).expect("moved");
    let cluster = Cluster::start(directory).await;
    let lineage = MeshKey::Lineage.of(&"east".parse().expect("a name")).to_string();
    let boot = cluster.engine.boot();
    let told = |bytes: &[u8]| api::record::Lineage::decode(bytes).expect("a lineage").current().id.0;
    let mut revisions = cluster.engine.revisions();
    while told(&cluster.value(&lineage).await.expect("it was there before").0) != boot {
        tokio::time::timeout(PATIENCE, revisions.changed()).await.expect("in time").expect("the store runs");
    }
    assert_eq!(cluster.value(BACKEND).await, first, "the store serves what it knows");
    assert!(cluster.source.borrow().is_none());
    let synced = cluster.value("mesh/v1/east/synced/backends").await.expect("of the boot before").0;
    assert_ne!(Synced::decode(&synced).expect("a record").boot.0, boot, "this boot has listed nothing");

    std::fs::rename(cluster.directory.path().join("away"), &manifests).expect("moved back");
    std::fs::remove_file(manifests.join("cart.yaml")).expect("removed");
    cluster.until("the backend to go", |keys| !has(keys, BACKEND)).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_breaks_grows_old_and_loses_nothing() {
    let cluster = Cluster::start(new()).await;
    cluster.write("cart.yaml", CART);
    cluster.until("the backend", |keys| has(keys, BACKEND)).await;
    remove(&cluster.directory.path().join("manifests"));
    let mut revisions = cluster.engine.revisions();
    let old = async {
        loop {
            revisions.changed().await.expect("the store runs");
            let (beat, _) = cluster.value("mesh/v1/east/heartbeat").await.expect("a heart");
            // Two looks were missed: the age is not the jitter of a look.
            if Heartbeat::decode(&beat).expect("a heartbeat").source_age_ms > 2_000 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, old).await.expect("the age grows");
    assert!(has(&cluster.keys().await, BACKEND));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_its_mesh_address_over_a_restart_and_a_lost_store() {
    let node = |name: &str| format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}");
    let cluster = Cluster::start(new()).await;
    cluster.write("b.yaml", &node("b"));
    cluster.until("node b", |keys| has(keys, "mesh/v1/east/nodes/b")).await;
    let b = cluster.value("mesh/v1/east/nodes/b").await.expect("a node").0;
    let directory = cluster.stop().await;
    remove(&directory.path().join("data"));
    let cluster = Cluster::start(directory).await;
    cluster.write("a.yaml", &node("a"));
    cluster.until("node a", |keys| has(keys, "mesh/v1/east/nodes/a")).await;
    assert_eq!(cluster.value("mesh/v1/east/nodes/b").await.expect("a node").0, b);
    cluster.stop().await;
}

/// A deployment's worth of a large cluster, as many as a scheduler of one replaces in minutes; here at once.
const ROLLED: u32 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pods_that_are_rolled_at_once_are_in_the_store_and_their_predecessors_are_not() {
    let server = ApiServer::new();
    let address =
        |generation: u32, pod: u32| Ipv4Addr::from_bits(0x0a01_0000 + generation * 0x8000 + pod + 1);
    let pod = |generation: u32, pod: u32| {
        json!({"metadata": {"name": format!("web-{generation}-{pod}"), "namespace": "shop",
            "uid": format!("{generation:08x}-0000-4000-8000-{pod:012x}"), "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"nodeName": "a1", "containers": []},
            "status": {"podIPs": [{"ip": address(generation, pod)}], "phase": "Running"}})
    };
    server.put(
        "namespaces",
        json!({"metadata": {"name": "shop", "uid": "6f1c2a34-0000-4000-8000-000000000001"}}),
    );
    (0..ROLLED).for_each(|number| server.put("pods", pod(0, number)));

    let cancel = CancellationToken::new();
    let events = Events::spawn(server.client(), cancel.clone());
    let waiting = Readiness::default().needs("source", "not begun");
    let origin = Origin::Kubernetes(kubernetes::Config { client: server.client(), events, waiting });
    let cluster = Cluster::start_from(origin, new(), cancel).await;
    let endpoints = |generation: u32| {
        let prefix = "mesh/v1/east/endpoints/shop/";
        (0..ROLLED).map(|pod| format!("{prefix}{}", address(generation, pod))).collect::<BTreeSet<_>>()
    };
    let are = |keys: &[String], wanted: &BTreeSet<String>| {
        let found = keys.iter().filter(|key| key.contains("/endpoints/"));
        found.cloned().collect::<BTreeSet<_>>() == *wanted
    };
    let (before, after) = (endpoints(0), endpoints(1));
    cluster.until("the first pods", |keys| are(keys, &before)).await;

    for number in 0..ROLLED {
        server.put("pods", pod(1, number));
        server.delete("pods", &format!("shop/web-0-{number}"));
    }
    cluster.until("the pods that came after them", |keys| are(keys, &after)).await;
    cluster.stop().await;
}

fn remove(directory: &Path) {
    std::fs::remove_dir_all(directory).expect("removed");
}
