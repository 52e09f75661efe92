//! KV by an etcd client that is not ours, over our own channel.

use super::home::Cluster;
use daemon::spiffe::Role;
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};

#[tokio::test]
async fn an_etcd_client_puts_gets_deletes_and_compares() {
    let west = Cluster::start().await;
    let mut etcd = west.etcd(Role::Operator, "kim").await;
    etcd.put("a", "1", None).await.expect("put");
    let before = etcd.put("a", "2", Some(PutOptions::new().with_prev_key())).await.expect("put");
    assert_eq!(before.prev_key().map(|kv| kv.value().to_vec()), Some(b"1".to_vec()));
    let revision = before.header().expect("a header").revision();
    let old = etcd.get("a", Some(GetOptions::new().with_revision(revision - 1))).await.expect("got");
    assert_eq!(old.kvs()[0].value(), b"1");

    let taken = Txn::new()
        .when([Compare::version("b", CompareOp::Equal, 0), Compare::value("a", CompareOp::Equal, "2")])
        .and_then([TxnOp::put("b", "x", None), TxnOp::get("a", None)])
        .or_else([TxnOp::delete("a", None)]);
    let first = etcd.txn(taken.clone()).await.expect("a txn");
    assert!(first.succeeded() && first.op_responses().len() == 2);
    assert!(!etcd.txn(taken).await.expect("a txn").succeeded(), "b is there now");
    assert_eq!(etcd.get("a", None).await.expect("got").count(), 0, "the other branch deleted a");
    assert_eq!(etcd.delete("b", None).await.expect("deleted").deleted(), 1);
}

#[tokio::test]
async fn a_list_is_cut_and_read_on_at_one_revision() {
    let west = Cluster::start().await;
    let mut etcd = west.etcd(Role::Operator, "kim").await;
    for n in 0..5 {
        etcd.put(format!("k/{n}"), "v", None).await.expect("put");
    }
    let page = etcd.get("k/", Some(GetOptions::new().with_prefix().with_limit(2))).await.expect("got");
    assert_eq!((page.kvs().len(), page.count(), page.more()), (2, 5, true));
    let pinned = page.header().expect("a header").revision();
    etcd.delete("k/3", None).await.expect("deleted");
    let rest = GetOptions::new().with_range("k0").with_revision(pinned);
    assert_eq!(etcd.get("k/2", Some(rest)).await.expect("got").kvs().len(), 3, "as of the first page");
}

#[tokio::test]
async fn errors_have_etcds_words_and_codes() {
    let west = Cluster::start().await;
    let mut etcd = west.etcd(Role::Operator, "kim").await;
    let refused = |error: etcd_client::Error| match error {
        etcd_client::Error::GRpcStatus(status) => format!("{:?}: {}", status.code(), status.message()),
        other => panic!("{other}"),
    };
    for n in 0..3 {
        etcd.put("a", n.to_string(), None).await.expect("put");
    }
    etcd.compact(3, None).await.expect("compacted");
    let old = etcd.get("a", Some(GetOptions::new().with_revision(2))).await.expect_err("compacted");
    assert_eq!(refused(old), "OutOfRange: etcdserver: mvcc: required revision has been compacted");
    let future = etcd.get("a", Some(GetOptions::new().with_revision(99))).await.expect_err("future");
    assert_eq!(refused(future), "OutOfRange: etcdserver: mvcc: required revision is a future revision");
    let empty = etcd.put("", "x", None).await.expect_err("no key");
    assert_eq!(refused(empty), "InvalidArgument: etcdserver: key is not provided");
    let twice = Txn::new().and_then([TxnOp::put("a", "1", None), TxnOp::put("a", "2", None)]);
    let twice = etcd.txn(twice).await.expect_err("twice");
    assert_eq!(refused(twice), "InvalidArgument: etcdserver: duplicate key given in txn request");
    let nested = Txn::new().and_then([TxnOp::put("a", "1", None)]);
    let nested = Txn::new().and_then([TxnOp::txn(nested), TxnOp::delete("a", None)]);
    let nested = etcd.txn(nested).await.expect_err("twice, once of it nested");
    assert_eq!(refused(nested), "InvalidArgument: etcdserver: duplicate key given in txn request");
}

#[tokio::test]
async fn a_node_puts_its_key_and_reads_the_mesh() {
    let west = Cluster::start().await;
    let mut node = west.etcd(Role::Node, "w1").await;
    let key = api::record::TunnelKey {
        public_key: api::bytes::PublicKey([7; 32]),
        port: 51_871,
        clock_epoch: 0,
        relay_key: None,
        on_demand: false,
    };
    node.put("mesh/v1/west/keys/w1", key.encode(), None).await.expect("its own key");
    let all = node.get("mesh/v1/", Some(GetOptions::new().with_prefix())).await.expect("the mesh");
    assert_eq!(all.kvs()[0].key(), b"mesh/v1/west/keys/w1");
    node.put("mesh/v1/west/keys/w2", key.encode(), None).await.expect_err("another's key");
}
