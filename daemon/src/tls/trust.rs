//! Whom we believe: our own bundle and the peers', which come and go.

use super::identity::Identity;
use crate::spiffe::{Role, SpiffeId};
use api::{bytes::ClusterUuid, name::ClusterName};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::watch;

/// Most CA certificates in one bundle: an old and a new one during a rotation, with room for a hierarchy.
pub const BUNDLE_CERTIFICATES_MAX: usize = 16;

/// Why a text is not a trust bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not PEM.
    #[error("it is not PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// Nothing in it.
    #[error("there is no CA certificate in it")]
    Empty,
    /// Too much in it.
    #[error("it has more than {BUNDLE_CERTIFICATES_MAX} certificates")]
    TooMany,
    /// A certificate is not usable as a trust anchor.
    #[error("certificate {0} of it cannot be a trust anchor")]
    Anchor(usize, #[source] rustls::Error),
}

/// Reads CA certificates.
pub(super) fn parse_bundle(pem: &str) -> Result<RootCertStore, BundleError> {
    let mut roots = RootCertStore::empty();
    for (number, cert) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        if number == BUNDLE_CERTIFICATES_MAX {
            return Err(BundleError::TooMany);
        }
        roots
            .add(cert.map_err(BundleError::Pem)?)
            .map_err(|source| BundleError::Anchor(number + 1, source))?;
    }
    if roots.is_empty() { Err(BundleError::Empty) } else { Ok(roots) }
}

/// The certificates of a bundle, DER.
///
/// # Errors
/// [`BundleError`] when it is none.
pub fn bundle_der(pem: &str) -> Result<Vec<Vec<u8>>, BundleError> {
    parse_bundle(pem)?;
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    certificates.map(|der| Ok(der.map_err(BundleError::Pem)?.to_vec())).collect()
}

/// A bundle of certificates, PEM.
#[must_use]
pub fn bundle_pem(certificates: &[Vec<u8>]) -> String {
    certificates.iter().map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.clone()))).collect()
}

/// Who may speak for a trust domain.
#[derive(Debug, Clone)]
pub(super) enum Voucher {
    /// Our own CA: every role.
    Own(Arc<RootCertStore>),
    /// A peer's CA: that peer's cluster and nothing else.
    Peer { name: ClusterName, roots: Arc<RootCertStore> },
}

/// The bundles by trust domain, replaceable while connections come in. Cheap to clone; clones share the content.
#[derive(Debug, Clone)]
pub struct TrustStore {
    bundles: Arc<RwLock<Bundles>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Bundles {
    /// None at a first contact: whatever trust domain our bundle vouches for is ours.
    own: Option<ClusterUuid>,
    own_roots: Arc<RootCertStore>,
    peers: BTreeMap<ClusterUuid, (ClusterName, Arc<RootCertStore>)>,
}

impl TrustStore {
    pub(super) fn new(identity: &Identity) -> Self {
        let bundles = Bundles {
            own: Some(identity.id().trust_domain()),
            own_roots: Arc::clone(&identity.roots),
            peers: BTreeMap::new(),
        };
        Self { bundles: Arc::new(RwLock::new(bundles)), changed: watch::Sender::new(()) }
    }

    /// Of somebody who has a bundle, and no identity yet.
    pub(super) fn first_contact(bundle_pem: &str) -> Result<Self, BundleError> {
        let own_roots = Arc::new(parse_bundle(bundle_pem)?);
        let bundles = Bundles { own: None, own_roots, peers: BTreeMap::new() };
        Ok(Self { bundles: Arc::new(RwLock::new(bundles)), changed: watch::Sender::new(()) })
    }

    /// Checks that a text is a bundle, before it is written anywhere.
    ///
    /// # Errors
    /// [`BundleError`] says what is wrong with it.
    pub fn check_bundle(pem: &str) -> Result<(), BundleError> {
        parse_bundle(pem).map(drop)
    }

    /// Believes a peer from now on, or its new bundle. Our own trust domain is never a peer's: such a call changes nothing.
    ///
    /// # Errors
    /// [`BundleError`] when the bundle does not parse; what was believed before stays.
    pub fn add_peer(
        &self,
        uuid: ClusterUuid,
        name: ClusterName,
        bundle_pem: &str,
    ) -> Result<(), BundleError> {
        let roots = Arc::new(parse_bundle(bundle_pem)?);
        let mut bundles = self.bundles.write().unwrap_or_else(PoisonError::into_inner);
        if bundles.own != Some(uuid) {
            bundles.peers.insert(uuid, (name, roots));
        }
        drop(bundles);
        self.changed.send_replace(());
        Ok(())
    }

    /// Believes a peer no longer. Whoever serves connections that stand asks [`TrustStore::believes`] again after
    /// [`TrustStore::changes`].
    pub fn remove_peer(&self, uuid: ClusterUuid) {
        self.bundles.write().unwrap_or_else(PoisonError::into_inner).peers.remove(&uuid);
        self.changed.send_replace(());
    }

    /// Whether this ID, once verified, would still be let in: its trust domain is ours or a peer's of that name.
    #[must_use]
    pub fn believes(&self, id: &SpiffeId) -> bool {
        match self.voucher(id.trust_domain()) {
            Some(Voucher::Own(_)) => true,
            Some(Voucher::Peer { name, .. }) => id.role() == Role::Cluster && id.name() == name.as_str(),
            None => false,
        }
    }

    /// Wakes when a peer came or went.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Who we are.
    ///
    /// # Panics
    /// Never for a store that a [`super::Tls`] shows: that one has an identity.
    #[must_use]
    pub fn own(&self) -> ClusterUuid {
        self.bundles.read().unwrap_or_else(PoisonError::into_inner).own.expect("of an identity")
    }

    pub(super) fn set_own(&self, identity: &Identity) {
        self.bundles.write().unwrap_or_else(PoisonError::into_inner).own_roots = Arc::clone(&identity.roots);
    }

    pub(super) fn voucher(&self, domain: ClusterUuid) -> Option<Voucher> {
        let bundles = self.bundles.read().unwrap_or_else(PoisonError::into_inner);
        if bundles.own.is_none_or(|own| domain == own) {
            return Some(Voucher::Own(Arc::clone(&bundles.own_roots)));
        }
        let (name, roots) = bundles.peers.get(&domain)?;
        Some(Voucher::Peer { name: name.clone(), roots: Arc::clone(roots) })
    }
}
