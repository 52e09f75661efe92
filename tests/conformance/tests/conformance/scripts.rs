//! Each script, asked of both.

use conformance::{script, server::Server};
use expect_test::expect_file;
use std::fs;

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

/// In three points, which `docs/etcd.md` names; ours are as in 3.5.
#[tokio::test]
#[ignore = "needs an etcd that is built with Go: ci/etcd.sh 3.6.16"]
async fn a_later_etcd_differs_in_this() {
    let mut files: Vec<_> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"))
        .expect("the scripts")
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    let mut differences = String::new();
    for path in files {
        let script = fs::read_to_string(&path).expect("a script");
        let later = script::run(&script, &Server::etcd_of("3.6.16").await.expect("etcd")).await;
        if later != script {
            let name = path.file_name().expect("a name").display();
            differences.push_str(&format!("{name}\n{}\n", difference(&script, &later)));
        }
    }
    expect_file!["../../scripts/etcd-3.6.diff"].assert_eq(&differences);
}

/// Equal, or the lines that are not.
pub(super) fn assert_same(etcd: &str, ours: &str) {
    assert!(etcd == ours, "ours differs:\n{}", difference(etcd, ours));
}

fn difference(etcd: &str, other: &str) -> String {
    similar::TextDiff::from_lines(etcd, other).unified_diff().context_radius(3).to_string()
}
