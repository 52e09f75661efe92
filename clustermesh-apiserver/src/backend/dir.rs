//! The data directory: its lock, its lineage, and what happens to a store that cannot be read.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::lineage_file;
use daemon::durable;
use store::Lineage;
use tracing::error;

/// The most stores of a kind that are kept beside the one in use. A store is damaged once in a disk's life; ten in a row
/// are not repaired by an eleventh, and the disk must not fill.
const ASIDE_MAX: u32 = 10;

/// How long we wait for the one before us to let go: the kernel closes the files of a killed process after it has
/// reported its end, and a process that is just being forked holds its parent's for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// How often we look.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why the store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another process holds {path}; one apiserver serves a data directory at a time", path = path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {doing} {path}", path = path.display())]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The backend does not work.
    #[error("cannot open the store")]
    Backend(#[source] super::BackendError),
    /// Store after store was set aside: something else is broken.
    #[error("{ASIDE_MAX} stores that were set aside lie beside {path}; check the disk, then remove them", path = path.display())]
    TooManyAside {
        /// Where the store belongs.
        path: PathBuf,
    },
    /// A dump that cannot be restored.
    #[error("cannot restore {path}: {why}; remove it, or restore another (meshctl store restore)", path = path.display())]
    Dump {
        /// The dump.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Locks a file that somebody may be about to let go.
pub(super) fn lock_in_time(file: &File) -> Result<(), TryLockError> {
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => std::thread::sleep(LOCK_RETRY),
            locked => return locked,
        }
    }
}

/// The data directory, locked.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be and takes its lock.
    pub(super) fn lock(path: &Path) -> Result<Self, OpenError> {
        fs::create_dir_all(path).map_err(io_error("make", path))?;
        let at = path.join("lock");
        let lock = File::options().create(true).append(true).open(&at).map_err(io_error("open", &at))?;
        match lock_in_time(&lock) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: at }),
            Err(TryLockError::Error(source)) => Err(io_error("lock", &at)(source)),
        }
    }

    /// Where the backend's files are.
    pub(super) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Moves a damaged store out of the way.
    pub(super) fn set_aside(&self, damage: &super::BackendError) -> Result<(), OpenError> {
        let aside = self.rename_store("damaged")?;
        error!(
            damage = %damage,
            set_aside = %aside.display(),
            "The store could not be read and begins empty, as a new boot. It is rebuilt from its sources, and followers \
             list again. Check the disk (smartctl, dmesg) and remove the directory when nobody needs it"
        );
        Ok(())
    }

    /// Gives the store another name: `store.<why>-<n>`.
    fn rename_store(&self, why: &str) -> Result<PathBuf, OpenError> {
        let store = self.store();
        let free = |n: &u32| !self.path.join(format!("store.{why}-{n}")).exists();
        let n = (1..=ASIDE_MAX).find(free).ok_or_else(|| OpenError::TooManyAside { path: store.clone() })?;
        let aside = self.path.join(format!("store.{why}-{n}"));
        fs::rename(&store, &aside).map_err(io_error("set aside", &store))?;
        self.sync()?;
        Ok(aside)
    }

    /// Where a dump lies that the next start begins from.
    pub(super) fn dump(&self) -> PathBuf {
        self.path.join("restore.dump")
    }

    /// Where a store is made before it takes its place; what a crash left there is removed.
    pub(super) fn restoring(&self) -> Result<PathBuf, OpenError> {
        let path = self.path.join("store.restoring");
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            Ok(()) | Err(_) => Ok(path),
        }
    }

    /// Puts a store that was made in [`DataDir::restoring`] in its place and forgets the dump; where the one before went. A
    /// crash between two of these steps repeats all of them at the next start.
    pub(super) fn replace_store(&self) -> Result<Option<PathBuf>, OpenError> {
        let aside = if self.store().exists() { Some(self.rename_store("replaced")?) } else { None };
        let made = self.path.join("store.restoring");
        fs::rename(&made, self.store()).map_err(io_error("move into place", &made))?;
        self.sync()?;
        fs::remove_file(self.dump()).map_err(io_error("remove", &self.dump()))?;
        self.sync()?;
        Ok(aside)
    }

    /// The boots so far. A file that cannot be read is the same as none: followers list again, which is always right.
    pub(super) fn lineage(&self) -> Result<Lineage, OpenError> {
        let path = self.path.join("lineage");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lineage::default()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => String::from("not text"),
            Err(source) => return Err(io_error("read", &path)(source)),
        };
        match lineage_file::read(&text) {
            Some(lineage) => Ok(lineage),
            None => {
                error!(path = %path.display(), "The lineage is damaged and begins anew: every follower lists again");
                Ok(Lineage::default())
            }
        }
    }

    /// Replaces the lineage: the new one is on disk whole before the old one goes.
    pub(super) fn write_lineage(&self, lineage: &Lineage) -> Result<(), OpenError> {
        let path = self.path.join("lineage");
        durable::write(&path, lineage_file::write(lineage).as_bytes()).map_err(io_error("write", &path))
    }

    fn sync(&self) -> Result<(), OpenError> {
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(io_error("sync", &self.path))
    }
}

pub(super) fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { doing, path: path.to_owned(), source }
}
