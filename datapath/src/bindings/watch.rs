//! Wakes who reads the bindings when the directory changes.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::{Path, PathBuf},
};

/// Readable when a file of the directory was written or removed.
///
/// A node that has no pod yet has no directory: then its nearest existing parent is watched, and the watch moves down
/// when the directory appears.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    dir: PathBuf,
    watched: PathBuf,
}

impl Watch {
    /// Watches a directory.
    ///
    /// # Errors
    /// When the kernel has no watches left (`fs.inotify.max_user_watches`).
    pub fn on(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut watch = Self { inotify, dir: dir.to_owned(), watched: PathBuf::new() };
        watch.follow()?;
        Ok(watch)
    }

    /// Takes what has happened. True: read the bindings again. Does not wait.
    ///
    /// # Errors
    /// When the watch cannot be moved to a directory that appeared.
    pub fn changed(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => changed |= !events.is_empty(),
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if changed {
            self.follow()?;
        }
        Ok(changed)
    }

    /// As near to the directory as there is something to watch.
    fn follow(&mut self) -> io::Result<()> {
        loop {
            let nearest =
                self.dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned();
            let flags = AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_MOVED_FROM
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_ONLYDIR;
            match self.inotify.add_watch(&nearest, flags) {
                // Gone between the look and the watch.
                Err(nix::errno::Errno::ENOENT) => continue,
                result => drop(result?),
            }
            // What appeared below before the watch stood is not reported: look again until nothing has.
            if nearest == self.watched || nearest == self.dir {
                self.watched = nearest;
                return Ok(());
            }
            self.watched = nearest;
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
