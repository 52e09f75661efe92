//! Our own certificate, checked before anybody else can refuse it.

use super::{
    certificate::Certificate,
    provider,
    refused::{Reason, Refused, Side},
    trust::{BundleError, parse_bundle},
    verify::signed_by,
};
use crate::spiffe::{Role, SpiffeId};
use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair};
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

/// The same three in memory.
pub struct IdentityPem {
    /// Our certificate and what is between it and the CA.
    pub cert: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// The CA certificates of our own cluster.
    pub bundle: Vec<u8>,
}

/// The request, PEM, for a certificate of this key. It says nothing but the key: what the certificate says is the issuer's to
/// decide.
///
/// # Errors
/// When the key cannot sign.
pub fn certificate_request(key: &KeyPair) -> anyhow::Result<String> {
    let request = CertificateParams::default().serialize_request(key).and_then(|request| request.pem());
    request.context("cannot make a certificate request")
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
    /// There is no such PEM.
    #[error("there is no PEM {what} in {at}")]
    Pem {
        /// Certificate or private key.
        what: &'static str,
        /// A file, or what somebody issued.
        at: String,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// The bundle does not parse.
    #[error("cannot use the trust bundle {at}")]
    Bundle {
        /// A file, or what somebody issued.
        at: String,
        /// Why.
        source: BundleError,
    },
    /// Nobody would accept it.
    #[error("cannot use {at}")]
    Refused {
        /// A file, or what somebody issued.
        at: String,
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
        let pem = IdentityPem {
            cert: read("certificate", cert)?,
            key: read("private key", key)?,
            bundle: read("trust bundle", bundle)?,
        };
        Self::check(&pem, [cert, key, bundle].map(|path| path.display().to_string()), role, now)
    }

    /// Checks what somebody issued to us against the system's clock; nothing is on a disk. `what` it is stands in errors.
    ///
    /// # Errors
    /// [`IdentityError`] names the certificate and the reason.
    pub fn issued(pem: &IdentityPem, what: &str, role: Role) -> Result<Self, IdentityError> {
        Self::check(pem, [(); 3].map(|()| what.to_owned()), role, SystemTime::now())
    }

    fn check(
        pem: &IdentityPem,
        [cert, key, bundle]: [String; 3],
        role: Role,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem.cert)
            .collect::<Result<_, _>>()
            .map_err(|source| IdentityError::Pem { what: "certificate", at: cert.clone(), source })?;
        let private = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|source| IdentityError::Pem {
            what: "private key",
            at: key,
            source,
        })?;
        let bundle_pem = String::from_utf8_lossy(&pem.bundle).into_owned();
        let roots = parse_bundle(&bundle_pem);
        let roots = Arc::new(roots.map_err(|source| IdentityError::Bundle { at: bundle, source })?);

        let Some((leaf, between)) = chain.split_first() else {
            let source = rustls::pki_types::pem::Error::NoItemsFound;
            return Err(IdentityError::Pem { what: "certificate", at: cert, source });
        };
        let refuse = |source| IdentityError::Refused { at: cert.clone(), source };
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
