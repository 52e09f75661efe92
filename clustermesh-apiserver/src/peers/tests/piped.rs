//! Clusters that cannot be dialled: one opens the connections, two speak through a third.

use super::{
    cluster::{Cluster, backend, cart, connect, connecting, key, with_carts},
    name,
};
use crate::{
    admin::PeerAdmin,
    pipes::{Route, relay::RELAYED_PER_PEER_MAX},
};
use api::{
    key::{LocalKey, MeshKey},
    peer::MeshPeer,
    record::{Freshness, Way},
};
use rpc::etcdserverpb::{RangeRequest, kv_client::KvClient};

async fn core_and_edge() -> [Cluster; 2] {
    let clusters = with_carts([Cluster::new("core", 1).await, Cluster::edge("edge", 2).await]).await;
    connect(&clusters[0], &clusters[1]).await;
    clusters
}

/// What another cluster serves now, after it changed.
async fn until_changed(by: &Cluster, seen: &Cluster, host: u8) {
    let number = by.config.uuid.0[0];
    by.manifest(
        "cart.yaml",
        &cart(number).replace(&format!("10.{number}.0.7"), &format!("10.{number}.0.{host}")),
    );
    let new = key(&format!("mesh/v1/{}/backends/shop/cart/10.{number}.0.{host}", by.name()));
    seen.until("what changed", |records| records.contains_key(&new)).await;
}

async fn until_way(of: &Cluster, peer: &Cluster, way: &Way) {
    let is = |counters: &api::record::ImportState| counters.way == *way;
    of.until("the way", |records| Cluster::counters(records, peer.name()).is_some_and(is)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_only_dials_out_is_followed_over_a_connection_that_it_opened() {
    let [core, edge] = core_and_edge().await;
    until_way(&core, &edge, &Way::DialledByIt).await;
    until_way(&edge, &core, &Way::Dialled).await;

    // Whoever of the two restarts, the other goes on.
    let core = core.restart(|_| {}).await;
    until_changed(&edge, &core, 8).await;
    until_changed(&core, &edge, 8).await;
    let edge = edge.restart(|_| {}).await;
    until_changed(&edge, &core, 9).await;
    until_changed(&core, &edge, 9).await;
    core.stop().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_pipe_a_peer_may_what_it_may_by_tcp() {
    let [core, edge] = core_and_edge().await;
    let route = Route::from(&edge.as_peer(None));
    let channel = core.reach.connect(edge.name(), &route).await.expect("a pipe");
    let mut kv = KvClient::new(channel);
    let of = |key: String| RangeRequest { key: key.into(), ..RangeRequest::default() };
    let announced = kv.range(of(MeshKey::Cluster.of(edge.name()).to_string())).await.expect("read");
    assert_eq!(announced.into_inner().kvs.len(), 1);
    let local = kv.range(of(LocalKey::Peer(core.name().clone()).to_string())).await.expect_err("not his");
    let text = local.message();
    assert!(
        text.starts_with("etcdserver: permission denied: spiffe://01010101")
            && text.contains("/cluster/core"),
        "{text}"
    );
    core.stop().await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_leads_to_the_cluster_that_is_meant_or_nowhere() {
    let [core, edge] = core_and_edge().await;
    let mut another = edge.as_peer(None);
    another.spec.uuid = api::bytes::ClusterUuid([9; 16]);
    let error = core.reach.connect(edge.name(), &Route::from(&another)).await.expect_err("another");
    assert!(error.contains("cannot trust edge over a connection that it opened"), "{error}");
    // The pipes of a peer that goes are gone with it.
    edge.peers.remove_peer(core.name(), Default::default()).await.expect("removed");
    core.until("that it is stale", |records| {
        Cluster::verdict(records, edge.name()).is_some_and(|v| v.freshness == Freshness::Stale)
    })
    .await;
    core.stop().await;
    edge.stop().await;
}

/// Two edges, and a core that both dial.
async fn two_edges() -> [Cluster; 3] {
    let clusters =
        [Cluster::new("core", 1).await, Cluster::edge("alps", 2).await, Cluster::edge("bay", 3).await];
    let [core, alps, bay] = with_carts(clusters).await;
    for edge in [&alps, &bay] {
        connect(&core, edge).await;
    }
    [core, alps, bay]
}

/// What each edge holds the other to.
fn through_core(edge: &Cluster) -> MeshPeer {
    let mut peer = edge.as_peer(connecting(60));
    peer.spec.through = Some(name("core"));
    peer
}

/// Lets `edge`'s bytes go to these, as far as their contracts say so, too.
async fn relay(core: &Cluster, edge: &Cluster, to: &[&Cluster]) {
    let mut peer = core.object_of(edge.name()).expect("its object");
    peer.spec.contract.relay = to.iter().map(|other| other.name().clone()).collect();
    core.peers.apply_peer(peer, None, false).await.expect("applied");
}

async fn until_error(of: &Cluster, peer: &Cluster, text: &str) {
    of.until(text, |records| {
        Cluster::counters(records, peer.name()).is_some_and(|c| c.last_error.contains(text))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_edges_speak_through_a_core_for_as_long_as_its_contracts_with_both_say_so() {
    let [core, alps, bay] = two_edges().await;
    for (us, other) in [(&alps, &bay), (&bay, &alps)] {
        assert!(us.peers.apply_peer(through_core(other), None, false).await.expect("applied"));
    }
    until_error(&alps, &bay, "core opens no pipe: it passes nothing on between alps and bay").await;
    relay(&core, &alps, &[&bay]).await;
    until_error(&bay, &alps, "its MeshPeers of both have to name the other in spec.contract.relay").await;
    assert_eq!(core.reach.relays().bytes(), 0, "one contract is not enough");
    relay(&core, &bay, &[&alps]).await;
    tokio::join!(alps.until_imported(&bay), bay.until_imported(&alps));
    until_way(&alps, &bay, &Way::Relayed(name("core"))).await;
    until_changed(&alps, &bay, 8).await;
    assert!(core.reach.relays().bytes() > 0);
    assert!((2..=RELAYED_PER_PEER_MAX).contains(&core.reach.relays().open()));
    assert!(!core.records().await.keys().any(|key| key.to_string().contains("peerings/bay")
        && key.to_string().starts_with("mesh/v1/bay")), "core is told nothing of them");

    relay(&core, &alps, &[]).await;
    for (us, other) in [(&alps, &bay), (&bay, &alps)] {
        until_error(us, other, "it passes nothing on between").await;
    }
    assert!(alps.records().await.contains_key(&backend(&bay)), "what was known stays");
    assert_eq!(core.reach.relays().open(), 0);
    for cluster in [core, alps, bay] {
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_named_in_no_contract_is_told_the_same_of_a_peer_and_of_nobody() {
    let [core, alps, bay] = two_edges().await;
    let route = |through: &str| Route { through: Some(name(through)), ..Route::from(&bay.as_peer(None)) };
    let to_peer = alps.reach.connect(bay.name(), &route("core")).await.expect_err("not allowed");
    let to_nobody = alps.reach.connect(&name("cove"), &route("core")).await.expect_err("nobody");
    assert_eq!(to_peer.replace("bay", "cove"), to_nobody);
    let unknown = alps.reach.connect(bay.name(), &route("moon")).await.expect_err("no peer");
    assert!(
        unknown.contains("moon, through which bay is to be reached, is no peer of this cluster"),
        "{unknown}"
    );
    for cluster in [core, alps, bay] {
        cluster.stop().await;
    }
}
