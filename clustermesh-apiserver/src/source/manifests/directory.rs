//! Watching the manifests directory: read on every change, looked over every second, read whole from time to time.
//!
//! inotify says at once that something changed. It may drop events, and network file systems have none, so the files'
//! names, sizes and times are compared every second, too: that look is what makes the source *current*.

#[cfg(test)]
mod tests;

use super::{Content, FILE_MAX_BYTES, FILES_MAX};
use crate::source::snapshot::{Listing, Snapshot, news};
use notify::{RecursiveMode, Watcher};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Quiet time after a change before the directory is read: an editor writes a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Longest wait for quiet: a directory that never rests is read all the same.
const DEBOUNCE_MAX: Duration = Duration::from_millis(500);
/// Time between looks: the source's age stays well below the ten seconds after which a peer calls it stale.
const LOOK: Duration = Duration::from_secs(1);
/// Time between reading everything without a change: a file that changed within the clock's tick and kept its size.
const REREAD: Duration = Duration::from_secs(60);

/// Reads `directory` until cancelled. The receiver holds nothing before the first complete list.
#[must_use]
pub fn spawn(directory: PathBuf, cancel: CancellationToken) -> watch::Receiver<Option<Listing>> {
    let (listings, receiver) = watch::channel(None);
    tokio::spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = follow(directory, listings) => {}
        }
    });
    receiver
}

async fn follow(directory: PathBuf, listings: watch::Sender<Option<Listing>>) {
    let mut last: Option<(Look, Arc<Snapshot>, Instant)> = None;
    let mut watcher = None;
    let mut failing = false;
    // One slot: that something changed is all there is to say.
    let (changed, mut changes) = mpsc::channel::<()>(1);
    let mut reread = true;
    loop {
        // Subscribe, then list: what changes in between is seen as a change.
        if watcher.is_none() {
            watcher = subscribe(&directory, changed.clone());
        }
        let (path, before) = (directory.clone(), last.clone());
        // As of the moment before we look: whoever wrote earlier is in it.
        let read_at = Instant::now();
        let read = move || read(&path, before, reread);
        match tokio::task::spawn_blocking(read).await.expect("reading manifests does not panic") {
            Ok(now) => {
                if failing {
                    info!(directory = %directory.display(), "Manifests directory can be read again");
                    failing = false;
                }
                let snapshot = Arc::clone(&now.1);
                last = Some(now);
                listings.send_replace(Some(Listing { snapshot, read_at, includes: Some(read_at) }));
            }
            Err(error) => {
                if !failing {
                    warn!(directory = %directory.display(), %error, "Cannot read the manifests directory; what it last said stays in force");
                    failing = true;
                }
                watcher = None;
            }
        }
        reread = tokio::time::timeout(LOOK, changes.recv()).await.is_ok();
        if reread {
            settle(&mut changes).await;
        }
    }
}

/// Size, modification and inode of every file.
type Look = BTreeMap<PathBuf, Option<(u64, Option<SystemTime>, u64)>>;

/// Reads everything if it looks different, if it is time, or if it is asked for; else what was read before is current.
fn read(
    directory: &Path,
    before: Option<(Look, Arc<Snapshot>, Instant)>,
    reread: bool,
) -> io::Result<(Look, Arc<Snapshot>, Instant)> {
    let look = look(directory)?;
    let last = match before {
        Some((seen, snapshot, at)) if seen == look && !reread && at.elapsed() < REREAD => {
            return Ok((seen, snapshot, at));
        }
        Some((_, snapshot, _)) => snapshot,
        None => Arc::default(),
    };
    let snapshot = super::read(&files(directory)?, &last);
    report(&last, &snapshot);
    // The same snapshot keeps its place in memory: that is how others see that nothing changed.
    let snapshot = if *last == snapshot { last } else { Arc::new(snapshot) };
    Ok((look, snapshot, Instant::now()))
}

fn look(directory: &Path) -> io::Result<Look> {
    let meta = |path: PathBuf| {
        let meta = fs::metadata(&path).ok();
        (path, meta.map(|meta| (meta.len(), meta.modified().ok(), meta.ino())))
    };
    Ok(manifest_paths(directory)?.into_iter().map(meta).collect())
}

fn subscribe(directory: &Path, changed: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    // A full slot already says that something changed.
    let wake = move |event: notify::Result<notify::Event>| {
        // That files are opened is told, too, and we open them ourselves to read them.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _already_said = changed.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(wake).ok()?;
    watcher.watch(directory, RecursiveMode::Recursive).ok()?;
    Some(watcher)
}

async fn settle(changes: &mut mpsc::Receiver<()>) {
    let deadline = Instant::now() + DEBOUNCE_MAX;
    loop {
        let quiet = Instant::now() + DEBOUNCE;
        if tokio::time::timeout_at(quiet.min(deadline), changes.recv()).await.is_err() {
            return;
        }
    }
}

/// Logs what changed among the problems: a standing one is said once.
fn report(last: &Snapshot, now: &Snapshot) {
    for problem in news(&last.problems, &now.problems) {
        warn!("Manifest {problem}");
    }
    for problem in news(&now.problems, &last.problems) {
        info!(place = %problem.place, field = %problem.field, "Manifest problem is gone");
    }
}

/// The files of the directory and of its directories, by their names relative to it.
///
/// # Errors
/// When the directory itself cannot be listed; a file that cannot be read is one of the contents.
pub fn files(directory: &Path) -> io::Result<BTreeMap<String, Content>> {
    let mut files = BTreeMap::new();
    for path in manifest_paths(directory)? {
        let name = path.strip_prefix(directory).unwrap_or(&path).to_string_lossy().into_owned();
        let content = if files.len() < FILES_MAX {
            content(&path)
        } else {
            Some(Content::Unusable(format!("not read: there are more than {FILES_MAX} files")))
        };
        files.extend(content.map(|content| (name, content)));
    }
    Ok(files)
}

fn manifest_paths(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for path in visible(directory)? {
        if path.is_dir() {
            // A subdirectory that vanishes while we look is a change, and the next look sees it.
            paths.extend(visible(&path).unwrap_or_default().into_iter().filter(|path| !path.is_dir()));
        } else {
            paths.push(path);
        }
    }
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
    Ok(paths)
}

fn visible(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // Editors' and our own temporary files, and the `..data` of a mounted ConfigMap, begin with a dot.
        if path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// None for a file that vanished since it was listed.
fn content(path: &Path) -> Option<Content> {
    let unusable = |error: io::Error| Content::Unusable(format!("cannot be read: {error}"));
    match fs::metadata(path) {
        Ok(meta) if meta.len() > FILE_MAX_BYTES => {
            let bytes = meta.len();
            return Some(Content::Unusable(format!(
                "the file has {bytes} bytes and may have {FILE_MAX_BYTES}; split it"
            )));
        }
        Ok(meta) if !meta.is_file() => return Some(Content::Unusable("not a regular file".to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(unusable(error)),
    }
    match fs::read(path) {
        Ok(bytes) => Some(match String::from_utf8(bytes) {
            Ok(text) => Content::Text(text),
            Err(_) => Content::Unusable("not YAML: the file is not UTF-8 text".to_owned()),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(unusable(error)),
    }
}
