//! The doors: etcd's v3 API and our admin service over one mTLS port.
//!
//! ```text
//!  TCP, a pipe ─▶ Acceptor (who is it?) ─▶ Doorman (may it call this?) ─▶ Kv · Watch · Lease · … · Sync · Pipe
//!                                               │ the table's row              │ every range, by [`Doors::check`]
//!                                               └ not served: says so          └─▶ Engine
//! ```
//!
//! Invariants
//! - no request reaches a service before its method's row allowed its sender, and none reaches the engine before each
//!   of its ranges did;
//! - an answer carries only what is durable (the engine's promise);
//! - a peer that is removed loses its open streams at once, not at its next request;
//! - connections, streams, watches and messages are bounded.

pub mod convert;
mod doorman;
mod election;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod pipe;
pub mod recipe;
mod serve;
mod sight;
pub mod sync;
#[cfg(test)]
pub(crate) mod tests;
mod turn;
mod watch;

pub use serve::{Listening, bind};

use crate::{
    authz::{Denied, Own, Touch, authorize},
    backend::Engine,
    vms::Members,
};
use daemon::{
    spiffe::Role,
    tls::{PeerInfo, Tls},
};
use rpc::etcdserverpb::ResponseHeader;
use sight::Sight;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Status};
use tracing::warn;

/// What every service of the face needs.
#[derive(Debug, Clone)]
pub struct Doors {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    own: Own,
    tls: Tls,
    members: Members,
    engine: Engine,
    shutdown: CancellationToken,
    counters: Counters,
    /// One snapshot at a time: each holds every version of the store while it is sent.
    snapshots: Arc<Semaphore>,
    /// For followers that history has left behind.
    hashed: Arc<Mutex<sync::Kept>>,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    refused_connections: AtomicU64,
    refused_calls: AtomicU64,
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Connections of known peers.
    pub accepted: u64,
    /// Connections that ended at the handshake.
    pub refused_connections: u64,
    /// Calls and watches that the table refused.
    pub refused_calls: u64,
}

impl Doors {
    /// Doors to one engine; `members` are the VMs that are let in. When `shutdown` is cancelled, watches end.
    #[must_use]
    pub fn new(own: Own, tls: Tls, members: Members, engine: Engine, shutdown: CancellationToken) -> Self {
        let (counters, snapshots, hashed) =
            (Counters::default(), Arc::new(Semaphore::new(1)), Arc::default());
        Self { inner: Arc::new(Inner { own, tls, members, engine, shutdown, counters, snapshots, hashed }) }
    }

    /// Who came and who was refused.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let Counters { accepted, refused_connections, refused_calls } = &self.inner.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Seen {
            accepted: read(accepted),
            refused_connections: read(refused_connections),
            refused_calls: read(refused_calls),
        }
    }

    fn count(&self, of: impl FnOnce(&Counters) -> &AtomicU64) {
        of(&self.inner.counters).fetch_add(1, Ordering::Relaxed);
    }

    fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    fn tls(&self) -> &Tls {
        &self.inner.tls
    }

    fn shutdown(&self) -> &CancellationToken {
        &self.inner.shutdown
    }

    /// Whether who made a connection would still be let in: a connection may be older than a removal.
    fn admits(&self, who: &PeerInfo) -> bool {
        self.tls().trust().believes(&who.id) && (who.id.role() != Role::Vm || self.sight(who).is_some())
    }

    /// What of the store a VM is shown; none for everybody else, and for a VM that is no member.
    fn sight(&self, who: &PeerInfo) -> Option<Sight> {
        let me = who.id.vm_name()?;
        let grant = self.inner.members.grant(&me, who.key)?;
        Some(Sight { me, grant })
    }

    /// Judges a request of `who`.
    fn judge(&self, who: &PeerInfo, method: &str, touches: &[Touch]) -> Result<(), Denied> {
        let judged = if self.admits(who) {
            authorize(&self.inner.own, &who.id, method, touches)
        } else {
            Err(Denied::Method { who: who.id.clone(), method: method.to_owned() })
        };
        judged.inspect_err(|_| self.count(|counters| &counters.refused_calls))
    }

    /// As [`Doors::judge`], with the sender that the connection was made by.
    fn check(&self, extensions: &Extensions, method: &str, touches: &[Touch]) -> Result<(), Status> {
        let who = sender(extensions)?;
        let from = &who.from;
        Ok(self.judge(who, method, touches).inspect_err(|denied| warn!(%from, %denied, "Refused a call"))?)
    }

    /// Why a stream of `who` has to end, once it has: the server ends, or its sender is a peer, or a VM of ours, no longer.
    async fn farewell(&self, who: &PeerInfo) -> Status {
        let mut trust = self.tls().trust().changes();
        let mut members = self.inner.members.clone();
        loop {
            if !self.admits(who) {
                let of = if who.id.role() == Role::Vm { "a VM of this cluster" } else { "a peer" };
                return Status::permission_denied(format!("etcdserver: permission denied: no longer {of}"));
            }
            tokio::select! {
                () = self.shutdown().cancelled() => return convert::status(store::Error::Stopped),
                // Both live as long as their doors.
                _ = trust.changed() => {}
                Ok(()) = members.changed(), if who.id.role() == Role::Vm => {}
            }
        }
    }

    /// The header of every answer. One server is its own cluster and leader; each boot is a term.
    fn header(&self, revision: i64) -> ResponseHeader {
        let (cluster_id, member_id) = self.ids();
        ResponseHeader { cluster_id, member_id, revision, raft_term: self.term() }
    }

    fn ids(&self) -> (u64, u64) {
        let [a, b, c, d, e, f, g, h, rest @ ..] = self.inner.own.uuid.0;
        (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes(rest))
    }

    fn term(&self) -> u64 {
        self.engine().lineage().boots().len() as u64
    }
}

/// Who made the connection that a request came by.
fn sender(extensions: &Extensions) -> Result<&PeerInfo, Status> {
    extensions
        .get::<PeerInfo>()
        .ok_or_else(|| Status::unauthenticated("the connection has no client certificate"))
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        match &denied {
            Denied::Method { .. } | Denied::Range { .. } | Denied::Lease { .. } => {
                Self::permission_denied(denied.to_string())
            }
            Denied::Record { .. } => Self::invalid_argument(denied.to_string()),
        }
    }
}
