//! A dump that is laid into the data directory is the store of the next start.

use std::fs;
use std::path::Path;

use store::RangeRequest;
use tempfile::TempDir;

use super::super::{OpenError, restore};
use super::{bytes, open, put, value};

const ORIGIN: [u8; 16] = [7; 16];

/// A directory whose store says `now`, with a dump beside it from when it said `then`.
async fn with_a_dump() -> TempDir {
    let dir = TempDir::new().expect("a directory");
    let engine = open(dir.path()).await;
    engine.put(put("a", "then")).await.expect("a put");
    let mut file = fs::File::create(dir.path().join("restore.dump")).expect("a file");
    engine.dump(ORIGIN).await.expect("a dump").write(&mut file).expect("written");
    engine.put(put("a", "now")).await.expect("a put");
    engine.shut_down().await;
    dir
}

fn exists(dir: &Path, name: &str) -> bool {
    dir.join(name).exists()
}

#[tokio::test]
async fn the_next_start_begins_from_it_as_a_new_boot_and_keeps_what_was_there() {
    let dir = with_a_dump().await;
    assert!(restore(dir.path(), ORIGIN).await.expect("restored"));
    let engine = open(dir.path()).await;
    assert_eq!(value(&engine, "a").await.as_deref(), Some("then"));
    let all = RangeRequest { key: bytes("\0"), range_end: bytes("\0"), ..RangeRequest::default() };
    assert_eq!(engine.range(&all).await.expect("a read").revision, 2);
    let boots: Vec<i64> = engine.lineage().boots().iter().map(|boot| boot.first_revision).collect();
    assert_eq!(boots.last(), Some(&3), "whoever followed the store to 3 lists again");
    assert!(exists(dir.path(), "store.replaced-1") && !exists(dir.path(), "restore.dump"));
    engine.shut_down().await;
    assert!(!restore(dir.path(), ORIGIN).await.expect("nothing to do"), "once");
}

#[tokio::test]
async fn what_a_crash_left_half_made_is_made_again() {
    let dir = with_a_dump().await;
    fs::create_dir(dir.path().join("store.restoring")).expect("made");
    fs::write(dir.path().join("store.restoring/db"), b"half").expect("written");
    fs::rename(dir.path().join("store"), dir.path().join("store.replaced-1")).expect("moved");
    assert!(restore(dir.path(), ORIGIN).await.expect("restored"));
    let engine = open(dir.path()).await;
    assert_eq!(value(&engine, "a").await.as_deref(), Some("then"));
}

#[tokio::test]
async fn a_dump_of_another_cluster_or_a_damaged_one_is_refused_and_the_store_stays() {
    let dir = with_a_dump().await;
    let refused = |error: OpenError| {
        let OpenError::Dump { why, .. } = error else { panic!("{error}") };
        why
    };
    let other = restore(dir.path(), [8; 16]).await.map_err(refused);
    assert_eq!(other, Err("it was made of another cluster's store".to_owned()));
    let path = dir.path().join("restore.dump");
    let whole = fs::read(&path).expect("read");
    fs::write(&path, &whole[..whole.len() / 2]).expect("written");
    let damaged = restore(dir.path(), ORIGIN).await.map_err(refused);
    assert!(damaged.is_err(), "{damaged:?}");
    let engine = open(dir.path()).await;
    assert_eq!(value(&engine, "a").await.as_deref(), Some("now"));
}
