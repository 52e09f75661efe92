//! Leases by an etcd client that is not ours.

use super::home::Cluster;
use daemon::spiffe::Role;
use etcd_client::{Error, LeaseTimeToLiveOptions, PutOptions, WatchOptions};
use tonic::Code;

fn code(error: &Error) -> Code {
    match error {
        Error::GRpcStatus(status) => status.code(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_lease_is_granted_kept_alive_shown_and_revoked_with_its_keys() {
    let west = Cluster::start().await;
    let mut etcd = west.etcd(Role::Operator, "kim").await;
    let granted = etcd.lease_grant(30, None).await.expect("granted");
    assert_eq!(granted.ttl(), 30);
    let id = granted.id();
    for key in ["presence/b", "presence/a"] {
        etcd.put(key, "here", Some(PutOptions::new().with_lease(id))).await.expect("put");
    }
    let (mut keeper, mut kept) = etcd.lease_keep_alive(id).await.expect("a stream");
    keeper.keep_alive().await.expect("asked");
    assert_eq!(kept.message().await.expect("an answer").expect("one").ttl(), 30);

    let shown =
        etcd.lease_time_to_live(id, Some(LeaseTimeToLiveOptions::new().with_keys())).await.expect("shown");
    assert_eq!(
        (shown.granted_ttl(), shown.keys()),
        (30, &[b"presence/a".to_vec(), b"presence/b".to_vec()][..])
    );
    assert!((1..=30).contains(&shown.ttl()), "{}", shown.ttl());
    let quiet = etcd.lease_time_to_live(id, None).await.expect("shown");
    assert!(quiet.keys().is_empty(), "keys only when asked");
    let ids: Vec<i64> =
        etcd.leases().await.expect("listed").leases().iter().map(|lease| lease.id()).collect();
    assert_eq!(ids, [id]);

    let mut watch = etcd.watch("presence/", Some(WatchOptions::new().with_prefix())).await.expect("a watch");
    assert!(watch.message().await.expect("an answer").expect("one").created());
    etcd.lease_revoke(id).await.expect("revoked");
    let gone = watch.message().await.expect("an answer").expect("events");
    assert_eq!(gone.events().len(), 2, "both keys in one revision");
    keeper.keep_alive().await.expect("asked");
    assert_eq!(kept.message().await.expect("an answer").expect("one").ttl(), 0, "etcd's word for expired");
    assert_eq!(etcd.lease_time_to_live(id, None).await.expect("an answer").ttl(), -1);
    assert_eq!(code(&etcd.lease_revoke(id).await.expect_err("gone")), Code::NotFound);
}

#[tokio::test]
async fn a_lease_that_nobody_keeps_alive_ends_and_takes_its_keys_along() {
    let west = Cluster::start().await;
    let mut etcd = west.etcd(Role::Operator, "kim").await;
    // The shortest there is: raised to what etcd's default election timeout makes of it.
    let granted = etcd.lease_grant(1, None).await.expect("granted");
    assert_eq!(granted.ttl(), store::LEASE_TTL_MIN_S);
    etcd.put("presence/a", "here", Some(PutOptions::new().with_lease(granted.id()))).await.expect("put");
    let mut watch = etcd.watch("presence/a", None).await.expect("a watch");
    assert!(watch.message().await.expect("an answer").expect("one").created());
    let gone = watch.message().await.expect("an answer").expect("events");
    assert_eq!(gone.events()[0].event_type(), etcd_client::EventType::Delete);
    assert!(etcd.leases().await.expect("listed").leases().is_empty());
}

#[tokio::test]
async fn a_reader_looks_at_leases_and_changes_none_and_a_node_does_neither() {
    let west = Cluster::start().await;
    let mut kim = west.etcd(Role::Operator, "kim").await;
    let id = kim.lease_grant(30, None).await.expect("granted").id();
    kim.put("secret", "x", Some(PutOptions::new().with_lease(id))).await.expect("put");
    let with_keys = || Some(LeaseTimeToLiveOptions::new().with_keys());
    let mut reader = west.etcd(Role::Reader, "grafana").await;
    assert_eq!(reader.lease_time_to_live(id, with_keys()).await.expect("shown").keys().len(), 1);
    assert_eq!(code(&reader.lease_revoke(id).await.expect_err("refused")), Code::PermissionDenied);
    assert_eq!(code(&reader.lease_grant(30, None).await.expect_err("refused")), Code::PermissionDenied);
    let mut node = west.etcd(Role::Node, "w1").await;
    assert_eq!(
        code(&node.lease_time_to_live(id, with_keys()).await.expect_err("refused")),
        Code::PermissionDenied
    );
    assert_eq!(code(&node.leases().await.expect_err("refused")), Code::PermissionDenied);
}
