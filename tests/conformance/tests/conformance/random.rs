//! What nobody thought of asking.

use conformance::{random, script, server::Server};

#[tokio::test]
async fn requests_that_chance_wrote_are_answered_alike() {
    for seed in [1, 2] {
        let script = random::script(seed, 1500);
        let etcd = script::run(&script, &Server::etcd().await.expect("etcd")).await;
        let ours = script::run(&script, &Server::ours().await.expect("ours")).await;
        super::scripts::assert_same(&etcd, &ours);
    }
}
