//! Our own certificate, checked before anybody else can refuse it.

use super::{
    certificate::Certificate,
    provider,
    refused::{Reason, Refused, Side},
    trust::{BundleError, parse_bundle},
    verify::signed_by,
};
use crate::spiffe::{Role, SpiffeId};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Where the PEM files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityPaths {
    /// Our certificate and what is between it and the CA.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA certificates of our own cluster.
    pub bundle: PathBuf,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read the {what} in {}", .path.display())]
    Read {
        /// Which of the three.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has no such PEM in it.
    #[error("there is no PEM {what} in {}", .path.display())]
    Pem {
        /// Certificate or private key.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// The bundle does not parse.
    #[error("cannot use the trust bundle {}", .path.display())]
    Bundle {
        /// Where.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
    /// Nobody would accept it.
    #[error("cannot use {}", .path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        source: Refused,
    },
    /// A renewed certificate is of somebody else.
    #[error("the renewed certificate is of {is}, and we are {was}")]
    OtherId {
        /// Who we are.
        was: SpiffeId,
        /// Whose it is.
        is: SpiffeId,
    },
}

/// Who we are: a chain with its key and the bundle that vouches for it, checked at load.
#[derive(Debug)]
pub struct Identity {
    id: SpiffeId,
    certificate: Certificate,
    pub(super) key: Arc<CertifiedKey>,
    pub(super) roots: Arc<RootCertStore>,
    bundle_pem: String,
}

impl Identity {
    /// Loads and checks the three files against the system's clock.
    ///
    /// # Errors
    /// [`IdentityError`] names the file, the certificate and the reason.
    pub fn load(paths: &IdentityPaths, role: Role) -> Result<Self, IdentityError> {
        Self::load_at(paths, role, SystemTime::now())
    }

    /// As [`Identity::load`], at a time of the caller's choice.
    ///
    /// # Errors
    /// [`IdentityError`] names the file, the certificate and the reason.
    pub fn load_at(paths: &IdentityPaths, role: Role, now: SystemTime) -> Result<Self, IdentityError> {
        let IdentityPaths { cert, key, bundle } = paths;
        let chain_pem = read("certificate", cert)?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain_pem)
            .collect::<Result<_, _>>()
            .map_err(|source| IdentityError::Pem { what: "certificate", path: cert.clone(), source })?;
        let private = PrivateKeyDer::from_pem_slice(&read("private key", key)?)
            .map_err(|source| IdentityError::Pem { what: "private key", path: key.clone(), source })?;
        let bundle_error = |source| IdentityError::Bundle { path: bundle.clone(), source };
        let bundle_pem = String::from_utf8_lossy(&read("trust bundle", bundle)?).into_owned();
        let roots = Arc::new(parse_bundle(&bundle_pem).map_err(bundle_error)?);

        let Some((leaf, between)) = chain.split_first() else {
            let source = rustls::pki_types::pem::Error::NoItemsFound;
            return Err(IdentityError::Pem { what: "certificate", path: cert.clone(), source });
        };
        let refuse = |source| IdentityError::Refused { path: cert.clone(), source };
        let unreadable =
            |reason| refuse(Refused { side: Side::Ours, certificate: "(unreadable)".to_owned(), reason });
        let certificate = Certificate::read(leaf).map_err(unreadable)?;
        let no = |reason: Reason| refuse(Refused::new(Side::Ours, &certificate, reason));
        let id = certificate.id.clone().map_err(no)?;
        if id.role() != role {
            return Err(no(Reason::WrongRole { needed: role, found: id.role() }));
        }
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        certificate.check_time(i64::try_from(now.as_secs()).unwrap_or(i64::MAX)).map_err(no)?;
        let now = UnixTime::since_unix_epoch(now);
        signed_by(leaf, between, &roots, now, Side::Client)
            .map_err(|reason| no(reason.of("our own cluster")))?;
        let key = CertifiedKey::from_der(chain, private, &provider()).map_err(|_| no(Reason::OtherKey))?;
        Ok(Self { id, certificate, key: Arc::new(key), roots, bundle_pem })
    }

    /// Our ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// What our certificate says.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The CA certificates of our own cluster, PEM: what a peer is given.
    #[must_use]
    pub fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }
}

#[cfg(test)]
impl Identity {
    /// What a process would show that does not check its own certificate.
    pub(super) fn show_for_test(&mut self, certificate: Certificate, key: CertifiedKey) {
        self.certificate = certificate;
        self.key = Arc::new(key);
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| IdentityError::Read { what, path: path.to_owned(), source })
}
