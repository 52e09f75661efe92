//! Writers, a reader and a watcher, and a program that is killed under them.

use crate::{
    program::{Cluster, Program},
    witness::{Change, Witness},
};
use rpc::etcdserverpb::{self as pb, kv_client::KvClient, watch_client::WatchClient};
use sim::chance::Chance;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::Channel;

/// Each writes pairs as fast as it is answered.
const WRITERS: usize = 4;

/// A kill comes after so many acknowledged writes at least, and at most so many more.
const WRITES_MIN: u64 = 10;
const WRITES_MORE: u64 = 150;

/// One kill in so many comes while the program starts, within the time that a start takes.
const STARTING_ONE_IN: u64 = 4;
const STARTING_MS: u64 = 400;

/// All that the test writes.
const PREFIX: &str = "pairs/";
const PREFIX_END: &str = "pairs0";

type Shared = Arc<Mutex<Witness>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_anybody_was_told_stays_true_over_twenty_kills() {
    survive(20, 0x6b69_6c6c).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: cargo test -p clustermesh-apiserver --test crash -- --ignored, MESH_SEED=… for another schedule"]
async fn what_anybody_was_told_stays_true_over_two_hundred_kills() {
    survive(200, 0x6d6f_7265).await;
}

async fn survive(kills: usize, seed: u64) {
    let seed =
        std::env::var("MESH_SEED").ok().map_or(seed, |text| text.parse().expect("MESH_SEED is a number"));
    println!("seed {seed}");
    let mut chance = Chance::new(seed);
    let cluster = Cluster::new();
    let witness = Shared::default();
    let mut killed_at_work = 0;
    for kill in 0..kills {
        let mut program = cluster.start();
        if chance.one_in(STARTING_ONE_IN) {
            sleep(Duration::from_millis(chance.below(STARTING_MS))).await;
            program.kill();
            continue;
        }
        let writes = WRITES_MIN + chance.below(WRITES_MORE);
        let channel = cluster.connect(&mut program).await;
        check(&channel, &witness, kill).await;
        work_until_killed(channel, &witness, &mut program, writes).await;
        killed_at_work += 1;
    }
    let mut program = cluster.start();
    let channel = cluster.connect(&mut program).await;
    check(&channel, &witness, kills).await;
    let witness = lock(&witness);
    println!(
        "{killed_at_work} kills at work, {} while starting; {} writes acknowledged, {} lists read, {} changes watched",
        kills - killed_at_work,
        witness.acknowledged.len(),
        witness.read.len(),
        witness.watched.len()
    );
    assert!(witness.acknowledged.len() as u64 >= killed_at_work as u64 * WRITES_MIN);
    assert!(witness.watched.len() > kills && witness.read.len() > kills / 2, "everybody was there");
    assert!(!cluster.log().contains("could not be read and begins empty"), "{}", cluster.log());
}

/// The program that has just started says what was said before.
async fn check(channel: &Channel, witness: &Shared, kill: usize) {
    let (history, head) = history(channel).await;
    let wrong = lock(witness).contradictions(&history, head);
    assert!(wrong.is_empty(), "after {kill} kills: {}", wrong.join("\n"));
}

/// The whole history, as a watch from the first revision tells it, and the revision of the store.
async fn history(channel: &Channel) -> (Vec<Change>, i64) {
    let list = KvClient::new(channel.clone()).range(all()).await.expect("a read").into_inner();
    let head = list.header.expect("a header").revision;
    let newest = list.kvs.iter().map(|kv| kv.mod_revision).max().unwrap_or(0);
    let mut told = Witness::default();
    let mut stream = watch_from(channel, 1).await.expect("a watch");
    while told.watched.last().map_or(0, |(revision, ..)| *revision) < newest {
        told.watch(stream.next().await.expect("it goes on").expect("a message"));
    }
    (told.watched, head)
}

/// Everybody works until the program is dead, which it is after so many acknowledged writes.
async fn work_until_killed(channel: Channel, witness: &Shared, program: &mut Program, writes: u64) {
    let (acknowledged, mut counted) = watch::channel(0_u64);
    let acknowledged = Arc::new(acknowledged);
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        tasks.spawn(write(channel.clone(), Arc::clone(witness), writer, Arc::clone(&acknowledged)));
    }
    tasks.spawn(read(channel.clone(), Arc::clone(witness)));
    tasks.spawn(follow(channel, Arc::clone(witness)));
    counted.wait_for(|count| *count >= writes).await.expect("the writers live");
    program.kill();
    while let Some(task) = tasks.join_next().await {
        task.expect("nobody was told something that cannot be");
    }
}

/// Pairs with rising numbers, until nobody answers. What was asked last may be there or not.
async fn write(channel: Channel, witness: Shared, writer: usize, acknowledged: Arc<watch::Sender<u64>>) {
    let mut kv = KvClient::new(channel);
    let keys = [format!("{PREFIX}left/{writer}"), format!("{PREFIX}right/{writer}")];
    for n in 0_u64.. {
        // Some values are of several pieces on disk.
        let value = format!("{n}{}", "x".repeat(if n % 16 == 0 { 5_000 } else { 10 }));
        let put = |key: &String| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                key: key.clone().into(),
                value: value.clone().into(),
                ..pb::PutRequest::default()
            })),
        };
        let txn = pb::TxnRequest { success: keys.iter().map(put).collect(), ..pb::TxnRequest::default() };
        let Ok(answer) = kv.txn(txn).await else { return };
        let revision = answer.into_inner().header.expect("a header").revision;
        let pairs = keys.iter().map(|key| (key.clone().into_bytes(), value.clone().into_bytes())).collect();
        lock(&witness).acknowledge(revision, pairs);
        acknowledged.send_modify(|count| *count += 1);
    }
}

/// Lists everything, again and again.
async fn read(channel: Channel, witness: Shared) {
    let mut kv = KvClient::new(channel);
    let mut last = 0;
    while let Ok(answer) = kv.range(all()).await {
        let answer = answer.into_inner();
        let revision = answer.header.as_ref().expect("a header").revision;
        assert!(revision >= last, "the revision went back to {revision} from {last}");
        last = revision;
        lock(&witness).read(answer);
    }
}

/// Goes on where the watcher of the program before was.
async fn follow(channel: Channel, witness: Shared) {
    let from = lock(&witness).resume();
    let Ok(mut stream) = watch_from(&channel, from).await else { return };
    while let Some(Ok(message)) = stream.next().await {
        lock(&witness).watch(message);
    }
}

async fn watch_from(
    channel: &Channel,
    from: i64,
) -> Result<tonic::Streaming<pb::WatchResponse>, tonic::Status> {
    let create = pb::WatchCreateRequest {
        key: PREFIX.into(),
        range_end: PREFIX_END.into(),
        start_revision: from,
        ..pb::WatchCreateRequest::default()
    };
    let request =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    // The requests' side stays open as long as the answers are read.
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    sender.send(request).await.expect("there is room for one");
    let answers = WatchClient::new(channel.clone()).watch(ReceiverStream::new(requests)).await?.into_inner();
    tokio::spawn(async move { sender.closed().await });
    Ok(answers)
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: PREFIX.into(), range_end: PREFIX_END.into(), ..pb::RangeRequest::default() }
}

fn lock(witness: &Shared) -> std::sync::MutexGuard<'_, Witness> {
    witness.lock().unwrap_or_else(PoisonError::into_inner)
}
