//! A file system in memory that knows what was synced.
//!
//! Its rules are those of a journal as ext4's: a sync of any file or directory makes all names durable as they are then, and
//! the content of that file. What a file holds beyond that is kept or lost by pages, each for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use sim::chance::Chance;

/// What a disk writes whole.
const PAGE: usize = 4096;

/// The kernel asks us each time: nothing is remembered of what we said.
const TTL: Duration = Duration::ZERO;

type Names = BTreeMap<OsString, u64>;

/// The disk; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, File>,
    /// By the number of their directory.
    dirs: BTreeMap<u64, Names>,
    durable_dirs: BTreeMap<u64, Names>,
    last: u64,
}

#[derive(Debug, Default)]
struct File {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Pages that differ.
    dirty: BTreeSet<usize>,
}

impl File {
    fn resize(&mut self, len: usize) {
        let from = len.min(self.now.len());
        self.now.resize(len, 0);
        self.dirty.extend(from / PAGE..=len.max(from) / PAGE);
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        let end = at + data.len();
        if end > self.now.len() {
            self.now.resize(end, 0);
        }
        self.now[at..end].copy_from_slice(data);
        self.dirty.extend(at / PAGE..=end.saturating_sub(1) / PAGE);
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            let (from, to) = (page * PAGE, self.now.len().min((page + 1) * PAGE));
            if from < to {
                self.durable[from..to].copy_from_slice(&self.now[from..to]);
            }
        }
    }

    /// What the disk has after the power went.
    fn cut(&self, chance: &mut Chance) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        if chance.one_in(2) {
            bytes.resize(self.now.len(), 0);
        }
        for page in self.dirty.iter().filter(|_| chance.one_in(2)) {
            let (from, to) = (page * PAGE, bytes.len().min(self.now.len()).min((page + 1) * PAGE));
            if from < to {
                bytes[from..to].copy_from_slice(&self.now[from..to]);
            }
        }
        bytes
    }
}

impl Disk {
    /// With the files of a directory on it, all durable.
    pub(super) fn holding(dir: &Path) -> Self {
        let mut state = State { last: INodeNo::ROOT.0, ..State::default() };
        state.load(INodeNo::ROOT.0, dir);
        state.durable_dirs = state.dirs.clone();
        Self(Arc::new(Mutex::new(state)))
    }

    /// Serves it, until what it gives is dropped.
    pub(super) fn mount(&self, at: &Path) -> BackgroundSession {
        fuser::spawn_mount(self.clone(), at, &Config::default())
            .expect("mounted: /dev/fuse and root are needed")
    }

    /// Writes what the disk has when the power goes now into a directory.
    pub(super) fn cut(&self, chance: &mut Chance, to: &Path) {
        let state = self.state();
        state.write(INodeNo::ROOT.0, chance, to).expect("a directory for what is left");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn load(&mut self, number: u64, dir: &Path) {
        self.dirs.insert(number, Names::new());
        for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry")) {
            let child = self.name(number, &entry.file_name());
            if entry.file_type().expect("a type").is_dir() {
                self.load(child, &entry.path());
            } else {
                let bytes = fs::read(entry.path()).expect("a file");
                let file = File { now: bytes.clone(), durable: bytes, dirty: BTreeSet::new() };
                self.files.insert(child, file);
            }
        }
    }

    fn write(&self, number: u64, chance: &mut Chance, to: &Path) -> io::Result<()> {
        for (name, child) in &self.durable_dirs[&number] {
            match self.files.get(child) {
                Some(file) => fs::write(to.join(name), file.cut(chance))?,
                None => {
                    fs::create_dir(to.join(name))?;
                    self.write(*child, chance, &to.join(name))?;
                }
            }
        }
        Ok(())
    }

    /// A new number under a name.
    fn name(&mut self, parent: u64, name: &OsStr) -> u64 {
        self.last += 1;
        self.dirs.entry(parent).or_default().insert(name.to_owned(), self.last);
        self.last
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        self.dirs.get(&parent.0).and_then(|names| names.get(name)).copied().ok_or(Errno::ENOENT)
    }

    fn file(&mut self, number: INodeNo) -> Result<&mut File, Errno> {
        self.files.get_mut(&number.0).ok_or(Errno::EISDIR)
    }

    fn attr(&self, number: u64) -> Result<FileAttr, Errno> {
        let (kind, perm, size) = match (self.files.get(&number), self.dirs.contains_key(&number)) {
            (Some(file), _) => (FileType::RegularFile, 0o600, file.now.len() as u64),
            (None, true) => (FileType::Directory, 0o700, 0),
            (None, false) => return Err(Errno::ENOENT),
        };
        let then = UNIX_EPOCH;
        let (ino, blocks, blksize) = (INodeNo(number), size.div_ceil(512), 4096);
        let (uid, gid, rdev, flags, nlink) = (0, 0, 0, 0, 1);
        let (atime, mtime, ctime, crtime) = (then, then, then, then);
        Ok(FileAttr {
            ino,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            crtime,
            kind,
            perm,
            nlink,
            uid,
            gid,
            rdev,
            blksize,
            flags,
        })
    }
}

fn answer(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn answer_entry(reply: ReplyEntry, found: Result<FileAttr, Errno>) {
    match found {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        answer_entry(reply, state.find(parent, name).and_then(|number| state.attr(number)));
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attr(number.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        if let (Some(size), Ok(file)) = (size, state.file(number)) {
            file.resize(size as usize);
        }
        match state.attr(number.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let mut state = self.state();
        let number = state.name(parent.0, name);
        state.dirs.insert(number, Names::new());
        answer_entry(reply, state.attr(number));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        let found = state.find(parent, name);
        state.dirs.entry(parent.0).or_default().remove(name);
        answer(reply, found.map(drop));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let renamed = state.find(parent, name).map(|number| {
            state.dirs.entry(parent.0).or_default().remove(name);
            state.dirs.entry(new_parent.0).or_default().insert(new_name.to_owned(), number);
        });
        answer(reply, renamed);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut state = self.state();
        let number = state.name(parent.0, name);
        state.files.insert(number, File::default());
        match state.attr(number) {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.state().file(number) {
            Ok(file) => {
                let from = file.now.len().min(offset as usize);
                let to = file.now.len().min(from + size as usize);
                reply.data(&file.now[from..to]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.state().file(number) {
            Ok(file) => {
                file.write(offset as usize, data);
                reply.written(u32::try_from(data.len()).expect("a write of the kernel's is small"));
            }
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        state.durable_dirs = state.dirs.clone();
        answer(reply, state.file(number).map(File::sync));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        state.durable_dirs = state.dirs.clone();
        reply.ok();
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.state();
        let Some(names) = state.dirs.get(&number.0) else { return reply.error(Errno::ENOTDIR) };
        for (at, (name, child)) in names.iter().enumerate().skip(offset as usize) {
            let kind =
                if state.files.contains_key(child) { FileType::RegularFile } else { FileType::Directory };
            if reply.add(INodeNo(*child), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
