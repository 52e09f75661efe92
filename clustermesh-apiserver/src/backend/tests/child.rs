//! A process of its own with a store, for the tests that trace it or kill it: this test binary, called again.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use store::{Batch, DeleteRangeRequest, Op, TxnRequest};

use super::{bytes, put};
use crate::backend::dir::DataDir;
use crate::backend::engine::open_store;
use crate::backend::sled_disk::SledDisk;
use crate::backend::{Backend, BackendError, Engine, Loaded, writer};

const DIR: &str = "MESH_TEST_STORE_DIR";
const DISK: &str = "MESH_TEST_STORE_DISK";

/// Which backend the child uses: ours, or one with a call taken out, to see that a test notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    AsShipped,
    WithoutSync,
    TenBatchesLate,
    WithFailingSync,
}

/// A running child; killed when dropped.
pub(super) struct StoreProcess {
    child: Child,
    requests: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl StoreProcess {
    /// Starts the child; it opens nothing before it is told to by [`StoreProcess::ask`] `open`.
    pub(super) fn spawn(dir: &Path, disk: Disk) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "--ignored", "--nocapture", "--test-threads=1", "backend::tests::child::serve"])
            .env(DIR, dir)
            .env(DISK, format!("{disk:?}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, requests, answers }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Says a line and waits for the answer.
    pub(super) fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.answer().expect("an answer")
    }

    pub(super) fn say(&mut self, line: &str) {
        let requests = self.requests.as_mut().expect("the child is told to go on");
        requests.write_all(format!("{line}\n").as_bytes()).expect("the child reads");
    }

    /// The next answer; `None` when the child has ended and everything it said was read.
    pub(super) fn answer(&mut self) -> Option<String> {
        loop {
            // The test harness of the child prints lines of its own.
            let line = self.answers.next()?.expect("text");
            if let Some(answer) = line.strip_prefix("answer ") {
                return Some(answer.to_owned());
            }
        }
    }

    /// No more requests: the child ends.
    pub(super) fn hang_up(&mut self) {
        self.requests = None;
    }

    /// Waits for the end of the child by itself.
    pub(super) fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("our child").code()
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().expect("SIGKILL is delivered");
    }
}

impl Drop for StoreProcess {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
#[ignore = "not a test: the child of those that kill or trace a process"]
fn serve() {
    let dir = PathBuf::from(std::env::var_os(DIR).expect("the parent names a directory"));
    let disk = match std::env::var(DISK).expect("the parent names a disk").as_str() {
        "AsShipped" => Disk::AsShipped,
        "WithoutSync" => Disk::WithoutSync,
        "TenBatchesLate" => Disk::TenBatchesLate,
        "WithFailingSync" => Disk::WithFailingSync,
        other => panic!("no disk is called {other}"),
    };
    println!();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut engine = None;
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        let words: Vec<&str> = line.split(' ').collect();
        match (words.as_slice(), &engine) {
            (["open"], None) => {
                let opened = open(&dir, disk);
                println!("answer {}", opened.revision());
                engine = Some(opened);
            }
            (["load", clients], Some(engine)) => {
                runtime.block_on(load(engine, clients.parse().expect("a number")));
            }
            (request, Some(engine)) => println!("answer {}", runtime.block_on(write(engine, request))),
            (request, None) => panic!("{request:?} before open"),
        }
    }
}

async fn write(engine: &Engine, request: &[&str]) -> i64 {
    let written = match request {
        ["put", key, value] => engine.put(put(key, value)).await.map(|answer| answer.revision),
        ["delete", key] => {
            let request = DeleteRangeRequest { key: bytes(key), ..DeleteRangeRequest::default() };
            engine.delete_range(request).await.map(|answer| answer.revision)
        }
        ["txn", keys @ ..] => engine.txn(puts(keys, "x")).await.map(|answer| answer.revision),
        ["compact", revision] => engine.compact(revision.parse().expect("a number")).await,
        other => panic!("unknown request {other:?}"),
    };
    written.expect("a write")
}

/// Clients that write pairs as fast as they can, and say what was acknowledged, until somebody kills us.
async fn load(engine: &Engine, clients: u32) {
    let writers = (0..clients).map(|client| async move {
        for n in 1_u64.. {
            let keys = [format!("left/{client}"), format!("right/{client}")];
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let answer = engine.txn(puts(&keys, &n.to_string())).await.expect("a txn");
            println!("answer {client} {n} {}", answer.revision);
        }
    });
    futures::future::join_all(writers).await;
}

fn puts(keys: &[&str], value: &str) -> TxnRequest {
    let success = keys.iter().map(|key| Op::Put(put(key, value))).collect();
    TxnRequest { success, ..TxnRequest::default() }
}

fn open(dir: &Path, disk: Disk) -> Engine {
    let dir = DataDir::lock(dir).expect("the lock");
    let (sled, store) = open_store(&dir).expect("the store opens");
    let opened = match disk {
        Disk::AsShipped => Engine::start(dir, sled, store, writer::exit_process),
        Disk::WithoutSync => Engine::start(dir, WithoutSync(sled), store, writer::exit_process),
        Disk::TenBatchesLate => {
            Engine::start(dir, TenBatchesLate(sled, VecDeque::new()), store, writer::exit_process)
        }
        Disk::WithFailingSync => Engine::start(dir, WithFailingSync(sled), store, writer::exit_process),
    };
    opened.expect("the engine starts")
}

/// The backend with its last line taken out.
struct WithoutSync(SledDisk);

/// A disk that writes everything, and says so ten batches early.
struct TenBatchesLate(SledDisk, VecDeque<Batch>);

impl Backend for WithoutSync {
    fn load(&mut self) -> Result<Loaded, BackendError> {
        self.0.load()
    }

    fn append(&mut self, batch: &Batch) -> Result<(), BackendError> {
        self.0.apply(batch).and_then(|()| self.0.flush()).expect("sled works");
        Ok(())
    }
}

impl Backend for TenBatchesLate {
    fn load(&mut self) -> Result<Loaded, BackendError> {
        self.0.load()
    }

    fn append(&mut self, batch: &Batch) -> Result<(), BackendError> {
        self.1.push_back(batch.clone());
        if self.1.len() > 10 { self.0.append(&self.1.pop_front().expect("there are eleven")) } else { Ok(()) }
    }
}

/// A disk that says no.
struct WithFailingSync(SledDisk);

impl Backend for WithFailingSync {
    fn load(&mut self) -> Result<Loaded, BackendError> {
        self.0.load()
    }

    fn append(&mut self, _: &Batch) -> Result<(), BackendError> {
        let source = std::io::Error::from_raw_os_error(nix::libc::EIO);
        Err(BackendError::Io { doing: "sync", dir: PathBuf::from("store"), source })
    }
}
