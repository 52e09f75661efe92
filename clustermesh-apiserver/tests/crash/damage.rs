//! Each file of the data directory, cut off or with bits flipped, and a program that starts on it.

use crate::program::{Cluster, files};
use rpc::etcdserverpb::{self as pb, kv_client::KvClient};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Records in the store; each is found again, or its loss is said.
const RECORDS: usize = 64;

/// What a start takes at most before it says that something is wrong.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// What is said of a store that is set aside.
const SET_ASIDE: &str = "could not be read and begins empty, as a new boot";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Emptied,
    CutInHalf,
    /// So many eighths into the file.
    BitFlipped(usize),
}

/// What a start on a damaged file comes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Everything is there.
    Well,
    /// The store begins empty, and the log says so.
    SetAside,
    /// It ended, and its message names the file.
    Refused,
    /// Something is missing, and nothing says so.
    Silent(String),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_healed_set_aside_or_named_and_never_believed() {
    let whole = filled().await;
    let mut silent = Vec::new();
    let all = files(&whole.data);
    for name in ["closed.json", "cluster.yaml", "lineage", "memory.json", "store/db", "store/head"] {
        assert!(all.contains(&PathBuf::from(name)), "{name} is there to be damaged: {all:?}");
    }
    for file in all {
        for damage in damages(&file) {
            let outcome = start_on(&whole, &file, damage).await;
            println!("{} {damage:?}: {outcome:?}", file.display());
            if let Outcome::Silent(what) = outcome {
                silent.push(format!("{} {damage:?}: {what}", file.display()));
            }
        }
    }
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

/// sled's own files have pages of many kinds, so bits are flipped in several places; of the others in one.
fn damages(file: &Path) -> Vec<Damage> {
    let flips = if file.starts_with("store") { 0..8 } else { 4..5 };
    [Damage::Emptied, Damage::CutInHalf].into_iter().chain(flips.map(Damage::BitFlipped)).collect()
}

/// A cluster with records in its store, killed.
async fn filled() -> Cluster {
    let cluster = Cluster::new();
    for round in 0..2 {
        // The second start makes the files that are written at one.
        let mut program = cluster.start();
        let mut kv = KvClient::new(cluster.connect(&mut program).await);
        for n in (round..RECORDS).step_by(2) {
            let (key, value) = (format!("damage/{n}").into(), format!("{n}").repeat(2_000).into());
            kv.put(pb::PutRequest { key, value, ..pb::PutRequest::default() }).await.expect("a put");
        }
        program.kill();
    }
    // As after the end of a peering.
    fs::write(cluster.data.join("closed.json"), r#"{"north":["10.3.0.0/16"]}"#).expect("a file");
    cluster
}

async fn start_on(whole: &Cluster, file: &Path, damage: Damage) -> Outcome {
    let cluster = whole.copy();
    apply(&cluster.data.join(file), damage);
    let mut program = cluster.start();
    if program.ended(ENDS_WITHIN, &cluster).await {
        let (log, name) = (cluster.log(), file.file_name().expect("a file").to_string_lossy().into_owned());
        return match log.lines().any(|line| line.starts_with("error: ") && line.contains(&name)) {
            true => Outcome::Refused,
            false => Outcome::Silent(format!("it ended without naming the file:\n{log}")),
        };
    }
    let mut kv = KvClient::new(cluster.connect(&mut program).await);
    let (key, range_end) = ("damage/".into(), "damage0".into());
    let list = kv.range(pb::RangeRequest { key, range_end, ..pb::RangeRequest::default() }).await;
    let list = list.expect("it serves").into_inner();
    let said = cluster.log().contains(SET_ASIDE) && cluster.data.join("store.damaged-1").exists();
    let good = list.kvs.iter().filter(|kv| {
        let n = String::from_utf8_lossy(&kv.key["damage/".len()..]).into_owned();
        kv.value == n.repeat(2_000).as_bytes()
    });
    match (good.count(), list.kvs.len(), said) {
        (RECORDS, RECORDS, false) => Outcome::Well,
        (0, 0, true) => Outcome::SetAside,
        (good, all, said) => Outcome::Silent(format!("{good} of {all} records are as written; said: {said}")),
    }
}

fn apply(file: &PathBuf, damage: Damage) {
    let mut bytes = fs::read(file).expect("a file");
    match damage {
        Damage::Emptied => bytes.clear(),
        Damage::CutInHalf => bytes.truncate(bytes.len() / 2),
        Damage::BitFlipped(eighths) => {
            let at = bytes.len() * eighths / 8;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1;
            }
        }
    }
    fs::write(file, bytes).expect("a file");
}
