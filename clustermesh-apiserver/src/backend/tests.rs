//! The engine on a real disk: answers, restarts, damage, and what the kernel was asked to do before an answer.

mod child;
mod damage;
mod durability;
mod power;
mod restore;
mod trace;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use store::{LeaseGrant, PutRequest, RangeRequest, WatchRequest};
use tempfile::TempDir;

use super::{Engine, WatchResponse, WatchStream};

/// A test that waits longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_is_put_is_read_and_watched() {
    let dir = TempDir::new().expect("a directory");
    let engine = open(dir.path()).await;
    let mut watch = watch(&engine, 0);
    let answer = engine.put(put("a", "x")).await.expect("a put");
    assert_eq!((answer.revision, engine.revision()), (2, 2));
    assert_eq!(value(&engine, "a").await.as_deref(), Some("x"));
    assert_eq!(keys(next(&mut watch).await), ["a"]);

    let mut late = super::tests::watch(&engine, 2);
    assert_eq!(keys(next(&mut late).await), ["a"]);
    assert_eq!(late.delivered(), 2);
}

#[tokio::test]
async fn a_restart_changes_nothing_but_the_boot() {
    let dir = TempDir::new().expect("a directory");
    let engine = open(dir.path()).await;
    for n in 0..100 {
        engine.put(put(&format!("key/{}", n % 10), &n.to_string())).await.expect("a put");
    }
    engine.compact(50).await.expect("a compaction");
    let all = RangeRequest { key: bytes("\0"), range_end: bytes("\0"), ..RangeRequest::default() };
    let before = engine.range(&all).await.expect("a read");
    let boot = engine.boot();
    engine.shut_down().await;
    assert_eq!(engine.put(put("a", "x")).await, Err(store::Error::Stopped));
    assert_eq!(engine.range(&all).await, Err(store::Error::Stopped));

    let engine = open(dir.path()).await;
    assert_eq!(engine.range(&all).await.expect("a read"), before);
    assert_eq!((engine.revision(), engine.compacted()), (101, 50));
    let boots: Vec<_> = engine.lineage().boots().iter().map(|boot| (boot.id, boot.first_revision)).collect();
    assert_eq!(boots, [(boot, 2), (engine.boot(), 102)]);
    let mut history = watch(&engine, 50);
    assert_eq!(keys(next(&mut history).await).len(), 52);
}

#[tokio::test]
async fn many_writers_share_a_sync_and_every_watcher_sees_every_revision_in_order() {
    let dir = TempDir::new().expect("a directory");
    let engine = open(dir.path()).await;
    let mut watch = watch(&engine, 0);
    let writes: Vec<_> = (0..64)
        .map(|client| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    engine.put(put(&format!("client/{client}"), &n.to_string())).await.expect("a put");
                }
            })
        })
        .collect();
    let mut revisions = Vec::new();
    while revisions.len() < 64 * 20 {
        let WatchResponse::Events { events, .. } = next(&mut watch).await else { panic!("not an event") };
        revisions.extend(events.iter().map(|event| event.kv.mod_revision));
    }
    assert_eq!(revisions, (2..64 * 20 + 2).collect::<Vec<_>>());
    for write in writes {
        write.await.expect("a client");
    }
    let stats = engine.stats();
    assert_eq!((stats.requests, stats.watchers), (64 * 20, 1));
    assert!(stats.syncs < stats.requests / 2, "{} syncs for {} requests", stats.syncs, stats.requests);
}

#[tokio::test]
async fn a_watch_that_was_compacted_says_where_to_go_on_and_ends() {
    let dir = TempDir::new().expect("a directory");
    let engine = open(dir.path()).await;
    for n in 0..10 {
        engine.put(put("a", &n.to_string())).await.expect("a put");
    }
    let mut watch = watch(&engine, 3);
    engine.compact(8).await.expect("a compaction");
    assert_eq!(next(&mut watch).await, WatchResponse::Canceled { compact_revision: 8 });
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn watches_end_with_the_store() {
    let dir = TempDir::new().expect("a directory");
    let engine = open(dir.path()).await;
    let mut watch = watch(&engine, 0);
    engine.shut_down().await;
    assert_eq!(tokio::time::timeout(PATIENCE, watch.next()).await, Ok(None));
    drop(watch);
    assert_eq!(engine.stats().watchers, 0);
}

#[tokio::test]
async fn a_quiet_watch_says_how_far_it_is() {
    let dir = TempDir::new().expect("a directory");
    let engine = open(dir.path()).await;
    engine.put(put("a", "x")).await.expect("a put");
    let request = WatchRequest { key: bytes("quiet"), progress_notify: true, ..WatchRequest::default() };
    let mut watch = engine.watch(&request).expect("a watch");
    tokio::time::pause();
    assert_eq!(watch.next().await, Some(WatchResponse::Progress { revision: 2 }));
}

#[tokio::test]
async fn leases_survive_a_restart_with_their_keys_and_end_by_themselves() {
    let dir = TempDir::new().expect("a directory");
    let engine = open(dir.path()).await;
    for (id, ttl_s) in [(7, 2), (8, 1_000), (-9, 1_000)] {
        engine.lease_grant(LeaseGrant { id, ttl_s, owner: bytes("w1") }).await.expect("granted");
        engine.put(PutRequest { lease: id, ..put(&format!("on {id}"), "x") }).await.expect("a put");
    }
    engine.lease_revoke(-9).await.expect("revoked");
    engine.shut_down().await;

    let engine = open(dir.path()).await;
    assert_eq!(engine.leases().await, Ok(vec![7, 8]));
    assert_eq!(engine.lease_owner(7), Some(bytes("w1")));
    assert_eq!(engine.lease(8).await.expect("it lives").keys, [bytes("on 8")]);
    let mut watch = watch(&engine, 0);
    assert_eq!(keys(next(&mut watch).await), ["on 7"], "after two seconds of nobody keeping it alive");
    assert_eq!(engine.leases().await, Ok(vec![8]));
    assert_eq!(engine.lease_keep_alive(7).await, Err(store::Error::LeaseNotFound));
}

async fn open(dir: &Path) -> Engine {
    Engine::open(dir).await.expect("the store opens")
}

fn watch(engine: &Engine, start_revision: i64) -> WatchStream {
    let request = WatchRequest { range_end: bytes("\0"), start_revision, ..WatchRequest::default() };
    engine.watch(&request).expect("a watch")
}

async fn next(watch: &mut WatchStream) -> WatchResponse {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time").expect("the watch goes on")
}

fn keys(response: WatchResponse) -> Vec<String> {
    let WatchResponse::Events { events, .. } = response else { panic!("{response:?} has no events") };
    events.iter().map(|event| String::from_utf8_lossy(&event.kv.key).into_owned()).collect()
}

async fn value(engine: &Engine, key: &str) -> Option<String> {
    let read = RangeRequest { key: bytes(key), ..RangeRequest::default() };
    let answer = engine.range(&read).await.expect("a read");
    answer.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
