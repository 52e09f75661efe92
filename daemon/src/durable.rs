//! Files that are there after a crash: written beside, synced, renamed, and the directory synced.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Replaces `path` by `bytes`: whoever reads it sees the old content or the new, and after the return a crash cannot
/// take it back.
///
/// # Errors
/// Whatever the file system says.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_as(path, bytes, 0o666)
}

/// As [`write()`], with a mode: what the process's mask leaves of it.
///
/// # Errors
/// Whatever the file system says.
pub fn write_as(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = write_beside(path, bytes, mode)?;
    fs::rename(&beside, path).inspect_err(|_| {
        // What the refusal is about is said already.
        let _ = fs::remove_file(&beside);
    })?;
    File::open(parent(path))?.sync_all()
}

/// As [`write_as`], where nothing is yet.
///
/// # Errors
/// `AlreadyExists` when something is there; it stays. Else whatever the file system says.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = write_beside(path, bytes, mode)?;
    // A link is refused when the name is taken, and a rename is not.
    let linked = fs::hard_link(&beside, path);
    fs::remove_file(&beside)?;
    linked?;
    File::open(parent(path))?.sync_all()
}

/// The content, on the disk, under a name that nobody reads.
fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // A leading dot keeps a half-written file out of every list of manifests.
    let beside = parent(path).join(format!(".{}.tmp", name.to_string_lossy()));
    // What a crash left has the mode of its own time.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(beside)
}

/// Removes `path`, for good; false when there was none.
///
/// # Errors
/// Whatever the file system says.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => {
            File::open(parent(path))?.sync_all()?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    }
}
