//! The doors over real TLS on loopback: what clients see.

mod bounds;
mod etcdctl;
pub(crate) mod home;
mod kv;
mod lease;
mod sync;
mod turn;
mod watch;

use daemon::{
    spiffe::Role,
    tls::{Expected, connect},
};
use home::{Cluster, EAST};
use rpc::{
    etcdserverpb::{self as pb, kv_client::KvClient, maintenance_client::MaintenanceClient},
    mesh::admin::v1::{self as admin, admin_client::AdminClient},
};
use tonic::Code;

#[tokio::test]
async fn a_method_that_is_not_served_says_why_and_only_to_those_who_may_call_it() {
    let west = Cluster::start().await;
    let mut operator = MaintenanceClient::new(west.channel(Role::Operator, "kim").await);
    let refused = operator.defragment(pb::DefragmentRequest {}).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(
        refused.message(),
        "/etcdserverpb.Maintenance/Defragment is not served: this is not etcd, and has nothing to do here"
    );
    let mut node = MaintenanceClient::new(west.channel(Role::Node, "w1").await);
    let refused = node.defragment(pb::DefragmentRequest {}).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_peer_reads_what_we_announce_and_nothing_that_we_know_of_others() {
    let west = Cluster::start().await;
    let east = west.peer("east").await;
    let mut kv = KvClient::new(east.channel.clone());
    let range = |key: &str, end: &str| pb::RangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    };
    kv.range(range("mesh/v1/west/", "mesh/v1/west0")).await.expect("ours");
    for (key, end) in [("mesh/v1/east/", "mesh/v1/east0"), ("mesh-local/v1/", "mesh-local/v10"), ("\0", "\0")]
    {
        let refused = kv.range(range(key, end)).await.expect_err("not ours");
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(
            refused.message().contains(&format!("spiffe://{EAST}/cluster/east may not read")),
            "{refused}"
        );
    }
    let mut admin = AdminClient::new(east.channel);
    let refused = admin.describe(admin::DescribeRequest {}).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_peer_that_was_removed_is_refused_on_the_connection_it_still_has() {
    let west = Cluster::start().await;
    let mut east = KvClient::new(west.peer("east").await.channel);
    let ours = || pb::RangeRequest { key: "mesh/v1/west/cluster".into(), ..Default::default() };
    east.range(ours()).await.expect("a peer");
    west.tls.trust().remove_peer(EAST);
    assert_eq!(east.range(ours()).await.expect_err("no longer").code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_client_without_a_certificate_of_ours_gets_no_further_than_the_handshake() {
    let west = Cluster::start().await;
    let other = Cluster::start().await;
    let stranger = other.tls_of(Role::Operator, "admin");
    let home = Expected::cluster_of(home::WEST);
    // Both clusters have the same UUID here: only the CA tells them apart.
    let refused = connect(&stranger, &west.at, &home).await.expect_err("refused");
    let text = format!("{:#}", anyhow::Error::new(refused));
    assert!(text.contains("not signed by a CA in the trust bundle of our own cluster"), "{text}");
}

#[tokio::test]
async fn an_operator_is_told_what_a_peering_conflicts_with() {
    let west = Cluster::start().await;
    let mut admin = AdminClient::new(west.channel(Role::Operator, "kim").await);
    let us = admin.describe(admin::DescribeRequest {}).await.expect("described").into_inner();
    assert_eq!((us.name.as_str(), us.uuid), ("west", home::WEST.to_string()));
    let apply = |peer: &str| admin::ApplyPeerRequest { peer: peer.to_owned(), dry_run: true, judged: None };
    let refused = admin.apply_peer(apply(r#"{"apiVersion": 7}"#)).await.expect_err("not an object");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("not a MeshPeer: apiVersion: invalid type"), "{refused}");
    let refused =
        admin.forget(admin::ForgetRequest { name: "no such".to_owned() }).await.expect_err("no name");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = admin.forget(admin::ForgetRequest { name: "north".to_owned() }).await.expect_err("no peer");
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "there is no peer called `north`"));
}
