//! The power goes: what was synced is on the disk, and of the rest any part.
//!
//! SIGKILL leaves the page cache alone, so the store's process works on a file system of ours (FUSE) that knows what was
//! synced; when the process is killed, a seed decides for each page that was not whether the disk has it.

mod disk;

use std::path::Path;

use disk::Disk as LossyDisk;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sim::chance::Chance;
use tempfile::TempDir;

use super::child::{Disk, StoreProcess};
use super::durability::{Acknowledged, acknowledged, lost};

/// Power cuts of one store, each after more writes than the one before, so that they hit different moments.
const CUTS: usize = 16;
const WRITES: usize = 120;
const WRITES_MORE: usize = 17;

/// Rounds in which the planted bug may show: whether it does depends on what had been synced for other reasons.
const CUTS_UNTIL_SEEN: usize = 6;

#[tokio::test]
async fn what_was_acknowledged_survives_power_cuts_whole() {
    own_mounts();
    let mut chance = Chance::new(0x706f_7765);
    let mut here = TempDir::new().expect("a directory");
    let mut head = 1;
    for cut in 0..CUTS {
        let (after, acknowledged) =
            power_cut(here.path(), Disk::AsShipped, WRITES + WRITES_MORE * cut, &mut chance);
        let lost = lost(after.path(), &acknowledged, &mut head).await;
        assert_eq!(lost, Vec::<String>::new(), "after cut {cut}");
        assert!(!after.path().join("store.damaged-1").exists(), "nothing was taken for damage");
        here = after;
    }
}

#[tokio::test]
async fn a_missing_sync_does_not_escape_the_test_above() {
    own_mounts();
    let mut chance = Chance::new(0x706c_616e);
    for _ in 0..CUTS_UNTIL_SEEN {
        let here = TempDir::new().expect("a directory");
        let (after, acknowledged) = power_cut(here.path(), Disk::WithoutSync, WRITES, &mut chance);
        if lost(after.path(), &acknowledged, &mut 1).await != Vec::<String>::new() {
            return;
        }
    }
    panic!("{CUTS_UNTIL_SEEN} power cuts took nothing from a store that does not sync");
}

/// Lets a store work on what lies in `before`, until it has acknowledged so many writes; gives what the disk has when the
/// power goes then, and what was acknowledged.
fn power_cut(before: &Path, disk: Disk, writes: usize, chance: &mut Chance) -> (TempDir, Acknowledged) {
    let mountpoint = TempDir::new().expect("a directory");
    let lossy = LossyDisk::holding(before);
    let mounted = lossy.mount(mountpoint.path());
    let mut child = StoreProcess::spawn(mountpoint.path(), disk);
    child.ask("open");
    child.say("load 8");
    let acknowledged = acknowledged(&mut child, writes);
    drop(child);
    drop(mounted);
    let after = TempDir::new().expect("a directory");
    lossy.cut(chance, after.path());
    (after, acknowledged)
}

/// Mounts of this thread and its children are nobody else's, and end with them.
fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace: root is needed");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts are our own");
}
