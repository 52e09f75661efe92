//! The handle that the gRPC face and the publisher share.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::{
    BootId, DeleteRangeRequest, DeleteRangeResponse, Dump, Error, LeaseGrant, LeaseStatus, Lineage,
    PutRequest, PutResponse, RangeRequest, RangeResponse, Sizes, Store, TxnRequest, TxnResponse,
    WatchRequest,
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::dir::{DataDir, OpenError};
use super::sled_disk::SledDisk;
use super::watch::WatchStream;
use super::writer::{self, Fatal, Request, Write};
use super::{Backend, BackendError};

/// The most requests that wait for the writer. At 10,000 commits a second it is a third of a second of waiting.
const QUEUE_MAX: usize = 4_096;

/// The most bytes of keys and values that wait: 40 requests of the largest kind.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What one permit of the queue's budget stands for.
const QUEUE_PERMIT_BYTES: usize = 1024;

/// The most watches: 5,000 nodes with one each, as many VMs, and room for peers and people.
const WATCHERS_MAX: usize = 16_384;

/// The store of this process. A handle: clones share one store.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
    budget: Arc<Semaphore>,
}

/// What readers, watchers and the writer share.
#[derive(Debug)]
pub(super) struct Shared {
    store: RwLock<Store>,
    revision: watch::Receiver<i64>,
    boot: BootId,
    lineage: Lineage,
    pub(super) watchers: AtomicUsize,
    pub(super) counters: Counters,
}

/// Counted by the writer.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) requests: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) sync_nanos: AtomicU64,
}

/// Sizes and counts for the metrics, read from the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Of the store.
    pub store: Sizes,
    /// Open watches.
    pub watchers: usize,
    /// Requests that wait for the writer.
    pub queued: usize,
    /// Writes, txns and compactions answered since the start, refused ones included.
    pub requests: u64,
    /// Syncs since the start: fewer than requests when they share.
    pub syncs: u64,
    /// The time spent writing and syncing since the start.
    pub sync_time: Duration,
}

impl Engine {
    /// Opens the store in `dir`, or makes one. A store that cannot be read is set aside and begins empty; each start is
    /// a boot of the lineage.
    ///
    /// # Errors
    /// [`OpenError`] when the directory is in use, the system refuses, or damage does not end.
    pub async fn open(dir: &Path) -> Result<Self, OpenError> {
        let dir = dir.to_owned();
        tokio::task::spawn_blocking(move || Self::open_blocking(&dir, writer::exit_process))
            .await
            .expect("opening the store does not panic")
    }

    fn open_blocking(dir: &Path, fatal: Fatal) -> Result<Self, OpenError> {
        let dir = DataDir::lock(dir)?;
        let (disk, store) = match open_store(&dir) {
            Err(damage @ BackendError::Damaged { .. }) => {
                dir.set_aside(&damage)?;
                open_store(&dir).map_err(OpenError::Backend)?
            }
            opened => opened.map_err(OpenError::Backend)?,
        };
        Self::start(dir, disk, store, fatal)
    }

    /// Begins a boot of `store`, whose rows `disk` holds.
    pub(super) fn start(
        dir: DataDir,
        disk: impl Backend,
        store: Store,
        fatal: Fatal,
    ) -> Result<Self, OpenError> {
        let boot: BootId = rand::random();
        let mut lineage = dir.lineage()?;
        lineage.begin(boot, store.revision());
        dir.write_lineage(&lineage)?;

        let (moved, revision) = watch::channel(store.revision());
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::new(Shared {
            store: RwLock::new(store),
            revision,
            boot,
            lineage,
            watchers: AtomicUsize::new(0),
            counters: Counters::default(),
        });
        writer::spawn(writer::Writer { shared: Arc::clone(&shared), disk, dir, requests, moved, fatal })?;
        let budget = Arc::new(Semaphore::new(QUEUE_BYTES_MAX / QUEUE_PERMIT_BYTES));
        Ok(Self { shared, queue, budget })
    }

