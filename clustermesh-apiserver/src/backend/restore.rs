//! A dump becomes the store: `meshctl store restore` lays it into the data directory, the next start makes a store of it.
//!
//! The store that was there is kept beside it. The start is a new boot, so followers list again, and what the dump lacks
//! the source puts there.

use super::{
    Backend,
    dir::{DataDir, OpenError, io_error},
    sled_disk::SledDisk,
};
use bytes::Bytes;
use std::{fs, io, path::Path};
use store::Dump;
use tracing::info;

/// Restores what waits to be restored; false when nothing does.
///
/// # Errors
/// [`OpenError::Dump`] when it is damaged or of another cluster: going on without it is not what was asked for.
pub async fn restore(dir: &Path, origin: [u8; 16]) -> Result<bool, OpenError> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || restore_blocking(&dir, origin))
        .await
        .expect("restoring the store does not panic")
}

fn restore_blocking(dir: &Path, origin: [u8; 16]) -> Result<bool, OpenError> {
    let dir = DataDir::lock(dir)?;
    let path = dir.dump();
    let bytes = match fs::read(&path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let refused = |why: String| OpenError::Dump { path: path.clone(), why };
    let dump = Dump::read(&bytes).map_err(|error| refused(error.to_string()))?;
    if dump.origin != origin {
        return Err(refused("it was made of another cluster's store".to_owned()));
    }
    let mut disk = SledDisk::open(&dir.restoring()?).map_err(OpenError::Backend)?;
    dump.batches().try_for_each(|batch| disk.append(&batch)).map_err(OpenError::Backend)?;
    drop(disk);
    let aside = dir.replace_store()?;
    info!(
        revision = dump.revision,
        rows = dump.rows(),
        before = aside.map(|path| path.display().to_string()),
        "The store was restored from a dump"
    );
    Ok(true)
}
