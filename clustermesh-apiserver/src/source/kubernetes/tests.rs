//! The whole source against a small API of our own, in one thread, with a clock that waits for nobody.

use super::*;
use crate::source::object::Body;
use crate::stand_in::ApiServer;
use daemon::health::Readiness;
use serde_json::{Value, json};

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": "6f1c2a34-0000-4000-8000-000000000001",
        "creationTimestamp": "2026-01-02T03:04:05Z", "managedFields": [{"manager": "kubectl"}]}})
}

fn pod(name: &str, ip: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": "6f1c2a34-0000-4000-8000-000000000002",
        "creationTimestamp": "2026-01-02T03:04:05Z"}, "spec": {"nodeName": "a1", "containers": []},
        "status": {"podIPs": [{"ip": ip}], "phase": "Running"}})
}

fn service(name: &str, global: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": "6f1c2a34-0000-4000-8000-000000000003",
        "annotations": {"service.cilium.io/global": global}},
        "spec": {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ports": [{"port": 80}]}})
}

struct Source {
    server: ApiServer,
    listings: watch::Receiver<Option<Listing>>,
    readiness: Readiness,
    _end: tokio_util::sync::DropGuard,
}

impl Source {
    fn of(server: ApiServer) -> Self {
        let (readiness, cancel) = (Readiness::default(), CancellationToken::new());
        let waiting = readiness.needs("source", "not begun");
        let events = Events::spawn(server.client(), cancel.clone());
        let config = Config { client: server.client(), events, waiting };
        let listings = spawn(config, cancel.clone());
        Self { server, listings, readiness, _end: cancel.drop_guard() }
    }

    fn empty() -> Self {
        Self::of(ApiServer::new())
    }

    /// Waits until the objects are these, in their order.
    async fn says(&mut self, expected: &[&str]) -> Listing {
        let names = |listing: &Listing| {
            listing.snapshot.objects.keys().map(ToString::to_string).collect::<Vec<_>>() == expected
        };
        let told = self.listings.wait_for(|told| told.as_ref().is_some_and(names));
        if let Ok(told) = timeout(Duration::from_secs(600), told).await {
            return told.expect("it runs").clone().expect("there");
        }
        panic!("never said {expected:?}, but {:?}", self.listings.borrow());
    }

