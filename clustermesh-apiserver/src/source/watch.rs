//! Watching the manifests directory: a list on every change, and one from time to time in case a change went unseen.

use super::manifests::{self, Content, FILE_MAX_BYTES, FILES_MAX, Snapshot};
use notify::{RecursiveMode, Watcher};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
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
/// Time between lists without a change: inotify drops events when its queue is full, and network file systems have none.
const RELIST: Duration = Duration::from_secs(10);
/// Time between attempts at a directory that cannot be read.
const RETRY: Duration = Duration::from_secs(1);

/// What the directory said when it was last read.
#[derive(Debug, Clone)]
pub struct Listing {
    /// All its objects, and its problems.
    pub snapshot: Arc<Snapshot>,
    /// When it was last read whole: a directory that is gone makes the source older, not emptier.
    pub read_at: Instant,
}

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
    let mut last = Arc::new(Snapshot::default());
    let mut watcher = None;
    let mut failing = false;
    // One slot: that something changed is all there is to say.
    let (changed, mut changes) = mpsc::channel::<()>(1);
    loop {
        // Subscribe, then list: what changes in between is seen as a change.
        if watcher.is_none() {
            watcher = subscribe(&directory, changed.clone());
        }
        let (path, previous) = (directory.clone(), Arc::clone(&last));
        let list = move || Ok::<_, io::Error>(manifests::read(&files(&path)?, &previous));
        match tokio::task::spawn_blocking(list).await.expect("reading manifests does not panic") {
            Ok(snapshot) => {
                if failing {
                    info!(directory = %directory.display(), "Manifests directory can be read again");
                    failing = false;
                }
                report(&last, &snapshot);
                if *last != snapshot {
                    last = Arc::new(snapshot);
                }
                listings.send_replace(Some(Listing { snapshot: Arc::clone(&last), read_at: Instant::now() }));
            }
            Err(error) => {
                if !failing {
                    warn!(directory = %directory.display(), %error, "Cannot read the manifests directory; what it last said stays in force");
                    failing = true;
                }
                watcher = None;
            }
        }
        let pause = if failing { RETRY } else { RELIST };
        if tokio::time::timeout(pause, changes.recv()).await.is_ok() {
            settle(&mut changes).await;
        }
    }
}

fn subscribe(directory: &Path, changed: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    // A full slot already says that something changed.
    let wake = move |_event: notify::Result<notify::Event>| {
        let _already_said = changed.try_send(());
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
    for problem in now.problems.iter().filter(|p| !last.problems.contains(p)) {
        warn!("Manifest {problem}");
    }
    for problem in last.problems.iter().filter(|p| !now.problems.contains(p)) {
        info!(file = %problem.file, field = %problem.field, "Manifest problem is gone");
    }
}

/// The files of the directory and of its directories, by their names relative to it.
///
/// # Errors
/// When the directory itself cannot be listed; a file that cannot be read is one of the contents.
pub fn files(directory: &Path) -> io::Result<BTreeMap<String, Content>> {
    let mut files = BTreeMap::new();
    for path in visible(directory)? {
        if path.is_dir() {
            // A subdirectory that vanishes while we read is a change, and the next list sees it.
            for path in visible(&path).unwrap_or_default().into_iter().filter(|path| !path.is_dir()) {
                take(directory, &path, &mut files);
            }
        } else {
            take(directory, &path, &mut files);
        }
    }
    Ok(files)
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

fn take(directory: &Path, path: &Path, files: &mut BTreeMap<String, Content>) {
    let manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    if !manifest {
        return;
    }
    let name = path.strip_prefix(directory).unwrap_or(path).to_string_lossy().into_owned();
    let content = if files.len() < FILES_MAX {
        content(path)
    } else {
        Some(Content::Unusable(format!("not read: there are more than {FILES_MAX} files")))
    };
    if let Some(content) = content {
        files.insert(name, content);
    }
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
