//! An acknowledged write is on disk. Two tests here, because each sees what the other cannot:
//!
//! - the order of system calls shows that the disk was told before the client; it cannot show that sled finds it again;
//! - SIGKILL under load shows that what was written is found, whole; the page cache survives a SIGKILL, so it cannot
//!   show the sync (with the sync taken out it passes; with sled's flush taken out it fails in most rounds, because
//!   sled's own threads write soon after).
//!
//! Neither cuts the power: that is `power`'s story. What a disk does that lies about its cache is nowhere shown.

use std::collections::BTreeMap;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use store::RangeRequest;
use tempfile::TempDir;

use super::child::{Disk, StoreProcess};
use super::trace::{Moment, trace};
use super::{bytes, keys, next, open, value, watch};

/// Enough rounds that kills hit different moments of a batch; a second each.
const KILLS: usize = 5;

/// Acknowledged writes before a kill, and more with each round, so that the moments differ.
const ACKNOWLEDGED_BEFORE_KILL: usize = 300;

/// What the traced store is asked to write.
const WRITES: usize = 32;

#[test]
fn the_disk_is_told_before_the_client() {
    assert_eq!(sync_before_each_answer(Disk::AsShipped), [true; WRITES]);
}

#[test]
fn a_missing_sync_does_not_escape_the_test_above() {
    assert_eq!(sync_before_each_answer(Disk::WithoutSync), [false; WRITES]);
}

#[tokio::test]
async fn what_was_acknowledged_survives_sigkill_whole() {
    let dir = TempDir::new().expect("a directory");
    let mut head = 1;
    for round in 0..KILLS {
        let acknowledged =
            kill_under_load(dir.path(), Disk::AsShipped, ACKNOWLEDGED_BEFORE_KILL + 37 * round);
        let lost = lost(dir.path(), &acknowledged, &mut head).await;
        assert_eq!(lost, Vec::<String>::new(), "round {round}");
    }
}

#[tokio::test]
async fn an_answer_before_the_write_does_not_escape_the_test_above() {
    let dir = TempDir::new().expect("a directory");
    let acknowledged = kill_under_load(dir.path(), Disk::TenBatchesLate, ACKNOWLEDGED_BEFORE_KILL);
    assert_ne!(lost(dir.path(), &acknowledged, &mut 1).await, Vec::<String>::new());
}

#[test]
fn a_sync_that_fails_ends_the_process_without_an_answer() {
    let dir = TempDir::new().expect("a directory");
    let mut child = StoreProcess::spawn(dir.path(), Disk::WithFailingSync);
    child.ask("open");
    child.say("put a x");
    assert_eq!(child.answer(), None);
    assert_eq!(child.exit_code(), Some(74));
}

/// A file system of its own for the store; unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(kib: u32) -> Self {
        let dir = TempDir::new().expect("a directory");
        let size = format!("size={kib}k");
        let none = MsFlags::empty();
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), none, Some(size.as_str()))
            .expect("mounted: root is needed");
        Self(dir)
    }

    fn grow(&self, kib: u32) {
        let size = format!("size={kib}k");
        let none: Option<&str> = None;
        mount(none, self.0.path(), none, MsFlags::MS_REMOUNT, Some(size.as_str())).expect("grown");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that is just ending may hold it for a moment longer.
        umount2(self.0.path(), MntFlags::MNT_DETACH).ok();
    }
}

#[tokio::test]
async fn a_full_disk_ends_the_process_by_name_and_takes_nothing_that_was_acknowledged() {
    let disk = SmallDisk::new(4 * 1024);
    let dir = disk.0.path();
    let mut child = StoreProcess::spawn(dir, Disk::AsShipped);
    child.ask("open");
    child.say("load 8");
    let acknowledged = acknowledged(&mut child, usize::MAX);
    assert_eq!(child.exit_code(), Some(74), "it ends by itself, as one whose store failed");
    let already = acknowledged.values().map(|(n, _)| n).sum::<u64>();
    assert!(already > 100, "it worked before: {already}");

    disk.grow(64 * 1024);
    assert_eq!(lost(dir, &acknowledged, &mut 1).await, Vec::<String>::new());
    let mut child = StoreProcess::spawn(dir, Disk::AsShipped);
    child.ask("open");
    child.ask("put a x");
}

