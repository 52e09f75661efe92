//! The embedded backend: sled, and the sync that sled does not do in time.

use std::fs::File;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use store::{Batch, RowId};

use super::chunks::{self, COMPACTED_KEY, Join, LEASES, ROWS};
use super::dir::lock_in_time;
use super::head::Head;
use super::{Backend, BackendError, Loaded};

/// What sled may keep of its pages: the store itself is in our memory, and sled reads once, at the start.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// The most pieces a row can have, for its removal: nothing tells how long a row was once it is forgotten, and a
/// delete of a key that is not there costs nothing on disk.
const PARTS_MAX: usize = (store::RECORD_BYTES_MAX + 1024).div_ceil(chunks::CHUNK_BYTES);

/// sled in a directory.
#[derive(Debug)]
pub(super) struct SledDisk {
    dir: PathBuf,
    tree: sled::Db,
    /// Our own descriptor of sled's one data file. The kernel tells a write error to every descriptor that was open
    /// when it happened, so this one hears of it whatever sled did with its own.
    data: File,
    head: Head,
}

impl SledDisk {
    /// Opens or makes the store in `dir`, and syncs what it found: a reader must not see what only the page cache has.
    pub(super) fn open(dir: &Path) -> Result<Self, BackendError> {
        let io = |doing| move |source| BackendError::Io { doing, dir: dir.to_owned(), source };
        wait_until_free(&dir.join("db")).map_err(io("lock"))?;
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            // No flusher thread: it would sync at its own time, and we sync at ours.
            .flush_every_ms(None);
        let tree = guarded(dir, "open", || config.open())?;
        let data = File::open(dir.join("db")).map_err(io("open"))?;
        data.sync_data().map_err(io("sync"))?;
        // sled does not sync its settings or the directory that names its files.
        File::open(dir.join("conf")).and_then(|file| file.sync_all()).map_err(io("sync"))?;
        File::open(dir).and_then(|file| file.sync_all()).map_err(io("sync"))?;
        let head = Head::open(dir).map_err(io("open"))?;
        Ok(Self { dir: dir.to_owned(), tree, data, head })
    }

    /// A revision that was durable here; 0 when nothing is known.
    pub(super) fn head(&self) -> i64 {
        self.head.read()
    }

    fn read(&self) -> sled::Result<Result<Loaded, String>> {
        let mut loaded = Loaded::default();
        if let Some(bytes) = self.tree.get(COMPACTED_KEY)? {
            match bytes.as_ref().try_into() {
                Ok(bytes) => loaded.compacted = i64::from_be_bytes(bytes),
                Err(_) => return Ok(Err(format!("the compacted revision has {} bytes", bytes.len()))),
            }
        }
        let mut join = Join::default();
        for entry in self.tree.scan_prefix(ROWS) {
            let (key, piece) = entry?;
            match join.push(&key, &piece) {
                Ok(None) => {}
                Ok(Some(row)) => loaded.rows.push(row),
                Err(what) => return Ok(Err(what)),
            }
        }
        for entry in self.tree.scan_prefix(LEASES) {
            let (key, lease) = entry?;
            match chunks::parse_lease(&key) {
                Some(id) => loaded.leases.push((id, Bytes::copy_from_slice(&lease))),
                None => return Ok(Err(format!("a key of {} bytes is no lease's", key.len()))),
            }
        }
        Ok(join.end().map(|()| loaded))
    }

    /// Hands a batch to sled, which keeps it in its buffers.
    pub(super) fn apply(&self, batch: &Batch) -> sled::Result<()> {
        let mut writes = sled::Batch::default();
        for (id, row) in &batch.puts {
            for (key, piece) in chunks::split(*id, row) {
                writes.insert(&key, piece);
            }
        }
        for id in &batch.deletes {
            for key in self.parts(*id)? {
                writes.remove(&key[..]);
            }
        }
        if let Some(compacted) = batch.compacted {
            writes.insert(COMPACTED_KEY, &compacted.to_be_bytes());
        }
        for (id, lease) in &batch.leases {
            match lease {
                Some(lease) => writes.insert(&chunks::lease_key(*id), &lease[..]),
                None => writes.remove(&chunks::lease_key(*id)),
            }
        }
        self.tree.apply_batch(writes)
    }

    /// Has sled write its buffers to the file: past the process, not yet past the kernel.
    pub(super) fn flush(&self) -> sled::Result<()> {
        self.tree.flush().map(drop)
    }

    /// The keys a row has; almost always one.
    fn parts(&self, id: RowId) -> sled::Result<Vec<sled::IVec>> {
        self.tree.range(chunks::key(id, 0)..=chunks::key(id, u16::MAX)).keys().take(PARTS_MAX).collect()
    }
}

impl Backend for SledDisk {
    fn load(&mut self) -> Result<Loaded, BackendError> {
        guarded(&self.dir, "read", || self.read())?
            .map_err(|what| BackendError::Damaged { dir: self.dir.clone(), what })
    }

    fn append(&mut self, batch: &Batch) -> Result<(), BackendError> {
        guarded(&self.dir, "write", || self.apply(batch).and_then(|()| self.flush()))?;
        // sled's flush ends with sync_file_range, which neither commits the file's size nor empties the disk's cache.
        // Every write of sled is to this one file, as long as there are no blobs (see `chunks`).
        let dir = &self.dir;
        let io = |doing| move |source| BackendError::Io { doing, dir: dir.clone(), source };
        self.data.sync_data().map_err(io("sync"))?;
        self.head.note(batch.revision()).map_err(io("write"))
    }
}

/// Waits for the threads of a sled that was closed in this process: they hold its file a moment longer than it does, and
/// sled does not wait for its lock. Nobody else can have it, the directory is ours.
fn wait_until_free(data: &Path) -> std::io::Result<()> {
    let file = match File::open(data) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    lock_in_time(&file)?;
    file.unlock()
}

/// Calls sled, which panics on some of the damage it meets.
fn guarded<T>(
    dir: &Path,
    doing: &'static str,
    call: impl FnOnce() -> sled::Result<T>,
) -> Result<T, BackendError> {
    let damaged = |what: String| BackendError::Damaged { dir: dir.to_owned(), what };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(source))) => match source.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData => Err(damaged(source.to_string())),
            _ => Err(BackendError::Io { doing, dir: dir.to_owned(), source }),
        },
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text =
                text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without text");
            Err(damaged(text.to_owned()))
        }
    }
}
