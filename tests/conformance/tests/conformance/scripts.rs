//! Each script, asked of both.

use conformance::{script, server::Server};
use expect_test::expect_file;

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $name() {
            let script = include_str!(concat!("../../scripts/", stringify!($name), ".txt"));
            let etcd = script::run(script, &Server::etcd().await.expect("etcd")).await;
            expect_file![concat!("../../scripts/", stringify!($name), ".txt")].assert_eq(&etcd);
            let ours = script::run(script, &Server::ours().await.expect("ours")).await;
            assert_same(&etcd, &ours);
        }
    )*};
}

scripts!(
    bounds,
    compaction,
    compares,
    lease_expiry,
    leases,
    nested_txns,
    put_and_delete,
    range,
    turns,
    txns,
    watch_fragments,
    watch_progress,
    watch_the_past,
    watches,
);

#[tokio::test]
async fn what_differs_on_purpose_is_this() {
    let script = include_str!("../../scripts/deliberate.txt");
    let etcd = script::run(script, &Server::etcd().await.expect("etcd")).await;
    expect_file!["../../scripts/deliberate.txt"].assert_eq(&etcd);
    let ours = script::run(script, &Server::ours().await.expect("ours")).await;
    expect_file!["../../scripts/deliberate.diff"].assert_eq(&difference(&etcd, &ours));
}

/// Equal, or the lines that are not.
pub(super) fn assert_same(etcd: &str, ours: &str) {
    assert!(etcd == ours, "ours differs:\n{}", difference(etcd, ours));
}

fn difference(etcd: &str, ours: &str) -> String {
    similar::TextDiff::from_lines(etcd, ours)
        .unified_diff()
        .context_radius(3)
        .header("etcd", "ours")
        .to_string()
}
