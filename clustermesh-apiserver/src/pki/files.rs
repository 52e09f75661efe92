//! Files that are there after a crash, with the mode they need from their first byte on.

use daemon::durable;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// What happens to a file that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and that is an error.
    Refuse,
    /// It is replaced at once: a reader sees the old content or the new.
    Replace,
}

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", .path.display())]
pub struct FileError {
    /// Where.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Writes a file so that a crash cannot take it back; makes its directory (mode 0700) when there is none.
///
/// # Errors
/// [`FileError`]; its source is `AlreadyExists` when the file is there and may not be replaced.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), FileError> {
    write(path, bytes, mode, existing).map_err(|source| FileError { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> io::Result<()> {
    let Some(dir) = path.parent() else { return Err(io::ErrorKind::InvalidInput.into()) };
    make_dir(dir)?;
    match existing {
        Existing::Replace => durable::write_as(path, bytes, mode),
        Existing::Refuse => durable::write_new(path, bytes, mode),
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dir(parent)?;
    }
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}
