//! Locks and elections by an etcd client that is not ours.

use super::home::{Cluster, EAST};
use daemon::spiffe::Role;
use etcd_client::{
    Channel, Client, Error, GetOptions, LeaderKey, LockOptions, ProclaimOptions, ResignOptions,
};
use std::time::Duration;
use tokio::time::timeout;

/// Nothing here takes longer, but on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

async fn waiting(etcd: &mut Client, name: &str) -> i64 {
    let prefix = GetOptions::new().with_prefix().with_count_only();
    etcd.get(format!("{name}/"), Some(prefix)).await.expect("counted").count()
}

/// Until so many wait under a name.
async fn until(etcd: &mut Client, name: &str, many: i64) {
    let all = async {
        while waiting(etcd, name).await != many {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all).await.expect("in time");
}

#[tokio::test]
async fn a_lock_is_held_by_one_and_goes_to_the_next_in_the_order_they_came() {
    let west = Cluster::start().await;
    let mut etcd = west.etcd(Role::Operator, "kim").await;
    let first = etcd.lock("deploy", None).await.expect("locked");
    assert!(first.key().starts_with(b"deploy/"));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..3 {
        let (mut other, tell) = (etcd.clone(), tell.clone());
        tokio::spawn(async move {
            let lock = other.lock("deploy", None).await.expect("locked in turn");
            tell.send(n).expect("heard");
            other.unlock(lock.key().to_vec()).await.expect("unlocked");
        });
        until(&mut etcd, "deploy", n + 2).await;
    }
    assert!(told.is_empty(), "they wait");
    etcd.unlock(first.key().to_vec()).await.expect("unlocked");
    for n in 0..3 {
        assert_eq!(timeout(PATIENCE, told.recv()).await.expect("in time"), Some(n));
    }
    until(&mut etcd, "deploy", 0).await;
}

#[tokio::test]
async fn the_same_lease_locks_once_and_a_lease_that_ends_gives_the_lock_away() {
    let west = Cluster::start().await;
    let mut etcd = west.etcd(Role::Operator, "kim").await;
    let id = etcd.lease_grant(60, None).await.expect("granted").id();
    let with = || Some(LockOptions::new().with_lease(id));
    let first = etcd.lock("deploy", with()).await.expect("locked");
    let again = etcd.lock("deploy", with()).await.expect("still locked");
    assert_eq!(first.key(), again.key());
    let mut other = west.etcd(Role::Operator, "robin").await;
    let next = tokio::spawn(async move { other.lock("deploy", None).await.map(|lock| lock.key().to_vec()) });
    until(&mut etcd, "deploy", 2).await;
    etcd.lease_revoke(id).await.expect("revoked");
    let next = timeout(PATIENCE, next).await.expect("in time").expect("ended").expect("locked");
    assert_ne!(next, first.key());
}

#[tokio::test]
async fn whoever_goes_away_while_he_waits_leaves_no_key_behind() {
    let west = Cluster::start().await;
    let mut etcd = west.etcd(Role::Operator, "kim").await;
    let _held = etcd.lock("deploy", None).await.expect("locked");
    let mut other = west.etcd(Role::Operator, "robin").await;
    let waits = tokio::spawn(async move { other.lock("deploy", None).await.map(drop) });
    until(&mut etcd, "deploy", 2).await;
    waits.abort();
    until(&mut etcd, "deploy", 1).await;
}

#[tokio::test]
async fn a_leader_is_elected_proclaims_and_resigns_and_an_observer_hears_all_of_it() {
    let west = Cluster::start().await;
    let mut etcd = west.etcd(Role::Operator, "kim").await;
    let refused = etcd.leader("chief").await.expect_err("nobody");
    assert!(
        matches!(&refused, Error::GRpcStatus(status) if status.message() == "election: no leader"),
        "{refused}"
    );
    let lease = etcd.lease_grant(60, None).await.expect("granted").id();
    let mut observed = etcd.observe("chief").await.expect("a stream");
    let alice =
        etcd.campaign("chief", "alice", lease).await.expect("elected").leader().expect("a key").clone();
    let heard = timeout(PATIENCE, observed.message()).await.expect("in time").expect("heard").expect("one");
    assert_eq!(heard.kv().expect("a key").value(), b"alice");

    let mut other = west.etcd(Role::Operator, "robin").await;
    let lease = other.lease_grant(60, None).await.expect("granted").id();
    let bob = tokio::spawn(async move { other.campaign("chief", "bob", lease).await });
    until(&mut etcd, "chief", 2).await;
    let said = ProclaimOptions::new().with_leader(alice.clone());
    etcd.proclaim("alice, still", Some(said)).await.expect("a leader says what it wants");
    let heard = timeout(PATIENCE, observed.message()).await.expect("in time").expect("heard").expect("one");
    assert_eq!(heard.kv().expect("a key").value(), b"alice, still");
    assert_eq!(etcd.leader("chief").await.expect("one").kv().expect("a key").value(), b"alice, still");

    etcd.resign(Some(ResignOptions::new().with_leader(alice.clone()))).await.expect("resigned");
    let bob = timeout(PATIENCE, bob).await.expect("in time").expect("ended").expect("elected");
    assert_eq!(bob.leader().map(LeaderKey::name), Some(&b"chief"[..]));
    let heard = timeout(PATIENCE, observed.message()).await.expect("in time").expect("heard").expect("one");
    assert_eq!(heard.kv().expect("a key").value(), b"bob");
    let late = ProclaimOptions::new().with_leader(alice);
    let refused = etcd.proclaim("alice again", Some(late)).await.expect_err("no leader any more");
    assert!(
        matches!(&refused, Error::GRpcStatus(status) if status.message() == "election: not leader"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_removed_peer_observes_no_longer() {
    let west = Cluster::start().await;
    let east = Channel::Tonic(west.peer("east").await.channel);
    let mut east = Client::from_channel(east, None).await.expect("a client");
    let mut observed = east.observe("mesh/v1/west/chief").await.expect("what we announce may be read");
    west.tls.trust().remove_peer(EAST);
    let ended = timeout(PATIENCE, observed.message()).await.expect("in time").expect_err("the end");
    let Error::GRpcStatus(status) = ended else { panic!("{ended}") };
    assert_eq!(status.message(), "etcdserver: permission denied: no longer a peer");
}
