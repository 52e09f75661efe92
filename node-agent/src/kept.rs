//! The last complete view on this node's disk: after a reboot without any apiserver the maps are programmed from it.
//!
//! [`Schedule`] decides when, [`KeptFile`] reads and replaces the file, [`run`] writes on a thread where it may block. A
//! disk that is full or broken costs nothing but this: the agent goes on, says so, and tries again.

use api::bytes::BootId;
use replica::{
    kept::{self, KEPT_MAX_BYTES, Kept, Owner},
    view::View,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

/// A view that changes is kept this often at most: the largest (256 MiB) is then 9 MB/s of disk, an ordinary one nothing.
pub const KEEP_EVERY: Duration = Duration::from_secs(30);
/// A view that does not change is written again this often, so that the file's time says when it was last live.
pub const CONFIRM_EVERY: Duration = Duration::from_secs(600);

/// When to keep. Pure.
#[derive(Debug, Default)]
pub struct Schedule {
    last: Option<Attempt>,
}

#[derive(Debug, PartialEq, Eq)]
struct Attempt {
    at: Instant,
    content: Content,
    /// Writes that had failed before.
    failures: u64,
}

/// What tells one content of the view from another, without looking at every record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    boot: Option<BootId>,
    revision: u64,
    records: usize,
}

impl Content {
    /// Of the view now. The heartbeats, which change every two seconds, are not part of it.
    #[must_use]
    pub fn of(view: &View) -> Self {
        let tables = view.tables();
        Self { boot: view.boot(), revision: tables.revision(), records: tables.keys().count() }
    }
}

impl Schedule {
    /// Whether to keep a view with this content now, when so many writes have failed; asked again, the answer is no.
    pub fn poll(&mut self, now: Instant, content: Content, failures: u64) -> bool {
        let wait = if self.is_behind(content, failures) { KEEP_EVERY } else { CONFIRM_EVERY };
        let due = self.last.as_ref().is_none_or(|last| now.saturating_duration_since(last.at) >= wait);
        if due {
            self.last = Some(Attempt { at: now, content, failures });
        }
        due
    }

    /// Whether the disk lacks something of this content.
    pub fn is_behind(&self, content: Content, failures: u64) -> bool {
        self.last.as_ref().is_none_or(|last| last.content != content || last.failures != failures)
    }
}

/// The file.
#[derive(Debug, Clone)]
pub struct KeptFile {
    path: PathBuf,
    owner: Owner,
}

/// What lay on the disk.
#[derive(Debug)]
pub enum Found {
    /// No file: the first start, or one after a file was set aside.
    Nothing,
    /// Ours, and whole.
    View(Box<Kept>),
    /// It is of no use, and was set aside; why, in a sentence.
    Refused(String),
}

impl KeptFile {
    /// `last-view` in the state directory.
    #[must_use]
    pub fn in_dir(state_dir: &Path, owner: Owner) -> Self {
        Self { path: state_dir.join("last-view"), owner }
    }

    /// What was kept. A file that is damaged or somebody else's is renamed to `last-view.refused`, so that it can be
    /// looked at and is not tried again.
    #[must_use]
    pub fn read(&self) -> Found {
        let shown = self.path.display();
        let why = match read_bounded(&self.path) {
            Ok(bytes) => match kept::decode(&bytes, &self.owner) {
                Ok(kept) => return Found::View(Box::new(kept)),
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
            Err(error) => format!("it cannot be read: {error}"),
        };
        let aside = self.path.with_extension("refused");
        let what = match fs::rename(&self.path, &aside) {
            Ok(()) => format!("set aside as {}", aside.display()),
            Err(error) => format!("and it cannot be set aside: {error}"),
        };
        Found::Refused(format!("the view kept in {shown} is not used, {why}; {what}"))
    }

    /// Replaces what was kept, whole or not at all, and on the disk when this returns.
    ///
    /// # Errors
    /// The system's answer; what was kept before is still there.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.path.with_extension("part");
        let written = self.replace_by(&fresh, bytes);
        if written.is_err() {
            // Half a file would only take room from whoever needs it more; if it stays, the next write removes it.
            fs::remove_file(&fresh).ok();
        }
        written
    }

    fn replace_by(&self, fresh: &Path, bytes: &[u8]) -> io::Result<()> {
        // What a crash left; made anew, so that the mode is ours and no link is followed.
        match fs::remove_file(fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(fresh, &self.path)?;
        File::open(self.path.parent().ok_or(io::ErrorKind::InvalidInput)?)?.sync_all()
    }
}

/// Never more than a view can be.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = KEPT_MAX_BYTES as u64;
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// A view to be written.
#[derive(Debug)]
pub struct Snapshot {
    /// See [`kept::encode`]; what is wrong is said, not written.
    pub bytes: Result<Vec<u8>, kept::TooLarge>,
    /// When it was live, in milliseconds of Unix time.
    pub at_ms: u64,
}

/// How the last writes went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// When the view on the disk was live, if this process wrote it.
    pub at_ms: Option<u64>,
    /// Its size.
    pub bytes: usize,
    /// Writes that failed since the start.
    pub failures: u64,
    /// What is wrong now, a sentence.
    pub problem: Option<String>,
}

/// Writes each snapshot. Ends when there can be no more of them, after the last one is written.
pub async fn run(file: KeptFile, mut snapshots: mpsc::Receiver<Snapshot>, outcomes: watch::Sender<Outcome>) {
    while let Some(Snapshot { bytes, at_ms }) = snapshots.recv().await {
        let size = bytes.as_ref().map_or(0, Vec::len);
        let to = file.clone();
        let write = move || bytes.map_err(io::Error::other).and_then(|bytes| to.write(&bytes));
        let written = tokio::task::spawn_blocking(write).await.expect("writing a file does not panic");
        match written {
            Ok(()) => {
                debug!(bytes = size, "Kept the view");
                outcomes
                    .send_modify(|o| *o = Outcome { at_ms: Some(at_ms), bytes: size, problem: None, ..*o });
            }
            Err(error) => {
                let problem = format!(
                    "cannot keep the view in {}: {error}; a reboot without an apiserver would begin with an older one",
                    file.path.display()
                );
                if outcomes.borrow().problem.is_none() {
                    warn!(problem, again_in = ?KEEP_EVERY, "The disk does not take what a cold start needs");
                }
                outcomes.send_modify(|o| {
                    o.failures += 1;
                    o.problem = Some(problem);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
