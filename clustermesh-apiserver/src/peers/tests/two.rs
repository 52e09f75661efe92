//! Two clusters that dial each other.

use super::{
    cidr,
    cluster::{Cluster, NONCE, backend, cart, connected, connecting, key, two},
    name,
};
use crate::{
    admin::{Meant, PeerAdmin, PeerError},
    face, peers,
    publish::{self, writes},
};
use api::{
    bytes::{ClusterUuid, Nonce},
    key::{Key, Kind, LocalKey, MeshKey},
    peer::Connect,
    record::Freshness,
};
use daemon::durable;

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