    /// Reads a range of what is durable.
    ///
    /// # Errors
    /// As etcd.
    pub async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        if self.queue.is_closed() {
            return Err(Error::Stopped);
        }
        self.shared.read().range(request)
    }

    /// Puts a key; when it returns, the key is on disk.
    ///
    /// # Errors
    /// As etcd; [`Error::TooManyRequests`] when the queue is full, [`Error::Stopped`] after the end.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, Error> {
        let bytes = request.key.len() + request.value.len();
        self.ask(bytes, |answer| Write::Put(request, answer)).await
    }

    /// Deletes a range; when it returns, that is on disk.
    ///
    /// # Errors
    /// As [`Engine::put`].
    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        let bytes = request.key.len() + request.range_end.len();
        self.ask(bytes, |answer| Write::DeleteRange(request, answer)).await
    }

    /// Runs a txn; when it returns, its writes are on disk.
    ///
    /// # Errors
    /// As [`Engine::put`].
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let bytes = request.bytes();
        self.ask(bytes, |answer| Write::Txn(request, answer)).await
    }

    /// Compacts: from now on, revisions below `revision` cannot be read. Returns the store's revision.
    ///
    /// # Errors
    /// As [`Engine::put`].
    pub async fn compact(&self, revision: i64) -> Result<i64, Error> {
        self.ask(0, |answer| Write::Compact(revision, answer)).await
    }

    /// Grants a lease; returns its time to live in seconds. When it returns, the lease is on disk.
    ///
    /// # Errors
    /// As [`Engine::put`].
    pub async fn lease_grant(&self, request: LeaseGrant) -> Result<i64, Error> {
        self.ask(request.owner.len(), |answer| Write::LeaseGrant(request, answer)).await
    }

    /// Ends a lease and deletes its keys; returns the store's revision.
    ///
    /// # Errors
    /// As [`Engine::put`].
    pub async fn lease_revoke(&self, id: i64) -> Result<i64, Error> {
        self.ask(0, |answer| Write::LeaseRevoke(id, answer)).await
    }

    /// Gives a lease its whole time to live again, which it returns in seconds.
    ///
    /// # Errors
    /// As [`Engine::put`].
    pub async fn lease_keep_alive(&self, id: i64) -> Result<i64, Error> {
        self.ask(0, |answer| Write::LeaseKeepAlive(id, answer)).await
    }

    /// What there is to say of a lease.
    ///
    /// # Errors
    /// As [`Engine::put`].
    pub async fn lease(&self, id: i64) -> Result<LeaseStatus, Error> {
        self.ask(0, |answer| Write::Lease(id, answer)).await
    }

    /// The ids of all leases.
    ///
    /// # Errors
    /// As [`Engine::put`].
    pub async fn leases(&self) -> Result<Vec<i64>, Error> {
        self.ask(0, Write::Leases).await
    }

    /// The whole store, as it is on disk when this returns.
    ///
    /// # Errors
    /// As [`Engine::put`].
    pub async fn dump(&self, origin: [u8; 16]) -> Result<Dump, Error> {
        self.ask(0, |answer| Write::Dump(origin, answer)).await
    }

    /// Who granted a lease; it may be about to expire.
    pub fn lease_owner(&self, id: i64) -> Option<Bytes> {
        self.shared.read().lease_owner(id).cloned()
    }

    /// Begins a watch. One whose start was compacted says so as its first answer.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] when there are as many watches as there may be, [`Error::Stopped`] after the end.
    pub fn watch(&self, request: &WatchRequest) -> Result<WatchStream, Error> {
        if self.queue.is_closed() {
            return Err(Error::Stopped);
        }
        if self.shared.watchers.fetch_add(1, Ordering::Relaxed) >= WATCHERS_MAX {
            self.shared.watchers.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::TooManyRequests);
        }
        Ok(WatchStream::new(Arc::clone(&self.shared), self.shared.revision.clone(), request))
    }

    /// The newest durable revision.
    pub fn revision(&self) -> i64 {
        *self.shared.revision.borrow()
    }

    /// Wakes when the durable revision moves; closed when the store has ended.
    pub fn revisions(&self) -> watch::Receiver<i64> {
        self.shared.revision.clone()
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> i64 {
        self.shared.read().compacted()
    }

    /// The name of this start of the store.
    pub fn boot(&self) -> BootId {
        self.shared.boot
    }

    /// Every start and its first revision, this one last.
    pub fn lineage(&self) -> &Lineage {
        &self.shared.lineage
    }

    /// Sizes and counts for the metrics.
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        Stats {
            store: self.shared.read().sizes(),
            watchers: self.shared.watchers.load(Ordering::Relaxed),
            queued: self.queue.max_capacity() - self.queue.capacity(),
            requests: counters.requests.load(Ordering::Relaxed),
            syncs: counters.syncs.load(Ordering::Relaxed),
            sync_time: Duration::from_nanos(counters.sync_nanos.load(Ordering::Relaxed)),
        }
    }

    /// Ends the store after what is queued: then the directory is free, writes are refused, and watches have ended.
    pub async fn shut_down(&self) {
        let (answer, ended) = oneshot::channel();
        let request = Request { write: Write::End(answer), permits: None };
        // Both fail only when the writer has ended before us.
        if self.queue.send(request).await.is_ok() {
            ended.await.ok();
        }
    }

    async fn ask<T>(
        &self,
        bytes: usize,
        write: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Write,
    ) -> Result<T, Error> {
        if bytes > store::REQUEST_BYTES_MAX {
            return Err(Error::RequestTooLarge);
        }
        let permits =
            u32::try_from(bytes.div_ceil(QUEUE_PERMIT_BYTES)).expect("a request has 1.5 MiB at most");
        let permits =
            Arc::clone(&self.budget).try_acquire_many_owned(permits).map_err(|_| Error::TooManyRequests)?;
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Request { write: write(answer), permits: Some(permits) }).map_err(|error| {
            match error {
                mpsc::error::TrySendError::Full(_) => Error::TooManyRequests,
                mpsc::error::TrySendError::Closed(_) => Error::Stopped,
            }
        })?;
        answered.await.unwrap_or(Err(Error::Stopped))
    }
}

impl Shared {
    // A panic while the lock is held is a bug of the store's; the writer ends the process on its own panics, and a
    // reader's panic leaves the store as it was. So poison says nothing.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the backend and makes a store of its rows.
pub(super) fn open_store(dir: &DataDir) -> Result<(SledDisk, Store), BackendError> {
    let at = dir.store();
    let mut disk = SledDisk::open(&at)?;
    let loaded = disk.load()?;
    let damaged = |what: String| BackendError::Damaged { dir: at.clone(), what };
    let store = Store::restore(loaded.compacted, loaded.rows, loaded.leases, Instant::now())
        .map_err(|error| damaged(error.to_string()))?;
    let (ends_at, head) = (store.revision(), disk.head());
    if ends_at < head {
        return Err(damaged(format!("it ends at revision {ends_at}, and {head} was durable")));
    }
    Ok((disk, store))
}
