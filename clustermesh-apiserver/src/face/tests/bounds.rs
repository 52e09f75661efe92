//! What is too much: it is refused or waits, and hurts nobody else.

use super::{
    home::Cluster,
    watch::{Stream, one, prefix, put},
};
use daemon::spiffe::Role;
use rpc::etcdserverpb::{self as pb, kv_client::KvClient};
use tonic::Code;

/// 10,048: a mesh of 5,000 nodes and as many VMs, with a watch each.
const STREAMS: usize = 157;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_watches_are_served_each_its_own() {
    let west = Cluster::start().await;
    let mut streams = Vec::new();
    let mut channel = west.channel(Role::Operator, "kim").await;
    for n in 0..STREAMS {
        // A connection has 64 streams.
        if n % 64 == 63 {
            channel = west.channel(Role::Operator, &format!("kim-{n}")).await;
        }
        let mut stream = Stream::open(channel.clone()).await;
        for watch in 0..super::super::watch::WATCHES_PER_STREAM_MAX {
            assert!(!stream.create(one(&format!("key/{n}/{watch}"))).await.canceled);
        }
        streams.push(stream);
    }
    assert_eq!(west.engine.stats().watchers, STREAMS * 64);
    for (n, stream) in streams.iter_mut().enumerate() {
        put(&west, &format!("key/{n}/{}", n % 64), "x").await;
        let heard = stream.next().await;
        assert_eq!((heard.watch_id, heard.events.len()), (n as i64 % 64, 1));
    }
    drop(streams);
    // They go with their streams, each as its task learns of it.
    while west.engine.stats().watchers > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_never_reads_holds_up_nobody_and_loses_nothing_until_compaction() {
    const PUTS: usize = 400;
    let west = Cluster::start().await;
    let mut lazy = Stream::open(west.channel(Role::Operator, "lazy").await).await;
    for _ in 0..32 {
        assert!(!lazy.create(prefix("k/")).await.canceled);
    }
    let mut keen = Stream::open(west.channel(Role::Operator, "keen").await).await;
    assert!(!keen.create(prefix("k/")).await.canceled);
    // 20 MiB of events, 32 times: far more than the network and we hold for one who does not read.
    let (mut heard, mut last) = (0, 0);
    for n in 0..PUTS {
        put(&west, &format!("k/{}", n % 8), &"x".repeat(50 * 1024)).await;
        while last < west.engine.revision() {
            for event in keen.next().await.events {
                heard += 1;
                last = event.kv.expect("a key").mod_revision;
            }
        }
    }
    assert_eq!(heard, PUTS, "who reads hears everything at once");

    // And who begins to read late hears all that history has, in order, on every watch.
    let mut revisions = vec![Vec::new(); 32];
    while revisions.iter().any(|seen| seen.len() < PUTS) {
        let part = lazy.next().await;
        assert!(!part.canceled, "{}", part.cancel_reason);
        let seen = &mut revisions[usize::try_from(part.watch_id).expect("one of ours")];
        seen.extend(part.events.into_iter().map(|event| event.kv.expect("a key").mod_revision));
    }
    let all: Vec<i64> = (2..2 + PUTS as i64).collect();
    assert!(revisions.iter().all(|seen| *seen == all));
}

#[tokio::test]
async fn a_client_that_slept_through_a_compaction_is_told_where_to_go_on() {
    const PUTS: usize = 200;
    let west = Cluster::start().await;
    let mut lazy = Stream::open(west.channel(Role::Operator, "lazy").await).await;
    for _ in 0..32 {
        assert!(!lazy.create(prefix("k/")).await.canceled);
    }
    for n in 0..PUTS {
        put(&west, &format!("k/{}", n % 8), &"x".repeat(50 * 1024)).await;
    }
    let head = west.engine.revision();
    west.engine.compact(head).await.expect("compacted");
    // Compaction is in force with the next write.
    put(&west, "other", "x").await;
    let mut told = 0;
    while told < 32 {
        let part = lazy.next().await;
        if part.canceled {
            assert_eq!(part.compact_revision, head);
            told += 1;
        }
    }
    let sizes = west.engine.stats().store;
    assert!(sizes.bytes < 9 * 51 * 1024, "nothing of what it missed is kept for it: {sizes:?}");
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_by_its_size_and_the_connection_lives() {
    let west = Cluster::start().await;
    let mut kv = KvClient::new(west.channel(Role::Operator, "kim").await);
    let of = |bytes: usize| pb::PutRequest {
        key: "k".into(),
        value: vec![b'x'; bytes].into(),
        ..Default::default()
    };
    for (bytes, code, says) in [
        (64 * 1024, Code::InvalidArgument, "etcdserver: request is too large"),
        (1024 * 1024, Code::InvalidArgument, "etcdserver: request is too large"),
        (10 * 1024 * 1024, Code::OutOfRange, "the limit is: 2097152 bytes"),
    ] {
        let refused = kv.put(of(bytes)).await.expect_err("too large");
        assert_eq!(refused.code(), code, "{bytes}: {refused}");
        assert!(refused.message().contains(says), "{bytes}: {refused}");
    }
    let revision =
        kv.put(of(60 * 1024)).await.expect("not too large").into_inner().header.expect("a header").revision;
    assert_eq!(revision, 2, "nothing of the others was written");
}