/// For each write to a traced store, whether it reached the data file and a sync of that before the answer went out.
fn sync_before_each_answer(disk: Disk) -> Vec<bool> {
    let dir = TempDir::new().expect("a directory");
    let data = dir.path().canonicalize().expect("a path").join("store/db");
    let mut child = StoreProcess::spawn(dir.path(), disk);
    let tracer = trace(child.id());
    child.ask("open");
    for n in 0..10 {
        child.ask(&format!("put key/{n} {}", "v".repeat(n * 700)));
        child.ask(&format!("txn left/{n} right/{n}"));
        child.ask(&format!("delete key/{n}"));
    }
    child.ask("compact 20");
    child.ask("put after compaction");
    child.hang_up();
    while child.answer().is_some() {}
    let mut answers = in_order(&tracer.join().expect("the tracer"), &data);
    answers.remove(0); // that of `open`
    answers
}

/// Reads the moments between a request and its answer. A write that ended after the last sync began is not covered.
fn in_order(moments: &[Moment], data: &Path) -> Vec<bool> {
    let mut answers = Vec::new();
    let mut asked = false;
    let mut way = OnItsWay::Nowhere;
    for moment in moments {
        match (moment, way) {
            (Moment::RequestRead, _) => (asked, way) = (true, OnItsWay::Nowhere),
            (Moment::DataWritten(path), _) if path == data => way = OnItsWay::InCache,
            (Moment::SyncBegins(path), OnItsWay::InCache) if path == data => way = OnItsWay::InSync,
            (Moment::SyncEnded(path), OnItsWay::InSync) if path == data => way = OnItsWay::OnDisk,
            (Moment::DataWritten(_) | Moment::SyncBegins(_) | Moment::SyncEnded(_), _) => {}
            (Moment::AnswerWritten, way) if asked => {
                answers.push(way == OnItsWay::OnDisk);
                asked = false;
            }
            // The test harness talks, too.
            (Moment::AnswerWritten, _) => {}
        }
    }
    answers
}

/// How far what a request wrote is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnItsWay {
    Nowhere,
    InCache,
    InSync,
    OnDisk,
}

/// What each client was told last: how far it counted, and in which revision.
pub(super) type Acknowledged = BTreeMap<String, (u64, i64)>;

fn kill_under_load(dir: &Path, disk: Disk, after: usize) -> Acknowledged {
    let mut child = StoreProcess::spawn(dir, disk);
    child.ask("open");
    child.say("load 8");
    acknowledged(&mut child, after)
}

/// What a child under load was answered until it ended; it is killed after so many answers.
pub(super) fn acknowledged(child: &mut StoreProcess, after: usize) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    let mut answers = 0;
    // What the child had said before it died still counts.
    while let Some(answer) = child.answer() {
        let mut words = answer.split(' ');
        let mut word = || words.next().expect("client, count, revision");
        let (client, n, revision) = (word().to_owned(), word(), word());
        let told = (n.parse().expect("a count"), revision.parse().expect("a revision"));
        acknowledged.insert(client, told);
        answers += 1;
        if answers == after {
            child.kill();
        }
    }
    acknowledged
}

/// What the store in `dir` does not have though it was acknowledged, or has in halves.
pub(super) async fn lost(dir: &Path, acknowledged: &Acknowledged, head: &mut i64) -> Vec<String> {
    let mut lost = Vec::new();
    let engine = open(dir).await;
    let newest =
        acknowledged.values().map(|(_, revision)| *revision).max().expect("something was acknowledged");
    if engine.revision() < newest.max(*head) {
        lost.push(format!("the revision went back to {} from {}", engine.revision(), newest.max(*head)));
    }
    for (client, (n, revision)) in acknowledged {
        let read = RangeRequest { key: bytes(&format!("left/{client}")), ..RangeRequest::default() };
        let found = engine.range(&read).await.expect("a read").kvs.pop();
        let at = found.as_ref().map_or(0, |kv| kv.mod_revision);
        let left: Option<u64> = found.map(|kv| String::from_utf8_lossy(&kv.value).parse().expect("a count"));
        let right = value(&engine, &format!("right/{client}")).await;
        if left.is_none_or(|left| left < *n) || at < *revision {
            lost.push(format!("client {client}: {n} in revision {revision}, found {left:?} in {at}"));
        }
        if left.map(|left| left.to_string()) != right {
            lost.push(format!("client {client}: torn, {left:?} and {right:?}"));
        }
    }
    if lost.is_empty() {
        // The pairs of every revision that this round made are there, both halves.
        let mut history = watch(&engine, *head + 1);
        let mut seen = 0;
        while history.delivered() < engine.revision() {
            seen += keys(next(&mut history).await).len() as i64;
        }
        assert_eq!(seen, 2 * (engine.revision() - *head), "history is whole");
    }
    *head = engine.revision();
    engine.shut_down().await;
    lost
}
