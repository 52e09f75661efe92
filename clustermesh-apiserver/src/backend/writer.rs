//! The one thread that writes: apply what waits, sync once, then answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use store::{
    DeleteRangeRequest, DeleteRangeResponse, Dump, Error, LeaseGrant, LeaseStatus, PutRequest, PutResponse,
    Store, TxnRequest, TxnResponse,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::timeout_at;
use tracing::{debug, error, info};

use super::dir::{DataDir, OpenError};
use super::engine::Shared;
use super::{Backend, BackendError};

/// The most requests that share a sync. They are applied under the store's lock, about 2 µs each: readers wait 2 ms.
const GROUP_MAX: usize = 1_024;

/// The most bytes that share a sync, but for a single request that is larger: one segment of sled's. sled reuses a
/// segment when what replaced it lies a whole segment back, on disk by its own weaker sync; between two of ours that
/// should not happen, and with smaller groups it seldom can.
const GROUP_BYTES_MAX: usize = 512 * 1024;

/// How often the bound on the history's age is looked at; that on its size, after every group.
const COMPACT_EVERY: Duration = Duration::from_secs(60);

/// The exit code of a process whose store failed (EX_IOERR of sysexits.h).
const EXIT_STORE_FAILED: i32 = 74;

/// A request in the queue, and its share of the queue's budget.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) write: Write,
    pub(super) permits: Option<OwnedSemaphorePermit>,
}

/// What is asked, and where the answer goes.
#[derive(Debug)]
pub(super) enum Write {
    Put(PutRequest, Answer<PutResponse>),
    DeleteRange(DeleteRangeRequest, Answer<DeleteRangeResponse>),
    Txn(TxnRequest, Answer<TxnResponse>),
    Compact(i64, Answer<i64>),
    LeaseGrant(LeaseGrant, Answer<i64>),
    LeaseRevoke(i64, Answer<i64>),
    LeaseKeepAlive(i64, Answer<i64>),
    // Reads, which wait for the sync like the writes before them: leases have no revisions to read as of.
    Lease(i64, Answer<LeaseStatus>),
    Leases(Answer<Vec<i64>>),
    Dump([u8; 16], Answer<Dump>),
    End(oneshot::Sender<()>),
}

/// Why the writer does something.
enum Wake {
    Request(Request),
    Expiry,
}

type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// An answer on its way: it goes out when this is called, after the sync.
type Answered = Box<dyn FnOnce()>;

/// What happens when the backend fails. It does not return in a real process.
pub(super) type Fatal = fn(&BackendError);

/// Ends the process: after a failed sync nobody knows what is on disk, and a second try may lie (the kernel forgets
/// the error with the pages it could not write).
pub(super) fn exit_process(error: &BackendError) {
    error!(error = %Chain(error), "The store cannot write; the process ends. Check disk space and disk health");
    std::process::exit(EXIT_STORE_FAILED);
}

/// The writer and all it owns.
pub(super) struct Writer<B> {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: B,
    pub(super) dir: DataDir,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) moved: watch::Sender<i64>,
    pub(super) fatal: Fatal,
}

/// Starts the writer; it ends with the last handle.
pub(super) fn spawn<B: Backend>(writer: Writer<B>) -> Result<(), OpenError> {
    let fatal = writer.fatal;
    let path = writer.dir.store();
    let cannot_start =
        |source| OpenError::Io { doing: "start the writer of", path: "the store".into(), source };
    let clock = Builder::new_current_thread().enable_time().build().map_err(cannot_start)?;
    let run = move || {
        if catch_unwind(AssertUnwindSafe(|| writer.run(&clock))).is_err() {
            // Its answers are lost; nobody was told that they are durable.
            fatal(&BackendError::Damaged { dir: path, what: String::from("the writer panicked") });
        }
    };
    std::thread::Builder::new().name(String::from("store-writer")).spawn(run).map(drop).map_err(cannot_start)
}

impl<B: Backend> Writer<B> {
    fn run(mut self, clock: &Runtime) {
        let mut compact_at = Instant::now() + COMPACT_EVERY;
        while let Some(wake) = clock.block_on(self.wake()) {
            let (answers, end) = self.apply(wake);
            let batch = self.shared.write().take_batch();
            if !batch.is_empty() {
                let begin = Instant::now();
                if let Err(error) = self.disk.append(&batch) {
                    (self.fatal)(&error);
                    return;
                }
                let counters = &self.shared.counters;
                counters.syncs.fetch_add(1, Ordering::Relaxed);
                let nanos = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
                counters.sync_nanos.fetch_add(nanos, Ordering::Relaxed);
            }
            self.commit(&batch);
            self.shared.counters.requests.fetch_add(answers.len() as u64, Ordering::Relaxed);
            for answer in answers {
                answer();
            }
            if let Some(ended) = end {
                self.end(ended);
                return;
            }
            self.compact(&mut compact_at);
        }
    }

