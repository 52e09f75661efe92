//! What a bad disk does to a store, and what becomes of it.

use std::fs;
use std::path::Path;

use store::{PutRequest, RangeRequest};
use tempfile::TempDir;

use super::{bytes, open, put, value};
use crate::backend::{Engine, OpenError};

#[tokio::test]
async fn a_damaged_store_is_set_aside_and_begins_empty_as_another_boot() {
    for (what, damage) in [
        ("the snapshot is cut off", cut_snapshot as fn(&Path)),
        ("the settings are another's", foreign_settings),
        ("the data is gone", |store| fs::write(store.join("db"), "").expect("a file")),
        ("bits have flipped", flip_bits),
        ("the end is gone", cut_end),
    ] {
        let dir = TempDir::new().expect("a directory");
        let first = filled(dir.path()).await;
        damage(&dir.path().join("store"));

        let engine = open(dir.path()).await;
        assert_eq!(engine.revision(), 1, "{what}: the store begins empty");
        assert!(dir.path().join("store.damaged-1/db").exists(), "{what}: the damaged store is kept");
        let lineage = engine.lineage();
        assert!(lineage.admits(&engine.boot(), 1, 1), "{what}");
        assert!(!lineage.admits(&first, 101, 500), "{what}: nobody resumes in what was lost");
        engine.put(put("a", "x")).await.expect("a put");
        engine.shut_down().await;
        assert_eq!(value(&open(dir.path()).await, "a").await.as_deref(), Some("x"), "{what}");
    }
}

#[tokio::test]
async fn a_damaged_lineage_begins_anew_and_keeps_the_store() {
    let id = "0a".repeat(16);
    for (what, damaged) in [
        ("no text", vec![0xff, 0, 0xff]),
        ("a name is cut off", b"0a0a 7\n".to_vec()),
        ("a boot began before the first revision", format!("{id} {}\n", i64::MIN).into_bytes()),
    ] {
        let dir = TempDir::new().expect("a directory");
        let first = filled(dir.path()).await;
        fs::write(dir.path().join("lineage"), damaged).expect("a file");
        let engine = open(dir.path()).await;
        assert_eq!((engine.revision(), engine.lineage().boots().len()), (101, 1), "{what}");
        assert!(!engine.lineage().admits(&first, 101, 101), "{what}");
    }
}

#[tokio::test]
async fn one_process_at_a_time_has_the_store() {
    let dir = TempDir::new().expect("a directory");
    let engine = open(dir.path()).await;
    let second = Engine::open(dir.path()).await.map(|_| ());
    assert!(matches!(second, Err(OpenError::Locked { .. })), "{second:?}");
    engine.put(put("a", "x")).await.expect("the first goes on");
    assert!(!dir.path().join("store.damaged-1").exists());
}

#[tokio::test]
async fn damage_that_does_not_end_is_told_instead_of_filling_the_disk() {
    let dir = TempDir::new().expect("a directory");
    filled(dir.path()).await;
    for n in 1..=10 {
        fs::create_dir(dir.path().join(format!("store.damaged-{n}"))).expect("a directory");
    }
    cut_snapshot(&dir.path().join("store"));
    let opened = Engine::open(dir.path()).await.map(|_| ());
    assert!(matches!(opened, Err(OpenError::TooManyAside { .. })), "{opened:?}");
}

#[tokio::test]
async fn records_of_every_size_survive_and_sled_makes_no_blob_files() {
    let dir = TempDir::new().expect("a directory");
    let engine = open(dir.path()).await;
    let sizes = [0, 1, 3_000, 3_071, 3_072, 3_073, 6_144, 65_530];
    for n in 0..400_usize {
        let key = format!("k{:03}", n % 40);
        let value = "v".repeat(sizes[n % sizes.len()]);
        engine
            .put(PutRequest { key: bytes(&key), value: bytes(&value), ..PutRequest::default() })
            .await
            .expect("a put");
        if n % 50 == 49 {
            // Removes rows, so that sled merges leaves as well.
            engine.compact(engine.revision()).await.expect("a compaction");
        }
    }
    let all = RangeRequest { key: bytes("\0"), range_end: bytes("\0"), ..RangeRequest::default() };
    let before = engine.range(&all).await.expect("a read");
    engine.shut_down().await;
    let blobs: Vec<_> = fs::read_dir(dir.path().join("store/blobs")).expect("sled's directory").collect();
    assert!(blobs.is_empty(), "{blobs:?}");
    assert_eq!(open(dir.path()).await.range(&all).await.expect("a read"), before);
}

/// A store at revision 101 that was closed and opened again, so that every kind of file is there; its first boot.
async fn filled(dir: &Path) -> store::BootId {
    let engine = open(dir).await;
    let first = engine.boot();
    for n in 0..100 {
        engine.put(put(&format!("key/{n}"), &"x".repeat(20_000))).await.expect("a put");
    }
    engine.shut_down().await;
    open(dir).await.shut_down().await;
    first
}

fn cut_snapshot(store: &Path) {
    let snapshot = fs::read_dir(store)
        .expect("the store's directory")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")))
        .expect("sled made a snapshot");
    fs::write(snapshot, "short").expect("a file");
}

fn foreign_settings(store: &Path) {
    let mut conf = fs::read(store.join("conf")).expect("a file");
    let at = conf.windows(6).position(|window| window == b"524288").expect("the segment's size");
    conf[at..at + 6].copy_from_slice(b"262144");
    fs::write(store.join("conf"), conf).expect("a file");
}

/// Zeros from the middle of the log on, as where a disk lost what it had said it has; sled takes that for its end.
fn cut_end(store: &Path) {
    let mut data = fs::read(store.join("db")).expect("a file");
    let middle = data.len() / 2;
    data[middle..].fill(0);
    fs::write(store.join("db"), data).expect("a file");
}

/// Flips a bit wherever a value is, in every page that sled ever wrote.
fn flip_bits(store: &Path) {
    let mut data = fs::read(store.join("db")).expect("a file");
    data.iter_mut().filter(|byte| **byte == b'x').for_each(|byte| *byte ^= 1);
    fs::write(store.join("db"), data).expect("a file");
}
