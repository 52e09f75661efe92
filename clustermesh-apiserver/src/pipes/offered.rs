//! The pipes that peers have offered, until somebody takes them.

use super::{IDLE_MAX, PIPES_PER_PEER_MAX, Pipe};
use api::name::ClusterName;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

/// A peer has as many pipes as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{PIPES_PER_PEER_MAX} pipes are there already")]
pub struct Full;

/// Of every peer.
#[derive(Debug, Default)]
pub(super) struct Offered {
    peers: Mutex<BTreeMap<ClusterName, OfPeer>>,
    came: Notify,
}

#[derive(Debug)]
struct OfPeer {
    /// The newest last: of a connection that has broken unseen there are only older ones.
    idle: Vec<Pipe>,
    places: Arc<Semaphore>,
}

impl Default for OfPeer {
    fn default() -> Self {
        Self { idle: Vec::new(), places: Arc::new(Semaphore::new(PIPES_PER_PEER_MAX)) }
    }
}

impl Offered {
    /// Takes a peer's pipe in. The oldest that waits makes room.
    pub(super) fn put(&self, peer: &ClusterName, pipe: Pipe) -> Result<(), Full> {
        {
            let mut peers = self.lock();
            let of_peer = peers.entry(peer.clone()).or_default();
            of_peer.idle.retain(|pipe| !pipe.is_dead());
            if of_peer.idle.len() >= IDLE_MAX {
                of_peer.idle.remove(0);
            }
            let place = Arc::clone(&of_peer.places).try_acquire_owned().map_err(|_| Full)?;
            of_peer.idle.push(pipe.holding(place));
        }
        self.came.notify_waiters();
        Ok(())
    }

    /// The newest pipe of a peer, waiting for one as long as this.
    pub(super) async fn take(&self, peer: &ClusterName, within: Duration) -> Option<Pipe> {
        let taking = async {
            loop {
                let came = self.came.notified();
                if let Some(pipe) = self.newest(peer) {
                    return pipe;
                }
                came.await;
            }
        };
        timeout(within, taking).await.ok()
    }

    fn newest(&self, peer: &ClusterName) -> Option<Pipe> {
        let mut peers = self.lock();
        let idle = &mut peers.get_mut(peer)?.idle;
        std::iter::from_fn(|| idle.pop()).find(|pipe| !pipe.is_dead())
    }

    /// Forgets those that are peers no longer, with their idle pipes.
    pub(super) fn keep(&self, is_peer: impl Fn(&ClusterName) -> bool) {
        self.lock().retain(|peer, _| is_peer(peer));
    }

    /// Pipes that wait.
    pub(super) fn idle(&self) -> usize {
        self.lock().values().map(|of_peer| of_peer.idle.iter().filter(|pipe| !pipe.is_dead()).count()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClusterName, OfPeer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