    /// Waits for a request, or for a lease to expire; `None` when nobody can ask any more.
    async fn wake(&mut self) -> Option<Wake> {
        let expiry = self.shared.read().lease_expiry();
        let request = self.requests.recv();
        let request = match expiry {
            None => request.await,
            Some(at) => match timeout_at(at.into(), request).await {
                Ok(request) => request,
                Err(_) => return Some(Wake::Expiry),
            },
        };
        request.map(Wake::Request)
    }

    /// Ends the leases whose time is up, then applies a request and those that wait behind it. The answers are kept until
    /// the sync.
    fn apply(&mut self, wake: Wake) -> (Vec<Answered>, Option<oneshot::Sender<()>>) {
        let mut answers: Vec<Answered> = Vec::new();
        let mut bytes = 0;
        let now = Instant::now();
        let mut store = self.shared.write();
        for id in store.expire_leases(now) {
            debug!(lease = format!("{id:x}"), "A lease has expired");
        }
        let mut next = match wake {
            Wake::Request(first) => Some(first),
            Wake::Expiry => None,
        };
        while let Some(Request { write, permits }) = next {
            bytes += permits.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * 1024;
            match apply_one(&mut store, write, now) {
                Ok(answer) => answers.push(answer),
                Err(ended) => return (answers, Some(ended)),
            }
            let full = answers.len() >= GROUP_MAX || bytes >= GROUP_BYTES_MAX;
            next = if full { None } else { self.requests.try_recv().ok() };
        }
        (answers, None)
    }

    fn commit(&self, batch: &store::Batch) {
        let revision = {
            let mut store = self.shared.write();
            store.commit(batch);
            store.revision()
        };
        self.moved.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
    }

    /// Keeps history within its bounds; the compaction becomes durable with the next batch.
    fn compact(&self, at: &mut Instant) {
        let now = Instant::now();
        let mut store = self.shared.write();
        if now < *at && store.sizes().history_bytes <= store::HISTORY_BYTES_MAX {
            return;
        }
        *at = now + COMPACT_EVERY;
        if let Some(revision) = store.compaction_due(now) {
            store.compact(revision).expect("a revision that is due can be compacted");
            debug!(revision, "Compacting history");
        }
    }

    /// Closes the files, frees the directory and says so; `moved` goes with us, which ends the watches.
    fn end(self, ended: oneshot::Sender<()>) {
        let Self { disk, dir, mut requests, .. } = self;
        requests.close();
        drop(requests);
        drop(disk);
        drop(dir);
        info!("The store is closed");
        ended.send(()).ok();
    }
}

/// Applies one write; gives what answers it once it is durable, or whom to tell of the end.
fn apply_one(
    store: &mut Store,
    write: Write,
    now: Instant,
) -> Result<Box<dyn FnOnce()>, oneshot::Sender<()>> {
    match write {
        Write::Put(request, answer) => Ok(later(store.put(&request, now), answer)),
        Write::DeleteRange(request, answer) => Ok(later(store.delete_range(&request, now), answer)),
        Write::Txn(request, answer) => Ok(later(store.txn(&request, now), answer)),
        Write::Compact(revision, answer) => Ok(later(store.compact(revision), answer)),
        Write::LeaseGrant(request, answer) => Ok(later(store.lease_grant(&request, now), answer)),
        Write::LeaseRevoke(id, answer) => Ok(later(store.lease_revoke(id, now), answer)),
        Write::LeaseKeepAlive(id, answer) => Ok(later(store.lease_keep_alive(id, now), answer)),
        Write::Lease(id, answer) => Ok(later(store.lease(id, now), answer)),
        Write::Leases(answer) => Ok(later(Ok(store.leases()), answer)),
        Write::Dump(origin, answer) => Ok(later(Ok(store.dump(origin)), answer)),
        Write::End(ended) => Err(ended),
    }
}

fn later<T: 'static>(result: Result<T, Error>, answer: Answer<T>) -> Answered {
    // Whoever asked may be gone; what he asked is durable all the same.
    Box::new(move || drop(answer.send(result)))
}

/// An error with its causes, in one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
