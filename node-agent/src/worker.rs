//! The data path on a thread of its own, where it may block.

use datapath::host::{Datapath, OpenError, Options};
use std::thread;
use tokio::sync::{mpsc, oneshot};

type Work = Box<dyn FnOnce(&mut Datapath) + Send>;

/// Runs work on the data path, one piece after the other. When it is dropped the thread ends, and the data path goes on
/// in the kernel.
#[derive(Debug)]
pub struct Worker {
    /// One piece waits at most: whoever asks waits for the answer.
    work: mpsc::Sender<Work>,
}

impl Worker {
    /// Opens the data path on its thread.
    ///
    /// # Errors
    /// As [`Datapath::open`].
    pub fn start(options: Options) -> Result<Self, OpenError> {
        let (work, mut pieces) = mpsc::channel::<Work>(1);
        let (opened, answer) = std::sync::mpsc::sync_channel(1);
        thread::spawn(move || {
            let mut datapath = match Datapath::open(options) {
                Ok(datapath) => datapath,
                // The caller waits for this.
                Err(error) => return drop(opened.send(Err(error))),
            };
            drop(opened.send(Ok(())));
            while let Some(piece) = pieces.blocking_recv() {
                piece(&mut datapath);
            }
        });
        answer.recv().expect("the thread answers before it ends")?;
        Ok(Self { work })
    }

    /// Does one piece of work and waits for its result.
    pub async fn run<R: Send + 'static>(&self, piece: impl FnOnce(&mut Datapath) -> R + Send + 'static) -> R {
        let (done, result) = oneshot::channel();
        let piece: Work = Box::new(move |datapath| drop(done.send(piece(datapath))));
        // A panic in there is a bug of ours; the pins go on, and whoever keeps us starts us again.
        self.work.send(piece).await.expect("the data path's thread lives as long as we do");
        result.await.expect("the data path's thread does not panic")
    }
}