    async fn age(&mut self) -> Duration {
        self.listings.borrow_and_update().as_ref().expect("listed").read_at.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_kubernetes_that_is_too_old_is_named_with_what_it_lacks() {
    let server = ApiServer::new();
    server.set_minor("19+");
    server.set_missing("endpointslices", true);
    let source = Source::of(server.clone());
    sleep(Duration::from_secs(5)).await;
    assert!(source.listings.borrow().is_none());
    let [(_, why)] = &source.readiness.missing()[..] else { panic!("it waits") };
    assert_eq!(
        why,
        "the Kubernetes API has no endpointslices in discovery.k8s.io/v1: Kubernetes 1.30 or newer has them \
         (Kubernetes v1.19.2 is older than 1.30, the oldest that is supported)"
    );
}

#[test]
fn versions_are_compared_as_numbers_and_foreign_ones_are_left_alone() {
    let of = |major: &str, minor: &str| {
        let git_version = format!("v{major}.{minor}.0");
        too_old(&Info { major: major.to_owned(), minor: minor.to_owned(), git_version, ..Info::default() })
            .is_some()
    };
    for (major, minor, old) in [
        ("1", "29", true),
        ("1", "29+", true),
        ("1", "9", true),
        ("1", "30", false),
        ("1", "137", false),
        ("2", "0", false),
        ("", "", false),
    ] {
        assert_eq!(of(major, minor), old, "{major}.{minor}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_before_every_kind_is_listed_and_readiness_says_what_is_missing() {
    let server = ApiServer::new();
    server.put("namespaces", namespace("shop"));
    server.set_missing("meshpeers", true);
    let mut source = Source::of(server.clone());
    sleep(Duration::from_secs(5)).await;
    assert!(source.listings.borrow().is_none());
    let [(_, why)] = &source.readiness.missing()[..] else { panic!("it waits") };
    assert_eq!(
        why,
        "the Kubernetes API has no meshpeers in clustermesh.io/v1alpha1: install the CRDs of docs/kubernetes.md"
    );
    server.set_missing("meshpeers", false);
    source.says(&["Namespace shop"]).await;
}

#[tokio::test(start_paused = true)]
async fn who_may_not_list_is_told_the_verb_and_the_resource() {
    let server = ApiServer::new();
    server.forbid("pods");
    let source = Source::of(server);
    sleep(Duration::from_secs(5)).await;
    let [(_, why)] = &source.readiness.missing()[..] else { panic!("it waits") };
    assert!(why.contains("cannot list resource \"pods\""), "{why}");
    assert!(why.contains("docs/kubernetes.md"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_there_with_its_event_and_what_the_api_adds_is_read() {
    let mut source = Source::empty();
    source.says(&[]).await;
    source.server.put("namespaces", namespace("shop"));
    source.server.put("pods", pod("cart", "10.1.1.11"));
    let listing = source.says(&["Namespace shop", "Pod shop/cart"]).await;
    let found = listing.snapshot.objects.values().last().expect("two");
    assert_eq!(found.parsed.uid.expect("the API's").to_string(), "6f1c2a34-0000-4000-8000-000000000002");
    assert_eq!(found.parsed.created_s, Some(1_767_323_045));
    let Body::Pod(cart) = &found.parsed.body else { panic!("a pod") };
    assert_eq!(cart.ips, ["10.1.1.11".parse::<std::net::IpAddr>().expect("an address")]);
    source.server.delete("pods", "shop/cart");
    source.says(&["Namespace shop"]).await;
    assert_eq!(source.server.requests().iter().filter(|r| r.starts_with("list")).count(), KINDS.len());
}

#[tokio::test(start_paused = true)]
async fn a_list_of_many_pages_is_whole() {
    let server = ApiServer::new();
    let names: Vec<String> = (0..1_234).map(|i| format!("Namespace n-{i:04}")).collect();
    for i in 0..1_234 {
        server.put("namespaces", namespace(&format!("n-{i:04}")));
    }
    let mut source = Source::of(server.clone());
    source.says(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(server.requests().iter().filter(|request| *request == "list namespaces").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_was_missed_is_found_when_the_history_is_gone() {
    let mut source = Source::empty();
    source.server.put("pods", pod("a", "10.1.1.1"));
    source.server.put("pods", pod("b", "10.1.1.2"));
    source.says(&["Pod shop/a", "Pod shop/b"]).await;
    source.server.delete_unseen("pods", "shop/a");
    source.server.compact("pods");
    source.says(&["Pod shop/b"]).await;
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_are_resumed_without_a_list() {
    let mut source = Source::empty();
    source.says(&[]).await;
    sleep(Duration::from_secs(1)).await;
    let lists = |source: &Source| source.server.requests().iter().filter(|r| r.starts_with("list")).count();
    let before = lists(&source);
    source.server.end_watches();
    sleep(Duration::from_secs(5)).await;
    source.server.put("namespaces", namespace("shop"));
    source.says(&["Namespace shop"]).await;
    assert_eq!(lists(&source), before);
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_away_makes_the_source_older_and_then_everything_is_listed_again() {
    let mut source = Source::empty();
    source.server.put("pods", pod("a", "10.1.1.1"));
    source.server.put("pods", pod("b", "10.1.1.2"));
    source.says(&["Pod shop/a", "Pod shop/b"]).await;
    sleep(Duration::from_secs(30)).await;
    assert!(source.age().await <= PROBE * 2, "it is asked every second");

    source.server.partition();
    sleep(Duration::from_secs(60)).await;
    assert!(source.age().await >= Duration::from_secs(59));
    source.says(&["Pod shop/a", "Pod shop/b"]).await;

    source.server.delete_unseen("pods", "shop/a");
    source.server.heal();
    source.says(&["Pod shop/b"]).await;
    sleep(Duration::from_secs(5)).await;
    assert!(source.age().await <= PROBE * 2);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_used_keeps_what_it_last_said() {
    let mut source = Source::empty();
    source.server.put("pods", pod("a", "10.1.1.1"));
    source.says(&["Pod shop/a"]).await;
    source.server.put("pods", pod("a", "not an address"));
    source.server.put("services", service("cart", "yes"));
    let listing = source.says(&["Pod shop/a", "Service shop/cart"]).await;
    let problems: Vec<String> = listing.snapshot.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "kubernetes: Pod shop/a: status.podIPs[0].ip: `not an address` is not an IP address (what it last said stays in force)",
            "kubernetes: Service shop/cart: metadata.annotations.service.cilium.io/global: `yes` is neither true nor false; false is used",
        ]
    );
    let Body::Pod(a) = &listing.snapshot.objects.values().next().expect("two").parsed.body else {
        panic!("a pod")
    };
    assert_eq!(a.ips.len(), 1, "as it was");
    source.server.delete("services", "shop/cart");
    source.server.put("pods", pod("a", "10.1.1.3"));
    let listing = source.says(&["Pod shop/a"]).await;
    assert_eq!(listing.snapshot.problems, []);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_matter_changes_nothing() {
    let mut source = Source::empty();
    source.server.put("pods", pod("a", "10.1.1.1"));
    let before = source.says(&["Pod shop/a"]).await;
    let mut beating = pod("a", "10.1.1.1");
    beating["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    source.server.put("pods", beating);
    source.server.put("namespaces", namespace("shop"));
    let after = source.says(&["Namespace shop", "Pod shop/a"]).await;
    assert!(!Arc::ptr_eq(&before.snapshot, &after.snapshot));
    source.server.put("namespaces", namespace("shop"));
    sleep(Duration::from_secs(3)).await;
    let still = source.listings.borrow().clone().expect("listed");
    assert!(Arc::ptr_eq(&still.snapshot, &after.snapshot), "nobody computes it again");
}
