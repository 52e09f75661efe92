//! Passing bytes on between two peers that cannot reach each other: who may, how many, how fast.

use super::{CHUNK_BYTES_MAX, Pipe, Reach, Route, Routes};
use api::name::ClusterName;
use replica::{Now, rate::Bucket};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info};

/// Pipes that one peer may have opened through us at once: a follower's to every other peer that it may reach, and what
/// each replaces.
pub const RELAYED_PER_PEER_MAX: usize = 16;
/// KiB a second that one peer's pipes carry together, in both directions: a list of 10,000 records takes two seconds,
/// and a peer that sends for ever takes a hundredth of a gigabit.
pub const RELAYED_KIB_PER_S: u32 = 1_024;
/// A connection between apiservers has a ping every five seconds; one that says nothing for so long has no ends.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// Why nothing is passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRelayed {
    /// The contracts do not say so. Which of them, and whether there is such a peer, is not for everybody to know.
    #[error(
        "it passes nothing on between {from} and {to}: its MeshPeers of both have to name the other in \
         spec.contract.relay"
    )]
    NotAgreed {
        /// Who wants to reach somebody.
        from: ClusterName,
        /// Whom.
        to: ClusterName,
    },
    /// As many pipes as there may be.
    #[error("{RELAYED_PER_PEER_MAX} pipes of {0} are there already")]
    Full(ClusterName),
    /// There is no way from us to the other peer now.
    #[error("{0}")]
    Away(String),
}

/// The way to `to`, when the contracts let `from` reach it.
///
/// # Errors
/// [`NotRelayed::NotAgreed`].
pub fn agreed<'a>(routes: &'a Routes, from: &ClusterName, to: &ClusterName) -> Result<&'a Route, NotRelayed> {
    let names = |a: &ClusterName, b: &ClusterName| routes.get(a).filter(|route| route.relay.contains(b));
    match (names(from, to), names(to, from)) {
        // Once is enough: a third cluster in between would be one that nobody sees.
        (Some(_), Some(route)) if from != to && route.through.is_none() => Ok(route),
        _ => Err(NotRelayed::NotAgreed { from: from.clone(), to: to.clone() }),
    }
}

/// What each peer has passed on by us.
#[derive(Debug)]
pub struct Relays {
    openers: Mutex<BTreeMap<ClusterName, Arc<Opener>>>,
    started: Instant,
    bytes: AtomicU64,
}

/// Of one peer.
#[derive(Debug)]
pub(super) struct Opener {
    places: Arc<Semaphore>,
    allowance: Mutex<Bucket>,
}

impl Default for Relays {
    fn default() -> Self {
        Self { openers: Mutex::default(), started: Instant::now(), bytes: AtomicU64::new(0) }
    }
}

impl Relays {
    /// Bytes passed on since the start, in both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Pipes through us that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.lock().values().map(|opener| RELAYED_PER_PEER_MAX - opener.places.available_permits()).sum()
    }

    pub(super) fn keep(&self, is_peer: impl Fn(&ClusterName) -> bool) {
        self.lock().retain(|peer, _| is_peer(peer));
    }

    /// What is carried for this one.
    pub(super) fn carry<'a>(&'a self, opener: &'a Opener) -> Carry<'a> {
        Carry { relays: self, opener }
    }

    fn now(&self) -> Now {
        Now::at(self.started.elapsed())
    }

    pub(super) fn opener(&self, from: &ClusterName) -> Arc<Opener> {
        let mut openers = self.lock();
        let new = || {
            let allowance = Mutex::new(Bucket::new(RELAYED_KIB_PER_S, self.now()));
            Arc::new(Opener { places: Arc::new(Semaphore::new(RELAYED_PER_PEER_MAX)), allowance })
        };
        Arc::clone(openers.entry(from.clone()).or_insert_with(new))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClusterName, Arc<Opener>>> {
        self.openers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A way to a peer that was opened for another.
#[derive(Debug)]
pub struct Relay {
    reach: Reach,
    from: ClusterName,
    to: ClusterName,
    wire: daemon::tls::Wire,
    opener: Arc<Opener>,
    _place: OwnedSemaphorePermit,
}

impl Relay {
    /// Opens the way from one peer to another, when the contracts with both say so.
    ///
    /// # Errors
    /// [`NotRelayed`].
    pub async fn open(reach: &Reach, from: &ClusterName, to: &ClusterName) -> Result<Self, NotRelayed> {
        let route = agreed(&reach.routes().borrow(), from, to)?.clone();
        let opener = reach.relays().opener(from);
        let place = Arc::clone(&opener.places).try_acquire_owned();
        let place = place.map_err(|_| NotRelayed::Full(from.clone()))?;
        let wire = reach.wire(to, &route).await.map_err(NotRelayed::Away)?;
        Ok(Self { reach: reach.clone(), from: from.clone(), to: to.clone(), wire, opener, _place: place })
    }

    /// Passes bytes on between the pipe and the peer, until one of them ends, or the contracts allow it no longer.
    pub async fn splice(self, pipe: Pipe) {
        let Self { reach, from, to, wire, opener, _place } = self;
        info!(%from, %to, "Passing bytes on");
        let ((here, there), (peer, back)) = (split(pipe), split(wire));
        let carry = reach.relays().carry(&opener);
        let mut routes = reach.routes();
        let why = tokio::select! {
            ended = async { tokio::try_join!(carry.on(here, back), carry.on(peer, there)) } => match ended {
                Ok(((), ())) => "both have ended".to_owned(),
                Err(error) => error.to_string(),
            },
            _ = routes.wait_for(|routes| agreed(routes, &from, &to).is_err()) => {
                "the contracts allow it no longer".to_owned()
            }
        };
        info!(%from, %to, why, "Passing nothing on any more");
    }
}

/// Bytes on their way for one peer.
pub(super) struct Carry<'a> {
    relays: &'a Relays,
    opener: &'a Opener,
}

impl Carry<'_> {
    /// One direction, as fast as the allowance lets it.
    pub(super) async fn on(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        let silent = || io::Error::new(io::ErrorKind::TimedOut, format!("nothing moved for {SILENT_MAX:?}"));
        loop {
            let read = timeout(SILENT_MAX, from.read(&mut buffer)).await.map_err(|_| silent())??;
            if read == 0 {
                return to.shutdown().await;
            }
            self.allowed(read).await;
            timeout(SILENT_MAX, to.write_all(&buffer[..read])).await.map_err(|_| silent())??;
            self.relays.bytes.fetch_add(read as u64, Ordering::Relaxed);
        }
    }

    /// Waits until so many bytes may be passed on.
    async fn allowed(&self, bytes: usize) {
        let kib = u32::try_from(bytes.div_ceil(1_024)).expect("a chunk");
        loop {
            let now = self.relays.now();
            let wait = {
                let mut allowance = self.opener.allowance.lock().unwrap_or_else(PoisonError::into_inner);
                if allowance.take_many(kib, now) {
                    return;
                }
                allowance.many_ready_at(kib).since(now)
            };
            debug!(?wait, "A relayed pipe is over its allowance");
            sleep(wait.max(Duration::from_millis(1))).await;
        }
    }
}
