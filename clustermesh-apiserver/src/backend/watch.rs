//! A watch as a stream that is pulled: it holds a place in the history, and nothing of it waits in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use store::{Event, Polled, WatchRequest, Watcher};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::engine::Shared;

/// How long a watch with `progress_notify` is silent before it says how far it is: etcd's default.
const PROGRESS_EVERY: Duration = Duration::from_secs(600);

/// What a watch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchResponse {
    /// Changes: whole revisions, in order.
    Events {
        /// The store's revision when they were read: the header's revision.
        revision: i64,
        /// What changed; more than fits in a message when one revision did (the face cuts it into fragments).
        events: Vec<Event>,
    },
    /// Everything up to this revision was delivered.
    Progress {
        /// The store's revision.
        revision: i64,
    },
    /// What comes next was compacted. The watch has ended: list, and watch from there.
    Canceled {
        /// The oldest revision that can be watched.
        compact_revision: i64,
    },
}

/// A running watch; it ends when it is dropped.
#[derive(Debug)]
pub struct WatchStream {
    shared: Arc<Shared>,
    watcher: Watcher,
    revision: watch::Receiver<i64>,
    progress_at: Option<Instant>,
    ended: bool,
}

impl WatchStream {
    pub(super) fn new(
        shared: Arc<Shared>,
        mut revision: watch::Receiver<i64>,
        request: &WatchRequest,
    ) -> Self {
        revision.mark_changed();
        let watcher = shared.read().watch(request);
        let progress_at = request.progress_notify.then(|| Instant::now() + PROGRESS_EVERY);
        Self { shared, watcher, revision, progress_at, ended: false }
    }

    /// What happens next; `None` after [`WatchResponse::Canceled`] or the end of the store. May be dropped while it
    /// waits: nothing is lost.
    pub async fn next(&mut self) -> Option<WatchResponse> {
        while !self.ended {
            // Seen before the poll: what is committed after the poll wakes us.
            self.revision.borrow_and_update();
            let (polled, revision) = {
                let store = self.shared.read();
                (store.poll(&mut self.watcher), store.revision())
            };
            match polled {
                Polled::Events(events) => {
                    self.put_off_progress();
                    return Some(WatchResponse::Events { revision, events });
                }
                Polled::Behind => tokio::task::yield_now().await,
                Polled::Compacted { compact_revision } => {
                    self.ended = true;
                    return Some(WatchResponse::Canceled { compact_revision });
                }
                Polled::Synced => {
                    let Some(progress) = self.wait().await else { continue };
                    return Some(progress);
                }
            }
        }
        None
    }

    /// The revision up to which everything was delivered: what a progress request is answered by.
    pub fn delivered(&self) -> i64 {
        self.watcher.delivered().min(self.shared.read().revision())
    }

    /// Waits for the store to move, for the time to speak, or for the end.
    async fn wait(&mut self) -> Option<WatchResponse> {
        let progress_at = self.progress_at;
        let silence = async {
            match progress_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            moved = self.revision.changed() => {
                self.ended = moved.is_err();
                None
            }
            () = silence => {
                self.put_off_progress();
                Some(WatchResponse::Progress { revision: self.delivered() })
            }
        }
    }

    fn put_off_progress(&mut self) {
        self.progress_at = self.progress_at.map(|_| Instant::now() + PROGRESS_EVERY);
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.shared.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}
