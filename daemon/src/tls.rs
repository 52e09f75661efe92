//! Mutual TLS with SPIFFE IDs: every connection between our processes.
//!
//! ```text
//!  --cert --key --bundle ──▶ Identity ──▶ Tls ──┬─▶ connect(tls, endpoint, expected) ──▶ Connection { channel, server }
//!                                   peers' bundles ──▶ TrustStore ─┴─▶ Acceptor::accept(wire) ──▶ Known, or Stranger
//! ```
//!
//! Invariants
//! - a chain is verified only against the bundle of the trust domain in its one URI SAN;
//! - under a peer's bundle the only role is that peer's `cluster`, with that peer's name;
//! - a client checks the server's ID the same way: host names mean nothing;
//! - who shows no certificate is a stranger, only where strangers are let in, and never taken for anybody;
//! - no session is resumed: who was removed from the trust store cannot come back by a ticket;
//! - a refusal names the certificate, the reason and the side, on both sides: the alert we send is as exact as TLS has.

mod accept;
mod certificate;
mod connect;
mod identity;
mod refused;
mod trust;
mod verify;
mod wire;

pub use accept::{AcceptError, Accepted, Acceptor, Arrival, PeerInfo, Shaken, Stranger, StrangerInfo};
pub use certificate::Certificate;
pub use connect::{
    CONNECT_MAX, ConnectError, Connection, Expected, connect, connect_any, connect_as_stranger, connect_over,
};
pub use identity::{Identity, IdentityError, IdentityPaths, IdentityPem, certificate_request};
pub use refused::{Reason, Refused, Side};
pub use trust::{BundleError, TrustStore, bundle_der, bundle_pem};
pub use wire::{Duplex, Origin, Wire};

use rustls::crypto::CryptoProvider;
use std::sync::{Arc, PoisonError, RwLock};

/// The one TLS provider: ring. Named everywhere, so that no process-wide default can be another one.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How this process speaks TLS: who it is, and whom it believes. Cheap to clone; clones share both.
#[derive(Debug, Clone)]
pub struct Tls {
    identity: Arc<RwLock<Arc<Identity>>>,
    trust: TrustStore,
}

impl Tls {
    /// Believes the identity's own bundle; peers' come by [`Tls::trust`].
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let trust = TrustStore::new(&identity);
        Self { identity: Arc::new(RwLock::new(Arc::new(identity))), trust }
    }

    /// Who we are now.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whom we believe.
    #[must_use]
    pub fn trust(&self) -> &TrustStore {
        &self.trust
    }

    /// Takes a renewed certificate for the connections made from now on.
    ///
    /// # Errors
    /// [`IdentityError::OtherId`] when it is not of the same ID: a process does not become somebody else.
    pub fn renew(&self, identity: Identity) -> Result<(), IdentityError> {
        let mut current = self.identity.write().unwrap_or_else(PoisonError::into_inner);
        if current.id() != identity.id() {
            return Err(IdentityError::OtherId { was: current.id().clone(), is: identity.id().clone() });
        }
        self.trust.set_own(&identity);
        *current = Arc::new(identity);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
